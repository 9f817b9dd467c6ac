"""What the engine needs of the outside world. Adapters satisfy these by structure."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from runner.core.lifecycle import Answer, Made, Pictured, Reply, Unstored, Unusable
from runner.core.task import Assignment


class Sink(Protocol):
    """Where a provider writes the bytes of a picture while it receives them.

    The last image of an answer wins: `restart` drops what was written and begins another.
    """

    def restart(self, mime: str) -> None:
        """Begin a picture; `mime` is what the answer calls it."""

    def write(self, data: bytes) -> None:
        """Take the next bytes of the picture."""


class Landing(Sink, Protocol):
    """A sink that can also keep what it received."""

    async def keep(self, answer: Answer) -> Made | Unusable | Unstored:
        """Verify the picture and make it durable: temporary file, sidecar, rename, folder (invariant 3).

        A picture that is not what was paid for is kept under `rejected/` and returned as `Unusable`. Where
        the disk refuses, it is held in memory and tried again until it lands or the run is interrupted.
        """


class ImageStore(Protocol):
    """The output folder."""

    def landing(self, task: Assignment) -> AbstractAsyncContextManager[Landing]:
        """A sink for one attempt; leaving the context drops what was not kept."""

    async def has_room(self, pictures: int, largest_bytes: int) -> bool:
        """Whether `pictures` more of `largest_bytes` each would fit."""

    def adopt(self, task: Assignment) -> Made | Unusable | None:
        """After a crash: the whole picture of this very attempt, if it reached the disk. Blocks."""

    def stop_waiting(self) -> None:
        """From now on a picture that cannot be written is given up as `Unstored` instead of held in memory."""


class Provider(Protocol):
    """A client of the image API."""

    async def render(self, task: Assignment, sink: Sink, left: Callable[[], None]) -> Reply:
        """Send one request. Every answer and every transport error becomes exactly one Reply.

        `left` is called once, when the request is being written. On `Pictured` the sink holds the picture. Never
        raises for what the outside world does.
        """


class Clock(Protocol):
    """Time and chance; tests drive both."""

    def now(self) -> float:
        """Seconds of the event loop's clock; only differences mean anything."""

    def utc(self) -> float:
        """Seconds since 1970, for what is written to the ledger."""

    def jitter(self) -> float:
        """A number in [0, 1)."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


__all__ = ["Clock", "ImageStore", "Landing", "Pictured", "Provider", "Sink"]
