"""The providers that onnxruntime has here, one from a plug-in among them, and what commands do with them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from provider_models import X, expected, small_network

import onnxscope
from onnxscope.cli.main import run
from onnxscope.errors import InputError, RunError
from onnxscope.model.loading import load_model
from onnxscope.providers.loading import available, choose
from onnxscope.providers.provider import Running, read_provider
from onnxscope.runtime.session import open_session

F32 = 'OpenVINO:load_config={"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'
AVAILABLE = "CPUExecutionProvider"


@pytest.fixture
def openvino():
    """The plug-in, where it is installed."""
    return pytest.importorskip("onnxruntime_ep_openvino", reason="onnxruntime-ep-openvino is not installed")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    onnx.save(small_network(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "text.so").write_text("no library")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_that_nobody_has_tells_what_there_is():
    with pytest.raises(InputError) as caught:
        choose(read_provider("nobodys"))
    assert str(caught.value) == "no execution provider is called 'nobodys'"
    assert caught.value.hint.startswith("available: ")
    assert AVAILABLE in caught.value.hint


def test_the_processor_takes_no_options():
    with pytest.raises(InputError, match="CPUExecutionProvider takes no options: threads"):
        choose(read_provider("CPU:threads=3"))


def test_a_library_that_is_none_tells_what_there_is(folder):
    with pytest.raises(RunError) as caught:
        choose(read_provider("text.so"))
    assert str(caught.value) == f"not a plug-in of execution providers (file too short): {folder / 'text.so'}"
    assert AVAILABLE in caught.value.hint


@pytest.mark.parametrize(
    ("command", "provider"),
    [
        ("features -o f", "nobodys"),
        ("stats -o p.json", "text.so"),
        ("snapshot -o b.json", "CPU:a=b"),
        ("extract -s c1 -o e", "json"),
        ("report -o r.html", "missing.so"),
        ("diff net.onnx", "nobodys:a=b"),
        ("sensitivity", "CPU:a"),
        ("recipe", "nobodys"),
    ],
)
def test_commands_end_with_one_line_and_write_nothing(folder, capsys, command, provider):
    name, *rest = command.split()
    before = sorted(folder.iterdir())
    assert run([name, "net.onnx", "-i", "x.npy", "--provider", provider, *rest]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("1 layer with weights is left out")]
    assert not out
    assert lines[0].startswith("onnxscope: error: ")
    assert len(lines) <= 2
    assert sorted(folder.iterdir()) == before


def test_doctor_lists_providers(capsys):
    assert run(["doctor", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["found"]["execution providers"]
    for name, origin in available():
        assert (name if origin == "onnxruntime" else f"{name} ({origin})") in found


def test_a_level_of_optimization_goes_to_onnxruntime():
    model = load_model(small_network()).run_as(Running(optimization="none", threads=1))
    np.testing.assert_allclose(open_session(model).run({"x": X})["y"], expected("y"), rtol=1e-4, atol=1e-5)
    assert model.to_dict()["running"]["optimization"] == "none"
    assert "running" not in load_model(small_network()).to_dict()


def test_a_plug_in_computes_the_same_at_full_precision(openvino):
    model = load_model(small_network()).run_as(Running(read_provider(F32)))
    session = open_session(model)
    np.testing.assert_allclose(session.run({"x": X})["y"], expected("y"), rtol=1e-4, atol=1e-5)
    assert [part.provider for part in session.assignments] == ["OpenVINOExecutionProvider"]
    assert sorted(op_type for _, op_type in session.assignments[0].nodes) == sorted(
        node.op_type for node in small_network().graph.node
    )


def test_a_plug_in_is_named_by_its_package_or_its_library_too(openvino):
    by_path, by_package = (
        choose(read_provider(name)) for name in (openvino.get_library_path(), "onnxruntime-ep-openvino:device=cpu")
    )
    assert by_path.name == by_package.name == "OpenVINOExecutionProvider"
    assert (by_path.options, by_package.options) == ({}, {})
    with pytest.raises(InputError, match="OpenVINOExecutionProvider has no device 'NPU' here") as caught:
        choose(read_provider("openvino:device=NPU"))
    assert "CPU" in caught.value.hint


def test_options_that_a_plug_in_refuses_are_said_in_one_line(openvino, folder, capfd):
    assert run(["features", "net.onnx", "-i", "x.npy", "--provider", "OpenVINO:load_config={no", "-o", "f"]) == 2
    lines = capfd.readouterr().err.splitlines()
    lines = [line for line in lines if "left out" not in line]
    assert len(lines) == 2
    assert lines[0].startswith(
        "onnxscope: error: OpenVINOExecutionProvider with load_config={no cannot load the model ("
    )
    assert AVAILABLE in lines[1]
    assert not (folder / "f").exists()


def test_what_a_plug_in_computes_is_seen_and_recorded(openvino, folder):
    features = onnxscope.features("net.onnx", "x.npy", select="Conv_*", provider=F32)
    for tap, value in zip(features, ("r1", "r2"), strict=True):
        np.testing.assert_allclose(tap.data, expected(value), rtol=1e-4, atol=1e-5)
    record = features.to_dict()["model"]["running"]["provider"]
    assert record["name"] == "OpenVINOExecutionProvider"
    assert record["options"] == {"load_config": F32.partition("=")[2]}
    statistics = onnxscope.stats("net.onnx", "x.npy", select="Conv_*", output="p.json", provider=F32)
    assert statistics.profile.provenance["execution_provider"] == "OpenVINOExecutionProvider"
    means = [tap["mean"] for tap in statistics.to_dict()["taps"]]
    np.testing.assert_allclose(means, [expected(value).mean(dtype=np.float64) for value in ("r1", "r2")], rtol=1e-5)


def test_a_baseline_says_what_it_was_taken_on(openvino, folder):
    baseline = onnxscope.snapshot("net.onnx", "x.npy", provider=F32)
    assert baseline.versions["execution provider"].startswith("OpenVINOExecutionProvider with load_config=")


def test_narrowed_weights_run_on_it(openvino, folder):
    """They are fed, and OpenVINO has no convolution for weights of an unknown shape."""
    here, there = (onnxscope.sensitivity("net.onnx", "x.npy", provider=name) for name in ("CPU", F32))
    assert [row.layer for row in there] == [row.layer for row in here]
    losses = [[whole["output_sqnr_db"] for whole in one.to_dict()["whole"]] for one in (here, there)]
    np.testing.assert_allclose(losses[1], losses[0], atol=0.1)


def test_the_page_says_what_the_model_was_run_on(folder):
    onnxscope.report("net.onnx", "x.npy", provider="Azure:b=<i>").save("page.html")
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "AzureExecutionProvider with b=&lt;i&gt;" in page
    assert "Run on" in page


def test_workers_run_on_it_too(openvino, folder):
    import pickle

    model = load_model("net.onnx").run_as(Running(read_provider(F32)))
    assert pickle.loads(pickle.dumps(model)).running == model.running
    memory = load_model(small_network()).run_as(Running(read_provider(F32)))
    assert pickle.loads(pickle.dumps(memory)).running == model.running
