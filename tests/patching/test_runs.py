"""What a model is fed is asked for as often as it is needed, and what only fills a run up does not count."""

import numpy as np
import onnx
import onnx.parser

from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_dataset, open_inputs
from onnxscope.model.loading import load_model
from onnxscope.patching.runs import Run, runs_of_dataset, runs_of_prepared

X = np.arange(15, dtype=np.float32).reshape(5, 3)


def loaded(batch):
    text = f'<ir_version: 9, opset_import: ["": 17]> g (float[{batch}, 3] x) => (float[{batch}, 3] y) {{ y = Relu(x) }}'
    return load_model(onnx.parser.parse_model(text))


def test_a_dataset_is_read_from_its_beginning_every_time():
    options = RunOptions(batch_size=2)
    runs = runs_of_dataset(open_inputs(X, loaded("N").inputs, options), options)
    for _ in range(2):
        batches = list(runs())
        assert [(run.fed, run.real) for run in batches] == [(2, 2), (2, 2), (1, 1)]
        np.testing.assert_array_equal(np.concatenate([run.feeds["x"] for run in batches]), X)


def test_samples_that_fill_up_a_fixed_batch_are_cut_off():
    options = RunOptions(batch_size=2)
    runs = list(runs_of_dataset(open_inputs(X, loaded(4).inputs, options), options)())
    assert [(run.fed, run.real) for run in runs] == [(4, 4), (4, 1)]
    assert [len(run.cut(run.feeds["x"])) for run in runs] == [4, 1]


def test_everything_that_is_fed_at_once_is_one_run():
    model = loaded("N")
    runs = runs_of_prepared(open_dataset(X, model, RunOptions()).whole())
    for _ in range(2):
        (run,) = runs()
        assert (run.fed, run.real) == (5, 5)


def test_a_value_without_the_axis_of_samples_is_kept_whole():
    run = Run({}, 4, 1)
    assert run.cut(np.zeros((4, 2))).shape == (1, 2)
    assert run.cut(np.zeros((3, 4)), 1).shape == (3, 1)
    assert run.cut(np.zeros((3, 4)), None).shape == (3, 4)
    assert run.cut(np.zeros((2, 4))).shape == (2, 4)
    assert run.cut(np.float32(3)).shape == ()
