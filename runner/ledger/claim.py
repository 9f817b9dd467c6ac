"""Claim: the next due task, its attempt and its reservation, in the caller's transaction or not at all.

Every UPDATE repeats in its WHERE what must be true. What an attempt may cost and whether it fits is `core`'s.
"""

import json
from functools import cache
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, bindparam, func, insert, or_, select, update

from runner.core.budget import Cap, Spend, fits
from runner.core.lifecycle import State
from runner.core.pricing import PriceSheet, Quote, Seen
from runner.core.task import Recipe
from runner.ledger.facts import Claim, Claimed, Empty, OverBudget, Waiting
from runner.ledger.models import WAITING, allowance, attempt, job, prompt, recipe, task

NO_CAP = 2**62
"""More nano-dollars than there are dollars in the world."""

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
    select(job.c.id, job.c.running, job.c.submitted, *SPEND)
    .where(job.c.name == bindparam("job"))
    .with_for_update()
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
)
_NEXT = (
    select(*FACTS)
    .join(prompt, prompt.c.id == task.c.prompt_row)
    .join(recipe, recipe.c.id == task.c.recipe_row)
    .where(task.c.job_id == bindparam("job_id"), WAITING)
    .where(or_(task.c.due_at.is_(None), task.c.due_at <= bindparam("now")))
    .order_by(task.c.position)
    .limit(1)
)
_DUE = select(func.min(task.c.due_at)).where(
    task.c.job_id == bindparam("job_id"), WAITING, task.c.due_at.is_not(None)
)
_SEEN = select(allowance.c.kind, allowance.c.tokens).where(
    allowance.c.model == bindparam("model"),
    or_(
        and_(allowance.c.kind == "text", allowance.c.setting == bindparam("thinking")),
        and_(allowance.c.kind == "image", allowance.c.setting == bindparam("size")),
    ),
)
_HELD = job.c.settled_nanos + job.c.reserved_nanos + job.c.unknown_nanos
_HELD_TOKENS = job.c.settled_image_tokens + job.c.reserved_image_tokens + job.c.unknown_image_tokens
_RESERVE = (
    update(job)
    .where(job.c.id == bindparam("job_id"))
    .where(_HELD + bindparam("nanos") <= bindparam("cap"))
    .where(_HELD_TOKENS + bindparam("tokens") <= bindparam("cap_tokens"))
    .values(
        reserved_nanos=job.c.reserved_nanos + bindparam("nanos"),
        reserved_image_tokens=job.c.reserved_image_tokens + bindparam("tokens"),
        unpriced=job.c.unpriced + bindparam("no_price"),
        uncounted=job.c.uncounted + bindparam("no_count"),
        queued=job.c.queued - 1,
        running=job.c.running + 1,
        updated_at=bindparam("now"),
    )
)
_START = (
    update(task)
    .where(task.c.id == bindparam("task_id"), WAITING)
    .values(state=State.RUNNING, due_at=None, attempts=task.c.attempts + 1)
)


def claim(
    connection: Connection, name: str, *, now: float, sheet: PriceSheet, cap: Cap, token: str, endpoint: str
) -> Claim:
    """Take the next due task in order and reserve its worst price under `cap`, as attempt `token`.

    Raises LookupError for an unknown job.
    """
    standing = connection.execute(_JOB, {"job": name}).mappings().one_or_none()
    if standing is None:
        raise LookupError(f"no job {name!r}")
    due = connection.execute(_NEXT, {"job_id": standing["id"], "now": now}).mappings().one_or_none()
    if due is None:
        return _nothing_due(connection, standing)
    quote = _quote(connection, due, sheet)
    if not (fits(spend_of(standing), cap, quote) and _reserve(connection, standing["id"], quote, cap, now)):
        return OverBudget(quote, due["key"], due["stem"], spend_of(standing))
    one(connection.execute(_START, {"task_id": due["id"]}).rowcount)
    claimed = claimed_of(due, job=name, token=token, number=due["attempts"] + 1, quote=quote, started_at=now)
    connection.execute(insert(attempt), _attempt_row(claimed, standing["id"], endpoint))
    return claimed


def _nothing_due(connection: Connection, standing: RowMapping) -> Waiting | Empty:
    next_due = connection.execute(_DUE, {"job_id": standing["id"]}).scalar_one()
    if next_due is None and not standing["running"] and not standing["submitted"]:
        return Empty()
    return Waiting(next_due)


def _quote(connection: Connection, due: RowMapping, sheet: PriceSheet) -> Quote:
    settings = parse_recipe(due["body"])
    wanted = {"model": settings.model, "thinking": settings.thinking or "", "size": due["size"]}
    seen = Seen(**{row.kind: row.tokens for row in connection.execute(_SEEN, wanted)})
    size_bytes = len(due["text"].encode()) + len((settings.system or "").encode())
    return sheet.quote(size=due["size"], thinking=settings.thinking, input_bytes=size_bytes, seen=seen)


def _reserve(connection: Connection, job_id: int, quote: Quote, cap: Cap, now: float) -> bool:
    values = {
        "job_id": job_id,
        "nanos": quote.nanos or 0,
        "tokens": quote.image_tokens or 0,
        "cap": NO_CAP if cap.nanos is None else cap.nanos,
        "cap_tokens": NO_CAP if cap.image_tokens is None else cap.image_tokens,
        "no_price": int(quote.nanos is None),
        "no_count": int(quote.image_tokens is None),
        "now": now,
    }
    return connection.execute(_RESERVE, values).rowcount == 1


def claimed_of(facts: RowMapping, **attempt_facts: Any) -> Claimed:
    """The `FACTS` columns and what is the attempt's own, as a value."""
    return Claimed(
        task_id=facts["id"],
        key=facts["key"],
        prompt_id=facts["prompt_id"],
        prompt=facts["text"],
        recipe=parse_recipe(facts["body"]),
        size=facts["size"],
        aspect=facts["aspect"],
        stem=facts["stem"],
        tries=facts["tries"],
        refused_tries=facts["refused_tries"],
        **attempt_facts,
    )


def _attempt_row(claimed: Claimed, job_id: int, endpoint: str) -> dict[str, Any]:
    return {
        "token": claimed.token,
        "task_id": claimed.task_id,
        "job_id": job_id,
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


def spend_of(row: RowMapping) -> Spend:
    """The `SPEND` columns as a value."""
    return Spend(*(row[column] for column in SPEND))


def one(rowcount: int) -> None:
    """RuntimeError unless exactly one row changed: what was read in this transaction no longer holds."""
    if rowcount != 1:
        raise RuntimeError(f"{rowcount} rows changed where one had to")
