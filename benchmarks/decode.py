"""What it costs to take a 4K picture out of its answer, as a ratio to plain `json` and `base64`.

Run: `python -m benchmarks.decode`. Times are CPU of this process; only the ratio means anything elsewhere.
"""

import base64
import json
import os
import time
from collections.abc import Callable

from runner.adapters.answer import read_answer

PICTURE_BYTES = 16_700_000
SIGNATURE_BYTES = 1_000_000
ROUNDS = 7


class _Count:
    """A sink that only counts."""

    def __init__(self) -> None:
        self.bytes = 0

    def restart(self, mime: str) -> None:  # noqa: ARG002 - the port's signature
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self.bytes += len(data)


def answer() -> bytes:
    """An answer of the shape that was recorded: a picture, and a signature beside it."""
    picture = {"mimeType": "image/png", "data": base64.b64encode(os.urandom(PICTURE_BYTES)).decode()}
    signature = base64.b64encode(os.urandom(SIGNATURE_BYTES)).decode()
    part = {"inlineData": picture, "thoughtSignature": signature}
    candidate = {"content": {"parts": [part]}, "finishReason": "STOP"}
    return json.dumps({"candidates": [candidate], "usageMetadata": {"promptTokenCount": 9}}).encode()


def plain(body: bytes) -> int:
    """What a script would do."""
    data = json.loads(body)["candidates"][0]["content"]["parts"][0]["inlineData"]["data"]
    return len(base64.b64decode(data))


def ours(body: bytes) -> int:
    """What the client does."""
    sink = _Count()
    read_answer(body, asked="m", tier=None, sink=sink)
    return sink.bytes


def cpu_ms(work: Callable[[bytes], int], body: bytes) -> float:
    """The median round."""
    rounds = []
    for _ in range(ROUNDS):
        before = time.process_time()
        if work(body) != PICTURE_BYTES:
            raise AssertionError("the picture did not arrive whole")
        rounds.append((time.process_time() - before) * 1_000)
    return sorted(rounds)[ROUNDS // 2]


if __name__ == "__main__":
    body = answer()
    slow, quick = cpu_ms(plain, body), cpu_ms(ours, body)
    print(f"json + base64 {slow:.1f} ms, bulkrender {quick:.1f} ms: {slow / quick:.1f} times as quick")
