"""Arrays of several sources: files, folders, test data of onnx, inputs by name, generators; samples of many lengths."""

from __future__ import annotations

import json
import pickle

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.datasets.dataset import open_dataset
from onnxscope.datasets.read_files import files_of
from onnxscope.errors import InputError

LENGTHS = (5, 9, 9, 14)
RNG = np.random.default_rng(4)
TABLE = RNG.standard_normal((20, 6)).astype(np.float32)
WEIGHT = RNG.standard_normal((6, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """An encoder: tokens become numbers, padding is nothing."""
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (int64[batch, sequence] ids, float[batch, sequence] mask) => (float[batch, sequence, 3] y)
        <int64[1] last = {2}> { e = Gather (table, ids)  m = Unsqueeze (mask, last)
          k = Mul (e, m)  [dense] h = MatMul (k, w)  y = Tanh (h) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend([numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(WEIGHT, "w")])
    return onnxscope.load_model(proto)


def sequences():
    rng = np.random.default_rng(7)
    for length in LENGTHS:
        yield {"ids": rng.integers(0, 20, (1, length)), "mask": np.ones((1, length), np.float32)}


def computed(sample):
    return np.tanh(TABLE.astype(np.float64)[sample["ids"]] * sample["mask"][..., None] @ WEIGHT.astype(np.float64))


def assert_counts_every_position(stats):
    (tap,) = [tap for tap in stats if tap.layer == "dense"]
    every = np.concatenate([computed(sample).reshape(-1, 3) for sample in sequences()])
    assert stats.profile.samples == 4
    assert tap.overall.count == every.size == 3 * sum(LENGTHS)
    assert tap.overall.mean == pytest.approx(every.mean(), rel=1e-5, abs=1e-7)
    assert tap.overall.std == pytest.approx(every.std(ddof=1), rel=1e-5)
    assert (tap.overall.min, tap.overall.max) == pytest.approx((every.min(), every.max()), rel=1e-5)
    assert list(tap.channels.mean) == pytest.approx(every.mean(0), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_sequences_of_many_lengths_weigh_by_their_elements(model, batch_size):
    assert_counts_every_position(onnxscope.stats(model, sequences(), select="dense", batch_size=batch_size))


def saved(folder, suffix):
    folder.mkdir()
    for number, sample in enumerate(sequences(), 1):
        if suffix == "npz":
            np.savez(folder / f"{number}.npz", **sample)
        elif suffix == "safetensors":
            (folder / f"{number}.safetensors").write_bytes(safetensors(sample))
        else:
            inner = folder / f"test_data_set_{number}"
            inner.mkdir()
            for place, array in enumerate(sample.values()):
                (inner / f"input_{place}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())
            (inner / "output_0.pb").write_bytes(b"")
    return folder


def safetensors(arrays):
    """As the format's description has it: eight bytes of length, a header in JSON, the numbers."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        dtype = {"float32": "F32", "int64": "I64", "bfloat16": "BF16"}[array.dtype.name]
        content = array.tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pb"])
def test_a_folder_of_arrays_is_a_dataset(model, suffix, tmp_path):
    folder = saved(tmp_path / "data", suffix)
    stats = onnxscope.stats(model, folder, select="dense", workers=2, batch_size=1)
    assert_counts_every_position(stats)
    record = stats.profile.input
    assert (record["kind"], record["file_count"]) == ("arrays", 4)
    assert len(files_of(inputs=str(folder))) == (8 if suffix == "pb" else 4)
    assert_counts_every_position(
        onnxscope.stats(model, [str(path) for path in sorted(folder.iterdir())], select="dense")
    )


def test_names_say_which_input_a_file_is_for(model, tmp_path, capsys):
    for number, sample in enumerate(sequences(), 1):
        for name, array in sample.items():
            np.save(tmp_path / f"{name}{number}.npy", array)
    onnx.save(model.proto, tmp_path / "m.onnx")
    path, output, folder = (str(tmp_path / name) for name in ("m.onnx", "p.json", "f"))
    given = ["-i", f"mask={tmp_path}/mask*.npy", "-i", f"ids={tmp_path}/ids*.npy"]
    assert run(["stats", path, *given, "-s", "dense", "-o", output]) == 0
    assert onnxscope.Profile.load(output).samples == 4
    assert_counts_every_position(onnxscope.stats(model, given[1::2], select="dense"))
    capsys.readouterr()
    assert run(["features", path, *given, "-o", folder]) == 2
    err = capsys.readouterr().err
    assert "4 samples of (5,) and (9,) and (14,) do not go into one run: input 'ids'" in err
    assert "hint: give one of them, or use `stats`" in err
    assert run(["features", path, *[text.replace("*", "1") for text in given], "-o", folder]) == 0
    assert run(["stats", path, *given, "-i", f"ids={tmp_path}/ids1.npy", "-o", output]) == 2
    assert "the inputs are named with different numbers of files: mask 4, ids 5" in capsys.readouterr().err


def test_sources_of_one_shape_go_into_one_run(model):
    samples = [sample for sample in sequences() if sample["ids"].shape[1] == 9]
    maps = onnxscope.features(model, samples, select="dense")
    assert np.allclose(maps[0].data, np.concatenate([computed(sample) for sample in samples]), rtol=1e-5, atol=1e-6)
    dataset = open_dataset(samples, model, RunOptions())
    assert dataset.count == 2
    assert np.array_equal(pickle.loads(pickle.dumps(dataset)).load(1)[0]["ids"], samples[1]["ids"][0])


def test_a_sample_is_called_after_its_file(model, tmp_path):
    folder = saved(tmp_path / "data", "npz")
    one = next(sequences())
    np.savez(folder / "0.npz", **{name: np.concatenate([array] * 3) for name, array in one.items()})
    dataset = open_dataset(folder, model, RunOptions(limit=5))
    assert [dataset.name(place) for place in range(dataset.count)] == [
        "0.npz sample 0", "0.npz sample 1", "0.npz sample 2", "1.npz", "2.npz",
    ]  # fmt: skip


def test_a_finding_names_the_file(tmp_path):
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[n, 2] x) => (float[n, 2] y) { [root] y = Sqrt (x) }'
    for number, value in enumerate((1.0, 2.0, -1.0)):
        np.save(tmp_path / f"{number}.npy", np.full((1, 2), value, np.float32))
    stats = onnxscope.stats(onnx.parser.parse_model(text), tmp_path, select="op:Sqrt")
    assert "first in 2.npy" in next(finding.message for finding in stats.findings if finding.kind == "non_finite")


def test_two_models_are_compared_on_sequences(model):
    result = onnxscope.diff(model, model, list(sequences()))
    assert result.equal
    assert result.input["samples"] == 4


def test_sequences_without_an_axis_of_samples_are_samples():
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (float[steps, 3] x) => (float[steps, 3] y) <int64 axis = {0}> { [sum] y = CumSum (x, axis) }"""
    arrays = [np.random.default_rng(length).standard_normal((length, 3)).astype(np.float32) for length in LENGTHS]
    stats = onnxscope.stats(onnx.parser.parse_model(text), arrays, select="sum")
    every = np.concatenate([np.cumsum(array.astype(np.float64), 0) for array in arrays])
    assert stats.profile.samples == 4
    assert stats[0].overall.count == every.size
    assert stats[0].overall.std == pytest.approx(every.std(ddof=1), rel=1e-5)


def broken(model, source):
    with pytest.raises(InputError) as caught:
        open_dataset(source, model, RunOptions())
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_broken_files_are_told(model, tmp_path):
    whole = safetensors(next(sequences()))
    path = tmp_path / "a.safetensors"
    for content in (b"", b"\xff" * 20, whole[:8] + b"[" + whole[9:], whole[:-1], whole.replace(b'"I64"', b'"I32"')):
        path.write_bytes(content)
        assert "not a .safetensors file, or a broken one" in broken(model, str(path))
    path.write_bytes(whole.replace(b'"ids"', b'"idx"'))
    assert "the model has no input 'idx'" in broken(model, str(path))
    data = tmp_path / "test_data_set_0"
    data.mkdir()
    (data / "input_0.pb").write_bytes(numpy_helper.from_array(np.zeros((1, 5), np.int64)).SerializeToString())
    assert broken(model, str(data)) == f"1 file input_N.pb for 2 inputs: {data}"
    bomb = onnx.TensorProto(data_type=1, dims=[1 << 40])
    outside = onnx.TensorProto(data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/passwd")
    for content in (b"\xff\xff", b"", bomb.SerializeToString(), outside.SerializeToString()):
        (data / "input_1.pb").write_bytes(content)
        assert broken(model, str(data)).startswith("no tensor of onnx (")


def test_bfloat16_and_strings_are_read(tmp_path):
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (bfloat16[n, 2] x, string[n] s) => (bfloat16[n, 2] y, string[n] t) { y = Identity (x)  t = Identity (s) }"""
    model = onnxscope.load_model(onnx.parser.parse_model(text))
    half = numpy_helper.to_array(onnx.helper.make_tensor("x", onnx.TensorProto.BFLOAT16, [1, 2], [1.5, -3.0]))
    (tmp_path / "x.safetensors").write_bytes(safetensors({"x": half}))
    words = onnx.helper.make_tensor("s", onnx.TensorProto.STRING, [1], ["né"])
    (tmp_path / "s.pb").write_bytes(words.SerializeToString())
    fed = open_dataset([f"x={tmp_path}/x.safetensors", f"s={tmp_path}/s.pb"], model, RunOptions()).whole().arrays
    assert fed["x"].astype(float).tolist() == [[1.5, -3.0]]
    assert fed["s"].tolist() == ["né"]


def test_a_number_is_all_of_its_input(tmp_path):
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (float[n, 2] x, int64 rate, float[n, 1] gain) => (float[n, 2] y, int64 r, float[n, 1] h)
        { y = Identity (x)  r = Identity (rate)  h = Identity (gain) }"""
    model = onnxscope.load_model(onnx.parser.parse_model(text))
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    dataset = open_dataset([f"x={tmp_path}/x.npy", "rate=16000", "gain=-2.5e-1"], model, RunOptions())
    fed = dataset.whole().arrays
    assert (fed["rate"].shape, fed["rate"].dtype, int(fed["rate"])) == ((), np.int64, 16000)
    assert fed["gain"].tolist() == [[-0.25]] * 3  # as many as the other input of that dimension has
    assert dataset.record["files"] == ["x.npy", "rate=16000", "gain=-2.5e-1"]
    assert len(dataset.files) == 1
    assert "input 'rate' takes int64, not 1.5" in broken(model, [f"x={tmp_path}/x.npy", "rate=1.5", "gain=1"])
