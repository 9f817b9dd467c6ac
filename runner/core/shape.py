"""Kinds of manifest values: how a node is read, what is said when it is wrong, and its JSON Schema.

One declaration serves the parser and the schema. What the kinds of this product are is in `fields`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from runner.core.catalog import Catalog, Model
from runner.core.errors import Problem
from runner.core.yaml12 import Fields, Items, Node, Scalar, shortened

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Schema = dict[str, Any]

MAX_WHOLE = 10**15
SCALAR_TYPES = ["string", "number", "boolean"]
"""Text may be spelled as a number or a word such as `true`: it is taken as written."""


@dataclass(frozen=True)
class Scope:
    """What reading depends on besides the text: the catalog, and the manifest's model if it lists it."""

    catalog: Catalog
    model: Model | None = None


class WrongError(Exception):
    """Everything wrong with one value."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__()
        self.problems = tuple(problems)


def wrong(node: Node, message: str) -> WrongError:
    """One thing wrong at a node."""
    return WrongError([problem(node, message)])


def problem(node: Node, message: str) -> Problem:
    """A problem at a node's place."""
    return Problem(node.line, node.column, message)


def listed(words: Iterable[str], last: str = "or") -> str:
    """`a, b or c`."""
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail


def guess(word: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'?` where a known word is near, else `: expected a, b or c`."""
    names = list(known)
    folded = {name.casefold(): name for name in names}
    near = get_close_matches(word.casefold()[:100], folded, n=1, cutoff=0.6)
    if near:
        return f": did you mean {folded[near[0]]!r}?"
    return f": expected {listed(names)}" if names else ""


class Kind(ABC, Generic[T_co]):
    """One kind of value."""

    @abstractmethod
    def read(self, node: Node, scope: Scope) -> T_co:
        """The value of a node; WrongError with all that is wrong in it."""

    @abstractmethod
    def schema(self, catalog: Catalog) -> Schema:
        """Its JSON Schema, draft 2020-12."""


def collect(kind: Kind[T], node: Node, scope: Scope, problems: list[Problem]) -> T | None:
    """The value of a node, or None with what is wrong added to `problems`."""
    try:
        return kind.read(node, scope)
    except WrongError as error:
        problems.extend(error.problems)
        return None


@dataclass(frozen=True)
class Located(Generic[T_co]):
    """A value and the node it was read from."""

    value: T_co
    node: Node


@dataclass(frozen=True)
class At(Kind[Located[T]]):
    """The same value, with its place."""

    kind: Kind[T]

    def read(self, node: Node, scope: Scope) -> Located[T]:
        return Located(self.kind.read(node, scope), node)

    def schema(self, catalog: Catalog) -> Schema:
        return self.kind.schema(catalog)


def text_of(node: Node, what: str = "text") -> str:
    """A scalar by its source spelling, so that 007 and 1.50 stay what was written."""
    if not isinstance(node, Scalar) or node.kind == "null":
        hint = f"; quote it if the word {node.text} is meant" if isinstance(node, Scalar) and node.text else ""
        raise wrong(node, f"expected {what}, got {node}{hint}")
    if "\0" in node.text:
        raise wrong(node, f"expected {what} without NUL characters")
    return node.text


@dataclass(frozen=True)
class Text(Kind[str]):
    """Text; empty only where that is allowed."""

    what: str = "text"
    empty: bool = False

    def read(self, node: Node, _scope: Scope) -> str:
        text = text_of(node, self.what)
        if not self.empty and not text.strip():
            raise wrong(node, f"expected {self.what}, got an empty text")
        return text

    def schema(self, _catalog: Catalog) -> Schema:
        return {"type": SCALAR_TYPES} if self.empty else {"type": SCALAR_TYPES, "minLength": 1}


@dataclass(frozen=True)
class Label(Kind[str]):
    """A name people read: printable text on one line."""

    what: str

    def read(self, node: Node, scope: Scope) -> str:
        text = Text(self.what).read(node, scope)
        if re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", text):
            raise wrong(node, f"expected {self.what} of printable characters on one line")
        return text

    def schema(self, _catalog: Catalog) -> Schema:
        return {"type": SCALAR_TYPES, "minLength": 1}


@dataclass(frozen=True)
class Whole(Kind[int]):
    """A whole number from `low` to `high`."""

    low: int = 1
    high: int = MAX_WHOLE

    def read(self, node: Node, _scope: Scope) -> int:
        expected = f"expected a whole number of at least {self.low}"
        if not isinstance(node, Scalar) or node.kind != "int":
            hint = " (without quotes)" if isinstance(node, Scalar) and node.text.isdecimal() else ""
            raise wrong(node, f"{expected}{hint}, got {node}")
        if len(node.text) > 18 or (value := _integer(node.text)) > self.high:
            raise wrong(node, f"{node} is too large: at most {self.high:,}")
        if value < self.low:
            raise wrong(node, f"{expected}, got {node.text}")
        return value

    def schema(self, _catalog: Catalog) -> Schema:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


def _integer(text: str) -> int:
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


@dataclass(frozen=True)
class Seconds(Kind[float]):
    """A length of time, a second at least and a day at most."""

    def read(self, node: Node, _scope: Scope) -> float:
        value = _number(node) if isinstance(node, Scalar) else None
        if value is not None and 1 <= value <= 86_400:
            return value
        raise wrong(node, f"expected a number of seconds from 1 to 86400, got {node}")

    def schema(self, _catalog: Catalog) -> Schema:
        return {"type": "number", "minimum": 1, "maximum": 86_400}


def _number(node: Scalar) -> float | None:
    if len(node.text) > 18 or node.kind not in ("int", "float") or node.text[-1] in "fFnN":
        return None
    return float(_integer(node.text) if node.kind == "int" else node.text)


@dataclass(frozen=True)
class Flag(Kind[bool]):
    """`true` or `false`."""

    def read(self, node: Node, _scope: Scope) -> bool:
        if not isinstance(node, Scalar) or node.kind != "bool":
            raise wrong(node, f"expected true or false, got {node}")
        return node.text.lower() == "true"

    def schema(self, _catalog: Catalog) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Choice(Kind[str]):
    """One of some words; `prefix` and, with `fold`, case do not matter."""

    words: tuple[str, ...]
    fold: bool = False
    prefix: str = ""

    def read(self, node: Node, _scope: Scope) -> str:
        text = text_of(node, listed(self.words))
        word = (text.upper() if self.fold else text).removeprefix(self.prefix)
        if word not in self.words:
            raise wrong(node, f"expected {listed(self.words)}, got {node}")
        return word

    def schema(self, _catalog: Catalog) -> Schema:
        longer = [self.prefix + word for word in self.words] if self.prefix else []
        lower = [word.lower() for word in self.words] if self.fold else []
        return {"enum": [*self.words, *longer, *lower]}


@dataclass(frozen=True)
class ListOf(Kind[tuple[T, ...]]):
    """A list of at least one value; with `single`, a lone value is a list of one."""

    kind: Kind[T]
    single: bool = False

    def read(self, node: Node, scope: Scope) -> tuple[T, ...]:
        if self.single and isinstance(node, Scalar) and node.kind != "null":
            return (self.kind.read(node, scope),)
        values, problems = self.partial(node, scope)
        if problems:
            raise WrongError(problems)
        return values

    def partial(self, node: Node, scope: Scope) -> tuple[tuple[T, ...], list[Problem]]:
        """Every item that could be read, and what is wrong with the others."""
        if not isinstance(node, Items):
            raise wrong(node, f"expected a list, got {node}")
        if not node.items:
            raise wrong(node, "expected at least one value, got an empty list")
        problems: list[Problem] = []
        values = (collect(self.kind, item, scope, problems) for item in node.items)
        return tuple(value for value in values if value is not None), problems

    def schema(self, catalog: Catalog) -> Schema:
        item = self.kind.schema(catalog)
        many = {"type": "array", "items": item, "minItems": 1}
        return {"anyOf": [item, many]} if self.single else many


@dataclass(frozen=True)
class Partial(Kind[tuple[tuple[T, ...], list[Problem]]]):
    """A list whose good items are wanted although others are wrong."""

    kind: ListOf[T]

    def read(self, node: Node, scope: Scope) -> tuple[tuple[T, ...], list[Problem]]:
        return self.kind.partial(node, scope)

    def schema(self, catalog: Catalog) -> Schema:
        return self.kind.schema(catalog)


@dataclass(frozen=True)
class Field(Generic[T_co]):
    """A field of a record; `doc` is its description in the schema."""

    kind: Kind[T_co]
    doc: str
    required: bool = False


@dataclass(frozen=True)
class Record(Kind[T]):
    """A mapping with known fields; `make` receives those that are given."""

    make: Callable[..., T]
    fields: Mapping[str, Field[object]] = field(default_factory=dict)

    def read(self, node: Node, scope: Scope) -> T:
        values, problems = self.partial(node, scope)
        if problems:
            raise WrongError(problems)
        return self.make(**values)

    def partial(self, node: Node, scope: Scope) -> tuple[dict[str, Any], list[Problem]]:
        """Every field that could be read, and what is wrong with the others."""
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, value in entries(node):
            known = self.fields.get(key.text)
            if known is None:
                message = f"unknown field {shortened(key.text)!r}{guess(key.text, self.fields)}"
                problems.append(problem(key, message))
            else:
                values[key.text] = collect(known.kind, value, scope, problems)
        given = {key.text for key, _ in entries(node)}
        problems += [
            problem(node, f"missing field {name!r}")
            for name, known in self.fields.items()
            if known.required and name not in given
        ]
        return {name: value for name, value in values.items() if value is not None}, problems

    def schema(self, catalog: Catalog) -> Schema:
        required = [name for name, known in self.fields.items() if known.required]
        properties = {
            name: {"description": known.doc, **known.kind.schema(catalog)} for name, known in self.fields.items()
        }
        result: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
        return {**result, "required": required} if required else result


def entries(node: Node) -> list[tuple[Scalar, Node]]:
    """The fields of a mapping; WrongError if it is none."""
    if not isinstance(node, Fields):
        raise wrong(node, f"expected a mapping, got {node}")
    return node.entries
