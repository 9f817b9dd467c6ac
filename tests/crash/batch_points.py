"""Where a runner of the batch lane may die: before, inside and behind each step of a batch's way."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol
from unittest.mock import patch

from runner.adapters import transport
from runner.adapters.remote import BatchService
from runner.engine import harvest
from runner.ledger import Ledger, Submitted

STAGES: Mapping[str, tuple[str, ...]] = {
    "upload": ("upload_begun", "upload_sent", "upload_done"),
    "create": ("create_marked", "create_sent", "create_answered", "create_booked"),
    "poll": ("poll_sent", "poll_answered", "poll_booked"),
    "download": ("download_sent", "download_line", "download_noted"),
    "settle": ("settle_begun", "settle_done", "over_begun", "over_done"),
}
"""`_sent`: a request of the step is on the wire. Between `_answered` and `_booked` only this process knows."""
NOTED_EVERY_S = 0.05
"""How far results were taken is noted so often, that a run of seconds has something to go on from."""

_STEP: ContextVar[str] = ContextVar("step", default="")


class Watching(Protocol):
    """What is told of arrivals."""

    def at(self, point: str) -> None: ...
    def tell(self, word: str) -> None: ...


def watch_batches(watch: Watching) -> None:
    """Report every arrival at a point of `STAGES`."""
    patch.object(harvest, "NOTED_EVERY_S", NOTED_EVERY_S).start()
    _watch_requests(watch)
    _watch_results(watch)
    for owner, name, before, inside, behind in (
        (BatchService, "upload", "upload_begun", "upload", "upload_done"),
        (BatchService, "create", "create_marked", "create", "create_answered"),
        (BatchService, "get", "", "poll", "poll_answered"),
        (BatchService, "find", "", "poll", "poll_answered"),
        (Ledger, "created", "", "", "create_booked"),
        (Ledger, "looked", "", "", "poll_booked"),
        (Ledger, "absent", "", "", "poll_booked"),
        (Ledger, "taken", "", "", "download_noted"),
        (Ledger, "settle", "settle_begun", "", "settle_done"),
        (Ledger, "over", "over_begun", "", "over_done"),
        (Ledger, "submit", "", "", ""),
    ):
        patch.object(owner, name, _watched(watch, getattr(owner, name), before, inside, behind)).start()


def _watched(watch: Watching, real: Callable[..., Any], before: str, inside: str, behind: str) -> Any:
    async def watched(*args: Any, **kwargs: Any) -> Any:
        watch.at(before)
        with _step(inside):
            found = await real(*args, **kwargs)
        if isinstance(found, Submitted) or inside == "poll":
            watch.tell("claimed")
        watch.at(behind)
        return found

    return watched


@contextmanager
def _step(name: str) -> Iterator[None]:
    before = _STEP.set(name)
    try:
        yield
    finally:
        _STEP.reset(before)


def _watch_requests(watch: Watching) -> None:
    """aiohttp announces headers and bodies and writes them before it lets go of the loop."""
    trace = transport._trace

    async def sent(*_: object) -> None:
        if step := _STEP.get():
            asyncio.get_running_loop().call_soon(watch.at, f"{step}_sent")

    def watched_trace() -> Any:
        config = trace()
        config.on_request_headers_sent.append(sent)
        config.on_request_chunk_sent.append(sent)
        return config

    patch.object(transport, "_trace", watched_trace).start()


def _watch_results(watch: Watching) -> None:
    results = BatchService.results

    async def told(lines: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for line in lines:
            watch.at("download_line")
            yield line

    @asynccontextmanager
    async def watched(*args: Any, **kwargs: Any) -> AsyncIterator[AsyncIterator[Any]]:
        with _step("download"):
            async with results(*args, **kwargs) as lines:
                yield told(lines)

    patch.object(BatchService, "results", watched).start()
