"""A server that does to a connection what a test says, and a client to point at it. Loopback and Unix sockets."""

import asyncio
import base64
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner.adapters.gemini import GeminiProvider
from runner.core.catalog import builtin
from runner.core.lifecycle import Reply
from runner.core.task import Assignment, Recipe

KEY = "test-key/that+must~never_show"
MODEL = "gemini-3.1-flash-image-preview"
RECORDED = Path(__file__).parents[3] / "shared" / "recorded"


class Hidden:
    """A key holder as the command line has one."""

    def __init__(self, value: str = KEY) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        return self._value


@dataclass
class MemorySink:
    """What storage lends the client."""

    mimes: list[str] = field(default_factory=list)
    data: bytes = b""

    def restart(self, mime: str) -> None:
        self.mimes.append(mime)
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


@dataclass
class Conversation:
    """One connection: the request as it came, and the way to answer."""

    head: str
    body: bytes
    writer: asyncio.StreamWriter
    keep: bool = False
    """Whether the connection is read again after the answer."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.writer.transport.abort()

    def headers(self) -> dict[str, str]:
        lines = self.head.split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}


Handler = Callable[[Conversation], Awaitable[None]]


@dataclass
class Served:
    """A running server."""

    port: int
    uds: str | None
    seen: list[Conversation] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self.port else "http://sandbox"


@asynccontextmanager
async def serving(handle: Handler, path: Path | None = None) -> AsyncIterator[Served]:
    """Serve on a port of loopback or on a Unix socket at `path`; ends with all that still hangs on it."""
    served, tasks = Served(0, str(path) if path else None), set[asyncio.Task[Any]]()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            while await _converse(reader, writer, served, handle):
                pass
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await (
        asyncio.start_unix_server(connected, path) if path else asyncio.start_server(connected, "127.0.0.1")
    )
    served.port = 0 if path else server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, served: Served, handle: Handler
) -> bool:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return False
    conversation = Conversation(head, b"", writer)
    conversation.body = await reader.readexactly(int(conversation.headers().get("content-length", 0)))
    served.seen.append(conversation)
    await handle(conversation)
    return conversation.keep


def response(body: bytes | str | dict[str, Any] | list[Any], status: int = 200, **headers: str) -> bytes:
    """A whole HTTP answer with its length; a mapping or a list is sent as JSON."""
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(raw)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + raw


def pictured(data: bytes = b"\x89PNG\r\n\x1a\n-not-really") -> dict[str, Any]:
    """An answer with one picture and nothing else."""
    part = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(data).decode()}}
    return {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; an empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def says(data: bytes) -> Handler:
    """A handler that sends these bytes and closes."""

    async def handle(conversation: Conversation) -> None:
        await conversation.send(data)

    return handle


def assignment(prompt: str = "a cat", **changes: Any) -> Assignment:
    """A task of the owner's model, ready to be sent."""
    recipe = changes.pop("recipe", None) or Recipe(model=changes.pop("model", MODEL))
    values: dict[str, Any] = {"size": "1K", "send_size": True, "aspect": "1:1", **changes}
    return Assignment(
        token="0" * 32,
        job="banana",
        key="k1",
        prompt=prompt,
        recipe=recipe,
        stem="banana/cat",
        pixels=(1024, 1024),
        image_tokens=1120,
        **values,
    )


def client(base_url: str, **options: Any) -> GeminiProvider:
    """A client of the built-in catalog, key included."""
    settings: dict[str, Any] = {"connections": 8, "catalog": builtin(), "key": Hidden(), **options}
    return GeminiProvider(base_url=base_url, **settings)


async def ask(handle: Handler, path: Path | None = None, **options: Any) -> Reply:
    """The reply to one request, served by `handle`."""
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(handle, path))
        provider = await stack.enter_async_context(client(served.url, uds=served.uds, **options))
        return await provider.render(assignment(), MemorySink())


def recorded(name: str) -> Path:
    """A recorded answer; skips the test where the recordings are not at hand."""
    if not RECORDED.is_dir():
        pytest.skip("the recorded answers are not beside this repository")
    return RECORDED / name
