"""What weights, inputs and taps give reason to look at: planted faults are found, and what is well is left alone."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from onnxscope.feature_maps import features
from onnxscope.findings import GRAVITY
from onnxscope.inputs import Preset, prepare
from onnxscope.model import load_model
from onnxscope.model_findings import find_in_input, find_in_weights, find_unfused
from onnxscope.names import Names
from onnxscope.provenance import Provenance, write_provenance
from onnxscope.selectors import select_taps
from onnxscope.weight_statistics import weights

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
FLOAT = onnx.TensorProto.FLOAT


def rng():
    return np.random.default_rng(77)


def store(**arrays):
    """A model with a Conv or a MatMul for each array `name`, with a bias where there is `name_bias`."""
    inputs = [helper.make_tensor_value_info("x", FLOAT, None)]
    nodes, tensors = [], []
    for name, values in arrays.items():
        if name.endswith("_bias"):
            continue
        kind = "Conv" if values.ndim > 2 else "Gemm"
        operands = ["x", f"{name}.weight"]
        tensors.append(numpy_helper.from_array(values, f"{name}.weight"))
        if f"{name}_bias" in arrays:
            operands.append(f"{name}.bias")
            tensors.append(numpy_helper.from_array(arrays[f"{name}_bias"], f"{name}.bias"))
        options = {"transB": 1} if kind == "Gemm" else {}
        nodes.append(helper.make_node(kind, operands, [f"{name}_y"], name=name, **options))
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def found(model):
    loaded = load_model(model)
    findings = find_in_weights(weights(loaded), loaded)
    return [(each.kind, each.layer, each.channel, each.message) for each in findings]


def kinds(model):
    return [each[0] for each in found(model)]


def normal(*shape, std=0.3):
    return rng().normal(0, std, shape).astype(np.float32)


def uniform(*shape, bound):
    return rng().uniform(-bound, bound, shape).astype(np.float32)


def fresh(*shape):
    """As PyTorch makes a kernel: uniform within 1 / sqrt(fan_in)."""
    return uniform(*shape, bound=1 / np.sqrt(np.prod(shape[1:])))


def test_the_trained_networks_are_left_alone():
    for name in ("digits.onnx", "digits_deployed.onnx", "digits_qdq.onnx"):
        assert found(FIXTURES / name) == []


def test_numbers_that_are_not_finite_or_too_large_for_half_precision():
    odd, large = normal(4, 3, 3, 3), normal(4, 3, 3, 3)
    odd[0, 0, 0, :2], odd[1, 0, 0, 0] = np.nan, np.inf
    large[2, 1, 1, 1] = -70000
    assert found(store(a=odd, b=large)) == [
        ("non_finite_weight", "a", None, "a.weight holds 2 NaN and 1 infinity in 108 numbers"),
        ("float16_weight", "b", None, "b.weight reaches -70000, beyond float16's 65,504"),
    ]
    assert found(store(a=np.full((2, 2), np.nan, np.float32)))[0][0] == "non_finite_weight"


def test_kernels_that_are_constant_zero_or_repeated():
    kernel = normal(6, 3, 3, 3)
    kernel[2] = 0
    kernel[4] = kernel[1]
    constant, zeros = np.full((4, 5), 0.5, np.float32), np.zeros((4, 5), np.float32)
    assert found(store(a=kernel, b=constant, c=zeros)) == [
        ("constant_weight", "b", None, "b.weight is 0.5 in every one of its 20 numbers"),
        ("constant_weight", "c", None, "c.weight is 0 in every one of its 20 numbers"),
        ("zero_kernel", "a", 2, "a.weight is zero in every number of this channel"),
        ("duplicate_kernel", "a", 4, "a.weight is the same in this channel as in channel 1"),
    ]


def test_a_filter_that_all_channels_share_is_meant_so():
    blur = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
    assert found(store(a=np.broadcast_to(blur, (8, 1, 3, 3)).copy())) == []


def test_kernels_with_equal_statistics_but_other_numbers_are_no_duplicates():
    kernel = normal(6, 3, 3, 3)
    kernel[5] = kernel[0, ::-1, ::-1, ::-1]
    assert found(store(a=kernel)) == []


@pytest.mark.parametrize("limits", [(-2, 2), (-1, 1), (-2.5, 2.5), (-np.inf, 2), (-2, np.inf), (-3, 3)])
def test_clipped_weights_pile_up_at_their_extremes(limits):
    values = np.clip(rng().normal(size=(128, 64, 3, 3)), *limits).astype(np.float32)
    findings = found(store(a=values))
    assert [(each[0], each[1], each[2]) for each in findings] == [("clipped_weight", "a", None)]
    message = findings[0][3]
    assert message.startswith("a.weight looks clipped: ")
    for limit, end in zip(limits, ("least", "largest"), strict=True):
        count = int(np.count_nonzero(values == np.float32(limit)))
        piece = f"{count:,} of {values.size:,} numbers are exactly the {end}, {limit:.6g}"
        assert (piece in message) == np.isfinite(limit)


def test_what_only_looks_clipped():
    generator = rng()
    bell = generator.normal(size=(128, 64, 3, 3))
    bf16 = uniform(64, 64, 3, 3, bound=0.2).astype(ml_dtypes.bfloat16).astype(np.float32)
    ternary = np.sign(bell).astype(np.float32) * (np.abs(bell) > 0.5)
    scale = np.abs(bell).max() / 7
    four_bits = (np.clip(np.rint(bell / scale * 3), -8, 7) * scale).astype(np.float32)
    eight_bits = (np.rint(bell / np.abs(bell).max() * 127)).astype(np.float32)
    pruned = np.maximum(bell, 0).astype(np.float32)  # a pile at zero is sparsity, which has a column of its own
    few = np.clip(bell[:1, :2], -0.5, 0.5).astype(np.float32)[:, :, :1, :2]
    cases = {"bf16": bf16, "ternary": ternary, "four": four_bits, "eight": eight_bits, "pruned": pruned, "few": few}
    cases |= {"bell": bell.astype(np.float32), "flat": uniform(64, 64, 3, 3, bound=0.5)}
    for name, values in cases.items():
        assert "clipped_weight" not in kinds(store(a=values)), name


def test_untrained_weights_are_said_where_three_layers_agree():
    layers = {f"layer{number}": fresh(32 + number, 16, 3, 3) for number in range(3)}
    layers |= {f"layer{number}_bias": fresh(32 + number, 144)[:, 0] for number in range(3)}
    trained = {"head": normal(20, 128), "neck": normal(64, 64)}
    assert found(store(**layers, **trained)) == [
        (
            "untrained_weights",
            "layer0",
            None,
            "weights look untrained, as an initializer leaves them, in 3 of 5 layers that can be judged: layer0, "
            "layer1, layer2 (layer0.weight is uniform within sqrt(1 / fan_in) = 0.08333)",
        )
    ]
    del layers["layer2"]
    assert found(store(**layers, **trained)) == []
    assert kinds(store(**layers)) == ["untrained_weights"]  # two layers, and both agree
    del layers["layer1"]
    assert found(store(**layers)) == []


def test_long_lists_are_cut():
    layers = {f"layer{number}": fresh(32 + number, 16, 3, 3) for number in range(5)}
    assert (
        "in 5 of 5 layers that can be judged: layer0, layer1, layer2 and 2 more (layer0" in found(store(**layers))[0][3]
    )


def fitting(kernels, bias=None):
    """Whether four layers of such kernels count as untrained."""
    arrays = {f"layer{number}": kernels(number) for number in range(4)}
    if bias is not None:
        arrays |= {f"layer{number}_bias": bias for number in range(4)}
    return kinds(store(**arrays)) == ["untrained_weights"]


def test_what_only_looks_untrained():
    shape, fan = (48, 32, 3, 3), 288
    bound, he = 1 / np.sqrt(fan), np.sqrt(2 / fan)
    generator = rng()
    assert fitting(lambda _: uniform(*shape, bound=bound))
    assert fitting(lambda _: normal(*shape, std=he))
    assert fitting(lambda _: normal(*shape, std=he), np.zeros(48, np.float32))
    # Training moves every number a little: some leave the bounds.
    moved = generator.normal(0, bound / 100, shape).astype(np.float32)
    assert not fitting(lambda _: uniform(*shape, bound=bound) + moved)
    assert not fitting(lambda _: uniform(*shape, bound=0.9 * bound))
    assert not fitting(lambda _: uniform(*shape, bound=bound) + np.float32(bound / 20))
    assert not fitting(lambda _: normal(*shape, std=0.9 * he))
    # The same deviation, but heavy tails or two humps.
    assert not fitting(lambda _: generator.laplace(0, he / np.sqrt(2), shape).astype(np.float32))
    humps = generator.choice([-0.9, 0.9], shape) + generator.normal(0, np.sqrt(1 - 0.81), shape)
    assert not fitting(lambda _: (he * humps).astype(np.float32))
    outlier = normal(*shape, std=he)
    outlier[0, 0, 0, 0] = 8 * he
    assert not fitting(lambda _: outlier)
    # Weights as made, but a bias that was trained.
    assert not fitting(lambda _: uniform(*shape, bound=bound), np.full(48, 2 * bound, np.float32))
    assert not fitting(lambda _: normal(*shape, std=he), np.full(48, bound / 2, np.float32))
    assert not fitting(lambda _: uniform(*shape, bound=bound), np.full(48, np.nan, np.float32))
    # Too few numbers to tell.
    assert not fitting(lambda _: fresh(6, 3, 3, 3))
    assert not fitting(lambda _: normal(16, 8, 3, 3, std=np.sqrt(2 / 72)))


def with_norms(mean, variance):
    """Four convolutions as made, of the normal kind, each with a BatchNorm."""
    model = store(**{f"layer{number}": normal(32, 32, 3, 3, std=np.sqrt(2 / 288)) for number in range(4)})
    for number in range(4):
        names = [f"norm{number}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        for name, value in zip(names, (1, 0, mean, variance), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.full(32, value, np.float32), name))
        node = helper.make_node(
            "BatchNormalization", [f"layer{number}_y", *names], [f"n{number}"], name=f"norm{number}"
        )
        model.graph.node.append(node)
    return model


def test_batch_norms_that_moved_acquit_normal_kernels():
    ((kind, _, _, message),) = found(with_norms(0, 1))
    assert kind == "untrained_weights"
    assert message.endswith("; 4 of 4 BatchNorms are as they were made)")
    assert found(with_norms(0.1, 0.7)) == []


def test_kernels_behind_a_transpose_are_judged_in_their_own_layout():
    """Keras's: height, width, inputs, outputs."""
    model = store(**{f"layer{number}": fresh(32, 16, 3, 3) for number in range(3)})
    for number in range(3):
        stored = model.graph.initializer[number]
        kernel = numpy_helper.to_array(stored).transpose(2, 3, 1, 0) * np.float32(np.sqrt(6 * 144 / (48 * 9)))
        stored.CopyFrom(numpy_helper.from_array(kernel.copy(), f"layer{number}/kernel"))
        turn = helper.make_node("Transpose", [stored.name], [f"layer{number}.weight"], perm=[3, 2, 0, 1])
        model.graph.node.insert(0, turn)
    ((_, _, _, message),) = found(model)
    assert "uniform within sqrt(6 / (fan_in + fan_out)) = 0.1179)" in message


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
    record = prepare(inputs, inputs_model.inputs, preset=preset, recorded_preset="imagenet").record
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


CHAINS = {
    "Conv with Relu": "h = Conv(x, w) y = Relu(h)",
    "Conv with Clip": "h = Conv(x, w) y = Clip(h, low, high)",
    "Conv with LeakyRelu": "h = Conv(x, w) y = LeakyRelu(h)",
    "Conv with BatchNormalization": "h = Conv(x, w) y = BatchNormalization(h, one, one, one, one)",
    "Conv with Add": "h = Conv(x, w) y = Add(h, column)",
    "Conv with Mul": "h = Conv(x, w) y = Mul(h, column)",
    "behind": "a = Conv(x, w) h = BatchNormalization(a, one, one, one, one) y = Relu(h)",
    "ConvTranspose with BatchNormalization": "h = ConvTranspose(x, w) y = BatchNormalization(h, one, one, one, one)",
    "Gemm with Tanh": "f = Flatten(x) h = Gemm(f, dense) y = Tanh(h)",
    "Gemm with Selu": "f = Flatten(x) h = Gemm(f, dense) y = Selu(h)",
}
APART = (
    "h = Conv(x, w) y = Softplus(h)",
    "h = Conv(x, w) y = Add(column, h)",
    "h = Conv(x, w) y = Div(h, column)",
    "h = Conv<pads = [1, 1, 1, 1]>(x, w) y = Add(h, x)",
    "h = Conv(x, w) t = Neg(h) y = Relu(t)",
    "h = Conv(x, w) y = Neg(h)",
    "h = ConvTranspose(x, w) y = Relu(h)",
    "f = Flatten(x) h = Gemm(f, dense) y = Clip(h, low, high)",
    "f = Flatten(x) h = MatMul(f, dense) y = Relu(h)",
    "h = BatchNormalization(x, one, one, one, one) y = Relu(h)",
    "a = Conv(x, w) b = Relu(a) c = Neg(a) h = Add(b, c) y = Relu(h)",
)


def chain(text):
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 17]> net (float[1, 3, 8, 8] x) => (float y) {{ {text} }}'
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    stored = {"w": normal(3, 3, 3, 3), "one": np.ones(3, np.float32), "column": normal(3, 1, 1)}
    stored |= {"dense": normal(192, 5), "low": np.float32(-1), "high": np.float32(1)}
    used = {name for node in model.graph.node for name in node.input}
    for name, values in stored.items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def optimized(model, folder, tap=None):
    """How many operators beside changes of layout onnxruntime runs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if tap is not None:
        copy.graph.output.add().name = tap
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return sum(node.op_type != "ReorderOutput" and node.op_type != "ReorderInput" for node in nodes)


def unfused(model):
    loaded = load_model(model)
    return find_unfused(select_taps(Names(loaded), ["value:h"]), loaded)


@pytest.mark.parametrize("fusion", CHAINS)
def test_taps_that_keep_onnxruntime_from_fusing(fusion, tmp_path):
    model = chain(CHAINS[fusion])
    (finding,) = unfused(model)
    kind = "Conv with Relu" if fusion == "behind" else fusion
    assert finding.message == (
        f"observed where onnxruntime would fuse {kind}: {finding.layer}; numbers from there on may differ from the "
        "deployed model's by rounding, and the run is slower"
    )
    assert (finding.kind, finding.channel) == ("unfused", None)
    assert optimized(model, tmp_path, "h") > optimized(model, tmp_path)
    model.graph.output.add().name = "h"
    assert unfused(model) == ()  # it is an output anyway


@pytest.mark.parametrize("text", APART)
def test_taps_that_fuse_with_nothing(text, tmp_path):
    model = chain(text)
    assert unfused(model) == ()
    assert optimized(model, tmp_path, "h") <= optimized(model, tmp_path)


def test_taps_after_the_activation_leave_fusions_alone():
    model = load_model(FIXTURES / "digits.onnx")
    assert find_unfused(select_taps(Names(model), []), model) == ()
    (finding,) = find_unfused(select_taps(Names(model), [], at="pre"), model)
    assert "fuse Conv with Relu and Conv with BatchNormalization: stem.0, block.0, down.0;" in finding.message


def test_every_kind_has_its_gravity():
    assert len(set(GRAVITY)) == len(GRAVITY)
    model = store(a=np.full((2, 2), np.nan, np.float32), b=np.zeros((4, 5), np.float32))
    assert kinds(model) == ["non_finite_weight", "constant_weight"]
