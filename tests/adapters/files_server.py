"""A Files API that a test can break: sessions, chunks, queries, files, as gemini-api.md §9 describes them."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import unused_port

from runner.adapters.uploads import FilesClient
from tests.adapters.wire_server import Hidden
from tests.driven import DrivenClock

GRAIN = 256 * 1024


@dataclass
class Sent:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def command(self) -> str:
        return self.headers.get("x-goog-upload-command", "")

    @property
    def line(self) -> str:
        offset = self.headers.get("x-goog-upload-offset")
        return " ".join(filter(None, [self.command or self.method, offset]))


Break = Callable[[Sent, "FilesApi"], Awaitable[web.StreamResponse | None] | web.StreamResponse | None]


@dataclass
class FilesApi:
    """What the server holds, and what it does instead; `breaks` are used up from the front, None passes."""

    breaks: list[Break | None] = field(default_factory=list)
    seen: list[Sent] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    meta: dict[str, Any] = field(default_factory=dict)
    """Laid over every file that is returned."""
    upload_url: str = ""
    """Instead of its own."""
    started: dict[str, Any] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    final: bool = False
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[str]:
        return [sent.line for sent in self.seen]

    def file(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.received).hexdigest()
        held = {
            "name": "files/abc",
            "mimeType": self.started.get("mime_type", ""),
            "sizeBytes": str(len(self.received)),
            "expirationTime": "2027-01-16T08:16:40.123456789Z",
            "sha256Hash": base64.b64encode(digest.encode()).decode(),
            "uri": f"{self.url}/v1beta/files/abc",
            "state": "ACTIVE",
        }
        return {name: value for name, value in (held | self.meta).items() if value is not None}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        sent = Sent(request.method, request.path_qs, headers, await request.content.read())
        self.seen.append(sent)
        instead = self.breaks.pop(0) if self.breaks else None
        if instead is not None:
            made = instead(sent, self)
            answer = await made if isinstance(made, Awaitable) else made
            if answer is not None:
                return answer
        return await self._answer(request, sent)

    async def _answer(self, request: web.BaseRequest, sent: Sent) -> web.StreamResponse:
        match sent.command:
            case "start":
                self.received, self.started, self.final = bytearray(), json.loads(sent.body)["file"], False
                named = self.upload_url or f"{self.url}/upload/v1beta/files?upload_id=1"
                return self.status("active", x_goog_upload_url=named, x_goog_upload_chunk_granularity=str(GRAIN))
            case "query":
                size = str(len(self.received))
                return self.status("final" if self.final else "active", x_goog_upload_size_received=size)
            case "upload" | "upload, finalize":
                return self.take(sent)
        if request.method == "DELETE":
            self.deleted.append(request.path)
            return web.json_response({})
        return web.json_response(self.file())

    def take(self, sent: Sent) -> web.StreamResponse:
        if int(sent.headers["x-goog-upload-offset"]) != len(self.received):
            return error(400, "wrong offset")
        self.received += sent.body
        if sent.command == "upload":
            return self.status("active")
        self.final = True
        return web.json_response({"file": self.file()}, headers={"X-Goog-Upload-Status": "final"})

    def status(self, status: str, **headers: str) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(headers={"X-Goog-Upload-Status": status, **named})


def error(status: int, message: str, *details: dict[str, Any], **headers: str) -> web.Response:
    said = {"error": {"code": status, "message": message, "status": "X", "details": list(details)}}
    return web.json_response(said, status=status, headers={n.replace("_", "-"): v for n, v in headers.items()})


def says(status: int, message: str = "no", *details: dict[str, Any], **headers: str) -> Break:
    """An error instead of an answer."""
    return lambda _sent, _api: error(status, message, *details, **headers)


def cut(sent: Sent, api: FilesApi) -> web.StreamResponse:
    """The connection ends before anything is taken."""
    raise ConnectionAbortedError


def taken_and_cut(sent: Sent, api: FilesApi) -> web.StreamResponse:
    """All of it is taken, and the answer is lost."""
    api.take(sent)
    raise ConnectionAbortedError


def half_taken(sent: Sent, api: FilesApi) -> web.StreamResponse:
    """A part of it is taken, and the answer is lost."""
    api.received += sent.body[: GRAIN + 1]
    raise ConnectionAbortedError


@asynccontextmanager
async def files_api(path: Path | None = None, **state: Any) -> AsyncIterator[FilesApi]:
    """Serve on a port of loopback, or on a Unix socket at `path`."""
    api = FilesApi(port=unused_port(), **state)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await api.handle(request)
        except ConnectionAbortedError:
            assert request.transport
            request.transport.abort()
            return web.Response()

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    site = web.UnixSite(runner, str(path)) if path else web.TCPSite(runner, "127.0.0.1", api.port)
    await site.start()
    try:
        yield api
    finally:
        await runner.cleanup()


class ImpatientClock(DrivenClock):
    """A clock whose waits take no time; `waited` remembers them."""

    def __init__(self) -> None:
        super().__init__(chance=1.0)
        self.waited: list[float] = []

    def now(self) -> float:
        return sum(self.waited)

    async def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)


def files_client(api: FilesApi, **options: Any) -> FilesClient:
    settings: dict[str, Any] = {"base_url": api.url, "key": Hidden(), "clock": ImpatientClock(), **options}
    return FilesClient(**settings)
