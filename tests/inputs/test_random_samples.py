"""Random numbers as samples."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from feeding import TOKENS, opened, stacked, whole
from onnx import numpy_helper

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError
from onnxscope.model.loading import load_model
from onnxscope.model.stored_model import InputSpec

PICTURE = (InputSpec("x", "float32", ("batch", 3, 16, 16)),)


def test_random_says_that_it_is_random():
    feed = whole("random:7", TOKENS, preprocess="unit", bounds={"ids": (10, 20)})
    assert feed.record["kind"] == opened("random:7", TOKENS).kind == "random"
    assert feed.record["random_seed"] == 7
    assert feed.notes == (
        "preset 'unit' is ignored: presets are for images and sounds",
        "the input is random (seed 7), no real data",
    )
    assert feed.arrays["ids"].min() >= 10
    assert (feed.arrays["mask"] == 1).all()
    again = whole("random:7", TOKENS, bounds={"ids": (10, 20)})
    assert again.arrays["ids"].tobytes() == feed.arrays["ids"].tobytes()


def test_random_samples_begin_as_features_does_and_differ():
    dataset = opened("random:7", PICTURE, limit=3)
    samples = stacked(dataset)["x"]
    np.testing.assert_array_equal(samples[:1], whole("random:7", PICTURE).arrays["x"])
    assert len({sample.tobytes() for sample in samples}) == 3
    np.testing.assert_array_equal(stacked(opened("random:7", PICTURE, limit=2))["x"], samples[:2])


def test_an_input_without_samples_is_refused():
    with pytest.raises(InputError, match=r"^the input 'x' has no samples: its shape is 0 × 3$"):
        opened("random:7", (InputSpec("x", "float32", (0, 3)),))


def test_so_many_samples_go_together_too():
    feed = whole("random:7", PICTURE, samples=3)
    assert (feed.samples, feed.record["samples"]) == (3, 3)
    np.testing.assert_array_equal(feed.arrays["x"], stacked(opened("random:7", PICTURE, limit=3))["x"])
    assert opened("random:7", PICTURE, samples=9, limit=2).count == 2
    fixed = (InputSpec("x", "float32", (2, 3, 4, 4)),)
    assert whole("random", fixed, samples=4).arrays["x"].shape == (4, 3, 4, 4)
    with pytest.raises(InputError, match=r"^3 samples do not fill runs of 2, the model's fixed batch$"):
        whole("random", fixed, samples=3)
    notes = whole(np.zeros((1, 3, 16, 16), np.float32), PICTURE, samples=3, length=4).notes
    assert notes == (
        "`--samples 3` is ignored: it is for random input",
        "`--length 4` is ignored: it is for random input",
    )


def test_sequences_are_of_every_length_in_between():
    """The numbers are those of the seed, whatever the length of others."""
    dataset = opened("random:3", TOKENS, samples=200, length="5..9", bounds={"ids": (0, 50)})
    shapes = [dataset.load(position)[0]["ids"].shape for position in range(200)]
    assert set(shapes) == {(length,) for length in range(5, 10)}
    assert shapes == [dataset.load(position)[0]["mask"].shape for position in range(200)]
    again = opened("random:3", TOKENS, samples=20, length="5..9", bounds={"ids": (0, 50)})
    for position in range(20):
        np.testing.assert_array_equal(again.load(position)[0]["ids"], dataset.load(position)[0]["ids"])
    assert [dataset.load(n)[0]["ids"].shape for n in range(9)] != [
        opened("random:4", TOKENS, samples=9, length="5..9").load(n)[0]["ids"].shape for n in range(9)
    ]
    assert dataset.record["length"] == "5..9"
    assert dataset.record["dims"] == {}
    same = whole("random:3", TOKENS, samples=2, length=12)
    assert same.arrays["ids"].shape == (2, 12)
    assert same.record["length"] == "12"
    with pytest.raises(InputError, match="do not go into one run") as caught:
        whole("random:3", TOKENS, samples=9, length="5..9")
    assert "`stats`" in caught.value.hint
    assert "length" not in whole("random:3", TOKENS).record


DECODER = """<ir_version: 9, opset_import: ["": 18]>
    g (int64[batch, sequence_length] ids, float[batch, 2, past_sequence_length, 4] past,
       float[batch, total_sequence_length] mask) => (float[batch, total_sequence_length] y) {
        f = Cast <to = 1> (ids)  p = ReduceMean <keepdims = 0> (past, axes)
        joined = Concat <axis = 1> (p, f)  y = Mul (joined, mask)
    }"""


def test_a_total_follows_the_length(tmp_path):
    proto = onnx.parser.parse_model(DECODER)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 3]), "axes"))
    model = load_model(proto)
    dataset = open_dataset("random:1", model, RunOptions(samples=6, length="3..7"))
    for position in range(6):
        arrays, _ = dataset.load(position)
        assert 3 <= arrays["ids"].shape[0] <= 7
        assert arrays["mask"].shape[0] == arrays["past"].shape[1] + arrays["ids"].shape[0]
    found = onnxscope.stats(model, "random:1", select="value:joined", samples=6, length="3..7").to_dict()
    lengths = [dataset.load(position)[0]["mask"].size for position in range(6)]
    assert found["taps"][0]["count"] == sum(lengths)
    assert found["input"]["length"] == "3..7"


def test_a_length_that_a_model_refuses_is_told_with_the_node():
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (float[n, 1, time] x) => (float[n, 1, t] y) <float[1, 1, 9] w = {1, 1, 1, 1, 1, 1, 1, 1, 1}>
        { [hear] y = Conv (x, w) }"""
    model = load_model(onnx.parser.parse_model(text))
    assert open_dataset("random", model, RunOptions(samples=3, length="9..20")).count == 3
    with pytest.raises(InputError) as caught:
        open_dataset("random", model, RunOptions(samples=3, length="5..20"))
    assert str(caught.value).startswith("no random sequence of length 5 runs: Conv 'hear' refuses it (time is 5)")
    assert caught.value.hint.startswith("leave `--length` out, and one that runs is found")


@pytest.mark.parametrize("specs", [PICTURE, (InputSpec("x", "float32", ("n", 3, "h", "w")),)])
def test_a_picture_has_no_length(specs):
    with pytest.raises(InputError, match=r"^no open dimension of the inputs is known to be the length of a sequence$"):
        opened("random", specs, length=5)


@pytest.mark.parametrize("given", ["", "5..", "9..5", "0..4", "a", "-3", "1..2..3"])
def test_what_is_no_length(given, capsys):
    with pytest.raises(InputError) as caught:
        RunOptions(length=given)
    assert str(caught.value) == f"no length: {given!r}"
    assert run(["stats", "m.onnx", "-i", "random", "-o", "p.json", "--length", given]) == 2
    assert "for example `--length 12`, or `--length 5..64`" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"^0 random samples are none$"):
        RunOptions(samples=0)
