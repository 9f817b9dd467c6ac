"""The books of a job, row by row, with the counters that are kept of them: all of one instant, for a receipt."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, or_, select

from runner.core.budget import Cap, Spend
from runner.core.lifecycle import AttemptState, State
from runner.core.pricing import Quote
from runner.ledger import queries
from runner.ledger.facts import Counters
from runner.ledger.models import account, attempt, batch, job, ledger, recipe, task
from runner.ledger.reservation import cap_of, spend_of

BATCH = 1_000


@dataclass(frozen=True, slots=True)
class BookedAttempt:
    """One attempt with all that its money was made of."""

    task_id: int
    token: str
    number: int
    lane: str
    model: str
    endpoint: str
    state: AttemptState
    outcome: str | None
    reason: str
    error: str
    status: int | None
    finish_reason: str | None
    reserved_nanos: int | None
    reserved_image_tokens: int | None
    reserved_text_tokens: int
    reserved_input_tokens: int
    cost_nanos: int | None
    input_tokens: int | None
    text_tokens: int | None
    image_tokens: int | None
    usage: Mapping[str, int | None] | None
    """The fields of a `core.lifecycle.Usage`; None where the answer carried none."""
    pictures: int | None
    started_at: float
    sent_at: float | None
    """None: it never left, as far as anybody knows."""
    latency_s: float | None
    response_id: str | None
    model_version: str | None
    tier: str | None
    path: str | None
    sha256: str | None
    overrun: bool
    adopted: bool

    @property
    def quote(self) -> Quote:
        """What was reserved for it."""
        tokens = (self.reserved_image_tokens, self.reserved_text_tokens, self.reserved_input_tokens)
        return Quote(self.reserved_nanos, *tokens)


@dataclass(frozen=True, slots=True)
class BookedTask:
    """One task with the sums that are kept of its attempts."""

    id: int
    key: str
    prompt_id: str
    model: str
    size: str
    aspect: str
    variant: int
    axes: Mapping[str, str]
    live: bool
    state: State
    reason: str
    error: str
    finish_reason: str | None
    attempts: int
    cost_nanos: int | None
    unknown_nanos: int | None
    image_tokens: int | None
    path: str | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class AccountBooks:
    """An account: its counters as they are kept, and the same from the attempts of all its jobs."""

    name: str
    cap: Cap
    kept: Counters
    recounted: Counters
    jobs: Mapping[str, Counters]
    """The money in it by job, from the attempts, those of jobs that have left it since included."""


@dataclass(frozen=True, slots=True)
class Books:
    """A job: its counters as they are kept, and the same from its rows."""

    job: str
    kind: str
    """`live` or `sandbox`."""
    cap: Cap
    kept: Counters
    recounted: Counters
    accounts: tuple[AccountBooks, ...]
    """Those that it, or any of its attempts, is under."""
    config: Mapping[str, Any]
    manifest_sha256: str
    created_at: float
    strays: tuple[str, ...]
    """Tokens of attempts whose task is another job's."""


def books(connection: Connection, name: str, each: Callable[[BookedTask, Sequence[BookedAttempt]], None]) -> Books:
    """Show `each` task the job has ever had, with its attempts, and answer with the counters of that instant.

    LookupError if there is no such job.
    """
    mine = queries.job_id(connection, name)
    strays = _show(connection, mine, each)
    row = connection.execute(select(job).where(job.c.id == mine)).mappings().one()
    return Books(
        job=name,
        kind=connection.execute(select(ledger.c.kind)).scalar_one(),
        cap=cap_of(row),
        kept=queries.counters(connection, name),
        recounted=queries.recount(connection, name),
        accounts=tuple(_accounts(connection, mine)),
        config=row["config"],
        manifest_sha256=row["manifest_sha256"],
        created_at=row["created_at"],
        strays=strays,
    )


def _show(
    connection: Connection, mine: int, each: Callable[[BookedTask, Sequence[BookedAttempt]], None]
) -> tuple[str, ...]:
    """Both tables side by side, each in the order of the tasks' row ids; returns what is left over."""
    left = func.coalesce(attempt.c.sent_at, batch.c.created_at)  # of a batch: once its job exists
    booked = _select(BookedAttempt, attempt, sent_at=left).outerjoin(batch, batch.c.id == attempt.c.batch_row)
    sent = _stream(connection, booked.where(attempt.c.job_id == mine))
    attempts = (BookedAttempt(**row) for row in sent)
    wanted = _select(BookedTask, task, model=recipe.c.model).join(recipe, recipe.c.id == task.c.recipe_row)
    strays: list[str] = []
    one = next(attempts, None)
    for row in _stream(connection, wanted.where(task.c.job_id == mine)):
        bought = BookedTask(**row)
        while one is not None and one.task_id < bought.id:
            strays.append(one.token)
            one = next(attempts, None)
        own = []
        while one is not None and one.task_id == bought.id:
            own.append(one)
            one = next(attempts, None)
        each(bought, own)
    return (*strays, *([] if one is None else [one.token]), *(rest.token for rest in attempts))


def _select(record: type, table: Any, **others: Any) -> Select[Any]:
    """SELECT what the dataclass `record` lists, in the order of the tasks and of their attempts."""
    names = record.__dataclass_fields__  # type: ignore[attr-defined]
    columns = (others[name].label(name) if name in others else table.c[name] for name in names)
    order = (table.c.task_id, table.c.number) if table is attempt else (table.c.id,)
    return select(*columns).select_from(table).order_by(*order)


def _stream(connection: Connection, statement: Select[Any]) -> Iterator[RowMapping]:
    options = {"yield_per": BATCH}
    yield from connection.execute(statement, execution_options=options).mappings()


def _accounts(connection: Connection, mine: int) -> Iterator[AccountBooks]:
    of_attempts = select(attempt.c.account_id).where(attempt.c.job_id == mine)
    of_job = select(job.c.account_id).where(job.c.id == mine)
    wanted = or_(account.c.id.in_(of_job), account.c.id.in_(of_attempts))
    for row in connection.execute(select(account).where(wanted).order_by(account.c.name)).mappings():
        spent, unpriced, uncounted = queries.account_recount(connection, row["name"])
        kept: Spend = spend_of(row)
        yield AccountBooks(
            name=row["name"],
            cap=cap_of(row),
            kept=Counters(kept, row["unpriced"], row["uncounted"]),
            recounted=Counters(spent, unpriced, uncounted),
            jobs=_by_job(connection, row["id"]),
        )


def _by_job(connection: Connection, mine: int) -> dict[str, Counters]:
    theirs = select(attempt.c.job_id).where(attempt.c.account_id == mine)
    rows = connection.execute(select(job.c.id, job.c.name).where(job.c.id.in_(theirs)).order_by(job.c.name)).all()
    money = (queries.money(connection, attempt.c.account_id == mine, attempt.c.job_id == id_) for id_, _ in rows)
    return {name: Counters(*spent) for (_, name), spent in zip(rows, money, strict=True)}
