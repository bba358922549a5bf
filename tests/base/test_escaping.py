"""Words that came from a file cannot lie: an escaping for each place where they are shown, one list of evil names."""

from __future__ import annotations

import csv
import html
import html.parser
import io
import json
import re
import xml.etree.ElementTree

import pytest
from evil_names import EVIL_NAMES, commands_of_ci

from onnxscope.base.json_files import dump_json
from onnxscope.base.tables import Table
from onnxscope.base.text import printable, safe_stem
from onnxscope.drawing.svg_charts import histogram_svg
from onnxscope.errors import RunError
from onnxscope.gate.ci_formats import Outcome, github_annotations, junit, markdown

pytestmark = pytest.mark.parametrize("name", EVIL_NAMES, ids=range(len(EVIL_NAMES)))


def is_harmless_text(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text) and not commands_of_ci(text)


def elements_of(page: str) -> set[str]:
    found: set[str] = set()

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            found.add(tag)
            assert not [key for key, _ in attributes if key.startswith("on") or key in ("href", "src")]

    Parser().feed(page)
    return found


def test_terminal(name: str) -> None:
    assert is_harmless_text(printable(name))
    assert is_harmless_text(Table(name, ("name", "count"), ((name, 1), ("", name))).text())
    assert len(Table(name, ("name",), ((name,),)).text().splitlines()) == 4


def test_json(name: str) -> None:
    text = dump_json({"name": name, "rows": [{name: 1}]})
    assert is_harmless_text(text)
    assert json.loads(text) == {"name": name, "rows": [{name: 1}]}


def test_csv(name: str) -> None:
    text = Table("", ("name", "count"), ((name, 1), (name, 2))).csv()
    assert is_harmless_text(text)
    rows = list(csv.reader(io.StringIO(text)))
    assert [len(row) for row in rows] == [2, 2, 2]
    assert not rows[1][0].lstrip().startswith(("=", "+", "-", "@", "\uff1d"))


def test_markdown(name: str) -> None:
    text = Table(name, ("name", "count"), ((name, 1),)).markdown()
    assert is_harmless_text(text)
    *_, row = text.splitlines()
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3
    assert not re.search(r"(?<!\\)[\[\]`*<]|://|www\.", row)


def test_html(name: str) -> None:
    page = Table(name, ("name",), ((name,),)).html()
    assert elements_of(page) <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert is_harmless_text(page)


def test_svg(name: str) -> None:
    picture = histogram_svg(name, [0.0, 1.0, 2.0], [1, 2])
    root = xml.etree.ElementTree.fromstring(picture)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "foreignObject", "image", "a"}
    assert all(c.isprintable() or c == "\n" for c in picture)


def test_machines_of_ci(name: str) -> None:
    outcomes = [Outcome(name, name, RunError(name, hint=name))]
    root = xml.etree.ElementTree.fromstring(junit(outcomes))
    assert {element.tag for element in root.iter()} == {"testsuites", "testsuite", "testcase", "error"}
    for element in root.iter():
        for text in (element.text or "", *element.attrib.values()):
            assert is_harmless_text(text.strip())
    assert is_harmless_text(markdown(outcomes))
    (annotation,) = github_annotations(outcomes)
    assert "\n" not in annotation
    assert re.fullmatch(r"::error file=[^:,]*,title=[^:,]*::.*", annotation)


def test_file_names(name: str) -> None:
    assert re.fullmatch(r"003_\w[\w.-]{0,79}", safe_stem(name, 3))
    assert len(safe_stem(name, 3).encode()) <= 64
