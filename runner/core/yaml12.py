"""YAML text as a tree of nodes that know their line and column, with the meaning of YAML 1.2's core schema.

PyYAML's C parser supplies events; its composer is not used, because it follows nesting and aliases without
bound. What a field may hold is not judged here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from runner.core.errors import Problem

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 100
MAX_ALIASED = 1_000_000
"""Nodes that aliases may stand for, text counted as a node for every 16 characters."""

ScalarKind = Literal["null", "bool", "int", "float", "str"]

_CORE = re.compile(
    r"(?P<null>null|Null|NULL|~|)"
    r"|(?P<bool>true|True|TRUE|false|False|FALSE)"
    r"|(?P<int>[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)"
    r"|(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BREAKS_OF_1_1 = "\x85\u2028\u2029"
_PLAIN_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map", "!"}
_HINTS = {
    "mapping values are not allowed in this context": "a text that holds ': ' needs quotes",
    "found character that cannot start any token": "a text that begins with this character needs quotes",
    "did not find expected key": "a text that begins with '{', '[' or a quote needs quotes around all of it",
}


@dataclass(slots=True, eq=False)
class Scalar:
    """One value; `text` is its spelling in the source once quotes, escapes and folding are undone."""

    line: int
    column: int
    text: str
    plain: bool = True
    """False where quotes, a block or a tag make it text."""

    @property
    def kind(self) -> ScalarKind:
        """What YAML 1.2 takes it for."""
        match = _CORE.fullmatch(self.text) if self.plain else None
        return match.lastgroup if match else "str"  # type: ignore[return-value]

    def __str__(self) -> str:
        match self.kind:
            case "null":
                return "nothing"
            case "str":
                return f"the text {shortened(self.text)!r}"
            case "bool":
                return self.text
        return f"the number {shortened(self.text)}"


@dataclass(slots=True, eq=False)
class Items:
    """A YAML sequence."""

    line: int
    column: int
    items: "list[Node]" = field(default_factory=list)

    def __str__(self) -> str:
        return "a list"


@dataclass(slots=True, eq=False)
class Fields:
    """A YAML mapping; keys are text, however they were spelled."""

    line: int
    column: int
    entries: "list[tuple[Scalar, Node]]" = field(default_factory=list)

    def __str__(self) -> str:
        return "a mapping"


Node = Scalar | Items | Fields


class UnreadableError(Exception):
    """The text is not YAML that can be understood any further."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(line, column, message)


def read(source: bytes | str) -> tuple[Node, list[Problem]]:
    """The document's tree, and what is wrong with it that does not stop the reading.

    Raises:
        UnreadableError: too large, not UTF-8, not YAML, empty, several documents, too deep, an alias bomb.
    """
    text, stand_ins = _shielded(_printable(_decoded(source)))
    builder = _Builder(stand_ins)
    try:
        return builder.document(_events(text)), builder.problems
    except yaml.MarkedYAMLError as error:
        raise _syntax(error) from None


def shortened(text: str, limit: int = 60) -> str:
    """Text as a message can quote it."""
    return text if len(text) <= limit else text[:limit] + "…"


def _decoded(source: bytes | str) -> str:
    size = len(source) if isinstance(source, bytes) else len(source.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        message = f"the manifest has {size:,} bytes: at most {MAX_BYTES:,} (16 MB)"
        raise UnreadableError(1, 1, f"{message}; long prompt lists belong in files")
    if isinstance(source, str):
        return source.removeprefix("\ufeff")
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # `start` counts from behind a BOM where there is one
        offset = error.start + (3 if source.startswith(b"\xef\xbb\xbf") else 0)
        before = source[:offset].decode("utf-8-sig", "replace")
        raise UnreadableError(
            *_place(before, len(before)), f"not UTF-8: byte 0x{source[offset]:02x} at offset {offset}"
        ) from None


def _printable(text: str) -> str:
    if bad := _UNPRINTABLE.search(text):
        name = "a NUL character" if bad.group() == "\0" else f"the control character U+{ord(bad.group()):04X}"
        raise UnreadableError(*_place(text, bad.start()), f"{name} is not allowed in YAML")
    return text


def _place(text: str, offset: int) -> tuple[int, int]:
    lines = text[:offset].replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return len(lines), len(lines[-1]) + 1


def _shielded(text: str) -> tuple[str, dict[int, str]]:
    """The text with line breaks of YAML 1.1, which 1.2 takes for ordinary characters, replaced by stand-ins."""
    breaks = [c for c in _BREAKS_OF_1_1 if c in text]
    if not breaks:
        return text, {}
    upper = text.upper()
    private = range(0xE000, 0xF900)
    spare = (c for c in private if chr(c) not in text and f"{c:X}" not in upper)
    stand_ins = dict(zip(breaks, spare, strict=False))
    return text.translate({ord(c): s for c, s in stand_ins.items()}), {s: c for c, s in stand_ins.items()}


def _events(text: str) -> Iterator[Event]:
    loader = yaml.CSafeLoader(text)
    try:
        while (event := loader.get_event()) is not None:
            yield event
    finally:
        loader.dispose()


def _syntax(error: yaml.MarkedYAMLError) -> UnreadableError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = error.problem or "cannot be parsed"
    context = f", {error.context}" if error.context else ""
    hint = f" ({_HINTS[problem]})" if problem in _HINTS else ""
    return UnreadableError(line, column, f"not valid YAML: {problem}{context}{hint}")


class _Builder:
    """Builds the tree by recursive descent, which `MAX_DEPTH` bounds."""

    def __init__(self, stand_ins: dict[int, str]) -> None:
        self.problems: list[Problem] = []
        self._stand_ins = stand_ins
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._weight = 0
        self._aliased = 0

    def document(self, events: Iterator[Event]) -> Node:
        self._events = events
        next(events)
        if isinstance(next(events), StreamEndEvent):
            raise UnreadableError(1, 1, "the manifest is empty: it needs at least job, model and prompts")
        root = self._node(next(events), 0)
        next(events)
        after = next(events)
        if isinstance(after, DocumentStartEvent):
            raise UnreadableError(*_at(after), "a second document begins here: a manifest is one document")
        return root

    def _node(self, event: Event, depth: int) -> Node:
        if isinstance(event, AliasEvent):
            return self._alias(event)
        assert isinstance(event, NodeEvent)  # noqa: S101 - the parser's grammar
        before = self._weight
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        node = self._scalar(event) if isinstance(event, ScalarEvent) else self._collection(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._weight - before)
        return node

    def _scalar(self, event: ScalarEvent) -> Scalar:
        self._weight += 1 + len(event.value) // 16
        self._check_tag(event, event.tag)
        text = event.value.translate(self._stand_ins) if self._stand_ins else event.value
        return Scalar(*_at(event), text, event.implicit[0] and event.tag is None)

    def _collection(self, event: Event, depth: int) -> Node:
        assert isinstance(event, CollectionStartEvent)  # noqa: S101 - the parser's grammar
        self._weight += 1
        self._check_tag(event, event.tag)
        if depth >= MAX_DEPTH:
            raise UnreadableError(*_at(event), f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, SequenceStartEvent):
            sequence = Items(*_at(event))
            while not isinstance(event := next(self._events), SequenceEndEvent):
                sequence.items.append(self._node(event, depth + 1))
            return sequence
        return self._mapping(Fields(*_at(event)), depth)

    def _mapping(self, mapping: Fields, depth: int) -> Fields:
        first: dict[str, Scalar] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if self._acceptable(key, _at(event), first):
                assert isinstance(key, Scalar)  # noqa: S101 - judged a line above
                mapping.entries.append((key, value))
        return mapping

    def _acceptable(self, key: Node, at: tuple[int, int], first: dict[str, Scalar]) -> bool:
        if not isinstance(key, Scalar):
            self.problems.append(Problem(*at, f"expected a field name, got {key}"))
            return False
        if key.plain and key.text == "<<":
            message = "merge keys (<<) are not part of YAML 1.2: write the fields out, or alias the whole value"
            self.problems.append(Problem(*at, message))
            return False
        if earlier := first.get(key.text):
            message = f"duplicate field {shortened(key.text)!r}: first given at {earlier.line}:{earlier.column}"
            self.problems.append(Problem(*at, message))
            return False
        first[key.text] = key
        return True

    def _alias(self, event: AliasEvent) -> Node:
        if event.anchor not in self._anchors:
            raise UnreadableError(*_at(event), f"alias *{event.anchor} has no anchor &{event.anchor} before it")
        target = self._anchors[event.anchor]
        if target is None:
            raise UnreadableError(*_at(event), f"alias *{event.anchor} contains itself")
        node, weight = target
        self._weight += weight
        self._aliased += weight
        if self._aliased > MAX_ALIASED:
            raise UnreadableError(*_at(event), f"aliases stand for more than {MAX_ALIASED:,} nodes")
        return node

    def _check_tag(self, event: Event, tag: str | None) -> None:
        if tag is not None and tag not in _PLAIN_TAGS:
            name = tag.replace("tag:yaml.org,2002:", "!!")
            self.problems.append(Problem(*_at(event), f"tag {name} is not supported: write the value plainly"))


def _at(event: Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)
