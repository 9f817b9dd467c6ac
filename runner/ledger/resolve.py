"""Resolve: a person says of unknown attempts that they were bought, or that they were not.

The attempt must still be unknown, or nothing changes: to say it twice counts nothing twice. Where its task is
stays as it is.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, bindparam, case, func, select, update

from runner.core.lifecycle import AttemptState, State, Verdict
from runner.ledger.database import storable
from runner.ledger.models import account, attempt, job, task
from runner.ledger.queries import job_id
from runner.ledger.quotas import NEXT_CHANGE
from runner.ledger.reservation import one

BATCH = 2_000

_ENDS = {Verdict.WRITTEN_OFF: AttemptState.SETTLED, Verdict.RELEASED: AttemptState.RELEASED}
_AS_HELD = {
    "cost_nanos": attempt.c.reserved_nanos,
    "input_tokens": attempt.c.reserved_input_tokens,
    "text_tokens": attempt.c.reserved_text_tokens,
    "image_tokens": attempt.c.reserved_image_tokens,
}
"""What an attempt cost for which its reservation is the best that is known."""
_STILL_HELD = (
    select(
        case(
            (
                func.count(attempt.c.reserved_nanos) == func.count(),
                func.coalesce(func.sum(attempt.c.reserved_nanos), 0),
            )
        )
    )
    .where(attempt.c.task_id == task.c.id, attempt.c.state == AttemptState.UNKNOWN)
    .scalar_subquery()
)
_MOVE = (
    update(task)
    .where(task.c.id == bindparam("row_id"))
    .values(
        cost_nanos=task.c.cost_nanos + bindparam("cost"),
        image_tokens=task.c.image_tokens + bindparam("tokens"),
        # a sum with an unknown part may be known again without it
        unknown_nanos=func.coalesce(task.c.unknown_nanos - bindparam("held"), _STILL_HELD),
    )
)


@dataclass(frozen=True, slots=True)
class Unknown:
    """An attempt that may have been bought, and what it holds. Times are UTC seconds since 1970."""

    key: str
    stem: str
    """Where its picture would have gone."""
    path: str | None
    """Picture of its task, which a later attempt brought."""
    token: str
    number: int
    lane: str
    since: float
    reason: str
    """Why nobody knows: `timed_out`, `crashed`… as `core.lifecycle.Lost` names them."""
    error: str
    held_nanos: int | None
    """None: no price is known."""
    image_tokens: int | None
    """Held, too."""
    state: State
    """Of its task."""
    task_reason: str


def unknowns(connection: Connection, name: str) -> list[Unknown]:
    """The unknown attempts of the job, orphans' included, longest ago first. LookupError for an unknown job."""
    rows = connection.execute(
        select(
            *(task.c.key, attempt.c.stem, task.c.path, attempt.c.token, attempt.c.number, attempt.c.lane),
            attempt.c.ended_at.label("since"),
            *(attempt.c.reason, attempt.c.error, attempt.c.reserved_nanos.label("held_nanos")),
            attempt.c.reserved_image_tokens.label("image_tokens"),
            *(task.c.state, task.c.reason.label("task_reason")),
        )
        .join(task, task.c.id == attempt.c.task_id)
        .where(attempt.c.job_id == job_id(connection, name), attempt.c.state == AttemptState.UNKNOWN)
        .order_by(attempt.c.ended_at, attempt.c.id)
    )
    return [Unknown(**row) for row in rows.mappings()]


@dataclass(slots=True)
class _Held:
    """What some attempts hold; those of no known price, and of no known count, beside it."""

    nanos: int = 0
    image_tokens: int = 0
    unpriced: int = 0
    uncounted: int = 0

    def add(self, row: RowMapping) -> None:
        """One more."""
        nanos, tokens = row["reserved_nanos"], row["reserved_image_tokens"]
        self.nanos += nanos or 0
        self.image_tokens += tokens or 0
        self.unpriced += nanos is None
        self.uncounted += tokens is None


def resolve(
    connection: Connection, name: str, tokens: Collection[str], verdict: Verdict, why: str, *, now: float
) -> frozenset[str]:
    """Book those unknown attempts of the job as spent or as free; returns the tokens of those that were unknown.

    `why` is kept as their error, the verdict as their reason. What a written off one held is what it cost, and its
    tokens. LookupError for an unknown job.
    """
    mine = job_id(connection, name)
    rows = list(_ended(connection, mine, tokens, verdict, why))
    tasks: defaultdict[int, _Held] = defaultdict(_Held)
    accounts: defaultdict[int | None, _Held] = defaultdict(_Held)
    whole = _Held()
    for row in rows:
        for held in (whole, tasks[row["task_id"]], accounts[row["account_id"]]):
            held.add(row)
    if not rows:
        return frozenset()
    connection.execute(_MOVE, [_moved(task_id, held, verdict) for task_id, held in tasks.items()])
    _pay(connection, job, mine, whole, verdict, now)
    for account_id, held in accounts.items():
        if account_id is not None:
            _pay(connection, account, account_id, held, verdict, now)
    return frozenset(row["token"] for row in rows)


def _ended(
    connection: Connection, mine: int, tokens: Collection[str], verdict: Verdict, why: str
) -> Iterable[RowMapping]:
    facts = {**storable({"error": why}), "state": _ENDS[verdict], "reason": verdict.value, "changed": NEXT_CHANGE}
    if verdict is Verdict.WRITTEN_OFF:
        facts |= _AS_HELD
    source = iter(tokens)
    while batch := list(islice(source, BATCH)):
        statement = (
            update(attempt)
            .where(attempt.c.job_id == mine, attempt.c.token.in_(batch), attempt.c.state == AttemptState.UNKNOWN)
            .values(**facts)
            .returning(
                *(attempt.c.token, attempt.c.task_id, attempt.c.account_id),
                *(attempt.c.reserved_nanos, attempt.c.reserved_image_tokens),
            )
        )
        yield from connection.execute(statement).mappings().all()


def _moved(task_id: int, held: _Held, verdict: Verdict) -> Mapping[str, Any]:
    """The sums of a task; NULL plus anything is NULL, as in `settle`."""
    nanos = None if held.unpriced else held.nanos
    spent = verdict is Verdict.WRITTEN_OFF
    return {
        "row_id": task_id,
        "held": nanos,
        "cost": nanos if spent else 0,
        "tokens": (None if held.uncounted else held.image_tokens) if spent else 0,
    }


def _pay(connection: Connection, owner: Table, row_id: int, held: _Held, verdict: Verdict, now: float) -> None:
    """Move the counters of a job or an account."""
    moved = {
        "unknown_nanos": owner.c.unknown_nanos - held.nanos,
        "unknown_image_tokens": owner.c.unknown_image_tokens - held.image_tokens,
    }
    if verdict is Verdict.WRITTEN_OFF:
        moved["settled_nanos"] = owner.c.settled_nanos + held.nanos
        moved["settled_image_tokens"] = owner.c.settled_image_tokens + held.image_tokens
    else:
        moved["unpriced"] = owner.c.unpriced - held.unpriced
        moved["uncounted"] = owner.c.uncounted - held.uncounted
    paid = update(owner).where(owner.c.id == row_id).values(**moved, updated_at=now)
    one(connection.execute(paid).rowcount)
