"""The receipt as programs read it: one JSON object, or rows for CSV. Money is an exact decimal string."""

from collections.abc import Mapping

from runner.app.audit import Audit
from runner.app.pricebook import Priced
from runner.app.report import Line, Receipt, Tally, amiss, by_prompt, pairs
from runner.app.views import Json, cap_object, instant, spend_object
from runner.core.budget import Cap, Spend, dollars
from runner.core.lifecycle import State
from runner.ledger import AccountBooks, BookedAttempt, BookedTask, Books, Counters

LINE_COLUMNS = (
    *("tasks", "sends", "charges", "pictures"),
    *("usd", "reserved_usd", "unknown_usd", "image_tokens"),
)
SEND_COLUMNS = (
    *(
        "sent_at",
        "key",
        "prompt_id",
        "model",
        "size",
        "aspect",
        "variant",
        "axes",
        "number",
        "token",
        "lane",
        "tier",
    ),
    *("state", "outcome", "reason", "error", "usd", "reserved_usd", "input_tokens", "text_tokens", "image_tokens"),
    *("latency_s", "finish_reason", "response_id", "served_by", "path", "sha256"),
)
"""One attempt that left; `usd` is null unless it was settled."""


def report_object(receipt: Receipt) -> Json:
    """`report --json`."""
    books, tally, audit = receipt.books, receipt.tally, receipt.audit
    whole = tally.whole
    return {
        "job": books.job,
        "at": instant(receipt.at),
        "database": receipt.database,
        "kind": books.kind,
        "tasks": {
            "total": whole.tasks,
            **{state.value: books.kept.tasks[state.value] for state in State},
            "orphaned": books.kept.orphaned,
        },
        "sends": _sends_object(tally),
        "charges": {
            "total": whole.charges,
            "pictures": whole.pictures,
            "lost": whole.lost,
            "written_off": whole.written_off,
            "without_picture": whole.without_picture,
        },
        "equal": receipt.equal,
        "spend": _counters_object(books.kept),
        "orphaned_usd": _usd(tally.orphaned.settled, tally.orphaned),
        "cap": cap_object(books.cap),
        "within_cap": within(books.kept.spend, books.cap),
        "accounts": [_account_object(one) for one in books.accounts],
        "by_hand": [
            {"booked": verdict, "reason": why, "attempts": many, "usd": None if held is None else dollars(held)}
            for (verdict, why), (many, held) in tally.by_hand.items()
        ],
        "by": [
            {"group": dict(zip(tally.by, names, strict=True)), **line_object(line)}
            for names, line in tally.groups.items()
        ],
        "without_picture": [_without_object(task, line) for task, line in by_prompt(tally.without)],
        "not_as_ordered": [{"what": amiss(one), **send_object(task, one)} for task, one in tally.amiss],
        "dearest": [send_object(*pair) for pair in pairs(tally.dearest)],
        "slowest": [send_object(*pair) for pair in pairs(tally.slowest)],
        "served_by": dict(tally.served_by),
        "prices": [price_object(one, count) for one, count in audit.proven.items()],
        "checks": _checks_object(books, audit),
        "exit_code": receipt.exit_code,
    }


def within(spend: Spend, cap: Cap) -> bool:
    """Whether settled + reserved + unknown is within both caps."""
    pairs_ = ((spend.held, cap.nanos), (spend.held_image_tokens, cap.image_tokens))
    return all(most is None or held <= most for held, most in pairs_)


def line_object(line: Line) -> Json:
    """A group: counts, and money that is null where a price is not known."""
    return {
        "tasks": line.tasks,
        "sends": line.sends,
        "charges": line.charges,
        "pictures": line.pictures,
        "usd": _usd(line.settled, line),
        "reserved_usd": _usd(line.reserved, line),
        "unknown_usd": _usd(line.unknown, line),
        "image_tokens": line.image_tokens,
    }


def send_object(task: BookedTask, one: BookedAttempt) -> Json:
    """One attempt that left, with what a support ticket needs."""
    return {
        "sent_at": instant(one.sent_at),
        "key": task.key,
        "prompt_id": task.prompt_id,
        "model": one.model,
        "size": task.size,
        "aspect": task.aspect,
        "variant": task.variant,
        "axes": dict(task.axes),
        "number": one.number,
        "token": one.token,
        "lane": one.lane,
        "tier": one.tier,
        "state": one.state.value,
        "outcome": one.outcome,
        "reason": one.reason,
        "error": one.error,
        "usd": None if one.cost_nanos is None else dollars(one.cost_nanos),
        "reserved_usd": None if one.reserved_nanos is None else dollars(one.reserved_nanos),
        "input_tokens": one.input_tokens,
        "text_tokens": one.text_tokens,
        "image_tokens": one.image_tokens,
        "latency_s": None if one.latency_s is None else round(one.latency_s, 3),
        "finish_reason": one.finish_reason,
        "response_id": one.response_id,
        "served_by": one.model_version,
        "path": one.path,
        "sha256": one.sha256,
    }


def price_object(priced: Priced, charges: int) -> Json:
    """A price sheet in dollars a million tokens, and how many charges it gives to the nano-dollar."""
    prices = priced.sheet.prices
    named: Mapping[str, int | None] = {"input": prices.input, "text": prices.text, "image": prices.image}
    every = priced.sheet.any_size_tokens
    return {
        "model": priced.model,
        "lane": priced.lane,
        **{name: None if price is None else dollars(price * 1_000_000) for name, price in named.items()},
        "image_tokens": dict(priced.sheet.image_tokens) if every is None else every,
        "source": priced.source,
        "charges": charges,
    }


def _sends_object(tally: Tally) -> Json:
    whole = tally.whole
    return {
        "total": whole.sends,
        "tasks_never_sent": tally.unsent,
        "again": whole.sends - (whole.tasks - tally.unsent),
        "charged": whole.charges,
        "free": whole.free,
        "cancelled": whole.cancelled,
        "undone": whole.undone,
        "released_by_hand": whole.released,
        "unknown": whole.unanswered,
        "in_flight": whole.in_flight,
    }


def _counters_object(kept: Counters) -> Json:
    known = not kept.unpriced
    spend = spend_object(kept.spend, priced=known, counted=not kept.uncounted)
    return {**spend, "held_usd": dollars(kept.spend.held) if known else None}


def _account_object(one: AccountBooks) -> Json:
    spend = _counters_object(one.kept)
    return {
        "name": one.name,
        "cap": cap_object(one.cap),
        "within_cap": within(one.kept.spend, one.cap),
        "spend": spend,
        "jobs": [{"job": name, **_counters_object(counters)} for name, counters in one.jobs.items()],
    }


def _without_object(task: BookedTask, line: Line) -> Json:
    return {
        "prompt_id": task.prompt_id,
        "state": task.state.value,
        "reason": task.reason,
        "error": task.error,
        "finish_reason": task.finish_reason,
        "tasks": line.tasks,
        "usd": _usd(line.settled, line),
        "unknown_usd": _usd(line.unknown, line),
        "key": task.key,
    }


def _checks_object(books: Books, audit: Audit) -> Json:
    return {
        "adds_up": not audit.problems,
        "problems": audit.problems,
        "attempts": audit.attempts,
        "accounts": len(books.accounts),
        "charges_recomputed": audit.proven.total(),
        "only_added_up": audit.unproven,
    }


def _usd(nanos: int, line: Line) -> str | None:
    return None if line.unpriced else dollars(nanos)
