"""What `stats` says of the codes that activations are rounded to, against plain onnxruntime and numpy."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import onnx
import pytest
from jsonschema import Draft202012Validator
from onnx import helper, numpy_helper
from quantized_copies import model, quantized, values

import onnxscope
from onnxscope.cli.main import run
from onnxscope.errors import MergeError, ProfileError

RNG = np.random.default_rng(31)
# What leaves each layer, and the codes that it is rounded to.
ENDS = {
    "QOperator": {"conv1_quant": "c_quantized", "conv2_quant": "d_quantized", "fc_quant": "y_quantized"},
    "QDQ": {
        "conv1": "a_QuantizeLinear_Output",
        "conv2": "d_QuantizeLinear_Output",
        "fc": "y_QuantizeLinear_Output",
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "W", "b"], ["c"], "conv1", pads=[1] * 4),
        node("Relu", ["c"], ["a"], "act1"),
        node("Conv", ["a", "V"], ["d"], "conv2", pads=[1] * 4),
        node("GlobalAveragePool", ["d"], ["g"], "gap"),
        node("Flatten", ["g"], ["f"], "flat"),
        node("Gemm", ["f", "F"], ["y"], "fc", transB=1),
    ]
    shapes = {"W": (8, 3, 3, 3), "b": (8,), "V": (8, 8, 3, 3), "F": (5, 8)}
    tensors = {name: RNG.standard_normal(shape).astype(np.float32) * 0.3 for name, shape in shapes.items()}
    proto = model(nodes, {"x": ["N", 3, 12, 12]}, {"y": ["N", 5]}, tensors)
    x = RNG.standard_normal((10, 3, 12, 12)).astype(np.float32)
    copies = {}
    for form in ENDS:
        _, copies[form] = quantized(proto, x, tmp_path_factory.mktemp(form), form, per_channel=True)
    return copies, x


def tensor_of(path, name):
    return next(numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer if one.name == name)


@pytest.mark.parametrize("form", ENDS)
def test_every_layer_has_the_use_of_its_codes(form, made):
    copies, x = made
    result = onnxscope.stats(copies[form], x, exact=True, select=list(ENDS[form]))
    record = json.loads(json.dumps(result.to_dict()))
    schema = json.loads((files(onnxscope) / "schemas" / "stats.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(record)
    told = {row["layer"]: row["quantization"] for row in record["taps"]}
    assert told.keys() == ENDS[form].keys()
    for layer, name in ENDS[form].items():
        tensor = name.removesuffix("_quantized").removesuffix("_QuantizeLinear_Output")
        codes = values(copies[form], [name], x)[name]
        zero_point = int(tensor_of(copies[form], f"{tensor}_zero_point"))
        ends = [end for end in (0, 255) if end != zero_point]
        assert (told[layer]["bits"], told[layer]["granularity"]) == (8, "tensor")
        assert told[layer]["scale_min"] == told[layer]["scale_max"] == float(tensor_of(copies[form], f"{tensor}_scale"))
        assert told[layer]["zero_point_min"] == zero_point
        assert told[layer]["unused_codes"] == 256 - len(np.unique(codes))
        np.testing.assert_allclose(told[layer]["saturated_fraction"], np.isin(codes, ends).mean())
    assert [finding.kind for finding in result.findings if finding.kind == "clipped_activation"] == []


@pytest.mark.parametrize("form", ENDS)
def test_too_small_a_scale_is_found_where_it_is(form, made, tmp_path, capsys):
    copies, x = made
    changed = onnx.load(copies[form])
    tensor = next(one for one in changed.graph.initializer if one.name == "d_scale")
    scale = numpy_helper.to_array(tensor) * np.float32(0.3)
    tensor.CopyFrom(numpy_helper.from_array(scale, "d_scale"))
    onnx.save(changed, tmp_path / "tight.onnx")
    np.save(tmp_path / "x.npy", x)
    layer = list(ENDS[form])[1]
    result = onnxscope.stats(tmp_path / "tight.onnx", x)
    clipped = [finding for finding in result.findings if finding.kind == "clipped_activation"]
    assert [finding.layer for finding in clipped] == [layer]
    codes = values(tmp_path / "tight.onnx", [ENDS[form][layer]], x)[ENDS[form][layer]]
    share = np.isin(codes, (0, 255)).mean()
    low, high = ((end - int(tensor_of(copies[form], "d_zero_point"))) * float(scale) for end in (0, 255))
    text = f"{share:.1%} of the values are rounded to an end of what the codes reach, {low:.4g} to {high:.4g}"
    assert clipped[0].message == text
    files_named = [str(tmp_path / name) for name in ("tight.onnx", "x.npy", "p.json")]
    assert run(["stats", files_named[0], "-i", files_named[1], "-o", files_named[2]]) == 0
    shown = capsys.readouterr().out
    for word in ("quantized", "saturated", "unused codes", "8 bits, asymmetric, per tensor", "clipped", text):
        assert word in shown


def test_parts_of_the_data_merge_and_travel_through_a_file(made, tmp_path):
    copies, x = made
    whole = onnxscope.stats(copies["QOperator"], x, batch_size=2).profile
    whole.save(tmp_path / "p.json")
    for tap, again in zip(whole.taps, onnxscope.Profile.load(tmp_path / "p.json").taps, strict=True):
        assert tap.codes.grid == again.codes.grid
        np.testing.assert_array_equal(tap.codes.counts, again.codes.counts)
        assert tap.codes.counts.sum() == tap.state.moments.examined.sum()
    left, right = whole.taps[0], whole.taps[1]
    with pytest.raises(MergeError):
        left.merge(right)


def test_a_damaged_line_of_codes_is_refused(made, tmp_path):
    copies, x = made
    onnxscope.stats(copies["QOperator"], x).profile.save(tmp_path / "p.json")
    text = (tmp_path / "p.json").read_text(encoding="utf-8")
    changes = {
        r"codes that stand for nothing": lambda codes: codes | {"scale": 0.0},
        r"no list of 256 numbers 'counts'": lambda codes: codes | {"counts": [1]},
        r"the number 99 as 'bits'": lambda codes: codes | {"bits": 99},
    }
    for fault, change in changes.items():
        record = json.loads(text)
        record["taps"][0]["codes"] = change(record["taps"][0]["codes"])
        (tmp_path / "damaged.json").write_text(json.dumps(record), encoding="utf-8")
        with pytest.raises(ProfileError, match=fault):
            onnxscope.Profile.load(tmp_path / "damaged.json")


def test_a_float_model_has_no_columns_of_quantization(tmp_path):
    proto = model(
        [helper.make_node("MatMul", ["x", "W"], ["y"], "fc")],
        {"x": ["N", 3]},
        {"y": ["N", 3]},
        {"W": np.eye(3, dtype=np.float32)},
    )
    result = onnxscope.stats(proto, RNG.standard_normal((4, 3)).astype(np.float32))
    assert "quantized" not in result.table().columns
    assert [row["quantization"] for row in result.to_dict()["taps"]] == [None]
