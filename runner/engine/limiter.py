"""When the next request may leave: the pace of a model and the gate that a refusal closes.

Both are passed before a claim, so that a crash leaves no waiting task half-claimed. What a refusal means for the
task is `core.retry`; here it only decides how long everybody waits.
"""

from collections import deque
from collections.abc import Iterable

import anyio
from aiolimiter import AsyncLimiter

from runner.core.lifecycle import Faulted, Interrupted, Lost, Outcome, Throttled, Unreached
from runner.core.retry import CEILING_S, backoff_s
from runner.engine.ports import Clock

WINDOW_S = 60.0
RESTART_MARGIN_S = 0.5
"""A request of an earlier process left at most this long after the claim that the ledger dates."""
TICK_S = 0.001
"""The shortest wait; less may be lost in the rounding of a float."""

LOOK_AGAIN_S = 0.05


class Pace:
    """At most `rpm` requests in any sliding minute, from the first second on and over restarts.

    A bucket of a full minute lets two through at once; a small burst b at rate N-b keeps every window
    at N and loses under 2 %. The log of sends makes it exact where claims are slow to commit or connections slow
    to open, because the bucket counts permissions and the limit counts requests.
    """

    def __init__(self, rpm: int | None, clock: Clock, recent: Iterable[float] = ()) -> None:
        """`recent`: seconds since the sends of earlier processes on the same quota."""
        self.rpm = rpm
        self._clock = clock
        self._sent: deque[float] = deque()
        self._turn = False
        self.launched = 0
        if rpm is None:
            return
        burst = max(1, rpm // 100)
        drain_s = WINDOW_S * burst / (rpm - burst) if rpm > burst else WINDOW_S
        self._bucket = AsyncLimiter(burst, drain_s)
        now = clock.now()
        self._sent.extend(sorted(now - max(0.0, ago - RESTART_MARGIN_S) for ago in recent if ago < WINDOW_S))

    async def turn(self) -> None:
        """Wait until one more request may leave. A turn that was not used is kept for the next caller."""
        if self.rpm is None or self._turn:
            return
        await self._bucket.acquire()
        self._turn = True
        while (wait_s := self._full_for_s(self.rpm)) > 0:
            await self._clock.sleep(max(wait_s, TICK_S))

    def launch(self) -> "Launch":
        """Use the turn: a request is on its way to its send."""
        self._turn = False
        self.launched += 1
        return Launch(self)

    def sent(self) -> None:
        """A request leaves now."""
        if self.rpm is not None:
            self._sent.append(self._clock.now())

    def _full_for_s(self, rpm: int) -> float:
        """Seconds to look again after; 0 where one more send cannot make any window too full.

        What was launched and has not left yet may leave at any moment from now on: it counts as leaving now.
        """
        now = self._clock.now()
        while self._sent and self._sent[0] + WINDOW_S <= now:
            self._sent.popleft()
        over = len(self._sent) + self.launched - rpm
        if over < 0:
            return 0.0
        return self._sent[over] + WINDOW_S - now if over < len(self._sent) else LOOK_AGAIN_S


class Launch:
    """One request between its claim and its send: waiting for a connection, for DNS, for TLS."""

    def __init__(self, pace: Pace) -> None:
        self._pace: Pace | None = pace

    def left(self) -> None:
        """It is being written."""
        if self._pace is not None:
            self._pace.sent()
        self.over()

    def over(self) -> None:
        """It left, or never will."""
        if self._pace is not None:
            self._pace.launched -= 1
            self._pace = None


class Gate:
    """Closed by 429, 503 and requests that never left; one probe goes first when it has closed twice in a row."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = clock.now()
        self._changed = anyio.Event()
        self.strikes = 0
        self.epoch = 0
        self.reason = ""
        self.last_success = clock.now()
        self._probing = False

    def closed_for_s(self) -> float:
        """Seconds until it opens by itself; 0 when open."""
        return max(0.0, self._until - self._clock.now())

    def admits(self) -> bool:
        """Whether a request may leave now."""
        return self.closed_for_s() == 0 and not (self._probing and self.strikes > 1)

    async def wait(self) -> None:
        """Return when a request may leave."""
        while not self.admits():
            if (closed_s := self.closed_for_s()) > 0:
                await self._clock.sleep(max(closed_s, TICK_S))
            else:
                await self._changed.wait()

    def enter(self) -> int:
        """A request leaves; returns the epoch to report its outcome with."""
        self._probing = True
        return self.epoch

    def report(self, epoch: int, outcome: Outcome) -> None:
        """Learn from an outcome. Refusals of requests that left before the gate last closed are no new strike."""
        match outcome:
            case Throttled(reason=reason, retry_after_s=retry_after_s):
                self._close(epoch, f"{outcome.status} {reason}", retry_after_s or 0.0)
            case Unreached(cause=cause):
                self._close(epoch, cause, 0.0)
            case Lost() | Faulted() | Interrupted():
                self._probing = False
            case _:
                if epoch == self.epoch:
                    self.strikes = 0
                self._probing = False
                self.last_success = self._clock.now()
        self._changed.set()
        self._changed = anyio.Event()

    def _close(self, epoch: int, reason: str, floor_s: float) -> None:
        if epoch == self.epoch:
            self.epoch += 1
            self.strikes += 1
            floor_s = max(floor_s, min(CEILING_S, backoff_s(self.strikes - 1, 0.5 + self._clock.jitter() / 2)))
        self.reason = reason
        self._probing = False
        self._until = max(self._until, self._clock.now() + floor_s)
