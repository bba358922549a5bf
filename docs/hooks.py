"""Pages that mkdocs makes from their source at every build, so that none of them can be stale.

The command reference comes from the commands, the file formats from the JSON Schemas in the package; changelog and
contributing are the files of the repository's root.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from onnxscope.cli.main import cli

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "onnxscope" / "schemas"
SHARED_OPTIONS = ("form", "quiet", "debug")  # of every command
ORDER = (
    "inspect",
    "weights",
    "features",
    "stats",
    "profile",
    "diff",
    "baseline",
    "check",
    "checks",
    "convert",
    "extract",
    "sensitivity",
    "demo",
    "doctor",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of the repository's root, and the schemas for download."""
    added = {"changelog.md": root_document("CHANGELOG.md"), "contributing.md": root_document("CONTRIBUTING.md")}
    added |= {f"schemas/{path.name}": path.read_text(encoding="utf-8") for path in sorted(SCHEMAS.iterdir())}
    for name, content in added.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Append to the pages of commands and formats what they are about."""
    made = {"commands.md": commands, "formats.md": formats}.get(page.file.src_uri)
    return markdown if made is None else f"{markdown}\n{made()}"


def root_document(name: str) -> str:
    """Return a document of the repository's root, with its links as they are from the documentation."""
    return re.sub(r"\]\(docs/", "](", (ROOT / name).read_text(encoding="utf-8"))


def commands() -> str:
    """Return a section for every command."""
    parent = click.Context(cli, info_name="onnxscope")
    lines: list[str] = []
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=name, parent=parent)
        usage = " ".join(["onnxscope", name, *command.collect_usage_pieces(context)])
        own = [each for each in command.params if isinstance(each, click.Option) and each.name not in SHARED_OPTIONS]
        lines += [f"## {name}", "", command.help or "", "", "```text", usage, "```", "", *_options(own, context)]
    lines += ["## Options of every command", ""]
    context = click.Context(cli.commands["inspect"], parent=parent)
    lines += _options([each for each in context.command.params if each.name in SHARED_OPTIONS], context)
    return "\n".join(lines)


def _options(params: Sequence[click.Parameter], context: click.Context) -> Iterator[str]:
    records = [record for param in params if (record := param.get_help_record(context)) is not None]
    if records:
        yield from ("| option | meaning |", "|---|---|")
        yield from (f"| {_code(names)} | {_cell(meaning)} |" for names, meaning in records)
        yield ""


def formats() -> str:
    """Return a table of keys for every format, and for each part that several of them share."""
    schemas = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in SCHEMAS.iterdir()}
    names = sorted(schemas, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    users = Counter(key for schema in schemas.values() for key in schema.get("$defs", {}))
    shared = {key for key, count in users.items() if count > 1 and len(_versions(key, schemas)) == 1}
    lines: list[str] = []
    parts: dict[str, Any] = {}
    for name in names:
        schema = schemas[name]
        key = schema["properties"]["schema"]["const"]
        lines += [f"## {schema['title']} {{ #{name} }}", "", schema["description"], ""]
        lines += [f"`{key}` · [JSON Schema](schemas/{name}.json)", ""]
        lines += _keys(schema, name, shared)
        for part, definition in schema.get("$defs", {}).items():
            if part in shared:
                parts[part] = definition
            else:
                lines += [f"### {definition['title']} {{ #{name}-{part} }}", "", definition["description"], ""]
                lines += _keys(definition, name, shared)
    lines += ["## Shared parts", ""]
    for part, definition in parts.items():
        lines += [f"### {definition['title']} {{ #{part} }}", "", definition["description"], ""]
        lines += _keys(definition, "", shared)
    return "\n".join(lines)


def _versions(part: str, schemas: dict[str, Any]) -> set[str]:
    """The different definitions that schemas have under one name, as text."""
    return {json.dumps(schema["$defs"][part]) for schema in schemas.values() if part in schema.get("$defs", {})}


def _keys(part: dict[str, Any], name: str, shared: set[str]) -> Iterator[str]:
    yield from ("| key | type | meaning |", "|---|---|---|")
    for key, schema in part["properties"].items():
        optional = "" if key in part["required"] else ", optional"
        yield f"| `{key}` | {_type(schema, name, shared)}{optional} | {_cell(schema['description'])} |"
    yield ""


def _type(schema: dict[str, Any], name: str, shared: set[str]) -> str:
    if schema.get("$ref") == "#":
        return f"[{name}](#{name})"
    if "$ref" in schema:
        part = schema["$ref"].rsplit("/", 1)[1]
        return f"[{part.replace('_', ' ')}](#{part if part in shared else f'{name}-{part}'})"
    if "anyOf" in schema:
        return " or ".join(_type(each, name, shared) for each in schema["anyOf"])
    if "const" in schema:
        const = schema["const"]
        return _code(const if isinstance(const, str) else json.dumps(const))
    if "enum" in schema:
        return ", ".join(_code(each) if isinstance(each, str) else json.dumps(each) for each in schema["enum"])
    kinds = schema.get("type", "anything")
    words = [kinds] if isinstance(kinds, str) else list(kinds)
    rows = schema.get("items", {})
    if "array" in words and "prefixItems" not in rows:
        words[words.index("array")] = f"list of {_type(rows, name, shared)}"
    elif "array" in words:
        words[words.index("array")] = "list of lists"
    return " or ".join(words)


def _code(text: str) -> str:
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*")
