"""Settle: how an attempt ended, what it cost and where its task goes, together or not at all.

The attempt must still be running, or nothing changes: a late or double settle counts nothing twice. What an
outcome costs and where the task goes from it was decided in `core`.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import Connection, Double, RowMapping, Table, Update, bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite.dml import Insert

from runner.core.budget import Spend
from runner.core.lifecycle import (
    Answer,
    AttemptState,
    Made,
    Outcome,
    Picture,
    Refused,
    State,
    Unstored,
    Unusable,
    Usage,
)
from runner.core.paths import fold
from runner.core.pricing import Quote, Settlement
from runner.core.quota import LEAVES_WITHIN_S
from runner.core.retry import Move
from runner.ledger.database import storable
from runner.ledger.enqueue import upsert
from runner.ledger.facts import Claimed, Settled
from runner.ledger.models import WAITING, account, allowance, attempt, job, task
from runner.ledger.quotas import NEXT_CHANGE
from runner.ledger.reservation import SPEND, one, spend_of

FORGOTTEN_AFTER = 20
"""Answers with fewer pictures than the most that came in one."""

IN_LANE = {"standard": State.RUNNING, "batch": State.SUBMITTED}
"""Where a task is while an attempt of the lane is open."""

_IN_FLIGHT = attempt.c.state == AttemptState.RUNNING
_END = (
    update(attempt)
    .where(attempt.c.token == bindparam("by_token"), _IN_FLIGHT)
    .values(
        changed=NEXT_CHANGE, sent_at=func.coalesce(attempt.c.sent_at, bindparam("may_have_left_at", type_=Double))
    )
    .returning(
        attempt.c.job_id,
        attempt.c.task_id,
        attempt.c.account_id,
        attempt.c.lane,
        attempt.c.reserved_nanos,
        attempt.c.reserved_image_tokens,
    )
)
_OF_TASK = select(task.c.state, task.c.live, task.c.tries, task.c.attempts).where(
    task.c.id == bindparam("task_id")
)
_MOVE = (
    update(task)
    .where(task.c.id == bindparam("row_id"), task.c.state == bindparam("was"))
    .values(
        tries=task.c.tries + bindparam("a_try"),
        refused_tries=task.c.refused_tries + bindparam("a_refused"),
        cost_nanos=task.c.cost_nanos + bindparam("cost"),
        unknown_nanos=task.c.unknown_nanos + bindparam("unknown"),
        image_tokens=task.c.image_tokens + bindparam("tokens"),
    )
    .returning(task.c.live)
)
"""NULL plus anything is NULL: a sum with an unknown part is unknown."""


def _paying(owner: Table) -> Update:
    """Move the money counters of a job or an account."""
    counted = (*(owner.c[column.name] for column in SPEND), owner.c.unpriced, owner.c.uncounted)
    return (
        update(owner)
        .where(owner.c.id == bindparam("row_id"))
        .values({column: column + bindparam(f"more_{column.name}") for column in counted})
        .values(updated_at=bindparam("now"))
    )


_PAY = (
    _paying(job)
    .values({job.c[state.value]: job.c[state.value] + bindparam(f"more_{state.value}") for state in State})
    .returning(*SPEND)
)
_PAY_THERE = _paying(account)
_SPEND = select(*SPEND).where(job.c.name == bindparam("by_name"))


def settle(
    connection: Connection,
    claimed: Claimed,
    outcome: Outcome,
    settlement: Settlement,
    move: Move,
    *,
    now: float,
    latency_s: float | None,
    adopted: bool = False,
) -> Settled:
    """End the attempt of `claimed`. `adopted`: its picture was found on disk after a crash.

    If the attempt had already ended, nothing changes and `recorded` is false.
    """
    ended = {
        **_ended(claimed.quote, outcome, settlement, move),
        "by_token": claimed.token,
        "may_have_left_at": _may_have_left_at(claimed, settlement, now),
        "ended_at": now,
        "latency_s": latency_s,
        "adopted": adopted,
    }
    held = connection.execute(_END, storable(ended)).mappings().one_or_none()
    if held is None:
        return Settled(_spend(connection, claimed.job), recorded=False)
    moved = _moved(held, outcome, settlement, move, now)
    was = IN_LANE[held["lane"]]
    row = {"row_id": held["task_id"], "was": was, **storable(moved)}
    live = connection.execute(_MOVE, row).scalars().all()
    one(len(live))
    more = {"now": now, **_paid(held, settlement)}
    if live[0]:
        more[f"more_{was}"] -= 1
        more[f"more_{move.state}"] += 1
    spend = spend_of(connection.execute(_PAY, {"row_id": held["job_id"], **more}).mappings().one())
    if held["account_id"] is not None:
        one(connection.execute(_PAY_THERE, {"row_id": held["account_id"], **more}).rowcount)
    _raise_allowance(connection, claimed, outcome, settlement)
    return Settled(spend, recorded=True)


def _spend(connection: Connection, name: str) -> Spend:
    return spend_of(connection.execute(_SPEND, {"by_name": name}).mappings().one())


def _may_have_left_at(claimed: Claimed, settlement: Settlement, now: float) -> float | None:
    """The last moment at which it may have left, where nobody lived to tell; None where it never did by itself."""
    never = settlement.state is AttemptState.RELEASED or claimed.lane == "batch"
    return None if never else min(now, claimed.started_at + LEAVES_WITHIN_S)


def _ended(quote: Quote, outcome: Outcome, settlement: Settlement, move: Move) -> dict[str, Any]:
    """The columns of an attempt that has ended."""
    answer, picture, tokens = _answer(outcome), _picture(outcome), settlement.tokens
    return {
        "state": settlement.state,
        "outcome": type(outcome).__name__.lower(),
        "reason": move.reason,
        "error": move.error,
        "status": getattr(outcome, "status", 200 if answer else None),
        "finish_reason": answer and answer.finish_reason,
        "cost_nanos": settlement.nanos if settlement.state is AttemptState.SETTLED else None,
        "input_tokens": tokens and tokens.input,
        "text_tokens": tokens and tokens.text,
        "image_tokens": tokens and tokens.image,
        "usage": _fields(answer.usage) if answer and answer.usage else None,
        "response_id": answer and answer.response_id,
        "model_version": answer and answer.model_version,
        "tier": answer and answer.tier,
        "pictures": answer and answer.pictures,
        "path": picture and picture.path,
        "sha256": picture and picture.sha256,
        "overrun": _overrun(quote, settlement),
    }


def _overrun(quote: Quote, settlement: Settlement) -> bool:
    tokens = None if settlement.tokens is None else settlement.tokens.image
    pairs = ((settlement.nanos, quote.nanos), (tokens, quote.image_tokens))
    dearer = (cost is not None and held is not None and cost > held for cost, held in pairs)
    return settlement.state is AttemptState.SETTLED and any(dearer)


def _moved(held: RowMapping, outcome: Outcome, settlement: Settlement, move: Move, now: float) -> dict[str, Any]:
    """The columns of the task: where it goes, what it has cost, and what the last answer said, if any."""
    settled = settlement.state is AttemptState.SETTLED
    unknown = settlement.state is AttemptState.UNKNOWN
    answer = _answer(outcome)
    return {
        "state": move.state,
        "due_at": now + move.due_in_s if move.due_in_s else None,
        "reason": move.reason,
        "error": move.error,
        "a_try": int(move.counts == "try"),
        "a_refused": int(move.counts == "refused"),
        "cost": settlement.nanos if settled else 0,
        "unknown": held["reserved_nanos"] if unknown else 0,
        "tokens": settlement.tokens.image if settlement.tokens else 0,
        **({} if answer is None else _said(answer)),
        **(_kept(outcome.picture) if isinstance(outcome, Made) else {}),
    }


def _said(answer: Answer) -> dict[str, Any]:
    return {
        "finish_reason": answer.finish_reason,
        "text": answer.text or None,
        "response_id": answer.response_id,
        "model_version": answer.model_version,
    }


def _kept(picture: Picture) -> dict[str, Any]:
    return {**_fields(picture), "path_folded": folded_stem(picture.path)}


def _fields(facts: Usage | Picture) -> dict[str, Any]:
    """A flat value by its fields: `asdict` would copy each of them."""
    return {name: getattr(facts, name) for name in facts.__dataclass_fields__}


def _paid(held: RowMapping, settlement: Settlement) -> dict[str, int]:
    """How the job's money moves. What was reserved is what is given up or kept as unknown, never an estimate."""
    reserved = (held["reserved_nanos"], held["reserved_image_tokens"])
    settled: tuple[int | None, int | None] = (0, 0)
    unknown: tuple[int | None, int | None] = (0, 0)
    if settlement.state is AttemptState.SETTLED:
        settled = (settlement.nanos, settlement.tokens.image if settlement.tokens else None)
    elif settlement.state is AttemptState.UNKNOWN:
        unknown = reserved
    more = {
        "settled_nanos": settled[0] or 0,
        "reserved_nanos": -(reserved[0] or 0),
        "unknown_nanos": unknown[0] or 0,
        "settled_image_tokens": settled[1] or 0,
        "reserved_image_tokens": -(reserved[1] or 0),
        "unknown_image_tokens": unknown[1] or 0,
        "unpriced": (None in (settled[0], unknown[0])) - (reserved[0] is None),
        "uncounted": (None in (settled[1], unknown[1])) - (reserved[1] is None),
        **{state.value: 0 for state in State},
    }
    return {f"more_{name}": value for name, value in more.items()}


def _raise_allowance(connection: Connection, claimed: Claimed, outcome: Outcome, settlement: Settlement) -> None:
    """Remember larger answers. Only counted tokens: assumed ones would raise the next assumption without end."""
    answer, tokens = _answer(outcome), settlement.tokens
    if answer is None or answer.usage is None or tokens is None:
        return
    before, settings = claimed.seen, claimed.recipe
    each = -(-(answer.usage.image or 0) // max(1, answer.pictures))
    seen = [
        ("text", settings.thinking or "", tokens.text, before.text),
        ("image", claimed.size, each, before.image),
        ("pictures", claimed.size, answer.pictures, before.pictures),
    ]
    if claimed.references:
        text_bytes = len(claimed.prompt.encode()) + len((settings.system or "").encode())
        of_one = -(-max(0, tokens.input - text_bytes) // len(claimed.references))
        seen.append(("reference", "", of_one, before.reference))
    larger = [
        {"model": settings.model, "kind": kind, "setting": setting, "tokens": now, "since": 0}
        for kind, setting, now, known in seen
        if now > known
    ]
    if larger:
        connection.execute(_larger(connection.dialect.name), larger)
    if 0 < answer.pictures < before.pictures:
        _lower_pictures(connection, settings.model, claimed.size)


@cache
def _larger(dialect: str) -> Insert:
    statement = upsert(dialect, allowance)
    larger = statement.excluded.tokens
    return statement.on_conflict_do_update(
        index_elements=["model", "kind", "setting"],
        set_={"tokens": larger, "since": 0},
        where=allowance.c.tokens < larger,
    )


def _lower_pictures(connection: Connection, model: str, size: str) -> None:
    """One answer with several pictures is a whim: after `FORGOTTEN_AFTER` with fewer it is forgotten."""
    mine = (allowance.c.model == model, allowance.c.kind == "pictures", allowance.c.setting == size)
    connection.execute(update(allowance).where(*mine).values(since=allowance.c.since + 1))
    connection.execute(delete(allowance).where(*mine, allowance.c.since >= FORGOTTEN_AFTER))


def _answer(outcome: Outcome) -> Answer | None:
    return outcome.answer if isinstance(outcome, Made | Refused | Unusable | Unstored) else None


def _picture(outcome: Outcome) -> Picture | None:
    return outcome.picture if isinstance(outcome, Made | Unusable) else None


def fail(connection: Connection, task_id: int, reason: str, error: str, *, now: float) -> bool:
    """End a task that waits and can never be sent: no attempt, no money. False if it does not wait any more."""
    facts = {"state": State.FAILED, "due_at": None, **storable({"reason": reason, "error": error})}
    ended = update(task).where(task.c.id == task_id, WAITING).values(**facts).returning(task.c.job_id)
    job_id = connection.execute(ended).scalar_one_or_none()
    if job_id is None:
        return False
    moved = {"failed": job.c.failed + 1, "queued": job.c.queued - 1, "updated_at": now}
    connection.execute(update(job).where(job.c.id == job_id).values(**moved))
    return True


def forgive(connection: Connection, name: str, attempts: Iterable[Claimed], *, now: float) -> int:
    """Give back the try that each of these attempts used up: an outage was its end, not its task.

    A task that the last of them failed goes back into the queue. Returns how many tasks were given one.
    """
    burnt: dict[int, list[int]] = {}
    for ended in attempts:
        burnt.setdefault(ended.task_id, []).append(ended.number)
    given = failed = 0
    for task_id, numbers in burnt.items():
        found = connection.execute(_OF_TASK, {"task_id": task_id}).one()
        back = found.state is State.FAILED and found.attempts == max(numbers)
        if not found.tries or not (back or found.state in {State.QUEUED, *IN_LANE.values()}):
            continue
        changes: dict[str, Any] = {"tries": max(0, found.tries - len(numbers))}
        if back:
            changes["state"] = State.QUEUED
        one(connection.execute(update(task).where(task.c.id == task_id).values(**changes)).rowcount)
        given += 1
        failed += back and found.live
    if failed:
        moved = {"failed": job.c.failed - failed, "queued": job.c.queued + failed, "updated_at": now}
        connection.execute(update(job).where(job.c.name == name).values(**moved))
    return given


def recall(connection: Connection, task_ids: Iterable[int], *, now: float) -> None:
    """Make retries that wait due at once."""
    later = update(task).where(task.c.id.in_(list(task_ids)), WAITING, task.c.due_at > now)
    connection.execute(later.values(due_at=now))


def halt(connection: Connection, name: str, halted: str | None, reason: str | None, *, now: float) -> None:
    """Say why the job no longer claims, or with two None that it may again. LookupError for an unknown job."""
    statement = update(job).where(job.c.name == name).values(halted=halted, reason=reason, updated_at=now)
    if not connection.execute(statement).rowcount:
        raise LookupError(f"no job {name!r}")


def relocate(connection: Connection, name: str, moves: Iterable[tuple[str, str, str]]) -> int:
    """Record that pictures moved: (key, old path, new path). Returns how many still were at their old path."""
    mine = select(job.c.id).where(job.c.name == name).scalar_subquery()
    statement = update(task).where(
        task.c.job_id == mine, task.c.key == bindparam("by_key"), task.c.path == bindparam("old")
    )
    changed = 0
    for key, old, new in moves:
        values = {"by_key": key, "old": old, "path": new, "path_folded": folded_stem(new)}
        changed += connection.execute(statement, values).rowcount
    return changed


def folded_stem(path: str) -> str:
    """A picture's path without its extension, as paths are compared."""
    return fold(path.rpartition(".")[0])
