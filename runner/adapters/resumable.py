"""One upload in pieces, which goes on where a broken connection left it (gemini-api.md §9.1)."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

import anyio
import httpx
from anyio import to_thread

from runner.adapters.exchange import Answer, Exchange
from runner.adapters.references import opened
from runner.adapters.remotefile import RemoteFile, read_file
from runner.adapters.request import upload_address
from runner.adapters.setback import (
    ChangedError,
    MissingFileError,
    NoFilesApiError,
    Patience,
    SetbackError,
    UploadError,
)
from runner.adapters.wire import mapping
from runner.engine.ports import Clock

CHUNK_BYTES = 8 * 1024 * 1024
"""As the official SDK sends them (gemini-api.md §9.1)."""

_LARGEST_STEP = 64 * 1024 * 1024
_NAME_CHARS = 512


@dataclass(slots=True)
class Source:
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


class ResumableUploads:
    """Sends files, one request at a time."""

    def __init__(self, exchange: Exchange, clock: Clock, threads: anyio.CapacityLimiter) -> None:
        self._exchange, self._clock, self._threads = exchange, clock, threads

    async def open(self, path: Path, size: int, sha256: str) -> Source:
        """A file that is there as it was inspected: `size` in bytes, `sha256` in hex. Raises MissingFileError."""
        try:
            file = await to_thread.run_sync(opened, path, limiter=self._threads)
        except FileNotFoundError:
            raise MissingFileError("it is not there any more") from None
        except (OSError, ValueError) as error:
            raise MissingFileError(f"it cannot be read: {self._exchange.sealed(str(error))}") from None
        return Source(file, size, sha256)

    async def send(self, source: Source, mime: str, display_name: str) -> RemoteFile:
        """One upload, whatever happens to the connection. Raises UploadError, MimeRefusedError."""
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

    async def _start(self, source: Source, mime: str, display_name: str) -> _Session:
        said = {"display_name": display_name[:_NAME_CHARS], "mime_type": mime, "size_bytes": source.size}
        headers = {
            "content-type": "application/json",
            "x-goog-upload-protocol": "resumable",
            "x-goog-upload-command": "start",
            "x-goog-upload-header-content-length": str(source.size),
            "x-goog-upload-header-content-type": mime,
        }
        body = json.dumps({"file": said}).encode("ascii")
        url = upload_address(self._exchange.prefix)
        answer = await self._exchange.ask("POST", url, headers, body, then="start", auth=self._exchange.with_key)
        if answer.status in {404, 405, 501}:
            raise NoFilesApiError(f"this endpoint has no Files API: {self._exchange.said(answer)}")
        if not 200 <= answer.status < 300:
            self._exchange.refuse(answer, then="start")
        url = answer.headers.get("x-goog-upload-url", "")
        if not url:
            raise NoFilesApiError("this endpoint has no Files API: it names no address to send a file to")
        return _Session(self._exchange.reachable(url), _step(answer.headers))

    # --- chunk by chunk ---

    async def _send(self, session: _Session, source: Source) -> RemoteFile | None:
        """The next chunk; the file once the service has all of it."""
        read = partial(source.read, session.offset, session.step)
        data = await to_thread.run_sync(read, limiter=self._threads)
        end = session.offset + len(data)
        command = "upload, finalize" if end == source.size else "upload"
        headers = {"x-goog-upload-command": command, "x-goog-upload-offset": str(session.offset)}
        answer = await self._exchange.ask("POST", session.url, headers, data, then="query")
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
                raise SetbackError(
                    f"the service ended the upload early ({self._exchange.sealed(status)})", then="start"
                )

    def _not_taken(self, session: _Session, answer: Answer) -> NoReturn:
        """A chunk that was refused: what may pass is waited for, else the service is asked where it stands."""
        if 400 <= answer.status < 500 and answer.status not in {408, 429} and not answer.about_mime:
            session.refused = self._exchange.said(answer)
            raise SetbackError(session.refused, then="query")
        self._exchange.refuse(answer, then="query")

    async def _query(self, session: _Session, source: Source) -> RemoteFile | None:
        """Where does the upload stand? The file, if it is all there already."""
        answer = await self._exchange.ask("POST", session.url, {"x-goog-upload-command": "query"}, then="query")
        if answer.status in {408, 429} or answer.status >= 500:
            self._exchange.refuse(answer, then="query")
        received = answer.headers.get("x-goog-upload-size-received", "")
        offset = int(received) if received.isascii() and received.isdigit() else -1
        if answer.status < 300 and answer.upload_status == "final":
            return self._final(answer)
        if answer.status >= 300 or answer.upload_status not in {"active", ""} or not 0 <= offset <= source.hashed:
            raise SetbackError(
                session.refused or f"the upload is gone: {self._exchange.said(answer)}", then="start"
            )
        if session.refused and offset == session.offset:
            raise UploadError(session.refused)
        session.offset, session.unsure, session.refused = offset, False, ""
        return None

    def _final(self, answer: Answer) -> RemoteFile:
        file = read_file(mapping(answer.data.get("file")))
        if not file.name:
            raise SetbackError("the service has the file and does not say what it calls it", then="start")
        return file


def _step(headers: httpx.Headers) -> int:
    """Bytes of a chunk: the largest multiple of the granularity that the service names, up to `CHUNK_BYTES`."""
    named = headers.get("x-goog-upload-chunk-granularity", "")
    grain = int(named) if named.isascii() and named.isdigit() and len(named) < 12 else 1
    if not 0 < grain <= _LARGEST_STEP:
        return CHUNK_BYTES
    return max(grain, CHUNK_BYTES // grain * grain)
