"""Sounds as a model's inputs: files of every kind, at the rate and in the shape that the model takes."""

from __future__ import annotations

import json
import struct
import sys

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_dataset, open_inputs
from onnxscope.errors import InputError
from onnxscope.readers.log_mel import log_mel
from onnxscope.readers.sound_recipes import SOUND_RECIPES, SoundRecipe, load_sound_recipe

RATE = 16_000


def tone(rate, seconds=0.5, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def written(path, sound=None, rate=RATE, **options):
    soundfile.write(path, tone(rate) if sound is None else sound, rate, **options)
    return str(path)


def model_of(*inputs):
    """A model that hands on its inputs, each given by name, element type and shape."""
    values = [helper.make_tensor_value_info(*given) for given in inputs]
    outputs = [helper.make_tensor_value_info(f"out_{name}", kind, shape) for name, kind, shape in inputs]
    nodes = [helper.make_node("Identity", [name], [f"out_{name}"]) for name, _, _ in inputs]
    graph = helper.make_graph(nodes, "g", values, outputs)
    return onnxscope.load_model(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]))


def of_shape(*shape, kind=TensorProto.FLOAT):
    return model_of(("x", kind, list(shape)))


def opened(path, model, preprocess=None):
    return open_dataset(path, model, RunOptions(preprocess=preprocess))


def fed(path, model, preprocess=None):
    return opened(path, model, preprocess).whole().arrays


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.aiff", "flac_by_another_name", "wav_by_another_name"])
def test_other_files_are_read_by_soundfile(name, tmp_path):
    stereo = np.stack([tone(RATE), 0.5 * tone(RATE)], 1)
    path = tmp_path / name
    suffix = path.suffix[1:] or name.partition("_")[0]
    written(path, stereo, format=suffix.upper())
    dataset = opened(str(path), of_shape("batch", "samples"))
    sound = dataset.whole().arrays["x"][0]
    assert sound.dtype == np.float32
    assert len(sound) == 8000
    assert np.abs(sound - stereo.mean(1))[200:-200].max() < (0.05 if suffix in ("ogg", "mp3") else 1e-4)
    assert dataset.record["sound"] == {"rates": [RATE], "resampled_from": []}


def test_a_sound_of_another_rate_is_resampled_and_that_is_said(tmp_path):
    path = written(tmp_path / "a.wav", rate=44_100)
    dataset = opened(path, of_shape("batch", "samples"), "speech")
    prepared = dataset.whole()
    sound = prepared.arrays["x"][0]
    assert len(sound) == 8000
    assert np.abs(sound - tone(RATE))[100:-100].max() < 1e-3
    note = "a.wav: 0.5 s of sound resampled from 44,100 to 16,000 samples a second, as 'speech' takes it"
    assert note in prepared.notes
    assert note in dataset.notes
    assert dataset.record["preset"] == prepared.record["preset"] == "speech"
    assert dataset.record["sound"] == {"rates": [RATE], "resampled_from": [44_100]}
    own = opened(path, of_shape("batch", "samples"), "none")
    assert own.whole().arrays["x"].shape == (1, 22_050)
    assert own.record["sound"] == {"rates": [44_100], "resampled_from": []}


@pytest.mark.parametrize(
    ("shape", "fed_shape", "name"),
    [
        (("batch", 80, "frames"), (80, 3000), "whisper"),
        (("batch", 80, 3000), (80, 3000), "whisper"),
        (("batch", 80, 800), (80, 800), "whisper"),
        (("batch", 128, "frames"), (128, 3000), "whisper-128"),
        (("batch", "frames", 80), (3000, 80), "whisper"),
        (("batch", "bands", "frames"), (80, 3000), "whisper"),
        (("batch", 1, 80, "frames"), (1, 80, 3000), "whisper"),
        (("batch", 80, "frames", 1), (80, 3000, 1), "whisper"),
        ((80, 3000), None, "whisper"),
    ],
)
def test_whisper_takes_the_place_that_the_shape_has(shape, fed_shape, name, tmp_path):
    path = written(tmp_path / "a.wav")
    dataset = opened(path, of_shape(*shape), "whisper")
    features = dataset.whole().arrays["x"]
    assert features.shape == ((80, 3000) if fed_shape is None else (1, *fed_shape))
    assert dataset.record["preset"] == "whisper"
    frames = max(features.shape)
    padded = np.zeros(160 * frames, np.float32)
    padded[:8000] = soundfile.read(path)[0]
    expected = log_mel(padded, SOUND_RECIPES[name])
    flat = features.reshape([dim for dim in features.shape if dim != 1])
    assert np.array_equal(flat if flat.shape[0] == frames else flat.T, expected)


def test_kaldis_frames_in_windows_of_the_models_length(tmp_path):
    path = written(tmp_path / "a.wav")
    expected = log_mel(soundfile.read(path, dtype="float32")[0], SOUND_RECIPES["kaldi"])
    assert np.array_equal(fed(path, of_shape("batch", "frames", 80), "kaldi")["x"][0], expected)
    assert np.array_equal(fed(path, of_shape("batch", "frames", "bands"), "kaldi")["x"][0], expected)
    windows = fed(path, of_shape("batch", 30, 80), "kaldi")["x"]
    assert windows.shape == (2, 30, 80)
    joined = windows.reshape(60, 80)
    assert np.array_equal(joined[:48], expected)
    assert (joined[48:] == 0).all()


def test_windows_with_context(tmp_path):
    path = written(tmp_path / "a.wav")
    sound = soundfile.read(path)[0]
    recipe = '{"features": "wave", "length": 576, "context": 64, "scale": 2}'
    windows = fed(path, of_shape("batch", "samples"), recipe)["x"]
    assert np.array_equal(windows, fed(path, of_shape("batch", 576), recipe)["x"])
    assert windows.shape == (16, 576)
    for index, window in enumerate(windows):
        start = 512 * index
        piece = 2 * sound[max(0, start - 64) : start + 512]
        assert np.allclose(window[64 - min(64, start) :][: len(piece)], piece, atol=1e-6)
    assert (windows[0, :64] == 0).all()
    assert fed(path, of_shape("batch", 1, 576), recipe)["x"].shape == (16, 1, 576)


def test_a_sound_is_cut_and_padded_at_either_end_and_standardized(tmp_path):
    path = written(tmp_path / "a.wav")
    sound = soundfile.read(path)[0]

    def row(shape=("batch", "samples"), **recipe):
        return fed(path, of_shape(*shape), json.dumps({"features": "wave", **recipe}))["x"][0]

    assert np.allclose(row(seconds=0.25), sound[:4000], atol=1e-6)
    assert np.allclose(row(seconds=0.25, pad="start"), sound[-4000:], atol=1e-6)
    assert np.allclose(row(seconds=1), np.pad(sound, (0, 8000)), atol=1e-6)
    assert np.allclose(row(seconds=1, pad="start"), np.pad(sound, (8000, 0)), atol=1e-6)
    assert np.allclose(row(("batch", 5000), seconds=30), sound[:5000], atol=1e-6)
    padded = np.pad(sound, (0, 8000))
    standard = row(seconds=1, standardize=True)
    assert np.allclose(standard, (padded - padded.mean()) / padded.std(), atol=1e-5)


def test_inputs_that_ask_for_the_rate_and_the_length_are_told(tmp_path):
    path = written(tmp_path / "a.wav", rate=8000)
    model = model_of(
        ("signal", TensorProto.FLOAT, ["batch", 80, "frames"]),
        ("length", TensorProto.INT64, ["batch"]),
        ("sample_rate", TensorProto.INT32, []),
    )
    arrays = fed(path, model, '{"rate": 16000, "edges": "zeros"}')
    assert arrays["signal"].shape == (1, 80, 51)
    assert arrays["length"].tolist() == [51]
    assert int(arrays["sample_rate"]) == RATE


def test_sounds_of_several_lengths_and_rates_are_samples(tmp_path):
    for name, rate, seconds in (("1.flac", 16_000, 0.3), ("2.wav", 8000, 0.3), ("3.wav", 16_000, 0.2)):
        written(tmp_path / name, tone(rate, seconds), rate)
    model = of_shape("batch", "frames", 80)
    stats = onnxscope.stats(model, tmp_path, preprocess="kaldi", select="value:out_x")
    arrays = [fed(str(tmp_path / name), model, "kaldi")["x"] for name in ("1.flac", "2.wav", "3.wav")]
    assert [array.shape for array in arrays] == [(1, 28, 80), (1, 28, 80), (1, 18, 80)]
    everything = np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float64)
    assert (stats.profile.samples, stats[0].overall.count) == (3, everything.size)
    assert stats[0].overall.mean == pytest.approx(everything.mean(), rel=1e-6)
    assert stats[0].overall.std == pytest.approx(everything.std(ddof=1), rel=1e-6)
    assert stats.profile.input["sound"] == {"rates": [16_000], "resampled_from": [8000]}
    assert stats.profile.input["preset"] == "kaldi"


def test_what_a_model_records_counts_and_a_recipe_for_images_does_not(tmp_path):
    path = written(tmp_path / "a.wav", rate=8000)
    specs = of_shape("batch", "samples").inputs
    by_recipe = {
        recorded: open_inputs(path, specs, RunOptions(), recorded_preset=recorded).record["sound"]["rates"]
        for recorded in ("speech", "imagenet", None, '{"features": "wave", "rate": 4000}')
    }
    assert list(by_recipe.values()) == [[16_000], [8000], [8000], [4000]]


def test_check_says_that_the_recipe_is_another(tmp_path):
    path = written(tmp_path / "a.wav", rate=8000)
    model = of_shape("batch", "samples")
    baseline = onnxscope.snapshot(model, path, preprocess="speech")
    assert onnxscope.check(model, baseline, path, preprocess="speech").verdict == "equal"
    with pytest.raises(InputError) as caught:
        onnxscope.check(model, baseline, path)
    assert "preset speech became none" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "recipe", "fault", "step"),
    [
        (("batch", 80, "n"), None, "no sound of 8,000 samples becomes float32 (batch, 80, n)", "--preprocess whisper"),
        (
            ("batch", 64, 300),
            "whisper",
            "80 bands of 'whisper' do not become float32 (batch, 64, 300)",
            '{"bands": 64}',
        ),
        (("batch", 3, 80, 300), "whisper", "80 bands of 'whisper' do not become", "`-i FILE.npy` feeds that"),
        (("batch", "n"), "imagenet", "the preset 'imagenet' is for images", "`--preprocess speech`, none"),
        (("batch", "n"), '{"size": 3}', "unknown key 'size' in a recipe for sounds", "its keys: name, rate"),
        (("n",), "whisper", "no features of a sound become float32 (n,)", "the model takes x float32 (n,)"),
    ],
)
def test_what_does_not_fit_is_told(shape, recipe, fault, step, tmp_path):
    path = written(tmp_path / "a.wav")
    with pytest.raises(InputError) as caught:
        fed(path, of_shape(*shape), recipe)
    assert str(caught.value).startswith(fault)
    assert step in caught.value.hint


def test_a_sound_shorter_than_a_window_is_told(tmp_path):
    path = written(tmp_path / "a.wav", tone(RATE, 0.02))
    with pytest.raises(InputError, match="a sound of 320 samples, less than one window of 'kaldi'"):
        fed(path, of_shape("batch", "n", 80), "kaldi")


def test_a_recipe_for_sounds_is_none_for_images_and_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 9), np.float32))
    dataset = opened(str(tmp_path / "a.npy"), of_shape("batch", 9), "whisper")
    assert "preset 'whisper' is ignored: presets are for images and sounds" in dataset.notes
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="the preset 'whisper' is for sounds, not for images"):
        opened(str(tmp_path / "a.png"), of_shape("batch", 3, 8, 8), "whisper")


def test_without_the_libraries_only_wav_at_its_rate_is_read(tmp_path, monkeypatch):
    flac, wav = written(tmp_path / "a.flac"), written(tmp_path / "a.wav", rate=8000)
    for library in ("soundfile", "soxr"):
        monkeypatch.setitem(sys.modules, library, None)
    model = of_shape("batch", "samples")
    with pytest.raises(InputError, match=r"\.flac is read by soundfile, which is not installed") as caught:
        fed(flac, model)
    assert "pip install 'onnxscope[sound]', or write it as .wav" in caught.value.hint
    with pytest.raises(InputError, match="8,000 samples a second has to be resampled to 16,000, and soxr") as caught:
        fed(wav, model, "speech")
    assert "pip install 'onnxscope[sound]'" in caught.value.hint
    assert fed(wav, model, '{"features": "wave", "rate": 8000}')["x"].shape == (1, 4000)


def test_files_from_strangers(tmp_path):
    whole = (written(tmp_path / "a.flac"), (tmp_path / "a.flac").read_bytes())[1]
    model = of_shape("batch", "samples")
    for content in (b"fLaC", whole[:60], b"OggS" + bytes(100), bytes(200)):
        (tmp_path / "b.flac").write_bytes(content)
        with pytest.raises(InputError, match="a sound"):
            fed(str(tmp_path / "b.flac"), model)
    # A header of 36 bits of samples: STREAMINFO counts them in the last half byte of 21 and the four bytes behind it.
    (tmp_path / "b.flac").write_bytes(whole[:21] + bytes([whole[21] | 15]) + b"\xff" * 4 + whole[26:])
    with pytest.raises(InputError, match="samples, more than the 268,435,456 that we read"):
        fed(str(tmp_path / "b.flac"), model)
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 2036, b"WAVE", b"fmt ", 16, 1, 1, 1, 2, 2, 16, b"data", 2000)
    path = tmp_path / "c.wav"
    path.write_bytes(header + bytes(2000))
    with pytest.raises(InputError, match="a sound of 1,000,000,000 samples, more than") as caught:
        fed(str(path), model, '{"features": "wave", "rate": 1000000}')
    assert "cut it into pieces" in caught.value.hint


def test_a_recipe_in_a_file_is_read_for_a_sound(tmp_path):
    (tmp_path / "mine.json").write_text('{"bands": 64, "rate": 8000, "log": "db"}')
    path = written(tmp_path / "a.wav", rate=8000)
    dataset = opened(path, of_shape("batch", 64, "n"), str(tmp_path / "mine.json"))
    recipe = SoundRecipe(name="mine", bands=64, rate=8000, log="db")
    assert load_sound_recipe(json.dumps(dataset.record["preset"])) == recipe
    expected = log_mel(soundfile.read(path, dtype="float32")[0], recipe)
    assert np.array_equal(dataset.whole().arrays["x"][0].T, expected)


def test_what_stands_beside_the_model_is_taken_and_said(tmp_path):
    path = written(tmp_path / "a.wav", rate=8000)
    (tmp_path / "onnx").mkdir()
    config = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "sampling_rate": 16000}
    config |= {"chunk_length": 2, "hop_length": 160, "n_fft": 400, "mel_filters": [[0.0] * 80] * 201, "other": None}
    for folder in (tmp_path, tmp_path / "onnx"):
        onnx.save(of_shape("batch", "bands", "frames").proto, folder / "m.onnx")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    for model in (tmp_path / "m.onnx", tmp_path / "onnx" / "m.onnx"):
        dataset = opened(path, onnxscope.load_model(model))
        assert dataset.whole().arrays["x"].shape == (1, 128, 200)
        assert dataset.record["sound"] == {"rates": [16_000], "resampled_from": [8000]}
        assert dataset.notes[0].endswith(
            "16,000 samples a second, as 'preprocessor_config.json' takes it, padded with silence to 2 s"
        )
    assert opened(path, onnxscope.load_model(tmp_path / "m.onnx"), "kaldi").record["preset"] == "kaldi"

    (tmp_path / "blobs").mkdir()  # a hub's cache keeps files apart, and links to them stand beside each other
    (tmp_path / "onnx" / "m.onnx").rename(tmp_path / "blobs" / "m.onnx")
    (tmp_path / "onnx" / "m.onnx").symlink_to(tmp_path / "blobs" / "m.onnx")
    assert opened(path, onnxscope.load_model(tmp_path / "onnx" / "m.onnx")).whole().arrays["x"].shape == (1, 128, 200)

    onnx.save(of_shape("batch", "samples").proto, tmp_path / "m.onnx")
    config = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "sampling_rate": 8000}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    sound = soundfile.read(path)[0]
    row = fed(path, onnxscope.load_model(tmp_path / "m.onnx"))["x"][0]
    assert np.allclose(row, (sound - sound.mean()) / sound.std(), atol=1e-5)

    for text, fault in (("{", "not JSON"), (json.dumps(config | {"do_normalize": 3}), "'standardize' is 3, not true")):
        (tmp_path / "preprocessor_config.json").write_text(text)
        with pytest.raises(InputError, match=f"{fault}.*: preprocessor_config.json, beside the model"):
            opened(path, onnxscope.load_model(tmp_path / "m.onnx"))
    (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "ViTFeatureExtractor"}')
    assert opened(path, onnxscope.load_model(tmp_path / "m.onnx")).record["preset"] is None


def test_more_sounds_than_memory_has_room_for_are_read_again(tmp_path, monkeypatch):
    for number in range(4):
        written(tmp_path / f"{number}.wav", tone(RATE, 0.2, 300 + 100 * number))
    model = of_shape("batch", 1600)
    plain = onnxscope.stats(model, tmp_path, select="value:out_x")
    monkeypatch.setattr("onnxscope.inputs.array_sets._KEPT_BYTES", 20_000)  # one of four
    dataset = opened(str(tmp_path), model)
    assert [bool(part.opened) for part in dataset.samples.parts] == [True, False, False, False]
    again = onnxscope.stats(model, tmp_path, select="value:out_x")
    assert again.profile.content == plain.profile.content
    assert again[0].overall == plain[0].overall
    assert not dataset.samples.parts[3].opened


@pytest.mark.parametrize(
    ("shape", "seconds", "said"),
    [
        (("batch", 80, "n"), 0.5, "padded with silence to 30 s"),
        (("batch", 80, 300), 0.5, "padded with silence to 3 s"),
        (("batch", 80, 300), 3.5, "cut to 3 s"),
        (("batch", 80, 300), 3.0, "as 'whisper' takes it"),
    ],
)
def test_what_a_sound_is_cut_or_padded_to_is_said(shape, seconds, said, tmp_path):
    path = written(tmp_path / "a.wav", tone(RATE, seconds))
    assert opened(path, of_shape(*shape), "whisper").notes[-1].endswith(said)
