"""Log-mel features against independent implementations: kaldi-native-fbank, and torch's own transform."""

from __future__ import annotations

from dataclasses import replace

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from onnxscope.readers.log_mel import frame_count, log_mel, mel_bands, samples_of_frames
from onnxscope.readers.sound_recipes import SOUND_RECIPES, SoundRecipe

RATE = 16_000
TIME = np.arange(12_345) / RATE
SWEEP = (0.4 * np.sin(2 * np.pi * (80 + 2500 * TIME) * TIME)).astype(np.float32)
SOUND = SWEEP + np.random.default_rng(5).normal(0, 0.01, len(SWEEP)).astype(np.float32)
KALDI = SOUND_RECIPES["kaldi"]


def kaldi(sound, **frames):
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    for key, value in frames.items():
        where = options.mel_opts if key in ("low_freq", "high_freq", "num_bins") else options.frame_opts
        setattr(where, key, value)
    options.mel_opts.num_bins = frames.get("num_bins", 80)
    return of_frames(kaldi_native_fbank.OnlineFbank(options), sound)


def of_frames(online, sound):
    online.accept_waveform(RATE, sound.tolist())
    online.input_finished()
    return np.array([online.get_frame(index) for index in range(online.num_frames_ready)])


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"bands": 40, "low": 60.0, "high": 7600.0}, {"num_bins": 40, "low_freq": 60, "high_freq": 7600}),
        ({"window": "hamming", "hop": 200}, {"window_type": "hamming", "frame_shift_ms": 12.5}),
        ({"window": "hann", "pre_emphasis": 0.0}, {"window_type": "hanning", "preemph_coeff": 0}),
        (
            {"window": "blackman", "window_length": 800, "n_fft": 1024},
            {"window_type": "blackman", "frame_length_ms": 50},
        ),
        ({"window": "rectangular", "remove_offset": False}, {"window_type": "rectangular", "remove_dc_offset": False}),
    ],
)
def test_kaldi(changes, options):
    recipe = replace(KALDI, **changes)
    features = log_mel(SOUND, recipe)
    expected = kaldi(SOUND * 32768, **options)
    assert features.dtype == np.float32
    assert features.shape == expected.shape == (frame_count(len(SOUND), recipe), recipe.bands)
    assert np.abs(features - expected).max() < 2e-3


def test_silence_is_kaldis_least_energy():
    silence = np.zeros(1000, np.float32)
    assert np.allclose(log_mel(silence, KALDI), kaldi(silence), atol=1e-6)


@pytest.mark.parametrize("bands", [80, 128])
def test_whispers_bands_are_those_of_another_implementation(bands):
    options = kaldi_native_fbank.WhisperFeatureOptions(dim=bands)
    energies = of_frames(kaldi_native_fbank.OnlineWhisperFbank(options), SOUND)  # without the logarithm
    plain = {"log": "none", "range": None, "mean": 0.0, "std": 1.0, "edges": "snip", "drop_last": False}
    features = log_mel(SOUND[40:], replace(SOUND_RECIPES["whisper"], bands=bands, **plain))
    # Its window of 400 stands around the middle of 160 samples, so that of frame 1 begins at sample 40.
    assert len(features) > 70
    assert np.allclose(features, energies[1 : 1 + len(features)], rtol=1e-3, atol=1e-5)


def by_torch(sound, bands):
    """As Whisper's own log_mel_spectrogram does, with torch's transform; the bands alone are ours."""
    padded = torch.nn.functional.pad(torch.from_numpy(sound).double(), (0, 30 * RATE - len(sound)))
    window = torch.hann_window(400, dtype=torch.float64)
    spectrum = torch.stft(padded, 400, 160, window=window, return_complex=True)[..., :-1].abs() ** 2
    energies = torch.from_numpy(mel_bands(SOUND_RECIPES["whisper" if bands == 80 else "whisper-128"])) @ spectrum
    logarithms = energies.clamp(min=1e-10).log10()
    return ((torch.maximum(logarithms, logarithms.max() - 8.0) + 4.0) / 4.0).numpy()


@pytest.mark.parametrize(("name", "bands"), [("whisper", 80), ("whisper-128", 128)])
def test_whisper(name, bands):
    recipe = SOUND_RECIPES[name]
    padded = np.concatenate([SOUND, np.zeros(30 * RATE - len(SOUND), np.float32)])
    features = log_mel(padded, recipe)
    assert features.shape == (3000, bands)
    assert np.abs(features.T - by_torch(SOUND, bands)).max() < 1e-6


def test_centred_frames_of_a_longer_transform_padded_with_zeros_are_torchs():
    recipe = SoundRecipe(
        n_fft=512, window_length=320, window="hamming", periodic=False, edges="zeros", power=1, hop=128
    )
    window = torch.hamming_window(320, periodic=False, dtype=torch.float64)
    spectrum = torch.stft(
        torch.from_numpy(SOUND).double(), 512, 128, 320, window=window, pad_mode="constant", return_complex=True
    ).abs()
    expected = (torch.from_numpy(mel_bands(recipe)) @ spectrum).clamp(min=1e-10).log10().T.numpy()
    features = log_mel(SOUND, recipe)
    assert features.shape == expected.shape == (frame_count(len(SOUND), recipe), 80)
    assert np.abs(features - expected).max() < 1e-6
    decibels = log_mel(SOUND, replace(recipe, log="db"))
    assert np.allclose(decibels, 10 * expected, atol=1e-4)


def test_emphasis_of_the_whole_sound_and_a_floor_that_is_added():
    online = kaldi_native_fbank.OnlineNemoFbank(kaldi_native_fbank.NemoFbankOptions())
    online.accept_waveform(RATE, SOUND.tolist())
    online.input_finished()
    expected = np.array(online.get_frames(0, online.num_frames_ready)[0]).reshape(-1, 80)
    recipe = SoundRecipe(
        n_fft=512, periodic=False, edges="zeros", pre_emphasis=0.97, log="ln", floor=2.0**-24, guard="add"
    )
    features = log_mel(SOUND, recipe)
    assert np.abs(features[: len(expected)] - expected)[:-1].max() < 2e-3
    standard = log_mel(SOUND, replace(recipe, normalize="bands"))
    deviations = features - features.mean(axis=0, dtype=np.float64)
    assert np.allclose(standard, deviations / features.std(axis=0, ddof=1, dtype=np.float64), atol=1e-3)


@pytest.mark.parametrize("recipe", [KALDI, SOUND_RECIPES["whisper"], SoundRecipe(), SoundRecipe(edges="zeros", hop=7)])
@pytest.mark.parametrize("frames", [1, 2, 75])
def test_so_many_frames_need_so_many_samples(recipe, frames):
    samples = samples_of_frames(frames, recipe)
    assert frame_count(samples, recipe) == frames
    assert log_mel(SOUND[:samples], recipe).shape == (frames, recipe.bands)
    if samples > 1:
        assert frame_count(samples - 1, recipe) == frames - 1


def test_a_sound_shorter_than_a_window():
    assert log_mel(SOUND[:100], KALDI).shape == (0, 80)
    assert np.isfinite(log_mel(SOUND[:100], SoundRecipe(normalize="bands"))).all()
