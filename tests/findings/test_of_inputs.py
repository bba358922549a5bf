"""What speaks against the pre-processing of an input: presets and arrays that do not fit the model."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
import onnx
from feeding import whole
from onnx import helper, numpy_helper
from PIL import Image
from weight_models import FLOAT, normal, rng, store

from onnxscope.analyses.feature_maps import features
from onnxscope.findings.of_inputs import find_in_input
from onnxscope.inputs.presets import Preset
from onnxscope.model.loading import load_model
from onnxscope.model.provenance import Provenance, write_provenance

HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def recording(preset, shape=("b", 3, 8, 10), elem_type=FLOAT):
    """A convolution that reads its input directly, of a model that records a preset."""
    model = store(conv=normal(4, 3, 3, 3))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", elem_type, list(shape)))
    if preset is not None:
        metadata = write_provenance(Provenance("torch", "2", "faithful", "net", preset))
        helper.set_model_props(model, metadata)
    return load_model(model)


def in_input(inputs, recorded, preset=None):
    model = inputs_model = recorded if not isinstance(recorded, str | None) else recording(recorded)
    recipe = json.dumps(preset.to_dict()) if isinstance(preset, Preset) else preset
    record = whole(inputs, inputs_model.inputs, preprocess=recipe, recorded_preset="imagenet").record
    return [(each.kind, each.layer, each.channel, each.message) for each in find_in_input(record, model)]


def test_another_preset_than_the_recorded_one():
    photo = str(HOPPER)
    assert in_input(photo, "imagenet") == in_input(photo, None, "none") == in_input(photo, "caffe", "caffe") == []
    assert in_input(photo, "imagenet", "unit") == [
        (
            "input_range",
            "x",
            None,
            "prepared with the preset 'unit', which gives numbers from 0 to 1, and the model records 'imagenet', which "
            "gives numbers from -2.12 to 2.64",
        )
    ]
    order = "prepared as RGB with the preset 'imagenet', and the model records BGR ('caffe')"
    assert [each[0] for each in in_input(photo, "caffe", "imagenet")] == ["input_range", "input_order"]
    assert in_input(photo, "caffe", "imagenet")[1] == ("input_order", "x", None, order)
    # The same numbers in another order of channels are no other range; other means are.
    swapped = Preset("swapped", order="BGR", divisor=255, mean=(0.406, 0.456, 0.485), std=(0.225, 0.224, 0.229))
    assert [each[0] for each in in_input(photo, "imagenet", swapped)] == ["input_order"]
    near = Preset("near", resize="crop", divisor=255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.2250001))
    assert in_input(photo, "imagenet", near) == []
    assert in_input(photo, '{"name": "unreadable", "size": -1}', "unit") == []


def test_arrays_that_the_recorded_preset_does_not_make():
    seen = np.asarray(Image.open(HOPPER).convert("RGB").resize((10, 8)), np.float32).transpose(2, 0, 1)[None]
    unit = seen / 255
    mean, std = (np.array(each, np.float32)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    right = (unit - mean) / std
    makes = "the preset that the model records, 'imagenet', makes -2.12 to 2.64"
    assert in_input(right, "imagenet") == in_input(unit, "unit") == in_input(seen, "none") == []
    ((kind, layer, channel, message),) = in_input(seen, "imagenet")
    assert (kind, layer, channel) == ("input_range", "x", None)
    assert message == f"holds numbers from {seen.min():.3g} to {seen.max():.3g}; {makes}"
    ((_, _, _, message),) = in_input(unit, "imagenet")
    held = f"holds numbers from {unit.min():.3g} to {unit.max():.3g}"
    assert message == f"{held}; {makes}: it looks as if mean and deviation had been left out"
    ((_, _, _, message),) = in_input(unit, "none")
    assert message.endswith("'none', makes 0 to 255: it looks divided by 255 once too often")
    # In BGR the darkest blue would be too dark for a red.
    flipped = right[:, ::-1].copy()
    flipped[0, 0, 0, 0] = (1 - 0.406) / 0.225
    ((_, _, _, message),) = in_input(flipped, "imagenet")
    assert message == (
        f"holds numbers from {flipped[0, 0].min():.3g} to 2.64 in channel 0; the preset that the model records, "
        "'imagenet', makes -2.12 to 2.25"
    )


def test_inputs_of_which_nothing_can_be_told():
    pixels = rng().integers(0, 256, (1, 3, 8, 10)).astype(np.float32)
    assert in_input("random", "imagenet") == []
    assert in_input(np.full((1, 3, 8, 10), np.nan, np.float32), "imagenet") == []
    assert in_input(np.zeros((1, 3, 8, 10), np.float32), "imagenet") == []
    assert in_input(pixels * 3, None) == in_input(pixels / 255, None) == in_input(pixels - 100, None) == []
    whole = recording("imagenet", elem_type=onnx.TensorProto.UINT8)
    assert in_input(pixels.astype(np.uint8), whole) == []
    tokens = recording("imagenet", shape=("b", 7))
    assert in_input(np.full((1, 7), 300, np.float32), tokens) == []
    one = recording("imagenet", shape=("b", 1, 8, 10))
    assert in_input(pixels[:, :1], one) == []


def test_raw_pixels_are_said_where_the_model_neither_records_nor_scales_them():
    pixels = rng().integers(0, 256, (1, 3, 8, 10)).astype(np.float32)
    assert in_input(pixels, None) == [
        (
            "input_range",
            "x",
            None,
            "holds numbers from 0 to 255, like pixels that were not scaled, and goes into a convolution as it is; the "
            "model records no preset that would say whether that is meant",
        )
    ]
    turned = store(conv=normal(4, 3, 3, 3))
    turned.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOAT, ["b", 8, 10, 3]))
    turned.graph.node[0].input[0] = "t"
    turned.graph.node.insert(0, helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]))
    assert [each[0] for each in in_input(np.moveaxis(pixels, 1, 3), load_model(turned))] == ["input_range"]
    for kind in ("Div", "Sub", "Mul"):
        scaling = store(conv=normal(4, 3, 3, 3))
        scaling.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOAT, ["b", 3, 8, 10]))
        scaling.graph.initializer.append(numpy_helper.from_array(np.float32(255), "scale"))
        scaling.graph.node[0].input[0] = "t"
        scaling.graph.node.insert(0, helper.make_node(kind, ["x", "scale"], ["t"]))
        assert in_input(pixels, load_model(scaling)) == []


def test_the_record_of_feature_maps_is_what_is_judged():
    model = recording("imagenet")
    maps = features(model, str(HOPPER), preprocess="none")
    assert [each.kind for each in find_in_input(maps.input, model)] == ["input_range"]
