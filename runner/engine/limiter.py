"""Spreads requests over the minute. That no window holds too many is the ledger's to see to, in the claim.

A whole minute's worth at once and nothing for the rest of it would be as exact; providers and their routers like
it less, and the way there shifts a burst more than a stream.
"""

from aiolimiter import AsyncLimiter

from runner.core.learning import Belief
from runner.core.limits import MINUTE_S, Limits
from runner.engine.ports import Clock

GROWING_FACTOR = 8
GROWING_LEAST = 600
"""While a rate is looked for, eight times as fast as is believed, and ten a second at least: when the first
refusal is heard of, few others are under way."""
CATCHING_UP = 1.25
"""A believed rate is spread a little faster than it is: after a refusal the window has room to make up."""


class Smoother:
    """Turns at an even pace. A turn that was not used is kept for the next caller."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._bucket: AsyncLimiter | None = None
        self._turn = False
        self.rpm: int | None = None

    def pace(self, rpm: int | None) -> None:
        """So many a minute from now on; None: as they come."""
        if rpm == self.rpm:
            return
        self.rpm = rpm
        burst = max(1, (rpm or 0) // 100)
        self._bucket = None if rpm is None else AsyncLimiter(burst, MINUTE_S * burst / rpm)

    @property
    def due(self) -> bool:
        """Whether a turn is there."""
        return self._turn or self._bucket is None

    async def turn(self) -> None:
        """Wait until one more request may leave, as far as its pace goes."""
        if self._turn or self._bucket is None:
            return
        await self._bucket.acquire()
        self._turn = True

    def used(self) -> None:
        """A request takes the turn."""
        self._turn = False


def pace_of(limits: Limits, belief: Belief | None, now_utc: float) -> int | None:
    """Requests a minute to spread: the least of what is configured and, with some play, what is believed."""
    rates = [rate for rate in (limits.rpm, limits.ipm) if rate is not None]
    if belief is not None:
        allowed = belief.allowed(now_utc)
        play = int(allowed * CATCHING_UP) + 1 if belief.found else max(GROWING_LEAST, GROWING_FACTOR * allowed)
        rates.append(play)
    return min(rates, default=None)
