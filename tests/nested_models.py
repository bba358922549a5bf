"""Models with more graphs than one: local functions, and bodies."""

from __future__ import annotations

import onnx.parser
from onnx import ModelProto

GROWING = """
    <ir_version: 10, opset_import: ["": 21]>
    net (float[k] x, int64 n) => (float[m] y) <bool go = {1}> {
        y = Loop(n, go, x) <body = b (int64 i, bool c, float[p] s) => (bool more, float[q] next) {
            more = Identity(c)
            steady = Cast<to = 1>(i)
            next = Concat<axis = 0>(s, s)
        }>
    }"""
"""A loop whose value `next` is twice as long in every iteration, while `steady` stays a single number."""


def with_functions(graph: str, functions: str) -> ModelProto:
    """A model from the text of its graph, and of its `function`s, which it calls `l.NAME`."""
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17, "l": 1]> {graph} {functions}')


def function(header: str, body: str) -> str:
    return f'<domain: "l", opset_import: ["": 17, "l": 1]> {header} {{ {body} }}\n'


def doubling(levels: int) -> ModelProto:
    """Functions that each call the one before twice: 2**levels nodes."""
    functions = function("f0 (x) => (y)", "y = Relu(x)") + "".join(
        function(f"f{level} (x) => (y)", f"a = l.f{level - 1}(x)  y = l.f{level - 1}(a)")
        for level in range(1, levels + 1)
    )
    return with_functions(f"g (float[N] x) => (float[N] y) {{ y = l.f{levels}(x) }}", functions)
