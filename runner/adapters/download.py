"""A file that the service made, while it is downloaded: one try (gemini-api.md §8.7)."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
import httpx

from runner.adapters.exchange import ANSWER_S, Answer, Exchange
from runner.adapters.request import download_addresses
from runner.adapters.setback import GoneError, SetbackError, UploadError
from runner.adapters.transport import JOURNEY_ERRORS

_GAP_S = 60.0
"""Between two pieces."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_HOPS = 5
_GONE = re.compile(
    r"\bfile\b.{0,400}(?:may not exist|does not exist|not found|expired)", re.IGNORECASE | re.DOTALL
)
"""In the words of a 400, 403 or 404 (gemini-api.md §12)."""
_RANGE = re.compile(r"bytes (\d{1,18})-", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Download:
    """A download under way."""

    start: int
    """Of the file, the byte that comes first: 0 where the service gives all of it whatever it is asked."""
    pieces: AsyncGenerator[bytes]
    """Raises SetbackError where the connection breaks."""


class Downloads:
    """Opens files by their names."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @asynccontextmanager
    async def open(self, name: str, *, start: int = 0) -> AsyncGenerator[Download]:
        """A file that the service made, from byte `start` if it honours ranges, else from its first (§8.7).

        One try: raises SetbackError for what may pass, GoneError for a file that the service does not have,
        UploadError for one that was uploaded by us.
        """
        response = await self._opened(name, start)
        pieces = self._pieces(response)
        try:
            yield Download(_first_byte(response.headers) if response.status_code == 206 else 0, pieces)
        finally:
            await pieces.aclose()
            with suppress(*JOURNEY_ERRORS):
                await response.aclose()

    async def _opened(self, name: str, start: int) -> httpx.Response:
        """A 200 or 206 with its body still to come, by either address and wherever it redirects to (§2, §8.7)."""
        addresses = download_addresses(self._exchange.prefix, name)
        hops = 0
        while True:
            response = await self._get(addresses[0], start)
            if response.status_code in {200, 206}:
                return response
            answer = await self._exchange.whole(response)
            if answer.status == 416 and start:
                start = 0
            elif answer.status in _REDIRECTS and hops < _MOST_HOPS:
                hops += 1
                addresses = [self._exchange.reachable(answer.headers.get("location", ""))]
            elif answer.status in {404, 405} and len(addresses) > 1:
                addresses = addresses[1:]
            elif not hops and _is_gone(answer):
                raise GoneError(self._exchange.said(answer))
            elif answer.about_mime:
                raise UploadError(self._exchange.said(answer))
            else:
                self._exchange.refuse(answer, then="again")

    async def _get(self, url: str, start: int) -> httpx.Response:
        """The key goes to the host of the API alone."""
        headers = {"range": f"bytes={start}-"} if start else {}
        ours = httpx.URL(url).netloc == httpx.URL(self._exchange.prefix).netloc
        request = self._exchange.http.build_request("GET", url, headers=headers)
        response: httpx.Response | None = None
        try:
            with anyio.move_on_after(ANSWER_S):
                response = await self._exchange.http.send(
                    request, auth=self._exchange.with_key if ours else None, stream=True
                )
        except JOURNEY_ERRORS as error:
            raise SetbackError(self._exchange.sealed(f"{type(error).__name__}: {error}"), "again") from None
        if response is None:
            raise SetbackError("no answer in time", "again")
        return response

    async def _pieces(self, response: httpx.Response) -> AsyncGenerator[bytes]:
        body = response.aiter_bytes()
        while True:
            try:
                with anyio.fail_after(_GAP_S):
                    piece = await anext(body, None)
            except TimeoutError:
                raise SetbackError(f"no byte for {_GAP_S:g} s", "again") from None
            except JOURNEY_ERRORS as error:
                raise SetbackError(self._exchange.sealed(f"{type(error).__name__}: {error}"), "again") from None
            if piece is None:
                return
            yield piece


def _is_gone(answer: Answer) -> bool:
    """Whether the API itself says that there is no such file; a web server's 404 says nothing about files."""
    trouble = answer.trouble
    if not trouble.enveloped or answer.status not in {400, 403, 404, 410}:
        return False
    return answer.status == 410 or trouble.status == "NOT_FOUND" or bool(_GONE.search(trouble.said))


def _first_byte(headers: httpx.Headers) -> int:
    """Where a part of a file begins; one that does not say (RFC 9110 §14.4) fits nothing."""
    found = _RANGE.match(headers.get("content-range", ""))
    return int(found[1]) if found else -1
