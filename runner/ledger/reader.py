"""The ledger as everybody else sees it: read from threads, never changed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from runner.core.budget import Spend
from runner.core.pricing import Sight
from runner.core.reference import Reference, Uploaded
from runner.core.task import Cell, Recipe
from runner.ledger import batch_books, batch_queries, queries, quotas, receipt
from runner.ledger.batch_facts import BatchRecord, BatchTally
from runner.ledger.database import plainly, reading
from runner.ledger.facts import (
    AccountStatus,
    AttemptRecord,
    Claimed,
    Counters,
    JobStatus,
    Known,
    OutcomeRow,
    Place,
    Standing,
    TaskRecord,
    Wish,
)
from runner.ledger.locks import runner_of
from runner.ledger.rejected import rejected
from runner.ledger.resolve import Unknown, unknowns
from runner.ledger.stems import stems_in_flight
from runner.ledger.uploads import uploads

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
        """Attempts of the standard lane in flight; before a run starts: what a crash left behind, oldest first."""
        return self._ask(queries.running, job)

    def unknowns(self, job: str) -> list[Unknown]:
        """Attempts of either lane that may have been bought and keep their hold, longest ago first."""
        return self._ask(unknowns, job)

    def open_batches(self, job: str) -> list[BatchRecord]:
        """The job's batches that are not over, oldest first; LookupError for an unknown job."""
        return self._ask(batch_queries.open_batches, job)

    def batches(self, job: str) -> list[BatchRecord]:
        """All batches the job has ever had, oldest first; LookupError for an unknown job."""
        return self._ask(batch_queries.batches, job)

    def batch_attempts(self, token: str) -> list[Claimed]:
        """Attempts of a batch that have not ended, in the order of its lines."""
        return self._ask(batch_queries.batch_attempts, token)

    def batch_tally(self, token: str) -> BatchTally:
        """How many attempts of a batch have ended, and how."""
        return self._ask(batch_queries.batch_tally, token)

    def batch_books(self, job: str) -> list[batch_books.BatchBook]:
        """Every batch of the job with its attempts added up, oldest first."""
        return self._ask(batch_books.books, job)

    def display_names(self, endpoint: str) -> dict[str, str]:
        """Display name -> job of every batch there ever was at an endpoint, of all jobs."""
        return self._ask(batch_queries.display_names, endpoint)

    def stems_in_flight(self, job: str) -> dict[str, str]:
        """Token -> stem of the attempts that have not ended, of either lane; none for an unknown job."""
        return self._ask(stems_in_flight, job)

    def seen(self) -> dict[Sight, int]:
        """The largest answers of all jobs, which reservations grow with."""
        return self._ask(queries.seen)

    def left_to_buy(self, job: str, *, submitted: bool = False) -> dict[Cell, int]:
        """Tasks that have not ended, by model, size and aspect; those in batches too if asked."""
        return self._ask(queries.left_to_buy, job, submitted=submitted)

    def account(self, name: str) -> AccountStatus | None:
        """An account with its cap, its spend and its jobs; None if there is none of that name."""
        return self._ask(queries.account, name)

    def account_names(self) -> list[str]:
        """All accounts, by name."""
        return self._ask(queries.account_names)

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

    def books(
        self, job: str, each: Callable[[receipt.BookedTask, Sequence[receipt.BookedAttempt]], None]
    ) -> receipt.Books:
        """Show `each` task of the job with its attempts; answer with the counters of that instant."""
        return self._ask(receipt.books, job, each)

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
