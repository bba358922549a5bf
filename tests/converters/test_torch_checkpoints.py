"""Checkpoints: what loads, what is refused, and that nothing loads by halves."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from onnxscope.errors import ConversionError  # noqa: E402
from onnxscope_torch.checkpoints import load_checkpoint, read_checkpoint  # noqa: E402


def _net(seed: int = 0, width: int = 4) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(3, width, 3), torch.nn.BatchNorm2d(width), torch.nn.Linear(4, 2))


def _same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_checkpoint_loads(tmp_path, suffix):
    path = str(tmp_path / f"net{suffix}")
    trained, fresh = _net(1), _net(0)
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(trained.state_dict(), path)
    else:
        torch.save(trained.state_dict(), path)
    assert load_checkpoint(fresh, path) == []
    assert _same(fresh, trained)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_training_checkpoint_is_unwrapped(tmp_path, key):
    path = str(tmp_path / "net.pth")
    trained, fresh = _net(1), _net(0)
    torch.save({"epoch": 3, key: {f"module.{k}": v for k, v in trained.state_dict().items()}}, path)
    notes = load_checkpoint(fresh, path)
    assert notes == [
        f"the weights are those under {key!r} in the checkpoint",
        "the checkpoint's names had DataParallel's prefix 'module.', which was dropped",
    ]
    assert _same(fresh, trained)


def test_counters_may_be_missing_and_half_precision_is_said(tmp_path):
    path = str(tmp_path / "old.pth")
    state = {k: v.half() for k, v in _net(1).state_dict().items() if "num_batches" not in k}
    torch.save(state, path)
    fresh = _net(0)
    assert load_checkpoint(fresh, path) == [
        "8 checkpoint tensors were converted from float16 to float32, first '0.weight'"
    ]
    assert torch.equal(fresh[0].weight, state["0.weight"].float())


def test_one_name_of_tied_parameters_is_enough(tmp_path):
    path = str(tmp_path / "tied.pth")
    net = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    torch.save({"1.weight": torch.full((4, 4), 7.0)}, path)
    load_checkpoint(net, path)
    assert net[0].weight.detach().unique().tolist() == [7.0]


def test_one_that_does_not_fit_names_the_first_faults_and_loads_nothing(tmp_path):
    path = str(tmp_path / "wide.pth")
    state = _net(1, width=5).state_dict()
    state["extra.weight"] = torch.zeros(2)
    state["extra.bias"] = torch.zeros(2)
    del state["2.bias"]
    torch.save(state, path)
    fresh = _net(0)
    with pytest.raises(ConversionError) as caught:
        load_checkpoint(fresh, path)
    assert str(caught.value) == (
        "the checkpoint does not fit the model (1 missing, first '2.bias'; 2 unexpected, first 'extra.weight'; "
        "6 wrongly shaped, first '0.weight': (5, 3, 3, 3) in the file, (4, 3, 3, 3) in the model): " + path
    )
    assert "num_classes" in caught.value.hint
    assert _same(fresh, _net(0))


class _Payload:
    """Unpickling it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("archive", [True, False])
def test_a_malicious_pickle_runs_nothing(tmp_path, archive):
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    if archive:
        torch.save({"weight": _Payload(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": _Payload(marker)}, protocol=2))
    with pytest.raises(ConversionError) as caught:
        read_checkpoint(str(path))
    assert "the checkpoint holds more than tensors" in str(caught.value)
    assert "torch.save(model.state_dict()" in caught.value.hint
    assert not marker.exists()
    # The payload does what it should, or this test would prove nothing.
    pickle.loads(pickle.dumps(_Payload(marker)))
    assert marker.exists()


def test_a_whole_module_is_refused_by_the_class_that_it_wants(tmp_path):
    path = str(tmp_path / "whole.pt")
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ConversionError, match=r"more than tensors \(torch\.nn\.modules\.linear\.Linear\)"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"these are no weights\n", "not a PyTorch checkpoint: "),
        ("a.pth", b"", "not a PyTorch checkpoint: "),
        ("a.pth", b"PK\x03\x04 cut off", "cannot read the checkpoint (RuntimeError: "),
        ("a.safetensors", b"these are no weights\n", "not a safetensors file (SafetensorError: "),
        ("a.h5", b"x", "cannot tell the format of a checkpoint by '.h5': "),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConversionError) as caught:
        read_checkpoint(str(path))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "the checkpoint holds a list, not a state_dict: "),
        ({"epoch": 3}, "the checkpoint holds no state_dict (but 'epoch'): "),
    ],
)
def test_a_checkpoint_without_weights(tmp_path, content, message):
    path = str(tmp_path / "a.pth")
    torch.save(content, path)
    with pytest.raises(ConversionError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == message + path


def test_no_such_checkpoint(tmp_path):
    with pytest.raises(ConversionError, match=r"no such checkpoint: nowhere\.pth"):
        read_checkpoint("nowhere.pth")
    with pytest.raises(ConversionError, match="not a file: "):
        read_checkpoint(str(tmp_path))


def test_safetensors_missing_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ConversionError, match="needs safetensors, which is not installed") as caught:
        read_checkpoint(str(path))
    assert caught.value.hint == "pip install 'onnxscope[torch]'"
