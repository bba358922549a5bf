"""Attributes planted in small networks are named with the right value, and what nothing in a table explains is not.

The plain suite takes a few of some operators; `make acceptance` takes 150 and 100 of all the wheel's node cases.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from attribute_plants import answers, attribute_plants, cases_of, is_far, other_plants, sampled
from onnx_cases import node_cases

import onnxscope

MODULES = ("averagepool", "cumsum", "depthtospace", "gelu", "lrn", "pad", "resize", "topk")


def fault_of(plant, path):
    """What is wrong with the explanation of a plant; empty where nothing is."""
    path.unlink(missing_ok=True)
    result = onnxscope.explain(plant.a, plant.b, plant.feeds, mend=path)
    texts = [each.text for each in result.explanations]
    edits = [edit for each in result.explanations for edit in each.edits]
    if len(edits) != 1 or edits[0].what != plant.what or not has_value(edits[0].wanted, plant.value):
        return f"{plant.label}, which has {plant.value} in A: {texts}"
    if not result.mended.equal:
        return f"{plant.label}: the mended copy is not equal: {result.mended.summary()}"
    if is_far(answers(plant.a, plant.feeds), answers(onnx.load(path), plant.feeds), 1e-5):
        return f"{plant.label}: by plain onnxruntime the mended copy is not equal"
    return ""


def has_value(wanted, value):
    if wanted is None or value is None or isinstance(value, str):
        return wanted == value
    return np.size(wanted) == np.size(value) and np.allclose(np.ravel(wanted), np.ravel(value), rtol=1e-6, atol=0)


def wrong_explanation(plant):
    result = onnxscope.explain(plant.a, plant.b, plant.feeds)
    assert result.explanations, f"{plant.label}: no difference is found"
    texts = [each.text for each in result.explanations]
    return f"{plant.label}: {texts}" if result.edits else ""


@pytest.fixture(scope="module")
def some_cases():
    return cases_of(MODULES)


def test_a_few_attributes_are_named_with_the_right_value(some_cases, tmp_path):
    plants = sampled(attribute_plants(some_cases, seed=3), 8)
    assert [fault_of(plant, tmp_path / "mended.onnx") for plant in plants] == [""] * 8


def test_a_few_other_changes_are_explained_by_nothing(some_cases):
    plants = sampled(other_plants(some_cases, seed=0), 4)
    assert [wrong_explanation(plant) for plant in plants] == [""] * 4


@pytest.mark.acceptance
def test_attributes_of_all_cases_are_named_with_the_right_value(capsys, tmp_path):
    plants = sampled(attribute_plants(node_cases(), seed=1), 150)
    faults = list(filter(None, (fault_of(plant, tmp_path / "mended.onnx") for plant in plants)))
    operators = Counter(plant.op_type for plant in plants)
    with capsys.disabled():
        print(f"\n{len(plants)} plants in {len(operators)} operators: {len(plants) - len(faults)} named and mended")
        print("\n".join(faults))
    assert len(plants) == 150
    assert len(operators) >= 60
    assert len(faults) <= 15


@pytest.mark.acceptance
def test_what_nothing_in_the_table_explains_is_explained_by_nothing(capsys):
    plants = sampled(other_plants(node_cases(), seed=2), 100)
    wrong = list(filter(None, (wrong_explanation(plant) for plant in plants)))
    with capsys.disabled():
        print(f"\n{len(plants)} other changes: {len(wrong)} explained")
    assert len(plants) == 100
    assert not wrong
