"""What must be true of bill, ledger and folder whenever the runner is dead: the invariants, checked from outside.

The ledger is read with plain SQL and the folder file by file: a fault of the runner's own readers cannot hide
one of its writers.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.bill import Billed, Task, read_bill
from tests.crash.shelf import Shelf

UNREPORTED = frozenset({"usage_missing"})
"""Answers with a picture and no usage are settled at an estimate by design: not at the bill's price."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request as the ledger has it."""

    task: Task
    token: str
    state: str
    outcome: str | None
    reserved_nanos: int
    cost_nanos: int | None
    response_id: str | None
    path: str | None
    sha256: str | None
    adopted: int


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold: which, and where it shows."""

    rule: str
    where: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}"


@dataclass(frozen=True, slots=True)
class Totals:
    """Money so far, in nano-dollars."""

    billed: int = 0
    above: int = 0
    """Of the bill, what lies above the worst case of its task: overruns that the sandbox drew."""
    settled: int = 0
    unknown: int = 0
    purchases: int = 0
    duplicates: int = 0
    """Good pictures of a task beyond its first."""


class Audit:
    """One job. `killed` after every kill, `violations` as often as one likes while no runner is alive."""

    def __init__(self, state: Path, ledger: Path, output: Path) -> None:
        self.state, self.ledger, self.shelf = state, ledger, Shelf(output)
        self.exposed: dict[str, Task] = {}
        """Attempts that were in flight at a kill and had not reached the disk: these may be bought again."""
        self.kept: set[str] = set()
        """Attempts that were in flight at a kill with their picture whole on disk: these may not."""

    def killed(self) -> int:
        """Note what the dead runner had in flight; how many attempts, those of earlier kills left out."""
        self.shelf.look()
        whole = self.shelf.whole()
        before = self.exposed.keys() | self.kept
        fresh = [one for one in self.attempts() if one.state == "running" and one.token not in before]
        self.kept |= {one.token for one in fresh if one.token in whole}
        self.exposed |= {one.token: one.task for one in fresh if one.token not in whole}
        return len(fresh)

    def violations(self, cap_nanos: int | None = None) -> list[Violation]:
        """Every invariant that does not hold now."""
        self.shelf.look()
        bill, attempts = read_bill(self.state), self.attempts()
        return [
            *self._bought_once(bill),
            *self._accounted(bill, attempts),
            *_within(bill, cap_nanos),
            *self._adopted(attempts),
            *self._whole(attempts),
            *self._counted(),
        ]

    def unfinished(self) -> list[Violation]:
        """What must not be left when a run has come to its own end."""
        loose = [
            Violation("named end", f"{key} is {state} {reason!r}")
            for key, state, reason in self._ask("SELECT key, state, reason FROM task WHERE live")
            if state not in {"succeeded", "refused", "failed"} or (state != "succeeded") != bool(reason)
        ]
        running = [Violation("named end", one.token) for one in self.attempts() if one.state == "running"]
        return loose + running + [Violation("temporary file", name) for name in self.shelf.temporary()]

    def totals(self) -> Totals:
        """The money so far."""
        bill, attempts = read_bill(self.state), self.attempts()
        return Totals(
            billed=sum(line.nanos for line in bill),
            above=sum(line.above_nanos for line in bill),
            settled=sum(one.cost_nanos or 0 for one in attempts),
            unknown=sum(one.reserved_nanos for one in attempts if one.state == "unknown"),
            purchases=len(bill),
            duplicates=sum(count - 1 for count in _good(bill).values()),
        )

    def held(self) -> int:
        """What the ledger counts against the cap: settled, reserved and unknown."""
        return sum(
            one.reserved_nanos if one.cost_nanos is None else one.cost_nanos
            for one in self.attempts()
            if one.state != "released"
        )

    def attempts(self) -> list[Attempt]:
        """Every attempt in the order they were claimed; none before there is a ledger."""
        return [Attempt((prompt, size, aspect), *rest) for prompt, size, aspect, *rest in self._ask(_ATTEMPTS)]

    def _bought_once(self, bill: list[Billed]) -> Iterator[Violation]:
        """Purchases of a task beyond its first need a kill that caught it in flight, picture not yet on disk."""
        exposures = Counter(self.exposed.values())
        for task, count in _good(bill).items():
            if count - 1 > exposures[task]:
                yield Violation("bought once", f"{task} {count} times, in flight at {exposures[task]} kills")

    def _accounted(self, bill: list[Billed], attempts: list[Attempt]) -> Iterator[Violation]:
        """Every line has an attempt of its own: settled at its price with its picture, or holding that price."""
        settled = {one.response_id: one for one in attempts if one.state == "settled"}
        held: defaultdict[Task, list[int]] = defaultdict(list)
        for one in attempts:
            if one.state in {"unknown", "running"}:
                held[one.task].append(one.reserved_nanos)
        for line in sorted(bill, key=lambda line: -line.nanos):
            if line.response_id in settled:
                yield from self._settled(line, settled.pop(line.response_id))
            elif not held[line.task]:
                yield Violation("accounted", f"{line.task} {line.outcome}: billed, and no attempt holds it")
            elif line.nanos > (hold := _take(held[line.task])) and not line.above_nanos:
                yield Violation("accounted", f"{line.task} {line.outcome}: {line.nanos} billed, {hold} held")
        for one in settled.values():
            yield Violation("accounted", f"{one.task} settled {one.response_id}, which is not on the bill")

    def _settled(self, line: Billed, one: Attempt) -> Iterator[Violation]:
        if one.task != line.task:
            yield Violation("accounted", f"{line.task} was settled as {one.task}")
        if one.cost_nanos != line.nanos and line.outcome not in UNREPORTED:
            yield Violation("to the nano-dollar", f"{line.task} {line.outcome}: {one.cost_nanos} != {line.nanos}")
        if line.images and self.shelf.hashes.get(one.path or "") != line.sha256:
            yield Violation("paid is kept", f"{line.task} {line.outcome}: not at {one.path}")

    def _adopted(self, attempts: list[Attempt]) -> Iterator[Violation]:
        for one in attempts:
            if one.token in self.kept and one.state not in {"settled", "running"}:
                yield Violation("adopted", f"{one.task} was whole on disk at a kill, and is {one.state}")

    def _whole(self, attempts: list[Attempt]) -> Iterator[Violation]:
        for name in self.shelf.torn():
            yield Violation("whole", f"{name} looks finished and is not")
        referred = [(one.path, one.sha256) for one in attempts if one.path]
        for path, sha256 in [*referred, *self._ask("SELECT path, sha256 FROM task WHERE path IS NOT NULL")]:
            if self.shelf.hashes.get(path) != sha256:
                yield Violation("whole", f"the ledger refers to {path}, which is gone or another")

    def _counted(self) -> Iterator[Violation]:
        """The counters of the job are those of its rows."""
        for name, kept, counted in self._ask(_COUNTERS):
            if kept != counted:
                yield Violation("counters", f"{name} is {kept}, its rows say {counted}")

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        if not self.ledger.exists():
            return []
        with closing(sqlite3.connect(f"file:{self.ledger}?mode=rw", uri=True)) as connection:
            connection.execute("PRAGMA query_only = ON")
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'attempt'").fetchone():
                return []
            return connection.execute(sql).fetchall()


def _take(holds: list[int]) -> int:
    holds.sort()
    return holds.pop()


def _good(bill: list[Billed]) -> Counter[Task]:
    return Counter(line.task for line in bill if line.good)


def _within(bill: list[Billed], cap_nanos: int | None) -> Iterator[Violation]:
    """In the bill's own order: only what an answer cost above its reservation may pass the cap."""
    spent = 0
    for number, line in enumerate(bill, 1):
        spent += line.nanos - line.above_nanos
        if cap_nanos is not None and spent > cap_nanos:
            yield Violation("cap", f"line {number} of the bill: {spent} of {cap_nanos}")
            return


_ATTEMPTS = """
SELECT prompt.text, task.size, task.aspect, attempt.token, attempt.state, attempt.outcome, attempt.reserved_nanos,
       attempt.cost_nanos, attempt.response_id, attempt.path, attempt.sha256, attempt.adopted
FROM attempt JOIN task ON task.id = attempt.task_id JOIN prompt ON prompt.id = task.prompt_row
ORDER BY attempt.id
"""

_TASK_COUNT = "SELECT '{0}', {0}, (SELECT count(*) FROM task WHERE live AND state = '{0}') FROM job"
_ATTEMPT_SUM = """
SELECT '{0}', {0}, (SELECT coalesce(sum({1}), 0) FROM attempt WHERE state = '{2}') FROM job
"""
_COUNTERS = " UNION ALL ".join(
    [_TASK_COUNT.format(state) for state in ("queued", "running", "submitted", "succeeded", "refused", "failed")]
    + [
        _ATTEMPT_SUM.format(*column)
        for column in (
            ("settled_nanos", "cost_nanos", "settled"),
            ("reserved_nanos", "reserved_nanos", "running"),
            ("unknown_nanos", "reserved_nanos", "unknown"),
            ("settled_image_tokens", "image_tokens", "settled"),
            ("reserved_image_tokens", "reserved_image_tokens", "running"),
            ("unknown_image_tokens", "reserved_image_tokens", "unknown"),
        )
    ]
)
"""Rows of (name, counter, recount); a ledger of these tests holds one job."""
