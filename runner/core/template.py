"""Prompt templates: `{axis}` becomes the axis value; every other brace stays as it is.

Doubled braces round a name are halved: `{{axis}}` is the literal text `{axis}`. JSON, `{}`, a lone `}` and
everything else that is not a name in braces is untouched, and so are values once they are filled in.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

IDENTIFIER = re.compile(r"[^\W\d]\w*")
_NAME = re.compile(r"(\{+)([^\W\d]\w*)(\}+)")


@dataclass(frozen=True, slots=True)
class Template:
    """Literal texts and names in turn: text, name, text, name, … text."""

    parts: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names it needs, in order, repetitions included."""
        return self.parts[1::2]

    @property
    def written(self) -> str:
        """The text, names in single braces."""
        return "".join(f"{{{part}}}" if i % 2 else part for i, part in enumerate(self.parts))

    def given(self, values: Mapping[str, str]) -> "Template":
        """The template with those names replaced that have a value here; the others stay."""
        parts = [self.parts[0]]
        for name, after in zip(self.parts[1::2], self.parts[2::2], strict=True):
            if name in values:
                parts[-1] += values[name] + after
            else:
                parts += [name, after]
        return Template(tuple(parts))

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with every name replaced by its value; KeyError for a name without one."""
        if len(self.parts) == 1:
            return self.parts[0]
        return "".join(values[part] if i % 2 else part for i, part in enumerate(self.parts))


def compile_template(text: str) -> Template:
    """The template of a text. Any text is one."""
    parts = [""]
    end = 0
    for match in _NAME.finditer(text):
        opening, name, closing = match.groups()
        pairs = min(len(opening), len(closing))
        parts[-1] += text[end : match.start()] + opening[: len(opening) - pairs] + "{" * (pairs // 2)
        after = "}" * (pairs // 2) + closing[pairs:]
        if pairs % 2:
            parts += [name, after]
        else:
            parts[-1] += name + after
        end = match.end()
    parts[-1] += text[end:]
    return Template(tuple(parts))


def literal(text: str) -> Template:
    """A text that is taken as it is."""
    return Template((text,))
