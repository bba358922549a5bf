"""Random inputs: reproducible, valid for the model, refused where they cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from onnxscope.errors import InputError
from onnxscope.inputs.random_inputs import random_feeds
from onnxscope.model.stored_model import InputSpec


def shapes(*specs):
    return [array.shape for array in random_feeds([InputSpec(f"x{i}", *spec) for i, spec in enumerate(specs)]).values()]


def refusal(*arguments):
    with pytest.raises(InputError) as caught:
        random_feeds(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("float32", ("batch", 3, "h", "w"), (1, 3, 224, 224)),
        ("float32", (None, 3, None, 32), (1, 3, 224, 32)),
        ("float32", (None, None, None, 3), (1, 224, 224, 3)),
        ("float16", ("n", "c", "h", "w"), (1, 3, 224, 224)),
        ("uint8", ("n", "h", "w", 1), (1, 224, 224, 1)),
        ("float32", ("batch", 12, "past", 64), (1, 12, 8, 64)),
        ("int64", ("batch", "sequence"), (1, 8)),
        ("float32", ("batch", "sequence", 768), (1, 8, 768)),
        ("float32", (7, 0), (7, 0)),
        ("float32", (), ()),
    ],
)
def test_open_dimensions(dtype, shape, expected):
    assert shapes((dtype, shape)) == [expected]


def test_a_symbol_has_one_size():
    specs = [
        ("int64", ("batch", "s")),
        ("float32", ("s", "batch")),
        ("int64", ("batch", "past + s")),
        ("float32", ("batch", 12, "past", 64)),
        ("int64", ("batch", "past+4")),
        ("int64", ("batch", "elsewhere + 4")),
    ]
    assert shapes(*specs) == [(1, 1), (1, 1), (1, 9), (1, 12, 8, 64), (1, 12), (1, 8)]


def test_the_same_seed_gives_the_same_bytes():
    specs = [InputSpec("a", "float32", (2, 3)), InputSpec("b", "int64", (4,))]
    first, again, other = (random_feeds(specs, seed, {"b": (0, 10**6)}) for seed in (5, 5, 6))
    for name in ("a", "b"):
        assert first[name].tobytes() == again[name].tobytes() != other[name].tobytes()
        assert first[name].flags.c_contiguous


def test_floats_are_standard_normal():
    for dtype in ("float16", "float32", "float64", "bfloat16"):
        array = random_feeds([InputSpec("x", dtype, (100, 100))])["x"]
        assert array.dtype.name == dtype
        assert abs(array.astype(np.float64).mean()) < 0.05
        assert abs(array.astype(np.float64).std() - 1) < 0.05
    array = random_feeds([InputSpec("x", "complex64", (1000,))])["x"]
    assert array.dtype == np.complex64
    assert np.ptp(array.imag) > 3


def test_whole_numbers_keep_within_their_bounds():
    specs = [InputSpec("ids", "int32", (1000,)), InputSpec("plain", "int64", (1000,))]
    arrays = random_feeds(specs, 0, {"ids": (-3, 7)})
    assert (arrays["ids"].dtype, set(arrays["ids"].tolist())) == (np.int32, set(range(-3, 7)))
    assert set(arrays["plain"].tolist()) == {0, 1}
    wide = random_feeds([InputSpec("x", "uint8", (5000,))], 0, {"x": (250, 10**9)})["x"]
    assert set(wide.tolist()) == set(range(250, 256))
    wide = random_feeds([InputSpec("x", "uint64", (50,))], 0, {"x": (2**64 - 1, 2**64)})["x"]
    assert set(wide.tolist()) == {2**64 - 1}
    assert set(random_feeds([InputSpec("x", "int4", (50,))])["x"].astype(int).tolist()) == {0, 1}


def test_bytes_of_an_image_use_their_range():
    array = random_feeds([InputSpec("x", "uint8", (1, 3, 64, 64))])["x"]
    assert (array.min(), array.max()) == (0, 255)


def test_flags_are_both():
    assert set(random_feeds([InputSpec("x", "bool", (50,))])["x"].tolist()) == {False, True}


@pytest.mark.parametrize("dtype", ["int64", "bool", "float32"])
def test_masks_let_everything_through(dtype):
    for name in ("attention_mask", "mask", "model/Mask:0", "decoder.mask.1"):
        assert (random_feeds([InputSpec(name, dtype, (1, 9))])[name] == 1).all()
    assert not (random_feeds([InputSpec("masked_ids", dtype, (1, 50))])["masked_ids"] == 1).all()


def test_what_cannot_be_random():
    message, hint = refusal([InputSpec("x", "str", (1,))])
    assert message == "no random strings: input 'x'"
    assert hint is None
    message, hint = refusal([InputSpec("x", "float32", None)])
    assert message == "random input needs a rank, which the model does not declare: input 'x'"
    assert hint is None
    assert refusal([InputSpec("x", "sequence", (1,))])[0] == "no array can be fed to sequence: input 'x'"


def test_a_huge_input_is_refused_before_it_is_made():
    message, hint = refusal([InputSpec("x", "float32", ("n", 2**40, 2**40))])
    size = f"(1, {2**40}, {2**40})"
    assert message == f"random input {size} would need more than 4 GiB: input 'x' float32 (n, {2**40}, {2**40})"
    assert hint is None


@pytest.mark.parametrize(("dtype", "limits"), [("int64", (5, 5)), ("uint8", (-1, 5)), ("int8", (128, 300))])
def test_bounds_that_hold_nothing(dtype, limits):
    message, _ = refusal([InputSpec("x", dtype, (2,))], 0, {"x": limits})
    assert message == f"no {dtype} from {limits[0]} up to {limits[1]}, without it: input 'x'"
