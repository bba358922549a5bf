"""The documentation site: it builds without a warning, needs no network, and every link in it leads somewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from onnxscope.cli.main import cli

pytest.importorskip("mkdocs")
ROOT = Path(__file__).resolve().parents[2]
LOADED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}


class Page(HTMLParser):
    """What one page loads, where it leads, and which places it has."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.links, self.places = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places |= {found["id"]} if found.get("id") else set()
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if found.get(LOADED.get(tag)):
            self.loaded.append(found[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in (built.stdout + built.stderr).splitlines() if not line.startswith("INFO ")]
    assert (built.returncode, said) == (0, [])
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_a_page_loads_nothing_from_elsewhere(site, pages):
    for path, page in pages.items():
        for target in page.loaded:
            assert not urlsplit(target).scheme, f"{path.name}: {target}"
            assert not urlsplit(target).netloc, f"{path.name}: {target}"
            assert (path.parent / unquote(urlsplit(target).path)).is_file(), f"{path.name}: {target}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_every_link_leads_somewhere(site, pages):
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            assert not parts.scheme, f"{path.name}: {link}"
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].places, f"{path.name}: {link}"


def test_every_page_is_in_the_navigation(site, pages):
    home = site / "index.html"
    reached = {(site / unquote(urlsplit(link).path)).resolve() for link in pages[home].links if urlsplit(link).path}
    assert set(pages) <= {*reached, home}


def test_the_reference_holds_every_command_and_every_key(site, pages):
    commands = (site / "commands.html").read_text(encoding="utf-8")
    assert set(cli.commands) <= pages[site / "commands.html"].places
    for command in cli.commands.values():
        for param in command.params:
            names = [name for name in param.opts if name.startswith("--")]
            assert all(name in commands for name in names), names
    formats = (site / "formats.html").read_text(encoding="utf-8")
    for path in (ROOT / "onnxscope" / "schemas").iterdir():
        schema = json.loads(path.read_text(encoding="utf-8"))
        assert path.stem in pages[site / "formats.html"].places
        assert json.loads((site / "schemas" / path.name).read_text(encoding="utf-8")) == schema
        for part in (schema, *schema.get("$defs", {}).values()):
            assert all(f"<code>{key}</code>" in formats for key in part["properties"])


def test_pictures_stay_small():
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".jpg", ".svg")]
    assert sum(path.stat().st_size for path in pictures) < 400_000
