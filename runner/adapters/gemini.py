"""The Gemini client: sends one request, answers with one Reply. It decides nothing and stores nothing.

What the wire means is in `request`, `answer` and `rejection`; what a broken connection means is in `transport`.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import anyio
import httpx
from anyio import to_thread

from runner.adapters.answer import read_answer
from runner.adapters.rejection import Asked, read_rejection
from runner.adapters.request import address, pieces
from runner.adapters.seal import sealed, spellings
from runner.adapters.session import CONNECT_S, Secret, Session, headers_of
from runner.adapters.transport import JOURNEY, JOURNEY_ERRORS, PIECE_BYTES, Journey, broken
from runner.core.catalog import Catalog
from runner.core.lifecycle import Lost, Reply, Unreached
from runner.core.task import Assignment
from runner.engine.ports import Sink

INLINE_BYTES = 256 * 1024
"""Larger bodies are read in a thread, so that the event loop never stalls on a megabyte."""
THREADS = 4
"""How many at once: more only adds page faults."""
LARGEST_ANSWER = 512 * 1024 * 1024
LARGEST_REJECTION = 1024 * 1024
_BLANK = b" \t\r\n"


@dataclass(slots=True)
class _Received:
    """A response with its whole body."""

    status: int
    headers: httpx.Headers
    body: bytearray


class GeminiProvider(Session):
    """`engine.ports.Provider` over HTTP. The key travels in one header and is masked in all that is returned.

    `model_line` is where the manifest names the model, as `file:line`, for the message of a model that is gone.
    """

    def __init__(
        self,
        *,
        base_url: str,
        key: Secret,
        version: str = "v1beta",
        request_timeout_s: float = 360.0,
        body_gap_s: float = 60.0,
        connections: int,
        uds: str | None = None,
        catalog: Catalog,
        model_line: str = "",
    ) -> None:
        """Raises UsageError where the base URL, the key or a proxy of the environment cannot be used."""
        super().__init__(
            base_url=base_url,
            key=key,
            api=version,
            connections=connections,
            uds=uds,
            headers=headers_of(request_timeout_s),
        )
        self._answer_within_s, self._gap_s = request_timeout_s, body_gap_s
        self._catalog, self._model_line = catalog, model_line
        self._threads = anyio.CapacityLimiter(THREADS)

    async def render(self, task: Assignment, sink: Sink, left: Callable[[], None] = lambda: None) -> Reply:
        """Send one request. Every answer and every transport error becomes exactly one Reply.

        Nothing is awaited before the send but the connection. On `Pictured` the sink holds the picture; it is
        filled on the loop or, for a large answer, in a thread.
        """
        received = await self._exchange(task, left)
        reply: Reply = Lost("not_an_answer", "unread")
        with anyio.CancelScope(shield=True):  # what has arrived whole is paid for
            reply = await self._read(received, task, sink) if isinstance(received, _Received) else received
        return sealed(reply, spellings(self._key.get_secret_value()))

    async def _exchange(self, task: Assignment, left: Callable[[], None]) -> _Received | Unreached | Lost:
        # until the trace reports the send, this deadline is only a net: the connection has limits of its own
        scope = anyio.CancelScope(deadline=anyio.current_time() + 2 * CONNECT_S + self._answer_within_s)
        journey = Journey(scope, self._answer_within_s, left)
        received: _Received | None = None
        token = JOURNEY.set(journey)
        try:
            with scope:
                async with self._http.stream(
                    "POST", address(self._prefix, task.recipe.model), **body_of(*pieces(task))
                ) as r:
                    journey.answered = True
                    received = _Received(r.status_code, r.headers, await self._body(r, journey))
        except JOURNEY_ERRORS as error:
            return broken(error, journey)
        finally:
            JOURNEY.reset(token)
        return received or journey.timed_out(self._gap_s)

    async def _body(self, response: httpx.Response, journey: Journey) -> bytearray:
        """The body without the white space that keeps some connections alive before it (gemini-api.md §11)."""
        body = bytearray()
        largest = LARGEST_ANSWER if response.is_success else LARGEST_REJECTION
        async for chunk in response.aiter_bytes():
            body += chunk if body else chunk.lstrip(_BLANK)
            if body:
                journey.progress(len(chunk), self._gap_s)
            if len(body) > largest:
                break
        return body

    async def _read(self, received: _Received, task: Assignment, sink: Sink) -> Reply:
        if len(received.body) > LARGEST_ANSWER:
            return Lost("not_an_answer", f"an answer of more than {LARGEST_ANSWER} bytes")
        read = partial(self._reply, received, task, sink)
        if len(received.body) <= INLINE_BYTES:
            return read()
        return await to_thread.run_sync(read, limiter=self._threads)

    def _reply(self, received: _Received, task: Assignment, sink: Sink) -> Reply:
        status, headers, model = received.status, received.headers, task.recipe.model
        if 200 <= status < 300:
            tier = headers.get("x-gemini-service-tier")
            return read_answer(received.body, asked=model, tier=tier, sink=sink)
        return read_rejection(status, headers, received.body, Asked(model, self._model_line, self._catalog))


class Body(TypedDict):
    """What httpx is told of a body."""

    content: bytes | AsyncIterator[bytes]
    headers: dict[str, str]


def body_of(*pieces: bytes) -> Body:
    """A body for httpx: a large one is neither joined nor written at once, so that others get their turn."""
    size = sum(map(len, pieces))
    if size <= PIECE_BYTES:
        return {"content": b"".join(pieces), "headers": {}}
    return {"content": _written(pieces), "headers": {"content-length": str(size)}}


async def _written(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), PIECE_BYTES):
            yield piece[start : start + PIECE_BYTES]
