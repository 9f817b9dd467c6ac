"""What leaves the client: no secret in it, one line where a line is expected, nothing of unbounded length."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

T = TypeVar("T")

MASK = "[key]"
_OURS = frozenset({"reason"})
"""Fields that hold this program's own vocabulary."""
_LINES = frozenset({"message", "cause", "detail", "notices"})
_LENGTHS = {"text": 200_000, **dict.fromkeys(_LINES, 400)}
_OTHERWISE = 200


def spellings(key: str) -> tuple[str, ...]:
    """How a key may come back: as it is, and as in a URL."""
    return key, quote(key, safe="")


def sealed(reply: T, secrets: Sequence[str]) -> T:
    """A reply with the secrets masked in every text of it, then each text cut to its length."""
    changes = {f.name: _text(f.name, getattr(reply, f.name), secrets) for f in fields(reply)}  # type: ignore[arg-type]
    return replace(reply, **changes)  # type: ignore[type-var]


def _text(name: str, value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str) and name not in _OURS:
        for secret in secrets:
            value = value.replace(secret, MASK)
        return shortened(one_line(value) if name in _LINES else value, _LENGTHS.get(name, _OTHERWISE))
    if isinstance(value, tuple):
        return tuple(_text(name, item, secrets) for item in value)
    return sealed(value, secrets) if is_dataclass(value) else value


def one_line(text: str) -> str:
    """Text without line breaks and without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shortened(text: str, length: int) -> str:
    """At most `length` characters; an ellipsis says that some are missing."""
    return text if len(text) <= length else text[: length - 1] + "…"
