"""The manifest's `matrix:`: axes, zip groups, exclude, include and settings, read and judged.

What they expand into is `matrix`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from runner.core.catalog import Catalog
from runner.core.errors import Problem
from runner.core.fields import GENERATION, AxisText, Generation, axis_kind
from runner.core.shape import (
    Field,
    Kind,
    ListOf,
    Record,
    Schema,
    Scope,
    WrongError,
    collect,
    entries,
    guess,
    listed,
    problem,
    wrong,
)
from runner.core.template import IDENTIFIER
from runner.core.yaml12 import Fields, Items, Node, Scalar, shortened

T = TypeVar("T")

TAKEN = ("prompt", "variant", "job", "ext", "key")
"""Names that `output` uses for something else."""
KNOWN_AXES = ("size", "aspect", "model", "reference")
"""Axes that mean something by themselves."""
RULES = ("exclude", "include", "zip", "settings")


@dataclass(frozen=True, slots=True)
class Dimension:
    """Axes that move together: one, or those of a zip group; a row has a value for each."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Dimensions = tuple[Dimension, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Some axis values, as `exclude`, `include` and `where` name them."""

    values: Mapping[str, str]
    line: int


@dataclass(frozen=True, slots=True)
class Setting:
    """Generation settings of the cells that match."""

    where: Rule
    generation: Generation


_NAME_PATTERN = r"^[^\s\d!-/:-@\[-^`{-~][^\s!-/:-@\[-^`{-~]*$"
"""Much the same as `IDENTIFIER`, in the regular expressions that JSON Schema shares between languages."""

DEFAULTS: Dimensions = (Dimension(("size",), (("1K",),)), Dimension(("aspect",), (("1:1",),)))


@dataclass(frozen=True, slots=True)
class Matrix:
    """Everything that a prompt is multiplied by."""

    dimensions: Dimensions = DEFAULTS
    exclude: tuple[Rule, ...] = ()
    include: tuple[Rule, ...] = ()
    settings: tuple[Setting, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All axes, in the manifest's order."""
        return tuple(name for dimension in self.dimensions for name in dimension.names)

    def values(self, name: str) -> tuple[str, ...]:
        """The values of an axis, each once; none where there is no such axis."""
        found = (dimension for dimension in self.dimensions if name in dimension.names)
        return tuple(dict.fromkeys(row[one.names.index(name)] for one in found for row in one.rows))


@dataclass(frozen=True)
class _Where(Kind[Rule]):
    """A mapping of axes to one value each."""

    def read(self, node: Node, scope: Scope) -> Rule:
        problems: list[Problem] = []
        values: dict[str, str] = {}
        for name, value in entries(node):
            if isinstance(value, Items):
                problems.append(problem(value, "expected one value, got a list: write an entry for each value"))
            elif (read := collect(axis_kind(name.text), value, scope, problems)) is not None:
                values[name.text] = read.value
        if problems:
            raise WrongError(problems)
        if not values:
            raise wrong(node, "expected at least one axis and its value")
        return Rule(values, node.line)

    def schema(self, catalog: Catalog) -> Schema:
        known = {name: axis_kind(name).schema(catalog) for name in KNOWN_AXES}
        other = axis_kind("").schema(catalog)
        return {"type": "object", "properties": known, "additionalProperties": other, "minProperties": 1}


_WHERE = _Where()
_SETTING = Record(
    Setting,
    {
        "where": Field(_WHERE, "Axis values a cell must have.", required=True),
        "generation": Field(GENERATION, "Settings of such a cell, over those of the manifest.", required=True),
    },
)
_RULE_LIST = ListOf(_WHERE)
_SETTING_LIST = ListOf(_SETTING)


@dataclass(frozen=True)
class Axes(Kind[dict[str, tuple[AxisText, ...]]]):
    """A mapping of axes to lists of values."""

    def read(self, node: Node, scope: Scope) -> dict[str, tuple[AxisText, ...]]:
        problems: list[Problem] = []
        result: dict[str, tuple[AxisText, ...]] = {}
        for name, value in entries(node):
            if complaint := _bad_name(name.text):
                problems.append(problem(name, complaint))
            elif values := collect(ListOf(axis_kind(name.text), single=True), value, scope, problems):
                result[name.text] = values
        if problems:
            raise WrongError(problems)
        return result

    def schema(self, catalog: Catalog) -> Schema:
        known = {name: ListOf(axis_kind(name), single=True).schema(catalog) for name in KNOWN_AXES}
        other = ListOf(axis_kind(""), single=True).schema(catalog)
        names = {"pattern": _NAME_PATTERN, "not": {"enum": [*TAKEN, *RULES]}}
        return {"type": "object", "properties": known, "additionalProperties": other, "propertyNames": names}


AXES = Axes()


def axis_value(name: str, text: str, scope: Scope) -> str:
    """What a text means as a value of an axis; WrongError without a place where it is none."""
    return axis_kind(name).read(Scalar(1, 1, text, plain=False), scope).value


def _bad_name(name: str) -> str | None:
    if name in TAKEN:
        return f"{name!r} cannot be an axis: {{{name}}} means something else in the output"
    if name in RULES:
        return f"{name!r} belongs to the manifest's own matrix"
    if not IDENTIFIER.fullmatch(name):
        return (
            f"{shortened(name)!r} cannot be an axis: expected a name of letters, digits and _, as {{name}} needs"
        )
    return None


def distinct(name: str, values: Iterable[AxisText]) -> None:
    """WrongError at a value that an axis lists twice."""
    first: dict[str, Node] = {}
    problems = []
    for value in values:
        if (earlier := first.setdefault(value.value, value.node)) is not value.node:
            message = (
                f"{name} {shortened(value.value)!r} is listed twice: first at {earlier.line}:{earlier.column}"
            )
            problems.append(problem(value.node, message))
    if problems:
        raise WrongError(problems)


def replaced(dimensions: Dimensions, own: Mapping[str, tuple[AxisText, ...]], node: Node) -> Dimensions:
    """A prompt's dimensions: the manifest's, with the axes the prompt names replaced."""
    names = [name for dimension in dimensions for name in dimension.names]
    problems = [
        problem(key, f"unknown axis {shortened(key.text)!r}{guess(key.text, names)}")
        for key, _ in entries(node)
        if key.text not in names
    ]
    result = []
    for dimension in dimensions:
        try:
            result.append(_replaced(dimension, own, node))
        except WrongError as error:
            problems += error.problems
    if problems:
        raise WrongError(problems)
    return tuple(result)


def _replaced(dimension: Dimension, own: Mapping[str, tuple[AxisText, ...]], node: Node) -> Dimension:
    given = [name for name in dimension.names if name in own]
    if not given:
        return dimension
    if len(given) < len(dimension.names):
        missing = [name for name in dimension.names if name not in own]
        raise wrong(node, f"{listed(given, 'and')} moves together with {listed(missing, 'and')}: name both")
    return _dimension({name: own[name] for name in dimension.names}, node)


def _dimension(columns: Mapping[str, tuple[AxisText, ...]], node: Node) -> Dimension:
    """One axis, or a zip group of lists of one length."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = listed((f"{name} has {count}" for name, count in lengths.items()), "and")
        raise wrong(node, f"the lists of a zip group need one length: {counts}")
    if len(columns) == 1:
        for name, values in columns.items():
            distinct(name, values)
    rows = tuple(tuple(v.value for v in row) for row in zip(*columns.values(), strict=True))
    twice = [row for row, count in Counter(rows).items() if count > 1]
    for row in twice[:1]:
        raise wrong(node, f"the zip group has the row {', '.join(row)} twice")
    return Dimension(tuple(columns), rows)


@dataclass(frozen=True)
class MatrixKind(Kind[Matrix]):
    """The manifest's `matrix:`."""

    def read(self, node: Node, scope: Scope) -> Matrix:
        given = {key.text: value for key, value in entries(node)}
        problems = _rule_problems(given, _names(node))
        dimensions = _dimensions(node, scope, problems)
        matrix = Matrix(
            dimensions,
            _given(_RULE_LIST, given.get("exclude"), scope, problems),
            _given(_RULE_LIST, given.get("include"), scope, problems),
            _given(_SETTING_LIST, given.get("settings"), scope, problems),
        )
        if not problems:
            problems += _unzipped(matrix, given.get("include"))
        if problems:
            raise WrongError(problems)
        return matrix

    def schema(self, catalog: Catalog) -> Schema:
        axes = AXES.schema(catalog)
        rules = {
            "exclude": {
                "description": "Cells to leave out, by some of their values.",
                **_RULE_LIST.schema(catalog),
            },
            "include": {
                "description": "Cells to add; an axis that is not named takes all its values.",
                **_RULE_LIST.schema(catalog),
            },
            "zip": {
                "description": "Groups of axes that move together.",
                "type": "array",
                "items": {**axes, "minProperties": 2},
                "minItems": 1,
            },
            "settings": {"description": "Generation settings by cell.", **_SETTING_LIST.schema(catalog)},
        }
        names = {"pattern": _NAME_PATTERN, "not": {"enum": [*TAKEN]}}
        return {**axes, "properties": {**axes["properties"], **rules}, "propertyNames": names}


def _given(kind: Kind[tuple[T, ...]], node: Node | None, scope: Scope, problems: list[Problem]) -> tuple[T, ...]:
    return () if node is None else collect(kind, node, scope, problems) or ()


def _names(node: Node) -> tuple[str, ...]:
    """Every axis the matrix mentions, also those that are wrong; size and aspect always are axes."""
    names = {"size": None, "aspect": None}
    for key, value in entries(node):
        if key.text == "zip":
            groups = value.items if isinstance(value, Items) else []
            names |= {k.text: None for g in groups if isinstance(g, Fields) for k, _ in g.entries}
        elif key.text not in RULES:
            names[key.text] = None
    return tuple(names)


def _dimensions(node: Node, scope: Scope, problems: list[Problem]) -> Dimensions:
    """The dimensions as written, after a default for size and for aspect where there is none."""
    result: list[Dimension] = []
    first: dict[str, Scalar] = {}
    for group, place in _groups(node, problems):
        problems += [
            problem(
                key, f"axis {key.text!r} is given twice: first at {first[key.text].line}:{first[key.text].column}"
            )
            for key, _ in group.entries
            if first.setdefault(key.text, key) is not key
        ]
        if columns := collect(AXES, group, scope, problems):
            try:
                result.append(_dimension(columns, place))
            except WrongError as error:
                problems += error.problems
    return (*(default for default in DEFAULTS if default.names[0] not in first), *result)


def _groups(node: Node, problems: list[Problem]) -> Iterator[tuple[Fields, Node]]:
    """Each axis by itself and each zip group, as written, with the place of what is wrong with it."""
    for key, value in entries(node):
        if key.text == "zip":
            for group in value.items if isinstance(value, Items) else [value]:
                if isinstance(group, Fields) and len(group.entries) > 1 and isinstance(value, Items):
                    yield group, group
                else:
                    example = "a list of groups such as [{locale: [en, de], greeting: [Hello, Hallo]}]"
                    problems.append(problem(group, f"expected {example}, got {group}"))
        elif key.text not in RULES:
            yield Fields(key.line, key.column, [(key, value)]), value


def _rule_problems(given: Mapping[str, Node], names: tuple[str, ...]) -> list[Problem]:
    """Axes that exclude, include and settings name and that do not exist."""
    rules = [rule for name in ("exclude", "include") for rule in _items(given.get(name))]
    for setting in _items(given.get("settings")):
        if isinstance(setting, Fields):
            rules += [value for key, value in setting.entries if key.text == "where"]
    return [
        problem(key, f"unknown axis {shortened(key.text)!r}{guess(key.text, names)}")
        for rule in rules
        if isinstance(rule, Fields)
        for key, _ in rule.entries
        if key.text not in names
    ]


def _items(node: Node | None) -> list[Node]:
    return node.items if isinstance(node, Items) else []


def _unzipped(matrix: Matrix, include: Node | None) -> list[Problem]:
    """Includes that name a part of a zip group which no row of it has."""
    return [
        problem(node, f"no row of the zip group has these values: name {listed(dimension.names, 'and')}")
        for node, rule in zip(_items(include), matrix.include, strict=True)
        for dimension in matrix.dimensions
        if not included_rows(dimension, rule.values)
    ]


def included_rows(dimension: Dimension, values: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """The rows an include adds along one dimension: its own where it names all axes, else those that match."""
    if all(name in values for name in dimension.names):
        return (tuple(values[name] for name in dimension.names),)
    wanted = [(i, values[name]) for i, name in enumerate(dimension.names) if name in values]
    if not wanted:
        return dimension.rows
    return tuple(row for row in dimension.rows if all(row[i] == value for i, value in wanted))
