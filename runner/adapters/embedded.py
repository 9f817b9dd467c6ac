"""Pictures inside an answer: inline data, data URIs that routers put into the text, links elsewhere."""

import re
from binascii import Error as Base64Error
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pybase64

from runner.adapters.wire import mapping, words

_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_HEAD = 200
_BLANK = b" \t\r\n\v\f"
_OPAQUE = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_MARKDOWN_LINK = re.compile(r"!\[[^\]\n]{0,500}\]\(\s*(https?://[^\s)]+)")
_LONE_LINK = re.compile(r"\s*(https?://\S+)\s*")
_CLOSING = {"(": ")", '"': '"', "'": "'", "<": ">"}


@dataclass(frozen=True, slots=True)
class Embedded:
    """One picture as the answer carries it."""

    mime: str
    data: str | memoryview
    """Base64 in either alphabet."""


@dataclass(slots=True)
class Contents:
    """The parts of an answer that are not thoughts, sorted by kind."""

    pictures: list[Embedded] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """Where hosted pictures are, as `<form> to <host>`."""
    drafts: int = 0
    """Pictures of its thinking; never the result (gemini-api.md §5.3)."""

    @property
    def text(self) -> str:
        """All words, as one."""
        return "".join(self.texts)


def sort_parts(parts: Iterable[object]) -> Contents:
    """Tell pictures, words and links apart; the words keep nothing of a picture's data."""
    found = Contents()
    for part in map(mapping, parts):
        picture = _inline(mapping(part.get("inlineData")))
        if part.get("thought") in (True, "true"):
            found.drafts += picture is not None
        else:
            _sort(part, picture, found)
    return found


def _sort(part: dict[str, Any], picture: Embedded | None, found: Contents) -> None:
    if picture is not None:
        found.pictures.append(picture)
    if uri := words(mapping(part.get("fileData")).get("fileUri")):
        found.links.append(f"fileData to {_host(uri)}")
    text, pictures = cut_data_uris(words(part.get("text")))
    found.pictures += pictures
    if text:
        found.texts.append(text)
        found.links += [f"{form} to {_host(uri)}" for form, uri in _hosted(text)]


def _inline(raw: dict[str, Any]) -> Embedded | None:
    mime = words(raw.get("mimeType")).strip()
    if not raw or not (mime.lower().startswith("image/") or mime.lower() in _OPAQUE):
        return None
    data = raw.get("data")
    return Embedded(mime or "application/octet-stream", data if isinstance(data, str | memoryview) else "")


def cut_data_uris(text: str) -> tuple[str, list[Embedded]]:
    """The text without its `data:image/…;base64,` pictures, Markdown around them included, and those pictures.

    Searches only with `find`: a picture is megabytes, and a regular expression would hold the interpreter.
    """
    pictures: list[Embedded] = []
    kept: list[str] = []
    done = at = 0
    while (start := text.find("data:image/", at)) >= 0:
        comma = text.find(";base64,", start, start + 200)
        at = start + len("data:image/")
        if comma >= 0:
            end = _end(text, start, comma)
            pictures.append(Embedded(text[start + len("data:") : comma], text[comma + len(";base64,") : end]))
            kept.append(text[done : _markdown_start(text, done, start)])
            done = at = min(end + 1, len(text))
    return "".join([*kept, text[done:]]), pictures


def _end(text: str, start: int, comma: int) -> int:
    """Where the data stops: at what closes its wrapping, else at a space or an empty line, else with the text."""
    closing = _CLOSING.get(text[start - 1 : start])
    stops = [text.find(stop, comma) for stop in ([closing] if closing else [" ", "\n\n"])]
    return min((stop for stop in stops if stop >= 0), default=len(text))


def _markdown_start(text: str, low: int, start: int) -> int:
    """Where the Markdown image begins whose address begins at `start`; `start` if it is none."""
    if text[start - 2 : start] != "](":
        return start
    opening = text.rfind("![", max(low, start - 500), start)
    return start if opening < 0 else opening


def _hosted(text: str) -> list[tuple[str, str]]:
    if lone := _LONE_LINK.fullmatch(text):
        return [("a bare URL in the text", lone[1])]
    return [("a Markdown link in the text", match[1]) for match in _MARKDOWN_LINK.finditer(text)]


def _host(uri: str) -> str:
    return "/".join(uri.split("/", 3)[:3])


def decode(data: str | memoryview) -> bytes | None:
    """The bytes of base64, None if it is broken (gemini-api.md §4.4, §11).

    Either alphabet, padded or not, white space inside, a data URI's head before it.
    """
    if isinstance(data, str) and data.startswith("data:"):
        data = data[data.find(",") + 1 :]
    elif isinstance(data, memoryview) and bytes(data[:5]) == b"data:":
        data = data[bytes(data[:_HEAD]).find(b",") + 1 :]
    try:
        return pybase64.b64decode(data, validate=True)
    except (Base64Error, ValueError):
        return _decode_leniently(data)


def _decode_leniently(data: str | memoryview) -> bytes | None:
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else bytes(data)
    raw = raw.translate(_URL_SAFE, _BLANK).rstrip(b"=")
    try:
        return pybase64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except (Base64Error, ValueError):
        return None
