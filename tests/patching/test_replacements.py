"""What may stand in place of a layer's value: how it is written, and what is refused, each in one line."""

import os
import pickle

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxscope.cli.main import run
from onnxscope.errors import InputError, ModelError
from onnxscope.patching.replacements import read_replacements, replacement_files, replacements_of

TEXT = """<ir_version: 9, opset_import: ["": 17]>
    net (float[N, 3] x) => (float[N, 2] y) { [stem] a = MatMul(x, w) b = Relu(a) [head] y = MatMul(b, v) }"""
LACKS = """<ir_version: 9, opset_import: ["": 17]>
    net (float[N, 3] x) => (float[N, 2] y) <int64[4] s = {0, 0, 0, 2}> { c = Pad(x, s) [head] y = MatMul(c, v) }"""
X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def network(text=TEXT):
    model = onnx.parser.parse_model(text)
    for name, shape in (("w", (3, 5)), ("v", (5, 2))):
        weight = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model, what it is fed, and everything that may be given by mistake."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "model.onnx")
    onnx.save(network(LACKS), "lacks.onnx")
    np.save("x.npy", X)
    np.save("shape.npy", np.zeros((4, 6), np.float32))
    np.save("complex.npy", np.zeros((4, 5), np.complex64))
    np.save("large.npy", np.full((4, 5), 1e300))
    np.save("text.npy", np.array([["a"] * 5] * 4))
    np.save("objects.npy", np.array([{}, None], object), allow_pickle=True)
    np.savez("several.npz", p=np.zeros(5), q=np.zeros(5))
    for name, content in (("pickle.npy", pickle.dumps(os.getcwd)), ("empty.npy", b""), ("junk.onnx", bytes(9))):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "short.npy").write_bytes((tmp_path / "shape.npy").read_bytes()[:150])
    return tmp_path


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        ("stem=shape.npy", "'stem' gives float32 [4, 5] (N, 5), and shape.npy holds float32 [4, 6]: model.onnx"),
        (
            "stem=complex.npy",
            "'stem' gives float32 [4, 5] (N, 5), and complex.npy holds complex64 [4, 5], which it cannot become: "
            "model.onnx",
        ),
        (
            "stem=large.npy",
            "'stem' gives float32 [4, 5] (N, 5), and large.npy holds float64 [4, 5] with numbers beyond that type: "
            "model.onnx",
        ),
        ("stem=text.npy", "and text.npy holds str32 [4, 5], which it cannot become: model.onnx"),
        ("stem=objects.npy", "an array of Python objects, which only a pickle could hold: objects.npy"),
        ("stem=pickle.npy", "not a .npy array, or a broken one"),
        ("stem=empty.npy", "not a .npy array, or a broken one"),
        ("stem=short.npy", "the header declares 96 bytes and 22 are there: short.npy"),
        ("stem=several.npz", "no array called 'b' or 'stem': several.npz"),
        ("stem=missing.npy", "no such file: missing.npy"),
        ("stem=missing.onnx", "no such file: missing.onnx"),
        ("stem=junk.onnx", "not an ONNX model"),
        ("stem=lacks.onnx", "lacks.onnx has no value that belongs in place of 'stem': model.onnx"),
        ("stem=nothing", "nothing to put in place of 'stem': 'nothing': model.onnx"),
        ("stem=.", "nothing to put in place of 'stem': '.': model.onnx"),
        ("*=x.npy", "one array in place of 2 values, b, y: '*': model.onnx"),
        ("value:x=zero", "nothing computes 'x', so nothing else can stand in its place: model.onnx"),
        ("w=zero", "nothing computes 'w', so nothing else can stand in its place: model.onnx"),
        ("stem2=zero", "nothing matches the selector 'stem2': model.onnx"),
        ("stem", "not LAYER=WHAT, but 'stem': give LAYER=zero, LAYER=mean, LAYER=FILE.npy or LAYER=MODEL.onnx"),
        ("=zero", "not LAYER=WHAT, but '=zero': give LAYER=zero"),
        ("stem=", "not LAYER=WHAT, but 'stem=': give LAYER=zero"),
    ],
)
def test_what_cannot_stand_there_is_refused_in_one_line(folder, capsys, replace, message):
    command = ["features", "model.onnx", "-i", "x.npy", "-s", "head", "-o", "out", "--replace", replace]
    assert run(command) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert message in lines[0]
    assert lines[0].startswith("onnxscope: error: ")
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert len(lines) <= 2
    assert not out
    assert not (folder / "out").exists()


@pytest.mark.parametrize("command", ["stats model.onnx -i x.npy -o p.json", "diff model.onnx model.onnx -i x.npy"])
def test_stats_and_diff_refuse_it_too(folder, capsys, command):
    assert run([*command.split(), "--replace", "stem=pickle.npy"]) == 2
    assert "not a .npy array, or a broken one" in capsys.readouterr().err.splitlines()[0]
    assert not (folder / "p.json").exists()


def test_a_file_that_stands_in_place_of_a_value_is_an_input_and_never_replaced(folder, capsys):
    before = (folder / "shape.npy").read_bytes()
    command = ["stats", "model.onnx", "-i", "x.npy", "-o", "shape.npy", "--replace", "stem=shape.npy", "--force"]
    assert run(command) == 2
    assert "would replace an input" in capsys.readouterr().err
    assert (folder / "shape.npy").read_bytes() == before


def test_texts_are_read_by_layer():
    assert read_replacements(["a=zero", "b*=x=1.npy"]) == {"a": "zero", "b*": "x=1.npy"}
    with pytest.raises(InputError, match="two replacements of 'a': zero and mean"):
        read_replacements(["a=zero", "a=mean"])


def test_files_are_those_that_are_read(tmp_path):
    assert replacement_files({"a": "zero", "b": "mean", "c": tmp_path / "x.npy", "d": X}) == [str(tmp_path / "x.npy")]
    assert replacement_files(None) == []


def test_each_source_has_its_kind_and_one_model_is_loaded_once(folder):
    given = {"a": "zero", "b": "mean", "c": X, "d": "x.npy", "e": "model.onnx", "f": "model.onnx", "g": network()}
    made = replacements_of(given)
    assert [one.kind for one in made] == ["zero", "mean", "array", "array", "model", "model", "model"]
    assert made[4].model is made[5].model
    assert [made[place].name for place in (0, 1, 2, 3, 4)] == ["zero", "mean", "array", "x.npy", "model.onnx"]
    np.testing.assert_array_equal(made[3].read("v", "d"), X)
    with pytest.raises(ModelError, match="not an ONNX model"):
        replacements_of({"a": "junk.onnx"})


@pytest.mark.parametrize(("value", "layer", "expected"), [("p", "q", 1), ("x", "q", 2)])
def test_of_several_arrays_that_of_the_value_is_taken_then_that_of_the_layer(tmp_path, value, layer, expected):
    np.savez(tmp_path / "several.npz", p=np.full(2, 1), q=np.full(2, 2))
    (one,) = replacements_of({"a": str(tmp_path / "several.npz")})
    np.testing.assert_array_equal(one.read(value, layer), np.full(2, expected))


@pytest.mark.parametrize("suffix", ["pb", "safetensors"])
def test_tensors_of_other_files_are_read(tmp_path, suffix):
    path = tmp_path / f"one.{suffix}"
    if suffix == "pb":
        path.write_bytes(numpy_helper.from_array(X).SerializeToString())
    else:
        head = b'{"t":{"dtype":"F32","shape":[4,3],"data_offsets":[0,48]}}'
        path.write_bytes(len(head).to_bytes(8, "little") + head + X.tobytes())
    np.testing.assert_array_equal(replacements_of({"a": str(path)})[0].read("v", "a"), X)
