"""Writes down what a run did, for who slept meanwhile: what stopped it, what it waited for and how long.

Every single request, and every change of pace, is in the log as well, from the engine. The journal stands before
the face that a person sees: whatever that one is told, is logged.
"""

import os
import platform
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from runner.app.figures import duration
from runner.app.logfile import told
from runner.app.plan import BINDING_WORDS, Plan, binding_words, finish_line, price_line
from runner.app.running import Face, Watched
from runner.app.views import exit_code
from runner.core.budget import dollars
from runner.core.errors import RunnerError
from runner.core.lifecycle import TERMINAL, State
from runner.core.limits import Binding
from runner.engine.lane import Lane
from runner.engine.pool import Ended
from runner.engine.rescue import Rescued
from runner.ledger import JobStatus, OutcomeRow

LOOK_S = 1.0
PROGRESS_S = 600.0
STANDS_S = 5.0
"""A cause that has held a run back for so long is worth a line."""
AGAIN_S = 600.0
"""The pace of a night is one thing that comes and goes: so often at most it is said anew."""
RARE: frozenset[Binding] = frozenset({"day", "month", "outage", "room", "refused", "budget"})
"""Causes that are said each time."""


@dataclass(slots=True)
class Standing:
    """What holds a model of the job back now."""

    cause: Binding | None = None
    since: float = 0.0
    said: bool = False
    """Whether there is a line of it, so that its end is worth one."""
    outage_since: float | None = None


class Journal:
    """A `Face` that logs, before another one."""

    def __init__(self, face: Face) -> None:
        self.job: str | None = None
        """Whose turn it is."""
        self._face = face
        self._ended: Counter[str] = Counter()
        self._waited: defaultdict[Binding, float] = defaultdict(float)
        self._said_at: dict[Binding, float] = {}
        self._started = time.monotonic()

    def announce(self, plan: Plan, *, ask: bool) -> bool:
        """Log what is going to be bought, then ask."""
        self.job = plan.campaign.job
        self._ended, self._waited, self._started = Counter(), defaultdict(float), time.monotonic()
        told("plan", f"job {self.job}: {price_line(plan)}", tasks=plan.total, to_buy=plan.to_buy)
        if line := finish_line(plan):
            told("plan", f"job {self.job}: {line}")
        wanted = self._face.announce(plan, ask=ask)
        if not wanted:
            told("stop", "not confirmed: nothing was bought")
        return wanted

    def mended(self, rescued: Rescued) -> None:
        """Log what a crash had left."""
        if rescued != Rescued():
            told(
                "mend",
                f"after a crash: {rescued.adopted} pictures adopted, {rescued.unknown} requests held as unknown",
                adopted=rescued.adopted,
                unknown=rescued.unknown,
            )
        self._face.mended(rescued)

    def interrupted(self, in_flight: int, batches: int) -> None:
        """Log that an interrupt was heard."""
        told("stop", f"{in_flight} requests in flight will land first", in_flight=in_flight)
        self._face.interrupted(in_flight, batches)

    async def follow(self, watched: Watched) -> None:
        """Log what changes until cancelled, while the other face shows progress."""
        watched.pool.watch = self._count
        async with anyio.create_task_group() as both:
            both.start_soon(self._watch, watched)
            both.start_soon(self._face.follow, watched)

    def finished(self, status: JobStatus, outcomes: list[OutcomeRow], output: Path) -> None:
        """Log how the job ended, and where its time went."""
        for row in outcomes:
            cost = "at an unknown price" if row.cost_nanos is None else f"${dollars(row.cost_nanos)}"
            reason = f" ({row.reason})" if row.reason else ""
            told("end", f"{row.tasks} {row.state.value}{reason}, {row.attempts} attempts, {cost}")
        if self._waited:
            longest = sorted(self._waited.items(), key=lambda one: -one[1])
            told(
                "end",
                "held back by " + ", ".join(f"{BINDING_WORDS[cause]} {duration(s)}" for cause, s in longest),
                waited_s={cause: round(seconds) for cause, seconds in longest},
            )
        if status.detached:
            how = f"left: {status.reason}"
        else:
            how = "done" if status.halted is None else f"halted ({status.halted})"
        took = duration(time.monotonic() - self._started)
        told(
            "end",
            f"job {status.job}: {how}, {_money(status)}, after {took}",
            halted=status.halted,
            reason=status.reason,
            exit_code=exit_code(status),
        )
        self.job = None
        self._face.finished(status, outcomes, output)

    def _count(self, ended: Ended) -> None:
        """An attempt has ended."""
        self._ended[f"{type(ended.outcome).__name__.lower()} {ended.move.reason}".strip()] += 1

    async def _watch(self, watched: Watched) -> None:
        lanes = {lane.terms.wish.model: Standing() for lane in watched.pool.lanes}
        next_progress = time.monotonic() + PROGRESS_S
        while True:
            await anyio.sleep(LOOK_S)
            for lane in watched.pool.lanes:
                name = "" if len(lanes) == 1 else f"{lane.terms.wish.model}: "
                self._look(lane, lanes[lane.terms.wish.model], name)
            if time.monotonic() >= next_progress:
                next_progress += PROGRESS_S
                await self._progress(watched)

    def _look(self, lane: Lane, standing: Standing, name: str) -> None:
        """Log what has begun or ended of what holds a model back."""
        now = time.time()
        if lane.gate.outage and standing.outage_since is None:
            standing.outage_since = now
            said = f"{name}outage ({lane.gate.said}): single requests ask whether the service is back"
            told("outage", said, warning=True)
        if not lane.gate.outage and standing.outage_since is not None:
            lasted = now - standing.outage_since
            standing.outage_since = None
            told("outage", f"{name}over after {duration(lasted)}", seconds=round(lasted))
        pulse = lane.pulse
        cause = None if pulse is None else pulse.binds
        if cause != standing.cause:
            self._goes_on(standing, name, now)
            standing.cause, standing.since, standing.said = cause, now, False
        elif cause is not None and pulse is not None:
            self._waited[cause] += LOOK_S
            if not standing.said and now - standing.since >= STANDS_S and self._is_news(cause, now):
                standing.said = True
                until = "" if pulse.finish_at is None else f"; done in {duration(pulse.finish_at - now)} as it is"
                told("wait", f"{name}for {binding_words(cause, pulse.said)}{until}", binds=cause)

    def _goes_on(self, standing: Standing, name: str, now: float) -> None:
        if standing.cause is not None and standing.said:
            lasted = now - standing.since
            said = f"{name}no longer for {BINDING_WORDS[standing.cause]}, after {duration(lasted)}"
            told("wait", said, binds=standing.cause, seconds=round(lasted))

    def _is_news(self, cause: Binding, now: float) -> bool:
        if cause not in RARE and now - self._said_at.get(cause, 0.0) < AGAIN_S:
            return False
        self._said_at[cause] = now
        return True

    async def _progress(self, watched: Watched) -> None:
        try:
            status = await anyio.to_thread.run_sync(watched.status)
        except RunnerError:  # a look that fails is no reason to stop a run
            return
        ended, self._ended = self._ended, Counter()
        lately = ", ".join(f"{count} {what}" for what, count in ended.most_common()) or "nothing"
        told(
            "progress",
            f"{_money(status)}; {watched.pool.in_flight} in flight; in the last {duration(PROGRESS_S)}: {lately}",
            ended=dict(ended),
        )


def began(paths: Sequence[Path], where: Mapping[str, str]) -> None:
    """Log who runs what, and where."""
    named = ", ".join(f"{name} {value}" for name, value in where.items())
    told(
        "run",
        f"process {os.getpid()} on {socket.gethostname()} ({platform.system()}): "
        f"{', '.join(map(str, paths))}; {named}",
        manifests=[str(path) for path in paths],
        where=dict(where),
    )


def _money(status: JobStatus) -> str:
    ended = sum(status.tasks[state] for state in TERMINAL)
    counts = f"{status.tasks[State.SUCCEEDED]} of {status.total} pictures"
    if bad := ended - status.tasks[State.SUCCEEDED]:
        counts += f", {bad} failed or refused"
    if status.unpriced:
        return f"{counts}, at an unknown price"
    held = status.spend.reserved + status.spend.unknown
    return f"{counts}, ${dollars(status.spend.settled)} spent" + (f" + ${dollars(held)} held" if held else "")
