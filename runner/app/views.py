"""The JSON objects and rows that programs read. Money is an exact decimal string; unknown is null, never zero."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from runner.core.budget import Cap, Spend, dollars
from runner.core.lifecycle import TERMINAL, State
from runner.core.retry import cause
from runner.ledger import AccountStatus, BatchRecord, Drafts, JobStatus, Pulse, TaskRecord, Unknown

Json = dict[str, Any]

EXIT_BY_HALT: Mapping[str | None, int] = {"interrupted": 130, "local": 5, "provider": 4, "budget": 3}
GRAVEST = (130, 5, 4, 3, 2, 1, 0)
"""Exit codes, the one that wins first."""

EXPORT_COLUMNS = (
    "key",
    "job",
    "prompt_id",
    "prompt",
    "model",
    "lane",
    "size",
    "aspect",
    "variant",
    "axes",
    "state",
    "path",
    "sha256",
    "bytes",
    "mime",
    "width",
    "height",
    "image_tokens",
    "cost_usd",
    "unknown_usd",
    "attempts",
    "finish_reason",
    "error",
    "text",
    "response_id",
    "model_version",
    "reason",
    "draft",
)


def exit_code(status: JobStatus) -> int:
    """The exit code of a job as it stands: halted, not finished (resumable), with failures, or done."""
    if status.detached:
        return 0
    if status.halted is not None:
        return EXIT_BY_HALT[status.halted]
    if sum(status.tasks[state] for state in TERMINAL) < status.total:
        return EXIT_BY_HALT["interrupted"]
    return 1 if status.tasks[State.REFUSED] + status.tasks[State.FAILED] else 0


def gravest(codes: list[int]) -> int:
    """The exit code of several jobs."""
    return min(codes, key=GRAVEST.index, default=0)


def job_object(status: JobStatus) -> Json:
    """`run` and `status` of one job (design §2)."""
    return {
        "job": status.job,
        "tasks": {"total": status.total, **{state.value: status.tasks[state] for state in State}},
        "spend": spend_object(status.spend, priced=not status.unpriced, counted=not status.uncounted),
        "cap": cap_object(status.cap),
        "account": None if status.account is None else account_object(status.account),
        "holding": None if status.pulse is None else holding_object(status.pulse),
        "drafts": None if status.drafts is None else drafts_object(status, status.drafts),
        "finals": list(status.finals),
        "batches": [batch_object(batch) for batch in status.batches],
        "halted": status.halted,
        "reason": status.reason,
        "exit_code": exit_code(status),
    }


def batch_object(batch: BatchRecord) -> Json:
    """One remote batch that is not over; `state` is the service's word once it has said one."""
    return {
        "name": batch.name,
        "display_name": batch.display_name,
        "state": batch.remote_state.lower() or batch.state.value,
        "requests": batch.lines,
        "succeeded": batch.stats.succeeded,
        "failed": batch.stats.failed,
        "since": instant(batch.created_at or batch.made_at),
        "looked_at": instant(batch.looked_at),
    }


def unknown_object(one: Unknown) -> Json:
    """An attempt that may have been bought; null money is not known."""
    return {
        "key": one.key,
        "path": one.path or one.stem,
        "token": one.token,
        "number": one.number,
        "lane": one.lane,
        "state": one.state.value,
        "since": instant(one.since),
        "reason": cause(one.reason, one.error),
        "error": one.error,
        "held_usd": None if one.held_nanos is None else dollars(one.held_nanos),
        "image_tokens": one.image_tokens,
    }


def held_in_words(unknowns: Sequence[Unknown]) -> str:
    """`$0.14 and 2240 image tokens`."""
    nanos = plus_all(one.held_nanos for one in unknowns)
    tokens = plus_all(one.image_tokens for one in unknowns)
    money = "unknown money" if nanos is None else f"${dollars(nanos)}"
    return f"{money} and {'?' if tokens is None else tokens} image tokens"


def plus_all(values: Iterable[int | None]) -> int | None:
    """A sum that is unknown once a part of it is."""
    total: int | None = 0
    for value in values:
        total = None if value is None or total is None else total + value
    return total


def drafts_object(status: JobStatus, drafts: Drafts) -> Json:
    """What the drafts of a job cost, and both together."""
    known = not status.unpriced and not drafts.unpriced
    return {
        "job": drafts.job,
        "spend": spend_object(drafts.spend, priced=not drafts.unpriced, counted=not drafts.uncounted),
        "together_usd": _usd(status.spend.settled + drafts.spend.settled, known=known),
    }


def spend_object(spend: Spend, *, priced: bool, counted: bool) -> Json:
    """Money and image tokens, spent and held; null where a price or a count is not known."""
    return {
        "usd": _usd(spend.settled, known=priced),
        "reserved_usd": _usd(spend.reserved, known=priced),
        "unknown_usd": _usd(spend.unknown, known=priced),
        "image_tokens": spend.settled_image_tokens if counted else None,
        "reserved_image_tokens": spend.reserved_image_tokens if counted else None,
        "unknown_image_tokens": spend.unknown_image_tokens if counted else None,
    }


def account_object(account: AccountStatus) -> Json:
    """One cap over many jobs."""
    spend = spend_object(account.spend, priced=not account.unpriced, counted=not account.uncounted)
    return {"name": account.name, "cap": cap_object(account.cap), "spend": spend, "jobs": list(account.jobs)}


def holding_object(pulse: Pulse) -> Json:
    """What holds a live run back, and when it will be done with and without it; null: never, or not known."""
    return {
        "binds": pulse.binds,
        "says": pulse.said,
        "since": instant(pulse.since),
        "eta": instant(pulse.finish_at),
        "eta_without": instant(pulse.finish_without_at),
        "requests_per_minute": pulse.rpm,
        "believes": pulse.belief or None,
        "at": instant(pulse.at),
    }


def instant(utc: float | None) -> str | None:
    """A moment as people and programs read it, to the second."""
    if utc is None:
        return None
    return datetime.fromtimestamp(utc, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def cap_object(cap: Cap) -> Json:
    """Both caps of a job; null is no cap of that kind."""
    return {"usd": None if cap.nanos is None else dollars(cap.nanos), "image_tokens": cap.image_tokens}


def jobs_object(jobs: list[Json], *, single: bool) -> Json:
    """One job as itself, several in a list with the exit code that wins."""
    if single:
        return jobs[0]
    return {"jobs": jobs, "exit_code": gravest([job["exit_code"] for job in jobs])}


def export_row(task: TaskRecord) -> Json:
    """One task as `export` writes it."""
    row = {name: getattr(task, name, None) for name in EXPORT_COLUMNS}
    row["axes"] = dict(task.axes)
    row["state"] = task.state.value
    row["cost_usd"] = None if task.cost_nanos is None else dollars(task.cost_nanos)
    row["unknown_usd"] = None if task.unknown_nanos is None else dollars(task.unknown_nanos)
    return row


def _usd(nanos: int, *, known: bool) -> str | None:
    return dollars(nanos) if known else None
