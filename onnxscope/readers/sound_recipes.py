"""Recipes that turn a sound into a model's numbers: the named ones, and others read from JSON.

A recipe in JSON is one object. Every key may be left out, and none other is allowed:

    {
      "name": "mine",            shown in results; default: the file's stem, or "custom"
      "rate": 16000,             samples a second: a sound of another rate is resampled; null for its own, not with
                                 "log_mel"; default 16000
      "features": "log_mel",     or "wave", the samples themselves; default "log_mel"
      "scale": 1,                every sample, from -1 to 1, is multiplied by it; default 1
      "standardize": false,      whether a sound is first given mean 0 and variance 1; default false
      "seconds": null,           a sound is cut or padded with zeros to so many, or to what the model's own size is
                                 where that is fixed; null for the whole sound; default null
      "pad": "end",              or "start": where that is padded, and cut; default "end"
      "length": null,            only with "wave": samples of a piece where the model leaves it open; null for all
      "context": 0,              only with "wave": samples of the piece before that each piece begins with
      "axes": "bands_first",     or "frames_first", where the model's sizes do not tell; default "bands_first"
      "window": "hann",          or "hamming", "povey", "blackman", "rectangular"; default "hann"
      "periodic": true,          whether the window's last sample would be the first of the next; default true
      "window_length": 400, "hop": 160, "n_fft": 400,      in samples; these are the defaults
      "edges": "reflect",        or "zeros": frames are centred and the sound is padded so by half of `n_fft` at both
                                 ends, or "snip": only whole windows count; default "reflect"
      "drop_last": false,        whether the last frame is left out, not with "snip"; default false
      "remove_offset": false,    whether each window's mean is subtracted; default false
      "pre_emphasis": 0,         of the sample before, subtracted: in each window with "snip", else in the whole sound
      "power": 2,                of the spectrum's magnitude, 1 or 2; default 2
      "bands": 80, "low": 0,     how many, and from how many hertz
      "high": null,              to how many hertz, null for half of the rate; default null
      "mel": "slaney",           or "htk"; default "slaney"
      "triangles": "hz",         or "mel": over what a band's sides are straight; default "hz"
      "norm": "slaney",          or "none"; default "slaney"
      "log": "log10",            or "ln", "db", "none"; default "log10"
      "floor": 1e-10,            least energy, or what is added to it with "guard": "add"; default 1e-10
      "guard": "clamp",          or "add"; default "clamp"
      "range": null,             how far below the largest number all others may lie, null for any; default null
      "mean": 0, "std": 1,       then subtracted, then divided by
      "normalize": "none"        or "bands": each band less its mean, over its sample deviation; default "none"
    }
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from onnxscope.base.files import open_regular
from onnxscope.base.json_files import parse_json
from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.readers.ways_said import file_beside

__all__ = ["SOUND_RECIPES", "SoundRecipe", "load_sound_recipe", "recorded_sound_recipe", "sound_recipe_beside"]

Features = Literal["log_mel", "wave"]
Side = Literal["end", "start"]
Axes = Literal["bands_first", "frames_first"]
Window = Literal["hann", "hamming", "povey", "blackman", "rectangular"]
Edges = Literal["reflect", "zeros", "snip"]

_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "features": get_args(Features),
    "pad": get_args(Side),
    "axes": get_args(Axes),
    "window": get_args(Window),
    "edges": get_args(Edges),
    "power": (1, 2),
    "mel": ("slaney", "htk"),
    "triangles": ("hz", "mel"),
    "norm": ("slaney", "none"),
    "log": ("log10", "ln", "db", "none"),
    "guard": ("clamp", "add"),
    "normalize": ("none", "bands"),
}
_WHOLE = {
    "rate": (1, 1 << 20),
    "length": (1, 1 << 24),
    "context": (0, 1 << 16),
    "window_length": (2, 1 << 16),
    "hop": (1, 1 << 16),
    "n_fft": (2, 1 << 16),
    "bands": (1, 1024),
}
_NUMBERS = {
    "scale": (1e-9, 1e9),
    "seconds": (1e-3, 3600.0),
    "pre_emphasis": (0.0, 1.0),
    "low": (0.0, 1e6),
    "high": (1.0, 1e6),
    "floor": (1e-30, 1e9),
    "range": (0.0, 1e9),
    "mean": (-1e9, 1e9),
    "std": (1e-9, 1e9),
}
_FLAGS = frozenset({"standardize", "periodic", "drop_last", "remove_offset"})
_MAY_BE_NULL = frozenset({"rate", "seconds", "length", "high", "range"})
_OF_BOTH = frozenset({"name", "rate", "features", "scale", "standardize", "seconds", "pad"})
_OF_WAVES = frozenset({"length", "context"})
_MAX_RECIPE_BYTES = 65_536
_EXTRACTOR = "preprocessor_config.json"
_MAX_EXTRACTOR_BYTES = 4 << 20  # Whisper's may hold all weights of its bands
_OF_WHISPER = {"feature_size": "bands", "sampling_rate": "rate", "hop_length": "hop", "n_fft": "n_fft"}


@dataclass(frozen=True, kw_only=True)
class SoundRecipe:
    """How a sound becomes numbers; the module's description says what each step does.

    Attributes:
        rate: In samples a second, None for the sound's own.
        seconds: To which a sound is cut or padded.
        length: Of a piece of a wave, in samples.
        context: In samples.
        low: In hertz.
        high: In hertz, None for half of the rate.
    """

    name: str = "custom"
    rate: int | None = 16_000
    features: Features = "log_mel"
    scale: float = 1.0
    standardize: bool = False
    seconds: float | None = None
    pad: Side = "end"
    length: int | None = None
    context: int = 0
    axes: Axes = "bands_first"
    window: Window = "hann"
    periodic: bool = True
    window_length: int = 400
    hop: int = 160
    n_fft: int = 400
    edges: Edges = "reflect"
    drop_last: bool = False
    remove_offset: bool = False
    pre_emphasis: float = 0.0
    power: int = 2
    bands: int = 80
    low: float = 0.0
    high: float | None = None
    mel: Literal["slaney", "htk"] = "slaney"
    triangles: Literal["hz", "mel"] = "hz"
    norm: Literal["slaney", "none"] = "slaney"
    log: Literal["log10", "ln", "db", "none"] = "log10"
    floor: float = 1e-10
    guard: Literal["clamp", "add"] = "clamp"
    range: float | None = None
    mean: float = 0.0
    std: float = 1.0
    normalize: Literal["none", "bands"] = "none"

    @property
    def record(self) -> str | dict[str, Any]:
        """What results record: the name of one of ours, else the whole recipe."""
        return self.name if self == SOUND_RECIPES.get(self.name) else self.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as `load_sound_recipe` reads it."""
        keys = [field.name for field in fields(self)]
        if self.features == "wave":
            keys = [key for key in keys if key in _OF_BOTH | _OF_WAVES]
        else:
            keys = [key for key in keys if key not in _OF_WAVES]
        return {key: getattr(self, key) for key in keys}

    def for_sizes(self, sizes: set[int]) -> SoundRecipe:
        """The recipe for a model with axes of these fixed sizes: of Whisper's two, the one whose bands it takes."""
        if self == SOUND_RECIPES["whisper"] and self.bands not in sizes and SOUND_RECIPES["whisper-128"].bands in sizes:
            return SOUND_RECIPES["whisper-128"]
        return self


_WHISPER = SoundRecipe(name="whisper", seconds=30.0, drop_last=True, range=8.0, mean=-4.0, std=4.0)

SOUND_RECIPES: Mapping[str, SoundRecipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            _WHISPER,
            replace(_WHISPER, name="whisper-128", bands=128),
            SoundRecipe(
                name="kaldi",
                scale=32768.0,
                axes="frames_first",
                window="povey",
                periodic=False,
                n_fft=512,
                edges="snip",
                remove_offset=True,
                pre_emphasis=0.97,
                low=20.0,
                mel="htk",
                triangles="mel",
                norm="none",
                log="ln",
                floor=2.0**-23,
            ),
            SoundRecipe(name="speech", features="wave"),
            SoundRecipe(name="none", features="wave", rate=None),
        )
    }
)


def load_sound_recipe(
    given: str | os.PathLike[str] | SoundRecipe, *, files: bool = True, hint: str | None = None
) -> SoundRecipe:
    """Return a recipe by its name, or read one (see the module's docstring) from JSON.

    Args:
        given: A name, the path of a JSON file, the JSON text itself, or a recipe, which is returned as it is.
        files: Whether a path may be followed; not for a name that a model recorded.
        hint: What to do where it is none; the names of all by default.

    Raises:
        InputError: Neither a known name nor a file, or not a recipe for sounds.
    """
    if isinstance(given, SoundRecipe):
        return given
    text = os.fsdecode(given)
    if text in SOUND_RECIPES:
        return SOUND_RECIPES[text]
    if text.lstrip().startswith("{"):
        return _parse(text, "the recipe", "custom")
    hint = hint or f"for a sound one of {', '.join(SOUND_RECIPES)}, or a JSON file with a recipe"
    if not files or not (text.lower().endswith(".json") or os.path.lexists(text)):
        raise InputError(f"unknown preset {text[:60]!r}", hint=hint)
    where = printable(text)
    with open_regular(text, limit_bytes=_MAX_RECIPE_BYTES, hint=hint) as stream:
        try:
            content = stream.read(_MAX_RECIPE_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"not a recipe in JSON (no UTF-8 text): {where}") from error
    return _parse(content, where, os.path.splitext(os.path.basename(text))[0][:60])


def recorded_sound_recipe(recorded: str) -> SoundRecipe | None:
    """Return the recipe that a model records, by its name or in JSON, never as a path; None of one for images."""
    try:
        return load_sound_recipe(recorded, files=False)
    except InputError:
        return None


def sound_recipe_beside(model: Path | None) -> SoundRecipe | None:
    """Return the steps that `preprocessor_config.json` beside a model's file says, None where there are none of sounds.

    Whisper's feature extractor is read, and Wav2Vec2's, which takes the samples themselves.

    Args:
        model: The model's file. In a folder that is called `onnx` the folder above counts too, as on model hubs.

    Raises:
        InputError: It is there and cannot be read, or asks for what no recipe has.
    """
    where = f"{_EXTRACTOR}, beside the model"
    path = file_beside(None if model is None else model.parent, _EXTRACTOR)
    if path is None:
        return None
    with open_regular(str(path), limit_bytes=_MAX_EXTRACTOR_BYTES) as stream:
        content = stream.read(_MAX_EXTRACTOR_BYTES)
    try:
        config = parse_json(content)
    except ValueError as error:
        raise InputError(f"not JSON: {where}", hint="name a recipe with `--preprocess`") from error
    kind = config.get("feature_extractor_type") if isinstance(config, dict) else None
    if kind == "WhisperFeatureExtractor":
        keys = {ours: config[theirs] for theirs, ours in _OF_WHISPER.items() if theirs in config}
        keys |= {"window_length": keys["n_fft"]} if "n_fft" in keys else {}
        keys |= {"seconds": config["chunk_length"]} if "chunk_length" in config else {}
        base = SOUND_RECIPES["whisper"]
    elif kind == "Wav2Vec2FeatureExtractor":
        keys = {"rate": config["sampling_rate"]} if "sampling_rate" in config else {}
        keys |= {"standardize": config["do_normalize"]} if "do_normalize" in config else {}
        base = SOUND_RECIPES["speech"]
    else:
        return None
    recipe = replace(base, name=_EXTRACTOR, **{key: _read(key, value, where) for key, value in keys.items()})
    _check(recipe, where)
    return recipe


def _parse(text: str, where: str, name: str) -> SoundRecipe:
    try:
        record = parse_json(text)
    except ValueError as error:
        raise InputError(f"not a recipe in JSON ({printable(str(error))[:80]}): {where}") from error
    if not isinstance(record, dict):
        raise InputError(f"not a recipe in JSON (no object): {where}")
    keys = [field.name for field in fields(SoundRecipe)]
    for key in record:
        if key not in keys:
            raise InputError(
                f"unknown key {key[:60]!r} in a recipe for sounds: {where}", hint=f"its keys: {', '.join(keys)}"
            )
    recipe = SoundRecipe(**{"name": name, **{key: _read(key, value, where) for key, value in record.items()}})
    other = frozenset(keys) - _OF_BOTH - _OF_WAVES if recipe.features == "wave" else _OF_WAVES
    misplaced = next((key for key in record if key in other), None)
    if misplaced is not None:
        raise InputError(f'{misplaced!r} with "features": "{recipe.features}" in a recipe: {where}')
    _check(recipe, where)
    return recipe


def _check(recipe: SoundRecipe, where: str) -> None:
    """Refuse what each key may be, and all together not."""
    if recipe.features == "wave":
        if recipe.length is not None and recipe.context >= recipe.length:
            raise InputError(
                f"'context' {recipe.context} leaves nothing of 'length' {recipe.length} in a recipe: {where}"
            )
        return
    if recipe.rate is None:
        raise InputError(f'\'rate\' is null with "features": "log_mel" in a recipe: {where}')
    if recipe.window_length > recipe.n_fft:
        raise InputError(
            f"'window_length' {recipe.window_length} is more than 'n_fft' {recipe.n_fft} in a recipe: {where}"
        )
    high = recipe.rate / 2 if recipe.high is None else recipe.high
    if not recipe.low < high <= recipe.rate / 2:
        raise InputError(
            f"bands from {recipe.low:g} to {high:g} hertz are none of {recipe.rate:,} samples a second in a recipe: "
            f"{where}"
        )
    if recipe.drop_last and recipe.edges == "snip":
        raise InputError(f'\'drop_last\' with "edges": "snip" in a recipe: {where}')


def _read(key: str, value: Any, where: str) -> Any:
    if value is None and key in _MAY_BE_NULL:
        return None
    if key == "name":
        if not isinstance(value, str) or not value.strip() or len(value) > 60:
            raise _wrong(key, value, "a text of 1 to 60 characters", where)
        return value
    if key in _CHOICES:
        if isinstance(value, bool | list | dict) or value not in _CHOICES[key]:
            raise _wrong(key, value, f"one of {', '.join(map(str, _CHOICES[key]))}", where)
        return value
    if key in _FLAGS:
        if not isinstance(value, bool):
            raise _wrong(key, value, "true or false", where)
        return value
    low, high = (_WHOLE.get(key) or _NUMBERS[key])[:2]
    whole = key in _WHOLE
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not (math.isfinite(value) and low <= value <= high):
        raise _wrong(key, value, f"a {'whole ' if whole else ''}number from {low:g} to {high:g}", where)
    return value if whole else float(value)


def _wrong(key: str, value: Any, wanted: str, where: str) -> InputError:
    shown = printable(json.dumps(value))
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return InputError(f"{key!r} is {shown}, not {wanted}: {where}")
