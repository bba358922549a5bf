"""The onnx wheel's own cases with everything tapped: declared outputs stay as the wheel expects them.

The plain suite runs a sample; `make acceptance` runs all of them, and prints the counts.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_cases import LIGHT, Case, Outcome, difference, folder_cases, light_case, node_cases, run_case, summary

FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")


def faults_of(outcomes: list[Outcome]) -> list[str]:
    return [f"{outcome.name}: {fault}" for outcome in outcomes for fault in outcome.faults]


def sample_of(cases: list[Case]) -> list[Case]:
    """Every case with bodies, and every twelfth of the others."""
    bodies = [case for case in cases if case.has_bodies]
    return bodies + [case for case in cases if not case.has_bodies][::12]


def test_a_sample_of_the_cases_gives_the_expected_outputs_with_everything_tapped():
    outcomes = [run_case(case) for case in sample_of([*node_cases(), *folder_cases("simple")])]
    assert not faults_of(outcomes)
    assert len(outcomes) >= 180
    assert sum(not outcome.excluded for outcome in outcomes) > 0.85 * len(outcomes)
    assert sum(outcome.bodies for outcome in outcomes) > 300
    assert sum(outcome.compared for outcome in outcomes) > 1000


@pytest.mark.parametrize("name", ["resnet50", "squeezenet"])
def test_a_real_topology_gives_the_expected_output_with_everything_tapped(name):
    outcome = run_case(light_case(name), node_by_node=True)
    assert outcome.excluded == ""
    assert outcome.faults == []
    assert outcome.unreachable == []
    assert outcome.compared > 100


def test_a_case_whose_outputs_differ_is_found():
    case = light_case("squeezenet")
    wrong = Case(case.name, case.model, case.inputs, [case.expected[0] + np.float32(0.01)], case.rtol, case.atol)
    assert run_case(wrong).excluded.startswith("onnxruntime gives something else: output 0:")


def test_answers_are_compared_by_shape_type_and_number():
    x = np.ones(3, np.float32)
    assert difference([x], [x], 0, 0) == ""
    assert difference([x], [x, x], 0, 0) == "1 answers, 2 expected"
    assert difference([x], [x[:2]], 0, 0) == "output 0: shape (3,), expected (2,)"
    assert difference([x], [x.astype(np.float64)], 0, 0) == "output 0: type float32, expected float64"
    assert difference([x], [x + 1], 0.1, 0.1) == "output 0: 3 of 3 numbers differ"
    assert difference([[x, x]], [[x, x * 2]], 0, 0) == "output 0: output 1: 3 of 3 numbers differ"
    assert difference([x], [[x]], 0, 0) == "output 0: only one is a sequence"
    assert difference([None], [x], 0, 0) == "output 0: one is absent"
    assert difference([np.array(["a"], object)], [np.array(["b"], object)], 0, 0) == "output 0: strings differ"


@pytest.mark.acceptance
def test_every_case_gives_the_expected_outputs_with_everything_tapped(capsys):
    generated = [run_case(case) for case in node_cases()]
    stored = [run_case(case) for folder in FOLDERS for case in folder_cases(folder)]
    with capsys.disabled():
        print(f"\nonnx {onnx.__version__}, generated node cases: {summary(generated)}")
        print(f"stored cases ({', '.join(FOLDERS)}): {summary(stored)}")
    assert not faults_of([*generated, *stored])
    assert sum(not outcome.excluded for outcome in generated) > 0.9 * len(generated)
    assert sum(not outcome.excluded for outcome in stored) > 0.6 * len(stored)


@pytest.mark.acceptance
def test_every_real_topology_gives_the_expected_output_with_everything_tapped(capsys):
    outcomes = [run_case(light_case(name), node_by_node=True) for name in LIGHT]
    with capsys.disabled():
        print(f"\nreal topologies: {summary(outcomes)}")
    assert not faults_of(outcomes)
    assert [outcome.name for outcome in outcomes if outcome.excluded] == []
    assert [outcome.name for outcome in outcomes if outcome.unreachable] == []
