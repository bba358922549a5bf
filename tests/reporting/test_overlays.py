"""Overlays for Model Explorer: read by its own classes, and found in the graph that its ONNX adapter makes."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxscope
from onnxscope.errors import OutputError
from onnxscope.reporting.overlays import Overlay, write_node_data

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS = FIXTURES / "digits.onnx"
INPUTS = FIXTURES / "digits.npz"
STATISTICS = ("mean", "std", "min", "max", "zero_fraction")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder with every overlay of the digits network, what was said of them, and the results behind them."""
    folder = tmp_path_factory.mktemp("overlays")
    results = {
        "activations": onnxscope.features(DIGITS, INPUTS, select="value:*"),
        "weights": onnxscope.weights(DIGITS),
        "comparison": onnxscope.diff(DIGITS, FIXTURES / "digits_qdq.onnx", INPUTS),
    }
    return folder, write_node_data(folder, DIGITS, **results), results


def parsed(text):
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')


def results_of(folder, name, graph):
    return {
        key: each["value"] for key, each in json.loads((folder / f"{name}.json").read_text())[graph]["results"].items()
    }


def adapter_graph(path):
    """The main graph as Model Explorer's ONNX adapter makes it."""
    adapter = pytest.importorskip("model_explorer_onnx.main")
    graph = adapter.ONNXAdapter().convert(str(path), {})["graphs"][0]
    return graph, {node.id: node for node in graph.nodes}


def test_every_quantity_has_a_file(written):
    folder, overlays, _ = written
    expected = [f"onnxscope_{kind}_{quantity}.json" for kind in ("activation", "weight") for quantity in STATISTICS]
    expected += [f"onnxscope_error_{quantity}.json" for quantity in ("own_relative_l2", "relative_l2", "sqnr_db")]
    assert [overlay.file for overlay in overlays] == expected
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)
    assert overlays[1].name == "activation std"
    assert all(overlay.shown for overlay in overlays)


def test_model_explorers_own_classes_read_the_files(written):
    builder = pytest.importorskip("model_explorer.node_data_builder")
    import dacite
    import model_explorer

    folder, _, _ = written
    config = model_explorer.config()
    for path in sorted(folder.iterdir()):
        content = json.loads(path.read_text(encoding="utf-8"))
        graphs = {
            graph: dacite.from_dict(builder.GraphNodeData, fields, config=dacite.Config(strict=True))
            for graph, fields in content.items()
        }
        loaded = builder.ModelNodeData(graphs)
        (data,) = loaded.graphsData.values()
        assert data.results
        assert bool(data.gradient) != bool(data.thresholds)
        if data.thresholds:
            limits = [item.value for item in data.thresholds]
            assert limits == sorted(limits)
            assert limits[-1] >= max(result.value for result in data.results.values())
        stored = json.loads(loaded.to_json_string())
        for graph, fields in content.items():
            assert {key: stored[graph][key] for key in fields} == fields  # it keeps all that we say
        config.add_node_data_from_path(str(path)).add_node_data(data.name, loaded)
    assert [Path(each).name for each in config.node_data_sources[::2]] == [
        path.name for path in sorted(folder.iterdir())
    ]
    assert dataclasses.is_dataclass(config.get_node_data(0))


@pytest.mark.parametrize("name", ["digits.onnx", "digits_deployed.onnx", "digits_qdq.onnx"])
def test_every_key_is_a_node_of_the_adapters_graph(tmp_path, name):
    path = FIXTURES / name
    overlays = write_node_data(
        tmp_path,
        path,
        activations=onnxscope.features(path, INPUTS, select="value:*"),
        weights=onnxscope.weights(path),
        comparison=onnxscope.diff(path, DIGITS, INPUTS),
    )
    graph, nodes = adapter_graph(path)
    for overlay in overlays:
        if overlay.file is not None:
            content = json.loads((tmp_path / overlay.file).read_text(encoding="utf-8"))
            assert list(content) == [graph.id]
            assert set(content[graph.id]["results"]) <= set(nodes)


def test_numbers_stand_on_the_node_that_makes_the_value(written):
    folder, _, results = written
    graph, nodes = adapter_graph(DIGITS)
    for quantity in STATISTICS:
        shown = results_of(folder, f"onnxscope_activation_{quantity}", graph.id)
        for tap in results["activations"]:
            (holder,) = [node.id for node in nodes.values() if tap.tap.name in values_of(node)]
            if tap.statistics[quantity] is not None and holder in shown:
                assert shown[holder] == tap.statistics[quantity]
        shown = results_of(folder, f"onnxscope_weight_{quantity}", graph.id)
        for row in results["weights"]:
            assert shown[f"[value] {row.parameter.initializer}"] == getattr(row.summary.overall, quantity)
    errors = results_of(folder, "onnxscope_error_relative_l2", graph.id)
    for row in results["comparison"]:
        (holder,) = [node.id for node in nodes.values() if row.a.name in values_of(node)]
        assert errors[holder] == row.entire.relative_l2


def values_of(node):
    return [pair.value for item in node.outputsMetadata for pair in item.attrs if pair.key == "__tensor_tag"]


def test_what_cannot_be_shown_is_said(tmp_path):
    model = parsed("""
        g (float[2, 4] x, bool c) => (float[2, 2] s0, float[2, 2] s1, float[2, 4] unnamed,
                                      float[2, 4] bad, float[2, 4] i) {
            [split] s0, s1 = Split <axis = 1, num_outputs = 2> (x)
            unnamed = Relu(x)
            [log] bad = Log(x)
            [if] i = If (c) <
                then_branch = a () => (float[2, 4] p) { [inner] p = Exp(x) },
                else_branch = b () => (float[2, 4] q) { q = Sin(x) }
            >
        }""")
    inputs = {"x": np.zeros((2, 4), np.float32), "c": np.array(True)}
    maps = onnxscope.features(model, inputs, select="value:*")
    mean, *_ = write_node_data(tmp_path, model, activations=maps)
    assert mean.left_out == (
        ("s1", "another value of its node is shown"),
        ("unnamed", "its node has no name"),
        ("bad", "no finite number"),
        ("p", "inside a body"),
    )
    assert set(results_of(tmp_path, "onnxscope_activation_mean", "g")) == {"[value] x", "[value] c", "split", "if"}


def test_equal_models_have_errors_of_zero_and_no_ratio_to_show(tmp_path):
    earlier = json.dumps({"main_graph": {"results": {}, "name": "from an earlier call"}})
    (tmp_path / "onnxscope_error_sqnr_db.json").write_text(earlier)
    (tmp_path / "onnxscope_weight_std.json").write_text(earlier)
    (tmp_path / "notes.txt").write_text("not ours")
    same = onnxscope.diff(DIGITS, DIGITS, INPUTS)
    own, entire, ratio = write_node_data(tmp_path, DIGITS, comparison=same)
    assert set(results_of(tmp_path, "onnxscope_error_relative_l2", "main_graph").values()) == {0.0}
    assert (own.file, entire.shown) == ("onnxscope_error_own_relative_l2.json", len(same.layers))
    assert (ratio.file, ratio.shown) == (None, 0)
    assert {reason for _, reason in ratio.left_out} == {"infinite: the same in both models"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", own.file, entire.file]


def test_statistics_of_a_dataset_are_shown_alike(tmp_path):
    statistics = onnxscope.stats(DIGITS, INPUTS, exact=True)
    overlays = write_node_data(tmp_path, DIGITS, activations=statistics)
    assert [overlay.shown for overlay in overlays] == [3] * 5
    shown = results_of(tmp_path, "onnxscope_activation_std", "main_graph")
    assert math.isclose(shown["node_relu"], statistics[0].overall.std)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_node_data(tmp_path, DIGITS, activations=statistics)
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_hostile_names_stay_inside_the_files(tmp_path):
    node = onnx.helper.make_node("Relu", ["x"], ["y"], name='../../<script>\x1b\u202e"')
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "</script>\n", value[:1], value[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )
    maps = onnxscope.features(model, np.ones(2, np.float32), select="value:y")
    overlays = write_node_data(tmp_path / "a" / "b", model, activations=maps)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(each.file for each in overlays)
    text = (tmp_path / "a" / "b" / overlays[0].file).read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert json.loads(text)["</script>\n"]["results"] == {node.name: {"value": 1.0}}


def test_a_graph_without_a_name_is_called_as_the_adapter_calls_it(tmp_path):
    model = parsed("g (float[2] x) => (float[2] y) { [relu] y = Relu(x) }")
    model.graph.ClearField("name")
    onnx.save(model, tmp_path / "m.onnx")
    maps = onnxscope.features(tmp_path / "m.onnx", np.ones(2, np.float32), select="value:y")
    (mean, *_) = write_node_data(tmp_path / "out", tmp_path / "m.onnx", activations=maps)
    assert mean == Overlay("activation mean", "onnxscope_activation_mean.json", 1, ())
    assert list(json.loads((tmp_path / "out" / mean.file).read_text())) == ["<main>"]
    assert adapter_graph(tmp_path / "m.onnx")[0].id == "<main>"


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"^cannot make the folder \(.*\): .*file/x$"):
        write_node_data(tmp_path / "file" / "x", DIGITS)
