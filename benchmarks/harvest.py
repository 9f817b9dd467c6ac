"""What it costs to take pictures out of a batch's result file: CPU against `json` and `base64`, and peak memory.

Run: `python -m benchmarks.harvest`. Times are CPU of this process; only the ratio means anything elsewhere. Memory
is that of a process of its own, which downloads lines of 20 MB from a server that makes them up.
"""

import asyncio
import base64
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

from aiohttp import web

from runner.adapters.harvest import BATCH_BYTES, ResultReader, harvest
from runner.adapters.rejection import Asked
from runner.adapters.scanner import Spool
from runner.adapters.uploads import FilesClient
from runner.core.catalog import builtin

ROUNDS = 7
SIGNATURE_BYTES = 1_000_000
SIZES = {"1K": 700_000, "4K": 16_700_000}
"""Bytes of a picture."""
LINE_BYTES = 20_000_000
FEW, MANY = 4, 400
MOST_MB = 30
LONGEST_S = 120.0

ASKED = Asked("m", "", builtin())


class _Count:
    """A sink that only counts."""

    def __init__(self) -> None:
        self.bytes = 0

    def restart(self, mime: str) -> None:  # noqa: ARG002 - the port's signature
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self.bytes += len(data)


class _Key:
    def get_secret_value(self) -> str:
        return "sandbox"


def result_line(picture: bytes) -> bytes:
    """A line as it was seen: the answer before the key, and a signature beside the picture."""
    inline = {"mimeType": "image/png", "data": base64.b64encode(picture).decode()}
    part = {"inlineData": inline, "thoughtSignature": base64.b64encode(os.urandom(SIGNATURE_BYTES)).decode()}
    candidate = {"content": {"parts": [part]}, "finishReason": "STOP"}
    return json.dumps({"response": {"candidates": [candidate]}, "key": "k"}).encode() + b"\n"


def plain(line: bytes) -> int:
    """What a script would do."""
    response = json.loads(line)["response"]
    return len(base64.b64decode(response["candidates"][0]["content"]["parts"][0]["inlineData"]["data"]))


def ours(line: bytes) -> int:
    """What a harvest does, its hash of the line and its way through the spool included."""
    with tempfile.TemporaryFile() as file:
        spool, count = Spool(file), _Count()
        reader = ResultReader(spool, ASKED)
        reader.opened(0)
        for start in range(0, len(line), BATCH_BYTES):
            _, found = reader.take(line[start : start + BATCH_BYTES], 0)
        if found and found.picture:
            for data in spool.read(found.picture):
                count.write(data)
        return count.bytes


def cpu_ms(work: Callable[[bytes], int], line: bytes, size: int) -> float:
    """The median round."""
    rounds = []
    for _ in range(ROUNDS):
        before = time.process_time()
        if work(line) != size:
            raise AssertionError("the picture did not arrive whole")
        rounds.append((time.process_time() - before) * 1_000)
    return sorted(rounds)[ROUNDS // 2]


async def serve(lines: int, request: web.BaseRequest) -> web.StreamResponse:
    """A result file of so many lines, made up while it is sent."""
    head = b'{"response":{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"'
    tail = b'"}}]},"finishReason":"STOP"}]},"key":"k"}\n'
    piece = base64.b64encode(os.urandom(750_000))
    response = web.StreamResponse()
    response.content_length = lines * (len(head) + LINE_BYTES + len(tail))
    await response.prepare(request)
    for _ in range(lines):
        await response.write(head)
        for _ in range(LINE_BYTES // len(piece)):
            await response.write(piece)
        await response.write(tail)
    return response


async def peak_mb(lines: int) -> float:
    """Peak memory of a process that harvests so many lines."""
    runner = web.ServerRunner(web.Server(partial(serve, lines), access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    command = (sys.executable, "-m", "benchmarks.harvest", f"http://{host}:{port}", str(lines))
    try:
        async with asyncio.timeout(LONGEST_S):
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            said, _ = await process.communicate()
    finally:
        await runner.cleanup()
    return float(said)


async def child(url: str, lines: int) -> None:
    """Harvest and print the peak in MB."""
    count, found = _Count(), 0
    with tempfile.TemporaryFile() as spool:
        files = FilesClient(base_url=url, key=_Key())
        results = harvest(files, "files/batch-x", asked=ASKED, spool=spool)
        async with files, aclosing(results):
            async for line in results:
                await line.pour(count)
                found += count.bytes == LINE_BYTES // 4 * 3
    if found != lines:
        raise AssertionError(f"{found} of {lines} pictures arrived whole")
    print(_peak_kb() / 1_000)


def _peak_kb() -> float:
    """Of this process alone: on Linux the other counter begins with the memory of whoever started it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000
    return float(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    """Both measurements."""
    for name, size in SIZES.items():
        line = result_line(os.urandom(size))
        slow, quick = cpu_ms(plain, line, size), cpu_ms(ours, line, size)
        print(f"{name}: json + base64 {slow:.1f} ms, bulkrender {quick:.1f} ms: {slow / quick:.1f} times as quick")
    few, many = asyncio.run(peak_mb(FEW)), asyncio.run(peak_mb(MANY))
    print(f"peak memory: {FEW} lines of 20 MB {few:.0f} MB, {MANY} lines {many:.0f} MB: {many - few:+.1f} MB")
    if many - few > MOST_MB:
        raise SystemExit(f"more than {MOST_MB} MB apart")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(child(sys.argv[1], int(sys.argv[2])))
    else:
        main()
