"""Claim: the next due task, its attempt and its reservation, in the caller's transaction or not at all.

Every UPDATE repeats in its WHERE what must be true. What an attempt may cost and whether that fits is
`reservation`'s.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, or_, select, update

from runner.core.budget import Cap
from runner.core.lifecycle import State
from runner.core.limits import Dimension, Need
from runner.core.pricing import PriceSheet
from runner.core.quota import SOON_S
from runner.core.reference import Reference
from runner.ledger.facts import ROOM, Claim, Claimed, Closed, Empty, Held, Room, Unready, Waiting, Wish
from runner.ledger.models import WAITING, attempt, prompt, recipe, reference, task
from runner.ledger.quotas import (
    FIRST_CHANGE,
    RENEWS_S,
    Quotas,
    believed,
    judge,
    line,
    served,
    spread,
    stand_in_line,
)
from runner.ledger.reservation import (
    RESERVE_ONE,
    RESERVE_THERE,
    account_of,
    cap_of,
    one,
    over_cap,
    over_or_held,
    parse_recipe,
    parse_references,
    quote_of,
    reserve,
    seen_for,
    standing_of,
)

BRIEF = 3.0
"""Who is next in line looks again so soon after its predecessor, in seconds by requests a minute."""

FACTS = (
    task.c.id,
    task.c.key,
    task.c.prompt_id,
    task.c.size,
    task.c.aspect,
    task.c.stem,
    task.c.tries,
    task.c.refused_tries,
    task.c.attempts,
    prompt.c.text,
    recipe.c.body,
    reference.c.body.label("pictures"),
)
COMING = (
    select(*FACTS, task.c.recipe_row)
    .join(prompt, prompt.c.id == task.c.prompt_row)
    .join(recipe, recipe.c.id == task.c.recipe_row)
    .outerjoin(reference, reference.c.id == task.c.reference_row)
    .where(task.c.job_id == bindparam("job_id"), WAITING)
    .where(or_(task.c.due_at.is_(None), task.c.due_at <= bindparam("now")))
    .order_by(task.c.position)
)
"""The tasks that may be claimed, in order."""
COMING_OF_MODEL = COMING.where(
    task.c.recipe_row.in_(select(recipe.c.id).where(recipe.c.model == bindparam("model")))
)
_NEXT = COMING.limit(1)
_NEXT_OF_MODEL = COMING_OF_MODEL.limit(1)
_DUE = select(func.min(task.c.due_at)).where(
    task.c.job_id == bindparam("job_id"), WAITING, task.c.due_at.is_not(None)
)
_START = (
    update(task)
    .where(task.c.id == bindparam("task_id"), WAITING)
    .values(state=State.RUNNING, due_at=None, attempts=task.c.attempts + 1)
)
_INSERT = insert(attempt).values(changed=FIRST_CHANGE)


def claim(
    connection: Connection,
    name: str,
    *,
    now: float,
    sheet: PriceSheet,
    cap: Cap,
    token: str,
    wish: Wish,
    quotas: Quotas,
    room: Room = ROOM,
    ready: Callable[[Sequence[Reference]], bool] = lambda wanted: not wanted,
) -> Claim:
    """Take the next due task in order and reserve its worst price, as attempt `token`.

    It must fit under `cap`, under the cap that the job's account has now, under every limit of `wish`, and into
    `room`, and its references must be `ready`. The order is kept: a large task is waited for, not passed by
    smaller ones. Raises LookupError for an unknown job.
    """
    standing = standing_of(connection, name)
    due = _next(connection, standing["id"], wish, now)
    if due is None:
        return nothing_due(connection, standing)
    seen = seen_for(connection, due)
    quote = quote_of(due, sheet, seen)
    shared = account_of(connection, standing["account_id"])
    if over := over_cap(due, quote, standing, cap, shared):
        return over_or_held(connection, standing["id"], shared, over, now)
    pictures = parse_references(due["pictures"])
    if not ready(pictures):
        return Unready(due["id"], due["stem"], pictures)
    need = Need(quote.input_tokens, 1, quote.nanos or 0, room.weigh(due["size"], due["aspect"]))
    if waits := _waits(connection, standing["id"], wish, quotas, need, room, now):
        return waits
    reserve(connection, RESERVE_ONE, standing["id"], [quote], cap, now)
    if shared is not None:
        reserve(connection, RESERVE_THERE, shared["id"], [quote], cap_of(shared), now)
    one(connection.execute(_START, {"task_id": due["id"]}).rowcount)
    number = due["attempts"] + 1
    claimed = claimed_of(due, job=name, token=token, number=number, quote=quote, started_at=now, seen=seen)
    row = {**attempt_row(claimed, standing, wish.endpoint), "first_at": wish.endpoint}
    connection.execute(_INSERT, row)
    return claimed


def _next(connection: Connection, job_id: int, wish: Wish, now: float) -> RowMapping | None:
    wanted = {"job_id": job_id, "now": now}
    if wish.only:
        return connection.execute(_NEXT_OF_MODEL, {**wanted, "model": wish.model}).mappings().one_or_none()
    return connection.execute(_NEXT, wanted).mappings().one_or_none()


def _waits(
    connection: Connection, job_id: int, wish: Wish, quotas: Quotas, need: Need, room: Room, now: float
) -> Held | Closed | None:
    """What the task must wait for: the model to open, our turn, a limit, bytes in flight."""
    if room.bytes_left is not None and need.bytes > room.bytes_left:
        return Held("bytes", None)
    learnt = believed(connection, wish, now)
    if closed := learnt.closed(now):
        return closed
    others = line(connection, job_id, wish, now)
    log = quotas.log(connection, wish.endpoint, now)
    found = judge(connection, log, learnt, wish, need, now)
    if found is None and others.crowded:
        found = spread(log, learnt, wish, now)
    if found is None and others.ahead_back_at is None:
        if others.waiting:
            served(connection, job_id, wish.model)
        return None
    if found is not None and found.dimension in {"day", "month"}:
        if others.waiting:
            served(connection, job_id, wish.model)
        return Held(found.dimension, found.until, found.limit)
    binds: Dimension = "requests" if found is None else found.dimension
    until = now if found is None else found.until
    if others.ahead_back_at is not None:
        soon_s = min(SOON_S, BRIEF / (learnt.limits(wish.limits, now).rpm or 1))
        until = max(until, max(others.ahead_back_at, now) + soon_s)
    if others.crowded:
        until = min(until, now + RENEWS_S)
        stand_in_line(connection, job_id, wish.model, binds, now, until)
    return Held(binds, until, None if found is None else found.limit)


def nothing_due(connection: Connection, standing: RowMapping) -> Waiting | Empty:
    """What is said where no task is due."""
    next_due = connection.execute(_DUE, {"job_id": standing["id"]}).scalar_one()
    if next_due is None and not standing["running"] and not standing["submitted"]:
        return Empty()
    return Waiting(next_due)


def claimed_of(facts: RowMapping, **attempt_facts: Any) -> Claimed:
    """The `FACTS` columns and what is the attempt's own, as a value."""
    return Claimed(
        task_id=facts["id"],
        key=facts["key"],
        prompt_id=facts["prompt_id"],
        prompt=facts["text"],
        recipe=parse_recipe(facts["body"]),
        references=parse_references(facts["pictures"]),
        size=facts["size"],
        aspect=facts["aspect"],
        stem=facts["stem"],
        tries=facts["tries"],
        refused_tries=facts["refused_tries"],
        **attempt_facts,
    )


def attempt_row(claimed: Claimed, standing: RowMapping, endpoint: str) -> dict[str, Any]:
    """The columns of a new attempt."""
    return {
        "token": claimed.token,
        "task_id": claimed.task_id,
        "job_id": standing["id"],
        "account_id": standing["account_id"],
        "number": claimed.number,
        "lane": claimed.lane,
        "model": claimed.recipe.model,
        "endpoint": endpoint,
        "stem": claimed.stem,
        "reserved_nanos": claimed.quote.nanos,
        "reserved_image_tokens": claimed.quote.image_tokens,
        "reserved_text_tokens": claimed.quote.text_tokens,
        "reserved_input_tokens": claimed.quote.input_tokens,
        "started_at": claimed.started_at,
    }
