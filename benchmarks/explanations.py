"""What saying why costs beside saying where: `diff --explain` against `diff`, whole processes, in turn.

python -m benchmarks.explanations [--pairs 5]    the tables: ResNet50, and a transformer encoder
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from benchmarks.comparisons import WHOLE_BATCH, compared, whole_process

PROGRAM = f"""
import sys, onnxscope
onnxscope.{{}}(*sys.argv[1:4], batch_size={WHOLE_BATCH}{{}})
"""
WAYS = {
    "diff": (PROGRAM.format("diff", ""), ""),
    "diff --explain": (PROGRAM.format("explain", ""), "3x"),
    "diff --mend": (PROGRAM.format("explain", ", mend=sys.argv[2] + '.mended', force=True"), ""),
}
ENCODER = """
import sys, torch
torch.manual_seed(0)
layer = torch.nn.TransformerEncoderLayer(128, 4, 512, activation="gelu", batch_first=True)
network = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval()
for values in network.parameters():  # which are the first block's until now
    torch.nn.init.normal_(values, 1.0 if values.dim() == 1 else 0.0, 0.05)
options = dict(input_names=["x"], dynamo=False, dynamic_axes=dict(x=dict([(0, "batch")])), opset_version=20)
torch.onnx.export(network, (torch.randn(2, 64, 128),), sys.argv[1], **options)
"""


def with_epsilon(source: Path, target: Path, op_type: str) -> None:
    """A copy in which the middle one of the normalizations has another epsilon."""
    model = onnx.load(source)
    nodes = [node for node in model.graph.node if node.op_type == op_type]
    node = nodes[len(nodes) // 2]
    kept = [attribute for attribute in node.attribute if attribute.name != "epsilon"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("epsilon", 1e-2)])
    onnx.save(model, target)


def with_other_weight(source: Path, target: Path) -> None:
    """A copy in which one convolution's weight has noise: every hypothesis is tried, and none holds."""
    model: ModelProto = onnx.load(source)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    name = convolutions[len(convolutions) // 2].input[1]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor)
    noise = 0.1 * values.std() * np.random.default_rng(0).standard_normal(values.shape)
    tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), name))
    onnx.save(model, target)


def show(title: str, a: Path, b: Path, data: Path, pairs: int) -> None:
    """Measure, and print the table."""
    ways = {way: (partial(whole_process, program, a, b, data), aim) for way, (program, aim) in WAYS.items()}
    print(compared(title, ways, pairs).text())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory(prefix="onnxscope-bench-") as name:
        import onnxscope

        a, b, other, data = (Path(name, file) for file in ("a.onnx", "b.onnx", "other.onnx", "x.npy"))
        onnxscope.convert("torch", "resnet50", a)
        with_epsilon(a, b, "BatchNormalization")
        with_other_weight(a, other)
        rng = np.random.default_rng(0)
        np.save(data, rng.standard_normal((WHOLE_BATCH, 3, 224, 224), np.float32))
        show(f"ResNet50 against a copy with another epsilon, one batch of {WHOLE_BATCH}", a, b, data, pairs)
        show(f"ResNet50 against a copy with another weight, one batch of {WHOLE_BATCH}", a, other, data, pairs)
        subprocess.run([sys.executable, "-W", "ignore", "-c", ENCODER, str(a)], check=True, capture_output=True)
        with_epsilon(a, b, "LayerNormalization")
        np.save(data, rng.standard_normal((WHOLE_BATCH, 64, 128), np.float32))
        show("An encoder (4 layers, 128 wide) against a copy with another epsilon", a, b, data, pairs)


if __name__ == "__main__":
    main()
