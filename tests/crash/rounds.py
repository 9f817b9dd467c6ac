"""Rounds of killing: a job is run, killed and run again until it has died often enough, then it may finish.

After every round the audit must find nothing; what a round was is drawn from a seed.
"""

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.audit import Totals
from tests.crash.bill import worst_nanos
from tests.crash.rig import Death, Ended, Rig, rig

POINTS = ("before_send", "after_send", "after_write", "before_rename", "before_settle")
BUSY = 16
"""Attempts in flight at a kill, or it does not count."""
CONCURRENCY = 24
WINDOW_S = 0.5
"""A random kill comes at most so long after the runner is busy."""
EARLY_S = 0.6
"""A kill of a runner that still mends and records comes at most so long after its start."""
PATIENCE = 5
"""Rounds to get one kill that counts: others hit a moment of few in flight, or the cap."""
OVERRUN_NANOS = (2_500 * 5 // 4 - 1_500) * 1_500
"""The sandbox's largest overrun raises the text that is set aside to five quarters of it."""
TASKS_A_KILL = 14
"""Enough that the job never ends before its last kill."""
FAULTS = (
    "mild,several_images=0,minute_quota=0.0005,bare_429=0.0005,http_503=0.0005,http_503_demand=0.0005,"
    "reset_mid=0.01,reset_before=0.01,http_504=0.01,corrupt_image=0.01,wrong_pixels=0.01,no_usage_refusal=0.01"
)
"""What closes the gate for seconds is rare, so that kills find many in flight. `several_images` costs a multiple
of what any request may reserve, so no cap can hold against it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is killed; everything else follows."""

    kills: int
    """At random times, with `BUSY` in flight."""
    at_points: int
    """At each of `POINTS`, with as many."""
    early: int
    """While the runner is mending what the kill before has left."""
    seed: int = 1
    latency_s: float = 0.3

    def rounds(self) -> list[str]:
        """What happens, in order."""
        kinds = ["random"] * self.kills + ["early"] * self.early
        kinds += [point for point in POINTS for _ in range(self.at_points)]
        random.Random(self.seed).shuffle(kinds)
        return kinds

    @property
    def prompts(self) -> list[str]:
        """As many as needed; in two aspects each."""
        kills = self.kills + self.at_points * len(POINTS)
        return [f"Banana number {number:06} on a plate" for number in range(kills * TASKS_A_KILL // 2)]


@dataclass
class Report:
    """What was measured."""

    kills: Counter[str] = field(default_factory=Counter)
    in_flight: list[int] = field(default_factory=list)
    """At each kill that counts."""
    resumes_s: list[float] = field(default_factory=list)
    halts: int = 0
    """Times the cap stopped the run, and was raised."""
    excess_nanos: int = 0
    """The most by which the bill ever passed the cap."""
    adopted: int = 0
    exposed: int = 0
    """Attempts in flight at a kill whose picture was not on disk: what may be bought again."""
    totals: Totals = field(default_factory=Totals)
    elapsed_s: float = 0.0

    def line(self) -> str:
        """All of it, for people."""
        totals = self.totals
        rest = totals.billed - totals.settled
        return (
            f"{self.kills.total()} kills with {sum(self.in_flight)} requests in flight: {self.adopted} pictures "
            f"adopted, {totals.duplicates} of {self.exposed} exposed ones bought twice; cap passed by "
            f"${self.excess_nanos / 1e9:.2f}; resumed in {statistics.median(self.resumes_s):.1f} s "
            f"(at most {max(self.resumes_s):.1f}); of {totals.purchases} purchases ${totals.settled / 1e9:.4f} "
            f"reconciled to the nano-dollar, ${totals.unknown / 1e9:.4f} held for ${rest / 1e9:.4f} never answered"
        )


class Siege:
    """One job under a plan."""

    def __init__(self, job: Rig, plan: Plan) -> None:
        self.job, self.report = job, Report()
        self._chance = random.Random(plan.seed)
        self._worst = worst_nanos((plan.prompts[0], "512", "1:1"))
        self._step = self._worst * len(plan.prompts) * 3 // 2
        self.cap_nanos = self._step

    def strike(self, kind: str) -> bool:
        """One round; whether its kill found enough in flight to count."""
        ended = self.job.run(budget_nanos=self.cap_nanos, busy=BUSY, **self._manner(kind))
        fresh = self.job.audit.killed()
        self._sound(kind, ended)
        if ended.code == 3:
            return self._raise_cap()
        assert ended.code == -9, f"{kind}: the job ended with {ended.code} before its last kill\n{self.job.said()}"
        enough = fresh >= BUSY or kind == "early"
        self.report.kills[kind if enough else "too few in flight"] += 1
        self.report.in_flight.append(fresh)
        return enough

    def finish(self) -> Ended:
        """Let it run to its own end, raising the cap where that is in the way."""
        while True:
            ended = self.job.run(budget_nanos=self.cap_nanos)
            self._sound("the end", ended)
            assert ended.code in {0, 1, 3}, self.job.said()
            if ended.code != 3:
                return ended
            self._raise_cap()

    def _manner(self, kind: str) -> dict[str, Any]:
        if kind == "early":
            return {"death": Death("started", self._chance.uniform(0, EARLY_S))}
        if kind == "random":
            return {"death": Death("busy", self._chance.uniform(0, WINDOW_S))}
        return {"point": kind, "after": self._chance.randrange(CONCURRENCY)}

    def _sound(self, kind: str, ended: Ended) -> None:
        found = self.job.audit.violations(self.cap_nanos)
        assert not found, f"after {kind}:\n" + "\n".join(map(str, found[:20])) + f"\n{self.job.said()}"
        totals = self.job.audit.totals()
        self.report.excess_nanos = max(self.report.excess_nanos, totals.billed - totals.above - self.cap_nanos)
        if ended.resume_s is not None:
            self.report.resumes_s.append(ended.resume_s)

    def _raise_cap(self) -> bool:
        """A cap that stops a run may leave no more than one worst case unspent."""
        left = self.cap_nanos - self.job.audit.held()
        assert left < self._worst + OVERRUN_NANOS, f"stopped by the budget with {left} nano-dollars left"
        self.cap_nanos += self._step
        self.report.halts += 1
        return False


def besiege(folder: Path, plan: Plan, tell: Callable[[str], None] = lambda _: None) -> tuple[Report, Ended]:
    """Run the plan. AssertionError, naming the round, where an invariant does not hold after it."""
    began = time.monotonic()
    sandbox: dict[str, Any] = {"seed": plan.seed, "latency_s": plan.latency_s, "faults": FAULTS}
    with rig(folder, plan.prompts, aspects=("1:1", "16:9"), concurrency=CONCURRENCY, **sandbox) as job:
        siege = Siege(job, plan)
        for kind in plan.rounds():
            tries = next((n for n in range(PATIENCE) if siege.strike(kind)), None)
            assert tries is not None, f"no {kind} kill found {BUSY} in flight in {PATIENCE} rounds"
            tell(f"{siege.report.kills.total():4} {kind:14} {siege.report.in_flight[-1]:3} in flight")
        ended = siege.finish()
    audit, report = job.audit, siege.report
    report.totals, report.exposed, report.adopted = audit.totals(), len(audit.exposed), len(audit.kept)
    report.elapsed_s = time.monotonic() - began
    found = audit.violations(siege.cap_nanos) + audit.unfinished()  # the sandbox has ended: the bill is complete
    assert not found, "\n".join(map(str, found))
    return report, ended
