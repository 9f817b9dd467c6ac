"""A consistent copy of a ledger, whoever writes to it meanwhile, under its final name only once it is whole."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from runner.core.errors import LocalFailureError
from runner.ledger.database import plainly


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that was opened and read through."""

    path: Path
    bytes: int
    revision: str
    kind: str
    jobs: int
    attempts: int


def copy(path: Path, to: Path, check: Callable[[Path], None] = lambda _: None) -> None:
    """Copy the ledger at `path` to `to`, durably; `check` sees the copy before it gets its name.

    SQLite's backup makes no writer wait, and shows one committed state. Raises LocalFailureError where it cannot
    be written, and leaves nothing behind then.
    """
    unfinished = to.with_name(f"{to.name}.unfinished")
    with _cleared(unfinished, to):
        with plainly(path), closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)) as source:
            source.execute("SELECT 1 FROM sqlite_master")  # so that what is wrong with it is said of it
            _write(source, unfinished, to)
        check(unfinished)
        _sync(unfinished)
        unfinished.rename(to)
        _sync(to.parent)


def verify(path: Path) -> Copied:
    """Open a copy and read all of it. LocalFailureError if anything in it is not as SQLite wrote it."""
    # immutable: nobody else writes to it, so no files appear beside it
    with plainly(path), closing(sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True)) as copied:
        [first, *_] = [row[0] for row in copied.execute("PRAGMA integrity_check")]
        broken = copied.execute("PRAGMA foreign_key_check").fetchone()
        if first != "ok" or broken:
            raise LocalFailureError(
                f"{path}: the copy is damaged ({broken or first}), or the ledger is: check the disk"
            )
        return Copied(
            path,
            path.stat().st_size,
            *(copied.execute(question).fetchone()[0] for question in _QUESTIONS),
        )


_QUESTIONS = (
    "SELECT version_num FROM alembic_version",
    "SELECT kind FROM ledger",
    "SELECT COUNT(*) FROM job",
    "SELECT COUNT(*) FROM attempt",
)
"""In the order of `Copied`'s fields."""


def _write(source: sqlite3.Connection, unfinished: Path, to: Path) -> None:
    try:
        with closing(sqlite3.connect(unfinished)) as target:
            source.backup(target)
    except sqlite3.Error as error:
        raise LocalFailureError(f"{to}: cannot be written: {error}") from error


@contextmanager
def _cleared(unfinished: Path, to: Path) -> Iterator[None]:
    """No unfinished copy before, and none after, whatever happens."""
    try:
        unfinished.unlink(missing_ok=True)
        yield
    except OSError as error:
        raise LocalFailureError(f"{to}: cannot be written: {(error.strerror or str(error)).lower()}") from error
    finally:
        for name in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
            with suppress(OSError):
                name.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
