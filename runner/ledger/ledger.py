"""The ledger as the rest of the program sees it: opened, locked, written from coroutines, read from threads."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection

from runner.core.budget import Cap, Spend
from runner.core.errors import LedgerError
from runner.core.learning import Belief
from runner.core.lifecycle import Outcome
from runner.core.pricing import PriceSheet, Settlement
from runner.core.reference import Reference, Uploaded
from runner.core.retry import LASTING, Move
from runner.core.task import Recipe, TaskSpec
from runner.ledger import queries, quotas
from runner.ledger.claim import claim
from runner.ledger.database import BUSY_TIMEOUT_S, locate, plainly, reading, writing
from runner.ledger.enqueue import enqueue
from runner.ledger.facts import (
    ROOM,
    AccountStatus,
    AttemptRecord,
    Claim,
    Claimed,
    Counters,
    Enqueued,
    Held,
    JobSpec,
    JobStatus,
    Known,
    Lesson,
    OutcomeRow,
    Place,
    Pulse,
    Room,
    Settled,
    Standing,
    TaskRecord,
    Wish,
)
from runner.ledger.locks import FileLock, job_lock, ledger_lock, runner_of
from runner.ledger.pulses import beat, quiet, stands
from runner.ledger.rejected import rejected
from runner.ledger.schema import HEAD, Kind, identify, prepare, refuse_other_kind, require
from runner.ledger.settle import fail, forgive, halt, recall, relocate, settle
from runner.ledger.uploads import remember, uploads
from runner.ledger.writer import PATIENCE_S, Writer

WRITES_WITHIN_S = 30.0
"""A claim that another process kept waiting for longer is not made: `core.quota.LEAVES_WITHIN_S` counts on it."""

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

    def left_to_buy(self, job: str) -> dict[tuple[str, str], int]:
        """Tasks that have not ended, by size and aspect."""
        return self._ask(queries.left_to_buy, job)

    def account(self, name: str) -> AccountStatus | None:
        """An account with its cap, its spend and its jobs; None if there is none of that name."""
        return self._ask(queries.account, name)

    def account_recount(self, name: str) -> tuple[Spend, int, int]:
        """Spend, unpriced and uncounted of an account from the rows they count; reads them all."""
        return self._ask(queries.account_recount, name)

    def under_no_account(self, job: str) -> Spend:
        """What the job has spent under no account: it counts in one that the job joins."""
        return self._ask(queries.under_no_account, job)

    def uploads(self, endpoint: str) -> dict[str, Uploaded]:
        """What the service at an endpoint holds, by the sha256 of the content; also what has expired since."""
        return self._ask(uploads, endpoint)

    def standing(self, wish: Wish, *, now: float) -> Standing:
        """What counts against the limits of a model at an endpoint, read off the attempts."""
        return self._ask(quotas.standing, quotas.Quotas(), wish, now)

    def counters(self, job: str) -> Counters:
        """The job's counters as they are kept."""
        return self._ask(queries.counters, job)

    def recount(self, job: str) -> Counters:
        """The same from the rows they count; reads them all."""
        return self._ask(queries.recount, job)

    def places(self, job: str) -> Iterator[Place]:
        """The cell of every task the job has ever had, orphans' included, streamed."""
        return self._stream(queries.places, job)

    def tasks(self, job: str, *, orphaned: bool = False) -> Iterator[TaskRecord]:
        """The job's tasks in the manifest's order, streamed; orphans after them if asked."""
        return self._stream(queries.tasks, job, orphaned=orphaned)

    def coming_references(self, job: str, tasks: int) -> list[tuple[Reference, ...]]:
        """The references of the next tasks in order, each set once."""
        return self._ask(queries.coming_references, job, tasks)

    def paths(self, job: str) -> dict[str, str]:
        """Path -> key of every picture of the job, orphans' included."""
        return self._ask(queries.paths, job)

    def attempts(self, job: str) -> Iterator[AttemptRecord]:
        """The job's attempts in the order they started, orphans' included, streamed."""
        return self._stream(queries.attempts, job)

    def known(self, job: str, keys: Iterable[str]) -> Iterator[tuple[str, Known | None]]:
        """What the ledger knows of each key, in the order given; all None for a job it does not know."""
        return self._stream(queries.known, job, keys)

    def requests(self, job: str, keys: Iterable[str]) -> Iterator[tuple[str, Recipe, tuple[Reference, ...]]]:
        """(key, recipe, references) of those tasks of the job, in no order."""
        return self._stream(queries.requests, job, keys)

    def rejected(self, job: str) -> Iterator[tuple[str, str, str]]:
        """(key, path, sha256) of the last picture that was not what was ordered, of tasks that have no other."""
        return self._stream(rejected, job)

    def orphans(self, job: str) -> Iterator[tuple[str, str, int]]:
        """(key, path, bytes) of every picture whose task the manifest no longer names, streamed."""
        return self._stream(queries.orphans, job)

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
        self._quotas = quotas.Quotas()
        with plainly(path):
            self._writer = Writer(writing(path).connect(), path, patience_s, self._quotas.forget)

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
        self,
        job: str,
        *,
        now: float,
        sheet: PriceSheet,
        cap: Cap,
        token: str,
        wish: Wish,
        room: Room = ROOM,
        ready: Callable[[Sequence[Reference]], bool] = lambda wanted: not wanted,
    ) -> Claim:
        """Take the next due task in order and reserve its worst price, as attempt `token` (32 hex digits).

        It must fit under the caps, under every limit of `wish` and into `room`, and its references must be
        `ready`, which is asked in the writer's thread. Who has waited too long to write is told to ask again: its
        `now` is no longer when it would send.
        """
        work = partial(
            claim,
            name=job,
            now=now,
            sheet=sheet,
            cap=cap,
            token=token,
            wish=wish,
            quotas=self._quotas,
            room=room,
            ready=ready,
        )
        asked_s = time.monotonic()

        def in_time(connection: Connection) -> Claim:
            if time.monotonic() - asked_s > WRITES_WITHIN_S:
                return Held("requests", now)
            return work(connection)

        return await self._writer.run(in_time)

    def left(self, token: str, *, at: float) -> None:
        """An attempt is being written to the wire; it is booked before any later claim, and not waited for."""
        self._writer.submit(lambda connection: quotas.left(connection, token, at))

    async def learn(self, wish: Wish, lesson: Lesson, *, now: float) -> Belief | None:
        """Book what an ended attempt says of its model's limits; answers with what is believed of its rate now."""
        return await self._writer.run(lambda connection: quotas.learn(connection, self._quotas, wish, lesson, now))

    async def unlearn(self, wish: Wish, *, now: float) -> None:
        """Forget what refusals have said of a model's limits."""
        await self._writer.run(lambda connection: quotas.unlearn(connection, wish, now))

    async def standing(self, job: str, wish: Wish, *, now: float) -> Standing:
        """What counts against a live run's limits now, as its next claim will see it."""
        return await self._writer.run(lambda connection: stands(connection, self._quotas, job, wish, now))

    async def beat(self, job: str, wish: Wish, pulse: Pulse | None, *, now: float) -> None:
        """Say what a live run says of itself."""
        await self._writer.run(lambda connection: beat(connection, job, wish, pulse, now))

    async def quiet(self, job: str) -> None:
        """The run is over: it waits for nothing."""
        await self._writer.run(lambda connection: quiet(connection, job))

    async def remember(self, endpoint: str, sha256: str, held: Uploaded) -> None:
        """Book an upload, over what was known of this content."""
        await self._writer.run(partial(remember, endpoint=endpoint, sha256=sha256, held=held))

    async def fail(self, task_id: int, reason: str, error: str, *, now: float) -> bool:
        """End a task that waits and can never be sent; False if it does not wait any more."""
        return await self._writer.run(partial(fail, task_id=task_id, reason=reason, error=error, now=now))

    async def forgive(self, job: str, attempts: Collection[Claimed], *, now: float) -> int:
        """Give back the tries that an outage burnt; returns how many tasks were given one."""
        return await self._writer.run(partial(forgive, name=job, attempts=attempts, now=now))

    async def recall(self, task_ids: Collection[int], *, now: float) -> None:
        """Make retries that wait due at once."""
        await self._writer.run(partial(recall, task_ids=task_ids, now=now))

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
