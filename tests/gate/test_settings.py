"""The `[tool.onnxscope]` table."""

from __future__ import annotations

import pytest

from onnxscope.errors import OnnxscopeError
from onnxscope.gate.settings import Settings, read_settings

TABLE = """
[tool.onnxscope]
tolerance = 1e-4
ignore = ["fc", "head.*"]
[tool.onnxscope.tolerances]
"layer*" = 1e-3
"re:layer4.*" = 1e-2
"""


def test_the_nearest_pyproject_is_read(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text(TABLE)
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    settings = read_settings()
    assert [settings.tolerance_of(name) for name in ("conv1", "layer1.0", "layer4.1")] == [1e-4, 1e-3, 1e-2]
    assert [settings.ignores(name) for name in ("fc", "head.0", "fc2")] == [True, True, False]


def test_a_named_file_holds_the_same_table_with_or_without_its_name(tmp_path):
    (tmp_path / "a.toml").write_text(TABLE)
    (tmp_path / "b.toml").write_text('tolerance = 1e-4\nignore = ["fc", "head.*"]\n')
    assert read_settings(tmp_path / "a.toml").ignore == read_settings(tmp_path / "b.toml").ignore == ("fc", "head.*")


def test_other_tools_tables_and_faults_do_not_matter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("[tool.ruff]\nline-length = 3\n", "[project]\n", "not toml"):
        (tmp_path / "pyproject.toml").write_text(text)
        assert read_settings() == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense = 1", r"\[tool.onnxscope\] has no 'nonsense'"),
        ("tolerance = -1", "not a tolerance: -1"),
        ("tolerance = true", "not a tolerance: True"),
        ("tolerance = nan", "not a tolerance: nan"),
        ("ignore = 3", "ignore a list of selectors"),
        ("ignore = [3]", "not a selector: 3"),
        ('ignore = ["re:("]', "not a regular expression"),
        ("tolerance = ", "not TOML"),
        ("tool = {onnxscope = 3}", "has no 'a table'"),
    ],
)
def test_a_wrong_table_is_an_error(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(OnnxscopeError, match=message):
        read_settings(tmp_path / "s.toml")
    with pytest.raises(OnnxscopeError, match="no such file"):
        read_settings(tmp_path / "missing.toml")


@pytest.mark.parametrize("table", ['ignore = ["typ:Conv"]', '[tool.onnxscope.tolerances]\n"typ:Conv" = 0.1'])
def test_a_selector_of_a_kind_that_does_not_exist_is_told(tmp_path, table):
    (tmp_path / "s.toml").write_text(f"[tool.onnxscope]\n{table}\n")
    with pytest.raises(OnnxscopeError, match="no kind of selector is called 'typ'") as caught:
        read_settings(tmp_path / "s.toml")
    assert caught.value.hint == "op:Conv? the kinds are op:, node:, value:, rank:, re:"
