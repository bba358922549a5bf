"""Tables: columns by the names of inputs, or one matrix; strings, flags and missing values; what is no table."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.errors import InputError
from onnxscope.inputs.dataset import open_dataset

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
