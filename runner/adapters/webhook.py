"""Posts one JSON object to whoever wants to hear of a run, signed. Short time-outs, few tries, no redirects.

The signature is `HMAC-SHA256(secret, "<timestamp>.<body>")` in hexadecimal, the body as it was sent. Who receives
it computes the same from the header `X-Bulkrender-Timestamp` (seconds since 1970) and the bytes of the body,
compares it in constant time with `X-Bulkrender-Signature` (`sha256=<hex>`), and refuses one some minutes old.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping

import anyio
import httpx

from runner.adapters.seal import one_line, shortened
from runner.adapters.session import common_headers
from runner.adapters.transport import JOURNEY_ERRORS, Journey, Transport, broken, plainly
from runner.core.errors import UsageError

TRIES = 3
PAUSES_S = (1.0, 3.0)
"""Between the tries."""
ANSWERS_WITHIN_S = 5.0
"""Each of them, connection included."""


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """`sha256=<hex>` of a body sent at a time."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


async def post(
    url: str,
    body: bytes,
    *,
    event: str,
    secret: str | None,
    utc: Callable[[], float] = time.time,
    pauses_s: tuple[float, ...] = PAUSES_S,
) -> str | None:
    """Post a body; None once it was taken, else what was wrong, in words that do not repeat the address.

    Repeats what may pass: no answer, 408, 429 and 5xx. Never raises for what the other side does.
    """
    said = ""
    try:
        async with _client(url) as client:
            for pause_s in (*pauses_s, None):
                failed, again = await _once(client, url, body, _headers(event, secret, body, utc()))
                if failed is None:
                    return None
                said = failed
                if not again or pause_s is None:
                    break
                await anyio.sleep(pause_s)
    except (
        UsageError,
        httpx.InvalidURL,
        ValueError,
    ) as error:  # a proxy of the environment, a host no DNS can carry
        return str(error)
    return said


def _client(url: str) -> httpx.AsyncClient:
    transport = Transport(httpx.URL(url), connections=1, uds=None)
    return httpx.AsyncClient(transport=transport, headers=common_headers(), timeout=None)  # noqa: S113 - of each try


def _headers(event: str, secret: str | None, body: bytes, now_utc: float) -> Mapping[str, str]:
    timestamp = str(int(now_utc))
    signed = {} if secret is None else {"x-bulkrender-signature": signature(secret, timestamp, body)}
    return {
        "content-type": "application/json",
        "x-bulkrender-event": event,
        "x-bulkrender-timestamp": timestamp,
        **signed,
    }


async def _once(
    client: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str]
) -> tuple[str | None, bool]:
    """What was wrong, and whether it may pass."""
    with anyio.move_on_after(ANSWERS_WITHIN_S) as scope:
        try:
            async with client.stream("POST", url, content=body, headers=headers) as response:
                status = response.status_code
        except JOURNEY_ERRORS as error:
            cause = broken(error, Journey(scope, ANSWERS_WITHIN_S)).cause
            return shortened(one_line(f"cannot be reached ({plainly(cause)})"), 200), True
        if 200 <= status < 300:
            return None, False
        return f"answers HTTP {status}", status in {408, 429} or status >= 500
    return f"no answer within {ANSWERS_WITHIN_S:g} s", True
