"""How requests travel, and what a broken journey means: had the request left, and what is the break called.

httpx on aiohttp's connections: httpx's own pool stalls the event loop for seconds at 200 of them. Nothing here
knows JSON.
"""

import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio
import httpx
from httpx_aiohttp.transport import AiohttpResponseStream, AiohttpTransport

from runner.core.errors import UsageError
from runner.core.lifecycle import Lost, Unreached

KEEPALIVE_S = 4.0
"""Shorter than the 5 s after which the hastiest common servers close an idle connection: a request sent into a
connection that is being closed is lost, and may have been bought."""

PIECE_BYTES = 256 * 1024
"""Of a body, at most: every piece costs some microseconds, and the transport's own are of 16 KiB."""

NEVER_LEFT = (
    aiohttp.ClientConnectorError,  # base of all: refused, no route, DNS, TLS, certificate, Unix socket, proxy
    aiohttp.ConnectionTimeoutError,  # no connection in time, or no free one
    aiohttp.ClientHttpProxyError,  # the proxy would not open a tunnel
    aiohttp.InvalidURL,
    httpx.UnsupportedProtocol,
    UnicodeError,  # a host name that DNS cannot carry
)
"""Causes that can only come before the first byte of a request. Whatever is not here may have left."""

BREAKS = (
    (aiohttp.ServerTimeoutError, "timed_out"),
    (TimeoutError, "timed_out"),
    (aiohttp.ClientResponseError, "not_an_answer"),  # bytes came that are no HTTP
    (httpx.DecodingError, "not_an_answer"),  # a whole body in a broken compression
    (aiohttp.ClientPayloadError, "body_cut"),
)
"""Cause -> what it is called once the request has left; the first that fits. Any other cause is
`connection_broken` before the headers of the answer and `body_cut` after."""

JOURNEY_ERRORS = (httpx.HTTPError, aiohttp.ClientError, OSError, UnicodeError)
"""All that a request may raise; the transport lets some of aiohttp's errors through as they are."""


@dataclass(slots=True)
class Journey:
    """One request under way. `scope` cuts it off when its time is up."""

    scope: anyio.CancelScope
    answer_within_s: float
    """From the send to the first byte of the body that says something."""
    on_leave: Callable[[], None] = lambda: None
    """Told once, when the request is being written."""
    left: bool = False
    queued: bool = False
    """Waiting for a free connection."""
    answered: bool = False
    """The headers of the answer have come."""
    received: int = 0
    """Bytes of the body."""

    def leave(self) -> None:
        """The request is being written: it may have arrived from now on, and its time runs."""
        if not self.left:
            self.on_leave()
        self.left = True
        self.scope.deadline = anyio.current_time() + self.answer_within_s

    def progress(self, size: int, gap_s: float) -> None:
        """Another piece of the body came; the next must come within `gap_s`."""
        self.received += size
        self.scope.deadline = anyio.current_time() + gap_s

    def timed_out(self, gap_s: float) -> Lost:
        """The reply when `scope` has cut the journey off."""
        if self.received:
            return Lost("body_cut", f"no byte for {gap_s:g} s after {self.received}")
        return Lost("timed_out", f"no answer within {self.answer_within_s:g} s")


def broken(error: BaseException, journey: Journey) -> Unreached | Lost:
    """The reply for an error on the way, judged by its cause; in doubt the request had left.

    httpx's own classes do not tell: of a refused connection and of one closed after reading it says the same.
    """
    cause = _root(error)
    said = f"{type(cause).__name__}: {cause}"
    if isinstance(cause, NEVER_LEFT) and not journey.left:
        return Unreached(f"no free connection ({said})" if journey.queued else said)
    for kind, name in BREAKS:
        if isinstance(cause, kind):
            return Lost(name, said)
    return Lost("body_cut" if journey.answered else "connection_broken", said)


def plainly(cause: str) -> str:
    """What the system said of a journey, without the libraries that passed it on."""
    said = re.search(r"\[([^\[\]]+)\]", cause)
    return said[1] if said else cause


def _root(error: BaseException) -> BaseException:
    """The error of aiohttp behind it where there is one, else the error itself."""
    return next((e for e in _causes(error) if isinstance(e, aiohttp.ClientError)), error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


JOURNEY: ContextVar[Journey | None] = ContextVar("JOURNEY", default=None)
"""The journey of this task, for the transport's trace to report to."""


class Transport(AiohttpTransport):
    """httpx on aiohttp, with exactly `connections`, by TCP or over a Unix socket."""

    def __init__(self, base: httpx.URL, *, connections: int, uds: str | None) -> None:
        proxy = None if uds else environment_proxy(base)
        super().__init__(verify=True, proxy=proxy, uds=uds)
        self._connections = connections

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """In pieces of a useful size; without the reason phrase, which httpx would log whatever it says."""
        response = await super().handle_async_request(request)
        response.extensions.pop("reason_phrase", None)
        if isinstance(response.stream, AiohttpResponseStream):
            response.stream.CHUNK_SIZE = PIECE_BYTES
        return response

    def get_client(self) -> aiohttp.ClientSession:
        """The session, made in the event loop that uses it."""
        connector: aiohttp.BaseConnector
        if self.uds:
            connector = aiohttp.UnixConnector(self.uds, limit=self._connections, keepalive_timeout=KEEPALIVE_S)
        else:
            connector = aiohttp.TCPConnector(
                ssl=self.ssl_context, limit=self._connections, keepalive_timeout=KEEPALIVE_S
            )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_trace()],
            read_bufsize=PIECE_BYTES,
        )


def environment_proxy(base: httpx.URL) -> httpx.Proxy | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name for an address; never one for loopback.

    Read once. Raises UsageError for a proxy that is no HTTP proxy: aiohttp speaks no SOCKS.
    """
    proxies = getproxies()
    found = proxies.get(base.scheme) or proxies.get("all")
    if not found or base.host in {"localhost", "127.0.0.1", "::1"} or proxy_bypass(base.host):
        return None
    try:
        proxy = httpx.Proxy(found if "://" in found else f"http://{found}")
    except (httpx.InvalidURL, ValueError):
        raise UsageError("the proxy in the environment cannot be read; expected http://host:port") from None
    if proxy.url.scheme not in {"http", "https"}:
        raise UsageError(f"the proxy in the environment is {proxy.url.scheme}; only HTTP proxies are supported")
    return proxy


def _trace() -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()
    trace.on_connection_queued_start.append(_queued)
    trace.on_connection_queued_end.append(_dequeued)
    trace.on_request_headers_sent.append(_leaves)
    return trace


async def _queued(_session: aiohttp.ClientSession, _context: SimpleNamespace, _params: object) -> None:
    _report(queued=True)


async def _dequeued(_session: aiohttp.ClientSession, _context: SimpleNamespace, _params: object) -> None:
    _report(queued=False)


async def _leaves(_session: aiohttp.ClientSession, _context: SimpleNamespace, _params: object) -> None:
    if journey := JOURNEY.get():
        journey.leave()


def _report(*, queued: bool) -> None:
    if journey := JOURNEY.get():
        journey.queued = queued
