"""One line of a batch: the request as it was given, its result as it will be read (gemini-api.md §8.4, §8.6)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.core.catalog import Model
from runner.sandbox.chance import Chance
from runner.sandbox.errors import ApiError
from runner.sandbox.faults import ITEM_FAULTS
from runner.sandbox.reply import ERRORS, LOST, dump
from runner.sandbox.request import input_tokens
from runner.sandbox.sample import Sample
from runner.sandbox.schema import normalise

CODES = {400: 3, 403: 7, 404: 5, 408: 4, 409: 6, 429: 8, 499: 1, 500: 13, 502: 14, 503: 14, 504: 4}
"""gRPC codes, which results use, by HTTP status."""
MESSAGES = {
    13: "Internal error encountered.",
    8: "Resource has been exhausted (e.g. check quota).",
    14: "The service is currently unavailable.",
    4: "Deadline expired before operation could complete.",
    3: "Request contains an invalid argument.",
}
UNCONNECTED = frozenset(
    {"hang", "reset_before", "close_after_read", "reset_mid", "cut", "trickle", "keepalive_whitespace"}
)
"""Faults of a connection: a batch has none, so its line is an ordinary one."""
MISSHAPEN_CODES = {"http_502_html": 14, "empty_502": 14, "error_list": 14, "error_in_200": 13, "html_200": 13}


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch."""

    key: str | None
    """From `key`, else from `metadata.key`."""
    echo: dict[str, Any]
    """`key` and `metadata` as they were given, for the result."""
    request: dict[str, Any]
    """In the one spelling of `schema.normalise`."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What all lines together are."""

    total: int
    tokens: int
    """Input tokens."""
    problem: str | None
    """Why the first bad line spoils the whole job."""


class LineError(ValueError):
    """A line that is none."""


def rows(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of an input, each with its number in the file; empty ones are none."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                yield number, raw


def read(raw: bytes, number: int) -> Line:
    """Understand a line; raises LineError in the words of the service."""
    try:
        found = normalise(json.loads(raw), "BatchLine")
    except json.JSONDecodeError as error:
        raise LineError(f"Error on line {number}, column {error.colno}: {error.msg}.") from error
    except (ValueError, RecursionError) as error:
        raise LineError(f"Error on line {number}, column 1: invalid text.") from error
    except ApiError as error:
        raise LineError(f"Error on line {number}, column 1: {error.message}") from error
    if "request" not in found:
        raise LineError(f"Error on line {number}, column 1: request is not specified.")
    echo: dict[str, Any] = {name: found[name] for name in ("key", "metadata") if name in found}
    metadata = echo.get("metadata")
    key = echo.get("key", metadata.get("key") if isinstance(metadata, dict) else None)
    return Line(key if isinstance(key, str) else None, echo, found["request"])


def scan(path: Path, model: Model) -> Scan:
    """Read a whole input, line by line."""
    total = tokens = 0
    problem = None
    for number, raw in rows(path):
        total += 1
        if problem is None:
            try:
                tokens += input_tokens(model, read(raw, number).request)
            except LineError as error:
                problem = str(error)
    return Scan(total, tokens, problem or (None if total else "The input has no requests."))


# --- results -----------------------------------------------------------------------------------------------------

Error = tuple[int, str]
"""gRPC code and message."""


def failure(sample: Sample, fault: str | None) -> Error | None:
    """The error that a line ends in; None where it is answered."""
    if fault is None:
        return None
    if fault in ITEM_FAULTS:
        code = ITEM_FAULTS[fault]
        return code, MESSAGES[code]
    if fault in ERRORS:
        return refusal(ERRORS[fault](sample))
    if fault in MISSHAPEN_CODES:
        return MISSHAPEN_CODES[fault], MESSAGES[MISSHAPEN_CODES[fault]]
    if fault in LOST and (reply := LOST[fault][0]) is not None:
        code = CODES[reply.status]
        return code, MESSAGES.get(code, "The operation was cancelled.")
    return None


def refusal(error: ApiError) -> Error:
    """An error of the service as a result says it."""
    return CODES[error.code], error.message


def result(line: Line, body: bytes | Error, chance: Chance, form: str | None) -> bytes:
    """A line of results. Its fields have no fixed order; `form` is the fault of that group, if the job has one."""
    if isinstance(body, bytes):
        said = b'"response": ' + body
    else:
        code, message = body
        name = b'"status": ' if form == "batch_status_lines" else b'"error": '
        said = name + dump({"code": code, "message": message})
    echo = line.echo
    if form == "batch_key_in_metadata" and line.key is not None:
        metadata = echo.get("metadata")
        echo = {"metadata": {**(metadata if isinstance(metadata, dict) else {}), "key": line.key}}
    fields = [said, *(dump(name) + b": " + dump(value) for name, value in echo.items())]
    if chance.happens("result first", 0.5):
        fields.reverse()
    return b"{" + b", ".join(fields) + b"}\n"
