"""Tables: columns by the names of inputs, or one matrix; strings, flags and missing values; what is no table."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError

HEAD = '<ir_version: 9, opset_import: ["": 18]>'
PEOPLE = """id,age,city,member,visits
7,31.5,Zürich,true,3
8,,"Bern, BE",no,12
9,NA,,1,0
"""


def model_of(inputs):
    """A model that hands its inputs on."""
    names = [text.split()[-1] for text in inputs]
    outputs = ", ".join(f"{text.rpartition(' ')[0]} out_{name}" for text, name in zip(inputs, names, strict=True))
    nodes = " ".join(f"out_{name} = Identity ({name})" for name in names)
    return onnxscope.load_model(onnx.parser.parse_model(f"{HEAD} g ({', '.join(inputs)}) => ({outputs}) {{ {nodes} }}"))


COLUMNS = ["float[n, 1] age", "string[n] city", "bool[n] member", "int64[n, 1] visits"]
MATRIX = ["float[n, 3] rows"]


def opened(content, inputs, path, **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_dataset(str(path), model_of(inputs), RunOptions(**options))


def test_an_input_takes_the_column_of_its_name(tmp_path):
    dataset = opened(PEOPLE, COLUMNS, tmp_path / "people.csv")
    fed = dataset.whole().arrays
    assert dataset.count == 3
    assert fed["age"].dtype == np.float32
    assert np.array_equal(fed["age"], np.array([[31.5], [np.nan], [np.nan]], np.float32), equal_nan=True)
    assert fed["city"].tolist() == ["Zürich", "Bern, BE", ""]
    assert fed["member"].tolist() == [True, False, True]
    assert fed["visits"].tolist() == [[3], [12], [0]]
    assert dataset.notes == ("1 column of the table not fed: id",)
    assert dataset.record["files"] == ["people.csv"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_one_matrix_takes_all_columns_in_order(separator, tmp_path):
    rows = np.random.default_rng(3).standard_normal((5, 3))
    lines = [separator.join(map(repr, map(float, row))) for row in rows]
    for head in ([separator.join("cab")], []):  # with and without names
        content = b"\xef\xbb\xbf" + "\r\n".join([*head, *lines, "", ""]).encode()
        fed = opened(content, MATRIX, tmp_path / "t.tsv").whole().arrays["rows"]
        assert np.array_equal(fed, rows.astype(np.float32))


def test_a_matrix_takes_what_named_inputs_leave(tmp_path):
    fed = opened("a,key,b\n1,x,2\n3,y,4\n", ["double[n, 2] rest", "string[n] key"], tmp_path / "t.csv").whole().arrays
    assert fed["rest"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert fed["rest"].dtype == np.float64
    assert fed["key"].tolist() == ["x", "y"]


def test_statistics_are_over_the_rows(tmp_path, capsys):
    rows = np.random.default_rng(3).standard_normal((20, 3)).astype(np.float32)
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["a,b,c", *(",".join(map(repr, map(float, row))) for row in rows)]))
    onnx.save(
        onnx.parser.parse_model(f"{HEAD} g (float[n, 3] x) => (float[n, 3] y) {{ y = Tanh (x) }}"), tmp_path / "m.onnx"
    )
    arguments = ["stats", str(tmp_path / "m.onnx"), "-i", str(path), "-s", "op:Tanh", "-o", str(tmp_path / "p.json")]
    assert run([*arguments, "--format", "json", "--workers", "2", "--batch-size", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = np.tanh(rows.astype(np.float64))
    assert (found["samples"], found["taps"][0]["count"]) == (20, 60)
    assert found["taps"][0]["mean"] == pytest.approx(expected.mean(), abs=1e-6)
    assert found["taps"][0]["channels"]["mean"] == pytest.approx(list(expected.mean(0)), abs=1e-6)
    assert found["input"]["kind"] == "arrays"


def test_several_tables_and_limits(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.csv").write_text(f"a,b,c\n{number},2,3\n4,5,6\n")
    dataset = open_dataset(f"{tmp_path}/*.csv", model_of(MATRIX), RunOptions(limit=3))
    assert [dataset.load(place)[0]["rows"][0] for place in range(dataset.count)] == [1, 4, 2]
    assert open_dataset(f"rows={tmp_path}/2.csv", model_of(MATRIX), RunOptions()).count == 2


FAULTS = [
    ("a,b\n1,2\n", MATRIX, "input 'rows' takes 3 columns, and 2 are there"),
    ("a,b,c\n1,2\n", MATRIX, "row 1 has 2 values for 3 columns"),
    ("a,b,c\n1,2,x\n", MATRIX, "row 1 of the column 'c' is 'x', and float32 is wanted"),
    ("a,a,c\n1,2,3\n", MATRIX, "two columns are called 'a'"),
    ("a,b,c\n", MATRIX, "a table without rows"),
    ("", MATRIX, "a table without columns"),
    (b"a,b,c\n\xff,2,3\n", MATRIX, "not a table of text"),
    ('a,b,c\n1,2,"3\n', MATRIX, "not a table of text"),
    ("age,city\n1,x\n", COLUMNS, "no column for the input 'member'"),
    (PEOPLE.replace(",12", ",1.5"), COLUMNS, "row 2 of the column 'visits' is '1.5', and int64 is wanted"),
    (PEOPLE.replace(",12", ","), COLUMNS, "row 2 of the column 'visits' is an empty cell, and int64 is wanted"),
    (PEOPLE.replace(",no,", ",perhaps,"), COLUMNS, "row 2 of the column 'member' is 'perhaps', and bool is wanted"),
    ("a\n300\n", ["uint8[n] a"], "row 1 of the column 'a' is '300', and uint8 is wanted"),
    ("a\ninf\n", ["int64[n] a"], "row 1 of the column 'a' is 'inf', and int64 is wanted"),
    ("x\n1\n", ["float[n, 2, 2] x"], "no column becomes float32 (n, 2, 2)"),
]


@pytest.mark.parametrize(("content", "inputs", "fault"), FAULTS)
def test_what_does_not_fit_is_told_with_its_place(content, inputs, fault, tmp_path):
    with pytest.raises(InputError) as caught:
        opened(content, inputs, tmp_path / "t.csv")
    assert fault in str(caught.value)
    assert str(caught.value).endswith(f": {tmp_path / 't.csv'}")
    assert len(caught.value.hint) <= 300


def test_commas_separate_fractions_where_they_separate_nothing_else(tmp_path):
    for head in ("a;b;c\n", ""):
        fed = opened(f"{head}1,5;-2;3e2\n;0,25;NA\n", MATRIX, tmp_path / "t.csv").whole().arrays["rows"]
        assert np.array_equal(fed, np.array([[1.5, -2, 300], [np.nan, 0.25, np.nan]], np.float32), equal_nan=True)


def test_flags_are_numbers_where_these_are_wanted(tmp_path):
    fed = opened("a,b,c\nTrue,false,1\n0,1,2\n", MATRIX, tmp_path / "t.csv").whole().arrays["rows"]
    assert fed.tolist() == [[1, 0, 1], [0, 1, 2]]


def parquet_of(frame, path):
    frame.to_parquet(path)
    return str(path)


@pytest.fixture
def frame():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(
        {
            "age": [31.5, None, 7.0],
            "city": pandas.Categorical(["Zürich", "Bern, BE", None]),
            "member": [True, False, True],
            "visits": np.array([3, 12, 0], np.int16),
            "note": ["a", None, "ccc"],
        },
        index=[7, 8, 9],
    )


def test_parquet_by_the_names_of_columns(frame, tmp_path):
    """As pandas reads it again, with its index, which is no column."""
    path = parquet_of(frame, tmp_path / "people.parquet")
    dataset = open_dataset(path, model_of([*COLUMNS, "string[n] note"]), RunOptions())
    fed = dataset.whole().arrays
    assert (dataset.count, dataset.notes) == (3, ())
    assert np.array_equal(fed["age"][:, 0], frame["age"].to_numpy(np.float32), equal_nan=True)
    assert fed["city"].tolist() == ["Zürich", "Bern, BE", ""]
    assert fed["note"].tolist() == ["a", "", "ccc"]
    assert fed["member"].tolist() == frame["member"].tolist()
    assert fed["visits"].tolist() == [[3], [12], [0]]
    assert open_dataset(path, model_of(["float[n] age"]), RunOptions()).notes == (
        "4 columns of the table not fed: city, member, visits, note",
    )


def test_parquet_as_one_matrix(frame, tmp_path):
    numbers = frame[["age", "member", "visits"]]
    path = parquet_of(numbers, tmp_path / "t.parquet")
    fed = open_dataset(path, model_of(MATRIX), RunOptions()).whole().arrays["rows"]
    assert np.array_equal(fed, numbers.to_numpy(np.float32), equal_nan=True)


def test_lists_of_numbers_are_columns(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    rows = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    fixed = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), 3)
    for column in (fixed, pyarrow.array(rows.tolist())):
        pyarrow.parquet.write_table(pyarrow.table({"rows": column}), tmp_path / "t.parquet")
        fed = open_dataset(str(tmp_path / "t.parquet"), model_of(MATRIX), RunOptions()).whole().arrays["rows"]
        np.testing.assert_array_equal(fed, rows)


@pytest.mark.parametrize(
    ("column", "value", "inputs", "fault"),
    [
        ("visits", [3, None, 0], COLUMNS, "row 2 of the column 'visits' is a missing value, and int64 is wanted"),
        ("member", [1, 0, 2], COLUMNS, "row 3 of the column 'member' is 2, and bool is wanted"),
        ("age", ["x", "y", "z"], COLUMNS, "the column 'age' holds strings, and float32 is wanted"),
        ("city", [1.5, 2.5, 3.5], COLUMNS, "the column 'city' holds numbers, and str is wanted"),
        ("visits", [3, 300, 0], ["uint8[n] visits"], "row 2 of the column 'visits' is 300, and uint8 is wanted"),
        ("age", "2020-01-01", ["float[n] age"], "a column of timestamp["),
        ("age", [[1.0], [1.0, 2.0], [3.0]], ["float[n, 2] age"], "lists of several lengths are no numbers"),
        ("age", [[1.0], [1.0], [3.0]], ["float[n, 2] age"], "input 'age' takes 2 columns, and 1 are there"),
    ],
)
def test_what_of_parquet_does_not_fit(column, value, inputs, fault, frame, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame[column] = pandas.Timestamp(value) if isinstance(value, str) else value
    with pytest.raises(InputError) as caught:
        open_dataset(parquet_of(frame, tmp_path / "t.parquet"), model_of(inputs), RunOptions()).whole()
    assert str(caught.value).startswith(fault)
    assert str(caught.value).endswith(f": {tmp_path / 't.parquet'}")


def test_missing_whole_numbers_of_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    path = str(tmp_path / "t.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([1, None, 3], pyarrow.int32())}), path)
    assert np.isnan(open_dataset(path, model_of(["float[n] a"]), RunOptions()).whole().arrays["a"]).tolist() == [
        0,
        1,
        0,
    ]
    with pytest.raises(InputError, match="row 2 of the column 'a' is a missing value, and int64 is wanted"):
        open_dataset(path, model_of(["int64[n] a"]), RunOptions())


def test_without_pyarrow_the_extra_is_named(frame, tmp_path, monkeypatch):
    path = parquet_of(frame, tmp_path / "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError) as caught:
        open_dataset(path, model_of(COLUMNS), RunOptions())
    assert str(caught.value) == f"Parquet is read by pyarrow, which is not installed: {path}"
    assert caught.value.hint.startswith("`pip install 'onnxscope[tables]'`, or write the table as .csv")


def test_a_tree_on_a_table_is_what_its_comparisons_say(frame, tmp_path, capsys):
    """age < 20 or missing: 1; else visits <= 5: 2, else 3."""
    stump = helper.make_node(
        "TreeEnsembleRegressor", ["rows"], ["y"], "tree", domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=[0] * 5, nodes_nodeids=[0, 1, 2, 3, 4], nodes_featureids=[0, 0, 1, 0, 0],
        nodes_modes=["BRANCH_GTE", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[20.0, 0, 5.0, 0, 0],
        nodes_truenodeids=[2, 0, 3, 0, 0], nodes_falsenodeids=[1, 0, 4, 0, 0], nodes_hitrates=[1.0] * 5,
        nodes_missing_value_tracks_true=[0] * 5, target_treeids=[0] * 3, target_nodeids=[1, 3, 4],
        target_ids=[0] * 3, target_weights=[1.0, 2.0, 3.0],
    )  # fmt: skip
    inputs = [helper.make_tensor_value_info(name, 1, ["n", 1]) for name in ("age", "visits")]
    join = helper.make_node("Concat", ["age", "visits"], ["rows"], "join", axis=1)
    graph = helper.make_graph([join, stump], "g", inputs, [helper.make_tensor_value_info("y", 1, ["n", 1])])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
    expected = [
        1.0 if not age >= 20 else 2.0 if visits <= 5 else 3.0
        for age, visits in zip(frame.age, frame.visits, strict=True)
    ]
    assert sorted(expected) == [1.0, 1.0, 2.0]
    for path in (parquet_of(frame, tmp_path / "t.parquet"), str(tmp_path / "t.csv")):
        if path.endswith(".csv"):
            frame.to_csv(path, index=False)
        arguments = ["stats", str(tmp_path / "m.onnx"), "-i", path, "-s", "value:y", "-o", str(tmp_path / "p.json")]
        assert run([*arguments, "--format", "json", "-q"]) == 0
        (tap,) = json.loads(capsys.readouterr().out)["taps"]
        assert (tap["count"], tap["mean"]) == (3, pytest.approx(np.mean(expected)))
