"""stats(): the profile of a dataset equals that of the raw taps, however the work is cut, killed and resumed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from opened_sessions import watch_sessions
from oracles import whole
from PIL import Image
from planting import HALF_INPUT, overflowing_half, raw_values

import onnxscope
from onnxscope.analyses.feature_maps import features
from onnxscope.base.files import partial_path
from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.batches import Fed, read_batches
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError, MergeError, MissingDependencyError, OutputError
from onnxscope.numerics.log_histogram import RELATIVE_ERROR
from onnxscope.profiling.dataset_run import stats
from onnxscope.profiling.shards import Shard, ShardWorker, cut_shards
from onnxscope.runtime.session import Session
from onnxscope.runtime.tap_outputs import expose
from onnxscope.selection.selectors import select_taps

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MODEL = FIXTURES / "digits.onnx"
with np.load(FIXTURES / "digits.npz") as archive:
    DIGITS = archive["digits"]


def many(count):
    """Digits, shifted a little, so that no two samples are the same."""
    rng = np.random.default_rng(0)
    return (np.resize(DIGITS, (count, 1, 8, 8)) + rng.normal(0, 0.01, (count, 1, 1, 1))).astype(np.float32)


def assert_equals_raw_taps(result, model, images, select):
    """Against the taps themselves, in float64; features() takes them out whole."""
    maps = features(model, images, select=select)
    assert [tap.name for tap in result] == [each.tap.name for each in maps]
    for tap, each in zip(result, maps, strict=True):
        wide = each.data.astype(np.float64)
        found = tap.overall
        scale = max(wide.std(), abs(wide.mean()))
        assert found.count == wide.size
        assert found.mean == pytest.approx(wide.mean(), abs=1e-5 * scale)
        assert found.std == pytest.approx(wide.std(ddof=1), rel=1e-5)
        # Other taps mean other fusions, which move values by about 1e-7.
        assert found.min == pytest.approx(wide.min(), rel=1e-5, abs=1e-6 * scale)
        assert found.max == pytest.approx(wide.max(), rel=1e-5, abs=1e-6 * scale)
        if tap.sampled is None:
            assert found.zero_fraction == pytest.approx((wide == 0).mean(), abs=1e-6)
            for share in (0.01, 0.25, 0.5, 0.99):
                expected = np.quantile(wide, share, method="inverted_cdf")
                assert tap.quantiles[str(share)] == pytest.approx(expected, rel=RELATIVE_ERROR + 1e-5, abs=1e-6 * scale)
        rows = np.moveaxis(wide, tap.channel_axis, 0).reshape(wide.shape[tap.channel_axis], -1)
        np.testing.assert_allclose(tap.channels.mean, rows.mean(axis=1), rtol=1e-5, atol=1e-5 * scale)
        np.testing.assert_allclose(tap.channels.std, rows.std(axis=1, ddof=1), rtol=1e-5, atol=1e-6 * scale)
        assert set(tap.dead_channels) == set(np.flatnonzero((rows == 0).all(axis=1)).tolist())


@pytest.mark.parametrize("exact", [False, True])
def test_the_profile_equals_the_raw_taps(exact):
    images = many(150)
    result = stats(MODEL, images, select=["op:Conv", "op:Gemm"], exact=exact)
    assert result.profile.samples == 150
    assert_equals_raw_taps(result, MODEL, images, ["op:Conv", "op:Gemm"])


def test_probes_of_large_maps_equal_the_raw_taps(monkeypatch):
    monkeypatch.setattr("onnxscope.profiling.plan._LITTLE", 0)
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 3, 64, 64] x) => (float[batch, 8, 64, 64] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w)
            h = Relu(a)
            y = Conv<pads = [1, 1, 1, 1]>(h, v)
        }""")
    rng = np.random.default_rng(1)
    for name, shape in (("w", (8, 3, 3, 3)), ("v", (8, 8, 3, 3))):
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    images = rng.normal(0.5, 1, (19, 3, 64, 64)).astype(np.float32)
    result = stats(model, images, batch_size=4)
    assert all(tap.sampled is not None for tap in result)
    assert_equals_raw_taps(result, model, images, [])


@pytest.mark.parametrize("exact", [False, True])
def test_what_half_precision_cannot_hold_is_counted(exact):
    model = overflowing_half()
    result = stats(model, HALF_INPUT, batch_size=2, exact=exact)
    raw = dict(zip("aby", raw_values(model, "aby", {"x": HALF_INPUT}), strict=True))
    assert np.isinf(raw["b"]).sum() > 5000
    for tap in result:
        expected = whole(raw[tap.name])
        found = tap.overall
        assert found.count == expected["count"]
        assert (found.min, found.max) == (expected["min"], expected["max"])
        assert (found.nan_count, found.inf_count) == (expected["nan_count"], expected["inf_count"])
        assert found.mean == pytest.approx(expected["mean"], abs=1e-5 * expected["std"])
        assert found.std == pytest.approx(expected["std"], rel=1e-5)
        assert found.zero_fraction == pytest.approx(expected["zero_fraction"], abs=1e-4)
    assert {(finding.kind, finding.layer) for finding in result.findings if finding.kind == "non_finite"} == {
        ("non_finite", "Conv_1")
    }


def profile_bytes(tmp_path, name, **options):
    stats(MODEL, many(70), select="*", output=tmp_path / name, batch_size=2, **options)
    return (tmp_path / name).read_bytes()


def test_any_number_of_workers_gives_the_same_bytes(tmp_path):
    one = profile_bytes(tmp_path, "one.json")
    for workers in (2, 8):
        assert profile_bytes(tmp_path, f"{workers}.json", workers=workers) == one
    assert profile_bytes(tmp_path, "two.json", threads=2) == one
    assert not list(tmp_path.glob("*.partial"))


def test_shards_are_cut_by_the_data_alone():
    assert cut_shards(300, 8) == [Shard(0, 128), Shard(128, 256), Shard(256, 300)]
    assert cut_shards(1, 8) == [Shard(0, 1)]
    many_shards = cut_shards(10**7, 8)
    assert len(many_shards) <= 512
    assert all(shard.start % 8 == 0 for shard in many_shards)
    assert many_shards[-1].stop == 10**7


SCRIPT = """
import sys, time, numpy as np, onnxscope
from onnxscope.profiling.shards import ShardWorker
work = ShardWorker.__call__
def slow(self, shard):
    time.sleep(float(sys.argv[3]))
    return work(self, shard)
ShardWorker.__call__ = slow
onnxscope.stats(sys.argv[1], np.load(sys.argv[2]), batch_size=1, output=sys.argv[4], resume="resume" in sys.argv)
"""


def killed_and_resumed(tmp_path, images, tries, expected):
    """Kill it at random moments, resume it, and compare; returns how often there was something to go on from."""
    np.save(tmp_path / "x.npy", images)
    output = tmp_path / "p.json"
    random.seed(9)
    resumed = 0
    for _ in range(tries):
        output.unlink(missing_ok=True)
        command = [sys.executable, "-c", SCRIPT, str(MODEL), str(tmp_path / "x.npy"), "0.1", str(output)]
        child = subprocess.Popen(command, start_new_session=True)
        while not partial_path(output).exists() and child.poll() is None:
            time.sleep(0.005)
        time.sleep(random.random() * 0.3)
        child.send_signal(signal.SIGKILL)
        child.wait()
        resumed += partial_path(output).exists()
        command[5] = "0"
        subprocess.run([*command, "resume"], check=True)
        assert output.read_bytes() == expected
        assert not partial_path(output).exists()
    return resumed


def test_killed_and_resumed_gives_the_same_bytes(tmp_path):
    images = many(80)
    stats(MODEL, images, batch_size=1, output=tmp_path / "whole.json")
    assert killed_and_resumed(tmp_path, images, 2, (tmp_path / "whole.json").read_bytes()) == 2


def interrupted(tmp_path, **options):
    """What an analysis leaves that is interrupted after two shards."""
    seen = []

    def stop(done, total):
        seen.append(done)
        if done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stats(MODEL, many(70), batch_size=1, output=tmp_path / "p.json", progress=stop, **options)
    return seen


def test_an_interrupted_analysis_goes_on(tmp_path):
    seen = interrupted(tmp_path)
    assert seen == sorted(seen)
    assert not (tmp_path / "p.json").exists()
    with pytest.raises(OutputError, match=r"^an unfinished analysis is in the way: .*p\.json\.partial$") as caught:
        stats(MODEL, many(70), batch_size=1, output=tmp_path / "p.json")
    assert caught.value.hint == "`--resume` goes on from it; remove the file to begin again"
    done = []
    again = {"batch_size": 1, "output": tmp_path / "p.json", "resume": True}
    stats(MODEL, many(70), **again, progress=lambda *at: done.append(at))
    assert done[0][0] == 33
    assert done[-1] == (70, 70)
    stats(MODEL, many(70), batch_size=1, output=tmp_path / "whole.json")
    assert (tmp_path / "p.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_an_output_that_cannot_be_written_costs_no_run(tmp_path):
    started = []
    with pytest.raises(OutputError, match=r"^cannot write \(No such file or directory\): .*none/p\.json$"):
        stats(MODEL, DIGITS, output=tmp_path / "none" / "p.json", progress=lambda *at: started.append(at))
    with pytest.raises(OutputError, match=r"^cannot write \(not a regular file\): "):
        stats(MODEL, DIGITS, output=tmp_path, progress=lambda *at: started.append(at))
    assert not started
    assert not list(tmp_path.iterdir())


def test_resuming_another_analysis_is_refused(tmp_path):
    interrupted(tmp_path)
    with pytest.raises(
        MergeError, match=r"^cannot resume, the profiles were made in different ways: batch_size '2'"
    ) as caught:
        stats(MODEL, many(70), batch_size=2, output=tmp_path / "p.json", resume=True)
    assert caught.value.hint == "give the same arguments as before, or remove the file"
    with pytest.raises(
        MergeError, match=r"^cannot resume, the profiles are of different datasets: samples '60' and '70'"
    ):
        stats(MODEL, many(60), batch_size=1, output=tmp_path / "p.json", resume=True)
    broken = onnxscope.Profile.load(tmp_path / "p.json.partial")
    object.__setattr__(broken, "shards", ((0, 7),))
    broken.save(tmp_path / "p.json.partial")
    with pytest.raises(MergeError, match=r"^cannot resume, samples are missing: "):
        stats(MODEL, many(70), batch_size=1, output=tmp_path / "p.json", resume=True)


@pytest.mark.parametrize(("workers", "engine"), [(1, "local"), (2, "local")])
def test_broken_images_are_named_or_skipped(workers, engine, tmp_path):
    for index in range(20):
        Image.fromarray((DIGITS[index, 0] * 255).astype(np.uint8)).save(tmp_path / f"{index:02d}.png")
    (tmp_path / "07.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"07\.png$"):
        stats(MODEL, str(tmp_path), preprocess="none", workers=workers, engine=engine)
    result = stats(MODEL, str(tmp_path), preprocess="none", workers=workers, engine=engine, on_error="skip")
    assert result.profile.samples == 19
    assert [name for _, name, _ in result.profile.skipped] == ["07.png"]
    assert result[0].samples == 19
    for index in range(20):
        (tmp_path / f"{index:02d}.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"^none of the 20 samples can be read; the first: .*00\.png$"):
        stats(MODEL, str(tmp_path), preprocess="none", on_error="skip")


def test_a_fixed_batch_changes_nothing(tmp_path):
    whole = stats(MODEL, DIGITS[:10], select="*")
    for batch in (1, 4):
        model = onnx.load(MODEL)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        del model.graph.value_info[:]
        found = stats(model, DIGITS[:10], select="op:Conv")
        for tap in found:
            assert tap.samples == 10
            same = whole.layer(tap.layer)
            np.testing.assert_allclose(tap.channels.mean, same.channels.mean, rtol=1e-5, atol=1e-7)
            assert tap.overall.count == same.overall.count


def planted(change):
    """The digits network with one weight changed."""
    model = onnx.load(MODEL)
    for tensor in model.graph.initializer:
        if tensor.name == "block.0.weight":
            array = numpy_helper.to_array(tensor).copy()
            change(array)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def findings_of(model):
    found = stats(model, DIGITS, select="op:Conv", at="pre").findings
    return {(finding.kind, finding.layer, finding.channel): finding.message for finding in found}


def test_planted_faults_are_named_by_layer_and_channel():
    assert not {kind for kind, *_ in findings_of(MODEL)} & {
        "dead_channel",
        "duplicate_channel",
        "non_finite",
        "float16_overflow",
    }

    def dead(weight):
        weight[5] = 0

    assert findings_of(planted(dead))["dead_channel", "block.0", 5] == "zero in every element of all 64 samples"

    def twice(weight):
        weight[9] = weight[2]

    assert findings_of(planted(twice))["duplicate_channel", "block.0", 9] == "the same as channel 2 in all 64 samples"

    def huge(weight):
        weight[11] *= 1e7

    found = findings_of(planted(huge))
    assert "beyond float16's 65,504" in found["float16_overflow", "block.0", 11]

    def broken(weight):
        weight[7, 0, 0, 0] = np.nan

    found = findings_of(planted(broken))
    assert "first in sample 0" in found["non_finite", "block.0", 7]
    assert [key for key in found if key[0] == "non_finite"] == [("non_finite", "block.0", 7)]
    assert ("non_finite_spread", "down.0", None) in found


def test_non_finite_input_is_told_from_a_layer_that_makes_it():
    images = DIGITS.copy()
    images[11, 0, 3, 3] = np.inf
    found = stats(MODEL, images, select="op:Conv").findings
    assert (found[0].kind, found[0].layer, found[0].channel) == ("non_finite", "digits", 0)
    assert found[0].message == "the input holds 1 infinity, first in sample 11; nothing observed before it does"


def test_an_unknown_engine_lists_those_that_are_installed():
    with pytest.raises(MissingDependencyError, match=r"^no engine 'dask'$") as caught:
        stats(MODEL, DIGITS, engine="dask")
    assert caught.value.hint == "installed engines: local, ray"


def test_a_model_from_memory_and_several_inputs():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 4] a, float[batch, 4] b) => (float[batch, 4] y) { y = Mul(a, b) }""")
    rng = np.random.default_rng(2)
    feeds = {"a": rng.normal(size=(30, 4)).astype(np.float32), "b": rng.normal(size=(30, 4)).astype(np.float32)}
    result = stats(model, feeds, select="value:y", workers=2, batch_size=1)
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_allclose(result[0].channels.mean, expected.astype(np.float64).mean(axis=0), rtol=1e-6)
    assert [tap.name for tap in result.profile.inputs] == ["a", "b"]


def test_weights_stand_beside_the_activations():
    profile = stats(MODEL, DIGITS[:2]).profile
    row = next(row for row in profile.weights if row["name"] == "stem.0.weight")
    stored = next(t for t in onnx.load(MODEL).graph.initializer if t.name == "stem.0.weight")
    assert row["std"] == pytest.approx(numpy_helper.to_array(stored).astype(np.float64).std(ddof=1), rel=1e-6)


def test_the_models_digest_covers_its_external_data(tmp_path):
    digests = set()
    for number in (1.0, 2.0):
        model = onnx.load(MODEL)
        model.graph.initializer.append(numpy_helper.from_array(np.full(4096, number, np.float32), "extra"))
        path = tmp_path / "m.onnx"
        onnx.save(model, path, save_as_external_data=True, location="m.data")
        digests.add(onnxscope.load_model(path).digest)
        (tmp_path / "m.data").unlink()
    assert len(digests) == 2
    assert os.listdir(tmp_path) == ["m.onnx"]


class RawTaps:
    """Statistics of taps by their definitions, from the values that leave an ordinary session, in float64."""

    def __init__(self, model, select):
        self.model = onnxscope.load_model(model)
        self.taps = select_taps(self.model, select, at="post")
        tapped = expose(self.model, self.taps)
        self.session = Session(tapped.proto, folder=self.model.folder, where="raw taps")
        self.seen = {tap.name: [] for tap in self.taps}

    def run(self, batch):
        answers = self.session.run({self.model.inputs[0].name: batch}, [tap.value for tap in self.taps])
        for tap in self.taps:
            wide = np.moveaxis(answers[tap.value].astype(np.float64), 1, 0).reshape(answers[tap.value].shape[1], -1)
            mean = wide.mean(axis=1)
            m2 = ((wide - mean[:, None]) ** 2).sum(axis=1)
            self.seen[tap.name].append((wide.shape[1], mean, m2, wide.min(axis=1), wide.max(axis=1)))

    def channels(self, name):
        counts, means, squares, lows, highs = map(np.array, zip(*self.seen[name], strict=True))
        mean = (means * counts[:, None]).sum(axis=0) / counts.sum()
        m2 = squares.sum(axis=0) + (counts[:, None] * (means - mean) ** 2).sum(axis=0)
        return mean, np.sqrt(m2 / (counts.sum() - 1)), lows.min(axis=0), highs.max(axis=0)


def assert_equals(result, raw):
    worst = 0.0
    assert [tap.name for tap in result] == [tap.name for tap in raw.taps]
    for tap in result:
        mean, std, low, high = raw.channels(tap.name)
        scale = np.maximum(std, np.abs(mean))
        np.testing.assert_allclose(tap.channels.std, std, rtol=1e-5, atol=1e-30)
        assert (np.abs(np.array(tap.channels.mean) - mean) <= 1e-5 * scale + 1e-30).all()
        # Other outputs mean other fusions, which move single values by about 1e-6 of the layer's scale.
        np.testing.assert_allclose(tap.channels.min, low, rtol=1e-5, atol=1e-5 * scale.max())
        np.testing.assert_allclose(tap.channels.max, high, rtol=1e-5, atol=1e-5 * scale.max())
        seen = std > 0
        worst = max(worst, float(np.max(np.abs(np.array(tap.channels.std) - std)[seen] / std[seen], initial=0)))
    print(f"{len(result)} taps over {result.profile.samples} samples: largest relative error of a std {worst:.2g}")


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    from onnxscope.base.plugins import load_converter
    from onnxscope.converting.contract import ConversionRequest

    path = tmp_path_factory.mktemp("resnet50") / "resnet50.onnx"
    load_converter("torch").convert(ConversionRequest(source="resnet50", output=str(path), preprocess="imagenet"))
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """520 crops of a photograph."""
    import matplotlib

    folder = tmp_path_factory.mktemp("photographs")
    photograph = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    rng = np.random.default_rng(3)
    for index in range(520):
        side = int(rng.integers(150, min(photograph.size)))
        left, top = (int(rng.integers(0, length - side)) for length in photograph.size)
        photograph.crop((left, top, left + side, top + side)).resize((256, 256)).save(folder / f"{index}.jpg")
    return folder


def same_bytes(model, inputs, folder, **options):
    """Run it on both engines, and return what the first gives."""
    contents = []
    for engine, workers in (("local", 1), ("local", 2), ("ray", 1), ("ray", 2)):
        output = folder / f"{engine}{workers}.json"
        result = stats(model, inputs, engine=engine, workers=workers, output=output, **options)
        contents.append(output.read_bytes())
        if len(contents) == 1:
            first = result
    assert len(set(contents)) == 1
    return first, contents[0]


@pytest.mark.acceptance
def test_resnet50_equals_the_raw_taps_on_every_engine(resnet50, photographs, tmp_path):
    result, _ = same_bytes(resnet50, str(photographs), tmp_path)
    raw = RawTaps(resnet50, [])
    options = RunOptions(preprocess="imagenet")
    dataset = open_dataset(str(photographs), raw.model, options)
    for batch in read_batches(dataset, 0, dataset.count, Fed(), options):
        raw.run(batch.feeds[raw.model.inputs[0].name])
    assert len(result) == 53
    assert_equals(result, raw)


@pytest.mark.acceptance
def test_all_digits_equal_the_raw_taps_on_every_engine_and_after_twenty_kills(tmp_path):
    from sklearn.datasets import load_digits

    images = (load_digits().images[:, None] / 16).astype(np.float32)
    np.save(tmp_path / "all.npy", images)
    result, _ = same_bytes(MODEL, str(tmp_path / "all.npy"), tmp_path, select=["op:Conv"], batch_size=1)
    raw = RawTaps(MODEL, ["op:Conv"])
    for start in range(0, len(images), 100):
        raw.run(images[start : start + 100])
    assert result.profile.samples == 1797
    assert_equals(result, raw)
    stats(MODEL, images, batch_size=1, output=tmp_path / "whole.json")
    assert killed_and_resumed(tmp_path, images, 20, (tmp_path / "whole.json").read_bytes()) == 20


@pytest.mark.acceptance
def test_memory_does_not_grow_with_the_samples(resnet50, tmp_path):
    peaks = {}
    for samples in (200, 2000):
        command = [sys.executable, "-m", "onnxscope", "stats", str(resnet50), "-i", "random", "--limit", str(samples)]
        child = subprocess.Popen([*command, "-o", str(tmp_path / "p.json")], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        peaks[samples] = usage.ru_maxrss / 1024
    print(", ".join(f"{samples} samples: {peak:.0f} MiB" for samples, peak in peaks.items()))
    assert peaks[2000] <= 1.1 * peaks[200]


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_two_sessions_are_opened_before_the_first_shard_and_none_after_it(monkeypatch, offset):
    """A value with a large mean is observed about a shift: the pilot finds it, before the probes are made."""
    monkeypatch.setattr("onnxscope.profiling.plan._LITTLE", 0)
    sessions = watch_sessions(monkeypatch)
    begun: list[int] = []

    def call(worker, shard):
        begun.append(len(sessions))
        return original(worker, shard)

    original = ShardWorker.__call__
    monkeypatch.setattr(ShardWorker, "__call__", call)
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 17]>
        net (float[N, 2, 128, 128] x) => (float[N, 2, 128, 128] y) <float[1] k = {{{offset}}}> {{ y = Add(x, k) }}"""
    )
    images = np.random.default_rng(0).standard_normal((40, 2, 128, 128), np.float32)
    result = stats(model, images, select="value:y", batch_size=2)
    assert begun[0] == len(sessions) == 2
    assert len(begun) > 1
    assert result[0].overall.mean == pytest.approx(
        float((images + np.float32(offset)).mean(dtype=np.float64)), rel=1e-5
    )
