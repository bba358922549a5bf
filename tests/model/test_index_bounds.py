"""Whole-number inputs that index an embedding."""

from __future__ import annotations

import numpy as np
import onnx.parser
from onnx import numpy_helper

import onnxscope
from onnxscope.analyses.feature_maps import features


def parsed(text):
    return onnx.parser.parse_model(text)


def test_token_inputs_stay_within_the_embedding():
    model = parsed("""
        <ir_version: 9, opset_import: ["": 17]>
        net (int64[batch, seq] ids) => (float[batch, seq, 2] y) { wide = Cast<to = 7>(ids) y = Gather(table, wide) }""")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((5, 2), np.float32), "table"))
    assert onnxscope.load_model(model).index_bounds == {"ids": (0, 5)}
    maps = features(model, "random:7", select="value:y")
    assert maps[0].data.shape[2] == 2
