"""The one clock: the event loop's. Pacing, time-outs and retries follow it; UTC is for what is written down."""

import random
import time

import anyio


class LoopClock:
    """Time of the running event loop and real chance."""

    def now(self) -> float:
        """Seconds of the event loop's clock."""
        return anyio.current_time()

    def utc(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def jitter(self) -> float:
        """A number in [0, 1)."""
        return random.random()  # noqa: S311 - spreads retries, guards nothing

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)
