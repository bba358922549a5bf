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
