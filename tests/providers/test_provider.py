"""What `--provider` is given, read into one record."""

from __future__ import annotations

import hashlib
import pickle

import pytest

from onnxscope.errors import InputError
from onnxscope.providers.provider import CPU, Running, read_optimization, read_provider

CONFIG = '{"CPU": {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}}'


@pytest.mark.parametrize("given", ["CPU", "cpu", "CPUExecutionProvider", " cpuexecutionprovider "])
def test_a_name_may_be_short(given):
    assert read_provider(given) == CPU


def test_a_name_has_onnxruntimes_spelling():
    assert read_provider("cuda").name == "CUDAExecutionProvider"
    assert read_provider("TENSORRT").name == "TensorrtExecutionProvider"
    assert read_provider("somebodys").name == "somebodys"


def test_options_follow_a_colon():
    assert read_provider("CUDA:device_id=1, do_copy=0").options == (("device_id", "1"), ("do_copy", "0"))
    assert read_provider("CUDA:url=http://a:80/?b=c").options == (("url", "http://a:80/?b=c"),)
    assert read_provider("CUDA:empty=").options == (("empty", ""),)


def test_json_keeps_its_commas():
    options = read_provider(f'CUDA:load={CONFIG},list=[1,2],text="a,}}\\",b",last=1').options
    assert options == (("load", CONFIG), ("list", "[1,2]"), ("text", '"a,}\\",b"'), ("last", "1"))


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("", "no execution provider: ''"),
        (":a=b", "no execution provider: ':a=b'"),
        (7, "no execution provider: 7"),
        ("CPU:a=1,b", "no option KEY=VALUE of an execution provider: 'b' in 'CPU:a=1,b'"),
        ("CPU:a=1,a=2", "two values of the option 'a' of an execution provider: 'CPU:a=1,a=2'"),
        ("./missing.so", "no such file: ./missing.so"),
        ("missing.dll", "no such file: missing.dll"),
        ("json", "the package brings no execution provider (module 'json' has no attribute 'get_library_path'): json"),
    ],
)
def test_what_it_cannot_be_is_said_in_one_line(given, fault):
    with pytest.raises(InputError) as caught:
        read_provider(given)
    assert str(caught.value) == fault
    assert "\n" not in str(caught.value)


def test_a_library_is_named_by_its_path_and_recorded_by_its_digest(tmp_path, monkeypatch):
    (tmp_path / "plug.so").write_bytes(b"code")
    monkeypatch.chdir(tmp_path)
    provider = read_provider("plug.so:a=b")
    assert provider.library == (tmp_path / "plug.so").resolve()
    assert provider.to_dict() == {
        "name": "plug.so",
        "options": {"a": "b"},
        "library": {"name": "plug.so", "sha256": hashlib.sha256(b"code").hexdigest()},
    }
    assert read_provider(str(tmp_path / "plug.so:a=b")) == provider


def test_how_a_model_runs_is_said_and_travels():
    running = Running(read_provider("CUDA:device_id=1"), "none", 1)
    assert running.text == "CUDAExecutionProvider with device_id=1, optimization none, 1 thread"
    assert running.to_dict() == {
        "provider": {"name": "CUDAExecutionProvider", "options": {"device_id": "1"}},
        "optimization": "none",
        "threads": 1,
    }
    assert pickle.loads(pickle.dumps(running)) == running
    assert Running().is_default
    assert not running.is_default


def test_a_level_of_optimization_is_one_of_four():
    assert read_optimization("basic") == "basic"
    with pytest.raises(InputError, match="no level of optimization: 'O3'") as caught:
        read_optimization("O3")
    assert caught.value.hint == "one of all, extended, basic, none"
