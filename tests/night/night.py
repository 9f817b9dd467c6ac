"""A night in scaled time: thousands of pictures under real windows, with faults, an outage and kills."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from runner.sandbox.faults import PRESETS
from tests.crash.audit import Audit, Totals
from tests.crash.rig import MODEL, clean_environment
from tests.night.clock import NightClock
from tests.night.judge import (
    MINUTE_S,
    SPEND_S,
    Allowed,
    Arrival,
    Span,
    best_finish,
    read_arrivals,
    windows,
)
from tests.sandbox import process
from tests.sandbox.process import ROOT, sandbox_process
from tests.windows import heaviest_window, worst_window

NANOS = 10**9
LIMITS = Allowed(rpm=60, spend_nanos=10 * NANOS)
"""Tier 1: ten dollars in any ten minutes (gemini-api.md §7.5)."""
MONTH_USD = 500
"""Said outright: tier 1 ends at $250 a month, which is less than 5,000 pictures cost."""
CAP_NANOS_A_TASK = 75_000_000
"""A tenth above the price of a picture: faults and kills buy some twice."""
LATENCY_S = 12.0
OUTAGE_S = 1_200.0
BUSY = 4
"""Requests in flight at a kill, at least."""
STEP_S = 1.0
FAULTS = f"night,several_images=0,cut={2 * PRESETS['night']['cut']}"
"""The preset's 3 %, with lost answers in the place of those with several pictures: what these cost cannot be
reserved beforehand, so a window judged by what was paid may pass its limit by them (docs/night.md)."""
STDERR = "stderr.txt"
_SENT = """
SELECT sent_at, CASE state WHEN 'released' THEN 0 ELSE coalesce(cost_nanos, reserved_nanos) END
FROM attempt WHERE sent_at IS NOT NULL
"""
_FIRST = """
import time, pathlib
from tests.night.clock import NightClock
time.time = NightClock(pathlib.Path({clock!r})).wall
from runner.sandbox.picture import Drawing, encode
encode(Drawing(1024, 1024, "warm", 0.5, ""), "jpeg")
"""
"""What the sandbox does before all else: it goes by the night's clock, and has loaded what draws a picture, which
takes a tenth of a second."""


PICTURE_NANOS = 1_120 * 60_000
"""Image tokens of 1K at their price."""
ANSWERED_S = 30.0
"""Nearly every request is answered within this."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how rough and how fast a night is."""

    tasks: int = 5_000
    kills: int = 5
    speed: float = 60.0
    outage_at_s: float = 7_200.0
    seed: int = 1
    faults: str = FAULTS
    slack: float = 1.05
    """It may take so many times what the limits allow."""
    resume_s: float = 1.0
    """Of the wall, from a job's lock to its first request, at most."""
    late: int = 0
    """So many requests may be refused by a quota for no dear answer, since they came late: a tenth of a second is
    six of the night."""
    bound_s: float = 900.0
    """Of wall time; a night that takes longer has failed."""


@dataclass(frozen=True, slots=True)
class Life:
    """One process of the runner, in seconds of the wall since its start."""

    code: int
    locked_s: float
    asks_s: float
    """Its first claim was made."""
    waits_s: float | None
    """Its first claim that was held back was answered; None if none was before the first send."""
    sends_s: float
    ended: float
    """Of the sandbox's clock."""
    in_flight: int = 0
    """At its kill."""
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def resume_s(self) -> float:
        """From the job's lock to the first request, or to the answer of the ledger that it must wait."""
        return (self.sends_s if self.waits_s is None else self.waits_s) - self.locked_s


class Sent(NamedTuple):
    """One request as the ledger has it: when it was sent, and what it cost, at worst where nobody knows."""

    at: float
    nanos: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a night was like."""

    plan: Plan
    elapsed_s: float
    lives: Sequence[Life]
    arrivals: Sequence[Arrival]
    sent: Sequence[Sent]
    """The same as the runner wrote them to the wire."""
    outage: Span
    totals: Totals
    succeeded: int
    faults: int
    """Requests that met one of the sandbox's faults."""
    cap_nanos: int
    violations: Sequence[str]

    @property
    def sends(self) -> list[Arrival]:
        """What the quotas count."""
        return [one for one in self.arrivals if one.admitted]

    @property
    def night_s(self) -> float:
        """From the first request to the last, of the sandbox's clock."""
        return self.sends[-1].at - self.sends[0].at

    @property
    def took_s(self) -> float:
        """The same without the outage."""
        return self.night_s - OUTAGE_S

    @property
    def allowed_s(self) -> float:
        """What it would have taken, had each request left as soon as the limits allowed it."""
        sends = self.sends
        finish = best_finish((one.nanos for one in sends), LIMITS, sends[0].at, [self.outage])
        return finish - sends[0].at - OUTAGE_S

    @property
    def wasted(self) -> int:
        """Billed, and no picture of a task came of it."""
        return self.totals.purchases - self.succeeded

    @property
    def in_flight(self) -> int:
        """At the kills, together."""
        return sum(one.in_flight for one in self.lives)

    @property
    def most_requests(self) -> int:
        """In any half-open minute, as the sandbox saw them come."""
        return worst_window([one.at for one in self.sends], MINUTE_S)

    @property
    def most_nanos(self) -> int:
        """In any half-open ten minutes."""
        return heaviest_window(self.sends, SPEND_S, at=lambda one: one.at, weight=lambda one: one.nanos)

    @property
    def held(self) -> list[int]:
        """Nano-dollars of full ten minutes that neither the outage touched nor the ten minutes after it."""
        return windows(self.sends, STEP_S, [(self.outage[0], self.outage[1] + SPEND_S)])

    @property
    def refused(self) -> list[Arrival]:
        """Requests that a quota refused."""
        return [one for one in self.arrivals if one.refused_by]

    @property
    def unforeseen(self) -> list[Arrival]:
        """Those of them that no answer with several pictures explains.

        The sandbox counts such an answer in full as its request arrives; the runner, which has reserved one
        picture, learns of it with the answer, or is refused for it before.
        """
        dear = [one.at for one in self.sends if one.nanos >= 2 * PICTURE_NANOS]
        return [one for one in self.refused if all(abs(one.at - at) > ANSWERED_S for at in dear)]


class Night:
    """One job and one sandbox in one folder, on one time line."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.state = folder / "sandbox"
        self.audit = Audit(self.state, folder / "bulkrender.db", folder / "renders")
        self._night = NightClock(folder / "clock")
        self.cap_nanos = plan.tasks * CAP_NANOS_A_TASK
        _write_manifest(folder / "job.yaml", plan.tasks, self.cap_nanos)

    def pass_by(self) -> Report:
        """The whole night. AssertionError where a child says or does what none should."""
        plan, began = self.plan, time.monotonic()
        first = _FIRST.format(clock=str(self.folder / "clock"))
        with patch.object(process, "_CHILD", first + process._CHILD), sandbox_process(
            self.state, port=0, speed=plan.speed, latency_s=LATENCY_S, faults=plan.faults, seed=plan.seed,
            quotas={"rpm": LIMITS.rpm, "spend": LIMITS.spend_nanos},
            outages=[f"{plan.outage_at_s:g}+{OUTAGE_S:g}"],
        ) as base_url:  # fmt: skip
            lives = [self._live(base_url, plan.tasks // (plan.kills + 1)) for _ in range(plan.kills)]
            lives.append(self._live(base_url, None))
        started = json.loads((self.state / "clock.json").read_bytes())["started"]
        arrivals = read_arrivals(self.state)
        return Report(
            plan=plan,
            elapsed_s=time.monotonic() - began,
            lives=lives,
            arrivals=arrivals,
            sent=[Sent(*row) for row in self.audit._ask(_SENT)],
            outage=(started + plan.outage_at_s, started + plan.outage_at_s + OUTAGE_S),
            totals=self.audit.totals(),
            succeeded=lives[-1].result.get("tasks", {}).get("succeeded", 0),
            faults=sum(one.status in PRESETS["night"] for one in arrivals),
            cap_nanos=self.cap_nanos,
            violations=[str(one) for one in [*self.audit.violations(self.cap_nanos), *self.audit.unfinished()]],
        )

    def _live(self, base_url: str, after: int | None) -> Life:
        """One process, until it dies after so many sends or comes to its own end."""
        script = {
            "clock": str(self.folder / "clock"),
            "origin": str(self.state / "clock.json"),
            "after": after,
            "busy": BUSY,
        }
        command = [
            *(sys.executable, "-m", "tests.night.child", json.dumps(script)),
            *("run", str(self.folder / "job.yaml"), "--yes", "--json", "--base-url", base_url),
            *("--database", f"sqlite:///{self.audit.ledger}", "--output", str(self.audit.shelf.root)),
        ]
        began = time.monotonic()
        told, last = dict[str, float](), ""
        with (self.folder / STDERR).open("ab") as log, subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            env=clean_environment(),
        ) as child:  # fmt: skip
            bound = threading.Timer(self.plan.bound_s, child.kill)
            bound.start()
            try:
                for line in child.stdout or ():
                    word, _, at = line.partition(" ")
                    if word in {"locked", "asks", "waits", "sends"}:
                        told[word] = float(at) - began
                    last = line
                code = child.wait()
                ended = self._clock()
            finally:
                bound.cancel()
                child.kill()
        assert code == -9 or after is None, f"ended with {code}\n{self.said()}"
        assert "sends" in told, f"sent nothing, ended with {code}\n{self.said()}"
        return Life(
            code=code,
            locked_s=told["locked"],
            asks_s=told["asks"],
            waits_s=told["waits"] if told.get("waits", told["sends"]) < told["sends"] else None,
            sends_s=told["sends"],
            ended=ended,
            in_flight=0 if after is None else self.audit.killed(),
            result=json.loads(last) if last.startswith("{") else {},
        )

    def _clock(self) -> float:
        """The sandbox's."""
        origin = json.loads((self.state / "clock.json").read_bytes())
        now = self._night.wall()
        return float(origin["clock"] + (now - origin["wall"]) * origin["speed"])

    def said(self) -> str:
        """The last lines that runners said to people."""
        return "\n".join((self.folder / STDERR).read_text(encoding="utf-8", errors="replace").splitlines()[-8:])


def _write_manifest(path: Path, tasks: int, cap_nanos: int) -> None:
    """JSON is YAML."""
    manifest = {
        "job": "night",
        "model": MODEL,
        "prompts": [
            {"id": f"p{number:05}", "text": f"Product {number} on a marble table, soft light"}
            for number in range(tasks)
        ],
        "matrix": {"size": ["1K"]},
        "limits": {"tier": 1, "rpm": LIMITS.rpm, "spend_usd_per_month": MONTH_USD, "concurrency": 64},
        "budget": {"usd": cap_nanos / NANOS},
    }
    path.write_text(json.dumps(manifest), encoding="utf-8")


def pass_night(folder: Path, plan: Plan) -> Report:
    """Let a night pass in an empty folder."""
    return Night(folder, plan).pass_by()


def holds(report: Report) -> None:
    """AssertionError where a night was not what it has to be."""
    assert report.lives[-1].code in {0, 1}, report.lives[-1]
    assert [one.code for one in report.lives[:-1]] == [-9] * report.plan.kills
    assert report.violations == []
    assert len(report.unforeseen) <= report.plan.late, report.unforeseen
    assert worst_window([one.at for one in report.sent], MINUTE_S) <= LIMITS.rpm
    assert (
        heaviest_window(report.sent, SPEND_S, at=lambda one: one.at, weight=lambda one: one.nanos)
        <= LIMITS.spend_nanos
    )
    assert report.most_requests <= LIMITS.rpm
    assert report.most_nanos <= LIMITS.spend_nanos
    assert report.took_s <= report.plan.slack * report.allowed_s
    assert report.wasted <= report.faults + report.in_flight
    assert all(one.resume_s <= report.plan.resume_s for one in report.lives[1:]), report.lives
