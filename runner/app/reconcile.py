"""Settles what earlier runs left: requests in flight, batches that may exist, results that wait. Buys nothing.

What it finds it proves: each line of a batch has its attempt, each attempt its end, and costs and counters are
what `report` makes of the rows.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import anyio

from runner.adapters.remote import BatchService
from runner.adapters.storage import FolderStore
from runner.app.audit import audited
from runner.app.clients import batching, service
from runner.app.logfile import log_beside
from runner.app.recorded import Recorded, recorded
from runner.app.settings import Options, Settings, resolve
from runner.app.views import EXIT_BY_HALT, Json, batch_object, gravest, instant, unknown_object
from runner.core.batching import PREFIX
from runner.core.budget import dollars
from runner.core.catalog import builtin
from runner.core.errors import JobLockedError, UsageError
from runner.core.lifecycle import Reply
from runner.core.remote import Declined, NotNow, Remote
from runner.core.task import Assignment
from runner.engine.clock import LoopClock
from runner.engine.pool import Pool
from runner.engine.ports import Sink
from runner.engine.rescue import Rescue, Rescued
from runner.ledger import BatchBook, Ledger, Reader, Unknown

log = logging.getLogger("bulkrender")


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One job, looked through."""

    job: str
    rescued: Rescued
    books: tuple[BatchBook, ...] = ()
    unknowns: tuple[Unknown, ...] = ()
    """Attempts that may have been bought, and keep their hold until a person explains them."""
    problems: tuple[str, ...] = ()
    """What does not add up; empty if all does."""
    halted: str | None = None
    reason: str | None = None

    @property
    def unresolved(self) -> int:
        """Batches of which nobody knows yet whether they exist."""
        return sum(book.record.open and book.record.name is None for book in self.books)

    @property
    def exit_code(self) -> int:
        """1 where something does not add up or is not known yet."""
        return EXIT_BY_HALT.get(self.halted, 0) or int(bool(self.problems or self.unresolved))


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """All that was looked through, and what is at the service beside it."""

    jobs: tuple[Reconciled, ...]
    strangers: tuple[Remote, ...] = ()
    """Jobs that the service lists and no batch of this ledger is."""
    trouble: str = ""
    """Why the list could not be read."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Jobs that somebody runs now, and who."""

    @property
    def exit_code(self) -> int:
        """The gravest of its jobs."""
        return gravest([job.exit_code for job in self.jobs] + [1 if self.trouble else 0])

    def as_object(self) -> Json:
        """`reconcile --json`."""
        return {
            "jobs": [_job_object(job) for job in self.jobs],
            "strangers": [_stranger_object(one) for one in self.strangers],
            "skipped": dict(self.skipped),
            "trouble": self.trouble or None,
            "exit_code": self.exit_code,
        }


def reconcile(job: str | None, options: Options, environment: Mapping[str, str]) -> Reconciliation:
    """Look through one job, or all that nobody runs. Raises UsageError, JobLockedError for the one that is run."""
    settings = resolve(options, environment)
    names = [known(Ledger.read(settings.database, settings.kind), job)] if job else None
    with (
        Ledger.open(settings.database, settings.kind, now_utc=time.time()) as ledger,
        log_beside(ledger.path, options.log_format, lambda: job),
    ):
        return anyio.run(_reconcile, ledger, settings, names)


def known(reader: Reader, job: str) -> str:
    """A job of the ledger; UsageError for any other name."""
    names = reader.job_names()
    if job not in names:
        raise UsageError(f"no job {job!r} in this ledger; it has: {', '.join(names) or 'none'}")
    return job


async def _reconcile(ledger: Ledger, settings: Settings, names: Sequence[str] | None) -> Reconciliation:
    found, skipped, only = [], {}, names is not None
    with ExitStack() as locks:
        async with service(settings, ledger.path, settings.output) as batches:
            if names is None:
                names = await anyio.to_thread.run_sync(ledger.reader.job_names)
            for name in names:
                try:
                    locks.enter_context(ledger.lock_job(name))
                except JobLockedError as error:
                    if only:
                        raise
                    skipped[name] = str(error)
                    continue
                terms = await anyio.to_thread.run_sync(recorded, ledger.reader, name)
                found.append(await _look(ledger, settings, batches, terms))
            strangers, trouble = await _strangers(ledger, settings, batches)
    return Reconciliation(tuple(found), strangers, trouble, skipped)


async def _look(ledger: Ledger, settings: Settings, batches: BatchService, terms: Recorded) -> Reconciled:
    clock = LoopClock()
    store = await anyio.to_thread.run_sync(partial(FolderStore, terms.output, verify=terms.verify))
    rescue = Rescue(ledger, store, clock, builtin(), terms.sheet, terms.retry)
    rescued = await rescue.mend(terms.job)
    halted = reason = None
    open_ = await anyio.to_thread.run_sync(ledger.reader.open_batches, terms.job)
    if any(one.endpoint == settings.endpoint for one in open_):
        await anyio.to_thread.run_sync(store.prepare)
        ending = await pool_of(ledger, settings, batches, terms, store, clock).look_once()
        halted, reason = ending.halted, ending.reason
    books = await anyio.to_thread.run_sync(ledger.reader.batch_books, terms.job)
    problems = await anyio.to_thread.run_sync(partial(_problems, ledger.reader, terms.job, books))
    unknowns = await anyio.to_thread.run_sync(ledger.reader.unknowns, terms.job)
    return Reconciled(terms.job, rescued, tuple(books), tuple(unknowns), tuple(problems), halted, reason)


def pool_of(
    ledger: Ledger,
    settings: Settings,
    batches: BatchService,
    terms: Recorded,
    store: FolderStore,
    clock: LoopClock,
) -> Pool:
    """A pool without lanes: it looks after the batches of a job and claims nothing."""
    how = batching(terms.job, terms.retry, partial(terms.sheet, lane="batch"), terms.batch, settings, batches)
    return Pool([], ledger, NoProvider(), store, clock, new_token=str, batching=how, job=terms.job)


class NoProvider:
    """`engine.ports.Provider` of a pool without lanes."""

    async def render(self, task: Assignment, sink: Sink, left: Callable[[], None]) -> Reply:
        """Nobody claims, so nobody sends."""
        raise NotImplementedError


async def _strangers(ledger: Ledger, settings: Settings, batches: BatchService) -> tuple[tuple[Remote, ...], str]:
    listed = await batches.listing()
    if isinstance(listed, Declined | NotNow):
        reply = listed.reply
        return (), str(getattr(reply, "message", "") or getattr(reply, "cause", ""))
    ours = await anyio.to_thread.run_sync(ledger.reader.display_names, settings.endpoint)
    return tuple(one for one in listed if one.display_name not in ours), ""


def _problems(reader: Reader, job: str, books: Sequence[BatchBook]) -> list[str]:
    problems = [
        f"batch {book.record.name or book.record.token}: {book.record.lines} lines, {book.attempts} attempts, "
        f"{book.settled} settled, {book.released} released, {book.unknown} unknown, {book.open} open"
        for book in books
        if not book.adds_up
    ]
    return problems + audited(reader, job).problems


def _job_object(job: Reconciled) -> Json:
    return {
        "job": job.job,
        "adopted": job.rescued.adopted,
        "unknown": job.rescued.unknown,
        "unknowns": [unknown_object(one) for one in job.unknowns],
        "batches": [_book_object(book) for book in job.books],
        "unresolved": job.unresolved,
        "adds_up": not job.problems,
        "problems": list(job.problems),
        "halted": job.halted,
        "reason": job.reason,
    }


def _book_object(book: BatchBook) -> Json:
    record = book.record
    return {
        **batch_object(record),
        "over": None if record.open else record.reason,
        "lines": record.lines,
        "attempts": book.attempts,
        "settled": book.settled,
        "released": book.released,
        "unknown": book.unknown,
        "open": book.open,
        "cost_usd": dollars(book.cost_nanos),
        "held_usd": dollars(book.held_nanos),
    }


def _stranger_object(remote: Remote) -> Json:
    return {
        "name": remote.name,
        "display_name": remote.display_name,
        "state": remote.state.lower(),
        "since": instant(remote.created_utc),
        "of_bulkrender": remote.display_name.startswith(PREFIX),
    }
