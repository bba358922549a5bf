"""Files of tensors: sounds as the standard library and numpy write them; the others are read in test_array_sets."""

from __future__ import annotations

import struct
import wave

import numpy as np
import onnx
import pytest

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError

RATE = 8000
TIME = np.arange(1000) / RATE
LEFT, RIGHT = 0.5 * np.sin(2 * np.pi * 440 * TIME), 0.25 * np.cos(2 * np.pi * 100 * TIME)


def model_of(*inputs):
    names = [text.split()[-1] for text in inputs]
    outputs = ", ".join(f"{text.rpartition(' ')[0]} out_{name}" for text, name in zip(inputs, names, strict=True))
    nodes = " ".join(f"out_{name} = Identity ({name})" for name in names)
    head = '<ir_version: 9, opset_import: ["": 18]>'
    return onnxscope.load_model(onnx.parser.parse_model(f"{head} g ({', '.join(inputs)}) => ({outputs}) {{ {nodes} }}"))


def written(path, *channels, width=2):
    """By the standard library, which rounds nothing."""
    whole = np.round(np.stack(channels, 1) * ((1 << (8 * width - 1)) - 1)).astype("<i8")
    whole += 128 if width == 1 else 0
    content = np.ascontiguousarray(whole).view(np.uint8).reshape(*whole.shape, 8)[..., :width].tobytes()
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(len(channels))
        stream.setsampwidth(width)
        stream.setframerate(RATE)
        stream.writeframes(content)
    return str(path)


def riff(*chunks):
    body = b"".join(name + len(data).to_bytes(4, "little") + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WAVE" + body


def format_of(kind, channels, bits, more=b""):
    return struct.pack("<HHIIHH", kind, channels, RATE, RATE * channels * bits // 8, channels * bits // 8, bits) + more


def fed(path, *inputs):
    return open_dataset(str(path), model_of(*inputs), RunOptions()).whole().arrays


@pytest.mark.parametrize(("width", "step"), [(1, 2**-7), (2, 2**-15), (3, 2**-23), (4, 2**-31)])
def test_integers_of_every_width_are_the_sound(width, step, tmp_path):
    path = written(tmp_path / "a.wav", LEFT, RIGHT, width=width)
    (sound,) = fed(path, "float[batch, samples] audio")["audio"]
    assert sound.dtype == np.float32
    assert np.abs(sound - (LEFT + RIGHT) / 2).max() < 2 * step + 1e-7


@pytest.mark.parametrize("bits", [32, 64])
def test_floating_point_and_chunks_that_nobody_knows(bits, tmp_path):
    data = np.stack([LEFT, RIGHT], 1).astype(f"<f{bits // 8}").tobytes()
    chunks = [(b"LIST", b"odd"), (b"fmt ", format_of(3, 2, bits)), (b"data", data), (b"id3 ", b"x" * 9)]
    (tmp_path / "a.wav").write_bytes(riff(*chunks))
    (sound,) = fed(tmp_path / "a.wav", "float[batch, samples] audio")["audio"]
    assert np.allclose(sound, (LEFT + RIGHT) / 2, atol=1e-7)
    extensible = format_of(0xFFFE, 2, bits, struct.pack("<HHIH", 22, bits, 3, 3) + bytes(14))
    (tmp_path / "b.wav").write_bytes(riff((b"fmt ", extensible), (b"data", data)))
    assert np.array_equal(fed(tmp_path / "b.wav", "float[batch, samples] audio")["audio"][0], sound)


def test_a_fixed_length_cuts_it_into_windows(tmp_path):
    path = written(tmp_path / "a.wav", LEFT)
    windows = fed(path, "float[batch, 300] audio")["audio"]
    assert windows.shape == (4, 300)
    assert np.allclose(windows.reshape(-1)[:1000], LEFT, atol=1e-4)
    assert (windows.reshape(-1)[1000:] == 0).all()
    assert fed(path, "float[batch, 1, samples] audio")["audio"].shape == (1, 1, 1000)
    assert fed(path, "float[batch, 300, 1] audio")["audio"].shape == (4, 300, 1)
    assert fed(path, "float16[batch, samples] audio")["audio"].dtype == np.float16


def test_an_input_that_asks_for_the_rate_is_told(tmp_path):
    path = written(tmp_path / "a.wav", LEFT)
    model = model_of("float[batch, samples] input", "int64 sr")
    dataset = open_dataset(path, model, RunOptions())
    assert int(dataset.whole().arrays["sr"]) == RATE
    assert dataset.notes == ("a.wav: 0.125 s of sound at its own rate of 8,000 samples a second",)
    stateful = model_of("float[batch, samples] input", "float[2, batch, 8] state", "int64 sr")
    with pytest.raises(InputError, match="the model has 2 inputs, not one") as caught:
        open_dataset(path, stateful, RunOptions(state="none"))
    assert "state float32 (2, batch, 8)" in caught.value.hint
    arrays = open_dataset([f"input={path}", "state=0", f"sr={RATE}"], stateful, RunOptions()).whole().arrays
    assert (arrays["input"].shape, arrays["state"].shape, int(arrays["sr"])) == ((1, 1000), (2, 1, 8), RATE)


def test_a_folder_of_sounds_is_a_dataset(tmp_path):
    for number, count in enumerate((1000, 700, 400, 400, 400)):
        written(tmp_path / f"{number}.wav", LEFT[:count])
    (tmp_path / "labels.csv").touch()
    stats = onnxscope.stats(model_of("float[batch, samples] audio"), tmp_path, select="value:out_audio")
    every = np.concatenate([LEFT[:1000], LEFT[:700], *[LEFT[:400]] * 3])
    assert (stats.profile.samples, stats[0].overall.count) == (5, 2900)
    assert stats.notes[-2].startswith("2.wav: 0.05 s of sound")
    assert stats.notes[-1] == "and so on for 2 more sources"
    assert stats[0].overall.std == pytest.approx(every.std(ddof=1), rel=1e-3)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not a .wav file: "),
        (b"RIFF\0\0\0\0AVI ", "not a .wav file: "),
        (riff((b"data", bytes(200))), "not a .wav file, or a broken one: "),
        (riff((b"fmt ", format_of(1, 0, 16)), (b"data", bytes(200))), "not a .wav file, or a broken one: "),
        (riff((b"fmt ", format_of(1, 1, 16)), (b"data", b"")), "a sound of no length: "),
        (riff((b"fmt ", format_of(2, 1, 4)), (b"data", bytes(200))), "a sound in format 2 of 4 bits is not read: "),
        (
            riff((b"fmt ", format_of(1, 1, 16)), (b"data", bytes(90))),
            "a sound of 45 samples is none; from 64 on they count",
        ),
    ],
)
def test_what_is_no_sound_is_told(content, fault, tmp_path):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(InputError) as caught:
        fed(tmp_path / "a.wav", "float[batch, samples] audio")
    assert str(caught.value).startswith(fault)
    assert (
        "the model takes audio float32 (batch, samples)" in caught.value.hint or "integers of 16" in caught.value.hint
    )


def test_a_model_that_takes_no_sound_says_so(tmp_path):
    path = written(tmp_path / "a.wav", LEFT)
    for inputs in ("float[batch, 5] rows", "int64[batch, n] ids", "float[b, 3, 8, 8] x", "float[b, 80, n] mel"):
        with pytest.raises(InputError, match="no sound of 1,000 samples becomes "):
            fed(path, inputs)
