"""A sandbox in a thread, and HTTP as bytes, so that tests see what a client library would smooth over."""

import asyncio
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from runner.sandbox import Options, create_app, fault_plan

MODEL = "gemini-3.1-flash-image-preview"
CALM = "details_missing=0,overrun=0"

Json = dict[str, Any]


@dataclass(frozen=True)
class Exchange:
    """Everything that came back on one connection, and whether it ended by RST."""

    raw: bytes
    reset: bool = False

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def body(self) -> bytes:
        body = self.raw.partition(b"\r\n\r\n")[2]
        return b"".join(_chunks(body)) if self.headers.get("transfer-encoding") == "chunked" else body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, rest = body.partition(b"\r\n")
        yield rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]


@dataclass(frozen=True)
class Served:
    """A running sandbox."""

    port: int
    state_dir: Path

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, method: str, path: str, content: bytes = b"", key: str | None = "sandbox") -> Exchange:
        with self.connect() as connection:
            connection.sendall(_request(method, path, content, key))
            return _receive(connection)

    def post(
        self, body: Any, *, model: str = MODEL, version: str = "v1beta", key: str | None = "sandbox"
    ) -> Exchange:
        return self.send("POST", f"/{version}/models/{model}:generateContent", json.dumps(body).encode(), key)

    def bill(self) -> list[Json]:
        return _rows(self.state_dir / "bill.jsonl")

    def requests(self) -> list[Json]:
        return _rows(self.state_dir / "requests.jsonl")


def _request(method: str, path: str, content: bytes, key: str | None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: sandbox", "Connection: close", f"Content-Length: {len(content)}"]
    if key is not None:
        lines.append(f"x-goog-api-key: {key}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def _receive(connection: socket.socket) -> Exchange:
    received = b""
    try:
        while data := connection.recv(1 << 20):
            received += data
    except ConnectionResetError:
        return Exchange(received, reset=True)
    return Exchange(received)


def _rows(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@contextmanager
def serving(
    state_dir: Path, *, faults: str = CALM, now: Callable[[], float] = time.time, **options: Any
) -> Iterator[Served]:
    """A sandbox in a thread of its own, on a port of loopback, answering at once unless told otherwise."""
    given = Options(state_dir, faults=fault_plan(faults), **{"latency_s": 0, **options})
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(create_app(given, now=now), shutdown_timeout=0.1, access_log=None)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(_start(runner), loop).result(20)
        yield Served(runner.addresses[0][1], state_dir)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


async def _start(runner: web.AppRunner) -> None:
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()


def asking(prompt: str = "a lighthouse at dusk", **config: Any) -> Json:
    """A request body; keywords go into generationConfig."""
    return {"contents": [{"role": "user", "parts": [{"text": prompt}]}], "generationConfig": config}


def pictures(answer: Json) -> list[Json]:
    """The image parts of an answer that are not thoughts."""
    parts = answer["candidates"][0].get("content", {}).get("parts") or []
    return [part["inlineData"] for part in parts if "inlineData" in part and not part.get("thought")]


def charged(answer: Json) -> tuple[int, int, int]:
    """(input, text, image) tokens that the usage of an answer amounts to, by the documents' rules."""
    usage = answer["usageMetadata"]
    count = {name: usage.get(f"{name}TokenCount", 0) for name in ("prompt", "candidates", "thoughts", "total")}
    itemised = {item["modality"]: item["tokenCount"] for item in usage.get("candidatesTokensDetails", ())}
    shown = pictures(answer) if "candidates" in answer else []
    image = itemised.get("IMAGE", 1120 * len(shown))
    if (
        not shown
        and count["candidates"] == count["thoughts"]
        and count["total"] == count["prompt"] + count["thoughts"]
    ):
        return count["prompt"], count["thoughts"], image
    return count["prompt"], count["candidates"] - image + count["thoughts"], image


def walk(data: bytes) -> str:
    """`jpeg` or `png` if the file is sound from its first byte to its last; AssertionError otherwise."""
    return _walk_jpeg(data) if data.startswith(b"\xff\xd8") else _walk_png(data)


def _walk_jpeg(data: bytes) -> str:
    place = 2
    while True:
        assert data[place] == 0xFF, "a marker belongs here"
        marker = data[place + 1]
        if marker == 0xD9:
            assert place + 2 == len(data), "bytes behind the end"
            return "jpeg"
        assert 0xC0 <= marker <= 0xFE, f"reserved marker {marker:x}"
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
        if marker == 0xDA:
            while data[place] != 0xFF or data[place + 1] in {0, *range(0xD0, 0xD8)}:
                place += 1 if data[place] != 0xFF else 2


def _walk_png(data: bytes) -> str:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, kind = 8, b""
    while kind != b"IEND":
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind = data[place + 4 : place + 8]
        body = data[place + 4 : place + 8 + length]
        assert zlib.crc32(body) == int.from_bytes(data[place + 8 + length : place + 12 + length]), "CRC"
        place += 12 + length
    assert place == len(data), "bytes behind the end"
    return "png"
