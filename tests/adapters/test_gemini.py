"""The client against a server on loopback: what it sends, what whole answers become, how it keeps time."""

import asyncio
import gzip
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import httpx
import pytest

from runner.adapters.gemini import INLINE_BYTES
from runner.adapters.request import payload
from runner.adapters.session import CONNECT_S
from runner.adapters.transport import environment_proxy
from runner.core.errors import UsageError
from runner.core.lifecycle import Lost, Pictured, Reply, Stopped, Unreached, Unusable
from runner.core.reference import Part
from tests.adapters.wire_server import (
    HEAD,
    KEY,
    MODEL,
    Conversation,
    MemorySink,
    ask,
    assignment,
    chunk,
    client,
    pictured,
    response,
    says,
    serving,
)
from tests.driven import drive


def test_the_request_on_the_wire_is_plain_and_carries_the_key_once() -> None:
    async def main() -> None:
        async with (
            serving(says(response(pictured()))) as served,
            client(f"{served.url}/pre/", request_timeout_s=359.2) as c,
        ):
            assert isinstance(await c.render(assignment(), MemorySink()), Pictured)
            (request,) = served.seen
            headers = request.headers()
            assert request.head.startswith(f"POST /pre/v1beta/models/{MODEL}:generateContent HTTP/1.1\r\n")
            assert headers["x-goog-api-key"] == KEY
            assert headers["x-server-timeout"] == "360"
            assert headers["accept-encoding"] == "identity"
            assert headers["content-type"] == "application/json"
            assert headers["user-agent"].startswith("bulkrender/")
            assert (request.head.encode() + request.body).count(KEY.encode()) == 1

    asyncio.run(main())


def test_a_large_request_arrives_whole_with_its_length() -> None:
    async def main() -> None:
        async with serving(says(response(pictured()))) as served, client(served.url) as c:
            task = assignment(references=(Part("image/png", base64=b"QUJD" * 1_000_000),))
            assert isinstance(await c.render(task, MemorySink()), Pictured)
            (request,) = served.seen
            assert "transfer-encoding" not in request.headers()
            assert request.body == payload(task)

    asyncio.run(main())


def test_it_speaks_over_a_unix_socket(tmp_path: Path) -> None:
    assert isinstance(asyncio.run(ask(says(response(pictured())), tmp_path / "s")), Pictured)


@pytest.mark.parametrize("size", [INLINE_BYTES // 2, 3 * INLINE_BYTES])
def test_a_large_answer_is_read_off_the_loop_and_a_small_one_on_it(size: int) -> None:
    threads = []

    class Sink(MemorySink):
        def restart(self, mime: str) -> None:
            threads.append(threading.current_thread())
            super().restart(mime)

    async def main() -> None:
        sink, data = Sink(), bytes(size)
        async with serving(says(response(pictured(data)))) as served, client(served.url) as c:
            assert isinstance(await c.render(assignment(), sink), Pictured)
        assert sink.data == data
        assert (threads[0] is threading.main_thread()) == (size < INLINE_BYTES)

    asyncio.run(main())


def test_the_tier_of_the_header_is_kept() -> None:
    reply = asyncio.run(ask(says(response(pictured(), x_gemini_service_tier="flex"))))
    assert isinstance(reply, Pictured)
    assert reply.answer.tier == "flex"


def test_a_hundred_and_fifty_requests_are_in_flight_at_once() -> None:
    """The transport's own default would stop at 100."""

    async def main() -> None:
        everyone_is_here, arrived = asyncio.Event(), 0

        async def handle(conversation: Conversation) -> None:
            nonlocal arrived
            arrived += 1
            if arrived == 150:
                everyone_is_here.set()
            await everyone_is_here.wait()
            await conversation.send(response(pictured()))

        async with serving(handle) as served, client(served.url, connections=150) as c:
            replies = await asyncio.gather(*(c.render(assignment(), MemorySink()) for _ in range(150)))
        assert all(isinstance(reply, Pictured) for reply in replies)

    asyncio.run(main())


def test_a_redirect_is_not_followed() -> None:
    async def main() -> None:
        async with serving(says(response(pictured()))) as other:
            location = f"{other.url}/?key={KEY}"
            reply = await ask(says(response("", 307, location=location)))
            assert other.seen == []
        assert isinstance(reply, Stopped)
        assert (reply.reason, other.url in reply.message) == ("endpoint", True)

    asyncio.run(main())


# --- time: on a loop that jumps to its next timer, so that minutes take none ---


def timed(handle: Callable[[Conversation], Awaitable[None]], path: Path) -> tuple[Reply, float]:
    """The reply, and how many seconds it took."""

    async def main() -> tuple[Reply, float]:
        start = anyio.current_time()
        reply = await ask(handle, path / "s")
        return reply, anyio.current_time() - start

    return drive(main)


def test_silence_is_lost_after_the_request_timeout(tmp_path: Path) -> None:
    async def handle(_: Conversation) -> None:
        await asyncio.Event().wait()

    reply, took_s = timed(handle, tmp_path)
    assert reply == Lost("timed_out", "no answer within 360 s")
    assert took_s == pytest.approx(360, abs=0.01)


def test_headers_and_white_space_do_not_count_as_an_answer(tmp_path: Path) -> None:
    async def handle(conversation: Conversation) -> None:
        await conversation.send(HEAD)
        while True:
            await asyncio.sleep(20)
            await conversation.send(chunk(b" \r\n\t"))

    reply, took_s = timed(handle, tmp_path)
    assert reply == Lost("timed_out", "no answer within 360 s")
    assert took_s == pytest.approx(360, abs=0.01)


def test_white_space_before_an_answer_that_comes_is_nothing(tmp_path: Path) -> None:
    async def handle(conversation: Conversation) -> None:
        await conversation.send(HEAD)
        for _ in range(17):
            await asyncio.sleep(20)
            await conversation.send(chunk(b"\n"))
        await conversation.send(chunk(response(pictured()).partition(b"\r\n\r\n")[2]) + chunk(b""))

    reply, took_s = timed(handle, tmp_path)
    assert isinstance(reply, Pictured)
    assert took_s == pytest.approx(340, abs=0.01)


def test_a_body_may_drip_as_long_as_it_drips(tmp_path: Path) -> None:
    async def handle(conversation: Conversation) -> None:
        body = response(pictured()).partition(b"\r\n\r\n")[2]
        await conversation.send(HEAD)
        for i in range(0, len(body), 8):
            await asyncio.sleep(59)
            await conversation.send(chunk(body[i : i + 8]))
        await conversation.send(chunk(b""))

    reply, took_s = timed(handle, tmp_path)
    assert isinstance(reply, Pictured)
    assert took_s > 600


def test_a_body_is_cut_after_a_minute_without_a_byte(tmp_path: Path) -> None:
    async def handle(conversation: Conversation) -> None:
        await asyncio.sleep(350)
        await conversation.send(HEAD + chunk(b'{"candidates"'))
        await asyncio.Event().wait()

    reply, took_s = timed(handle, tmp_path)
    assert reply == Lost("body_cut", "no byte for 60 s after 13")
    assert took_s == pytest.approx(410, abs=0.01)


def test_the_time_runs_from_the_send_and_not_from_the_wait_for_a_connection(tmp_path: Path) -> None:
    async def handle(conversation: Conversation) -> None:
        await asyncio.sleep(25)
        await conversation.send(response(pictured()))

    async def main() -> list[Reply]:
        async with serving(handle, tmp_path / "s") as served:
            options = {"uds": served.uds, "connections": 1, "request_timeout_s": 26.0}
            async with client(served.url, **options) as c:
                return await asyncio.gather(*(c.render(assignment(), MemorySink()) for _ in range(2)))

    assert [type(reply) for reply in drive(main)] == [Pictured, Pictured]


def test_a_full_pool_is_a_request_that_never_left(tmp_path: Path) -> None:
    async def main() -> tuple[list[Reply], int]:
        arrived = asyncio.Event()

        async def handle(_: Conversation) -> None:
            arrived.set()
            await asyncio.Event().wait()

        uds = str(tmp_path / "s")
        async with serving(handle, tmp_path / "s") as served, client(served.url, uds=uds, connections=1) as c:
            first = asyncio.create_task(c.render(assignment(), MemorySink()))
            await arrived.wait()
            second = await c.render(assignment(), MemorySink())
            assert anyio.current_time() == pytest.approx(1_000 + CONNECT_S, abs=1.1)
            return [await first, second], len(served.seen)

    (first, second), sent = drive(main)
    assert isinstance(first, Lost)
    assert isinstance(second, Unreached)
    assert second.cause.startswith("no free connection")
    assert sent == 1


def test_a_cancelled_request_frees_its_connection() -> None:
    async def main() -> None:
        hang, arrived = True, asyncio.Event()

        async def handle(conversation: Conversation) -> None:
            arrived.set()
            if hang:
                await asyncio.Event().wait()
            await conversation.send(response(pictured()))

        async with serving(handle) as served, client(served.url, connections=1) as c:
            task = asyncio.create_task(c.render(assignment(), MemorySink()))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            hang = False
            assert isinstance(await c.render(assignment(), MemorySink()), Pictured)

    asyncio.run(main())


def test_a_body_beyond_all_measure_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.adapters.gemini.LARGEST_ANSWER", 1_000)
    reply = asyncio.run(ask(says(response("x" * 500_000))))
    assert isinstance(reply, Lost)
    assert reply.reason == "not_an_answer"


def test_compression_nobody_asked_for_is_undone_and_a_broken_one_is_no_answer() -> None:
    whole = gzip.compress(response(pictured()).partition(b"\r\n\r\n")[2])
    assert isinstance(asyncio.run(ask(says(response(whole, content_encoding="gzip")))), Pictured)
    broken = asyncio.run(ask(says(response(b"not gzip", content_encoding="gzip"))))
    assert isinstance(broken, Lost)
    assert broken.reason == "not_an_answer"


# --- proxies ---


@pytest.mark.parametrize(
    ("base", "env", "expected"),
    [
        ("https://api.example", {"https_proxy": "http://p.example:3128"}, "http://p.example:3128"),
        ("https://api.example", {"all_proxy": "p.example:3128"}, "http://p.example:3128"),
        ("https://api.example", {"http_proxy": "http://p.example"}, None),
        ("https://api.example", {"https_proxy": "http://p.example", "no_proxy": "api.example"}, None),
        ("http://127.0.0.1:99", {"http_proxy": "http://p.example"}, None),
    ],
)
def test_the_environments_proxy_is_used_but_for_loopback(
    base: str, env: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only(env, monkeypatch)
    proxy = environment_proxy(httpx.URL(base))
    assert (proxy and str(proxy.url)) == expected


def test_a_proxy_it_cannot_speak_to_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _only({"https_proxy": "socks5://u:secret@p.example"}, monkeypatch)
    with pytest.raises(UsageError, match="socks5") as caught:
        client("https://api.example")
    assert "secret" not in str(caught.value)


def test_a_proxy_that_refuses_the_tunnel_never_let_the_request_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> Reply:
        async with serving(says(response("", 403))) as proxy:
            _only({"https_proxy": proxy.url}, monkeypatch)
            async with client("https://api.example") as c:
                reply = await c.render(assignment(), MemorySink())
            assert KEY not in proxy.seen[0].head
            return reply

    assert isinstance(asyncio.run(main()), Unreached)


def _only(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def test_a_text_answer_is_unusable_and_keeps_its_words() -> None:
    body = {
        "candidates": [{"content": {"parts": [{"text": "I would rather not.\n\nSorry."}]}, "finishReason": "STOP"}]
    }
    reply = asyncio.run(ask(says(response(body))))
    assert isinstance(reply, Unusable)
    assert (reply.reason, reply.answer.text) == ("words_only", "I would rather not.\n\nSorry.")
