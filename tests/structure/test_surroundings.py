"""Digests of what stands before and behind a record."""

from __future__ import annotations

import pytest
from placed_models import unrolled

from onnxscope.model.loading import load_model
from onnxscope.pairing.model_layers import ModelLayers
from onnxscope.structure.surroundings import surroundings


def around(model):
    """The digests of the layers, by the value that leaves them."""
    side = ModelLayers(load_model(model))
    digests = surroundings(side.records)
    return {layer.value: digests[side.places[layer.node]] for layer in side.layers}


@pytest.mark.parametrize("order", [(5, 4, 3, 2, 1, 0), (3, 1, 5, 0, 2, 4)])
def test_a_record_is_recognized_whatever_the_order_of_the_nodes(order):
    assert around(unrolled(order)) == around(unrolled())
    assert len(set(around(unrolled()).values())) == 6


def test_what_a_record_reads_is_before_it_and_what_reads_it_behind():
    first, second = around(unrolled()), around(unrolled(reads=(3, -1)))
    assert first["r3"][1] == second["r3"][1]
    assert first["r3"][0] != second["r3"][0]
    assert {value: first[value] for value in first if value != "r3"} == {
        value: second[value] for value in second if value != "r3"
    }
