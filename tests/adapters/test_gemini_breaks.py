"""Broken journeys against real sockets: what never left is told from what may have been bought."""

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import httpx
import pytest

from runner.adapters.gemini import GeminiProvider
from runner.adapters.session import CONNECT_S
from runner.adapters.transport import Journey, Transport, broken
from runner.core.lifecycle import Lost, Pictured, Reply, Unreached
from tests.adapters.wire_server import (
    HEAD,
    Conversation,
    Handler,
    MemorySink,
    assignment,
    chunk,
    client,
    pictured,
    response,
    serving,
)
from tests.driven import drive


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def render(base_url: str, uds: str | None = None) -> Reply:
    async with client(base_url, uds=uds) as c:
        return await c.render(assignment(), MemorySink())


def unreached(reply: Reply, cause: str) -> None:
    assert isinstance(reply, Unreached), reply
    assert cause in reply.cause


# --- it never left ---


def test_a_refused_connection_never_left() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        unreached(asyncio.run(render(f"http://127.0.0.1:{closed.getsockname()[1]}")), "ClientConnectorError")


def test_a_socket_nobody_serves_never_left(tmp_path: Path) -> None:
    unreached(asyncio.run(render("http://sandbox", str(tmp_path / "none"))), "UnixClientConnectorError")


@pytest.mark.parametrize("host", ["host.invalid", "a..b", f"{'x' * 70}.invalid"])
def test_a_name_that_leads_nowhere_never_left(host: str) -> None:
    assert isinstance(asyncio.run(render(f"https://{host}")), Unreached)


def test_a_port_that_does_not_exist_never_left() -> None:
    assert isinstance(asyncio.run(render("http://127.0.0.1:99999")), Unreached)


def test_a_connection_that_does_not_come_about_in_time_never_left() -> None:
    async def main() -> tuple[Reply, float]:
        return await render(f"http://127.0.0.1:{port}"), anyio.current_time()

    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        reply, ended = drive(main)
    unreached(reply, "ConnectionTimeoutError")
    assert ended == pytest.approx(1_000 + CONNECT_S, abs=1.1)


def test_tls_to_a_port_that_speaks_none_never_left() -> None:
    async def main() -> Reply:
        async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1")
        async with server:
            return await render(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    unreached(asyncio.run(main()), "SSL")


def test_a_certificate_nobody_vouches_for_never_left(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "k.pem", tmp_path / "c.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    received = []

    async def main() -> Reply:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.append(await reader.read())
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", ssl=context)
        async with server:
            return await render(f"https://localhost:{server.sockets[0].getsockname()[1]}")

    unreached(asyncio.run(main()), "CERTIFICATE_VERIFY_FAILED")
    assert received == []


# --- it may have been bought ---


async def close(_: Conversation) -> None:
    """After reading, without a word."""


async def reset(conversation: Conversation) -> None:
    conversation.reset()


async def reset_after_headers(conversation: Conversation) -> None:
    await conversation.send(HEAD)
    conversation.reset()


def sending(data: bytes) -> Handler:
    async def handle(conversation: Conversation) -> None:
        await conversation.send(data)

    return handle


CUT = response(pictured())[:-20]


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (close, "connection_broken"),
        (reset, "connection_broken"),
        (sending(b"HTTP/1.1 200 OK\r\ncontent-"), "connection_broken"),
        (reset_after_headers, "body_cut"),
        (sending(HEAD), "body_cut"),
        (sending(CUT), "body_cut"),
        (sending(CUT.replace(b"200", b"503", 1)), "body_cut"),
        (sending(CUT.replace(b"200", b"429", 1)), "body_cut"),
        (sending(HEAD + chunk(b'{"candidates":[') + b"40\r\nhalf"), "body_cut"),
        (sending(HEAD + chunk(b"{}") + b"what?\r\n"), "not_an_answer"),
        (sending(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "not_an_answer"),
        (sending(b"\x15\x03\x03\x00\x02\x02\x46"), "not_an_answer"),
    ],
)
def test_what_broke_after_the_send_is_lost_and_not_sent_again(handle: Handler, reason: str) -> None:
    async def main() -> tuple[Reply, int]:
        async with serving(handle) as served:
            return await render(served.url), len(served.seen)

    reply, sent = asyncio.run(main())
    assert isinstance(reply, Lost), reply
    assert (reply.reason, sent) == (reason, 1)
    assert reply.cause


@pytest.mark.parametrize("politely", [True, False])
def test_a_server_that_hangs_up_before_reading_may_have_read(politely: bool) -> None:
    async def main() -> Reply:
        async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close() if politely else Conversation("", b"", writer).reset()

        server = await asyncio.start_server(talk, "127.0.0.1")
        async with server:
            return await render(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    reply = asyncio.run(main())
    assert isinstance(reply, Lost)
    assert reply.reason == "connection_broken"


def test_a_connection_used_again_and_closed_under_the_request_is_lost() -> None:
    async def main() -> list[Reply]:
        async def handle(conversation: Conversation) -> None:
            if len(served.seen) == 1:
                conversation.keep = True
                await conversation.send(response(pictured()).replace(b"connection: close\r\n", b""))

        async with serving(handle) as served, client(served.url) as c:
            replies = [await c.render(assignment(), MemorySink()) for _ in range(2)]
            assert len(served.seen) == 2
            assert served.seen[0].writer is served.seen[1].writer
            return replies

    first, second = asyncio.run(main())
    assert isinstance(first, Pictured)
    assert isinstance(second, Lost)


def test_a_connection_closed_while_idle_is_not_used_again() -> None:
    async def main() -> Reply:
        async def handle(conversation: Conversation) -> None:
            await conversation.send(response(pictured()).replace(b"connection: close\r\n", b""))

        async with serving(handle) as served, client(served.url) as c:
            await c.render(assignment(), MemorySink())
            for connection in _idle(c):
                await (connection.closed or asyncio.sleep(0))
            return await c.render(assignment(), MemorySink())

    assert isinstance(asyncio.run(main()), Pictured)


def _idle(provider: GeminiProvider) -> list[Any]:
    """The connections that its pool keeps for later."""
    transport = provider._http._transport
    assert isinstance(transport, Transport)
    assert isinstance(transport.client, aiohttp.ClientSession)
    assert transport.client.connector is not None
    return [proto for pool in transport.client.connector._conns.values() for proto, _ in pool]


# --- the table itself ---


def judged(error: Exception, *, left: bool) -> Lost | Unreached:
    async def main() -> Lost | Unreached:
        return broken(error, Journey(anyio.CancelScope(), 1.0, left=left))

    return asyncio.run(main())


def test_a_cause_that_never_left_does_not_count_once_the_request_has_left() -> None:
    """In doubt it left: the trace saw the headers go."""
    error = httpx.ConnectTimeout("x")
    error.__cause__ = aiohttp.ConnectionTimeoutError("x")
    assert isinstance(judged(error, left=False), Unreached)
    assert judged(error, left=True) == Lost("timed_out", "ConnectionTimeoutError: x")


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (aiohttp.ServerDisconnectedError(), "connection_broken"),
        (aiohttp.ClientOSError(104, "reset"), "connection_broken"),
        (aiohttp.ClientConnectionError("Connector is closed."), "connection_broken"),
        (aiohttp.SocketTimeoutError("x"), "timed_out"),
        (aiohttp.ClientPayloadError("x"), "body_cut"),
        (TimeoutError(), "timed_out"),
        (OSError(5, "io"), "connection_broken"),
        (httpx.ReadError("x"), "connection_broken"),
    ],
)
def test_any_other_cause_may_have_left(cause: Exception, reason: str) -> None:
    error = httpx.ConnectError("looks as if it never left")
    error.__cause__ = cause
    outcome = judged(error if isinstance(cause, aiohttp.ClientError) else cause, left=False)
    assert isinstance(outcome, Lost)
    assert outcome.reason == reason


def test_every_connection_error_of_the_transport_is_in_the_table() -> None:
    """A new class of aiohttp's must be looked at: it may or may not have left."""
    known = re.findall(
        r"\w+",
        """ClientConnectionError ClientConnectionResetError ClientConnectorCertificateError
        ClientConnectorDNSError ClientConnectorError ClientConnectorSSLError ClientHttpProxyError
        ClientOSError ClientPayloadError ClientProxyConnectionError ClientResponseError ClientSSLError
        ConnectionTimeoutError ContentTypeError InvalidURL InvalidUrlClientError
        InvalidUrlRedirectClientError NonHttpUrlClientError NonHttpUrlRedirectClientError
        RedirectClientError ServerConnectionError ServerDisconnectedError ServerFingerprintMismatch
        ServerTimeoutError SocketTimeoutError TooManyRedirects UnixClientConnectorError UploadAbortedError
        WSServerHandshakeError""",
    )
    found = {
        name
        for module in (aiohttp, aiohttp.client_exceptions)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, aiohttp.ClientError) and kind is not aiohttp.ClientError
    }
    assert found - set(known) == set()
