"""How an answer leaves, or does not: the faults of the connection (gemini-api.md §12)."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from runner.sandbox.reply import Reply, Stream

POLL_S = 0.05
"""How often a hanging answer looks whether its caller has left; nothing else tells a handler."""
DRIPS = 20
PAUSES = 3
PAUSE_S = 0.05
"""Between two drips or two white spaces, in seconds of the sandbox's clock."""


async def deliver(request: web.Request, reply: Reply, speed: float) -> web.StreamResponse:
    """Send the reply as its `delivery` says. That the caller has left meanwhile is no error of ours."""
    try:
        if reply.delivery is not None:
            return await DELIVERIES[reply.delivery](request, reply, PAUSE_S / speed)
        if reply.stream is not None:
            return await _pour(request, reply, reply.stream)
    except ConnectionError:
        return web.Response()
    return web.Response(status=reply.status, body=reply.body, headers=_headers(reply))


def _headers(reply: Reply) -> dict[str, str]:
    return {"x-gemini-service-tier": reply.tier, "Content-Type": reply.content_type, **reply.headers}


async def _hang(request: web.Request, _reply: Reply, _pause_s: float) -> web.StreamResponse:
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    return web.Response()


async def _reset_before(request: web.Request, _reply: Reply, _pause_s: float) -> web.StreamResponse:
    _reset(request)
    return web.Response()


async def _close_after_read(request: web.Request, _reply: Reply, _pause_s: float) -> web.StreamResponse:
    _finish(request)
    return web.Response()


async def _reset_mid(request: web.Request, reply: Reply, _pause_s: float) -> web.StreamResponse:
    response = await _half(request, reply)
    # A reset drops what the socket still holds: real time to see the first half, whatever the speed.
    await asyncio.sleep(PAUSE_S)
    _reset(request)
    return response


async def _cut(request: web.Request, reply: Reply, _pause_s: float) -> web.StreamResponse:
    response = await _half(request, reply)
    _finish(request)
    return response


async def _trickle(request: web.Request, reply: Reply, pause_s: float) -> web.StreamResponse:
    response = await _begin(request, reply, length=len(reply.body))
    step = -(-len(reply.body) // DRIPS)
    for start in range(0, len(reply.body), step):
        await response.write(reply.body[start : start + step])
        await asyncio.sleep(pause_s)
    return response


async def _keepalive_whitespace(request: web.Request, reply: Reply, pause_s: float) -> web.StreamResponse:
    response = await _begin(request, reply)
    for _ in range(PAUSES):
        await response.write(b" \r\n")
        await asyncio.sleep(pause_s)
    await response.write(reply.body)
    return response


async def _pour(request: web.Request, reply: Reply, stream: Stream) -> web.StreamResponse:
    response, left = await _begin(request, reply, length=stream.length), stream.until
    for chunk in stream.chunks:
        await response.write(chunk[:left])
        if left is not None and (left := left - len(chunk)) <= 0:
            _finish(request)
            return response
    return response


DELIVERIES: Mapping[str, Callable[[web.Request, Reply, float], Awaitable[web.StreamResponse]]] = {
    "hang": _hang,
    "reset_before": _reset_before,
    "close_after_read": _close_after_read,
    "reset_mid": _reset_mid,
    "cut": _cut,
    "trickle": _trickle,
    "keepalive_whitespace": _keepalive_whitespace,
}


async def _begin(request: web.Request, reply: Reply, length: int | None = None) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=_headers(reply))
    response.content_length = length
    await response.prepare(request)
    return response


async def _half(request: web.Request, reply: Reply) -> web.StreamResponse:
    """Half of the body, though Content-Length says all of it."""
    response = await _begin(request, reply, length=len(reply.body))
    await response.write(reply.body[: len(reply.body) // 2])
    return response


def _finish(request: web.Request) -> None:
    """An orderly end of the connection behind what was written."""
    if request.transport is not None:
        request.transport.close()


def _reset(request: web.Request) -> None:
    """RST: close a socket that may not linger. Unix sockets know none; there it is an end without warning."""
    if request.transport is None:
        return
    connection = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
