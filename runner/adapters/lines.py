"""The input file of a batch job: JSON Lines, one request a line (gemini-api.md §8.4).

One malformed line fails a whole job, so what would be one is refused here, before it is uploaded.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.adapters.files import Files, RealFiles
from runner.adapters.request import content
from runner.core.catalog import bare
from runner.core.task import Assignment

MIMES = ("application/jsonl", "text/plain", "application/json")
"""Under which to upload it; some front ends refuse the first (gemini-api.md §9.2)."""
LARGEST_FILE = 2_000_000_000
"""In bytes (gemini-api.md §8.1)."""
_KEY = re.compile(r"[A-Za-z0-9._-]{1,64}")


class LineError(ValueError):
    """A request cannot be a line of a batch; `key` says which."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


@dataclass(frozen=True, slots=True)
class Written:
    """An input file, whole and durable."""

    lines: int
    bytes: int
    sha256: str
    """In hex."""


def write_lines(path: Path, items: Iterable[tuple[str, Assignment]], files: Files | None = None) -> Written:
    """Write requests, each under its key; the same items give the same bytes. Blocks.

    `path` is there whole or not at all. Raises LineError, and OSError where the disk refuses.
    """
    files, part = files or RealFiles(), path.with_name(f"{path.name}.part")
    try:
        written = _write(part, items, files)
        files.rename(part, path)
    except BaseException:
        if files.kind(part) is not None:
            files.unlink(part)
        raise
    files.sync_folder(path.parent)
    return written


def _write(part: Path, items: Iterable[tuple[str, Assignment]], files: Files) -> Written:
    digest, size, count = hashlib.sha256(), 0, 0
    handle = files.create(part)
    try:
        for data in _lines(items):
            size, count = size + len(data), count + 1
            if size > LARGEST_FILE:
                raise ValueError(f"more than {LARGEST_FILE:,} bytes after {count} lines")
            digest.update(data)
            files.write(handle, data)
        if not count:
            raise ValueError("a batch without a line")
        files.sync(handle)
    finally:
        files.close(handle)
    return Written(count, size, digest.hexdigest())


def _lines(items: Iterable[tuple[str, Assignment]]) -> Iterator[bytes]:
    keys: set[str] = set()
    model = ""
    for key, task in items:
        if key in keys:
            raise LineError(key, "this key is there twice")
        keys.add(key)
        named = bare(task.recipe.model)
        model = model or named
        if named != model:  # it stands in the address, for all lines
            raise LineError(key, f"a batch has one model: {model}, not {named}")
        yield line(key, task)


def line(key: str, task: Assignment) -> bytes:
    """One line with its line break: key first, then the request, in ASCII. Raises LineError."""
    if not _KEY.fullmatch(key):
        raise LineError(key, "a key is 1 to 64 letters, digits, dots, dashes, underscores")
    if not task.prompt.strip():
        raise LineError(key, "a request without words")
    for part in task.references:
        if part.base64 is not None or not part.uri:
            raise LineError(key, "a reference must be at the service: inline pictures make a batch too large")
    request = content(task)
    try:
        json.dumps(request, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair: no parser of protobuf's JSON takes it
        raise LineError(key, "a character that is none") from None
    return json.dumps({"key": key, "request": request}, separators=(",", ":")).encode("ascii") + b"\n"
