"""The record that a converter leaves in a model, and what becomes of it when it is malformed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from onnxscope.model.provenance import ParameterRecord, Provenance, read_provenance, write_provenance

RECORD = Provenance(
    framework="torch",
    version="2.13.0",
    mode="faithful",
    source="alexnet",
    preprocess="imagenet",
    parameters=(
        ParameterRecord("f.0.weight", "f.0", (96, 3, 11, 11), "float32", initializer="f.0.weight"),
        ParameterRecord(
            "d/kernel", "d", (3, 3, 8, 16), "float32", initializer="k", permutation=(3, 2, 0, 1), folded=True
        ),
        ParameterRecord("n", "", (), "int64", reason="counter"),
    ),
)


def with_parameters(parameters: Any) -> dict[str, str]:
    return {**write_provenance(RECORD), "onnxscope.parameters": json.dumps(parameters)}


def parameter(**changes: Any) -> dict[str, Any]:
    return {"name": "w", "layer": "l", "shape": [2, 3], "dtype": "float32", **changes}


def test_what_is_written_is_read_back() -> None:
    metadata = write_provenance(RECORD)
    assert all(key.startswith("onnxscope.") and isinstance(value, str) for key, value in metadata.items())
    assert read_provenance({"other": "x", **metadata}) == RECORD


def test_optional_fields_may_be_missing() -> None:
    least = {"onnxscope.framework": "torch", "onnxscope.mode": "deployed"}
    assert read_provenance(least) == Provenance("torch", "", "deployed", "")
    assert "onnxscope.preprocess" not in write_provenance(Provenance("torch", "", "deployed", ""))


def test_a_model_of_another_origin_has_none() -> None:
    assert read_provenance({}) is None
    assert read_provenance({"framework": "torch", "mode": "faithful"}) is None


def test_records_with_the_fewest_keys_are_read() -> None:
    provenance = read_provenance(with_parameters([parameter(permutation=[1, 0])]))
    assert provenance is not None
    assert provenance.parameters == (ParameterRecord("w", "l", (2, 3), "float32", permutation=(1, 0)),)


@pytest.mark.parametrize(
    "parameters",
    [
        5,
        {"name": "w"},
        [1],
        [None],
        ["name"],
        [{}],
        [parameter(name=5)],
        [parameter(layer=None)],
        [parameter(dtype=["float32"])],
        [parameter(initializer=7)],
        [parameter(reason={})],
        [parameter(shape=None)],
        [parameter(shape=["x"])],
        [parameter(shape=[float("inf")])],
        [parameter(shape=[float("nan")])],
        [parameter(permutation=[0])],
        [parameter(permutation=[0, 0])],
        [parameter(permutation=[0, 2])],
        [parameter(permutation=[-1, 0])],
        [parameter(permutation=[float("-inf"), 0])],
        [parameter(permutation=3)],
    ],
)
def test_a_malformed_table_counts_as_no_record(parameters: Any) -> None:
    assert read_provenance(with_parameters(parameters)) is None


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[" + "9" * 5000 + "]", "\x00", "\udcff"])
def test_what_is_not_json_counts_as_no_record(text: str) -> None:
    assert read_provenance({**write_provenance(RECORD), "onnxscope.parameters": text}) is None


def test_an_unknown_mode_counts_as_no_record() -> None:
    assert read_provenance({**write_provenance(RECORD), "onnxscope.mode": "__import__"}) is None
