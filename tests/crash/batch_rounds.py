"""Rounds of killing the batch lane: at every step of a batch's way, at random, while mending, with the service.

After every round the audit must find nothing; what a round was is drawn from a seed.
"""

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.audit import Totals
from tests.crash.batch_audit import inputs_of
from tests.crash.batch_points import STAGES
from tests.crash.batch_rig import SPEED, TWO_DAYS_S, BatchRig, Campaign, batch_rig
from tests.crash.rig import Death, Ended

WINDOW_S = 5.0
"""A random kill comes at most so long after the runner has begun: a batch is uploaded, runs and is harvested."""
EARLY_S = 0.5
"""A kill of a runner that still mends and records comes at most so long after its start."""
POINT_WITHIN_S = 15.0
"""Where a point is not reached by then, the runner is killed all the same; that counts as random."""
SLEEPS_EVERY_S = 30.0
"""In the last run, so that what is stuck comes to its end."""
OTHERS = ("random", "early", "service", "cancel")
"""Kills that are at no point."""
CANCELLED = 4
"""Jobs at a time: most are over before it takes effect."""
PATIENCE = 6
"""Rounds to get one kill at a step."""
WORST_NANOS = (747 * 30_000) + (5_000 * 5 // 4) * 750 + (1_120 + 40) * 125
"""Of one task: its picture, five quarters of the largest overrun that the sandbox draws, prompt and reference."""
ROOM = 30
"""New tasks that a round may take: the cap is raised by so much before it, and binds after them."""
FAULTS = (
    "image_safety=0.01,no_image=0.01,words_only=0.01,image_other=0.01,no_usage_refusal=0.01,max_tokens=0.01,"
    "wrong_pixels=0.01,corrupt_image=0.01,usage_missing=0.01,unknown_finish=0.01,"
    "batch_code_13=0.02,batch_code_8=0.02,batch_code_14=0.02,batch_code_4=0.01,batch_code_3=0.01,"
    "batch_create_lost=0.15,batch_create_429=0.05,batch_create_503=0.05,"
    "batch_stuck=0.02,batch_failed=0.04,batch_expired=0.05,batch_unknown_state=0.1,batch_partly=0.1,"
    "batch_lines_dropped=0.08,batch_lines_shuffled=0.2,batch_lines_repeated=0.15,"
    "batch_key_in_metadata=0.25,batch_status_lines=0.25,"
    "batch_list_omits=0.4,batch_list_repeats=0.15,batch_list_503=0.15,batch_get_503=0.05,"
    "batch_download_cut=0.2,batch_download_503=0.1,batch_cancel_slow=0.3,"
    "upload_start_lost=0.03,upload_503=0.03,upload_jsonl=0.05,upload_broken=0.05,upload_no_status=0.03,"
    "file_processing=0.05,file_gone=0.01"
)
"""All of the Batch API but `batch_inline_too_large`, as nobody asks inline. A job that is stuck or expires does so
when the sandbox has slept for two days. Left out of the others: `several_images`, against which no cap can hold;
`upload_mime`, `file_failed`, `storage_full`, which end a run."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How much is killed, and of what."""

    campaign: Campaign = field(default_factory=lambda: Campaign(prompts=500, referring=20))
    at_stages: int = 8
    """At points of each of `STAGES`."""
    kills: int = 12
    """At random times."""
    early: int = 3
    """While the runner is mending what the kill before has left."""
    services: int = 4
    """Of runner and sandbox; every other time the sandbox sleeps for two days."""
    cancels: int = 3
    """While jobs end that somebody else has cancelled."""
    seed: int = 1
    faults: str = FAULTS
    room: int = ROOM
    speed: float = SPEED

    def rounds(self) -> list[str]:
        """What happens, in order: one of `OTHERS`, or a point."""
        counts = zip(OTHERS, (self.kills, self.early, self.services, self.cancels), strict=True)
        kinds = [kind for kind, count in counts for _ in range(count)]
        kinds += [points[n % len(points)] for points in STAGES.values() for n in range(self.at_stages)]
        random.Random(self.seed).shuffle(kinds)
        return kinds


@dataclass
class BatchReport:
    """What was measured."""

    kills: Counter[str] = field(default_factory=Counter)
    """By kind; points by their name."""
    out: Counter[str] = field(default_factory=Counter)
    """Batches that were open at kills, by state."""
    lines_out: int = 0
    """Lines of them that were not settled."""
    resumes_s: list[float] = field(default_factory=list)
    halts: int = 0
    """Times the cap stopped the run, and was raised."""
    service_deaths: int = 0
    finish_s: float = 0.0
    """How long the last run took."""
    ended: Counter[str] = field(default_factory=Counter)
    """Batches by how they ended."""
    inputs: int = 0
    """Files of requests that reached the service whole; it deletes them after two days."""
    tasks: Mapping[str, int] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    elapsed_s: float = 0.0

    def stage(self, name: str) -> int:
        """Kills inside of one of `STAGES`."""
        return sum(self.kills[point] for point in STAGES[name])

    def line(self) -> str:
        """All of it, for people."""
        totals, stages = self.totals, ", ".join(f"{self.stage(name)} in {name}" for name in STAGES)
        return (
            f"{self.kills.total()} kills ({stages}), {self.service_deaths} of the sandbox, with {self.lines_out} "
            f"lines out; {self.ended.total()} batches, one job a token; resumed in "
            f"{statistics.median(self.resumes_s):.1f} s (at most {max(self.resumes_s):.1f}); stopped "
            f"{self.halts} times by the cap, which held; of {totals.purchases} lines billed "
            f"${totals.settled / 1e9:.4f} reconciled to the nano-dollar, ${totals.unknown / 1e9:.4f} held for "
            f"${(totals.billed - totals.settled) / 1e9:.4f} that never arrived or had no price; "
            f"{totals.duplicates} pictures bought again for those"
        )


class BatchSiege:
    """One campaign under a plan."""

    def __init__(self, job: BatchRig, plan: BatchPlan, tell: Callable[[str], None]) -> None:
        self.job, self.plan, self.report, self._tell = job, plan, BatchReport(), tell
        self._chance = random.Random(plan.seed)
        self.cap_nanos = 0

    def strike(self, kind: str) -> bool:
        """One round; whether its kill was of the kind that was wanted."""
        self._make_room()
        if kind == "cancel":
            for name in self.job.audit.waiting()[:CANCELLED]:
                self.job.cancel(name)
        with self._service(kind):
            ended = self.job.run(budget_nanos=self.cap_nanos, busy=0, **self._manner(kind))
        self._sound(kind, ended)
        if ended.code == 3:
            self.report.halts += 1
            self.cap_nanos += self.plan.room * WORST_NANOS
            return False
        assert ended.code == -9, f"{kind}: the job ended with {ended.code} before its last kill\n{self.job.said()}"
        hit = ended.died_at or (kind if kind in OTHERS else "random")
        self._count(hit)
        return hit == kind

    def finish(self) -> Ended:
        """Let it run to its own end. What is stuck at the service waits until that has slept for two days."""
        self.cap_nanos += self.plan.campaign.tasks * WORST_NANOS
        began = time.monotonic()
        with self.job.service_sleeps(SLEEPS_EVERY_S):
            ended = self.job.run(budget_nanos=self.cap_nanos, busy=0)
        self.report.finish_s = time.monotonic() - began
        self._sound("the end", ended)
        assert ended.code in {0, 1}, self.job.said()
        return ended

    def _make_room(self) -> None:
        """Now and then there is none: what is out comes back, and the run halts."""
        if not self.cap_nanos or self._chance.random() < 0.9:
            held = self.job.audit.held()
            self.cap_nanos = max(self.cap_nanos, held + self.plan.room * WORST_NANOS)

    def _manner(self, kind: str) -> dict[str, Any]:
        if kind == "early":
            return {"death": Death("started", self._chance.uniform(0, EARLY_S))}
        if kind in OTHERS:
            return {"death": Death("started", self._chance.uniform(0, WINDOW_S))}
        most = 12 if kind.startswith(("download_line", "settle")) else 2
        after = 0 if kind == "upload_begun" else self._chance.randrange(most)
        return {"point": kind, "after": after, "death": Death("claimed", POINT_WITHIN_S)}

    def _service(self, kind: str) -> AbstractContextManager[None]:
        if kind != "service":
            return nullcontext()
        asleep_s = TWO_DAYS_S if self.report.kills["service"] % 2 else 0.0
        return self.job.service_dies(self._chance.uniform(1.0, WINDOW_S), asleep_s)

    def _count(self, kind: str) -> None:
        audit, report = self.job.audit, self.report
        report.kills[kind] += 1
        fresh = audit.killed()
        report.lines_out += fresh
        open_ = {state: audit.batches()[state] for state in ("intent", "creating", "created")}
        report.out.update(open_)
        said = ", ".join(f"{count} {state}" for state, count in open_.items() if count)
        self._tell(f"{report.kills.total():4} {kind:16} {said or 'no batch open'}")

    def _sound(self, kind: str, ended: Ended) -> None:
        found = self.job.audit.violations(self.cap_nanos)
        assert not found, f"after {kind}:\n" + "\n".join(map(str, found[:20])) + f"\n{self.job.said()}"
        if ended.resume_s is not None:
            self.report.resumes_s.append(ended.resume_s)


def besiege_batches(
    folder: Path, plan: BatchPlan, tell: Callable[[str], None] = lambda _: None
) -> tuple[BatchReport, Ended]:
    """Run the plan. AssertionError, naming the round, where an invariant does not hold after it."""
    began = time.monotonic()
    sandbox: dict[str, Any] = {"seed": plan.seed, "faults": plan.faults, "batch_running_s": plan.speed}
    with batch_rig(folder, plan.campaign, speed=plan.speed, **sandbox) as job:
        siege = BatchSiege(job, plan, tell)
        for kind in plan.rounds():
            assert any(siege.strike(kind) for _ in range(PATIENCE)), f"no kill at {kind} in {PATIENCE} rounds"
        ended = siege.finish()
    audit, report = job.audit, siege.report
    found = audit.violations(siege.cap_nanos) + audit.unfinished()  # the sandbox has ended: the bill is complete
    assert not found, "\n".join(map(str, found[:20]))
    report.totals, report.ended, report.tasks = audit.totals(), audit.batches(), ended.result["tasks"]
    report.inputs = len(inputs_of(job.state))
    report.service_deaths, report.elapsed_s = job.service.deaths, time.monotonic() - began
    return report, ended
