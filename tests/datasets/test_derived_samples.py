"""Samples made of others are called as those are, and add to what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from onnxscope.datasets.derived_samples import DerivedSamples
from onnxscope.inputs.samples import Samples


@dataclass(frozen=True, eq=False, kw_only=True)
class _Texts(Samples):
    kind = "text"
    files = ("a.txt",)
    names = ("a",)
    record = MappingProxyType({"preset": None, "tokenizer": "words"})
    notes = ("by words",)

    def name(self, position):
        return f"line {position}"

    def fed_to(self, specs):
        return self

    def load(self, position):
        return {}, []

    def whole(self, load):
        return {}, None, []


@dataclass(frozen=True, eq=False, kw_only=True)
class _Halves(DerivedSamples):
    kind = "arrays"
    beside_record = MappingProxyType({"cut": 2})
    beside_notes = ("cut in two",)
    fed_to, load, whole = _Texts.fed_to, _Texts.load, _Texts.whole


def test_what_is_said_of_the_data_is_said_of_what_is_made_of_it():
    plain = {"specs": (), "batch_axes": {}, "layouts": {}, "fixed_batch": None}
    halves = _Halves(data=_Texts(count=3, **plain), count=6, **plain)
    assert (halves.files, halves.names, halves.name(2)) == (("a.txt",), ("a",), "line 2")
    assert halves.record == {"preset": None, "tokenizer": "words", "cut": 2}
    assert halves.notes == ["by words", "cut in two"]
