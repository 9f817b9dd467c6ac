"""An event loop whose time is driven: it never waits for a timer, it jumps to the next one.

While threads work for the loop (`busy`), it waits for them and time stands still, so that a test of a whole night
is deterministic and takes milliseconds.
"""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    loop: "DrivenLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.loop.busy():
            return super().select(0.001)  # a thread may end without a word to the loop
        if timeout is None:
            return super().select(1.0)
        self.loop.passed_s += timeout
        return []


class DrivenLoop(asyncio.SelectorEventLoop):
    """Time starts at 1000 s and moves only when nothing is ready and no thread is at work."""

    def __init__(self) -> None:
        self.passed_s = 1_000.0
        self.busy: Callable[[], bool] = lambda: False
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 0.0  # a timer never fires before its time

    def time(self) -> float:
        self.passed_s += 1e-7  # looking at a clock takes time; waits shorter than a float can hold then end
        return self.passed_s


class DrivenClock:
    """The engine's clock on a driven loop; `chance` is what every jitter draws."""

    def __init__(self, chance: float = 0.5, epoch: float = 1_800_000_000.0) -> None:
        self.chance, self.epoch = chance, epoch

    def now(self) -> float:
        return anyio.current_time()

    def utc(self) -> float:
        return self.epoch + self.now()

    def jitter(self) -> float:
        return self.chance

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


def drive(main: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run a coroutine function on a driven loop."""
    return anyio.run(main, *args, backend_options={"loop_factory": DrivenLoop})
