"""`make fuzz`: bytes that nobody has thought of, given to everything that reads a stranger's file.

Each target reads what it is given, or refuses it with one of our errors, and what it has read is what an independent
reader finds there. atheris guides the bytes by the code that they reach; where it is not installed, hypothesis draws
them. Bytes that break a target are printed, and go into `REGRESSIONS` of tests/whole/test_fuzz.py once it is mended.

    python tests/fuzz.py [TARGET...] [--seconds S] [--seed N] [--with atheris|hypothesis]
"""

from __future__ import annotations

import argparse
import atexit
import base64
import contextlib
import copy
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

HAS_ATHERIS = importlib.util.find_spec("atheris") is not None
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
DIGITS, IMAGES = FIXTURES / "digits.onnx", FIXTURES / "digits.npz"
MAX_BYTES = 4096
SLOW_S = 20  # for one input
ODD = (
    *(None, True, False, -1, 0, 1, 7, 1 << 31, 1 << 63, -(1 << 63), 10**30, 0.5, -0.0, 1e308, 5e-324),
    *(
        "",
        "x",
        "NaN",
        "x" * 300,
        "\0",
        "\x1b[31m",
        "::error::x",
        "../x",
        "conv",
        [],
        {},
        [[[[]]]],
        {"name": "x"},
        [0, 1],
    ),
)


class Choices:
    """Decisions that bytes make; when they are used up, always the first."""

    def __init__(self, data: bytes) -> None:
        """Begin with the first byte."""
        self._data, self._place = data, 0

    def __bool__(self) -> bool:
        """Whether there are bytes left."""
        return self._place < len(self._data)

    def below(self, count: int) -> int:
        """A number from 0 to `count` - 1."""
        size = 1 if count <= 256 else 2
        self._place += size
        return int.from_bytes(self._data[self._place - size : self._place], "little") % max(count, 1)

    def one_of(self, choices: Any) -> Any:
        """One of several."""
        return choices[self.below(len(choices))]

    def rest(self) -> bytes:
        """All bytes that are left."""
        start, self._place = self._place, len(self._data)
        return self._data[start:]


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a document of JSON, with each of its keys."""
    keys = document.keys() if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from places(document[key])


def edited_json(document: Any, choices: Choices) -> str:
    """A document with other values in some places."""
    changed = copy.deepcopy(document)
    while choices:
        container, key = choices.one_of(list(places(changed)) or [([0], 0)])
        action = choices.below(4)
        if action == 0:
            container[key] = copy.deepcopy(choices.one_of(ODD))
        elif action == 1:
            del container[key]
        elif action == 2:
            other, name = choices.one_of(list(places(changed)) or [([0], 0)])
            container[key] = copy.deepcopy(other[name])
        elif isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        else:
            container[choices.one_of(("x", "", "name", "schema"))] = container[key]
    return json.dumps(changed)


def fields_of(message: Any) -> Iterator[tuple[Any, Any]]:
    """Every message of a protobuf, with each of its fields."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type is not None and is_set(message, field):
            value = getattr(message, field.name)
            for one in value if is_repeated(message, field) else (value,):
                yield from fields_of(one)


def is_repeated(message: Any, field: Any) -> bool:
    """Whether a field holds any number of values."""
    return hasattr(getattr(message, field.name), "MergeFrom") and hasattr(getattr(message, field.name), "__len__")


def is_set(message: Any, field: Any) -> bool:
    """Whether a field holds something."""
    return bool(getattr(message, field.name)) if is_repeated(message, field) else message.HasField(field.name)


NUMBERS = (0, 1, 2, 3, 7, 9, 16, 17, 23, -1, -2, 127, 255, 1 << 20, 1 << 31, (1 << 63) - 1, -(1 << 63))
WORDS = ("", "image", "kernel", "features", "scores", "Conv", "Loop", "If", "Constant", "x", "\0", "ai.onnx.ml", "l")


def edit_message(message: Any, field: Any, choices: Choices) -> None:
    """Change one field of a protobuf."""
    value = getattr(message, field.name)
    if field.message_type is not None:
        if not is_repeated(message, field):
            if choices.below(2):
                message.ClearField(field.name)
            else:
                value.SetInParent()
        elif len(value) and choices.below(3):
            value.add().CopyFrom(choices.one_of(value))
        elif len(value):
            del value[choices.below(len(value))]
        else:
            value.add()
        return
    kind = type(field.default_value) if not is_repeated(message, field) else None
    new: Any = None
    if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT64, field.CPPTYPE_UINT32):
        new = choices.one_of(NUMBERS)
    elif field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        new = choices.one_of((0.0, 1.0, -1e30, float("nan"), float("inf")))
    elif field.cpp_type == field.CPPTYPE_ENUM:
        new = choices.one_of(field.enum_type.values).number
    elif field.type == field.TYPE_BYTES:
        new = bytes(choices.below(9))
    else:
        new = choices.one_of(WORDS)
    try:
        if kind is not None:
            setattr(message, field.name, new)
        elif len(value) and choices.below(3):
            value[choices.below(len(value))] = new
        elif len(value) and choices.below(2):
            del value[choices.below(len(value))]
        else:
            value.append(new)
    except (ValueError, TypeError):  # a number that is none of this type
        message.ClearField(field.name)


# ---- what reads


def written(content: bytes, name: str) -> Path:
    """A file with this content, in a folder of this process."""
    path = Path(scratch()) / name
    path.write_bytes(content)
    return path


@cache
def scratch() -> str:
    """A folder of this process."""
    folder = tempfile.mkdtemp(prefix="onnxscope-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def read_wire(data: bytes) -> None:
    """What the scanner leaves of a file, with what it leaves in the file, is what protobuf reads there."""
    import onnx
    from onnx import numpy_helper

    from onnxscope.errors import ModelError
    from onnxscope.model.loading import load_model

    try:
        model = load_model(written(data, "wire.onnx"))
    except ModelError:
        return
    whole = onnx.ModelProto.FromString(data)
    stored = {tensor.name: tensor for tensor in whole.graph.initializer}
    for tensor in model.proto.graph.initializer:
        if tensor.data_type in (1, 6, 7, 9, 11) and not stored[tensor.name].external_data:
            ours, theirs = model.array(tensor), numpy_helper.to_array(stored[tensor.name])
            assert ours.tobytes() == theirs.tobytes(), tensor.name


def load_edited(data: bytes) -> None:
    """A model with other fields is loaded, and can be looked into, or refused."""
    from whole.test_hostile import whole_network

    from onnxscope.errors import ModelError, SelectorError
    from onnxscope.model.loading import load_model
    from onnxscope.selection.selectors import select_taps

    choices = Choices(data)
    proto = whole_network()
    while choices:
        edit_message(*choices.one_of(list(fields_of(proto))), choices)
    try:
        model = load_model(proto)
    except ModelError:
        return
    for graph in model.graphs.values():
        for tensor in graph.initializers.values():
            assert model.array(tensor).shape == tuple(tensor.dims)
    values = sum(len(node.outputs) for graph in model.graphs.values() for node in graph.nodes) + len(model.inputs)
    with contextlib.suppress(SelectorError):  # there may be no values at all
        assert 0 < len({tap.name for tap in select_taps(model, ["value:*"])}) <= values
    assert all(parameter.name for parameter in model.parameters)


@cache
def digits() -> Any:
    """A model that is there."""
    from onnxscope.model.loading import load_model

    return load_model(DIGITS)


def select(data: bytes) -> None:
    """A selector finds values of the model, or none by name."""
    from onnxscope.errors import SelectorError
    from onnxscope.selection.selectors import select_layers, select_taps

    selectors = data.decode("utf-8", errors="replace").split("\n")
    for choose in (select_taps, select_layers):
        try:
            assert choose(digits(), selectors)
        except SelectorError as error:
            if len(str(error)) > 1000:
                raise AssertionError(len(str(error))) from error


@cache
def documents() -> dict[str, Any]:
    """A record of every kind, as it is written."""
    import onnxscope
    from onnxscope.readers.sound_recipes import SOUND_RECIPES

    onnxscope.stats(DIGITS, IMAGES, limit=4).profile.save(f"{scratch()}/profile.json")
    onnxscope.snapshot(DIGITS).save(f"{scratch()}/baseline.json")
    profile, baseline = (
        json.loads(Path(scratch(), f"{kind}.json").read_text(encoding="utf-8")) for kind in ("profile", "baseline")
    )
    recipe = {"name": "mine", "resize": "crop", "size": 8, "shorter_side": 9, "filter": "bilinear", "order": "BGR"}
    recipe |= {"divisor": 255, "mean": [0.5, 0.4, 0.3], "std": 0.5}
    sound = {**SOUND_RECIPES["whisper"].to_dict(), "hop": 16, "seconds": 0.1}
    return {"profile": profile, "baseline": baseline, "recipe": recipe, "sound_recipe": sound}


def record(kind: str, data: bytes) -> str:
    """The text of a record: an edited one, or where the first byte says so, any."""
    choices = Choices(data)
    if choices.below(8) == 0:
        return choices.rest().decode("utf-8", errors="replace")
    return edited_json(documents()[kind], choices)


def read_profile(data: bytes) -> None:
    """A profile that is read can be merged, shown and written again."""
    from onnxscope.errors import MergeError, ProfileError
    from onnxscope.profiling.profile import Profile

    try:
        profile = Profile.load(written(record("profile", data).encode(), "p.json"))
    except ProfileError:
        return
    with contextlib.suppress(MergeError):
        profile.merge(profile)
    profile.save(f"{scratch()}/profile.json", force=True)
    assert Profile.load(f"{scratch()}/profile.json").to_dict() == profile.to_dict()


def read_baseline(data: bytes) -> None:
    """A baseline that is read can be written again, and a model be checked against it."""
    from onnxscope.errors import OnnxscopeError
    from onnxscope.gate.baseline import Baseline
    from onnxscope.gate.checking import check

    path = written(record("baseline", data).encode(), "b.json")
    try:
        baseline = Baseline.load(path)
    except OnnxscopeError:
        return
    baseline.save(f"{scratch()}/baseline.json", force=True)
    assert Baseline.load(f"{scratch()}/baseline.json").to_dict() == baseline.to_dict()
    with contextlib.suppress(OnnxscopeError):
        check(digits(), path).to_dict()


def read_arrays(data: bytes) -> None:
    """An array that is read is the one that numpy reads."""
    import warnings

    import numpy as np

    from onnxscope.errors import InputError
    from onnxscope.readers.npy import map_npy, map_npz, read_npy, read_npz

    path = written(data, "x.npy")
    found = []
    for read in (read_npy, map_npy, lambda *given: read_npz(*given, every), lambda *given: map_npz(*given, every)):
        with open(path, "rb") as stream:
            try:
                found.append(read(stream, "x"))
            except InputError:
                found.append(None)
    assert (found[0] is None) == (found[1] is None)
    for ours, mapped in (found[:2], found[2:]):
        if ours is None:
            continue  # what is mapped is not compared with what the archive's directory and checksums say
        assert mapped is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # numpy's `load` takes for an archive only what begins like one.
            load = np.lib.npyio.NpzFile if isinstance(ours, dict) else np.load
            theirs = load(io.BytesIO(data), allow_pickle=False)
        for name, array in ours.items() if isinstance(ours, dict) else [("", ours)]:
            other = theirs[name] if isinstance(ours, dict) else theirs
            assert array.shape == other.shape
            assert array.dtype == other.dtype
            assert array.tobytes() == other.tobytes() == (mapped[name] if name else mapped).tobytes()


def every(names: list[str]) -> dict[str, str]:
    """All arrays of an archive."""
    return {name: name for name in names}


def read_preset(data: bytes) -> None:
    """A recipe that is read can prepare a picture, or says why not."""
    import numpy as np
    from PIL import Image

    from onnxscope.errors import InputError
    from onnxscope.inputs.presets import load_preset

    text = record("recipe", data)
    try:
        preset = load_preset(written(text.encode(), "r.json"))
    except InputError:
        return
    try:
        array = preset.apply(Image.new("RGB", (9, 7), (9, 99, 200)), 8, None, np.dtype("float32"))
    except InputError:
        return
    assert array.size < 1 << 28


def read_sound_recipe(data: bytes) -> None:
    """A recipe that is read can prepare a sound, or says why not."""
    import numpy as np

    from onnxscope.errors import InputError
    from onnxscope.readers.log_mel import frame_count, log_mel
    from onnxscope.readers.sound_recipes import load_sound_recipe

    text = record("sound_recipe", data)
    try:
        recipe = load_sound_recipe(written(text.encode(), "r.json"))
    except InputError:
        return
    assert load_sound_recipe(json.dumps(recipe.to_dict())) == recipe
    if recipe.features == "log_mel":
        with np.errstate(all="ignore"):
            features = log_mel(np.linspace(-1, 1, 700, dtype=np.float32), recipe)
        assert features.shape == (frame_count(700, recipe), recipe.bands)


def read_sounds(data: bytes) -> None:
    """A sound that is read is as long as its header says, and lies in one row."""
    import numpy as np

    from onnxscope.errors import InputError
    from onnxscope.readers.sounds import read_sound, sound_size

    with np.errstate(all="ignore"), open(written(data, "x.wav"), "rb") as stream:
        try:
            size, rate = sound_size(stream, "x.wav")
        except InputError:
            return
        stream.seek(0)
        sound, read_rate = read_sound(stream, "x.wav")
    assert (sound.shape, sound.dtype, read_rate) == ((size,), np.dtype("float32"), rate)


def read_toml(data: bytes) -> None:
    """Settings are read, or refused."""
    from onnxscope.errors import InputError
    from onnxscope.gate.settings import read_settings

    with contextlib.suppress(InputError):
        read_settings(written(data, "s.toml"))


_AT_A_TIME = 4
TARGETS: dict[str, Callable[[bytes], None]] = {
    "wire": read_wire,
    "loader": load_edited,
    "selectors": select,
    "profile": read_profile,
    "baseline": read_baseline,
    "npy": read_arrays,
    "presets": read_preset,
    "sound recipes": read_sound_recipe,
    "sounds": read_sounds,
    "settings": read_toml,
}


# ---- what drives them


def run_target(name: str, seconds: float, seed: int, engine: str) -> None:
    """Feed one target in this process until the time is over; does not return where something breaks it."""
    if engine == "hypothesis":
        draw(TARGETS[name], seeds(name), seconds, seed)
        return
    import atheris

    corpus = Path(scratch()) / "corpus"
    corpus.mkdir()
    for index, data in enumerate(seeds(name)):
        (corpus / str(index)).write_bytes(data)
    limits = [
        f"-seed={seed}",
        f"-max_total_time={seconds:g}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={SLOW_S}",
        "-rss_limit_mb=4096",
    ]
    place = os.environ.get("FUZZ_FOUND", os.getcwd())
    atheris.Setup(["fuzz", *limits, "-print_final_stats=1", f"-artifact_prefix={place}/", str(corpus)], TARGETS[name])
    atheris.Fuzz()


def draw(target: Callable[[bytes], None], corpus: list[bytes], seconds: float, first_seed: int) -> None:
    """Let hypothesis draw bytes, and put them into those of a corpus; it makes small what breaks the target."""
    from hypothesis import HealthCheck, given, seed, settings
    from hypothesis import strategies as st

    def spliced(start: bytes, place: int, count: int, new: bytes) -> bytes:
        return start[:place] + new + start[place + count :]

    places = st.integers(0, max(map(len, corpus)))
    inputs = st.builds(spliced, st.sampled_from([b"", *corpus]), places, st.integers(0, 9), st.binary(max_size=64))
    end_s = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end_s:

        @seed(first_seed + rounds)
        @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(inputs)
        def feed(data: bytes) -> None:
            target(data)

        feed()
        rounds += 1
    print(f"stat::number_of_executed_units: {200 * rounds}", file=sys.stderr)


def seeds(name: str) -> list[bytes]:
    """What a target begins with."""
    import numpy as np
    import soundfile

    if name == "wire":
        from whole.test_hostile import network, whole_network

        return [network().SerializeToString(), whole_network().SerializeToString()]
    if name == "selectors":
        return [b"conv*", b"!fc1\n*", b"op:Conv", b"value:*", b"node:x", b"rank:4", b"re:c.*1", b"module.[ab]?"]
    if name == "npy":
        files = []
        for save in (np.save, np.savez, np.savez_compressed):
            for array in (np.arange(6, dtype=np.float32).reshape(2, 3), np.array(True), np.zeros((0, 3), ">i2", "F")):
                stream = io.BytesIO()
                save(stream, array)
                files.append(stream.getvalue())
        return files
    if name == "sounds":
        sounds = []
        for subtype in ("PCM_16", "PCM_24", "FLOAT", "PCM_U8"):
            stream = io.BytesIO()
            soundfile.write(stream, np.zeros((5, 2)), 8000, subtype=subtype, format="WAV")
            sounds.append(stream.getvalue())
        return sounds
    if name == "settings":
        return [b"[tool.onnxscope]\nrtol = 1e-3\n", b'[[tool.onnxscope.checks]]\nmodel = "m.onnx"\nselect = ["*"]\n']
    return [b"", *(bytes([1, place, action, value]) for place in range(8) for action in range(4) for value in (0, 9))]


def report_of(name: str, seconds: float, seed: int, engine: str) -> tuple[bool, str]:
    """Feed a target in another process: whether it held, and what to say of it."""
    in_memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    # The engine ends its process without a farewell, so its temporary files are removed here.
    with tempfile.TemporaryDirectory(dir=in_memory) as found, tempfile.TemporaryDirectory(dir=in_memory) as temporary:
        command = [sys.executable, __file__, name, "--seconds", str(seconds), "--seed", str(seed)]
        command += ["--with", engine, "--here"]
        environment = {**os.environ, "FUZZ_FOUND": found, "TMPDIR": temporary}
        environment["PYTHONHASHSEED"] = "0"  # so that a seed is one way
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
        inputs = [base64.b85encode(path.read_bytes()).decode() for path in Path(found).iterdir()]
    count = done.stderr.partition("stat::number_of_executed_units:")[2].split()
    if done.returncode == 0 and not inputs and count:
        return True, f"{name}: {int(count[0]):,} inputs, nothing found"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(("#", "INFO", "stat::"))]
    return False, "\n  ".join(
        [f"{name}: exit code {done.returncode}", *lines[-40:], *(f"b85: {one}" for one in inputs)]
    )


def run() -> int:
    """Read the arguments, and feed the targets, a few at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=float, default=60, help="for each")
    parser.add_argument("--seed", type=int, default=1, help="another one takes another way")
    parser.add_argument("--with", dest="engine", choices=("atheris", "hypothesis"))
    parser.add_argument("--here", action="store_true", help="in this process")
    given = parser.parse_args()
    engine = given.engine or ("atheris" if HAS_ATHERIS else "hypothesis")
    names = given.targets or list(TARGETS)
    if given.here:
        run_target(names[0], given.seconds, given.seed, engine)
        return 0
    held = True
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for well, words in pool.map(lambda name: report_of(name, given.seconds, given.seed, engine), names):
            print(words, flush=True)
            held &= well
    return 0 if held else 1


def watched() -> Any:
    """The context in which what is imported tells atheris which of its lines are reached."""
    if not HAS_ATHERIS or "--here" not in sys.argv or "hypothesis" in sys.argv:
        return contextlib.nullcontext()
    import atheris

    return atheris.instrument_imports(include=["onnxscope"])


if __name__ == "__main__":
    with watched():
        pass
    sys.exit(run())
