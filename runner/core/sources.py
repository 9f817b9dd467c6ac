"""Prompt files: blocks of bytes in, one row at a time out, and at the end everything that is wrong (design §3).

Opening files is not done here, nor are rows made into prompts: that is `prompts`. What a cell holds arrives as it
stands in the file, never trimmed, normalised or given other line breaks. The csv module is not used: it takes a
stray quotation mark for text, and the rest of the file for a cell whose mark is never closed.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from itertools import chain
from typing import Literal, get_args

from runner.core.errors import ManifestError, Problem
from runner.core.template import IDENTIFIER
from runner.core.yaml12 import UnreadableError, shortened

Kind = Literal["csv", "tsv", "jsonl", "txt"]

MAX_PROBLEMS = 20
MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_QUOTED = 1_000_000
"""Characters of a quoted cell: what is longer is a mark that nobody closed, and would swallow the file."""

_Line = tuple[int, str, str]
"""Number from 1, text, and the line break behind it."""
_Place = tuple[int, int]
"""The line a row begins on and its number, both from 1; blank rows and the header are not counted."""
_Cells = tuple[int, list[str]]
"""The line a row begins on and its cells; no cells where it cannot be told what they are."""

_BOM = b"\xef\xbb\xbf"
_FOREIGN_BOMS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_HEAD_BYTES = 4_096
_SAVE = "save the file as UTF-8 (in a spreadsheet: 'CSV UTF-8')"

_FIELDS = {"id": "id", "prompt": "prompt", "text": "prompt", "references": "references", "reference": "references"}
"""Columns that fill a field of the prompt, by their names in lower case."""
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]|-?Infinity|NaN|[^][{}",:\s]+')
_JSON_COLON = re.compile(r"\s*:")
_JSON_HINT = 'expected a JSON object or a JSON string on each line, as {"prompt": "a cat"}'


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt of a file, its template not filled in yet."""

    line: int
    """Where it begins, from 1."""
    id: str | None
    """None where there is none, or a blank one."""
    text: str | None
    """The prompt; None if the file has no column for it."""
    values: Mapping[str, str]
    """Its template variables: all other columns, by their names as variables."""
    references: tuple[str, ...]


def kind_of(file: str) -> Kind | None:
    """How a file is to be read, by the end of its name; None if that says nothing."""
    for kind in get_args(Kind):
        if file.lower().endswith(f".{kind}"):
            return kind  # type: ignore[no-any-return]
    return None


def rows(file: str, kind: Kind, blocks: Iterable[bytes], noted: list[Problem] | None = None) -> Iterator[Row]:
    """The rows of a prompt file, each as soon as it is read; memory is bounded by the longest line and block.

    Blocks may end anywhere. Behind the first thing wrong no row follows, so whoever wants only some rows cannot
    miss it: the rest is read for what else is wrong. Whoever looks into `noted` gets the good rows among the bad,
    and no error.

    Args:
        file: its name for messages.
        kind: how it is written.
        blocks: its bytes, best in blocks of some 64 KB.
        noted: where what is wrong goes, as it is found.

    Raises:
        ManifestError: at the end, with everything that is wrong, or as soon as that is `MAX_PROBLEMS`.
    """
    problems = _Problems(file, noted)
    found = False
    try:
        try:
            for row in _rows(kind, _lines(blocks, problems), problems):
                found = True
                if noted is not None or not problems.found:
                    yield row
        except UnreadableError as error:
            problems.add(error.problem.line, error.problem.column, error.problem.message)
        if not found and not problems.found:
            table = kind in ("csv", "tsv")
            problems.add(1, 1, f"no prompts: expected {'a row below a header' if table else 'one on a line'}")
        problems.close()
    except ManifestError:
        if noted is None:
            raise


class _Problems:
    """What is wrong so far with one file."""

    def __init__(self, file: str, noted: list[Problem] | None = None) -> None:
        self.found: list[Problem] = []
        self._file, self._noted = file, noted

    def add(self, line: int, column: int, message: str) -> None:
        """Raises ManifestError with the last of `MAX_PROBLEMS`."""
        self.found.append(Problem(line, column, message))
        if self._noted is not None:
            self._noted.append(replace(self.found[-1], file=self._file))
        if len(self.found) >= MAX_PROBLEMS:
            *others, last = sorted(self.found)
            self.found = [*others, replace(last, message=f"{last.message} (read no further: there may be more)")]
            self.close()

    def once(self, line: int, column: int, message: str) -> None:
        """The same for what would be said of every row."""
        if all(problem.message != message for problem in self.found):
            self.add(line, column, message)

    def close(self) -> None:
        if self.found:
            raise ManifestError(self._file, self.found)


def _rows(kind: Kind, lines: Iterator[_Line], problems: _Problems) -> Iterator[Row]:
    match kind:
        case "csv":
            return _table(",", lines, problems)
        case "tsv":
            return _table("\t", lines, problems)
        case "jsonl":
            return _jsonl(lines, problems)
        case "txt":
            return (Row(number, None, text, {}, ()) for number, text, _ in lines if text.strip())


def _lines(blocks: Iterable[bytes], problems: _Problems) -> Iterator[_Line]:
    """The lines of a file, which end with LF or CRLF and nothing else; what no text may hold is replaced."""
    offset = 0
    for number, whole in enumerate(_raw_lines(_recognised(blocks)), 1):
        raw = whole.removeprefix(_BOM) if number == 1 else whole
        offset += len(whole) - len(raw)
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            column = len(raw[: error.start].decode()) + 1
            byte = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start}"
            problems.add(number, column, f"not UTF-8: {byte}: correct it, or {_SAVE}")
            text = raw.decode(errors="replace")
        if "\0" in text:
            problems.add(number, text.index("\0") + 1, "a NUL character is not allowed: remove it")
            text = text.replace("\0", "\ufffd")
        offset += len(raw)
        if text.endswith("\r\n"):
            yield number, text[:-2], "\r\n"
        elif text.endswith("\n"):
            yield number, text[:-1], "\n"
        else:
            yield number, text, ""


def _recognised(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks; UnreadableError if they begin like another encoding than UTF-8."""
    rest = iter(blocks)
    head = b""
    while len(head) < _HEAD_BYTES and (block := next(rest, None)) is not None:
        head += block
    for mark, encoding in _FOREIGN_BOMS.items():
        if head.startswith(mark):
            raise UnreadableError(1, 1, f"{encoding}, not UTF-8: {_SAVE}")
    seen = head[:_HEAD_BYTES]
    if seen.count(0) >= max(4, len(seen) // 4):
        raise UnreadableError(1, 1, f"full of NUL bytes, so UTF-16 or no text at all: {_SAVE}")
    return chain([head], rest)


def _raw_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    size = 0
    number = 1
    for block in blocks:
        for piece in BytesIO(block):  # bytes are split at LF alone, unlike text
            pending.append(piece)
            size += len(piece)
            if size > MAX_LINE_BYTES:
                raise UnreadableError(
                    number, 1, f"a line of more than {MAX_LINE_BYTES:,} bytes (16 MB): no prompt"
                )
            if piece.endswith(b"\n"):
                yield b"".join(pending)
                pending, size, number = [], 0, number + 1
    if pending:
        yield b"".join(pending)


@dataclass(frozen=True, slots=True)
class _Columns:
    """What a header says: how many cells a row has, and which one is what."""

    separator: str
    width: int
    places: Mapping[str, int]
    nameless: set[int]
    """Those that must be empty, as the separators behind a spreadsheet's last column leave them."""


def _table(separator: str, lines: Iterator[_Line], problems: _Problems) -> Iterator[Row]:
    """The rows of a CSV or TSV file below its header; wholly blank ones are passed over."""
    top = next((line for line in lines if line[1].strip()), None)
    if top is None:
        return
    _check_separator(separator, top)
    lines = chain([top], lines)
    records = _csv(lines, problems) if separator == "," else _tsv(lines)
    filled = ((line, cells) for line, cells in records if not cells or any(map(str.strip, cells)))
    line, header = next(filled, (0, []))
    if not header:
        return
    columns = _columns(separator, line, header, problems)
    for count, (line, cells) in enumerate(filled, 1):
        where = (line, count)
        if cells and _fits(where, cells, columns, problems):
            values = {name: cells[place] for name, place in columns.places.items()}
            references = _split(values.pop("references", ""))
            yield _row(where, values, references, problems)


def _check_separator(separator: str, line: _Line) -> None:
    """UnreadableError where the first line shows that the whole file is written otherwise."""
    number, text, _ = line
    if "\r" in text:
        advice = "save the file with the line ends of Linux, macOS or Windows"
        raise UnreadableError(number, 1, f"the header holds a carriage return, which alone ends no line: {advice}")
    others = [other for other in _SEPARATORS if other in text]
    if others and separator not in others:
        rename = {",": "name the file .csv, or ", "\t": "name the file .tsv, or "}.get(others[0], "")
        advice = f"{rename}save it with {_SEPARATORS[separator]}"
        raise UnreadableError(number, 1, f"the header seems to be separated by {_SEPARATORS[others[0]]}: {advice}")


def _columns(separator: str, line: int, header: Sequence[str], problems: _Problems) -> _Columns:
    places: dict[str, int] = {}
    nameless = {i for i, cell in enumerate(header) if not cell.strip()}
    for i, cell in enumerate(header):
        if i in nameless:
            continue
        try:
            earlier = places.setdefault(_meaning(cell), i)
            if earlier != i:
                raise _clash(header[earlier], cell)
        except _NameError as error:
            problems.add(line, 1, str(error))
    return _Columns(separator, len(header), places, nameless)


def _fits(where: _Place, cells: Sequence[str], columns: _Columns, problems: _Problems) -> bool:
    """Whether each cell of a row stands below its name."""
    surplus = cells[columns.width :]
    # a tab behind the last cell changes nothing, a comma there may be one of the text
    if len(cells) < columns.width or (surplus and (columns.separator == "," or any(map(str.strip, surplus)))):
        problems.add(where[0], 1, f"{_named(where)} {_misfit(cells, columns)}")
        return False
    for i in columns.nameless:
        if cells[i].strip():
            held = f"{_named(where)} holds {shortened(cells[i], 30)!r} there"
            problems.add(
                where[0], 1, f"column {i + 1} has no name in the header, but {held}: name it, or empty it"
            )
            columns.nameless.remove(i)
            return False
    return True


def _misfit(cells: Sequence[str], columns: _Columns) -> str:
    comma = columns.separator == ","
    if len(cells) < columns.width:
        number = f"{len(cells)} of {columns.width} cells"
        cause = "a comma or a quotation mark is missing" if comma else "a tab is missing"
    else:
        number = f"{len(cells)} cells where the header has {columns.width}"
        cause = "a text that holds a comma needs quotation marks" if comma else "there is a tab too many"
    return f"has {number}: {cause}; it begins {shortened(columns.separator.join(cells), 30)!r}"


def _tsv(lines: Iterator[_Line]) -> Iterator[_Cells]:
    return ((number, text.split("\t")) for number, text, _ in lines)


def _csv(lines: Iterator[_Line], problems: _Problems) -> Iterator[_Cells]:
    """RFC 4180, with either line break; a row whose quotation marks are wrong ends with its line."""
    for line in lines:
        number, text, _ = line
        if '"' not in text:
            yield number, text.split(",")
            continue
        try:
            cells = _quoted_row(line, lines)
        except _RowError as error:
            problems.add(error.line, error.column, str(error))
            cells = []
        yield number, cells


class _RowError(Exception):
    """What is wrong with one row, and where; the next one can be read."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line, self.column = line, column


def _quoted_row(line: _Line, lines: Iterator[_Line]) -> list[str]:
    """The cells of a row with quotation marks, for which further lines may be needed."""
    cells: list[str] = []
    at = 0
    while True:
        number, text, _ = line
        if text.startswith('"', at):
            cell, line, at = _quoted_cell(line, at, lines)
            opened, (number, text, _) = number, line
            if at < len(text) and text[at] != ",":
                mark = "a quotation mark" if opened == number else f"the quotation mark opened in line {opened}"
                raise _RowError(number, at, f'{mark} closes here, and text follows: write "" for one in a text')
        else:
            end = text.find(",", at)
            cell = text[at : end if end >= 0 else len(text)]
            if '"' in cell:
                raise _RowError(number, at + cell.index('"') + 1, _stray(cell))
            at += len(cell)
        cells.append(cell)
        if at == len(text):
            return cells
        at += 1


def _stray(cell: str) -> str:
    if cell.lstrip().startswith('"'):
        return "a space stands before an opening quotation mark: remove it"
    return 'a quotation mark in a text without them round it: write "" for it, and put the text in quotation marks'


def _quoted_cell(line: _Line, at: int, lines: Iterator[_Line]) -> tuple[str, _Line, int]:
    """The text between two quotation marks, the first at `at`; the line of the second, and the place behind it."""
    opened = line[0], at + 1
    pieces: list[str] = []
    size = 0
    at += 1
    while True:
        _, text, ending = line
        end = text.find('"', at)
        doubled = text.startswith('""', end) if end >= 0 else False
        pieces.append(text[at : end + doubled] if end >= 0 else text[at:] + ending)
        size += len(pieces[-1])
        if size > MAX_QUOTED:
            raise UnreadableError(
                *opened, "the quotation mark that opens here is not closed within 1 MB: close it"
            )
        if end >= 0 and not doubled:
            return "".join(pieces), line, end + 1
        at = end + 2
        if end < 0:
            at = 0
            following = next(lines, None)
            if following is None:
                raise UnreadableError(*opened, "the quotation mark that opens here is never closed: close it")
            line = following


class _Number(str):
    """A JSON number as it is spelled."""

    __slots__ = ()


class _AmbiguousError(Exception):
    """JSON without one meaning for all who read it."""


def _jsonl(lines: Iterator[_Line], problems: _Problems) -> Iterator[Row]:
    """The rows of a file with an object, or a text, on each line."""
    first: Row | None = None
    filled = (line for line in lines if line[1].strip())
    for count, (number, text, _) in enumerate(filled, 1):
        where = (number, count)
        try:
            row = _json_row(where, text, problems)
        except _NameError as error:
            problems.once(number, 1, str(error))
            continue
        except _RowError as error:
            if count == 1 and (text.strip() == "{" or text.lstrip().startswith("[")):
                message = "one JSON document, not one on each line: write each object on one line"
                raise UnreadableError(number, 1, f"{message}, without a bracket or commas round them") from None
            problems.add(error.line, error.column, str(error))
            continue
        first = first or row
        if (row.text is None) != (first.text is None):
            has, other = ("no prompt", "one") if row.text is None else ("a prompt", "none")
            unlike = f"the first row (line {first.line}) has {other}"
            problems.add(number, 1, f"{_named(where)} has {has}, but {unlike}: give every row one, or none")
        yield row


def _json_row(where: _Place, text: str, problems: _Problems) -> Row:
    try:
        value = _parsed(where[0], text)
        if type(value) is str:
            return _row(where, {"prompt": value}, (), problems)
        if not isinstance(value, dict):
            raise _RowError(where[0], 1, f"{_JSON_HINT}, got {_article(value)}")
        given = _meanings(value)
        references = _json_references(where, *given.pop("references", ("", "")))
        for name in given.keys() & {"id", "prompt"}:
            key, content = given[name]
            if isinstance(content, list | dict):
                raise _RowError(where[0], 1, f"{_named(where)}: expected text as {key!r}, got {_article(content)}")
        return _row(where, {name: _spelled(content) for name, (_, content) in given.items()}, references, problems)
    except RecursionError:
        raise _RowError(where[0], 1, "JSON nested too deeply: write it as a text") from None


def _meanings(fields: Mapping[str, object]) -> dict[str, tuple[str, object]]:
    """Keys as they are spelled, and values, by what the keys mean; null is as good as absent."""
    given: dict[str, tuple[str, object]] = {}
    for key, value in fields.items():
        if value is not None:
            earlier, _ = given.setdefault(_meaning(key), (key, value))
            if earlier != key:
                raise _clash(earlier, key)
    return given


def _json_references(where: _Place, key: str, value: object) -> tuple[str, ...]:
    if type(value) is str:
        return _split(value)
    if isinstance(value, list) and all(type(one) is str and one.strip() for one in value):
        return tuple(value)
    got = shortened(_spelled(value))
    raise _RowError(where[0], 1, f"{_named(where)}: expected a path or a list of paths as {key!r}, got {got}")


def _parsed(line: int, text: str) -> object:
    """The value of a line, numbers as they are spelled; RecursionError where it is nested too deeply."""
    try:
        value: object = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # fails where half a character is left alone
    except json.JSONDecodeError as error:
        message = (error.msg[0].lower() + error.msg[1:]).removesuffix(" at")
        raise _RowError(line, error.colno, f"not valid JSON: {message}; {_JSON_HINT}") from None
    except (_AmbiguousError, UnicodeEncodeError):
        raise _RowError(line, *_flaw(text)) from None
    return value


def _flaw(text: str) -> tuple[int, str]:
    """Column and nature of the first thing in a line of JSON that has no one meaning; up to there it is valid."""
    keys: list[set[str]] = []
    for match in _JSON_TOKEN.finditer(text):
        token, column = match.group(), match.start() + 1
        if token in ("{", "["):
            keys.append(set())
        elif token in ("}", "]"):
            keys.pop()
        elif token in ("NaN", "Infinity", "-Infinity"):
            return column, f"{token} is not a JSON number: put it in quotation marks, or write null"
        elif token.startswith('"'):
            word = json.loads(token)
            if half := _SURROGATE.search(word):
                return column, f"\\u{ord(half.group()):04x} is half a character: write both halves, or itself"
            if _JSON_COLON.match(text, match.end()):
                if word in keys[-1]:
                    return column, f"duplicate key {shortened(word)!r}: remove one"
                keys[-1].add(word)
    raise AssertionError("asked of a line without one")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _AmbiguousError
    return fields


def _no_number(_word: str) -> object:
    raise _AmbiguousError


_DECODER = json.JSONDecoder(
    parse_int=_Number, parse_float=_Number, parse_constant=_no_number, object_pairs_hook=_unique
)


def _spelled(value: object) -> str:
    """A JSON value as the text of a variable: as it is written, lists and objects without spaces."""
    return str(value) if isinstance(value, str) else _compact(value)


def _compact(value: object) -> str:
    match value:
        case _Number():
            return str(value)
        case list():
            return f"[{','.join(map(_compact, value))}]"
        case dict():
            return f"{{{','.join(f'{_compact(key)}:{_compact(one)}' for key, one in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)


def _article(value: object) -> str:
    """A JSON value that is no text, for a message."""
    match value:
        case list():
            return "a list"
        case dict():
            return "an object"
        case _Number():
            return f"the number {shortened(value)}"
    return json.dumps(value)


def _row(where: _Place, values: dict[str, str], references: tuple[str, ...], problems: _Problems) -> Row:
    """A row of what its columns hold; the two that are fields are taken out of `values`."""
    id_, text = values.pop("id", None), values.pop("prompt", None)
    if text is not None and not text.strip():
        problems.add(where[0], 1, f"{_named(where)} has a blank prompt: write one, or remove the row")
    if id_ and (bad := _UNPRINTABLE.search(id_)):
        name = f"U+{ord(bad.group()):04X}"
        problems.add(
            where[0], 1, f"{_named(where)} has {name} in its id: expected printable characters on one line"
        )
    return Row(where[0], id_ if id_ and id_.strip() else None, text, values, references)


def _split(cell: str) -> tuple[str, ...]:
    """The references in a cell; spaces round them are for people."""
    return tuple(one for part in cell.split("|") if (one := part.strip())) if cell else ()


class _NameError(Exception):
    """A column or key whose name cannot be used."""


@lru_cache(maxsize=4_096)
def _meaning(name: str) -> str:
    """The field that a column or key fills, or else its name as a variable."""
    stripped = unicodedata.normalize("NFC", name.strip())
    if field := _FIELDS.get(stripped.lower()):
        return field
    variable = re.sub(r"\W+", "_", stripped)
    if not IDENTIFIER.fullmatch(variable):
        expected = "expected a letter or _ first, then letters, digits or _"
        raise _NameError(f"the name {shortened(name)!r} cannot be that of a variable: {expected}")
    return variable


def _clash(one: str, other: str) -> _NameError:
    names = f"the names {shortened(one)!r} and {shortened(other)!r} both mean {shortened(_meaning(one))!r}"
    return _NameError(f"{names}: rename or remove one")


def _named(where: _Place) -> str:
    line, count = where
    return f"row {count} (line {line})"
