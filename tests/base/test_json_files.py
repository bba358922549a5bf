"""Strict JSON, and untrusted files whose every fault is named."""

from __future__ import annotations

import json

import pytest

from onnxscope.base.json_files import MAX_INTEGER, JsonFormat, dump_json, parse_json
from onnxscope.errors import ProfileError

FORMAT = JsonFormat(
    noun="ledger",
    schema="ledger/1",
    limit_bytes=1000,
    error=ProfileError,
    made_by="`bank` writes one",
    other_schema="ask the other bank",
    damaged="count again",
)


def ledger(tmp_path, **values):
    path = tmp_path / "l.json"
    path.write_text(json.dumps({"schema": "ledger/1", **values}))
    return FORMAT.read(path)


def fault(read):
    with pytest.raises(ProfileError) as caught:
        read()
    return str(caught.value), caught.value.hint


def test_json_keeps_the_order_of_keys_and_ends_with_a_newline() -> None:
    assert dump_json({"b": 1, "a": [True, None]}) == '{\n  "b": 1,\n  "a": [true, null]\n}\n'
    assert dump_json({"a": [{"b": 1}, {"c": {}}]}) == '{\n  "a": [\n    {"b": 1},\n    {"c": {}}\n  ]\n}\n'


def test_json_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"a": float("nan")})


def test_json_carries_any_string_without_acting_on_a_terminal() -> None:
    record = {"é\x1b[31m\n": "漢\x9b1m\x7f\u202e\U000e0001\udcff\u2028😀"}
    text = dump_json(record)
    assert json.loads(text) == record
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "é" in text
    assert "漢" in text
    assert text.encode()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "Expecting value"),
        (b"\xff\xfe\xff", "can't decode"),
        ("[" * 100_000, "^nested too deeply$"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "^a key occurs twice$"),
        ("[NaN]", "^NaN is no number$"),
        ('{"a": -Infinity}', "^-Infinity is no number$"),
    ],
)
def test_what_is_no_strict_json_is_refused(text, fault):
    with pytest.raises(ValueError, match=fault):
        parse_json(text)


def test_json_is_read_as_it_was_written():
    assert parse_json(b'{"a": [1, 2.5, null, "\\u00e9"]}') == {"a": [1, 2.5, None, "é"]}


def test_a_file_of_another_kind_is_named_with_what_makes_the_right_one(tmp_path):
    path = tmp_path / "l.json"
    assert fault(lambda: FORMAT.read(path)) == (f"no such file: {path}", "`bank` writes one")
    for text, message, hint in (
        ("{", "not JSON, or cut short", "`bank` writes one"),
        ("[]", "not a ledger (no schema in it)", "`bank` writes one"),
        ('{"schema": 1}', "not a ledger (no schema in it)", "`bank` writes one"),
        ('{"schema": "ledger/2\\u001b"}', r"the schema 'ledger/2\x1b' is not 'ledger/1'", "ask the other bank"),
    ):
        path.write_text(text)
        assert fault(lambda: FORMAT.read(path)) == (f"{message}: {path}", hint)
    path.write_text(" " * 1001)
    assert fault(lambda: FORMAT.read(path))[0] == f"1,001 bytes are more than the 1,000 that we read: {path}"


def test_fields_are_what_the_file_holds(tmp_path):
    fields = ledger(tmp_path, owner="A", total=3, note=None, days=[1, None], key="00ff", of={"a": 2}, rows=[{"n": 1}])
    assert fields.text("owner") == "A"
    assert fields.count("total") == 3
    assert fields.optional("note", str) is None
    assert fields.optional("owner", str) == "A"
    assert fields.items("days") == [1, None]
    assert fields.list_or_none("days", (int, type(None))) == [1, None]
    assert fields.list_or_none("note", (int,)) is None
    assert fields.hexadecimal("key", 16) == 255
    assert fields.mapping("of") == fields.part("of").values == fields.counts("of") == {"a": 2}
    assert [row.count("n") for row in fields.rows("rows")] == [1]
    fields.expect({"owner": (str,), "note": (int, type(None))})


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda fields: fields.text("total"), "no text 'total'"),
        (lambda fields: fields.count("owner"), "no whole number 'owner'"),
        (lambda fields: fields.count("open"), "no whole number 'open'"),
        (lambda fields: fields.count("debt"), "the number -1 as 'debt'"),
        (lambda fields: fields.count("total", 2), "the number 3 as 'total'"),
        (lambda fields: fields.count("much"), f"the number {MAX_INTEGER + 1} as 'much'"),
        (lambda fields: fields.mapping("absent"), "no object 'absent'"),
        (lambda fields: fields.optional("total", str), "no str 'total'"),
        (lambda fields: fields.items("owner"), "no list 'owner'"),
        (lambda fields: fields.list_or_none("days", (int,)), "a wrong 'days'"),
        (lambda fields: fields.list_or_none("flags", (int,)), "a wrong 'flags'"),
        (lambda fields: fields.hexadecimal("owner", 16), "no digest 'owner'"),
        (lambda fields: fields.rows("days"), "no list of objects 'days'"),
        (lambda fields: fields.rows("rows")[1].text("n"), "no text 'n' in rows[1]"),
        (lambda fields: fields.part("of").count("a"), "no whole number 'a' in of"),
        (lambda fields: fields.counts("of"), "no whole number 'a' in of"),
        (lambda fields: fields.expect({"absent": (type(None),)}), "no absent"),
        (lambda fields: fields.expect({"open": (int,)}), "no open"),
        (lambda fields: fields.fault("too little in it"), "too little in it"),
    ],
)
def test_every_fault_names_its_place_and_the_file(read, message, tmp_path):
    fields = ledger(
        tmp_path,
        owner="A",
        total=3,
        open=True,
        debt=-1,
        much=MAX_INTEGER + 1,
        days=[1, "2"],
        flags=[True],
        rows=[{"n": "1"}, {"n": 1}],
        of={"a": "b"},
    )

    def checked():
        with fields.checking():
            read(fields)

    assert fault(checked) == (f"the ledger has {message}: {tmp_path / 'l.json'}", "count again")
