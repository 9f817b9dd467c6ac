"""Batches: tasks taken together, and how far their submission and harvest are.

Each verb is one guarded transaction. Where the batch is not in the state that a verb is about, it changes nothing
and returns False.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    bindparam,
    case,
    func,
    insert,
    literal_column,
    select,
    update,
)

from runner.core.batching import NOTHING, Load, both, crowd, display_name
from runner.core.budget import Cap
from runner.core.lifecycle import AttemptState, BatchState, State
from runner.core.pricing import PriceSheet, Quote, Seen
from runner.core.quota import QuotaLog
from runner.core.reference import Reference
from runner.core.remote import START, Place, Remote, Stats
from runner.ledger.batch_facts import BatchRecord
from runner.ledger.claim import COMING_OF_MODEL, attempt_row, claimed_of, nothing_due
from runner.ledger.database import storable
from runner.ledger.facts import Held, OverBudget, Submission, Submitted, TooFew, Unprepared, Unready, Wish
from runner.ledger.models import WAITING, attempt, batch, job, task
from runner.ledger.quotas import FIRST_CHANGE, Quotas
from runner.ledger.reservation import (
    RESERVE_BATCH,
    RESERVE_THERE,
    account_of,
    cap_of,
    one,
    over_cap,
    over_or_held,
    parse_references,
    quote_of,
    reserve,
    seen_for,
    standing_of,
)

WALK = 10_000
"""Due tasks that are looked through for one batch at most."""
CHUNK = 500

IS_OPEN: ColumnElement[bool] = literal_column("batch.state <> 'over'")
"""In these very words, so that the partial index is seen to fit."""

RECORDS = select(batch, job.c.name.label("job")).join(job, job.c.id == batch.c.job_id).order_by(batch.c.id)
"""For `record_of`, oldest first."""
_COMING = COMING_OF_MODEL.limit(WALK)
_HERS = case((batch.c.model == bindparam("model"), batch.c.input_tokens))
_ROOM = select(func.count(), func.count(_HERS), func.coalesce(func.sum(_HERS), 0)).where(
    IS_OPEN, batch.c.endpoint == bindparam("endpoint")
)
_SUBMIT = (
    update(task)
    .where(task.c.id.in_(bindparam("ids", expanding=True)), WAITING)
    .values(state=State.SUBMITTED, due_at=None, attempts=task.c.attempts + 1)
)
_MAKE = insert(batch).returning(batch.c.id)
_INSERT = insert(attempt).values(changed=FIRST_CHANGE)
_LEFT_OPEN = (
    select(attempt.c.id)
    .join(batch, batch.c.id == attempt.c.batch_row)
    .where(batch.c.token == bindparam("by_token"), attempt.c.state == AttemptState.RUNNING)
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class _Line:
    """A due task, what it may cost, and what that was made of."""

    row: RowMapping
    quote: Quote
    seen: Seen


@dataclass(slots=True)
class _Group:
    """Due tasks that may share a batch, in order; no more lines than may."""

    crowd: int
    due: int = 0
    lines: list[_Line] = field(default_factory=list)

    def add(self, line: _Line) -> None:
        self.due += 1
        if len(self.lines) < self.crowd:
            self.lines.append(line)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a batch is judged by."""

    now: float
    sheet: PriceSheet
    cap: Cap
    wish: Wish
    log: QuotaLog
    load: Load
    attempts: int


def submit(
    connection: Connection,
    name: str,
    *,
    now: float,
    sheet: PriceSheet,
    cap: Cap,
    wish: Wish,
    quotas: Quotas,
    load: Load,
    weigh: Callable[[str, str], int],
    ready: Callable[[Sequence[Reference]], bool],
    policy_attempts: int,
    new_token: Callable[[], str],
) -> Submission:
    """Take the next due tasks that may share a batch and reserve the worst price of each: a batch in `intent`.

    Together with all due tasks before them, whatever their group, they fit under `cap`, under the cap that the
    job's account has now, and under the month's limit of `wish`. The first group of at least `load.least` is
    taken; where a cap or the month ends the walk, the first of any size. `weigh` says how many bytes the answer to
    a size and an aspect may have; `ready` is asked once for each set of references. Raises LookupError for an
    unknown job.
    """
    log = quotas.log(connection, wish.endpoint, now)
    terms = _Terms(now, sheet, cap, wish, log, load, policy_attempts)
    standing = standing_of(connection, name)
    shared = account_of(connection, standing["account_id"])
    groups, over = _walk(connection, standing, shared, terms)
    if not groups:
        if over is None:
            return nothing_due(connection, standing)
        return over if isinstance(over, Held) else over_or_held(connection, standing["id"], shared, over, now)
    group = next((one for one in groups if over is not None or one.due >= load.least), None)
    if group is None:
        return TooFew()
    lines = _fitting(connection, group.lines, wish, load, weigh)
    if isinstance(lines, Held):
        return lines
    if wanted := _unready(lines, ready):
        return Unprepared(wanted)
    _reserve(connection, standing, shared, lines, terms)
    return _take(connection, name, standing, lines, wish, now, new_token)


def _walk(
    connection: Connection, standing: RowMapping, shared: RowMapping | None, terms: _Terms
) -> tuple[list[_Group], OverBudget | Held | None]:
    """The groups of the tasks that are due, by their first task, and the cap or month that ends them, if any."""
    groups: dict[tuple[int, int], _Group] = {}
    seen: dict[tuple[int, str], Seen] = {}
    worst, load = NOTHING, terms.load
    wanted = {"job_id": standing["id"], "now": terms.now, "model": terms.wish.model}
    with closing(connection.execute(_COMING, wanted, execution_options={"yield_per": CHUNK})) as rows:
        for row in rows.mappings():
            setting = (row["recipe_row"], row["size"])
            if setting not in seen:
                seen[setting] = seen_for(connection, row)
            quote = quote_of(row, terms.sheet, seen[setting])
            worst = both(worst, quote)
            if over := over_cap(row, worst, standing, terms.cap, shared):
                return list(groups.values()), over
            if month := terms.log.month_full(terms.wish.limits, worst.nanos or 0):
                return list(groups.values()), Held(month.dimension, month.until, month.limit)
            most = crowd(row["tries"], lines=load.lines, attempts=terms.attempts)
            groups.setdefault((row["recipe_row"], most), _Group(most)).add(_Line(row, quote, seen[setting]))
            first = next(iter(groups.values()))
            if first.due >= max(first.crowd, load.least):
                break  # it is the one to take, and whole
    return list(groups.values()), None


def _fitting(
    connection: Connection, lines: list[_Line], wish: Wish, load: Load, weigh: Callable[[str, str], int]
) -> list[_Line] | Held:
    """As many as fit into a batch and beside those that are open; one always fits where none is."""
    here = {"endpoint": wish.endpoint, "model": wish.model}
    jobs, of_model, tokens = connection.execute(_ROOM, here).one()
    if jobs >= load.jobs:
        return Held("batches", None, load.jobs)
    left = None if load.tokens is None else load.tokens - tokens
    if fitting := _cut(lines, load.bytes, left, weigh):
        return fitting
    return Held("batches", None, load.tokens) if of_model else lines[:1]


def _cut(
    lines: list[_Line], most_bytes: int, tokens_left: int | None, weigh: Callable[[str, str], int]
) -> list[_Line]:
    weight = tokens = 0
    for place, line in enumerate(lines):
        weight += weigh(line.row["size"], line.row["aspect"])
        tokens += line.quote.input_tokens
        if (place and weight > most_bytes) or (tokens_left is not None and tokens > tokens_left):
            return lines[:place]
    return lines


def _unready(lines: Iterable[_Line], ready: Callable[[Sequence[Reference]], bool]) -> tuple[Unready, ...]:
    """The sets of references that are not ready, each by the first task that has it."""
    first: dict[tuple[Reference, ...], RowMapping] = {}
    for line in lines:
        first.setdefault(parse_references(line.row["pictures"]), line.row)
    return tuple(Unready(row["id"], row["stem"], wanted) for wanted, row in first.items() if not ready(wanted))


def _reserve(
    connection: Connection,
    standing: RowMapping,
    shared: RowMapping | None,
    lines: list[_Line],
    terms: _Terms,
) -> None:
    quotes = [line.quote for line in lines]
    reserve(connection, RESERVE_BATCH, standing["id"], quotes, terms.cap, terms.now, lines=len(lines))
    if shared is not None:
        reserve(connection, RESERVE_THERE, shared["id"], quotes, cap_of(shared), terms.now)


def _take(
    connection: Connection,
    name: str,
    standing: RowMapping,
    lines: list[_Line],
    wish: Wish,
    now: float,
    new_token: Callable[[], str],
) -> Submitted:
    """The batch and its attempts, whose reservations are booked."""
    one(connection.execute(_SUBMIT, {"ids": [line.row["id"] for line in lines]}).rowcount, of=len(lines))
    token = new_token()
    row = {
        "token": token,
        "job_id": standing["id"],
        "model": wish.model,
        "endpoint": wish.endpoint,
        "display_name": display_name(name, token),
        "lines": len(lines),
        "input_tokens": sum(line.quote.input_tokens for line in lines),
        "stats": asdict(Stats()),
        "place": asdict(START),
        "made_at": now,
    }
    batch_row = connection.execute(_MAKE, row).scalar_one()
    taken = tuple(
        claimed_of(
            line.row,
            job=name,
            token=new_token(),
            number=line.row["attempts"] + 1,
            quote=line.quote,
            started_at=now,
            seen=line.seen,
            lane="batch",
        )
        for line in lines
    )
    more = {"batch_row": batch_row, "first_at": wish.endpoint}
    connection.execute(_INSERT, [{**attempt_row(each, standing, wish.endpoint), **more} for each in taken])
    made = connection.execute(RECORDS.where(batch.c.id == batch_row)).mappings().one()
    return Submitted(record_of(made), taken)


def record_of(row: RowMapping) -> BatchRecord:
    """A row of `RECORDS` as a value."""
    facts = {name: row[name] for name in BatchRecord.__dataclass_fields__}
    return BatchRecord(**{**facts, "stats": Stats(**row["stats"]), "place": Place(**row["place"])})


def posting(connection: Connection, token: str, file: str, *, now: float) -> bool:
    """A create of the uploaded input `file` is about to leave: from now on the remote job may exist."""
    facts = {"posts": batch.c.posts + 1, "posted_at": now, "file": file, "absent_at": None}
    return _change(connection, token, BatchState.INTENT, state=BatchState.CREATING, **facts)


def unposted(connection: Connection, token: str, *, now: float) -> bool:
    """The remote job certainly does not exist: the batch may be submitted again."""
    facts = {"state": BatchState.INTENT, "absent_at": None, "looked_at": now}
    return _change(connection, token, BatchState.CREATING, **facts)


def created(connection: Connection, token: str, remote: Remote, *, now: float) -> bool:
    """The remote job exists: `remote`.

    Raises sqlalchemy's IntegrityError if it is another batch's.
    """
    facts = {"name": remote.name, "created_at": now if remote.created_utc is None else remote.created_utc}
    told = {**facts, **_said(remote, now), "absent_at": None}
    return _change(connection, token, BatchState.CREATING, state=BatchState.CREATED, **told)


def looked(connection: Connection, token: str, remote: Remote, *, now: float) -> bool:
    """The service was asked and says `remote`."""
    return _change(connection, token, BatchState.CREATED, **_said(remote, now))


def _said(remote: Remote, now: float) -> dict[str, Any]:
    results = batch.c.results if remote.responses_file is None else remote.responses_file
    return {"remote_state": remote.state, "stats": asdict(remote.stats), "results": results, "looked_at": now}


def absent(connection: Connection, token: str, at: float) -> float:
    """A complete list of the service, made at `at`, lacks the job; answers with when the first one did.

    LookupError if the batch is in `intent` or over.
    """
    since = (
        update(batch)
        .where(batch.c.token == token, batch.c.state.in_((BatchState.CREATING, BatchState.CREATED)))
        .values(absent_at=func.coalesce(batch.c.absent_at, at))
        .returning(batch.c.absent_at)
    )
    found: float | None = connection.execute(since).scalar_one_or_none()
    if found is None:
        raise LookupError(f"no batch {token} is looked for")
    return found


def present(connection: Connection, token: str) -> bool:
    """It was not absent after all, or nobody can tell."""
    return _change(connection, token, BatchState.CREATING, BatchState.CREATED, absent_at=None)


def cancelling(connection: Connection, token: str, *, now: float) -> bool:
    """A cancel is about to be asked for; when it first was is kept."""
    return _change(connection, token, BatchState.CREATED, cancelled_at=func.coalesce(batch.c.cancelled_at, now))


def taken(connection: Connection, token: str, place: Place) -> bool:
    """The results have been taken so far: all lines before `place` are settled."""
    return _change(connection, token, BatchState.CREATED, place=asdict(place))


def over(connection: Connection, token: str, reason: str, error: str, *, now: float) -> bool:
    """Nothing more is to come. RuntimeError if an attempt of it is still open: its money would be forgotten."""
    if connection.execute(_LEFT_OPEN, {"by_token": token}).first() is not None:
        raise RuntimeError(f"batch {token} cannot be over: not all its attempts have ended")
    ended = {"state": BatchState.OVER, "reason": reason, "error": error, "ended_at": now}
    going = (BatchState.INTENT, BatchState.CREATING, BatchState.CREATED)
    return _change(connection, token, *going, **ended)


def _change(connection: Connection, token: str, *was: BatchState, **values: Any) -> bool:
    statement = update(batch).where(batch.c.token == token, batch.c.state.in_(was))
    return connection.execute(statement.values(**storable(values))).rowcount == 1
