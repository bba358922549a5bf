"""Which inputs are made from `--input-shape` and forward()'s signature, and what its faults read like."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from onnxscope.errors import ConversionError  # noqa: E402
from onnxscope_torch.examples import make_example  # noqa: E402
from onnxscope_torch.observation import observe  # noqa: E402


class Two(torch.nn.Module):
    def forward(self, left, right, scale=None):
        return left if scale is None else right


class Any(torch.nn.Module):
    def forward(self, first, *others, flag=None):
        return first


def _example(module, *shapes, static=False):
    return make_example(module, tuple(shapes), static=static, seed=0, source="net.py:Two")


def test_names_come_from_the_signature_whatever_the_order():
    example = _example(Two(), ("right:int64", (1, 7)), ("", (1, 3)))
    assert example.names == ("left", "right")
    assert [(tuple(v.shape), v.dtype) for v in example.positional] == [
        ((2, 3), torch.float32),
        ((2, 7), torch.int64),
    ]
    assert example.dynamic_axes == {"left": {0: "batch"}, "right": {0: "batch"}}
    assert not example.positional[1].any()  # zeros are valid for every embedding


def test_what_follows_a_gap_goes_by_keyword():
    class Gap(torch.nn.Module):
        def forward(self, x, skipped=None, mask=None):
            return x

    example = _example(Gap(), ("mask:bool", (1, 3)), ("x", (1, 3)))
    assert example.names == ("x", "mask")
    assert len(example.positional) == 1
    assert example.keywords["mask"].all()


def test_variadic_inputs_are_numbered():
    example = _example(Any(), ("", (1, 3)), ("flag", (1,)), ("", (1, 4)))
    assert example.names == ("first", "others_0", "flag")


def test_dynamic_dimensions_are_named_after_their_input():
    example = _example(Two(), ("", (None, 3, None, None)), ("", (5, None)))
    assert example.dynamic_axes == {"left": {0: "batch", 2: "left_2", 3: "left_3"}, "right": {0: "batch", 1: "right_1"}}
    assert [tuple(v.shape) for v in example.positional] == [(5, 3, 224, 224), (5, 16)]


def test_static_keeps_the_first_axis():
    example = _example(Two(), ("", (1, 3)), ("", (7, None)), static=True)
    assert example.dynamic_axes == {"left": {}, "right": {1: "right_1"}}
    assert [tuple(v.shape) for v in example.positional] == [(1, 3), (7, 16)]


def test_the_values_depend_on_the_seed_alone():
    first, second = (_example(Two(), ("", (1, 3)), ("", (1, 3))) for _ in range(2))
    assert torch.equal(first.positional[0], second.positional[0])
    assert not torch.equal(first.positional[0], first.positional[1])


@pytest.mark.parametrize(
    ("shapes", "message", "hint"),
    [
        (
            (),
            "no shape for the input 'left': net.py:Two",
            "`--input-shape left=1,3,224,224`; forward() takes left, right",
        ),
        ((("", (1, 3)),), "no shape for the input 'right': net.py:Two", "`--input-shape right="),
        ((("x", (1, 3)),), "forward() has no input named 'x': net.py:Two", "its inputs: left, right, scale"),
        ((("", (1,)),) * 4, "4 input shapes for a forward() of 3: net.py:Two", "its inputs: left, right, scale"),
        ((("left", (1,)), ("left", (2,))), "two shapes for the input 'left': net.py:Two", ""),
        ((("", (1, 0)),), "an input shape has a dimension below 1, (1, 0): net.py:Two", ""),
        ((("left:int33", (1, 3)),), "no element type named 'int33': net.py:Two", "int64"),
        (
            (("", (3, 3)), ("", (7, 3))),
            "the inputs' first axes differ (3, 7) and cannot all be the batch: net.py:Two",
            "`--static`",
        ),
    ],
)
def test_faults_of_the_shapes(shapes, message, hint):
    with pytest.raises(ConversionError) as caught:
        _example(Two(), *shapes)
    assert str(caught.value) == message
    assert hint in (caught.value.hint or "")


def test_a_forward_that_fails_names_the_shapes():
    net = torch.nn.Linear(4, 4)
    example = make_example(net, (("", (1, 3)),), static=False, seed=0, source="net.py:Two")
    with pytest.raises(ConversionError) as caught:
        observe(net, example, "net.py:Two")
    assert str(caught.value).startswith("forward() failed on input=2,3 (RuntimeError: mat1 and mat2 shapes cannot")
    assert str(caught.value).endswith("): net.py:Two")
    assert "`--input-shape`" in caught.value.hint


def test_what_forward_reads_and_what_batch_norm_follows():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)
            self.after = torch.nn.BatchNorm2d(4)
            self.idle = torch.nn.Linear(2, 2)

        def forward(self, x):
            return {"a": self.after(self.bn(self.conv(x)).relu()), "b": (x + 1, x - 1)}

    net = Net().eval()
    seen = observe(net, make_example(net, (("", (1, 3, 4, 4)),), static=False, seed=0, source="x"), "x")
    assert seen.output_names == ("a", "b_0", "b_1")
    assert seen.batch_norms == {"bn": "conv"}
    idle = {"idle.weight", "idle.bias", "bn.num_batches_tracked", "after.num_batches_tracked"}
    assert seen.used == set(net.state_dict()) - idle
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
