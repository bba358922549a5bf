"""Scripts that show a fault: with 1 where it is there, with 0 where it is not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
import pytest
from shrink_cases import CRASH, HEADER

from onnxscope.extracting.fault_script import fault_script
from onnxscope.shrinking.faults import Fault

X = np.array([1, -4], np.float32)
IMAGE = np.ones((1, 3, 4, 4), np.float32)
ENDLESS = """(float[2] x) => (float[2] y) <int64 n = {9223372036854775807}, bool go = {1}> {
    y = Loop(n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool more, float[2] next) {
        more = Identity(c)  next = Neg(s)
    }> }"""
GOOD = "(float[N] x) => (float[N] y) { y = Tanh(x) }"
GOOD_IMAGE = "(float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) { y = Tanh(x) }"
CASES = {
    "crash": (Fault("crash", "SIGSEGV"), CRASH, GOOD_IMAGE, IMAGE, "it ends with -11"),
    "hang": (Fault("hang", "1"), ENDLESS, GOOD, X, "it does not end within 1 s"),
    "nan": (Fault("nan"), "(float[N] x) => (float[N] y) { y = Log(x) }", GOOD, X, "gives NaN"),
    "infinity": (
        Fault("infinity"),
        "(float[N] x) => (float[N] y) <float z = {0}> { y = Div(x, z) }",
        GOOD,
        X,
        "gives infinite numbers",
    ),
    "error": (
        Fault("error", "x"),
        "(float[N] x) => (float[M] y) <int64[1] s = {7}> { y = Reshape(x, s) }",
        GOOD,
        X,
        "cannot be reshaped",
    ),
    "reference": (
        Fault("reference", excess=9),
        "(float[N] x) => (float[N] y) { y = Sin(x) }",
        GOOD,
        X,
        f"output 0: other numbers, off by {np.sin(-4) - np.tanh(-4):.4f}",
    ),
    "optimizations": (
        Fault("optimizations", excess=9),
        "(float[N] x) => (float[N] y) <float r = {0.5}, bool t = {1}> { d = Dropout(x, r, t)  y = Identity(d) }",
        GOOD,
        np.arange(1, 65, dtype=np.float32),
        "output 0: other numbers",
    ),
}


def shown(folder, text, x, fault, *, is_plain):
    model = onnx.parser.parse_model(text if text.startswith("<") else HEADER + text)
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "data.npz", input_0=x, output_0=np.tanh(x.astype(np.float32)), tolerance_0=1e-4)
    (folder / "reproduce.py").write_bytes(fault_script(fault, is_plain=is_plain))
    done = subprocess.run([sys.executable, folder / "reproduce.py"], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.parametrize("kind", CASES)
def test_it_ends_with_1_where_the_fault_is_and_with_0_where_it_is_not(kind, tmp_path):
    fault, wrong, right, x, said = CASES[kind]
    for is_plain in (True, False):
        script = fault_script(fault, is_plain=is_plain).decode()
        assert "@" not in script
        assert max(map(len, script.splitlines())) <= 120
        compile(script, "reproduce.py", "exec")
    code, printed = shown(tmp_path, wrong, x, fault, is_plain=kind != "nan")
    assert code == 1
    assert said in printed
    assert shown(tmp_path, right, x, fault, is_plain=kind == "infinity")[0] == 0


def test_bfloat16_is_fed_and_judged(tmp_path):
    """Its bits are stored as whole numbers, which numpy has."""
    text = "(bfloat16[N] x) => (bfloat16[N] y) { t = Cast <to = 1> (x)  l = Log(t)  y = Cast <to = 16> (l) }"
    bits = (np.array([1.5, -2], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    code, printed = shown(tmp_path, text, bits, Fault("nan"), is_plain=False)
    assert (code, printed.split()[-2:]) == (1, ["gives", "NaN"])
    assert shown(tmp_path, text, bits & 0x7FFF, Fault("nan"), is_plain=False)[0] == 0
