"""A mended copy: weights beside it, several batches, several layers, and what is never written or kept."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.errors import InputError, OutputError
from onnxscope.explaining.mended_copy import mended_files, save_mended

RNG = np.random.default_rng(13)
X = RNG.standard_normal((7, 4, 6, 6)).astype(np.float32)
STORED = {f"w{number}": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32) / 4 for number in range(4)}


def network(slopes=(0.2, 0.3, 0.1), w1=STORED["w1"]):
    conv = "Conv <pads = [1, 1, 1, 1]>"
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": 17]>
        net (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) {{
            a = {conv} (x, w0) b = LeakyRelu <alpha = {slopes[0]}> (a) c = {conv} (b, w1)
            d = LeakyRelu <alpha = {slopes[1]}> (c) e = {conv} (d, w2) f = LeakyRelu <alpha = {slopes[2]}> (e)
            y = {conv} (f, w3) }}""")
    for name, values in (STORED | {"w1": w1}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return model


def answer(path):
    return onnxruntime.InferenceSession(path).run(None, {"x": X})[0]


def saved(model, path, **options):
    onnx.save(model, path, **options)
    return path


OUTSIDE = {"save_as_external_data": True, "size_threshold": 0, "location": "b.bin"}


def test_weights_outside_of_the_file_are_read_where_they_lie_and_written_beside_the_copy(tmp_path):
    a = saved(network(), tmp_path / "a.onnx")
    b = saved(network((0.2, 0.01, 0.1), STORED["w1"].swapaxes(2, 3)), tmp_path / "b.onnx", **OUTSIDE)
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "mended.onnx"
    result = onnxscope.explain(a, b, X)
    assert len(result.edits) == 2
    files = save_mended(result.second, result.edits, out, most_inline_bytes=0)
    assert files == [str(path) for path in mended_files(out)]
    np.testing.assert_allclose(answer(out), answer(a), rtol=1e-4, atol=1e-5)
    assert onnxscope.diff(a, out, X).equal
    files = save_mended(result.second, result.edits, out)  # it fits into one file, and no old one is left beside it
    assert [path.name for path in out.parent.iterdir()] == ["mended.onnx"]
    np.testing.assert_allclose(answer(out), answer(a), rtol=1e-4, atol=1e-5)


def test_a_copy_is_never_written_over_the_weights_that_it_is_made_of(tmp_path):
    a = saved(network(), tmp_path / "a.onnx")
    b = saved(network((0.2, 0.01, 0.1)), tmp_path / "c", **OUTSIDE | {"location": "m.onnx.data"})
    before = (tmp_path / "m.onnx.data").read_bytes()
    with pytest.raises(OutputError, match="would replace an input"):
        onnxscope.explain(a, b, X, mend=tmp_path / "m.onnx", force=True)
    assert (tmp_path / "m.onnx.data").read_bytes() == before
    with pytest.raises(InputError, match="nothing is explained, so there is nothing to mend"):
        onnxscope.explain(a, a, X).save_mended(tmp_path / "n.onnx")
    assert not (tmp_path / "n.onnx").exists()


@pytest.mark.parametrize("batch_size", [2, 7])
def test_two_guilty_layers_are_explained_and_mended_in_however_many_batches(batch_size, tmp_path):
    a, b = (
        saved(network(slopes), tmp_path / f"{name}.onnx")
        for name, slopes in (("a", (0.2, 0.3, 0.1)), ("b", (0.5, 0.3, 0.05)))
    )
    result = onnxscope.explain(a, b, X, batch_size=batch_size, mend=tmp_path / "mended.onnx")
    assert [(each.a.name, edit.what, edit.wanted) for each in result.explanations for edit in each.edits] == [
        ("b", "alpha", pytest.approx(0.2)),
        ("f", "alpha", pytest.approx(0.1)),
    ]
    assert result.mended.equal
    np.testing.assert_allclose(answer(tmp_path / "mended.onnx"), answer(a), rtol=1e-4, atol=1e-5)


def test_of_two_guilty_layers_the_one_that_is_explained_is_mended(tmp_path):
    noisy = STORED["w1"] + 0.05 * RNG.standard_normal(STORED["w1"].shape).astype(np.float32)
    a, b = network(), network((0.2, 0.3, 0.5), noisy)
    result = onnxscope.explain(a, b, X, mend=tmp_path / "mended.onnx")
    assert [each.is_explained for each in result.explanations] == [False, True]
    assert not result.mended.equal
    assert [row.a.name for row in result.mended.guilty] == ["d"]


def test_what_mends_the_first_samples_alone_is_no_explanation():
    text = """<ir_version: 9, opset_import: ["": 17]> net (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w0) c = Conv <pads = [1, 1, 1, 1]> (x, w1)
        k = Constant <value = float {{100}}> () g = Add(c, k) {} y = Conv (e, w3) }}"""
    a, b = (onnx.parser.parse_model(text.format(body)) for body in ("d = Sub(a, g) e = Abs(d)", "e = Sub(a, g)"))
    for model in (a, b):
        model.graph.initializer.extend(numpy_helper.from_array(STORED[name], name) for name in ("w0", "w1", "w3"))
    (alone,) = onnxscope.explain(a, b, X[:2], batch_size=1).explanations
    assert alone.text.startswith("B's Sub takes its inputs in another order than A's")
    (explanation,) = onnxscope.explain(
        a, b, X[:2] * np.array([1, 1000], np.float32).reshape(2, 1, 1, 1), batch_size=1
    ).explanations
    assert (
        explanation.text == "nothing in the table explains it: what mends the first samples does not mend all of them"
    )
    assert not explanation.is_explained
