"""Values that would not fit into memory are refused before anything is run, by their node and their size."""

import os
import time

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.base.limits import MEMORY_LIMIT
from onnxscope.cli.main import run
from onnxscope.errors import RunError
from onnxscope.model.loading import load_model
from onnxscope.selection import large_values
from onnxscope.selection.large_values import refuse_large_values

TERA = 1 << 40
HEAD = '<ir_version: 9, opset_import: ["": 17]>'


def model(inputs, nodes, **stored):
    proto = onnx.parser.parse_model(f"{HEAD} g ({inputs}) => (float[] y) {{ {nodes} }}")
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    for name, values in stored.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return proto


M = 1 << 20
COLUMN, ROW = np.zeros((M, 1), np.float32), np.zeros((1, M), np.float32)
DOUBLED = "".join(f" v{i} = Concat<axis = 0>(v{i - 1}, v{i - 1})" for i in range(1, 30))
BOMBS = {
    "Expand": (model("float[1] x", "y = Expand(x, s)", s=[TERA]), "4.4 TB"),
    "Tile": (model("float[1, 1] x", "y = Tile(x, s)", s=[M, M]), "4.4 TB"),
    "Range": (
        model(
            "float[1] x",
            "r = Range(a, b, c) y = Cast<to = 1>(r)",
            **{name: np.int64(number) for name, number in (("a", 0), ("b", TERA), ("c", 1))},
        ),
        "8.8 TB",
    ),
    "Resize": (model("float[1, 1, 8, 8] x", "y = Resize(x, , , s)", s=[1, 1, M, M]), "4.4 TB"),
    "Resize by scales": (
        model("float[1, 1, 8, 8] x", "y = Resize(x, , s)", s=np.array([1, 1, M / 8, M / 8], np.float32)),
        "4.4 TB",
    ),
    "Pad": (model("float[1, 1] x", "y = Pad(x, p)", p=[0, 0, M, M]), "4.4 TB"),
    "ConstantOfShape": (model("float[1] x", "y = ConstantOfShape(s)", s=[M, M]), "4.4 TB"),
    "OneHot": (
        model(f"int64[{M}] x", "y = OneHot(x, d, v)", d=np.int64(M), v=np.array([0, 1], np.float32)),
        "4.4 TB",
    ),
    "MatMul": (model("float[1] x", "y = MatMul(a, b)", a=COLUMN, b=ROW), "4.4 TB"),
    "Einsum": (model("float[1] x", 'y = Einsum<equation = "ij,jk->ik">(a, b)', a=COLUMN, b=ROW), "4.4 TB"),
    "Add": (model("float[1] x", "y = Add(a, b)", a=COLUMN, b=ROW), "4.4 TB"),
    "MaxPool": (
        model(
            "float[1, 1, 8, 8] x",
            f"y = MaxPool<kernel_shape = [{M + 1}, {M + 1}], pads = [{M}, {M}, {M}, {M}]>(x)",
        ),
        "4.4 TB",
    ),
    "Concat": (
        model("float[1024] x", f"v0 = Concat<axis = 0>(x, x){DOUBLED} y = Concat<axis = 0>(v29, v29)"),
        "137 GB",  # the first that does not fit
    ),
    "Tile, and again": (
        model("float[1] x", "a = Tile(x, s) b = Tile(a, s) y = Tile(b, s)", s=[1 << 14]),
        "17.6 TB",
    ),
    "RandomNormal": (model("float[1] x", f"y = RandomNormal<shape = [{M}, {M}]>()"), "4.4 TB"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_cannot_fit_is_refused_by_node_and_size(name, monkeypatch):
    monkeypatch.setattr(large_values, "allowed_memory_bytes", lambda: 64 << 30)
    proto, size = BOMBS[name]
    start = time.monotonic()
    with pytest.raises(RunError) as caught:
        refuse_large_values(load_model(proto))
    assert time.monotonic() - start < 30
    operator = name.split()[0].rstrip(",")
    assert f"({operator}) would make {size}, more" in str(caught.value)
    assert str(caught.value).endswith(" more than the 68.7 GB of memory that may be used: g")
    assert size is None or size.replace(",", "") in str(caught.value).replace(",", "").replace("e+03", "")
    assert caught.value.hint == "`--memory-limit` allows more"


def test_a_bomb_in_a_body_is_found(monkeypatch):
    monkeypatch.setattr(large_values, "allowed_memory_bytes", lambda: 64 << 30)
    proto = onnx.parser.parse_model(f"""{HEAD} g (bool c, float[1] x) => (float[N] y) <int64[1] s = {{{TERA}}}> {{
        y = If (c) <then_branch = t () => (float[N] p) {{ p = Expand(x, s) }},
                    else_branch = e () => (float[N] q) {{ q = Identity(x) }}> }}""")
    with pytest.raises(RunError, match="would make"):
        refuse_large_values(load_model(proto))


def test_every_command_that_runs_refuses_it(tmp_path):
    onnx.save(BOMBS["Expand"][0], tmp_path / "m.onnx")
    path = tmp_path / "m.onnx"
    assert onnxscope.inspect(path).to_dict()
    for call in (
        lambda: onnxscope.features(path, "random", select="*"),
        lambda: onnxscope.stats(path, "random", select="value:*"),
        lambda: onnxscope.diff(path, path, "random"),
        lambda: onnxscope.report(path, "random", select="value:*"),
        lambda: onnxscope.snapshot(path, "random"),
    ):
        with pytest.raises(RunError, match="would make"):
            call()


def test_an_ordinary_model_is_not_inferred_for_it(monkeypatch):
    inferred = []
    monkeypatch.setattr("onnxscope.model.loading.infer_types", lambda model: inferred.append(model) or {})
    ordinary = model(
        "float[1, 64, 56, 56] x",
        "a = Resize(x, , s) b = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1]>(a, w) c = Tile(b, t)"
        " d = Concat<axis = 0>(c, c) y = Pad(d, p)",
        s=np.array([1, 1, 2, 2], np.float32),
        w=np.zeros((64, 8, 3, 3), np.float32),
        t=[1, 2, 2, 2],
        p=[0, 0, 1, 1, 0, 0, 1, 1],
    )
    refuse_large_values(load_model(ordinary))
    assert inferred == []


def test_what_fits_is_not_refused(monkeypatch):
    monkeypatch.setattr(large_values, "allowed_memory_bytes", lambda: 5 << 40)
    refuse_large_values(load_model(BOMBS["Expand"][0]))
    monkeypatch.setattr(large_values, "allowed_memory_bytes", lambda: None)
    refuse_large_values(load_model(BOMBS["Tile"][0]))


def test_the_limit_is_the_one_that_was_given(tmp_path, capsys):
    onnx.save(model("float[1] x", "y = Expand(x, s)", s=[1 << 28]), tmp_path / "m.onnx")
    command = ["stats", str(tmp_path / "m.onnx"), "-i", "random", "-s", "value:*", "-o", str(tmp_path / "p.json")]
    assert run([*command, "--memory-limit", "600M"]) == 2
    line = capsys.readouterr().err.splitlines()[0]
    assert "(Expand) would make 1.07 GB, more than the 629 MB of memory that may be used: m.onnx" in line
    assert MEMORY_LIMIT not in os.environ
