"""What stats() returns: the record of the contract, tables, a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxscope.base.json_files import dump_json
from onnxscope.findings.kinds import Finding
from onnxscope.profiling import dataset_statistics
from onnxscope.profiling.dataset_run import stats
from onnxscope.profiling.dataset_statistics import DatasetStatistics

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


@pytest.fixture(scope="module")
def statistics():
    return stats(FIXTURES / "digits.onnx", FIXTURES / "digits.npz", select=["op:Conv", "op:Gemm"])


def test_the_record_has_the_fields_of_the_contract(statistics):
    record = json.loads(dump_json(statistics.to_dict()), parse_constant=pytest.fail)
    assert list(record) == ["schema", "model", "input", "samples", "taps", "unreachable", "unfit", "findings"]
    assert record["schema"] == "onnxscope.stats/1"
    assert record["samples"] == 64
    tap = record["taps"][0]
    assert list(tap)[:16] == [
        *("name", "layer", "op_type", "at", "shape", "channel_axis", "count", "mean", "std", "min", "max"),
        *("zero_fraction", "nan_count", "inf_count", "quantiles", "dead_channels"),
    ]
    assert tap["shape"] == [None, 16, 8, 8]
    assert tap["count"] == 64 * 16 * 64
    assert list(tap["quantiles"]) == ["0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99"]
    assert list(tap["channels"]) == ["mean", "std", "min", "max", "zero_fraction"]
    assert len(tap["channels"]["std"]) == 16
    assert tap["sampled"] is None
    assert tap["max_sample"].startswith("sample ")
    with np.load(FIXTURES / "digits.npz") as archive:
        digits = archive["digits"].astype(np.float64)
    (given,) = record["input"]["statistics"]
    assert given["mean"] == [pytest.approx(digits.mean())]
    assert given["std"] == [pytest.approx(digits.std(ddof=1))]


def test_it_is_a_sequence_of_taps(statistics):
    assert len(statistics) == 4
    assert [tap.layer for tap in statistics[1:3]] == ["block.0", "down.0"]
    assert statistics.layer("down.0") is statistics[2]
    with pytest.raises(KeyError):
        statistics.layer("conv7")


def test_tables_and_the_picture(statistics):
    assert repr(statistics).startswith("digits.onnx over 64 samples: 4 taps\n")
    assert "<td>stem.0</td>" in statistics._repr_html_()
    left, right = statistics.plot().axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["stem.0", "block.0", "down.0", "classifier.2"]
    assert right.get_xlim() == (0, 1)


def test_a_saved_profile_tells_the_same(statistics, tmp_path):
    statistics.profile.save(tmp_path / "p.json")
    assert DatasetStatistics.load(tmp_path / "p.json").to_dict() == statistics.to_dict()


def test_findings_of_a_kind_and_a_layer_share_a_line():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 2, 4, 4] x) => (float[batch, 20, 4, 4] y) { y = Conv(x, w) }""")
    model.graph.node[0].name = "bad\x1b<b>"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((20, 2, 1, 1), np.float32), "w"))
    statistics = stats(model, "random:1", limit=3)
    assert len(statistics.findings) == 20
    (row,) = statistics.findings_table().rows
    assert row[0] == "dead_channel"
    assert row[2:] == ("0, 1, 2, 3, 4 and 15 more", "zero in every element of all 3 samples")
    assert "20 of 20" in repr(statistics)
    assert "\x1b" not in repr(statistics)
    assert "<b>" not in statistics._repr_html_()


def test_the_table_reads_the_findings_once_whatever_the_number_of_taps(statistics, monkeypatch):
    class Counted(tuple):
        readings = 0

        def __iter__(self):
            Counted.readings += 1
            return super().__iter__()

    kinds = ("duplicate_channel", "duplicate_channel", "float16_overflow")
    findings = Counted(Finding(kind, "down.0", channel, "") for channel, kind in enumerate(kinds))
    monkeypatch.setattr(dataset_statistics, "find", lambda profile: findings)
    rows = DatasetStatistics(statistics.profile).table().rows
    assert [row[-1] for row in rows] == ["", "", "duplicate 2, beyond float16", ""]
    assert Counted.readings == 1


def test_what_was_not_reached_is_listed_with_the_reason():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[batch, 3] x, bool c) => (float[batch, 3] y) {
            y = If(c) <then_branch = t () => (float[batch, 3] u) { d = Add(x, x) u = Neg(d) },
                       else_branch = e () => (float[batch, 3] v) { s = Mul(x, x) v = Abs(s) }>
        }""")
    feeds = {"x": np.ones((1, 3), np.float32), "c": np.array(True)}
    record = stats(model, feeds, select=["value:d", "value:s"]).to_dict()
    assert [tap["name"] for tap in record["taps"]] == ["d"]
    reason = "the else_branch that holds it was not executed on this input"
    assert record["unreachable"] == [{"name": "s", "reason": reason}]
