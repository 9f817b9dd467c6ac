"""A table of prompts looked at for the first time: which column is the prompt, and what the others are. No I/O."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from runner.core.sources import Row
from runner.core.template import compile_template

LOOKED_AT = 50
"""Rows that decide which column holds the prompt."""
NAMES = ("prompt_text", "prompts", "description", "caption", "instruction", "instructions", "scene", "brief")
"""Columns that are a prompt by their name; `prompt` and `text` are read as it without a word."""
MEANT_OTHERWISE = frozenset({"size", "aspect", "model", "reference", "draft"})
"""Columns that are no words of a prompt."""
WORDS = 4
"""A column with so many words in a usual row is a text of its own."""


@dataclass(frozen=True, slots=True)
class PromptTable:
    """What a manifest says of a file of prompts."""

    rows: int
    columns: tuple[str, ...]
    """Its variables, in order."""
    text: str | None
    """The prompt of every row as a template of its columns; None where the file brings whole prompts."""
    literal: bool
    """Its prompts hold braces that name no column: they are to be taken as they are."""
    has_references: bool = False
    ids: int = 0
    """Rows that bring one, of those looked at closely."""


def look(rows: Iterable[Row]) -> PromptTable:
    """Read all rows, the first of them closely; raises what reading them raises."""
    stream = iter(rows)
    head = list(islice(stream, LOOKED_AT))
    count = len(head) + sum(1 for _ in stream)
    columns = tuple(dict.fromkeys(name for row in head for name in row.values))
    filled = [name for name in columns if any(row.values.get(name, "").strip() for row in head)]
    texts = [row.text for row in head if row.text is not None]
    named = {name for text in texts for name in compile_template(text).names}
    return PromptTable(
        count,
        columns,
        None if texts else _template(head, [name for name in filled if name.lower() not in MEANT_OTHERWISE]),
        literal=bool(texts) and not named <= set(columns),
        has_references=any(row.references for row in head),
        ids=sum(row.id is not None for row in head),
    )


def _template(head: list[Row], columns: list[str]) -> str:
    """The column that is a prompt by its name or by its length, else one made of all of them."""
    by_name = {name.lower(): name for name in reversed(columns)}
    for wanted in NAMES:
        if wanted in by_name:
            return f"{{{by_name[wanted]}}}"
    longest = max(columns, key=lambda name: _words(head, name), default="")
    if longest and _words(head, longest) >= WORDS:
        return f"{{{longest}}}"
    return f"A picture of {', '.join(f'{{{name}}}' for name in columns)}" if columns else "A picture of a {style}"


def _words(head: list[Row], column: str) -> float:
    """Words of a usual cell."""
    return sum(len(row.values.get(column, "").split()) for row in head) / len(head)
