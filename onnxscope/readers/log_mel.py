"""The spectrogram of a sound in mel bands, as voice models are fed it: computed in float64, on arrays alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxscope.readers.sound_recipes import SoundRecipe

__all__ = ["frame_count", "log_mel", "mel_bands", "prepared_wave", "samples_of_frames"]

Floats = NDArray[np.float64]

_BLOCK = 1 << 20  # numbers of windows that are transformed at a time
_TINY = 1e-5  # added to deviations that are divided by, as NeMo does
_LEAST_VARIANCE = 1e-7  # added to the variance that a sound is divided by the root of, as transformers does
_KNEE_HZ, _KNEE_MEL, _LOG_STEP = 1000.0, 15.0, math.log(6.4) / 27.0  # of Slaney's scale: linear, then logarithmic


def frame_count(samples: int, recipe: SoundRecipe) -> int:
    """Return how many frames a sound of so many samples has."""
    if recipe.edges == "snip":
        return max(0, 1 + (samples - recipe.window_length) // recipe.hop)
    return max(0, 1 + samples // recipe.hop - recipe.drop_last)


def samples_of_frames(frames: int, recipe: SoundRecipe) -> int:
    """Return the fewest samples of a sound that has so many frames, one or more."""
    if recipe.edges == "snip":
        return recipe.window_length + (frames - 1) * recipe.hop
    return max(1, (frames - 1 + recipe.drop_last) * recipe.hop)


def prepared_wave(sound: NDArray[Any], recipe: SoundRecipe) -> Floats:
    """Return a sound, of shape (samples,), as its recipe wants its samples; features scale them on their own."""
    wave = sound.astype(np.float64)
    if recipe.standardize:
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + _LEAST_VARIANCE)
    return wave * recipe.scale if recipe.features == "wave" else wave


def log_mel(sound: NDArray[Any], recipe: SoundRecipe) -> NDArray[np.float32]:
    """Return the energies of a sound in mel bands, scaled as the recipe says.

    Args:
        sound: From -1 to 1, at the recipe's rate, of shape (samples,).
        recipe: Of log-mel features.

    Returns:
        Shape (frames, bands).
    """
    wave = np.asarray(sound, np.float64) * recipe.scale
    count = frame_count(len(wave), recipe)
    energies = np.empty((count, recipe.bands))
    if not count:
        return energies.astype(np.float32)
    snip = recipe.edges == "snip"
    if not snip:
        wave = _emphasized(wave[None], recipe.pre_emphasis, first=0.0)[0]
        wave = np.pad(wave, recipe.n_fft // 2, mode="reflect" if recipe.edges == "reflect" else "constant")
    length = recipe.window_length if snip else recipe.n_fft
    window = _window(recipe)
    if not snip:
        before = (recipe.n_fft - recipe.window_length) // 2
        window = np.pad(window, (before, recipe.n_fft - recipe.window_length - before))
    windows = np.lib.stride_tricks.sliding_window_view(wave, length)[:: recipe.hop]
    filters = mel_bands(recipe)
    step = max(1, _BLOCK // recipe.n_fft)
    for start in range(0, count, step):
        block = windows[start : min(count, start + step)].copy()
        if recipe.remove_offset:
            block -= block.mean(axis=1, keepdims=True)
        if snip:
            block = _emphasized(block, recipe.pre_emphasis, first=recipe.pre_emphasis)
        spectrum = np.abs(np.fft.rfft(block * window, recipe.n_fft, axis=1)) ** recipe.power
        energies[start : start + len(block)] = spectrum @ filters.T
    return _scaled(energies, recipe).astype(np.float32)


def _scaled(energies: Floats, recipe: SoundRecipe) -> Floats:
    if recipe.log != "none":
        guarded = energies + recipe.floor if recipe.guard == "add" else np.maximum(energies, recipe.floor)
        energies = np.log(guarded) if recipe.log == "ln" else np.log10(guarded) * (10 if recipe.log == "db" else 1)
    if recipe.range is not None:
        energies = np.maximum(energies, energies.max() - recipe.range)
    energies = (energies - recipe.mean) / recipe.std
    if recipe.normalize == "bands":
        deviation = energies.std(axis=0, ddof=1) if len(energies) > 1 else np.zeros(recipe.bands)
        energies = (energies - energies.mean(axis=0)) / (deviation + _TINY)
    return energies


def mel_bands(recipe: SoundRecipe) -> Floats:
    """Return the weight of every frequency in every band, of shape (bands, n_fft / 2 + 1).

    The triangles are straight over hertz, as in librosa and torchaudio, or over mel, as in Kaldi; each reaches from
    the centre of the band below to that of the band above. With the norm "slaney" each has the area of 1.
    """
    rate = recipe.rate or 0  # a recipe of features has one
    bins: Floats = np.arange(recipe.n_fft // 2 + 1, dtype=np.float64) * (rate / recipe.n_fft)
    high = rate / 2 if recipe.high is None else recipe.high
    low_mel, high_mel = _to_mel(np.array([recipe.low, high]), recipe.mel)
    mels = np.linspace(low_mel, high_mel, recipe.bands + 2)
    edges_hz = _to_hz(mels, recipe.mel)
    places, edges = (bins, edges_hz) if recipe.triangles == "hz" else (_to_mel(bins, recipe.mel), mels)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights: Floats = np.maximum(
        0.0, np.minimum((places - left) / (centre - left), (right - places) / (right - centre))
    )
    if recipe.norm == "slaney":
        weights *= 2.0 / (edges_hz[2:] - edges_hz[:-2])[:, None]
    return weights


def _to_mel(hertz: Floats, scale: str) -> Floats:
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hertz / 700.0)
    linear = hertz * (_KNEE_MEL / _KNEE_HZ)
    return np.where(hertz < _KNEE_HZ, linear, _KNEE_MEL + np.log(np.maximum(hertz, 1.0) / _KNEE_HZ) / _LOG_STEP)


def _to_hz(mels: Floats, scale: str) -> Floats:
    if scale == "htk":
        return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    linear = mels * (_KNEE_HZ / _KNEE_MEL)
    return np.where(mels < _KNEE_MEL, linear, _KNEE_HZ * np.exp(_LOG_STEP * (mels - _KNEE_MEL)))


def _window(recipe: SoundRecipe) -> Floats:
    """The window's weights, of shape (window_length,)."""
    length = recipe.window_length
    turns = np.arange(length) * (2 * math.pi / max(1, length if recipe.periodic else length - 1))
    hann = 0.5 - 0.5 * np.cos(turns)
    windows: dict[str, Floats] = {
        "rectangular": np.ones(length),
        "hann": hann,
        "povey": hann**0.85,
        "hamming": 0.54 - 0.46 * np.cos(turns),
        "blackman": 0.42 - 0.5 * np.cos(turns) + 0.08 * np.cos(2 * turns),
    }
    return windows[recipe.window]


def _emphasized(rows: Floats, share: float, first: float) -> Floats:
    """Each row less a share of itself a sample before; of its first sample, less another share of that."""
    if not share:
        return rows
    emphasized = rows.copy()
    emphasized[:, 1:] -= share * rows[:, :-1]
    emphasized[:, 0] -= first * rows[:, 0]
    return emphasized
