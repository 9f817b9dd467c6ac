"""What every client of the API is made of: an address, a connection pool, a key that travels in one header."""

import math
from collections.abc import Generator
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Protocol, Self

import httpx

from runner.adapters.request import prefix
from runner.adapters.transport import Transport
from runner.core.errors import UsageError

CONNECT_S = 30.0
"""For a connection: waiting for a free one, DNS, TCP and TLS together."""


class Secret(Protocol):
    """A key that does not show itself; pydantic's SecretStr is one."""

    def get_secret_value(self) -> str:
        """The key."""


class Session:
    """A client of one endpoint. `uds` is the path of a Unix socket to connect to instead of the base URL's host.

    `keyed`: whether the key goes with every request, or only where `with_key` is asked for.
    """

    def __init__(
        self,
        *,
        base_url: str,
        key: Secret,
        api: str,
        connections: int,
        uds: str | None,
        headers: dict[str, str],
        keyed: bool = True,
    ) -> None:
        """Raises UsageError where the base URL, the key or a proxy of the environment cannot be used."""
        self._prefix = prefix(base_url, api)
        check_key(key)
        self._key, self._with_key = key, KeyHeader(key)
        self._http = httpx.AsyncClient(
            transport=Transport(httpx.URL(self._prefix), connections=connections, uds=uds),
            auth=self._with_key if keyed else None,
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_S, pool=CONNECT_S),
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


class KeyHeader(httpx.Auth):
    """Puts the key into each request as it leaves, so that no object that lives longer holds it in the open."""

    def __init__(self, key: Secret) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["x-goog-api-key"] = self._key.get_secret_value()
        yield request


def check_key(key: Secret) -> None:
    """Raises UsageError for a key that no header can carry; the message does not repeat it."""
    value = key.get_secret_value()
    if not value or not value.isascii() or not value.isprintable() or value != value.strip():
        raise UsageError("the key is empty or holds characters that no HTTP header can carry")


def common_headers() -> dict[str, str]:
    """Of every request, whatever it is for; gzip costs more than it saves."""
    return {"accept-encoding": "identity", "user-agent": f"bulkrender/{_release()}"}


def headers_of(request_timeout_s: float) -> dict[str, str]:
    """`X-Server-Timeout` moves the server's own deadline (gemini-api.md §2)."""
    timeout = str(math.ceil(request_timeout_s))
    return {"content-type": "application/json", "x-server-timeout": timeout, **common_headers()}


def _release() -> str:
    try:
        return version("bulkrender")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "0"
