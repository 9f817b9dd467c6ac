"""The client of the Files API: uploads a file in pieces and goes on where a broken connection left it; downloads.

What the wire says is gemini-api.md §9. The key goes with requests about files; the URL that takes the bytes is a
capability of its own and never gets it. Nothing here knows why a file is uploaded.
"""

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar
from urllib.parse import urljoin

import anyio
import httpx
from anyio import to_thread

from runner.adapters.gemini import body_of
from runner.adapters.quota import read_delay_s
from runner.adapters.references import opened
from runner.adapters.request import download_addresses, file_address, upload_address
from runner.adapters.seal import MASK, one_line, sealed, shortened, spellings
from runner.adapters.session import Secret, Session, common_headers
from runner.adapters.transport import JOURNEY_ERRORS
from runner.adapters.trouble import read_trouble
from runner.adapters.wire import load, mapping, words
from runner.core.reference import Uploaded
from runner.engine.clock import LoopClock
from runner.engine.ports import Clock

CHUNK_BYTES = 8 * 1024 * 1024
"""As the official SDK sends them (gemini-api.md §9.1)."""
LIFETIME_S = 48 * 3600.0
"""Of a file at the service, where it does not say (gemini-api.md §9.2)."""
TRIES = 6
"""In a row without a byte of progress; with the waits in between about a minute."""
THREADS = 4
"""For files that are read while they are sent."""

_ANSWER_S = 60.0
_CHUNK_S = 600.0
"""For one chunk: 8 MiB in ten minutes is 112 kbit/s."""
_LONGEST_WAIT_S = 600.0
"""A service that asks for more is not waited for: it is a limit of the day."""
_PROCESSING_S = 600.0
_POLL_S = 2.0
_CEILING_S = 32.0
_GAP_S = 60.0
"""Of a download, between two pieces."""
_LARGEST_BODY = 1024 * 1024
_LARGEST_STEP = 64 * 1024 * 1024
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_NAME_CHARS = 512
_SHOWN_CHARS = 400
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_HOPS = 5
_RANGE = re.compile(r"bytes (\d{1,18})-", re.ASCII | re.IGNORECASE)

T = TypeVar("T")


class UploadError(Exception):
    """The file could not be uploaded or downloaded, and trying again at once would not help.

    The message holds no secret.
    """


class NoFilesApiError(UploadError):
    """The endpoint has no Files API, as many routers (gemini-api.md §11)."""


class PassingError(UploadError):
    """The service is in trouble or wants to be left alone for long; later it may work."""


class ChangedError(UploadError):
    """The file is not the one that was inspected; nothing of it is kept at the service."""


class MissingFileError(UploadError):
    """There is no such file on this machine, or it cannot be read."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What the service says of a file; empty where it does not."""

    name: str
    uri: str = ""
    mime: str = ""
    state: str = ""
    """`PROCESSING`, `ACTIVE`, `FAILED` and whatever else comes, as it is on the wire."""
    size: int | None = None
    """In bytes."""
    sha256: str = ""
    """As it is on the wire: base64 of the hex digits, or of the digest."""
    error: str = ""
    expires_at_utc: float | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
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


class SetbackError(Exception):
    """It may pass: what to do next, and how long the service wants to be left alone. Its words hold no secret."""

    def __init__(self, said: str, then: Literal["start", "query", "again"], delay_s: float | None = None) -> None:
        super().__init__(said)
        self.then, self.delay_s = then, delay_s


class _MimeRefusedError(Exception):
    """The service does not take the file under this MIME type."""


@dataclass(slots=True)
class Patience:
    """Counts tries since the last progress and waits between them."""

    clock: Clock
    furthest: int = -1
    failures: int = 0

    def reached(self, offset: int) -> None:
        """So many bytes are there: only more than ever before is progress."""
        if offset > self.furthest:
            self.furthest, self.failures = offset, 0

    async def wait(self, setback: SetbackError) -> None:
        """Raises PassingError once there were too many, or the service asks for too long a wait."""
        self.failures += 1
        delay_s = setback.delay_s or 0.0
        if self.failures >= TRIES:
            raise PassingError(f"given up after {self.failures} tries without progress: {setback}")
        if delay_s > _LONGEST_WAIT_S:
            raise PassingError(f"the service asks to wait {delay_s:.0f} s: {setback}")
        backoff_s = min(_CEILING_S, 2.0**self.failures)
        # as the SDK, but spread: never less than half, so that a service in trouble gets its rest
        await self.clock.sleep(max(delay_s, backoff_s * (0.5 + self.clock.jitter() / 2)))


@dataclass(slots=True)
class _Source:
    """A file that is read while it is sent, and hashed on the way."""

    file: BufferedReader
    size: int
    sha256: str
    hashed: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def read(self, offset: int, step: int) -> bytes:
        """Bytes from `offset`; the last of the file only if all of it is what was inspected. Blocks."""
        data = os.pread(self.file.fileno(), min(step, self.size - offset), offset)
        end, known = offset + len(data), self.hashed - offset
        if 0 <= known < len(data):
            self.digest.update(memoryview(data)[known:])
            self.hashed = end
        whole = len(data) == min(step, self.size - offset) and os.fstat(self.file.fileno()).st_size == self.size
        if not whole or (end == self.size and self.digest.hexdigest() != self.sha256):
            raise ChangedError("it changed since it was looked at")
        return data


@dataclass(slots=True)
class _Session:
    """An upload under way."""

    url: str
    step: int
    """Bytes of a chunk."""
    offset: int = 0
    unsure: bool = False
    """Whether the service has to be asked where it stands."""
    refused: str = ""
    """What it said when it refused a chunk."""


@dataclass(frozen=True, slots=True)
class Download:
    """A download under way."""

    start: int
    """Of the file, the byte that comes first: 0 where the service gives all of it whatever it is asked."""
    pieces: AsyncGenerator[bytes]
    """Raises SetbackError where the connection breaks."""


class FilesClient(Session):
    """Uploads, downloads and deletes files (gemini-api.md §9), with the key handling of `GeminiProvider`.

    Waits follow `clock`.
    """

    def __init__(
        self,
        *,
        base_url: str,
        key: Secret,
        version: str = "v1beta",
        connections: int = 4,
        uds: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Raises UsageError where the base URL, the key or a proxy of the environment cannot be used."""
        super().__init__(
            base_url=base_url,
            key=key,
            api=version,
            connections=connections,
            uds=uds,
            headers=common_headers(),
            keyed=False,
        )
        self._clock = clock or LoopClock()
        self._threads = anyio.CapacityLimiter(THREADS)

    def address(self, name: str) -> str:
        """The URI of a file by its name (`files/…`); any other URI as it is."""
        return file_address(self._prefix, name) if name.startswith("files/") else name

    async def upload(
        self,
        path: Path,
        *,
        size: int,
        mimes: Sequence[str],
        display_name: str,
        sha256: str,
    ) -> Uploaded:
        """Send a file and wait until the service can use it.

        `size` in bytes and `sha256` in hex are those of its inspection: a file that is another one by now is given
        up. `mimes` are tried in order, the next one only if the service refuses the type (§9.2). Raises
        UploadError; its kinds tell what may pass (PassingError) from what is wrong.
        """
        source = await self._open(path, size, sha256)
        try:
            return await self._as_any(source, mimes, display_name)
        finally:
            source.file.close()

    async def get(self, name: str) -> RemoteFile | None:
        """A file by its name; None for one unknown to the service, or of another key. Raises UploadError."""
        answer = await self._patiently("GET", name)
        return None if answer.status in {403, 404} else _file(answer.data)

    async def delete(self, name: str) -> None:
        """Delete a file; fine if there is none. Raises UploadError."""
        await self._patiently("DELETE", name)

    def patience(self) -> Patience:
        """Waits between tries as an upload has them."""
        return Patience(self._clock)

    def sealed(self, reply: T) -> T:
        """A reply without the key in any of its texts."""
        return sealed(reply, spellings(self._key.get_secret_value()))

    @asynccontextmanager
    async def download(self, name: str, *, start: int = 0) -> AsyncGenerator[Download]:
        """A file that the service made, from byte `start` if it honours ranges, else from its first (§8.7).

        One try: raises SetbackError for what may pass, UploadError for a file that is gone or was uploaded by us.
        """
        response = await self._opened(name, start)
        pieces = self._pieces(response)
        try:
            yield Download(_first_byte(response.headers) if response.status_code == 206 else 0, pieces)
        finally:
            await pieces.aclose()
            with suppress(*JOURNEY_ERRORS):
                await response.aclose()

    # --- what the service made ---

    async def _opened(self, name: str, start: int) -> httpx.Response:
        """A 200 or 206 with its body still to come, by either address and wherever it redirects to (§2, §8.7)."""
        addresses = download_addresses(self._prefix, name)
        hops = 0
        while True:
            response = await self._get(addresses[0], start)
            if response.status_code in {200, 206}:
                return response
            answer = await self._refusal(response)
            if answer.status == 416 and start:
                start = 0
            elif answer.status in _REDIRECTS and hops < _MOST_HOPS:
                hops += 1
                addresses = [self._takes_bytes(answer.headers.get("location", ""))]
            elif answer.status in {404, 405} and len(addresses) > 1:
                addresses = addresses[1:]
            elif _is_mime(answer):
                raise UploadError(self._said(answer))
            else:
                self._refuse(answer, then="again")

    async def _get(self, url: str, start: int) -> httpx.Response:
        """The key goes to the host of the API alone."""
        headers = {"range": f"bytes={start}-"} if start else {}
        ours = httpx.URL(url).netloc == httpx.URL(self._prefix).netloc
        request = self._http.build_request("GET", url, headers=headers)
        response: httpx.Response | None = None
        try:
            with anyio.move_on_after(_ANSWER_S):
                response = await self._http.send(request, auth=self._with_key if ours else None, stream=True)
        except JOURNEY_ERRORS as error:
            raise SetbackError(self._sealed(f"{type(error).__name__}: {error}"), "again") from None
        if response is None:
            raise SetbackError("no answer in time", "again")
        return response

    async def _refusal(self, response: httpx.Response) -> _Answer:
        body = b""
        try:
            with anyio.move_on_after(_ANSWER_S), suppress(*JOURNEY_ERRORS):
                body = await _body(response)
        finally:
            with suppress(*JOURNEY_ERRORS):
                await response.aclose()
        return _Answer(response.status_code, response.headers, body)

    async def _pieces(self, response: httpx.Response) -> AsyncGenerator[bytes]:
        body = response.aiter_bytes()
        while True:
            try:
                with anyio.fail_after(_GAP_S):
                    piece = await anext(body, None)
            except TimeoutError:
                raise SetbackError(f"no byte for {_GAP_S:g} s", "again") from None
            except JOURNEY_ERRORS as error:
                raise SetbackError(self._sealed(f"{type(error).__name__}: {error}"), "again") from None
            if piece is None:
                return
            yield piece

    # --- from file to session ---

    async def _open(self, path: Path, size: int, sha256: str) -> _Source:
        try:
            file = await to_thread.run_sync(opened, path, limiter=self._threads)
        except FileNotFoundError:
            raise MissingFileError("it is not there any more") from None
        except (OSError, ValueError) as error:
            raise MissingFileError(f"it cannot be read: {self._sealed(str(error))}") from None
        return _Source(file, size, sha256)

    async def _as_any(self, source: _Source, mimes: Sequence[str], display_name: str) -> Uploaded:
        refused = "no MIME type to send it under"
        for mime in mimes:
            try:
                file = await self._as(source, mime, display_name)
            except _MimeRefusedError as error:
                refused = str(error)
            else:
                return await self._usable(file, source, mime)
        raise UploadError(refused)

    async def _as(self, source: _Source, mime: str, display_name: str) -> RemoteFile:
        """One upload, whatever happens to the connection."""
        patience, session = Patience(self._clock), None
        while True:
            try:
                if session is None:
                    session = await self._start(source, mime, display_name)
                file = await (self._query if session.unsure else self._send)(session, source)
                if file:
                    return file
                patience.reached(session.offset)
            except SetbackError as setback:
                await patience.wait(setback)
                if setback.then == "start":
                    session = None
                elif session:
                    session.unsure = setback.then == "query"

    async def _start(self, source: _Source, mime: str, display_name: str) -> _Session:
        said = {"display_name": display_name[:_NAME_CHARS], "mime_type": mime, "size_bytes": source.size}
        headers = {
            "content-type": "application/json",
            "x-goog-upload-protocol": "resumable",
            "x-goog-upload-command": "start",
            "x-goog-upload-header-content-length": str(source.size),
            "x-goog-upload-header-content-type": mime,
        }
        body = json.dumps({"file": said}).encode("ascii")
        url = upload_address(self._prefix)
        answer = await self._exchange("POST", url, headers, body, then="start", auth=self._with_key)
        if answer.status in {404, 405, 501}:
            raise NoFilesApiError(f"this endpoint has no Files API: {self._said(answer)}")
        if not 200 <= answer.status < 300:
            self._refuse(answer, then="start")
        url = answer.headers.get("x-goog-upload-url", "")
        if not url:
            raise NoFilesApiError("this endpoint has no Files API: it names no address to send a file to")
        return _Session(self._takes_bytes(url), _step(answer.headers))

    def _takes_bytes(self, url: str) -> str:
        """The address that the service gave, as it is: on another host, or behind a router, too (§9.2, §11).

        Also where it redirects a download to.
        """
        base = httpx.URL(self._prefix)
        try:
            found = httpx.URL(urljoin(self._prefix, url))
        except (httpx.InvalidURL, ValueError):
            raise UploadError("the service named an address for the bytes that cannot be read") from None
        plain = found.scheme == "http" and (base.scheme == "http" or found.host in _LOOPBACK)
        if not found.host or not (plain or found.scheme == "https"):
            raise UploadError("the service named an address for the bytes that is not encrypted")
        return str(found)

    # --- chunk by chunk ---

    async def _send(self, session: _Session, source: _Source) -> RemoteFile | None:
        """The next chunk; the file once the service has all of it."""
        read = partial(source.read, session.offset, session.step)
        data = await to_thread.run_sync(read, limiter=self._threads)
        end = session.offset + len(data)
        command = "upload, finalize" if end == source.size else "upload"
        headers = {"x-goog-upload-command": command, "x-goog-upload-offset": str(session.offset)}
        answer = await self._exchange("POST", session.url, headers, data, then="query")
        if not 200 <= answer.status < 300:
            self._not_taken(session, answer)
        session.refused = ""
        match answer.upload_status:
            case "active" if end < source.size:
                session.offset = end
                return None
            case "active":
                raise SetbackError("all bytes were sent, and the service waits for more", then="query")
            case "" if "file" not in answer.data:
                raise SetbackError("the service does not say how the upload stands", then="again")
            case "final" | "" if end == source.size:
                return self._final(answer)
            case status:
                raise SetbackError(f"the service ended the upload early ({self._sealed(status)})", then="start")

    def _not_taken(self, session: _Session, answer: _Answer) -> NoReturn:
        """A chunk that was refused: what may pass is waited for, else the service is asked where it stands."""
        if 400 <= answer.status < 500 and answer.status not in {408, 429} and not _is_mime(answer):
            session.refused = self._said(answer)
            raise SetbackError(session.refused, then="query")
        self._refuse(answer, then="query")

    async def _query(self, session: _Session, source: _Source) -> RemoteFile | None:
        """Where does the upload stand? The file, if it is all there already."""
        answer = await self._exchange("POST", session.url, {"x-goog-upload-command": "query"}, then="query")
        if answer.status in {408, 429} or answer.status >= 500:
            self._refuse(answer, then="query")
        received = answer.headers.get("x-goog-upload-size-received", "")
        offset = int(received) if received.isascii() and received.isdigit() else -1
        if answer.status < 300 and answer.upload_status == "final":
            return self._final(answer)
        if answer.status >= 300 or answer.upload_status not in {"active", ""} or not 0 <= offset <= source.hashed:
            raise SetbackError(session.refused or f"the upload is gone: {self._said(answer)}", then="start")
        if session.refused and offset == session.offset:
            raise UploadError(session.refused)
        session.offset, session.unsure, session.refused = offset, False, ""
        return None

    def _final(self, answer: _Answer) -> RemoteFile:
        file = _file(mapping(answer.data.get("file")))
        if not file.name:
            raise SetbackError("the service has the file and does not say what it calls it", then="start")
        return file

    # --- what the service made of it ---

    async def _usable(self, file: RemoteFile, source: _Source, mime: str) -> Uploaded:
        """Waits while the service looks at it; what is not what was sent is deleted."""
        file = await self._processed(file)
        if flaw := self._flaw(file, source):
            with suppress(UploadError):
                await self.delete(file.name)
            raise UploadError(flaw)
        expires = file.expires_at_utc or self._clock.utc() + LIFETIME_S
        return Uploaded(file.name, file.uri or self.address(file.name), file.mime or mime, expires)

    async def _processed(self, file: RemoteFile) -> RemoteFile:
        waited_s = 0.0
        while file.state == "PROCESSING":
            if waited_s >= _PROCESSING_S:
                raise UploadError(f"the service still processes it after {waited_s:.0f} s")
            await self._clock.sleep(_POLL_S)
            waited_s += _POLL_S
            found = await self.get(file.name)
            if found is None:
                raise UploadError("the service lost it while processing it")
            file = found
        return file

    def _flaw(self, file: RemoteFile, source: _Source) -> str:
        if file.state not in {"", "STATE_UNSPECIFIED", "ACTIVE"}:
            return self._sealed(f"the service cannot use it ({file.state}): {file.error or 'it does not say why'}")
        if file.size is not None and file.size != source.size:
            return f"the service received {file.size} bytes of {source.size}"
        if file.sha256 and source.sha256 not in _digests(file.sha256):
            return "the service received other bytes than were sent"
        return ""

    # --- one request ---

    async def _patiently(self, method: str, name: str) -> _Answer:
        patience = Patience(self._clock)
        while True:
            try:
                answer = await self._exchange(
                    method, file_address(self._prefix, name), {}, then="again", auth=self._with_key
                )
                if answer.status in {403, 404} or 200 <= answer.status < 300:
                    return answer
                self._refuse(answer, then="again")
            except SetbackError as setback:
                await patience.wait(setback)
            except _MimeRefusedError as error:
                raise UploadError(str(error)) from None

    async def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes = b"",
        *,
        then: Literal["start", "query", "again"],
        auth: httpx.Auth | None = None,
    ) -> _Answer:
        """One request and its whole answer; without `auth` the key stays here. `then` follows a broken one."""
        sent = body_of(data)
        answer: _Answer | None = None
        try:
            with anyio.move_on_after(_CHUNK_S if data else _ANSWER_S):
                async with self._http.stream(
                    method, url, content=sent["content"], headers={**headers, **sent["headers"]}, auth=auth
                ) as response:
                    answer = _Answer(response.status_code, response.headers, await _body(response))
        except JOURNEY_ERRORS as error:
            raise SetbackError(self._sealed(f"{type(error).__name__}: {error}"), then) from None
        if answer is None:
            raise SetbackError("no answer in time", then)
        return answer

    def _refuse(self, answer: _Answer, *, then: Literal["start", "query", "again"]) -> NoReturn:
        """An error status: passing, about the MIME type, or final."""
        trouble, said = read_trouble(answer.body), self._said(answer)
        if _is_mime(answer):
            raise _MimeRefusedError(said)
        if answer.status == 429 and "file_storage_bytes" in trouble.said:
            raise UploadError(f"the storage for files is full until old ones expire: {said}")
        if answer.status in {408, 429} or answer.status >= 500:
            raise SetbackError(said, then, read_delay_s(trouble, answer.headers))
        raise UploadError(said)

    def _said(self, answer: _Answer) -> str:
        said = read_trouble(answer.body).said
        return self._sealed(f"HTTP {answer.status}: {said}" if said else f"HTTP {answer.status}")

    def _sealed(self, text: str) -> str:
        for secret in spellings(self._key.get_secret_value()):
            text = text.replace(secret, MASK)
        return shortened(one_line(text), _SHOWN_CHARS)


def _first_byte(headers: httpx.Headers) -> int:
    """Where a part of a file begins; one that does not say (RFC 9110 §14.4) fits nothing."""
    found = _RANGE.match(headers.get("content-range", ""))
    return int(found[1]) if found else -1


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > _LARGEST_BODY:
            break
    return bytes(body)


def _step(headers: httpx.Headers) -> int:
    """Bytes of a chunk: the largest multiple of the granularity that the service names, up to `CHUNK_BYTES`."""
    named = headers.get("x-goog-upload-chunk-granularity", "")
    grain = int(named) if named.isascii() and named.isdigit() and len(named) < 12 else 1
    if not 0 < grain <= _LARGEST_STEP:
        return CHUNK_BYTES
    return max(grain, CHUNK_BYTES // grain * grain)


def _is_mime(answer: _Answer) -> bool:
    return answer.status in {400, 415} and "mime" in read_trouble(answer.body).said.lower()


def _file(data: Mapping[str, Any]) -> RemoteFile:
    size = words(data.get("sizeBytes"))
    return RemoteFile(
        name=words(data.get("name")),
        uri=words(data.get("uri")),
        mime=words(data.get("mimeType")),
        state=words(data.get("state")),
        size=int(size) if size.isascii() and size.isdigit() and len(size) < 19 else None,
        sha256=words(data.get("sha256Hash")),
        error=words(mapping(data.get("error")).get("message")),
        expires_at_utc=timestamp(words(data.get("expirationTime"))),
    )


def timestamp(text: str) -> float | None:
    """RFC 3339 as seconds since 1970; None for anything else. Nanoseconds are cut."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _digests(sent: str) -> set[str]:
    """What a `sha256Hash` may mean, in hex: base64 of the hex digits, or of the digest; in either alphabet."""
    plain = sent.replace("-", "+").replace("_", "/")
    try:
        raw = base64.b64decode(plain + "=" * (-len(plain) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    return {sent.lower(), raw.hex(), raw.decode("ascii", "replace").lower()}
