"""Locks that die with their holder: `flock` on files of their own beside the database's real path.

The files are never unlinked, or two processes could lock two files of one name. Children that are spawned do not
inherit the descriptors; children must not be forked.
"""

import fcntl
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from runner.core.errors import JobLockedError, LedgerError

LOOKS, LOOK_S = 5, 0.02


class FileLock:
    """An open lock file. Leaving the context, or the death of the process, gives the lock up."""

    def __init__(self, path: Path) -> None:
        """Open the file, creating it; LedgerError where the folder does not allow it."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise LedgerError(f"{path}: cannot create the lock file: {error.strerror}") from error

    def take(self, *, shared: bool = False) -> bool:
        """Try to lock without waiting, letting go of any lock already held here; tells whether it worked."""
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def sign(self) -> None:
        """Write who holds the lock, for the message that others print."""
        started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        card = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(card).encode(), 0)

    def holder(self) -> str:
        """Who signed last, in words."""
        with suppress(ValueError, KeyError, TypeError):
            card = json.loads(os.pread(self._fd, 4096, 0))
            return f"process {card['pid']} on {card['host']}, since {card['started']}"
        return "another process"

    def close(self) -> None:
        """Give the lock up."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def job_lock(database: Path, job: str) -> Iterator[FileLock]:
    """Be the one runner of `job`; JobLockedError names the one that already is."""
    with FileLock(_job_file(database, job)) as lock:
        if not _taken(lock):
            raise JobLockedError(f"job {job!r} is already being run by {lock.holder()}")
        lock.sign()
        yield lock


def _taken(lock: FileLock) -> bool:
    """Take it; whoever only looks (`runner_of`) holds it for an instant and is waited out."""
    for _ in range(LOOKS):
        if lock.take():
            return True
        time.sleep(LOOK_S)
    return lock.take()


def runner_of(database: Path, job: str) -> str | None:
    """Who runs the job now, in words; None if nobody does."""
    if not _job_file(database, job).exists():
        return None
    with FileLock(_job_file(database, job)) as lock:
        return None if lock.take(shared=True) else lock.holder()


def ledger_lock(database: Path) -> FileLock:
    """Shared by all that write to the ledger, exclusive to a migration."""
    return FileLock(_beside(database, "lock"))


def _job_file(database: Path, job: str) -> Path:
    """The hash keeps apart what the readable part makes alike."""
    readable = re.sub(r"[^a-z0-9]+", "-", job.casefold()).strip("-")[:40]
    return _beside(database, f"job-{readable}-{hashlib.sha256(job.encode()).hexdigest()[:8]}.lock")


def _beside(database: Path, suffix: str) -> Path:
    real = database.resolve()
    return real.with_name(f"{real.name}.{suffix}")
