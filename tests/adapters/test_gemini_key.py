"""The key is in one header of the request and nowhere else, whatever comes back."""

import asyncio
import logging
import pickle

import pytest

from runner.core.errors import UsageError
from tests.adapters.wire_server import KEY, Hidden, MemorySink, ask, assignment, client, response, says, serving


@pytest.mark.parametrize("value", ["", "a\nb", " a", "clé", "a\x7f"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        client("http://h", key=Hidden(value))
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        response({"error": {"code": 400, "message": f"bad key {KEY}", "status": "INVALID_ARGUMENT"}}, 400),
        response(f"<html>{'x' * 190}{KEY}</html>", 502),
        response(f"{' ' * 6_000}{'y' * 120}{KEY}{'z' * 9_000}"),
        response("test-key%2Fthat%2Bmust~never_show", 404),
        response({"error": {"message": KEY, "code": KEY, "status": KEY}}, 429),
        response({"candidates": [{"finishReason": KEY, "finishMessage": KEY}]}),
        response({"candidates": [{"content": {"parts": [{"text": f"{KEY} {KEY}"}]}}], "modelVersion": KEY}),
        response({"promptFeedback": {"blockReason": KEY}, "responseId": KEY, "modelStatus": {"message": KEY}}),
        response({"candidates": [{"content": {"parts": [{"fileData": {"fileUri": f"https://{KEY}/x"}}]}}]}),
        response("", 302, location=f"https://{KEY}/"),
        f"HTTP/1.1 {KEY} garbage\r\n\r\n".encode(),
        f"HTTP/1.1 403 {KEY}\r\n{KEY}: {KEY}\r\ncontent-length: 0\r\n\r\n".encode(),
        f"{KEY}\r\n\r\n".encode(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n" + KEY.encode(),
    ],
)
def test_a_key_that_comes_back_is_masked_in_everything(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> str:
        async with serving(says(data)) as served, client(served.url) as c:
            reply = await c.render(assignment(), MemorySink())
            shown = f"{c!r} {c} {vars(c)!r} {c._http!r} {c._http.headers!r}"
            return f"{reply!r} {pickle.loads(pickle.dumps(reply))!r} {shown}"

    told = asyncio.run(main(), debug=True) + caplog.text
    assert caplog.text
    assert [form for form in (KEY, KEY[:12], "never_show") if form in told] == []


def test_messages_are_one_short_line() -> None:
    noise = "line\r\n\x1b[31m\u2028" * 500
    reply = asyncio.run(ask(says(response({"error": {"message": noise, "status": "X"}}, 400))))
    message = getattr(reply, "message", "")
    assert len(message) == 400
    assert message.isprintable()


def test_a_client_can_be_made_before_there_is_a_loop() -> None:
    provider = client("http://127.0.0.1:1")
    assert KEY not in repr(vars(provider))
    asyncio.run(provider.aclose())
