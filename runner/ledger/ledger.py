"""The ledger as the rest of the program sees it: opened, locked, written from coroutines, read from threads."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection

from runner.core.budget import Cap
from runner.core.errors import LedgerError
from runner.core.lifecycle import Outcome
from runner.core.pricing import PriceSheet, Settlement
from runner.core.retry import LASTING, Move
from runner.core.task import TaskSpec
from runner.ledger import queries
from runner.ledger.claim import claim
from runner.ledger.database import BUSY_TIMEOUT_S, locate, plainly, reading, writing
from runner.ledger.enqueue import enqueue
from runner.ledger.facts import (
    AttemptRecord,
    Claim,
    Claimed,
    Counters,
    Enqueued,
    JobSpec,
    JobStatus,
    Known,
    OutcomeRow,
    Settled,
    TaskRecord,
)
from runner.ledger.locks import FileLock, job_lock, ledger_lock, runner_of
from runner.ledger.schema import HEAD, Kind, identify, prepare, refuse_other_kind, require
from runner.ledger.settle import halt, relocate, settle
from runner.ledger.writer import PATIENCE_S, Writer

P = ParamSpec("P")
T = TypeVar("T")


class Reader:
    """Reads a ledger that is at the newest revision. Each call sees one consistent state; any thread may call.

    An iterator holds its view, and a file open, until it is exhausted or closed.
    """

    def __init__(self, path: Path) -> None:
        """`path` must be a ledger at the newest revision."""
        self.path = path
        self._engine = reading(path)

    def job_names(self) -> list[str]:
        """All jobs, by name."""
        return self._ask(queries.job_names)

    def status(self, job: str, *, since_utc: float) -> JobStatus:
        """Where a job is, with the pictures bought since `since_utc`; LookupError if there is none."""
        return self._ask(queries.status, job, since_utc=since_utc)

    def runner(self, job: str) -> str | None:
        """The process that runs the job now, in words; None if nobody does."""
        return runner_of(self.path, job)

    def outcomes(self, job: str) -> list[OutcomeRow]:
        """Live tasks by state and reason, most first, with what they cost."""
        return self._ask(queries.outcomes, job)

    def recorded(self, job: str) -> int:
        """How many tasks the job has ever had, orphans included; 0 for a job the ledger does not know."""
        return self._ask(queries.recorded, job)

    def running(self, job: str) -> list[Claimed]:
        """Attempts in flight; before a run starts: those that a crash left behind, oldest first."""
        return self._ask(queries.running, job)

    def recent_starts(self, model: str, endpoint: str, since_utc: float) -> list[float]:
        """When attempts at this model and endpoint started, any job's, oldest first."""
        return self._ask(queries.recent_starts, model, endpoint, since_utc)

    def counters(self, job: str) -> Counters:
        """The job's counters as they are kept."""
        return self._ask(queries.counters, job)

    def recount(self, job: str) -> Counters:
        """The same from the rows they count; reads them all."""
        return self._ask(queries.recount, job)

    def tasks(self, job: str, *, orphaned: bool = False) -> Iterator[TaskRecord]:
        """The job's tasks in the manifest's order, streamed; orphans after them if asked."""
        return self._stream(queries.tasks, job, orphaned=orphaned)

    def attempts(self, job: str) -> Iterator[AttemptRecord]:
        """The job's attempts in the order they started, orphans' included, streamed."""
        return self._stream(queries.attempts, job)

    def known(self, job: str, keys: Iterable[str]) -> Iterator[tuple[str, Known | None]]:
        """What the ledger knows of each key, in the order given; all None for a job it does not know."""
        return self._stream(queries.known, job, keys)

    def stems_elsewhere(self, output_root: str, job: str) -> Iterator[tuple[str, str]]:
        """(case-folded stem, job) that other jobs of the same output root claim or have a picture at."""
        return self._stream(queries.stems_elsewhere, output_root, job)

    def _ask(self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with plainly(self.path), self._engine.connect() as connection:
            return query(connection, *args, **kwargs)

    def _stream(
        self, query: Callable[Concatenate[Connection, P], Iterator[T]], *args: P.args, **kwargs: P.kwargs
    ) -> Iterator[T]:
        with plainly(self.path), self._engine.connect() as connection:
            yield from query(connection, *args, **kwargs)


class Ledger:
    """A ledger opened for writing. Its verbs return once the change is durable.

    They raise LocalFailureError where this machine cannot commit; nothing has changed then, and the same call may
    be made again.
    """

    def __init__(self, path: Path, lock: FileLock, *, patience_s: float) -> None:
        """Use `open`. `lock` is held, shared, until `close`."""
        self.path = path
        self.reader = Reader(path)
        self._lock = lock
        with plainly(path):
            self._writer = Writer(writing(path).connect(), path, patience_s)

    @classmethod
    def open(
        cls,
        url: str,
        kind: Kind,
        *,
        now_utc: float,
        upgrade_patience_s: float = BUSY_TIMEOUT_S,
        write_patience_s: float = PATIENCE_S,
    ) -> Self:
        """Open, creating it, or upgrading it after a backup copy, where needed.

        Raises WrongLedgerError for a ledger of the other kind, a newer or a foreign one; LedgerError for a file
        that cannot be used, or cannot be upgraded because another runner uses it.
        """
        path = locate(url)
        refuse_other_kind(path, identify(path), kind)  # before anything of ours is written beside it
        with ExitStack() as undo:
            lock = undo.enter_context(ledger_lock(path))
            prepare(path, kind, lock, now_utc=now_utc, patience_s=upgrade_patience_s)
            if not os.access(path, os.W_OK):
                raise LedgerError(f"{path}: may not be written; check its permissions")
            opened = cls(path, lock, patience_s=write_patience_s)
            undo.pop_all()
        return opened

    @classmethod
    def read(cls, url: str, kind: Kind | None = None) -> Reader:
        """Open for reading; never creates, never migrates. LedgerError says what to do where that is not enough.

        With `kind` also WrongLedgerError if it is of the other one.
        """
        path = locate(url)
        found = require(path)
        if kind is not None:
            refuse_other_kind(path, found, kind)
        return Reader(path)

    @staticmethod
    def exists(url: str) -> bool:
        """Whether there is a ledger at `url`; WrongLedgerError if there is something else."""
        return identify(locate(url)).revision is not None

    @property
    def busy(self) -> bool:
        """Whether the writer has yet to answer someone: a driven clock must not jump meanwhile."""
        return self._writer.busy

    @staticmethod
    def is_current(url: str) -> bool:
        """Whether the ledger at `url` can be read as it is, without an upgrade."""
        return identify(locate(url)).revision == HEAD

    def close(self) -> None:
        """Finish what is queued, and let others migrate."""
        self._writer.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def lock_job(self, job: str) -> AbstractContextManager[FileLock]:
        """Be the one runner of `job` inside the context; JobLockedError names the process that already is."""
        return job_lock(self.path, job)

    async def enqueue(
        self,
        spec: JobSpec,
        specs: Iterable[TaskSpec],
        *,
        now: float,
        requeue_failed: bool = True,
        lasting: Collection[str] = LASTING,
    ) -> Enqueued:
        """Record a manifest. `specs` is consumed in the writer's thread.

        Failed tasks go back with fresh tries unless their reason is `lasting`.
        """
        work = partial(enqueue, spec=spec, specs=specs, requeue_failed=requeue_failed, now=now, lasting=lasting)
        return await self._writer.run(work)

    async def claim(
        self, job: str, *, now: float, sheet: PriceSheet, cap: Cap, token: str, endpoint: str
    ) -> Claim:
        """Take the next due task in order and reserve its worst price, as attempt `token` (32 hex digits)."""
        work = partial(claim, name=job, now=now, sheet=sheet, cap=cap, token=token, endpoint=endpoint)
        return await self._writer.run(work)

    async def settle(
        self,
        claimed: Claimed,
        outcome: Outcome,
        settlement: Settlement,
        move: Move,
        *,
        now: float,
        latency_s: float | None,
        adopted: bool = False,
    ) -> Settled:
        """End an attempt; if it had already ended nothing changes, and the answer says so."""
        return await self._writer.run(
            lambda connection: settle(
                connection, claimed, outcome, settlement, move, now=now, latency_s=latency_s, adopted=adopted
            )
        )

    async def halt(self, job: str, halted: str | None, reason: str | None, *, now: float) -> None:
        """Say why the job no longer claims; two None take it back."""
        await self._writer.run(partial(halt, name=job, halted=halted, reason=reason, now=now))

    async def relocate(self, job: str, moves: Collection[tuple[str, str, str]]) -> int:
        """Record that pictures moved: (key, old path, new path). Returns how many were still at their old path."""
        return await self._writer.run(partial(relocate, name=job, moves=moves))
