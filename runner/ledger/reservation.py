"""What a task may cost at worst, whether that fits under the caps, and its reservation.

For all verbs that take tasks, in the transaction in which they do. What fits is `core.budget`'s.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache

from sqlalchemy import Connection, RowMapping, Table, Update, and_, bindparam, or_, select, text, update

from runner.core.budget import Cap, Spend, fits
from runner.core.pricing import PriceSheet, Quote, Seen
from runner.core.quota import LANDED_S
from runner.core.reference import Reference
from runner.core.task import Recipe
from runner.ledger.facts import Held, OverBudget
from runner.ledger.models import account, allowance, attempt, job

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


RESERVE_ONE = _held(job).values(queued=job.c.queued - 1, running=job.c.running + 1)
RESERVE_BATCH = _held(job).values(
    queued=job.c.queued - bindparam("lines"), submitted=job.c.submitted + bindparam("lines")
)
RESERVE_THERE = _held(account)


def standing_of(connection: Connection, name: str) -> RowMapping:
    """The job's counters, nobody else's to change until the transaction ends; LookupError for an unknown job."""
    standing = connection.execute(_JOB, {"job": name}).mappings().one_or_none()
    if standing is None:
        raise LookupError(f"no job {name!r}")
    return standing


def account_of(connection: Connection, account_id: int | None) -> RowMapping | None:
    """The account's row, if any, nobody else's to change until the transaction ends."""
    if account_id is None:
        return None
    return connection.execute(_ACCOUNT, {"account_id": account_id}).mappings().one()


def over_cap(
    due: RowMapping, quote: Quote, standing: RowMapping, cap: Cap, shared: RowMapping | None
) -> OverBudget | None:
    """The cap that `quote`, up to the task `due`, would pass; the job's own first."""
    if not fits(spend_of(standing), cap, quote):
        return OverBudget(quote, due["key"], due["stem"], spend_of(standing), cap)
    if shared is not None and not fits(spend_of(shared), cap_of(shared), quote):
        return OverBudget(quote, due["key"], due["stem"], spend_of(shared), cap_of(shared), shared["name"])
    return None


def over_or_held(
    connection: Connection, job_id: int, shared: RowMapping | None, over: OverBudget, now: float
) -> OverBudget | Held:
    """`over`, but where another job of the account may still give room back: that is waited for."""
    return Held("budget", now + LOOK_S) if _may_land(connection, job_id, shared, over, now) else over


def _may_land(
    connection: Connection, job_id: int, shared: RowMapping | None, over: OverBudget, now: float
) -> bool:
    """Whether what other jobs of the account have in flight may leave room: it may cost less than it holds."""
    if shared is None or over.account is None:
        return False
    landed = replace(over.spend, reserved=0, reserved_image_tokens=0)
    others = {"account_id": shared["id"], "job_id": job_id, "since": now - LANDED_S}
    return fits(landed, over.cap, over.quote) and connection.execute(_OTHERS, others).first() is not None


def seen_for(connection: Connection, due: RowMapping) -> Seen:
    """The largest answers to tasks like this one."""
    settings = parse_recipe(due["body"])
    wanted = {"model": settings.model, "thinking": settings.thinking or "", "size": due["size"]}
    return Seen(**{row.kind: row.tokens for row in connection.execute(_SEEN, wanted)})


def quote_of(due: RowMapping, sheet: PriceSheet, seen: Seen) -> Quote:
    """The worst price of a task."""
    settings = parse_recipe(due["body"])
    size_bytes = len(due["text"].encode()) + len((settings.system or "").encode())
    return sheet.quote(
        size=due["size"],
        thinking=settings.thinking,
        input_bytes=size_bytes,
        seen=seen,
        references=len(parse_references(due["pictures"])),
    )


def reserve(
    connection: Connection,
    where: Update,
    owner: int,
    quotes: Sequence[Quote],
    cap: Cap,
    now: float,
    **more: int,
) -> None:
    """Book worst prices at their owner, all or none.

    RuntimeError if they no longer fit, which this transaction rules out.
    """
    known = [quote.nanos for quote in quotes if quote.nanos is not None]
    counted = [quote.image_tokens for quote in quotes if quote.image_tokens is not None]
    values = {
        "owner": owner,
        "nanos": sum(known),
        "tokens": sum(counted),
        "cap": NO_CAP if cap.nanos is None else cap.nanos,
        "cap_tokens": NO_CAP if cap.image_tokens is None else cap.image_tokens,
        "no_price": len(quotes) - len(known),
        "no_count": len(quotes) - len(counted),
        "now": now,
        **more,
    }
    one(connection.execute(where, values).rowcount)


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


def one(rowcount: int, *, of: int = 1) -> None:
    """RuntimeError unless exactly one row of each changed: what was read in this transaction no longer holds."""
    if rowcount != of:
        raise RuntimeError(f"{rowcount} rows changed where {'one' if of == 1 else of} had to")
