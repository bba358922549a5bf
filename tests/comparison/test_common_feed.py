"""What two models are fed: paired by name, read once, and cut to few samples where no model fixes their number."""

from __future__ import annotations

import numpy as np
import onnx.parser
from compared_models import TWO, WEIGHTS, X, parsed

from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.common_feed import open_common_feed
from onnxscope.datasets.dataset import Dataset
from onnxscope.model.loading import load_model


def opened(a, b, inputs, batch_size=8):
    models = load_model(a), load_model(b)
    return open_common_feed(models, inputs, RunOptions(batch_size=batch_size))


def test_inputs_of_one_name_belong_together_wherever_they_stand():
    body = '<ir_version: 9, opset_import: ["": 18]> net (%s) => (float[batch, 4] y) { y = MatMul(x, w) k = Neg(s) }'
    a = parsed(body % "float[batch, 3] x, float[n] s", w=np.ones((3, 4), np.float32))
    b = parsed(body % "float[4] s, float[batch, 3] x", w=np.ones((3, 4), np.float32))
    arrays = {"x": np.ones((2, 3), np.float32), "s": np.arange(4, dtype=np.float32)}
    feed = opened(a, b, arrays)
    for fed in (feed.first(), feed.of_second(feed.first())):
        assert fed.keys() == arrays.keys()
        assert all(np.array_equal(fed[name], array) for name, array in arrays.items())
    feed.close()


def test_every_sample_is_read_once(monkeypatch):
    positions = []
    load = Dataset.load

    def loading(dataset, position):
        positions.append(position)
        return load(dataset, position)

    model = parsed(TWO, **WEIGHTS)
    feed = opened(model, model, X, batch_size=2)
    monkeypatch.setattr(Dataset, "load", loading)
    np.testing.assert_array_equal(feed.first()["x"], X[:2])
    np.testing.assert_array_equal(feed.first()["x"], X[:2])
    batches = [batch.feeds["x"] for batch in feed.batches()]
    np.testing.assert_array_equal(np.concatenate(batches), X)
    assert sorted(positions) == [0, 1, 2]


def test_few_samples_are_taken_where_no_model_fixes_how_many():
    free, fixed = parsed(TWO, **WEIGHTS), parsed(TWO.replace("batch", "3"), **WEIGHTS)
    feed = opened(free, free, X)
    np.testing.assert_array_equal(feed.few()["x"], X[:2])
    assert feed.few(3) is feed.first()
    for pair in ((fixed, free), (free, fixed)):
        feed = opened(*pair, X)
        assert feed.few() is feed.first()
    text = '<ir_version: 9, opset_import: ["": 18]> net (float[n] x, float[m] z) => (float[n] y) { y = Neg(x) }'
    apart = onnx.parser.parse_model(text)
    feed = opened(apart, apart, {"x": np.zeros(3, np.float32), "z": np.zeros(5, np.float32)})
    assert feed.few() is feed.first()
