"""What was found is shown in tables, JSON and notebooks, infinite values of attributes included."""

from __future__ import annotations

import html
import json

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxscope
from onnxscope.cli.main import run

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def network(highest):
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
        net (float[N, 8] x) => (float[N, 8] y) { a = MatMul(x, w) y = Clip(a, low, high) }""")
    stored = {"w": np.eye(8), "low": -1, "high": highest}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in stored.items()
    )
    return model


@pytest.mark.parametrize(("right", "wrong"), [(np.inf, 0.5), (0.5, np.inf)])
def test_infinite_values_stand_in_strict_json_as_objects(right, wrong, tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("a.onnx", "b.onnx", "x.npy")]
    for path, highest in zip(paths, (right, wrong), strict=False):
        onnx.save(network(highest), path)
    np.save(paths[2], X)
    assert run(["diff", *paths[:2], "-i", paths[2], "--explain", "--format", "json"]) == 1

    def refuse(constant):
        raise AssertionError(constant)

    (explanation,) = json.loads(capsys.readouterr().out, parse_constant=refuse)["explanations"]
    (edit,) = explanation["edits"]
    plain = {np.inf: {"float": "inf"}, 0.5: 0.5}
    assert (edit["what"], edit["found"], edit["wanted"]) == ("max", plain[wrong], plain[right])


def test_tables_and_notebooks_show_why():
    result = onnxscope.explain(network(2.0), network(0.5), X)
    (explanation,) = result.explanations
    assert explanation.text == "B's Clip has `max` 0.5; with 2 it is equal"
    table, carried = result.tables()[-2:]
    assert table.title == "why: 1 of 1 difference explained"
    assert carried.title == "what carries all of the outputs' difference"
    assert table.rows[0][:3] == (explanation.a.layer, "Clip", "max")
    assert explanation.text in repr(result)
    assert explanation.text in html.unescape(result._repr_html_())
    assert repr(explanation).startswith("<Explanation of ")
    assert 0 < explanation.before < 1
    assert explanation.after < 1e-6
