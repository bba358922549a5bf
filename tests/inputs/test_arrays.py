"""Arrays against what a model declares; foreign tensors; statistics of what is fed."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from onnxscope.errors import InputError
from onnxscope.inputs.arrays import describe_array, element_type, fit_array, match_names, to_array
from onnxscope.model.stored_model import InputSpec

IMAGE = InputSpec("x", "float32", ("batch", 3, 8, 10))


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


def fit(array, spec):
    found, notes = fit_array(array, spec, "f.npy")
    assert found.flags.c_contiguous
    assert found.dtype.isnative
    return found, notes


def test_what_fits_passes_unchanged():
    array = np.arange(480, dtype=np.float32).reshape(2, 3, 8, 10)
    found, notes = fit(array, IMAGE)
    np.testing.assert_array_equal(found, array)
    assert notes == []


def test_byte_and_memory_order_are_put_right():
    array = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    found, notes = fit(array, InputSpec("x", "int32", (2, None)))
    np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, 5]])
    assert (found.dtype, notes) == (np.dtype(np.int32), [])


def test_float64_is_made_float32_and_said():
    for kind in ("f8", ">f8"):
        found, notes = fit(np.full((1, 2), 0.1, kind), InputSpec("x", "float32", None))
        np.testing.assert_array_equal(found, np.full((1, 2), 0.1, np.float32))
        assert notes == ["f.npy: float64 made float32 for input 'x'"]
    found, _ = fit(np.array([np.inf, np.nan]), InputSpec("x", "float32", (2,)))
    np.testing.assert_array_equal(found, np.array([np.inf, np.nan], np.float32))


def test_float64_beyond_float32_is_refused():
    message, hint = refusal(fit_array, np.array([1e300]), InputSpec("x", "float32", (1,)), "f.npy")
    assert message == "float64 numbers beyond the range of float32: f.npy"
    assert hint == "scale them, or give float32"


@pytest.mark.parametrize(
    ("found", "wanted"),
    [("float64", "float16"), ("float32", "float64"), ("int64", "int32"), ("uint8", "float32"), ("bool", "int64")],
)
def test_other_types_are_refused_by_name(found, wanted):
    message, hint = refusal(fit_array, np.zeros((1,), found), InputSpec("x", wanted, (1,)), "f.npy")
    assert message == f"input 'x' takes {wanted}, not {found}: f.npy"
    assert hint == f"convert the array, for example with `array.astype('{wanted}')`"


def test_types_of_ml_dtypes_come_as_bare_bytes_from_files():
    array = np.array([1.5, -2], ml_dtypes.bfloat16)
    spec = InputSpec("x", "bfloat16", (2,))
    assert element_type(spec) == ml_dtypes.bfloat16
    for given in (array, array.view("V2")):
        found, _ = fit(given, spec)
        np.testing.assert_array_equal(found.astype(np.float32), [1.5, -2])
    assert refusal(fit_array, array.view("V1"), spec, "f.npy")[0] == "input 'x' takes bfloat16, not void8: f.npy"


def test_strings():
    found, _ = fit(np.array(["a", "bcd"]), InputSpec("x", "str", ("n",)))
    assert found.tolist() == ["a", "bcd"]


@pytest.mark.parametrize("kind", ["sequence", "optional", "map"])
def test_inputs_that_are_no_tensors(kind):
    message, _ = refusal(element_type, InputSpec("x", kind, None))
    assert message == f"no array can be fed to {kind}: input 'x'"


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        (
            (1, 8, 10, 3),
            "the array looks channels-last, the model is channels-first: give `array.transpose(0, 3, 1, 2)`",
        ),
        ((3, 8, 10), "the batch axis is missing: give `array[None]`"),
        ((1, 3, 10, 8), None),
        ((1, 3, 8), None),
        ((), None),
    ],
)
def test_wrong_shapes_are_named_with_the_likely_cause(shape, hint):
    message, found = refusal(fit_array, np.zeros(shape, np.float32), IMAGE, "f.npy")
    assert message == f"input 'x' takes (batch, 3, 8, 10), not {shape}: f.npy"
    assert found == hint
    if hint is not None:
        turned = eval(hint.split("`")[1], {"array": np.zeros(shape, np.float32)})  # noqa: S307
        fit(turned, IMAGE)


def test_channels_first_for_a_channels_last_model():
    spec = InputSpec("x", "float32", (None, 8, 10, 3))
    message, hint = refusal(fit_array, np.zeros((2, 3, 8, 10), np.float32), spec, "f.npy")
    assert message == "input 'x' takes (?, 8, 10, 3), not (2, 3, 8, 10): f.npy"
    assert hint == "the array looks channels-first, the model is channels-last: give `array.transpose(0, 2, 3, 1)`"


def test_a_fixed_batch_takes_its_multiples():
    spec = InputSpec("x", "int64", (4, 2))
    assert fit(np.zeros((8, 2), np.int64), spec)[0].shape == (8, 2)
    message, hint = refusal(fit_array, np.zeros((10, 2), np.int64), spec, "f.npy")
    assert message == "10 samples do not fill runs of 4, the fixed batch of input 'x': f.npy"
    assert hint == "give a multiple of 4 samples"
    assert refusal(fit_array, np.zeros((2, 2), np.int64), spec, "f.npy")[0] == (
        "input 'x' takes (4, 2), not (2, 2): f.npy"
    )


SPECS = (InputSpec("input_ids", "int64", ("b", "s")), InputSpec("attention_mask", "int64", ("b", "s")))


def test_names_are_matched():
    assert match_names(["attention_mask", "input_ids"], SPECS, "f.npz") == {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
    }
    assert match_names(["arr_0"], SPECS[:1], "f.npz") == {"input_ids": "arr_0"}


def test_a_wrong_name_gets_the_closest():
    message, hint = refusal(match_names, ["inputs_id"], SPECS, "f.npz")
    assert message == "the model has no input 'inputs_id': f.npz"
    assert hint == "closest names: input_ids"
    assert refusal(match_names, ["zzz\x1b"], SPECS, "f.npz") == (r"the model has no input 'zzz\x1b': f.npz", None)
    assert refusal(match_names, ["arr_0"], SPECS, "f.npz")[0] == "the model has no input 'arr_0': f.npz"


def test_a_missing_input_is_named():
    message, _ = refusal(match_names, ["input_ids"], SPECS, "f.npz")
    assert message == "no array for the input 'attention_mask', int64 (b, s): f.npz"


def test_arrays_are_copied():
    given = np.arange(4.0)
    found = to_array(given, "x")
    given[:] = 0
    np.testing.assert_array_equal(found, [0, 1, 2, 3])
    assert to_array([[1, 2], [3, 4]], "x").dtype == np.int64


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    tensor = torch.arange(4.0, requires_grad=True).reshape(2, 2)
    found = to_array(tensor.T, "x")
    np.testing.assert_array_equal(found, [[0, 2], [1, 3]])
    assert found.flags.c_contiguous
    assert not np.shares_memory(found, tensor.detach().numpy())
    message, _ = refusal(to_array, torch.zeros(1, dtype=torch.bfloat16), "array 'x'")
    assert message == "no array can be made of a Tensor (Unsupported dtype in DLTensor.): array 'x'"


def test_tensorflow_tensors():
    pytest.importorskip("tensorflow")
    program = """
import numpy as np, tensorflow as tf
from onnxscope.inputs.arrays import to_array
found = to_array(tf.constant([[1.0, 2.0]]), "x")
assert type(found) is np.ndarray and found.dtype == np.float32 and found.tolist() == [[1.0, 2.0]]
assert to_array(tf.Variable([3]), "x").tolist() == [3]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_objects_that_only_speak_dlpack():
    class Tensor:
        def __init__(self):
            self.array = np.arange(3.0)

        def __array__(self, dtype=None, copy=None):
            raise TypeError("no arrays here")

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    np.testing.assert_array_equal(to_array(Tensor(), "x"), [0, 1, 2])


@pytest.mark.parametrize("value", [object(), None, 10**30, [{}]])
def test_what_is_no_array_is_refused(value):
    message, hint = refusal(to_array, value, "array 'x'")
    assert message == f"an array of Python objects ({type(value).__name__}): array 'x'"
    assert hint == "give numbers"


def test_ragged_lists_are_refused():
    message, _ = refusal(to_array, [[1], [2, 3]], "array 'x'")
    assert message.startswith("no array can be made of a list (")


@pytest.mark.parametrize(("axis", "dtype"), [(1, "float32"), (3, "float64"), (None, "int16"), (0, "float16")])
def test_statistics_are_numpys(axis, dtype):
    array = (np.random.default_rng(3).normal(50, 20, (4, 3, 5, 2))).astype(dtype)
    record = describe_array("x", array, axis)
    wide = array.astype(np.float64)
    rows = [wide.ravel()] if axis is None else [each.ravel() for each in np.moveaxis(wide, axis, 0)]
    assert (record["name"], record["shape"], record["dtype"]) == ("x", [4, 3, 5, 2], dtype)
    assert record["channel_axis"] == axis
    np.testing.assert_allclose(record["mean"], [row.mean() for row in rows], rtol=1e-13)
    np.testing.assert_allclose(record["std"], [row.std(ddof=1) for row in rows], rtol=1e-13)
    assert record["min"] == [row.min() for row in rows]
    assert record["max"] == [row.max() for row in rows]


def test_statistics_over_many_blocks():
    array = np.random.default_rng(4).normal(1e4, 1, 2_500_000).astype(np.float32)
    record = describe_array("x", array, None)
    np.testing.assert_allclose(record["mean"], [array.mean(dtype=np.float64)], rtol=1e-12)
    np.testing.assert_allclose(record["std"], [array.std(ddof=1, dtype=np.float64)], rtol=1e-9)


def test_statistics_of_few_or_odd_numbers():
    none = {"mean": [None], "std": [None], "min": [None], "max": [None]}

    def statistics(array):
        record = describe_array("x", array, None)
        return {key: record[key] for key in none}

    assert statistics(np.array(3.0)) == {"mean": [3.0], "std": [None], "min": [3.0], "max": [3.0]}
    assert statistics(np.array([np.nan, 1, 3, np.inf])) == {
        "mean": [2.0],
        "std": [np.sqrt(2)],
        "min": [1.0],
        "max": [3.0],
    }
    for empty in (np.empty((0, 3)), np.full(2, np.nan), np.array(["a"]), np.ones(1, np.complex64), np.ones(1, "V3")):
        assert statistics(empty) == none
    huge = statistics(np.full(4, 1e308))
    assert (huge["mean"], huge["min"]) == ([None], [1e308])
    assert describe_array("x", np.array(["abc"]), None)["dtype"] == "str"
    assert statistics(np.array([1, 2], ml_dtypes.bfloat16))["mean"] == [1.5]
