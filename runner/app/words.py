"""What a plan is said to people in."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from runner.app.figures import duration, moment
from runner.app.planned import Plan
from runner.app.settings import Options, command_line
from runner.core.budget import Cap, about, dollars
from runner.core.forecast import Forecast
from runner.core.grammar import Lane
from runner.core.limits import Binding
from runner.ledger import AccountStatus


def price_line(plan: Plan) -> str:
    """What is said before the first request: tasks, likely and worst cost, the cap and where it cuts."""
    worst = "an unknown price" if plan.worst_nanos is None else f"up to ${about(plan.worst_nanos)}"
    likely = "" if plan.likely_nanos is None else f"likely ${about(plan.likely_nanos)}, "
    cap = plan.campaign.cap
    caps = [f"cap {cap.words()}"] if cap != Cap() else []
    if plan.account is not None:
        caps.append(f"account {plan.account.name} {held_words(plan.account)}")
    what = f"{plan.to_buy} tasks to buy{_LANE_WORDS[plan.campaign.lane]}"
    if not caps:
        return f"{what}: {likely}{worst}; no cap: {worst}"
    cut = "" if plan.cut_after is None else f"; at worst the cap cuts after task {plan.cut_after} of {plan.to_buy}"
    return f"{what}: {likely}{worst}; {'; '.join(caps)}{cut}"


_LANE_WORDS: Mapping[Lane, str] = {
    "standard": "",
    "batch": " on the batch lane",
    "auto": " on the lane that suits each",
}


def lane_lines(plan: Plan) -> list[str]:
    """What all that is to buy would cost on each lane alone, the chosen one marked."""
    if not plan.to_buy:
        return []
    lines = []
    for lane, cost in plan.lanes.items():
        if cost.likely_nanos is None or cost.worst_nanos is None:
            money = "an unknown price"
        else:
            money = f"likely ${about(cost.likely_nanos)}, up to ${about(cost.worst_nanos)}"
        lines.append(f"{'*' if plan.campaign.lane == lane else ' '} lane {lane:8} {money}")
    if plan.campaign.lane == "auto":
        there = plan.to_buy - plan.batched
        lines.append(f"* lane auto     {plan.batched} of the tasks as batches, {there} on the standard lane")
    return lines


def deadline_line(plan: Plan) -> str | None:
    """Until when the standard lane can wait; None without a deadline."""
    deadline = plan.deadline
    if deadline is None:
        return None
    by = moment(deadline.by_utc)
    if deadline.standard_from_utc is None:
        return f"by {by}: not even the standard lane alone would be done in time"
    worst = "an unknown price" if plan.worst_nanos is None else f"up to ${about(plan.worst_nanos)}"
    at = moment(deadline.standard_from_utc)
    return f"by {by}: what no batch has brought until {at} goes to the standard lane; with both lanes paid {worst}"


def next_lines(result: Mapping[str, Any], options: Options) -> Iterator[str]:
    """What a person would type next, for each job that was not cut short; `result` is the object of `run`."""
    for one in result.get("jobs", (result,)):
        tasks = one.get("tasks") or Counter()
        if one.get("halted") is not None:
            continue
        if tasks["refused"] + tasks["failed"]:
            yield f"why some are missing: {command_line('report', one['job'], options, 'database')}"
            yield f"to try them again: {command_line('retry', one['job'], options, 'database')}"
        if tasks["succeeded"]:
            yield f"to see them: {command_line('gallery', one['job'], options, 'database', 'output')}"


def held_words(account: AccountStatus) -> str:
    """What an account has spent and holds, against its cap: `$12.50 of $200.00`."""
    spend, cap = account.spend, account.cap
    money = "unknown spend (no prices)" if account.unpriced else f"${dollars(spend.held)}"
    words = money if cap.nanos is None else f"{money} of ${dollars(cap.nanos)}"
    if cap.image_tokens is not None:
        words += f", {spend.held_image_tokens} of {cap.image_tokens} image tokens"
    return words


def finish_line(plan: Plan) -> str | None:
    """When it would be done, and what makes it take so long; None where there is nothing to buy."""
    remote = _batches_line(plan)
    if plan.batches is not None and plan.batches.stopped_by == "month":
        remote = f"{_month_line(plan.batches, plan.batched)} that go as batches"
    if plan.finish is None:
        return remote if plan.batched else None
    standard = _standard_line(plan.finish, plan.to_buy - plan.batched)
    return f"{standard}; {remote}" if plan.batched else standard


def _batches_line(plan: Plan) -> str:
    """How long what goes as batches takes: not all of it may be enqueued at once."""
    turns, shares = 1, list[str]()
    for model, queue in plan.queues.items():
        load = plan.campaign.batch_load(model)
        most, field = queue.at_once(load)
        turns = max(turns, -(-queue.lines // most))
        if field:
            whose = f" of {model}" if len(plan.queues) > 1 else ""
            shares.append(f"some {most} at a time{whose} (batch.{field}: {getattr(load, field)})")
    if turns == 1:
        return f"{plan.batched} tasks go as batches: done within a day as a rule, after two at the latest"
    share = f"{plan.batched} tasks go as batches, {', '.join(shares)}"
    return f"{share}: {turns} turns, each done within a day as a rule, after two at the latest"


def _standard_line(finish: Forecast, tasks: int) -> str:
    """The same of the standard lane."""
    if finish.stopped_by == "month":
        return _month_line(finish, tasks)
    if finish.finish_s is None:
        return "under these limits it is never done"
    binds = "" if finish.binds is None else f"; {BINDING_WORDS[finish.binds]} is what binds"
    return f"done in {duration(finish.finish_s)} at the earliest{binds}"


def _month_line(stopped: Forecast, tasks: int) -> str:
    return f"the month's spend limit stops it after {stopped.bought} of {tasks} tasks"


BINDING_WORDS: Mapping[Binding, str] = {
    "requests": "requests a minute",
    "tokens": "input tokens a minute",
    "images": "images a minute",
    "day": "requests a day",
    "spend_window": "dollars in ten minutes",
    "month": "dollars a month",
    "concurrency": "the concurrency",
    "bytes": "bytes in flight",
    "budget": "the budget",
    "outage": "an outage",
    "refused": "a refusal of the provider",
    "room": "room on the disk",
    "retries": "retries that are not due yet",
    "references": "references being uploaded",
    "remote": "remote batches that are not done",
    "batches": "room for remote batches",
}


def binding_words(cause: Binding, said: str) -> str:
    """What holds back, and what more is known of it: `requests a minute (60 requests a minute)`."""
    return BINDING_WORDS[cause] if said in {"", BINDING_WORDS[cause]} else f"{BINDING_WORDS[cause]} ({said})"
