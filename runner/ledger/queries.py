"""Every read. Nothing here changes a row, and nothing decides."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, case, func, literal_column, not_, or_, select
from sqlalchemy.sql import ColumnElement

from runner.core.budget import Cap, Spend
from runner.core.lifecycle import AttemptState, State
from runner.core.pricing import Quote, Sight
from runner.core.reference import Reference
from runner.core.task import Cell, Recipe
from runner.ledger.batches import IS_OPEN, RECORDS, record_of
from runner.ledger.claim import FACTS, claimed_of
from runner.ledger.facts import (
    AccountStatus,
    AttemptRecord,
    Claimed,
    Counters,
    Drafts,
    JobStatus,
    Known,
    OutcomeRow,
    Place,
    Pulse,
    TaskRecord,
)
from runner.ledger.models import WAITING, allowance, attempt, batch, job, prompt, pulse, recipe, reference, task
from runner.ledger.models import account as accounts
from runner.ledger.reservation import cap_of, parse_recipe, parse_references, spend_of

BATCH = 1_000

_ATTEMPT = (
    job.c.name.label("job"),
    attempt.c.token,
    attempt.c.lane,
    attempt.c.number,
    attempt.c.started_at,
    attempt.c.reserved_nanos,
    attempt.c.reserved_image_tokens,
    attempt.c.reserved_text_tokens,
    attempt.c.reserved_input_tokens,
)


def job_names(connection: Connection) -> list[str]:
    """All jobs, by name."""
    return list(connection.scalars(select(job.c.name).order_by(job.c.name)))


def job_id(connection: Connection, name: str) -> int:
    """The job's row id; LookupError if there is none."""
    found: int | None = connection.scalar(select(job.c.id).where(job.c.name == name))
    if found is None:
        raise LookupError(f"no job {name!r}")
    return found


def status(connection: Connection, name: str, *, since_utc: float) -> JobStatus:
    """Where a job is, with the pictures bought since `since_utc`; LookupError if there is none."""
    row = connection.execute(select(job).where(job.c.name == name)).mappings().one_or_none()
    if row is None:
        raise LookupError(f"no job {name!r}")
    mine = attempt.c.job_id == row["id"]
    recent = select(func.count()).where(mine, attempt.c.ended_at >= since_utc, attempt.c.outcome == "made")
    due = select(func.min(task.c.due_at)).where(task.c.job_id == row["id"], WAITING, task.c.due_at.is_not(None))
    shared = (
        connection.execute(select(accounts).where(accounts.c.id == row["account_id"])).mappings().one_or_none()
    )
    return JobStatus(
        job=name,
        tasks={state: row[state.value] for state in State},
        spend=spend_of(row),
        cap=Cap(row["cap_nanos"], row["cap_image_tokens"]),
        recent_successes=connection.execute(recent).scalar_one(),
        last_attempt_at=connection.scalar(select(func.max(attempt.c.ended_at)).where(mine)),
        next_due=connection.scalar(due),
        account=None if shared is None else _account(connection, shared),
        pulse=_pulse(connection, row["id"]),
        drafts=None if row["drafts"] is None else _drafts(connection, row["drafts"]),
        finals=tuple(connection.scalars(select(job.c.name).where(job.c.drafts == name).order_by(job.c.name))),
        batches=tuple(
            record_of(one)
            for one in connection.execute(RECORDS.where(IS_OPEN, batch.c.job_id == row["id"])).mappings()
        ),
        **{column: row[column] for column in _AS_THEY_ARE},
    )


def _pulse(connection: Connection, job_row: int) -> Pulse | None:
    """What the run says of the model that will be done last."""
    said = connection.scalars(select(pulse.c.facts).where(pulse.c.job_id == job_row)).all()
    pulses = [Pulse(**facts) for facts in said if facts is not None]
    return max(pulses, key=lambda one: (one.finish_at is None, one.finish_at or 0.0), default=None)


def _drafts(connection: Connection, name: str) -> Drafts | None:
    row = connection.execute(select(job).where(job.c.name == name)).mappings().one_or_none()
    return None if row is None else Drafts(name, spend_of(row), row["unpriced"], row["uncounted"])


def left_to_buy(connection: Connection, name: str, *, submitted: bool = False) -> dict[Cell, int]:
    """Live tasks that have not ended, by model, size and aspect; those in batches too if asked."""
    states = (*_TO_BUY, State.SUBMITTED) if submitted else _TO_BUY
    rows = connection.execute(
        select(recipe.c.model, task.c.size, task.c.aspect, func.count())
        .join(recipe, recipe.c.id == task.c.recipe_row)
        .where(task.c.job_id == job_id(connection, name), task.c.live, task.c.state.in_(states))
        .group_by(recipe.c.model, task.c.size, task.c.aspect)
    )
    return {(model, size, aspect): count for model, size, aspect, count in rows}


_TO_BUY = (State.QUEUED, State.RUNNING)


def seen(connection: Connection) -> dict[Sight, int]:
    """The largest answers of all jobs, which reservations grow with."""
    rows = connection.execute(select(allowance.c.model, allowance.c.kind, allowance.c.setting, allowance.c.tokens))
    return {(model, kind, setting): tokens for model, kind, setting, tokens in rows}


_AS_THEY_ARE = (
    *("orphaned", "unpriced", "uncounted", "halted", "reason"),
    *("output_root", "config", "created_at", "updated_at"),
)


def tasks(connection: Connection, name: str, *, orphaned: bool = False) -> Iterator[TaskRecord]:
    """The job's tasks in the manifest's order, streamed; orphans after them if asked."""
    last_lane = select(attempt.c.lane).where(attempt.c.task_id == task.c.id, attempt.c.number == task.c.attempts)
    others = {
        "job": job.c.name,
        "prompt": prompt.c.text,
        "model": recipe.c.model,
        "lane": func.coalesce(last_lane.scalar_subquery(), "standard"),
    }
    statement = (
        _columns(TaskRecord, task.c, others)
        .select_from(task)
        .join(job, job.c.id == task.c.job_id)
        .join(prompt, prompt.c.id == task.c.prompt_row)
        .join(recipe, recipe.c.id == task.c.recipe_row)
        .where(task.c.job_id == job_id(connection, name))
        .order_by(task.c.position, task.c.id)
    )
    for live in (True, False)[: 1 + orphaned]:
        for row in _stream(connection, statement.where(task.c.live == live)):
            yield TaskRecord(**row)


def paths(connection: Connection, name: str) -> dict[str, str]:
    """Path -> key of every picture of the job, orphans' included; of one that two tasks have, one of them."""
    rows = connection.execute(
        select(task.c.path, task.c.key).where(task.c.job_id == job_id(connection, name), task.c.path.is_not(None))
    )
    return {path: key for path, key in rows}  # noqa: C416 - a row is no pair to mypy


def places(connection: Connection, name: str) -> Iterator[Place]:
    """The cell of every task the job has ever had, streamed."""
    columns = [task.c[field] for field in Place.__dataclass_fields__]
    for row in _stream(connection, select(*columns).where(task.c.job_id == job_id(connection, name))):
        yield Place(**row)


def attempts(connection: Connection, name: str) -> Iterator[AttemptRecord]:
    """The job's attempts in the order they started, orphans' included, streamed."""
    statement = (
        _columns(AttemptRecord, attempt.c, {"job": job.c.name, "key": task.c.key})
        .select_from(attempt)
        .join(task, task.c.id == attempt.c.task_id)
        .join(job, job.c.id == attempt.c.job_id)
        .where(attempt.c.job_id == job_id(connection, name))
        .order_by(attempt.c.id)
    )
    for row in _stream(connection, statement):
        yield AttemptRecord(**row)


def _columns(record: type, columns: Any, others: dict[str, Any]) -> Select[Any]:
    """SELECT what the dataclass `record` lists, in its order."""
    names = record.__dataclass_fields__  # type: ignore[attr-defined]
    return select(*(others[name].label(name) if name in others else columns[name] for name in names))


def _stream(connection: Connection, statement: Select[Any]) -> Iterator[RowMapping]:
    yield from connection.execution_options(yield_per=BATCH).execute(statement).mappings()


def outcomes(connection: Connection, name: str) -> list[OutcomeRow]:
    """Live tasks by state and reason, most first, with what they cost."""
    # SUM leaves NULL out, and a sum with an unknown part is unknown
    cost = case((func.count(task.c.cost_nanos) == func.count(), func.sum(task.c.cost_nanos)))
    rows = connection.execute(
        select(task.c.state, task.c.reason, func.count(), func.sum(task.c.attempts), cost)
        .where(task.c.job_id == job_id(connection, name), task.c.live)
        .group_by(task.c.state, task.c.reason)
        .order_by(func.count().desc(), task.c.state, task.c.reason)
    )
    return [OutcomeRow(*row) for row in rows]


def known(connection: Connection, name: str, keys: Iterable[str]) -> Iterator[tuple[str, Known | None]]:
    """What the ledger knows of each key, in the order given; all None for a job it does not know."""
    mine = connection.scalar(select(job.c.id).where(job.c.name == name))
    source = iter(keys)
    columns = [task.c[field] for field in Known.__dataclass_fields__]
    while batch := list(islice(source, BATCH)):
        rows = connection.execute(select(task.c.key, *columns).where(task.c.job_id == mine, task.c.key.in_(batch)))
        found = {key: Known(*facts) for key, *facts in rows}
        for key in batch:
            yield key, found.get(key)


def requests(
    connection: Connection, name: str, keys: Iterable[str]
) -> Iterator[tuple[str, Recipe, tuple[Reference, ...]]]:
    """(key, recipe, references) of those tasks of the job; LookupError if the ledger does not have it."""
    mine = job_id(connection, name)
    source = iter(keys)
    while batch := list(islice(source, BATCH)):
        rows = connection.execute(
            select(task.c.key, recipe.c.body, reference.c.body)
            .join(recipe, recipe.c.id == task.c.recipe_row)
            .outerjoin(reference, reference.c.id == task.c.reference_row)
            .where(task.c.job_id == mine, task.c.key.in_(batch))
        )
        for key, body, pictures in rows:
            yield key, parse_recipe(body), parse_references(pictures)


def orphans(connection: Connection, name: str) -> Iterator[tuple[str, str, int]]:
    """(key, path, bytes) of every picture whose task the manifest no longer names, streamed."""
    columns = (task.c.key, task.c.path, func.coalesce(task.c.bytes, 0).label("bytes"))
    mine = select(*columns).where(
        task.c.job_id == job_id(connection, name), not_(task.c.live), task.c.path.is_not(None)
    )
    for row in _stream(connection, mine.order_by(task.c.id)):
        yield row["key"], row["path"], row["bytes"]


def recorded(connection: Connection, name: str) -> int:
    """How many tasks the job has ever had, orphans included; 0 for a job the ledger does not know."""
    total = sum((job.c[state.value] for state in State), job.c.orphaned)
    return connection.scalar(select(total).where(job.c.name == name)) or 0


def coming_references(connection: Connection, name: str, tasks: int) -> list[tuple[Reference, ...]]:
    """The references of the next tasks in order, each set once."""
    rows = connection.scalars(
        select(reference.c.body)
        .join(task, task.c.reference_row == reference.c.id)
        .where(task.c.job_id == job_id(connection, name), WAITING)
        .order_by(task.c.position)
        .limit(tasks)
    )
    return [parse_references(body) for body in dict.fromkeys(rows)]


def stems_elsewhere(connection: Connection, output_root: str, name: str) -> Iterator[tuple[str, str]]:
    """(case-folded stem, job) that other jobs of the same output root claim or have a picture at."""
    base = select(task.c.folded, task.c.path_folded, task.c.live, job.c.name).join(job, job.c.id == task.c.job_id)
    taken = or_(task.c.live, task.c.path_folded.is_not(None))
    for row in _stream(connection, base.where(job.c.output_root == output_root, job.c.name != name, taken)):
        stems = {row["folded"] if row["live"] else None, row["path_folded"]}
        for stem in stems - {None}:
            yield stem, row["name"]


def running(connection: Connection, name: str) -> list[Claimed]:
    """Attempts of the standard lane that were in flight when the last runner died, oldest first."""
    return in_flight(connection, attempt.c.job_id == job_id(connection, name), attempt.c.lane == "standard")


def in_flight(connection: Connection, *of: ColumnElement[bool]) -> list[Claimed]:
    """Attempts that fit all conditions and have not ended, oldest first."""
    rows = connection.execute(
        select(*(column for column in FACTS if column is not task.c.stem), attempt.c.stem, *_ATTEMPT)
        .select_from(attempt)
        .join(job, job.c.id == attempt.c.job_id)
        .join(task, task.c.id == attempt.c.task_id)
        .join(prompt, prompt.c.id == task.c.prompt_row)
        .join(recipe, recipe.c.id == task.c.recipe_row)
        .outerjoin(reference, reference.c.id == task.c.reference_row)
        .where(*of, literal_column("attempt.state = 'running'"))
        .order_by(attempt.c.id)
    ).mappings()
    return [
        claimed_of(
            row,
            job=row["job"],
            token=row["token"],
            lane=row["lane"],
            number=row["number"],
            started_at=row["started_at"],
            quote=Quote(
                row["reserved_nanos"],
                row["reserved_image_tokens"],
                row["reserved_text_tokens"],
                row["reserved_input_tokens"],
            ),
        )
        for row in rows
    ]


def counters(connection: Connection, name: str) -> Counters:
    """The counters as they are kept."""
    row = connection.execute(select(job).where(job.c.name == name)).mappings().one()
    tasks_by_state = {state.value: row[state.value] for state in State}
    return Counters(spend_of(row), row["unpriced"], row["uncounted"], tasks_by_state, row["orphaned"])


def recount(connection: Connection, name: str) -> Counters:
    """The same from the rows they count. Reads them all: for tests and checks."""
    mine = job_id(connection, name)
    by_state = connection.execute(
        select(task.c.state, func.count()).where(task.c.job_id == mine, task.c.live).group_by(task.c.state)
    )
    orphans = select(func.count()).where(task.c.job_id == mine, not_(task.c.live))
    return Counters(
        *money(connection, attempt.c.job_id == mine),
        {state.value: 0 for state in State} | {state.value: count for state, count in by_state},
        connection.execute(orphans).scalar_one(),
    )


def money(connection: Connection, *of: ColumnElement[bool]) -> tuple[Spend, int, int]:
    """Spend, unpriced and uncounted of the attempts that fit all conditions, added up from their rows."""
    settled = attempt.c.state == AttemptState.SETTLED
    nanos = case((settled, attempt.c.cost_nanos), else_=attempt.c.reserved_nanos)
    tokens = case((settled, attempt.c.image_tokens), else_=attempt.c.reserved_image_tokens)
    rows = connection.execute(
        select(
            attempt.c.state,
            func.coalesce(func.sum(nanos), 0),
            func.coalesce(func.sum(tokens), 0),
            func.count() - func.count(nanos),
            func.count() - func.count(tokens),
        )
        .where(*of, attempt.c.state != AttemptState.RELEASED)
        .group_by(attempt.c.state)
    )
    held = {state: facts for state, *facts in rows}
    columns = [held.get(state, [0, 0, 0, 0]) for state in _HOLDING]
    spent, counted, unpriced, uncounted = (list(column) for column in zip(*columns, strict=True))
    return Spend(*spent, *counted), sum(unpriced), sum(uncounted)


def account(connection: Connection, name: str) -> AccountStatus | None:
    """An account with its cap, its spend and its jobs; None if the ledger has none of that name."""
    row = connection.execute(select(accounts).where(accounts.c.name == name)).mappings().one_or_none()
    return None if row is None else _account(connection, row)


def _account(connection: Connection, row: RowMapping) -> AccountStatus:
    jobs = connection.scalars(select(job.c.name).where(job.c.account_id == row["id"]).order_by(job.c.name))
    return AccountStatus(row["name"], cap_of(row), spend_of(row), row["unpriced"], row["uncounted"], tuple(jobs))


def account_names(connection: Connection) -> list[str]:
    """All accounts, by name."""
    return list(connection.scalars(select(accounts.c.name).order_by(accounts.c.name)))


def under_no_account(connection: Connection, name: str) -> Spend:
    """What the job has spent under no account; nothing for a job the ledger does not know."""
    mine = select(job.c.id).where(job.c.name == name).scalar_subquery()
    return money(connection, attempt.c.job_id == mine, attempt.c.account_id.is_(None))[0]


def account_recount(connection: Connection, name: str) -> tuple[Spend, int, int]:
    """What an account's counters should be, from the rows they count."""
    mine = connection.execute(select(accounts.c.id).where(accounts.c.name == name)).scalar_one()
    return money(connection, attempt.c.account_id == mine)


_HOLDING = (AttemptState.SETTLED, AttemptState.RUNNING, AttemptState.UNKNOWN)
"""In the order of `Spend`'s fields."""
