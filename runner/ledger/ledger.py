"""The ledger as the rest of the program sees it: opened, locked, written from coroutines."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Connection

from runner.core.batching import Load
from runner.core.budget import Cap
from runner.core.errors import LedgerError
from runner.core.learning import Belief
from runner.core.lifecycle import Outcome, Verdict
from runner.core.pricing import PriceSheet, Settlement
from runner.core.reference import Reference, Uploaded
from runner.core.remote import Place, Remote
from runner.core.retry import LASTING, Move
from runner.core.task import TaskSpec
from runner.ledger import batches, quotas
from runner.ledger.backup import Copied, copy, verify
from runner.ledger.claim import claim
from runner.ledger.database import BUSY_TIMEOUT_S, locate, plainly, writing
from runner.ledger.enqueue import enqueue
from runner.ledger.facts import (
    ROOM,
    Claim,
    Claimed,
    Enqueued,
    Held,
    JobSpec,
    Lesson,
    Pulse,
    Room,
    Settled,
    Standing,
    Submission,
    Wish,
)
from runner.ledger.health import Health, health
from runner.ledger.locks import FileLock, job_lock, ledger_lock
from runner.ledger.pulses import beat, quiet, stands
from runner.ledger.reader import Reader
from runner.ledger.resolve import resolve
from runner.ledger.retry import retry
from runner.ledger.schema import HEAD, Kind, beside, identify, no_ledger, prepare, refuse_other_kind, require
from runner.ledger.settle import fail, forgive, halt, recall, relocate, settle
from runner.ledger.uploads import remember
from runner.ledger.writer import PATIENCE_S, Writer

WRITES_WITHIN_S = 30.0
"""A claim that another process kept waiting for longer is not made: `core.quota.LEAVES_WITHIN_S` counts on it."""


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

    @staticmethod
    def health(url: str) -> Health:
        """What can be said of a ledger before a run; LedgerError for what no run could use."""
        return health(url)

    @staticmethod
    def backup(url: str, to: Path | None, *, now_utc: float) -> Copied:
        """Copy the ledger at `url`, which others may be writing to, into a new file, and read the copy through.

        Without `to` it goes beside the ledger, by date. Raises LedgerError if there is no ledger or `to` is taken,
        LocalFailureError where it cannot be written.
        """
        path = locate(url)
        revision = identify(path).revision
        if revision is None:
            raise no_ledger(path)
        to = beside(path, revision, now_utc) if to is None else to
        if to.exists() or to.is_symlink():
            raise LedgerError(f"{to}: is there already, and is not overwritten; name another file")
        if not to.parent.is_dir():
            raise LedgerError(f"{to}: the folder {to.parent} does not exist")
        found: list[Copied] = []
        copy(path, to, lambda unfinished: found.append(verify(unfinished)))
        return replace(found[0], path=to)

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

    async def submit(
        self,
        job: str,
        *,
        now: float,
        sheet: PriceSheet,
        cap: Cap,
        wish: Wish,
        load: Load,
        weigh: Callable[[str, str], int],
        ready: Callable[[Sequence[Reference]], bool],
        policy_attempts: int,
        new_token: Callable[[], str],
    ) -> Submission:
        """Take the next due tasks that may share a batch and reserve the worst price of each.

        They must fit under the caps and the month's limit of `wish`, on top of all due tasks before them, and
        beside the open batches under `load`. `weigh`, `ready` (once for each set of references) and `new_token`
        (32 hex digits) are asked in the writer's thread.
        """
        return await self._writer.run(
            lambda connection: batches.submit(
                connection,
                job,
                now=now,
                sheet=sheet,
                cap=cap,
                wish=wish,
                quotas=self._quotas,
                load=load,
                weigh=weigh,
                ready=ready,
                policy_attempts=policy_attempts,
                new_token=new_token,
            )
        )

    async def posting(self, token: str, file: str, *, now: float) -> bool:
        """A create of the uploaded input `file` (`files/…`) is about to leave; False unless in `intent`."""
        return await self._writer.run(partial(batches.posting, token=token, file=file, now=now))

    async def unposted(self, token: str, *, now: float) -> bool:
        """The remote job certainly does not exist: back to `intent`; False unless in `creating`."""
        return await self._writer.run(partial(batches.unposted, token=token, now=now))

    async def created(self, token: str, remote: Remote, *, now: float) -> bool:
        """The remote job exists; False unless in `creating`."""
        return await self._writer.run(partial(batches.created, token=token, remote=remote, now=now))

    async def looked(self, token: str, remote: Remote, *, now: float) -> bool:
        """The service was asked and says `remote`; False unless `created`."""
        return await self._writer.run(partial(batches.looked, token=token, remote=remote, now=now))

    async def absent(self, token: str, at: float) -> float:
        """A complete list made at `at` lacks the job; answers with when the first one since its create did.

        Both by the provider's clock. LookupError in `intent`, and if it is over.
        """
        return await self._writer.run(partial(batches.absent, token=token, at=at))

    async def present(self, token: str) -> bool:
        """It was not absent after all, or nobody can tell; False in `intent`, and if it is over."""
        return await self._writer.run(partial(batches.present, token=token))

    async def cancelling(self, token: str, *, now: float) -> bool:
        """A cancel is about to be asked for; False unless `created`."""
        return await self._writer.run(partial(batches.cancelling, token=token, now=now))

    async def taken(self, token: str, place: Place) -> bool:
        """All results before `place` are settled; False unless `created`."""
        return await self._writer.run(partial(batches.taken, token=token, place=place))

    async def over(self, token: str, reason: str, error: str, *, now: float) -> bool:
        """Nothing more is to come; False if it is over already. RuntimeError if an attempt of it is open."""
        return await self._writer.run(partial(batches.over, token=token, reason=reason, error=error, now=now))

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

    async def retry(self, job: str, keys: Collection[str], *, now: float, gone: bool = False) -> int:
        """Put those refused and failed tasks back with fresh tries; returns how many were.

        With `gone` those that succeeded, and whose pictures are lost.
        """
        return await self._writer.run(partial(retry, name=job, keys=keys, now=now, gone=gone))

    async def resolve(
        self, job: str, tokens: Collection[str], verdict: Verdict, why: str, *, now: float
    ) -> frozenset[str]:
        """Book those unknown attempts as spent or as free, `why` in a person's words; returns which still were."""
        return await self._writer.run(partial(resolve, name=job, tokens=tokens, verdict=verdict, why=why, now=now))

    async def halt(self, job: str, halted: str | None, reason: str | None, *, now: float) -> None:
        """Say why the job no longer claims; two None take it back."""
        await self._writer.run(partial(halt, name=job, halted=halted, reason=reason, now=now))

    async def relocate(self, job: str, moves: Collection[tuple[str, str, str]]) -> int:
        """Record that pictures moved: (key, old path, new path). Returns how many were still at their old path."""
        return await self._writer.run(partial(relocate, name=job, moves=moves))
