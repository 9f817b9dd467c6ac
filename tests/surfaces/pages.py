"""Pages of the documentation that the code writes: every command, every field of the manifest.

Run `python -m tests.surfaces.pages` to write them anew; a test fails where they are out of step.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from runner.cli.commands import cli
from runner.core.catalog import builtin
from runner.core.schema import schema

DOCS = Path(__file__).parents[2] / "docs"
NOTE = "<!-- Written by `python -m tests.surfaces.pages`: edit the code, not this page. -->"

_BRACKETS = re.compile(r"  \[([^\[\]]*)\]$")
"""What typer adds to a help text: its default, its range."""
_OTHERWISE = re.compile(r"(?: \[([^\[\]]+)\]|; else (.+))\.$")
"""How a help text ends that tells what stands in for an option."""
_DEFAULT = re.compile(r" ?Default: (.*)\.$")
"""How the description of a field ends that has one."""


def commands() -> str:
    """Every command with its arguments, options and examples, in the order of `--help`."""
    lines = [
        "# Commands",
        "",
        NOTE,
        "",
        "What `--help` says, on one page. Where an environment variable stands in for an option it is told first.",
        "`--json` prints one JSON object on stdout, errors too; everything for people goes to stderr. Exit codes:",
        "[README](../README.md#commands).",
    ]
    group: Any = typer.main.get_command(cli)
    for name, command in _each("", group):
        lines += ["", f"## {name}", "", *_command(name, command)]
    return "\n".join(lines) + "\n"


def _each(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
    """Every command, those of a group below its name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _each(f"{prefix}{name} ", command)
        else:
            yield f"{prefix}{name}", command


def _command(name: str, command: Any) -> Iterator[str]:
    """The section of a command."""
    context = command.context_class(command, info_name=f"bulkrender {name}")
    yield from [_cell(command.help), ""]
    pieces = " ".join(command.collect_usage_pieces(context)).replace("[OPTIONS]", "[options]")
    yield from ["```text", f"bulkrender {name} {pieces}", "```", ""]
    rows = [_row(one, context) for one in command.params if not one.hidden]
    if rows:
        yield from ["| argument, option | means | default |", "|---|---|---|", *rows, ""]
    found = [line.strip() for line in command.epilog.splitlines() if line.strip().startswith("bulkrender ")]
    yield from ["```sh", *found, "```"]


def _row(one: Any, context: Any) -> str:
    """An option with its help, and what typer knows of it."""
    given, text = one.get_help_record(context)
    default = ""
    if added := _BRACKETS.search(text):
        text = text[: added.start()]
        notes = added[1].split("; ")
        default = ", ".join(note.removeprefix("default: ") for note in notes if not note.startswith("x>="))
    if not default and (told := _OTHERWISE.search(text)):
        text, default = f"{text[: told.start()]}.", told[1] or told[2]
    names = " ".join(re.sub(r"<list\[(\w+)\]>", r"<\1>", given).split())
    return f"| `{_cell(names)}` | {_cell(text)} | {_cell(default)} |"


def fields() -> str:
    """Every field of the manifest, in the order of the schema."""
    described = schema(builtin())
    lines = [
        "# Fields of a manifest",
        "",
        NOTE,
        "",
        "Every field, from the JSON Schema that `bulkrender schema` prints and editors check by. `[]` stands for",
        "each entry of a list, `[from]` for one that names a file. How they play together:",
        "[manifest.md](manifest.md).",
    ]
    properties = described["properties"]
    lines += [
        "",
        *_table([_field(name, inner, name in described["required"]) for name, inner in properties.items()]),
    ]
    for name, inner in properties.items():
        if rows := list(_inner(name, inner)):
            lines += ["", f"## {name}", "", inner["description"], "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _table(rows: list[str]) -> list[str]:
    return ["| field | means | default |", "|---|---|---|", *rows]


def _inner(path: str, node: dict[str, Any]) -> Iterator[str]:
    """The fields below a field, whatever spellings it has; axes are described as a whole."""
    for name, inner in node.get("properties", {}).items():
        if "description" in inner:
            yield _field(f"{path}.{name}", inner, name in node.get("required", ()))
            yield from _inner(f"{path}.{name}", inner)
    for other in node.get("anyOf", []):
        named = "from" in other.get("properties", ())
        yield from _inner(path.replace("[]", "[from]") if named else path, other)
    if "items" in node:
        yield from _inner(f"{path}[]", node["items"])


def _field(path: str, node: dict[str, Any], required: bool) -> str:
    """A field with what it means, and what it is if left out."""
    text = node["description"]
    default = _DEFAULT.search(text)
    means = text if default is None else text[: default.start()]
    told = "" if default is None else default[1]
    return f"| `{path}` | {_cell(means)} | {'required' if required else _cell(told)} |"


def _cell(text: str) -> str:
    """A text on one line that ends no cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {DOCS / "commands.md": commands, DOCS / "fields.md": fields}


def main() -> None:
    """Write them."""
    for path, text in PAGES.items():
        path.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
