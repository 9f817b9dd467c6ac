"""The prompts of a manifest, one after another; those of files are read as they come (design §3).

Pure: what a file holds is handed in by `Files`, and the same files give the same prompts.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from typing import Protocol

from runner.core.axes import Dimension, Dimensions, axis_value
from runner.core.errors import ManifestError, Problem
from runner.core.paths import prompt_id
from runner.core.reference import Reference
from runner.core.shape import Scope, WrongError, listed
from runner.core.sources import MAX_PROBLEMS, Kind, Row, rows
from runner.core.template import Template, compile_template, literal
from runner.core.yaml12 import shortened

MAX_LINES = 5
"""That a message names where many rows have the same thing wrong."""
MAX_GRIDS = 4_096
"""Rows of a file that replace the same axes by the same values share them; so many such are remembered."""


OWN_TEXT = ("prompt", "text")
"""What an entry's text for all rows calls the prompt of a row."""


class Files(Protocol):
    """The files that a manifest names, by the names it gives them: relative to where it lies."""

    def blocks(self, name: str) -> Iterable[bytes]:
        """The bytes of a prompt file, in blocks; OSError where it cannot be read."""

    def pictures(self, pattern: str) -> tuple[Reference, ...]:
        """The reference pictures that a path, a pattern or a URI stands for; ValueError says what is wrong."""


class NoFiles:
    """`Files` of a manifest that may name none."""

    def blocks(self, name: str) -> Iterable[bytes]:
        """Raises OSError."""
        raise FileNotFoundError(2, "No such file", name)

    def pictures(self, pattern: str) -> tuple[Reference, ...]:
        """Raises ValueError."""
        raise ValueError(f"{pattern}: no such file")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt; `line` and `column` are those of its text."""

    id: str
    text: str
    """As written, the variables of its row filled in."""
    template: Template
    dimensions: Dimensions
    """The manifest's, with the axes replaced that the prompt's own `matrix:`, or its row, names."""
    line: int
    column: int
    references: tuple[Template, ...] = ()
    """Paths, patterns and URIs, in which axes may stand."""
    file: str = ""
    """Where it stands, if not in the manifest."""
    given_id: bool = True
    """Whether a person gave the id: one that was made is numbered where it is taken."""
    draft: str | None = None
    """Key of the task that it was chosen for."""
    blank: tuple[str, ...] = ()
    """What its row leaves empty though its text, or a reference, has a place for it."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of prompts; `line` and `column` are those of its name in the manifest."""

    name: str
    """Relative to the manifest."""
    file: str
    """For messages: as the manifest itself is called, or its folder."""
    kind: Kind
    dimensions: Dimensions
    line: int
    column: int
    text: str | None = None
    """The prompt of every row; in it `{prompt}` is the row's own, if the file has one."""
    template: bool = True
    references: tuple[Template, ...] = ()
    """Of every row, before those of the row itself."""
    limit: int | None = None
    sample: Fraction | None = None
    """The part of the rows that is taken."""
    seed: int = 0
    """Chooses another part of the same size."""


@dataclass(frozen=True)
class Reading:
    """What reading a manifest's prompts depends on."""

    file: str
    """The manifest, for messages."""
    axes: tuple[str, ...]
    files: Files
    scope: Scope
    drafts: bool = False
    """Whether a column `draft` names what a row was chosen for."""


def stream(prompts: Iterable[Prompt | Source], reading: Reading) -> Iterator[Prompt]:
    """All prompts in the manifest's order. Raises ManifestError where a file is wrong, once it was read."""
    for one in prompts:
        if isinstance(one, Prompt):
            yield one
        else:
            yield from _Rows(one, reading).prompts()


class _Rows:
    """The prompts of one file."""

    def __init__(self, source: Source, reading: Reading) -> None:
        self._source, self._reading = source, reading
        self._template = None if source.text is None else self._compiled(source.text)
        self._own_text = tuple(name for name in OWN_TEXT if name not in reading.axes)
        self._grids: OrderedDict[tuple[tuple[str, str], ...], Dimensions] = OrderedDict()
        self._problems: list[Problem] = []
        self._again: dict[str, array[int]] = {}
        self._wrongs = 0

    def prompts(self) -> Iterator[Prompt]:
        source = self._source
        taken = 0
        for prompt in islice(self._chosen(), source.limit):
            taken += 1
            yield prompt
        if self._problems:
            raise ManifestError(source.file, _bounded(self._with_lines()))
        if not taken:
            what = "has no prompts" if source.sample is None else "has no prompts in this sample: take more of it"
            raise ManifestError(self._reading.file, [Problem(source.line, source.column, f"{source.name} {what}")])

    def _chosen(self) -> Iterator[Prompt]:
        source = self._source
        try:
            for row in rows(source.file, source.kind, self._reading.files.blocks(source.name), self._problems):
                if source.sample is None or _falls(row, source.seed) < source.sample:
                    if (prompt := self._prompt(row)) is not None:
                        yield prompt
                    elif len(self._problems) >= MAX_PROBLEMS:
                        return
        except OSError as error:
            why = f"{source.name} cannot be read: {error.strerror or error}"
            raise ManifestError(self._reading.file, [Problem(source.line, source.column, why)]) from None

    def _prompt(self, row: Row) -> Prompt | None:
        """A row's prompt; None where something is wrong with it, which is noted."""
        before = self._wrongs
        template = self._of(row)
        own, values = self._split(row.values)
        if row.text is not None and self._template is not None:
            values = {**dict.fromkeys(self._own_text, row.text), **values}
        draft = values.pop("draft", None) if self._reading.drafts else None
        dimensions = self._dimensions(own, row)
        references = self._source.references
        if row.references:
            references = (*references, *map(compile_template, row.references))
        self._check_names(template, row, values, otherwise=", or template: false")
        for one in references:
            self._check_names(one, row, values, where=" in a reference")
        if self._wrongs > before:
            return None
        filled = template.given(values) if template.names else template
        text = filled.written if filled.names else filled.parts[0]
        return Prompt(
            id=row.id or prompt_id(text, beside=[*row.references, *(f"{n}={own[n]}" for n in sorted(own))]),
            text=text,
            template=filled,
            dimensions=dimensions,
            line=row.line,
            column=1,
            references=tuple(one.given(values) for one in references),
            file=self._source.file,
            given_id=row.id is not None,
            draft=draft or None,
            blank=(
                *_blank(template, values),
                *(f"{n} in a reference" for r in references for n in _blank(r, values)),
            ),
        )

    def _split(self, values: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """What replaces an axis for its row, unless it is blank, and the variables."""
        if not values:
            return {}, {}
        axes = self._reading.axes
        own = {name: text for name, text in values.items() if name in axes and text.strip()}
        return own, {name: text for name, text in values.items() if name not in axes}

    def _of(self, row: Row) -> Template:
        """The row's prompt: its own, or that of all."""
        if row.text is None and self._template is None:
            missing = "the file has no column 'prompt' or 'text', and its entry in the manifest no 'text'"
            advice = f": give that one, such as '{{{next(iter(row.values))}}}'" if row.values else ""
            self._wrong(row, f"{missing}{advice}", once=True)
        elif (
            row.text is not None and self._template is not None and not {*self._own_text} & {*self._template.names}
        ):
            twice = "the prompt is given twice: by the file and by 'text' of its entry in the manifest"
            self._wrong(row, f"{twice}: write {{prompt}} into that text where the file's is to stand", once=True)
        if self._template is not None:
            return self._template
        return self._compiled(row.text or "")

    def _compiled(self, text: str) -> Template:
        return compile_template(text) if self._source.template and "{" in text else literal(text)

    def _check_names(
        self, template: Template, row: Row, values: Mapping[str, str], *, where: str = "", otherwise: str = ""
    ) -> None:
        for name in dict.fromkeys(template.names) if template.names else ():
            if name not in values and name not in self._reading.axes:
                known = listed([f"{{{one}}}" for one in (*values, *self._reading.axes)])
                written = f"{{{shortened(name)}}}"
                message = f"{written}{where} is neither a column nor an axis: expected {known}"
                advice = f"write {{{written}}} for the literal{otherwise}"
                self._wrong(row, f"{message}; {advice}", once=self._alike(template))

    def _alike(self, template: Template) -> bool:
        """Whether a template is that of the entry, so that what is wrong with it is wrong in many rows."""
        return template in (self._template, *self._source.references)

    def _dimensions(self, own: Mapping[str, str], row: Row) -> Dimensions:
        """The source's dimensions, an axis replaced for which the row has a value."""
        if not own:
            return self._source.dimensions
        wanted = tuple(sorted(own.items()))
        if (known := self._grids.get(wanted)) is not None:
            return known
        before, made = self._wrongs, list[Dimension]()
        for dimension in self._source.dimensions:
            try:
                made.append(self._replaced(dimension, own))
            except WrongError as error:
                for one in error.problems:
                    self._wrong(row, one.message)
        if self._wrongs > before:
            return self._source.dimensions
        self._grids[wanted] = tuple(made)
        if len(self._grids) > MAX_GRIDS:
            self._grids.popitem(last=False)
        return self._grids[wanted]

    def _replaced(self, dimension: Dimension, own: Mapping[str, str]) -> Dimension:
        given = [name for name in dimension.names if name in own]
        if not given:
            return dimension
        if missing := [name for name in dimension.names if name not in own]:
            together = f"{listed(given, 'and')} moves together with {listed(missing, 'and')}: give a value of each"
            raise WrongError([Problem(1, 1, together)])
        values = tuple(axis_value(name, own[name], self._reading.scope) for name in dimension.names)
        return Dimension(dimension.names, (values,))

    def _wrong(self, row: Row, message: str, *, once: bool = False) -> None:
        """Note what is wrong with a row, or `once` what may be said of every row."""
        self._wrongs += 1
        if once and any(problem.message == message for problem in self._problems):
            self._again.setdefault(message, array("q")).append(row.line)
        elif len(self._problems) < MAX_PROBLEMS:
            self._problems.append(Problem(row.line, 1, message, self._source.file))

    def _with_lines(self) -> list[Problem]:
        """What is wrong, with the other lines where it is; in a table that is all of them."""
        if self._source.kind != "jsonl":
            return self._problems
        return [
            replace(one, message=f"{one.message} (also in {_lines(again)})")
            if (again := self._again.get(one.message))
            else one
            for one in self._problems
        ]


def _blank(template: Template, values: Mapping[str, str]) -> list[str]:
    """The names of a template that fill it with nothing to be seen; an axis may mean to."""
    blank = (name for name in template.names if name in values and not values[name].strip())
    return [f"{{{name}}}" for name in dict.fromkeys(blank)]


def _lines(numbers: Sequence[int]) -> str:
    """The first few of them by number, the rest by how many they are."""
    if len(numbers) > MAX_LINES:
        return f"lines {', '.join(map(str, numbers[:MAX_LINES]))} and {len(numbers) - MAX_LINES:,} more"
    return f"line {numbers[0]}" if len(numbers) == 1 else f"lines {listed(map(str, numbers), 'and')}"


def _bounded(problems: list[Problem]) -> list[Problem]:
    """The first of them, with word of it where there may be more."""
    if len(problems) < MAX_PROBLEMS:
        return problems
    *others, last = sorted(problems)[:MAX_PROBLEMS]
    return [*others, replace(last, message=f"{last.message} (read no further: there may be more)")]


def _falls(row: Row, seed: int) -> Fraction:
    """Where in [0, 1) a row falls, whatever its place in the file."""
    facts = (str(seed), row.id or "", row.text or "", *(f"{n}={v}" for n, v in sorted(row.values.items())))
    digest = hashlib.sha256("\0".join((*facts, *row.references)).encode()).digest()
    return Fraction(int.from_bytes(digest[:8]), 2**64)
