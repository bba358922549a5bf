"""How a sound becomes a model's input: at the rate that is wanted, as samples in windows or as log-mel features."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.shapes import spec_text
from onnxscope.base.text import as_typed, printable
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import element_type, only_input
from onnxscope.inputs.presets import PRESETS, Preset, load_preset
from onnxscope.inputs.sources import NamedFiles, is_sound, open_input
from onnxscope.inputs.teaching import also
from onnxscope.readers.log_mel import frame_count, log_mel, prepared_wave, samples_of_frames
from onnxscope.readers.sound_recipes import (
    SOUND_RECIPES,
    SoundRecipe,
    load_sound_recipe,
    recorded_sound_recipe,
    sound_recipe_beside,
)
from onnxscope.readers.sounds import read_sound, resample, sound_size
from onnxscope.readers.ways_said import first_said
from onnxscope.selection.input_roles import counts_what_is_fed

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = [
    "describe_sounds",
    "fed_rate",
    "full",
    "hear",
    "load_recipe",
    "recipe_of_sounds",
    "refuse_other_rate",
    "sound_record",
    "tells_rate",
]

Array = NDArray[Any]

_RATE = re.compile(r"(?:^|[^a-z])(?:sr|fs|rate|sample_?rate|sampling_?rate)$")
_TIME = re.compile(r"frame|time|seq|length|^t$")
_SHORTEST = 64  # samples of a sound: an input of fewer numbers takes something else
_MOST_NUMBERS = 1 << 28  # of one sound's features
_A_SECOND = 16_000
_MOST_BANDS = 1024


def load_recipe(given: str | os.PathLike[str]) -> Preset | SoundRecipe:
    """Return a recipe for images or for sounds, whichever it is; what may be both is for images.

    Raises:
        InputError: It is neither.
    """
    try:
        return load_preset(given)
    except InputError as error:
        with contextlib.suppress(InputError):
            return load_sound_recipe(given)
        raise error from None


def recipe_of_sounds(
    paths: Sequence[str],
    given: str | os.PathLike[str] | None,
    recorded: str | None,
    specs: Sequence[InputSpec] = (),
) -> SoundRecipe | None:
    """Return how sounds among files become numbers.

    Args:
        paths: All files that are read.
        given: A recipe's name, path or JSON.
        recorded: What the model records: a name or JSON, never a path. One for images is ignored.
        specs: The model's inputs: where it records none, what stands beside its file counts.

    Returns:
        None where no file is a sound, or nobody says how.

    Raises:
        InputError: What is given is no recipe for sounds.
    """
    if not any(map(is_sound, paths)):
        return None
    model = next((spec.model for spec in specs if spec.model is not None), None)
    recipe, _ = first_said(
        None if given is None else lambda: _asked_recipe(given, specs),
        None if recorded is None else lambda: recorded_sound_recipe(recorded),
        lambda: sound_recipe_beside(None if model is None else model.path),
    )
    return recipe


def _asked_recipe(given: str | os.PathLike[str], specs: Sequence[InputSpec]) -> SoundRecipe:
    nearest = _nearest_recipe(specs, given if isinstance(given, str) else "")
    try:
        return load_sound_recipe(given, hint=nearest)
    except InputError as error:
        if isinstance(given, str) and given in PRESETS:
            fault = f"the preset {given!r} is for images, not for sounds"
            raise InputError(fault, hint=error.hint) from error
        raise error if error.hint else also(error, nearest) from None


@dataclass(frozen=True)
class _Places:
    """Where a sound goes in an input.

    Attributes:
        spec: The input.
        axis: Of its samples, or of its frames.
        bands_axis: Of its bands, None for a wave.
    """

    spec: InputSpec
    axis: int
    bands_axis: int | None

    @property
    def size(self) -> int | None:
        """The model's own number of samples or frames, None where it is open."""
        return _fixed(self.spec.shape or (), self.axis)


def hear(path: str, specs: Sequence[InputSpec], recipe: SoundRecipe | None) -> dict[str, Array]:
    """Read a sound and make it one input's numbers; inputs that ask for its rate or its length are told.

    Without a recipe it keeps its own rate, and its samples are fed: one row, or windows of the model's length. With
    one the module `readers.sound_recipes` says what happens.

    Returns:
        By input, new arrays of its type; windows lie along axis 0.

    Raises:
        InputError: It cannot be read, or does not become any input.
    """
    where = printable(path)
    with open_input(path) as stream:
        sound, rate = read_sound(stream, where)
    recipe = recipe or SOUND_RECIPES["none"]
    told = [spec for spec in specs if _tells(spec) and len(specs) > 1]
    spec = only_input([spec for spec in specs if spec not in told], where)
    recipe = recipe.for_sizes({dim for dim in spec.shape or () if isinstance(dim, int)})
    if recipe.rate is not None:
        sound, rate = resample(sound, rate, recipe.rate, where), recipe.rate
    given = len(sound)
    if recipe.features == "log_mel":
        places = _places_of_features(spec, recipe, where)
        rows, heard = _features(sound, recipe, places, where)
    else:
        places = _places_of_wave(spec, given, recipe, where)
        rows, heard = _pieces(sound, rate, recipe, places)
    fed = {spec.name: rows.astype(element_type(spec))}
    for asked in told:
        number = rate if _RATE.search(asked.name.lower()) else heard
        sizes = dict.fromkeys((dim for dim in asked.shape or () if isinstance(dim, str)), len(rows))
        fed[asked.name] = full(asked, str(number), sizes)
    return fed


def describe_sounds(paths: Sequence[str], recipe: SoundRecipe | None, specs: Sequence[InputSpec]) -> list[str]:
    """Return a note on each sound: how long it is, at what rate it is fed, and whether it is cut or padded."""
    notes = []
    taken = None if recipe is None else _seconds_taken(recipe, specs)
    for path in paths:
        samples, rate = _size(path)
        wanted = rate if recipe is None or recipe.rate is None else recipe.rate
        if recipe is None:
            how = f"at its own rate of {rate:,} samples a second"
        elif wanted == rate:
            how = f"at {rate:,} samples a second, as {recipe.name!r} takes it"
        else:
            how = f"resampled from {rate:,} to {wanted:,} samples a second, as {recipe.name!r} takes it"
        if taken is not None and round(samples / rate - taken, 3):
            how += f", {'cut' if samples / rate > taken else 'padded with silence'} to {taken:.3g} s"
        notes.append(f"{printable(os.path.basename(path))}: {samples / rate:.3g} s of sound {how}")
    return notes


def _seconds_taken(recipe: SoundRecipe, specs: Sequence[InputSpec]) -> float | None:
    """To how many seconds every sound is cut or padded, None where it is not."""
    heard = [spec for spec in specs if not _tells(spec)]
    if recipe.seconds is None or recipe.rate is None or len(heard) != 1:
        return None
    recipe = recipe.for_sizes({dim for dim in heard[0].shape or () if isinstance(dim, int)})
    if recipe.features == "wave":
        size = _places_of_wave(heard[0], _A_SECOND, recipe, "").size
        return recipe.seconds if size is None else size / (recipe.rate or 1)
    size = _places_of_features(heard[0], recipe, "").size
    return recipe.seconds if size is None else samples_of_frames(size, recipe) / (recipe.rate or 1)


def refuse_other_rate(files: NamedFiles, recipe: SoundRecipe | None) -> None:
    """Hold the rate that an input is told to that of the sound which another one is fed.

    Raises:
        InputError: They differ.
    """
    rates = [name for name in files.paths if tells_rate(name) and files.number(name) is not None]
    sounds = [(name, path) for name, path in files.paths.items() if files.number(name) is None and is_sound(path)]
    for name, (heard, path) in itertools.product(rates, sounds):
        rate = fed_rate(path, recipe)
        if files.number(name) != rate:
            own = [as_typed(f"{key}={rate if key == name else value}") for key, value in files.paths.items()]
            raise InputError(
                f"the sound for {heard!r} has {rate:,} samples a second, and {name!r} is told {files.paths[name]}: "
                f"{printable(path)}",
                hint=f"`{' '.join(f'-i {word}' for word in own)}` tells its own",
            )


def fed_rate(path: str, recipe: SoundRecipe | None) -> int:
    """Return the rate at which a sound is fed, in samples a second."""
    return _size(path)[1] if recipe is None or recipe.rate is None else recipe.rate


def tells_rate(name: str) -> bool:
    """Return whether an input is called as those that are told the rate of a sound."""
    return bool(_RATE.search(name.lower()))


def sound_record(paths: Sequence[str], recipe: SoundRecipe | None) -> dict[str, Any]:
    """Return what the `input` of results says of sounds: the rates that are fed, and those that were resampled."""
    rates = sorted({_size(path)[1] for path in paths})
    if recipe is None or recipe.rate is None:
        return {"rates": rates, "resampled_from": []}
    return {"rates": [recipe.rate], "resampled_from": [rate for rate in rates if rate != recipe.rate]}


def full(spec: InputSpec, written: str, sizes: Mapping[str, int]) -> Array:
    """Return an input that is one number throughout, a rate for example; what nobody knows of its shape is 1.

    Raises:
        InputError: It takes no such number.
    """
    dtype = element_type(spec)
    number = float(written)
    if dtype.kind in "iu" and (number != int(number) or not np.iinfo(dtype).min <= number <= np.iinfo(dtype).max):
        raise InputError(f"input {spec.name!r} takes {spec.dtype}, not {written}")
    if dtype.kind == "U":
        raise InputError(f"input {spec.name!r} takes strings, not {written}")
    shape = [dim if isinstance(dim, int) else sizes.get(dim or "", 1) for dim in spec.shape or ()]
    return np.full(shape, number).astype(dtype)


def _size(path: str) -> tuple[int, int]:
    with open_input(path) as stream:
        return sound_size(stream, printable(path))


def _tells(spec: InputSpec) -> bool:
    """Whether an input asks for the rate of a sound, or for its length."""
    name = spec.name.lower()
    return len(spec.shape or ()) < 2 and bool(_RATE.search(name) or counts_what_is_fed(name))


def _fixed(shape: Sequence[int | str | None], axis: int) -> int | None:
    dim = shape[axis]
    return dim if isinstance(dim, int) else None


def _places_of_wave(spec: InputSpec, samples: int, recipe: SoundRecipe, where: str) -> _Places:
    """Where samples go: the only axis, the second, or of three the one beside a single channel."""
    shape = spec.shape or ()
    axis = {1: 0, 2: 1, 3: 1 if shape[-1:] == (1,) else 2}.get(len(shape))
    if axis is not None and element_type(spec).kind == "f":
        one_channel = len(shape) < 3 or _fixed(shape, 3 - axis) in (None, 1)
        wanted = _fixed(shape, axis) or recipe.length or _SHORTEST
        if one_channel and wanted >= _SHORTEST > samples:
            raise InputError(f"a sound of {samples:,} samples is none; from {_SHORTEST} on they count: {where}")
        if one_channel and min(wanted, samples) >= _SHORTEST:
            return _Places(spec, axis, None)
    raise InputError(
        f"no sound of {samples:,} samples becomes {spec_text(spec)}: input {spec.name!r}: {where}",
        hint=_nearest_recipe([spec]) if where else None,
    )


def _nearest_recipe(specs: Sequence[InputSpec], asked: str = "") -> str | None:
    """The recipes that fit a model, for a hint: first the one that is called most like what was asked for."""
    specs = [spec for spec in specs if not _tells(spec)]
    if len(specs) != 1:
        return None

    def fits(recipe: SoundRecipe) -> bool:
        try:
            if recipe.features == "wave":
                _places_of_wave(specs[0], _A_SECOND, recipe, "")
            else:
                _places_of_features(specs[0], recipe, "")
        except InputError:
            return False
        return True

    names = [name for name, recipe in SOUND_RECIPES.items() if fits(recipe)]
    if len(specs[0].shape or ()) < 3:  # samples rather than features of one sound
        names.sort(key=lambda name: SOUND_RECIPES[name].features, reverse=True)
    if names:
        first = (difflib.get_close_matches(asked, names, n=1) or names)[0]
        others = "".join(f", {name}" for name in names if name != first)
        return f"`--preprocess {first}`{others}, or a recipe in a JSON file"
    bands = [dim for dim in (specs[0].shape or ())[-3:] if isinstance(dim, int) and 8 < dim <= _MOST_BANDS]
    bands = [dim for dim in bands if fits(replace(SOUND_RECIPES["whisper"], bands=dim))]
    return f"""`--preprocess '{{"bands": {bands[0]}}}'` is a recipe for it""" if bands else None


def _pieces(sound: Array, rate: int, recipe: SoundRecipe, places: _Places) -> tuple[Array, int]:
    """A sound in one row or in windows, and how many of its samples each has."""
    shape = places.spec.shape or ()
    size = places.size or recipe.length
    if recipe.seconds is not None:
        size = places.size or round(recipe.seconds * rate)
        sound = _cut(sound, size, recipe)
    if len(shape) == 1:
        heard = size or len(sound)
        return prepared_wave(_cut(sound, heard, recipe), recipe), heard
    sound = prepared_wave(sound, recipe)
    length = size or len(sound)
    context = recipe.context if recipe.context < length else 0
    step = length - context
    count = max(1, -(-len(sound) // step)) if recipe.seconds is None else 1
    padded = np.zeros(context + count * step, np.float64)
    padded[context : context + len(sound)] = sound[: count * step]
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)[::step]
    return np.expand_dims(windows, 3 - places.axis) if len(shape) == 3 else windows, length


def _places_of_features(spec: InputSpec, recipe: SoundRecipe, where: str) -> _Places:
    """Where bands and frames go: the last two axes, or those before a single channel."""
    shape = spec.shape or ()
    last = len(shape) - 1
    if len(shape) == 4 and shape[-1] == 1 and shape[1] != 1:
        last -= 1
    if element_type(spec).kind != "f" or not 2 <= len(shape) <= 4:
        raise InputError(f"no features of a sound become {spec_text(spec)}: input {spec.name!r}: {where}")
    ways = [(last - 1, last), (last, last - 1)]  # bands and frames
    sized = [way for way in ways if shape[way[0]] == recipe.bands]
    open_ways = [way for way in ways if _may_be_bands(shape[way[0]])]
    fitting = sized if len(sized) == 1 else ways if sized else open_ways
    others = [axis for axis in range(1, len(shape)) if axis not in ways[0]]
    if not fitting or any(_fixed(shape, axis) not in (None, 1) for axis in others):
        raise InputError(
            f"{recipe.bands} bands of {recipe.name!r} do not become {spec_text(spec)}: input {spec.name!r}: {where}",
            hint=_nearest_recipe([spec]) if where else None,
        )
    preferred = ways[0] if recipe.axes == "bands_first" else ways[1]
    bands_axis, axis = preferred if preferred in fitting else fitting[0]
    return _Places(spec, axis, bands_axis)


def _may_be_bands(dim: int | str | None) -> bool:
    """Whether a dimension is open, and not called as what goes on in time."""
    return not isinstance(dim, int) and not _TIME.search((dim or "").lower())


def _features(sound: Array, recipe: SoundRecipe, places: _Places, where: str) -> tuple[Array, int]:
    """A sound's log-mel features, all or in windows of the model's frames, and how many frames each has."""
    size = places.size
    rate = recipe.rate or 0
    if recipe.seconds is not None:
        wanted = round(recipe.seconds * rate) if size is None else samples_of_frames(size, recipe)
        sound = _cut(sound, wanted, recipe)
    count = frame_count(len(sound), recipe)
    if not count:
        raise InputError(f"a sound of {len(sound):,} samples, less than one window of {recipe.name!r}: {where}")
    if count * max(recipe.bands, recipe.n_fft // 64) > _MOST_NUMBERS:
        raise InputError(f"{count:,} frames of {recipe.bands} bands are too many: {where}", hint="take a longer `hop`")
    features: Array = log_mel(prepared_wave(sound, recipe), recipe)
    size = size or count
    windows = -(-count // size)
    padded = np.zeros((windows * size, recipe.bands), np.float32)
    padded[:count] = features
    rows = padded.reshape(windows, size, recipe.bands)
    shape = places.spec.shape or ()
    if places.bands_axis is not None and places.bands_axis < places.axis:
        rows = rows.transpose(0, 2, 1)
    if len(shape) == 4:
        rows = np.expand_dims(rows, 1 if max(places.axis, places.bands_axis or 0) == 3 else 3)
    return rows[0] if len(shape) == 2 else rows, size


def _cut(sound: Array, samples: int, recipe: SoundRecipe) -> Array:
    """A sound cut or padded with zeros, at its end or at its start."""
    missing = max(0, samples - len(sound))
    if recipe.pad == "start":
        return np.concatenate([np.zeros(missing, sound.dtype), sound[max(0, len(sound) - samples) :]])
    return np.concatenate([sound[:samples], np.zeros(missing, sound.dtype)])
