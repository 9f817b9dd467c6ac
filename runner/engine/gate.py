"""Closed by refusals and by outages: nothing leaves until it opens, and after trouble one request goes first.

What a refusal means for its task is `core.retry`; here it decides how long everybody waits.
"""

from dataclasses import dataclass

import anyio

from runner.core.lifecycle import Faulted, Interrupted, Lost, Outcome, Parked, Stopped, Throttled, Unreached
from runner.core.retry import CEILING_S, backoff_s
from runner.engine.ports import Clock

OPENS_AFTER = 5
"""Faults in a row that open the circuit. An error status or a lost answer counts only where its task had never
been sent before: a few prompts that always fail are no outage."""
PATIENCE_S = 1_800.0
"""Trouble for this long without one success stops the run. Trouble that comes later than this after the last one
is new: the run was not waiting for the provider in between."""
TICK_S = 0.001
"""The shortest wait; less may be lost in the rounding of a float."""
TIMED_OUT = frozenset({408, 499})
"""Statuses below 500 that say that nobody answered in time."""


@dataclass(frozen=True, slots=True)
class Shut:
    """The gate has closed for so long."""

    reason: str
    said: str
    for_s: float


class Gate:
    """One for a run. Outcomes of requests that left before it last closed neither close it further nor open it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = clock.now()
        self._changed = anyio.Event()
        self.strikes = 0
        self.epoch = 0
        self.reason = ""
        self.said = ""
        self.outage = False
        """Whether the circuit is open: single requests ask whether the service is back."""
        self._faults = 0
        self._trouble_since: float | None = None
        self._last_trouble = clock.now()
        self._healthy_epoch = 0
        """Requests of earlier ones left before the last outage was over."""
        self._out = 0
        """Requests of this epoch that have not ended."""
        self._asking = False
        """Nothing has ended since the last request left."""

    def closed_for_s(self) -> float:
        """Seconds until it opens by itself; 0 when open."""
        return max(0.0, self._until - self._clock.now())

    def admits(self) -> bool:
        """Whether a request may leave now."""
        probing = self._out > 0 if self.outage else self._asking and self.strikes > 1
        return self.closed_for_s() == 0 and not probing

    def blames_an_outage(self, epoch: int) -> bool:
        """Whether a fault of a request of that epoch is an outage's, not its task's."""
        return self.outage or epoch < self._healthy_epoch

    def patience_s(self) -> float:
        """Seconds of trouble that are left before the run is to stop."""
        if self._trouble_since is None:
            return PATIENCE_S
        return self._trouble_since + PATIENCE_S - self._clock.now()

    async def wait(self) -> None:
        """Return when a request may leave."""
        while not self.admits():
            if (closed_s := self.closed_for_s()) > 0:
                await self._clock.sleep(max(closed_s, TICK_S))
            else:
                await self._changed.wait()

    def enter(self) -> int:
        """A request leaves; returns the epoch to report its outcome with."""
        self._out += 1
        self._asking = True
        return self.epoch

    def report(self, epoch: int, outcome: Outcome, *, fresh: bool = True) -> Shut | None:
        """Learn from an outcome; how long the gate has closed by it, if it has.

        `fresh`: its task had never been sent before.
        """
        self._asking = False
        if epoch == self.epoch:
            self._out -= 1
        shut = self._judge(epoch, outcome, fresh=fresh)
        self._changed.set()
        self._changed = anyio.Event()
        return shut

    def _judge(self, epoch: int, outcome: Outcome, *, fresh: bool) -> Shut | None:
        match outcome:
            case Throttled(reason="capacity"):
                self._trouble(epoch, 1)
                return self._close(epoch, "capacity", f"{outcome.status} {outcome.message}", outcome.retry_after_s)
            case Throttled():
                self._trouble(epoch, 0)
                said = f"{outcome.status} {outcome.message}"
                return self._close(epoch, outcome.reason, said, outcome.retry_after_s)
            case Unreached(cause=cause):
                self._trouble(epoch, 1)
                return self._close(epoch, "unreached", cause, None)
            case Faulted() | Lost() if _is_fault(outcome):
                self._trouble(epoch, int(fresh))
                said = outcome.message if isinstance(outcome, Faulted) else outcome.cause
                return self._close(epoch, "outage", said, None) if self.outage else None
            case Faulted() | Lost() | Interrupted() | Parked() | Stopped():
                return None
            case _:
                self._success(epoch)
                return None

    def _success(self, epoch: int) -> None:
        self._trouble_since = None
        if epoch == self.epoch:
            self.strikes = self._faults = 0
            if self.outage:
                self.outage, self._healthy_epoch = False, epoch

    def _trouble(self, epoch: int, faults: int) -> None:
        now = self._clock.now()
        if self._trouble_since is None or now - self._last_trouble > PATIENCE_S:
            self._trouble_since = now
        self._last_trouble = now
        if epoch >= self._healthy_epoch:
            self._faults += faults
            self.outage = self.outage or self._faults >= OPENS_AFTER

    def _close(self, epoch: int, reason: str, said: str, floor_s: float | None) -> Shut:
        wait_s = floor_s or 0.0
        if epoch == self.epoch:
            self.epoch += 1
            self.strikes += 1
            self._out = 0
            wait_s = max(wait_s, min(CEILING_S, backoff_s(self.strikes - 1, 0.5 + self._clock.jitter() / 2)))
        self.reason, self.said = "outage" if self.outage else reason, said
        self._until = max(self._until, self._clock.now() + wait_s)
        return Shut(self.reason, said, self.closed_for_s())


def _is_fault(outcome: Faulted | Lost) -> bool:
    """Whether the service, not the request, is in trouble."""
    if isinstance(outcome, Faulted):
        return outcome.status >= 500 or outcome.status in TIMED_OUT
    return outcome.reason != "crashed"
