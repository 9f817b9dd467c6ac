"""What the engine needs of the outside world. Adapters satisfy these by structure."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from runner.core.lifecycle import Answer, Made, Pictured, Reply, Unstored, Unusable
from runner.core.reference import Part, Reference
from runner.core.remote import START, Absent, Accepted, Creation, Declined, Found, NotNow, Place, Remote
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


class Unsendable(Exception):  # noqa: N818 - one task's end, no error of the program
    """A reference of a task cannot be sent. `passing` is True where only the service is in trouble."""

    def __init__(
        self,
        reason: Literal["reference_changed", "reference_missing", "upload_failed"],
        message: str,
        *,
        passing: bool = False,
        key: str | None = None,
    ) -> None:
        """`key`: of the one request of many that is to blame."""
        super().__init__(message)
        self.reason, self.message, self.passing, self.key = reason, message, passing, key


class References(Protocol):
    """Keeps reference pictures ready to be sent, so that nothing is awaited between a claim and its send."""

    def ready(self, wanted: Sequence[Reference]) -> bool:
        """Whether `parts` can be had at once. If so they stay at hand until `parts` or `release`. Thread-safe."""

    def parts(self, wanted: Sequence[Reference]) -> tuple[Part, ...]:
        """What is sent for references that `ready` promised, in their order; ends the promise."""

    def release(self, wanted: Sequence[Reference]) -> None:
        """End a promise that is not going to be redeemed. Thread-safe."""

    def forget(self, sha256: str, uri: str | None = None) -> None:
        """The service says that it does not have an upload: the next `prepare` makes it anew."""

    async def prepare(self, wanted: Sequence[Reference]) -> None:
        """Make `ready` true of these: read or upload what is missing. Raises Unsendable."""


class NoReferences:
    """`References` of a job that has none."""

    def ready(self, wanted: Sequence[Reference]) -> bool:
        """True of nothing."""
        return not wanted

    def parts(self, wanted: Sequence[Reference]) -> tuple[Part, ...]:
        """Nothing."""
        return tuple(Part(one.mime, uri=one.uri) for one in wanted)

    def release(self, wanted: Sequence[Reference]) -> None:
        """Nothing was promised."""

    def forget(self, sha256: str, uri: str | None = None) -> None:
        """Nothing is remembered."""

    async def prepare(self, wanted: Sequence[Reference]) -> None:
        """Raises Unsendable."""
        raise Unsendable("reference_missing", f"{wanted[0].name}: this run was given no references")


class ResultLine(Protocol):
    """One line of a batch's results. Its picture is there until the next line is asked for."""

    @property
    def key(self) -> str | None:
        """The key it was sent with; None where the line does not say."""

    @property
    def reply(self) -> Reply:
        """What the standard lane would say of the same answer."""

    @property
    def after(self) -> Place:
        """Where to go on once this line has been dealt with."""

    async def pour(self, sink: Sink) -> None:
        """Write the picture of `Pictured` to a sink. Raises LocalFailureError."""


class Unreadable(Exception):  # noqa: N818 - the end of a download, no error of the program
    """Results cannot be read. `passing` is True where only the service is in trouble; False: they are gone."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.message, self.passing = message, passing


class Batches(Protocol):
    """The Batch and Files APIs of the service, as the batch lane needs them (gemini-api.md §8, §9).

    What the outside world does is never raised, but where a method says so.
    """

    async def upload(self, token: str, items: Sequence[tuple[str, Assignment]]) -> str:
        """Write requests, each under its key, as the input of one batch and upload it; its name (`files/…`).

        Raises Unsendable (`upload_failed`), LocalFailureError.
        """

    async def create(self, model: str, display_name: str, file: str) -> Creation:
        """Make a job of an uploaded input. After `Unsure` never again before it was looked for."""

    async def get(self, name: str) -> Remote | Absent | Declined | NotNow:
        """A job by its name, without its results."""

    async def find(self, display_name: str) -> Found | Declined | NotNow:
        """The jobs of that display name, in a list that was read to its end."""

    async def shows(self, file: str) -> bool | None:
        """Whether the service shows an uploaded input to this key's project; None: it cannot be told now."""

    async def listing(self) -> tuple[Remote, ...] | Declined | NotNow:
        """All jobs that the service lists."""

    async def cancel(self, name: str) -> Accepted | Absent | Declined | NotNow:
        """Ask for a job to be stopped; it takes effect later."""

    def results(
        self, file: str, model: str, place: Place = START
    ) -> AbstractAsyncContextManager[AsyncIterator[ResultLine]]:
        """The lines of a result file from `place` on, while it is downloaded; reading raises Unreadable.

        The same line may come again where a file has to be read anew.
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


__all__ = [
    "Batches",
    "Clock",
    "ImageStore",
    "Landing",
    "NoReferences",
    "Pictured",
    "Provider",
    "References",
    "ResultLine",
    "Sink",
    "Unreadable",
    "Unsendable",
]
