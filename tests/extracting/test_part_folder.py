"""A part in a folder: onnx's test data, and a script that needs onnxruntime and numpy alone."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import small_networks
from onnx import TensorProto, helper, numpy_helper
from reproducing import reproduce

import onnxscope
from onnxscope.cli.main import run
from onnxscope.errors import OutputError
from onnxscope.extracting.part_folder import save_part

NETWORK = """<ir_version: 9, opset_import: ["": 17]>
    net (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {1, -1}> {
        h = Tanh(x)
        [fc] a = Gemm(h, w, b)
        y = Relu(a)
    }"""
FEEDS = {"x": np.array([[1, -2], [0.5, 3]], np.float32)}


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(onnx.parser.parse_model(NETWORK), path)
    np.save(tmp_path / "x.npy", FEEDS["x"])
    return path


def test_the_folder_is_a_test_of_onnx_and_a_script(model, tmp_path):
    part = onnxscope.extract(model, FEEDS, select="fc")
    names = part.save(tmp_path / "part")
    data = ["test_data_set_0/input_0.pb", "test_data_set_0/output_0.pb"]
    assert (
        sorted(names) == files(tmp_path / "part") == ["data.npz", "extract.json", "model.onnx", "reproduce.py", *data]
    )
    folder = tmp_path / "part"
    fed, expected = (onnx.load_tensor(folder / name) for name in data)
    assert (fed.name, expected.name) == ("h", "y")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"h": numpy_helper.to_array(fed)})
    np.testing.assert_allclose(answer, numpy_helper.to_array(expected), rtol=1e-6)
    by_hand = np.tanh(FEEDS["x"].astype(np.float64)) @ [[1, 2], [3, 4]] + [1, -1]
    np.testing.assert_allclose(numpy_helper.to_array(expected), np.maximum(by_hand, 0), rtol=1e-6)
    code, said, fault = reproduce(folder, tmp_path)
    assert (code, fault) == (0, "")
    assert said.splitlines()[1].startswith("output 0: as recorded, off by 0.0 (tolerance ")


def test_another_weight_is_found(model, tmp_path):
    onnxscope.extract(model, FEEDS, select="fc").save(tmp_path / "part")
    proto = onnx.load(tmp_path / "part" / "model.onnx")
    changed = next(tensor for tensor in proto.graph.initializer if tensor.name == "w")
    values = numpy_helper.to_array(changed).copy()
    values[0, 0] += 0.5
    changed.CopyFrom(numpy_helper.from_array(values, "w"))
    onnx.save(proto, tmp_path / "part" / "model.onnx")
    code, said, _ = reproduce(tmp_path / "part", tmp_path)
    assert code == 1
    reached = np.tanh(FEEDS["x"].astype(np.float64))
    before, after = (np.maximum(reached @ [[one, 2], [3, 4]] + [1, -1], 0) for one in (1, 1.5))
    off = np.abs(after - before).max()
    assert float(said.split("NOT as recorded, off by ")[1].split()[0]) == pytest.approx(off, rel=1e-5)


@pytest.mark.acceptance  # importing the runner makes all of onnx's own tests, which takes seconds
@pytest.mark.filterwarnings("ignore")
def test_onnx_runs_the_folder_as_one_of_its_own_tests(model, tmp_path):
    """By onnx's own runner, on its own evaluator."""
    from onnx.backend.test.case.test_case import TestCase
    from onnx.backend.test.runner import Runner
    from onnx.reference import ReferenceEvaluator

    class Backend:
        @staticmethod
        def is_compatible(model, device="CPU", **_):
            return True

        @staticmethod
        def supports_device(device):
            return device == "CPU"

        @staticmethod
        def prepare(model, device="CPU", **_):
            class Prepared:
                def run(self, inputs):
                    names = [value.name for value in model.graph.input]
                    return ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))

            return Prepared()

    onnxscope.extract(model, FEEDS, select="fc").save(tmp_path / "part")
    runner = Runner(Backend)
    case = TestCase("test_part", "part", None, str(tmp_path / "part"), None, None, "real", 1e-3, 1e-7)
    runner._add_model_test(case, "Real")
    tests = runner._test_items["RealModel"]
    tests["test_part_cpu"].func(runner)
    recorded = tmp_path / "part" / "test_data_set_0" / "output_0.pb"
    values = numpy_helper.to_array(onnx.load_tensor(recorded))
    onnx.save_tensor(numpy_helper.from_array(values + 1, "y"), recorded)
    with pytest.raises(AssertionError):
        tests["test_part_cpu"].func(runner)


def test_values_that_numpy_lacks_and_that_are_no_tensors_are_reproduced(tmp_path):
    cases = {
        "sequence": """(float[2] x) => (seq(float[2]) out) {
            s = SequenceConstruct(x, x)  [part] out = SequenceInsert(s, x) }""",
        "strings": """(string[2] x) => (string[M] y) { t = Identity(x)  [part] y = Concat <axis = 0> (t, x) }""",
        "bfloat16": """(bfloat16[2] x) => (bfloat16[2] y, float[2] z) {
            t = Identity(x)  [part] y = Identity(t)  z = Cast <to = 1> (y) }""",
        "float8": """(float[3] x) => (float8e4m3fn[3] y) { t = Neg(x)  [part] y = Cast <to = 17> (t) }""",
    }
    bfloat16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    feeds = {
        "sequence": {"x": np.array([1, 2], np.float32)},
        "strings": {"x": np.array(["a", "bc"])},
        "bfloat16": {"x": np.array([1.5, -3], bfloat16)},
        "float8": {"x": np.array([1.5, -3, 1000], np.float32)},
    }
    for name, text in cases.items():
        text = f'<ir_version: 9, opset_import: ["": 19]> net {text}'
        part = onnxscope.extract(onnx.parser.parse_model(text), feeds[name], select="part")
        part.save(tmp_path / name)
        code, said, fault = reproduce(tmp_path / name, tmp_path)
        assert (code, fault) == (0, ""), (name, said)
        assert "output 0: as recorded" in said
        loaded = onnx.load(tmp_path / name / "model.onnx")
        onnx.checker.check_model(loaded, full_check=True)
    sequence = onnx.SequenceProto.FromString((tmp_path / "sequence/test_data_set_0/output_0.pb").read_bytes())
    assert [one.tolist() for one in numpy_helper.to_list(sequence)] == [[1, 2]] * 3


def test_the_script_takes_a_library_of_custom_operators(tmp_path, monkeypatch, capsys):
    library = pytest.importorskip("onnxruntime_extensions").get_library_path()
    monkeypatch.chdir(tmp_path)
    text = """<ir_version: 8, opset_import: ["": 17, "ai.onnx.contrib": 1]>
        net (float[2, 2] x) => (float[2, 2] y) { h = Neg(x)  [odd] y = ai.onnx.contrib.Inverse(h) }"""
    onnx.save(onnx.parser.parse_model(text), "net.onnx")
    np.save("x.npy", np.array([[2, 1], [1, 3]], np.float32))
    assert run(["extract", "net.onnx", "-s", "odd", "-i", "x.npy", "-o", "part", "--custom-ops", library]) == 0
    assert f"`python part/reproduce.py {library}` runs the part" in capsys.readouterr().err
    expected = numpy_helper.to_array(onnx.load_tensor("part/test_data_set_0/output_0.pb"))
    np.testing.assert_allclose(expected, np.linalg.inv([[-2.0, -1], [-1, -3]]), rtol=1e-5)
    assert reproduce(tmp_path / "part", "/", library)[0] == 0
    assert reproduce(tmp_path / "part", "/")[0] == 1  # an error of onnxruntime's, which names the operator


def test_an_earlier_part_leaves_nothing_and_other_files_stay(model, tmp_path):
    folder = tmp_path / "part"
    whole = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        net (float[2] a, float[2] b) => (float[2] y) { [sum] y = Add(a, b) }""")
    onnxscope.extract(whole, {"a": np.ones(2, np.float32), "b": np.zeros(2, np.float32)}, select="sum").save(folder)
    (folder / "test_data_set_0" / "notes.txt").write_text("mine")
    (folder / "input_1.pb").write_text("mine")
    assert "test_data_set_0/input_1.pb" in files(folder)
    onnxscope.extract(model, FEEDS, select="fc").save(folder)
    assert "test_data_set_0/input_1.pb" not in files(folder)
    assert {"test_data_set_0/notes.txt", "input_1.pb", "test_data_set_0/input_0.pb"} < set(files(folder))


def test_what_cannot_be_written_leaves_no_folder(model, tmp_path, monkeypatch):
    part = onnxscope.extract(model, FEEDS, select="fc")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxscope.extracting.part_folder.write_npz", full)
    with pytest.raises(OutputError, match="No space left"):
        part.save(tmp_path / "deep" / "part")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize(
    "name", ["model.onnx", "data.npz", "reproduce.py", "extract.json", "test_data_set_0/input_0.pb"]
)
def test_a_file_of_another_kind_stays_unless_it_may_go(model, tmp_path, name):
    part = onnxscope.extract(model, FEEDS, select="fc")
    place = tmp_path / "part" / name
    place.parent.mkdir(parents=True)
    place.write_text("what I found")
    with pytest.raises(OutputError, match="the output would replace a file that is not") as caught:
        part.save(tmp_path / "part")
    assert "--force" in caught.value.hint
    assert files(tmp_path / "part") == [name]
    part.save(tmp_path / "part", force=True)
    assert reproduce(tmp_path / "part", tmp_path)[0] == 0


def test_weights_that_no_file_of_a_model_holds_get_one_of_their_own(tmp_path):
    """Of a model with external data, only what the part needs is written."""
    network = small_networks.transformer()
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in network.model.graph.initializer}
    path = tmp_path / "whole" / "net.onnx"
    path.parent.mkdir()
    onnx.save(network.model, path, save_as_external_data=True, location="net.data", size_threshold=256)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    part = onnxscope.extract(path, network.feeds, select="op:Mul")
    values = [[each.value for each in several] for several in (part.inputs, part.outputs)]
    for most, expected in ((100, True), (1 << 30, False)):
        folder = tmp_path / f"part{most}"
        names = save_part(part.model, *values, part.to_dict(), folder, most_inline_bytes=most)
        assert ("model.onnx.data" in names) is expected
        assert reproduce(folder, tmp_path)[0] == 0
        stored = onnx.load(folder / "model.onnx").graph.initializer
        assert {tensor.name for tensor in stored} == {tensor.name for tensor in part.model.proto.graph.initializer}
        assert len(stored) < len(weights)
        for tensor in stored:
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), weights[tensor.name])
    save_part(part.model, *values, part.to_dict(), tmp_path / "part100")  # what took a file of its own needs none now
    assert "model.onnx.data" not in files(tmp_path / "part100")
    (path.parent / "model.onnx").symlink_to("net.onnx")
    with pytest.raises(OutputError, match=r"the output would replace an input: .*net\.onnx"):
        part.save(path.parent)
    (path.parent / "model.onnx").unlink()
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_the_command_writes_and_says_what_it_did(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["extract", "net.onnx", "--select", "fc", "-i", "x.npy", "-o", "part", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert {**json.loads((tmp_path / "part" / "extract.json").read_text()), "files": None} == {**record, "files": None}
    assert (record["layers"], record["nodes"], record["operators"]) == (["fc"], 2, {"Gemm": 1, "Relu": 1})
    assert record["weight_bytes"] == 24
    assert record["inputs"] == [{"name": "h", "dtype": "float32", "shape": [2, 2], "file": "input_0.pb"}]
    assert record["outputs"][0]["same"] is True
    assert err.splitlines()[-1] == "6 files are in part; `python part/reproduce.py` runs the part"
    assert reproduce(tmp_path / "part", "/")[0] == 0
    assert run(["extract", "net.onnx", "--from", "x", "--to", "a", "-o", "part"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "fc of net.onnx: 2 nodes, 24 bytes of weights"
    assert "the part alone was run: `-i` names what the whole model is fed" in err
    assert run(["extract", "net.onnx", "-o", "part"]) == 2
    assert "nothing is selected to be extracted: net.onnx" in capsys.readouterr().err
