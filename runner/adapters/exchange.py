"""One request about files and its whole answer; an error status is passing, about the MIME type, or final.

The key goes only where it is asked for: the URL that takes bytes is a capability of its own (gemini-api.md §9).
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urljoin

import anyio
import httpx

from runner.adapters.gemini import body_of
from runner.adapters.quota import read_delay_s
from runner.adapters.seal import MASK, one_line, shortened, spellings
from runner.adapters.session import Secret
from runner.adapters.setback import MimeRefusedError, SetbackError, Then, UploadError
from runner.adapters.transport import JOURNEY_ERRORS
from runner.adapters.trouble import Trouble, read_trouble
from runner.adapters.wire import load, mapping

ANSWER_S = 60.0

_CHUNK_S = 600.0
"""For one chunk: 8 MiB in ten minutes is 112 kbit/s."""
_LARGEST_BODY = 1024 * 1024
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_SHOWN_CHARS = 400


@dataclass(frozen=True, slots=True)
class Answer:
    """A response with its whole body."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def upload_status(self) -> str:
        return str(self.headers.get("x-goog-upload-status", "")).lower()

    @property
    def data(self) -> dict[str, Any]:
        try:
            return mapping(load(self.body))
        except ValueError:
            return {}

    @property
    def trouble(self) -> Trouble:
        return read_trouble(self.body)

    @property
    def about_mime(self) -> bool:
        """Whether it refuses the type of a file (gemini-api.md §9.2)."""
        return self.status in {400, 415} and "mime" in self.trouble.said.lower()


class Exchange:
    """Requests of one client; what it says to others holds no secret."""

    def __init__(self, http: httpx.AsyncClient, prefix: str, key: Secret, with_key: httpx.Auth) -> None:
        self.http, self.prefix, self.with_key = http, prefix, with_key
        self._key = key

    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes = b"",
        *,
        then: Then,
        auth: httpx.Auth | None = None,
    ) -> Answer:
        """One request and its whole answer; without `auth` the key stays here. `then` follows a broken one."""
        sent = body_of(data)
        answer: Answer | None = None
        try:
            with anyio.move_on_after(_CHUNK_S if data else ANSWER_S):
                async with self.http.stream(
                    method, url, content=sent["content"], headers={**headers, **sent["headers"]}, auth=auth
                ) as response:
                    answer = Answer(response.status_code, response.headers, await _body(response))
        except JOURNEY_ERRORS as error:
            raise SetbackError(self.sealed(f"{type(error).__name__}: {error}"), then) from None
        if answer is None:
            raise SetbackError("no answer in time", then)
        return answer

    async def whole(self, response: httpx.Response) -> Answer:
        """The answer of a response whose body is still to come, closed; cut where it breaks."""
        body = b""
        try:
            with anyio.move_on_after(ANSWER_S), suppress(*JOURNEY_ERRORS):
                body = await _body(response)
        finally:
            with suppress(*JOURNEY_ERRORS):
                await response.aclose()
        return Answer(response.status_code, response.headers, body)

    def refuse(self, answer: Answer, *, then: Then) -> NoReturn:
        """An error status: passing, about the MIME type, or final."""
        trouble, said = answer.trouble, self.said(answer)
        if answer.about_mime:
            raise MimeRefusedError(said)
        if answer.status == 429 and "file_storage_bytes" in trouble.said:
            raise UploadError(f"the storage for files is full until old ones expire: {said}")
        if answer.status in {408, 429} or answer.status >= 500:
            raise SetbackError(said, then, read_delay_s(trouble, answer.headers))
        raise UploadError(said)

    def reachable(self, url: str) -> str:
        """The address that the service gave, as it is: on another host, or behind a router, too (§9.2, §11).

        Also where it redirects a download to.
        """
        base = httpx.URL(self.prefix)
        try:
            found = httpx.URL(urljoin(self.prefix, url))
        except (httpx.InvalidURL, ValueError):
            raise UploadError("the service named an address for the bytes that cannot be read") from None
        plain = found.scheme == "http" and (base.scheme == "http" or found.host in _LOOPBACK)
        if not found.host or not (plain or found.scheme == "https"):
            raise UploadError("the service named an address for the bytes that is not encrypted")
        return str(found)

    def said(self, answer: Answer) -> str:
        said = answer.trouble.said
        return self.sealed(f"HTTP {answer.status}: {said}" if said else f"HTTP {answer.status}")

    def sealed(self, text: str) -> str:
        for secret in spellings(self._key.get_secret_value()):
            text = text.replace(secret, MASK)
        return shortened(one_line(text), _SHOWN_CHARS)


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > _LARGEST_BODY:
            break
    return bytes(body)
