"""Claim: the next due task, its attempt and its reservation, in the caller's transaction or not at all.

Every UPDATE repeats in its WHERE what must be true. What an attempt may cost and whether it fits is `core`'s.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import (
    Connection,
    RowMapping,
    Table,
    Update,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from runner.core.budget import Cap, Spend, fits
from runner.core.lifecycle import State
from runner.core.limits import Dimension, Need
from runner.core.pricing import PriceSheet, Quote, Seen
from runner.core.quota import LANDED_S, SOON_S
from runner.core.reference import Reference
from runner.core.task import Recipe
from runner.ledger.facts import ROOM, Claim, Claimed, Closed, Empty, Held, OverBudget, Room, Unready, Waiting, Wish
from runner.ledger.models import WAITING, account, allowance, attempt, job, prompt, recipe, reference, task
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

BRIEF = 3.0
"""Who is next in line looks again so soon after its predecessor, in seconds by requests a minute."""
NO_CAP = 2**62
"""More nano-dollars than there are dollars in the world."""

LOOK_S = 1.0
"""Who waits for the requests of other runs looks again so often."""

SPEND = (
    job.c.settled_nanos,
    job.c.reserved_nanos,
    job.c.unknown_nanos,
    job.c.settled_image_tokens,
    job.c.reserved_image_tokens,
    job.c.unknown_image_tokens,
)
"""In the order of `Spend`'s fields."""

# Statements are built once: their cache keys are, too.
_JOB = (
    select(job.c.id, job.c.running, job.c.submitted, job.c.account_id, *SPEND)
    .where(job.c.name == bindparam("job"))
    .with_for_update()
)
_ACCOUNT = select(account).where(account.c.id == bindparam("account_id")).with_for_update()
_OTHERS = (
    select(attempt.c.id)
    .where(
        text("attempt.state = 'running'"),
        attempt.c.account_id == bindparam("account_id"),
        attempt.c.job_id != bindparam("job_id"),
        attempt.c.started_at > bindparam("since"),
    )
    .limit(1)
)
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
_NEXT = (
    select(*FACTS)
    .join(prompt, prompt.c.id == task.c.prompt_row)
    .join(recipe, recipe.c.id == task.c.recipe_row)
    .outerjoin(reference, reference.c.id == task.c.reference_row)
    .where(task.c.job_id == bindparam("job_id"), WAITING)
    .where(or_(task.c.due_at.is_(None), task.c.due_at <= bindparam("now")))
    .order_by(task.c.position)
    .limit(1)
)
_NEXT_OF_MODEL = _NEXT.where(
    task.c.recipe_row.in_(select(recipe.c.id).where(recipe.c.model == bindparam("model")))
)
_DUE = select(func.min(task.c.due_at)).where(
    task.c.job_id == bindparam("job_id"), WAITING, task.c.due_at.is_not(None)
)
_SEEN = select(allowance.c.kind, allowance.c.tokens).where(
    allowance.c.model == bindparam("model"),
    or_(
        and_(allowance.c.kind == "text", allowance.c.setting == bindparam("thinking")),
        and_(allowance.c.kind.in_(("image", "pictures")), allowance.c.setting == bindparam("size")),
        allowance.c.kind == "reference",
    ),
)


def _held(owner: Table) -> Update:
    """Reserve at a job or an account, unless that would pass its cap."""
    nanos = owner.c.settled_nanos + owner.c.reserved_nanos + owner.c.unknown_nanos
    tokens = owner.c.settled_image_tokens + owner.c.reserved_image_tokens + owner.c.unknown_image_tokens
    return (
        update(owner)
        .where(owner.c.id == bindparam("owner"))
        .where(nanos + bindparam("nanos") <= bindparam("cap"))
        .where(tokens + bindparam("tokens") <= bindparam("cap_tokens"))
        .values(
            reserved_nanos=owner.c.reserved_nanos + bindparam("nanos"),
            reserved_image_tokens=owner.c.reserved_image_tokens + bindparam("tokens"),
            unpriced=owner.c.unpriced + bindparam("no_price"),
            uncounted=owner.c.uncounted + bindparam("no_count"),
            updated_at=bindparam("now"),
        )
    )


_RESERVE = _held(job).values(queued=job.c.queued - 1, running=job.c.running + 1)
_RESERVE_THERE = _held(account)
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
    standing = connection.execute(_JOB, {"job": name}).mappings().one_or_none()
    if standing is None:
        raise LookupError(f"no job {name!r}")
    due = _next(connection, standing["id"], wish, now)
    if due is None:
        return _nothing_due(connection, standing)
    seen = _seen(connection, due)
    quote = _quote(due, sheet, seen)
    shared = _account(connection, standing["account_id"])
    if over := _over(due, quote, standing, cap, shared):
        return Held("budget", now + LOOK_S) if _may_land(connection, standing["id"], shared, over, now) else over
    pictures = parse_references(due["pictures"])
    if not ready(pictures):
        return Unready(due["id"], due["stem"], pictures)
    need = Need(quote.input_tokens, 1, quote.nanos or 0, room.weigh(due["size"], due["aspect"]))
    if waits := _waits(connection, standing["id"], wish, quotas, need, room, now):
        return waits
    _reserve(connection, _RESERVE, standing["id"], quote, cap, now)
    if shared is not None:
        _reserve(connection, _RESERVE_THERE, shared["id"], quote, cap_of(shared), now)
    one(connection.execute(_START, {"task_id": due["id"]}).rowcount)
    number = due["attempts"] + 1
    claimed = claimed_of(due, job=name, token=token, number=number, quote=quote, started_at=now, seen=seen)
    connection.execute(_INSERT, _attempt_row(claimed, standing, wish.endpoint))
    return claimed


def _next(connection: Connection, job_id: int, wish: Wish, now: float) -> RowMapping | None:
    wanted = {"job_id": job_id, "now": now}
    if wish.only:
        return connection.execute(_NEXT_OF_MODEL, {**wanted, "model": wish.model}).mappings().one_or_none()
    return connection.execute(_NEXT, wanted).mappings().one_or_none()


def _account(connection: Connection, account_id: int | None) -> RowMapping | None:
    if account_id is None:
        return None
    return connection.execute(_ACCOUNT, {"account_id": account_id}).mappings().one()


def _over(
    due: RowMapping, quote: Quote, standing: RowMapping, cap: Cap, shared: RowMapping | None
) -> OverBudget | None:
    """The cap that the task would pass, the job's own first."""
    if not fits(spend_of(standing), cap, quote):
        return OverBudget(quote, due["key"], due["stem"], spend_of(standing), cap)
    if shared is not None and not fits(spend_of(shared), cap_of(shared), quote):
        return OverBudget(quote, due["key"], due["stem"], spend_of(shared), cap_of(shared), shared["name"])
    return None


def _may_land(
    connection: Connection, job_id: int, shared: RowMapping | None, over: OverBudget, now: float
) -> bool:
    """Whether what other jobs of the account have in flight may leave room: it may cost less than it holds."""
    if shared is None or over.account is None:
        return False
    landed = replace(over.spend, reserved=0, reserved_image_tokens=0)
    others = {"account_id": shared["id"], "job_id": job_id, "since": now - LANDED_S}
    return fits(landed, over.cap, over.quote) and connection.execute(_OTHERS, others).first() is not None


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


def _nothing_due(connection: Connection, standing: RowMapping) -> Waiting | Empty:
    next_due = connection.execute(_DUE, {"job_id": standing["id"]}).scalar_one()
    if next_due is None and not standing["running"] and not standing["submitted"]:
        return Empty()
    return Waiting(next_due)


def _seen(connection: Connection, due: RowMapping) -> Seen:
    settings = parse_recipe(due["body"])
    wanted = {"model": settings.model, "thinking": settings.thinking or "", "size": due["size"]}
    return Seen(**{row.kind: row.tokens for row in connection.execute(_SEEN, wanted)})


def _quote(due: RowMapping, sheet: PriceSheet, seen: Seen) -> Quote:
    settings = parse_recipe(due["body"])
    size_bytes = len(due["text"].encode()) + len((settings.system or "").encode())
    return sheet.quote(
        size=due["size"],
        thinking=settings.thinking,
        input_bytes=size_bytes,
        seen=seen,
        references=len(parse_references(due["pictures"])),
    )


def _reserve(connection: Connection, where: Update, owner: int, quote: Quote, cap: Cap, now: float) -> None:
    """Book the worst price at its owner; RuntimeError if it no longer fits, which this transaction rules out."""
    values = {
        "owner": owner,
        "nanos": quote.nanos or 0,
        "tokens": quote.image_tokens or 0,
        "cap": NO_CAP if cap.nanos is None else cap.nanos,
        "cap_tokens": NO_CAP if cap.image_tokens is None else cap.image_tokens,
        "no_price": int(quote.nanos is None),
        "no_count": int(quote.image_tokens is None),
        "now": now,
    }
    one(connection.execute(where, values).rowcount)


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


def _attempt_row(claimed: Claimed, standing: RowMapping, endpoint: str) -> dict[str, Any]:
    return {
        "token": claimed.token,
        "task_id": claimed.task_id,
        "job_id": standing["id"],
        "account_id": standing["account_id"],
        "first_at": endpoint,
        "number": claimed.number,
        "model": claimed.recipe.model,
        "endpoint": endpoint,
        "stem": claimed.stem,
        "reserved_nanos": claimed.quote.nanos,
        "reserved_image_tokens": claimed.quote.image_tokens,
        "reserved_text_tokens": claimed.quote.text_tokens,
        "reserved_input_tokens": claimed.quote.input_tokens,
        "started_at": claimed.started_at,
    }


@cache
def parse_recipe(body: str) -> Recipe:
    """A recipe from its canonical JSON."""
    raw = json.loads(body)
    return Recipe(
        model=raw["model"],
        modalities=tuple(raw["modalities"]),
        thinking=raw["thinking"],
        system=raw["system"],
        safety=tuple((category, threshold) for category, threshold in raw["safety"]),
    )


@lru_cache(maxsize=4_096)
def parse_references(body: str | None) -> tuple[Reference, ...]:
    """References from their canonical JSON; None is none."""
    return () if body is None else tuple(Reference(**one) for one in json.loads(body))


def spend_of(row: RowMapping) -> Spend:
    """The `SPEND` columns of a job or an account as a value."""
    return Spend(*(row[column.name] for column in SPEND))


def cap_of(row: RowMapping) -> Cap:
    """The cap of a job or an account."""
    return Cap(row["cap_nanos"], row["cap_image_tokens"])


def one(rowcount: int) -> None:
    """RuntimeError unless exactly one row changed: what was read in this transaction no longer holds."""
    if rowcount != 1:
        raise RuntimeError(f"{rowcount} rows changed where one had to")
