"""Whatever keyword of a public function holds another type than it may, an error of ours says so in a line."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxscope
from onnxscope.errors import InputError, OnnxscopeError

MODEL = onnx.parser.parse_model("""
    <ir_version: 9, opset_import: ["": 17]>
    g (float[b, 3] x) => (float[b, 3] y) { h = Relu(x)  y = Neg(h) }""")
FUNCTIONS = {name: getattr(onnxscope, name) for name in onnxscope.__all__}
FUNCTIONS = {name: function for name, function in FUNCTIONS.items() if inspect.isfunction(function)}

NUMBERS, TEXTS, LISTS = (3, 2.5, np.float32(2.5)), ("three", b"three"), ([1, 2], {"a": 1}, object())
WRONG = {
    "int": (2.5, None, True, *TEXTS, *LISTS),
    "int | None": (2.5, False, *TEXTS, *LISTS),
    "float": (None, True, *TEXTS, *LISTS),
    "float | None": (True, *TEXTS, *LISTS),
    "bool": (None, *NUMBERS, *TEXTS, *LISTS),
    "str": (None, True, *NUMBERS, b"three", *LISTS),
    "str | None": (True, *NUMBERS, b"three", *LISTS),
    "str | Sequence[str]": (None, True, *NUMBERS, b"three", *LISTS),
    "str | os.PathLike[str]": (None, True, *NUMBERS, b"three", *LISTS),
    "str | os.PathLike[str] | None": (True, *NUMBERS, b"three", *LISTS),
    "str | Path": (None, True, *NUMBERS, b"three", *LISTS),
    "Mapping[str, int] | None": (3, "three", [1], {1: 1}, object()),
    "Mapping[str, Any] | None": (3, "three", [1], {1: 1}, object()),
    "Callable[[str], None] | None": (3, "three"),
    "Callable[[int, int], None] | None": (3, "three"),
    "Literal['svg', 'png']": (None, 3, b"svg", ["svg"]),
    "Literal['dynamo', 'legacy'] | None": (3, b"legacy", ["legacy"]),
    **dict.fromkeys(
        ("Align", "At", "Method", "Mode", "OnError", "Of", "Rank", "RangeRule"), (None, 3, b"all", ["all"])
    ),
    **dict.fromkeys(("Method | None", "Optimization | None", "Scheme | None"), (3, b"all", ["all"])),
}
# What functions look at by themselves: anything else than they take, as the last test gives it to them.
BY_THEMSELVES = {
    "Any",
    "Unpack[FeedingOptions]",
    "Callable[..., _Result]",
    "CustomOps",
    "GivenShapes",
    "Replacements | None",
}
BY_THEMSELVES |= {"Settings | None", "Baseline | str | os.PathLike[str]", "Profile | str | os.PathLike[str] | None"}
BY_THEMSELVES |= {"str | os.PathLike[str] | Profile | None", "str | os.PathLike[str] | Preset | None", "FeatureMaps"}
BY_THEMSELVES |= {"WeightStatistics", "Model", "FeatureMaps | DatasetStatistics | None", "WeightStatistics | None"}
BY_THEMSELVES |= {"Comparison | None", "Source"}
KEYWORDS = [
    (name, each.name, each.annotation)
    for name, function in FUNCTIONS.items()
    for each in inspect.signature(function).parameters.values()
]


def test_every_annotation_of_a_public_function_is_known_here():
    assert {annotation for _, _, annotation in KEYWORDS} == WRONG.keys() | BY_THEMSELVES


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_keyword_of_another_type_is_told_before_anything_is_done(name):
    for _, keyword, annotation in (row for row in KEYWORDS if row[0] == name):
        for wrong in WRONG.get(annotation, ()):
            with pytest.raises(InputError, match=rf"^{keyword} is .*, not ") as caught:
                FUNCTIONS[name](**{keyword: wrong})
            assert len(str(caught.value)) < 160


def test_what_is_given_in_its_place_is_held_to_its_type_too():
    with pytest.raises(InputError, match=r"^framework is 3, not a text$"):
        onnxscope.convert(3, "net.py:make", "m.onnx")
    with pytest.raises(InputError, match=r"^path is 3, not a name, or the path of a file$"):
        onnxscope.convert("torch", "net.py:make", 3)
    with pytest.raises(InputError, match=r"^select is 3, not a text, or several$"):
        onnxscope.inspect(MODEL, select=3)


def test_numbers_and_switches_of_numpy_are_taken():
    data = np.ones((2, 3), np.float32)
    found = onnxscope.stats(MODEL, data, select="h", batch_size=np.int64(1), exact=np.bool_(True), limit=np.uint8(1))
    assert found.profile.samples == 1


RUN = FUNCTIONS | {"inspect": functools.partial(onnxscope.inspect, time=True)}
FED = [name for name, keyword, _ in KEYWORDS if keyword == "feeding"]
FEEDING = {
    "preprocess": (3, b"unit", ["unit"]),
    "layout": (3, b"nchw", ["nchw"]),
    "size": (2.5, b"3", [3, 4], True),
    "batch_axis": (2.5, b"0", [0], {1: 0}, {"x": "0"}),
    "samples": (2.5, "3", [3], True),
    "length": (2.5, b"3", [3], True),
    "recipe": (3, b"a.json", ["a.json"]),
    "state": (3, b"auto", ["auto"], {1: "x"}, {"y": 1}),
    "generate": (2.5, "3", [3], True),
    "step": (2.5, "3", [3], True),
    "tokenizer": (3, b"a.json", ["a.json"]),
    "mask": (3, b"x", [3], {"x": 1}),
    "provider": (3, b"cpu", ["cpu"]),
}


def given(name: str, folder: Path) -> tuple[object, ...]:
    """What a function needs first."""
    data = np.ones((2, 3), np.float32)
    if name == "check":
        onnxscope.snapshot(MODEL).save(folder / "b.json")
        return MODEL, folder / "b.json", data
    return (MODEL, MODEL, data) if name in ("diff", "explain", "restoration") else (MODEL, data)


@pytest.mark.parametrize("name", FED)
def test_an_option_of_feeding_of_another_type_is_told_by_every_function(name, tmp_path):
    arguments = given(name, tmp_path)
    for option, values in FEEDING.items():
        for wrong in values:
            with pytest.raises(InputError):
                RUN[name](*arguments, **{option: wrong})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_function_looks_at_by_itself_ends_in_an_error_of_ours(name, tmp_path):
    wrong = {"CustomOps": 3, "GivenShapes": 3, "Replacements | None": 3}
    first = {"convert": ("torch", "net.py:make", "m.onnx"), "load_model": (MODEL,), "watch": (object(),)}
    first["save_weights"] = (onnxscope.weights(MODEL), onnxscope.load_model(MODEL), tmp_path)
    first |= {"save_features": (None, tmp_path), "write_node_data": (tmp_path, MODEL)}
    for _, keyword, annotation in (row for row in KEYWORDS if row[0] == name):
        value = wrong.get(annotation, object())
        if annotation not in BY_THEMSELVES or keyword in ("feeding", "function", "arguments", "options"):
            continue
        arguments = dict(
            zip(inspect.signature(FUNCTIONS[name]).parameters, first.get(name) or given(name, tmp_path), strict=False)
        )
        with pytest.raises(OnnxscopeError):
            RUN[name](**{**arguments, keyword: value})
