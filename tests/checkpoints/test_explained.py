"""What became of the tensors of a checkpoint: every form is told, and one bit in the wrong place is found."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
import safetensors.numpy
from onnx import numpy_helper

import onnxscope
from onnxscope.cli.main import run
from onnxscope.errors import InputError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
CHECKPOINT = FIXTURES / "digits.safetensors"
EXPORTS = ("digits.onnx", "digits_deployed.onnx", "digits_qdq.onnx")


def saved(folder, name, arrays):
    path = folder / f"{name}.safetensors"
    safetensors.numpy.save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, path)
    return path


def compared(folder, a, b, **options):
    return onnxscope.diff(saved(folder, "a", a), saved(folder, "b", b), **options)


def changes(comparison):
    return [(row.a, row.b, row.change, row.counts) for row in comparison.weights]


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_one_bit(array, bit, place=0):
    content = bytearray(array.tobytes())
    bit += 8 * array.itemsize * place
    content[bit // 8] ^= 1 << bit % 8
    return np.frombuffer(bytes(content), array.dtype).reshape(array.shape)


def exported(name, initializer=None, bit=0, place=0):
    model = onnx.load(FIXTURES / name)
    for tensor in model.graph.initializer:
        if tensor.name == initializer:
            changed = with_one_bit(numpy_helper.to_array(tensor), bit, place)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    return model


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("flipped", [False, True])
def test_every_tensor_of_the_digits_network_is_explained(export, flipped):
    sides = (CHECKPOINT, FIXTURES / export)
    found = onnxscope.diff(*(sides[::-1] if flipped else sides))
    assert found.equal
    names = {row.b if flipped else row.a for row in found.weights} - {None}
    assert names == set(safetensors.numpy.load_file(CHECKPOINT))
    others = {row.a if flipped else row.b for row in found.weights} - {None}
    assert {row.parameter.name for row in onnxscope.weights(FIXTURES / export)} <= others
    kinds = {row.change for row in found.weights}
    expected = {"digits.onnx": {"equal"}, "digits_deployed.onnx": {"equal", "folded"}}
    assert kinds - {"absent", "constant"} == expected.get(export, {"quantized", "folded"})


PLANTS = [
    ("digits.onnx", "block.1.running_mean", 0, 3),
    ("digits.onnx", "stem.0.weight", 31, 0),
    ("digits_deployed.onnx", "block.0.weight", 0, 700),
    ("digits_deployed.onnx", "block.0.weight", 24, 9),
    ("digits_deployed.onnx", "down.0.weight_bias", 0, 5),
    ("digits_deployed.onnx", "classifier.2.weight", 1, 77),
    ("digits_qdq.onnx", "block.0.weight_quantized", 0, 1000),
    ("digits_qdq.onnx", "down.0.weight_quantized", 7, 0),
    ("digits_qdq.onnx", "block.0.weight_bias_quantized", 0, 2),
    ("digits_qdq.onnx", "classifier.2.weight_scale", 23, 2),
    ("digits_qdq.onnx", "stem.0.weight_zero_point", 0, 2),
]


@pytest.mark.parametrize(("export", "initializer", "bit", "place"), PLANTS)
def test_one_bit_in_an_export_is_found_and_named(export, initializer, bit, place):
    found = onnxscope.diff(CHECKPOINT, exported(export, initializer, bit, place))
    assert not found.equal
    [row] = [row for row in found.weights if row.counts]
    assert row.change == "changed"
    stem = initializer.partition("_")[0] if "running" not in initializer else initializer
    layer = "block.0" if "weight_bias" in initializer and "block" in initializer else stem.rpartition(".")[0]
    assert layer in row.b


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("name", ["block.0.weight", "block.1.running_var", "classifier.2.bias"])
def test_one_bit_in_the_checkpoint_is_found(tmp_path, export, name):
    arrays = safetensors.numpy.load_file(CHECKPOINT)
    arrays[name] = with_one_bit(arrays[name], 22, 1)  # of float32, half of the number's size
    found = onnxscope.diff(saved(tmp_path, "a", arrays), FIXTURES / export)
    assert not found.equal


@pytest.mark.acceptance
def test_a_hundred_bits_are_found():
    rng = np.random.default_rng(21)
    for number in range(102):
        export = EXPORTS[number % 3]
        suffix = "_quantized" if "qdq" in export else ""
        tensors = [t for t in onnx.load(FIXTURES / export).graph.initializer if "val_" not in t.name]
        tensors = [t for t in tensors if t.name.endswith(suffix)]
        tensor = tensors[int(rng.integers(len(tensors)))]
        array = numpy_helper.to_array(tensor)
        bit, place = int(rng.integers(8 * array.itemsize)), int(rng.integers(array.size))
        found = onnxscope.diff(CHECKPOINT, exported(export, tensor.name, bit, place))
        assert sum(row.counts for row in found.weights) == 1, (export, tensor.name, bit, place)


def test_transposed_reshaped_cast_and_renamed(tmp_path):
    w, k, v = numbers(4, 6), numbers(8, 4, 3, 3, seed=1), numbers(2, 3, 4, seed=2)
    half, brain = numbers(5, 7, seed=3), numbers(5, 9, seed=4)
    a = {"w": w, "k": k, "v": v, "half": half, "brain": brain, "old": numbers(3, seed=5)}
    b = {"w": w.T, "kernel": k.transpose(2, 3, 1, 0), "v": v.reshape(6, 4), "new": numbers(3, seed=5)}
    b |= {"half": half.astype(np.float16), "brain": brain.astype(ml_dtypes.bfloat16)}
    found = compared(tmp_path, a, b)
    assert found.equal
    told = {row.a: (row.b, row.change) for row in found.weights}
    assert told["w"] == ("w", "transposed")
    assert told["k"] == ("kernel", "transposed")
    assert told["v"] == ("v", "reshaped")
    assert told["half"] == ("half", "cast")
    assert told["brain"] == ("brain", "cast")
    assert told["old"] == ("new", "equal")
    [row] = [row for row in found.weights if row.a == "k"]
    assert row.message == "axes in the order [2, 3, 1, 0]"


def test_a_wrongly_rounded_number_is_no_cast(tmp_path):
    half = numbers(5, 7)
    other = with_one_bit(half.astype(np.float16), 0, 11)
    found = compared(tmp_path, {"w": half}, {"w": other})
    assert changes(found) == [("w", "w", "changed", True)]
    assert found.weights[0].channels == (0, 1, 2, 3, 4)  # all are off, most by rounding


def test_the_layout_of_a_flattened_picture_is_seen_through(tmp_path):
    w = numbers(10, 3 * 4 * 4)
    turned = w.reshape(10, 3, 16).swapaxes(1, 2).reshape(10, 48)
    assert changes(compared(tmp_path, {"w": w}, {"w": turned})) == [("w", "w", "permuted", False)]


def test_channels_that_changed_places_count(tmp_path):
    w = numbers(6, 5)
    found = compared(tmp_path, {"w": w}, {"w": w[[1, 0, 2, 3, 4, 5]]})
    assert changes(found) == [("w", "w", "permuted", True)]
    assert "2 output channels have changed places" in found.weights[0].message


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("order", ["joined", "heads", "columns"])
def test_query_key_and_value_in_one_tensor(tmp_path, flipped, order):
    q, k, v = (numbers(8, 12, seed=seed) for seed in range(3))
    biases = [numbers(8, seed=seed) for seed in range(3, 6)]
    apart = {f"{name}.weight": array for name, array in zip("qkv", (q, k, v), strict=True)}
    apart |= {f"{name}.bias": array for name, array in zip("qkv", biases, strict=True)}
    weight, bias = np.concatenate([q, k, v]), np.concatenate(biases)
    if order == "heads":  # as GPT-NeoX has them: query, key and value of each head
        weight = np.stack([q.reshape(2, 4, 12), k.reshape(2, 4, 12), v.reshape(2, 4, 12)], axis=1).reshape(24, 12)
    together = {"qkv.weight": weight.T if order == "columns" else weight, "qkv.bias": bias}
    sides = (together, apart) if flipped else (apart, together)
    found = compared(tmp_path, *sides)
    assert found.equal
    assert {row.change for row in found.weights} == {"split" if flipped else "fused"}
    assert len(found.weights) == 6


def test_a_part_of_a_joined_tensor_that_is_another_is_found(tmp_path):
    q, k, v = (numbers(8, 12, seed=seed) for seed in range(3))
    together = np.concatenate([q, with_one_bit(k, 3, 20), v])
    found = compared(tmp_path, {"q": q, "k": k, "v": v}, {"qkv": together})
    assert not found.equal


def test_a_file_in_which_everything_has_another_name(tmp_path):
    arrays = safetensors.numpy.load_file(CHECKPOINT)
    renamed = {f"t{place}": array for place, array in enumerate(arrays.values())}
    found = compared(tmp_path, arrays, renamed)
    assert found.equal
    assert {row.change for row in found.weights} == {"equal"}
    assert len({row.b for row in found.weights}) == len(arrays)
    half = {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in renamed.items()}
    found = compared(tmp_path, arrays, half)
    assert {(row.change, row.counts) for row in found.weights} == {("equal", False), ("cast", False)}


def test_a_file_that_has_nothing_to_do_with_the_other(tmp_path):
    arrays = safetensors.numpy.load_file(CHECKPOINT)
    other = {f"t{place}": numbers(*array.shape, seed=place) for place, array in enumerate(arrays.values())}
    found = compared(tmp_path, arrays, other)
    assert found.summary() == "differs: no tensor of one file was found in the other"
    assert sum(row.change == "unexplained" for row in found.weights) == 2 * len(arrays) - 2  # but for the counters


def test_tied_tensors(tmp_path):
    table, other = numbers(20, 6), numbers(4, 6, seed=1)
    a = {"embed.weight": table, "lm_head.weight": table.copy(), "other": other}
    found = compared(tmp_path, a, {"embed.weight": table, "other": other})
    assert ("lm_head.weight", "embed.weight", "tied", False) in changes(found)
    assert found.equal
    found = compared(tmp_path, {"embed.weight": table, "other": other}, a)
    assert ("embed.weight", "lm_head.weight", "tied", False) in changes(found)
    assert found.equal


def test_what_nothing_explains_is_listed(tmp_path):
    a = {"w": numbers(3, 4), "gone": numbers(5, seed=1), "zero.bias": np.zeros(3, np.float32)}
    a["bn.num_batches_tracked"] = np.array(7)
    found = compared(tmp_path, a, {"w": numbers(3, 4), "new": numbers(6, seed=2)})
    assert set(changes(found)) == {
        ("w", "w", "equal", False),
        ("gone", None, "unexplained", True),
        ("zero.bias", None, "absent", False),
        ("bn.num_batches_tracked", None, "absent", False),
        (None, "new", "unexplained", True),
    }
    assert found.summary().startswith("differs: gone is unexplained")


def test_buffers_that_an_export_computes_do_not_count(tmp_path):
    a = {"w": numbers(3, 4), "position_ids": np.arange(7)[None], "mask": np.tril(np.ones((1, 1, 5, 5), np.bool_))}
    found = compared(tmp_path, a, {"w": a["w"]})
    assert found.equal
    assert [row.change for row in found.weights] == ["absent", "absent", "equal"]
    a["position_ids"] = np.array([[0, 1, 3, 2]])
    a["mask"] = a["mask"][..., ::-1, :]
    assert {row.a for row in compared(tmp_path, a, {"w": a["w"]}).weights if row.counts} == {"mask", "position_ids"}


def test_a_first_state_of_zeros_does_not_count(tmp_path):
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        g (float[N, 4] x) => (float[N, 5] z)
        { y = MatMul(x, w)  z = Sub(y, first) }""")
    w = numbers(5, 4)
    stored = {"w": np.ascontiguousarray(w.T), "first": np.zeros(5, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in stored.items())
    found = onnxscope.diff(saved(tmp_path, "a", {"fc.weight": w}), model)
    assert ("fc.weight", "w", "transposed", False) in changes(found)
    assert found.equal
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(5, np.float32), "first"))
    assert not onnxscope.diff(tmp_path / "a.safetensors", model).equal


def test_signs_of_zeros_and_other_nan_are_bits_too(tmp_path):
    w = np.array([[0.0, 1.0], [np.nan, 2.0]], np.float32)
    found = compared(tmp_path, {"w": w}, {"w": with_one_bit(w, 31, 0)})
    assert changes(found) == [("w", "w", "changed", True)]
    assert "other bits for the same numbers" in found.weights[0].message
    assert not compared(tmp_path, {"w": w}, {"w": with_one_bit(w, 0, 2)}).equal
    assert compared(tmp_path, {"w": w}, {"w": w.copy()}).equal


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
@pytest.mark.parametrize("kind", ["conv", "transposed", "keras"])
def test_folding_in_a_copy_without_records(tmp_path, kind, epsilon):
    shape = {"conv": (8, 3, 3, 3), "transposed": (3, 8, 3, 3), "keras": (3, 3, 3, 8)}[kind]
    axis = {"conv": 0, "transposed": 1, "keras": 3}[kind]
    w, bias, gamma, beta, mean = numbers(*shape), *(numbers(8, seed=seed) for seed in range(1, 5))
    variance = np.abs(numbers(8, seed=5)) + 0.1
    a = {"c.weight": w, "c.bias": bias, "n.weight": gamma, "n.bias": beta, "n.running_mean": mean}
    a["n.running_var"] = variance
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    sides = [-1 if place == axis else 1 for place in range(4)]
    b = {"c.weight": (w * scale.reshape(sides)).astype(np.float32)}
    b["c.bias"] = ((bias - mean.astype(np.float64)) * scale + beta).astype(np.float32)
    found = compared(tmp_path, a, b)
    assert found.equal
    assert {row.change for row in found.weights} == {"folded"}
    b["c.weight"] = b["c.weight"] * np.float32(1.1)
    assert not compared(tmp_path, a, b).equal


def test_a_tolerance_forgives(tmp_path):
    w = numbers(4, 5)
    other = w + np.float32(1e-4)
    assert not compared(tmp_path, {"w": w}, {"w": other}).equal
    assert compared(tmp_path, {"w": w}, {"w": other}, atol=1e-3).equal
    assert not compared(tmp_path, {"w": w}, {"w": other}, atol=1e-6).equal


def test_a_selection(tmp_path):
    a = {"x.w": numbers(3, 4), "y.w": numbers(3, 4, seed=1)}
    found = compared(tmp_path, a, {"x.w": a["x.w"], "y.w": a["y.w"] + 1}, select="x.*")
    assert changes(found) == [("x.w", "x.w", "equal", False)]
    assert found.equal


def test_a_checkpoint_is_not_run():
    with pytest.raises(InputError, match=r"a checkpoint has no graph that could be run: digits\.safetensors"):
        onnxscope.diff(CHECKPOINT, FIXTURES / "digits.onnx", FIXTURES / "digits.npz")


def test_the_command(capsys):
    files = str(CHECKPOINT), str(FIXTURES / "digits_deployed.onnx")
    assert run(["diff", *files]) == 0
    out, error = capsys.readouterr()
    assert "equal: every tensor is explained (12 folded, 4 equal, 2 absent)" in out
    assert "nothing was run" not in error
    assert run(["diff", *files, "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["verdict"] == "equal"
    assert record["a"]["ir_version"] == 0
    assert run(["diff", *files, "-i", "random"]) == 2
    assert "no graph that could be run" in capsys.readouterr().err
    assert run(["diff", *files, "--extract", "parts", "-i", "random"]) == 2


def test_what_a_notebook_shows(tmp_path):
    w = numbers(3, 4)
    found = compared(tmp_path, {"<b>": w}, {"<b>": w + 1})
    html = found._repr_html_()
    assert "differs: " in html
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert "largest difference" in repr(found)


def test_the_command_says_that_files_differ(tmp_path, capsys):
    arrays = safetensors.numpy.load_file(CHECKPOINT)
    arrays["stem.0.weight"] = with_one_bit(arrays["stem.0.weight"], 2)
    path = saved(tmp_path, "a", arrays)
    assert run(["diff", str(path), str(FIXTURES / "digits_deployed.onnx")]) == 1
    assert "differs: stem.0.weight is changed (largest difference" in capsys.readouterr().out
    for form in ("csv", "md", "json"):
        assert run(["diff", str(path), str(FIXTURES / "digits_deployed.onnx"), "--format", form]) == 1
        assert "stem.0.weight" in capsys.readouterr().out
