"""Whether weights are as an initializer leaves them: freshly made ones are told from those that only look so."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper
from weight_models import found, fresh, kinds, normal, rng, store, uniform


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
