"""Models with random and stateful nodes, written as text, and which of their values plain onnxruntime moves."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx.parser
import onnxruntime

X = np.linspace(0.1, 0.9, 24, dtype=np.float32).reshape(6, 4)


def written(text, opset=17, inputs="float[6, 4] x", outputs="float[?, ?] y", stored="", domains="", more=""):
    imports = f'["": {opset}{domains}]'
    return onnx.parser.parse_model(
        f"<ir_version: 8, opset_import: {imports}>\ng ({inputs}) => ({outputs}) {stored} {{ {text} }}{more}"
    )


def moving(model, sessions=2, runs=6):
    """Which values of the main graph plain onnxruntime gives differently in some run, and whether it stays."""
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    declared = {value.name for value in model.graph.output}
    for name in names:
        if name not in declared:
            open_model.graph.output.add().name = name
    names = [value.name for value in open_model.graph.output]
    results = []
    for _ in range(sessions):
        session = onnxruntime.InferenceSession(open_model.SerializeToString(), providers=["CPUExecutionProvider"])
        fed = {value.name: X for value in session.get_inputs()}
        results += [session.run(names, fed) for _ in range(runs)]
    return {
        name
        for index, name in enumerate(names)
        if any(not np.array_equal(one[index], other[index]) for one, other in itertools.pairwise(results))
    }


_EYE = "float[4, 4] w = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}"
_NORM = "float[4] s = {1, 1, 1, 1}, float[4] b = {0, 0, 0, 0}, float[4] m = {0, 0, 0, 0}, float[4] v = {1, 1, 1, 1}"


def dropping(trains=1):
    """Three layers, with a Dropout in training mode behind the first."""
    text = "a = Gemm(x, w) d = Dropout(a, , t) h = Gemm(d, w) y = Gemm(h, w)"
    proto = written(text, stored=f"<{_EYE}, bool t = {{{trains}}}>", inputs="float[N, 4] x", outputs="float[N, 4] y")
    for node, name in zip(proto.graph.node, ("in", "drop1", "mid", "out"), strict=True):
        node.name = name
    return proto


def quiet():
    """The same in inference mode."""
    return dropping(trains=0)


def noisy():
    """A BatchNormalization in training mode, and random nodes in the main graph and in a body."""
    proto = written(
        """a = Gemm(x, w) n, rm, rv = BatchNormalization<training_mode = 1>(a, s, b, m, v) r = RandomNormalLike(n)
        k = Add(n, r) c = Constant<value = bool {1}>()
        y = If(c) <then_branch = then () => (float[6, 4] u) { e = RandomUniformLike(k) u = Gemm(k, w) },
                   else_branch = other () => (float[6, 4] o) { o = Neg(k) }>""",
        stored=f"<{_EYE}, {_NORM}>",
    )
    for node, name in zip(proto.graph.node, ("in", "norm", "noise", "sum", "true", "choice"), strict=True):
        node.name = name
    return proto
