"""A batch job: what it was given, when what becomes of it, and how it looks at any time (gemini-api.md §8).

All of it is settled when the job is created, by seed and request, and only a cancel changes it: so a sandbox that
was killed makes the same of it. Nothing here reads a clock, a file or a request.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner.sandbox.chance import Chance
from runner.sandbox.faults import BATCH_FAULTS
from runner.sandbox.options import Options

LIFETIME_S = 48 * 3600
"""After which a job that is not done expires and yields nothing (§8.1)."""
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
INTERNAL, INVALID, CANCELLED, DEADLINE = 13, 3, 1, 4
"""gRPC codes."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a create asks for, once its input has been read."""

    identity: str
    """Of the whole create: what the draws of its job depend on."""
    model: str
    display_name: str
    file: str | None
    """`files/ID` of its input; None where that came inline."""
    total: int
    """Lines of the input."""
    tokens: int
    """Input tokens of all of them."""
    problem: str | None
    """Why the job will fail as a whole."""


@dataclass(frozen=True, slots=True)
class Job:
    """One batch job. Times are seconds of the sandbox's clock."""

    id: str
    number: int
    """Counts the jobs, in the order in which they were created."""
    model: str
    display_name: str
    file: str | None
    total: int
    tokens: int
    created: float
    starts: float
    """When it stops being PENDING."""
    running_s: float
    """How long all lines take from there; one after the other is done, evenly."""
    ends: float
    end: str
    """`SUCCEEDED`, `FAILED`, `CANCELLED` or `EXPIRED`."""
    faults: tuple[str, ...]
    """Of BATCH_FAULTS, at most one of each group."""
    listed_from: float
    """When the list begins to show it."""
    order: tuple[int, ...] | None = None
    """Lines of the output by number, where they are not all there once and in their order."""
    code: int = 0
    message: str = ""
    """The error in which it ends."""
    cancelled: bool = False
    """Whether a cancel was accepted; it may still succeed before that takes effect."""
    deleted: bool = False
    """Gone from the service's eyes; it goes on all the same (§8.11)."""
    finished: bool = False
    succeeded: int = 0
    failed: int = 0
    """Lines that were done when it finished, by what became of them."""

    @property
    def name(self) -> str:
        """As requests call it."""
        return f"batches/{self.id}"

    @property
    def output(self) -> str:
        """The name of its file of results."""
        return f"files/batch-{self.id}"

    def due(self, now: float) -> int:
        """How many lines are done by now."""
        at = min(now, self.ends)
        if self.end == "FAILED" or at < self.starts or (self.end != "SUCCEEDED" and at == self.starts):
            return 0
        if (self.end == "SUCCEEDED" and at == self.ends) or self.running_s <= 0:
            return self.total
        return min(self.total, int((at - self.starts) / self.running_s * self.total))

    def next_event(self, done: int) -> float:
        """When the next line is done, or the job."""
        if self.end == "FAILED" or done >= self.total:
            return self.ends
        return min(self.ends, self.starts + (done + 1) * self.running_s / self.total)

    def state(self, now: float) -> str:
        """What the service calls it, without any prefix."""
        if self.finished:
            partly = self.end == "SUCCEEDED" and "batch_partly" in self.faults
            return "PARTIALLY_SUCCEEDED" if partly else self.end
        if now < self.starts:
            return "PENDING"
        return "UNDER_REVIEW" if "batch_unknown_state" in self.faults else "RUNNING"

    def dropped(self, line: int) -> bool:
        """Whether a line is missing from the output."""
        return self.order is not None and line not in self.order

    def cancel(self, at: float) -> "Job":
        """The job when a cancel was accepted that takes effect then; too late, it changes nothing."""
        if at >= self.ends:
            return replace(self, cancelled=True)
        return replace(
            self, cancelled=True, starts=min(self.starts, at), ends=at, end="CANCELLED", code=CANCELLED,
            message="The operation was cancelled.",
        )  # fmt: skip

    def lines(self) -> tuple[int, ...] | None:
        """The order of the output once the job has finished: what was never done is not in it."""
        done = self.succeeded + self.failed
        return None if self.order is None else tuple(line for line in self.order if line < done)


def create(options: Options, given: Given, turn: int, number: int, now: float) -> Job:
    """A new job of the `turn`th create of its kind, with all that will become of it."""

    def chance(group: str) -> Chance:
        return Chance(options.seed, f"{given.identity}/{group}", turn)

    drawn = {group: options.faults.draw(chance(group), BATCH_FAULTS[group]) for group in _OF_JOBS}
    times = _times(options, given, chance("times"), drawn["run"], now)
    hidden_s = 60 + 540 * chance("hidden").unit("s") if drawn["seen"] else 0
    letters = chance(f"id {number}").digest("id", 36)
    return Job(
        id="".join(LETTERS[byte % len(LETTERS)] for byte in letters),
        number=number,
        model=given.model,
        display_name=given.display_name,
        file=given.file,
        total=given.total,
        tokens=given.tokens,
        created=now,
        faults=tuple(fault for fault in drawn.values() if fault),
        listed_from=now + hidden_s,
        order=_order(given.total, drawn["lines"], chance("order")),
        **times,
    )


_OF_JOBS = ("run", "lines", "form", "seen", "inline")
"""Groups of BATCH_FAULTS that are drawn once for each job."""


def _times(options: Options, given: Given, chance: Chance, fault: str | None, now: float) -> dict[str, Any]:
    limit = now + LIFETIME_S
    starts = min(now + options.batch_pending_s * (0.5 + chance.unit("pending")), limit)
    running_s = (options.batch_running_s + given.total * options.batch_line_s) * (0.5 + chance.unit("running"))
    never_s = LIFETIME_S * (given.total + 1.0)
    if given.problem is not None:
        return _ended(starts, never_s, starts, "FAILED", INVALID, given.problem)
    if fault == "batch_failed":
        return _ended(
            starts, never_s, min(starts + running_s / 2, limit), "FAILED", INTERNAL, "Internal error encountered."
        )
    if fault == "batch_stuck":
        starts = limit
    if fault == "batch_expired":
        running_s = LIFETIME_S * (1.2 + 4 * chance.unit("slow"))
    if starts + running_s <= limit and fault != "batch_stuck":
        return _ended(starts, running_s, starts + running_s, "SUCCEEDED")
    return _ended(starts, running_s, limit, "EXPIRED", DEADLINE, "The batch expired before it was done.")


def _ended(
    starts: float, running_s: float, ends: float, end: str, code: int = 0, message: str = ""
) -> dict[str, Any]:
    return {
        "starts": starts, "running_s": running_s, "ends": ends, "end": end, "code": code, "message": message
    }  # fmt: skip


def _order(total: int, fault: str | None, chance: Chance) -> tuple[int, ...] | None:
    """The lines of an output that drops, repeats or shuffles some; about a tenth, but one at least."""
    if fault is None or not total:
        return None
    ranked = sorted(range(total), key=lambda line: chance.unit(f"line {line}"))
    if fault == "batch_lines_shuffled":
        return tuple(ranked if ranked != list(range(total)) else reversed(ranked))
    chosen = set(ranked[: math.ceil(total / 10)])
    if fault == "batch_lines_dropped":
        return tuple(line for line in range(total) if line not in chosen)
    return (*range(total), *sorted(chosen))


def from_record(record: Mapping[str, Any]) -> Job:
    """A job as it was written down as JSON."""
    order = record["order"]
    lists = {"faults": tuple(record["faults"]), "order": None if order is None else tuple(order)}
    return Job(**{**record, **lists})
