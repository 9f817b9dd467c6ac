"""Claim and settle as the ledger grows, as a ratio to the smallest one.

Run: `python -m benchmarks.claims`. Each ledger has nine of ten tasks done. CPU of all threads is compared: what
the disk takes to sync is its own affair.
"""

import asyncio
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from runner.core.budget import Cap
from runner.core.catalog import builtin
from runner.core.lifecycle import Answer, Made, Picture, Usage
from runner.core.limits import Limits
from runner.core.pricing import settlement, sheet
from runner.core.retry import RetryPolicy, Tries, decide
from runner.core.task import Recipe, TaskSpec
from runner.ledger import Claimed, JobSpec, Ledger, Wish

SIZES = (1_000, 10_000, 40_000)
CLAIMS = 200
MODEL = builtin().models["gemini-3.1-flash-image-preview"]
SHEET = sheet(MODEL, "standard")
WISH = Wish("e", MODEL.id, Limits(rpm=10_000_000))


def specs(count: int) -> Iterator[TaskSpec]:
    """Tasks of one prompt."""
    recipe = Recipe(MODEL.id, thinking="minimal")
    return (TaskSpec(f"k{n}", "p", "a cat", recipe, "1K", "1:1", (), 1, f"j/{n}", n) for n in range(count))


async def buy(ledger: Ledger) -> None:
    """One claim and its settle."""
    token = uuid.uuid4().hex
    claimed = await ledger.claim("j", now=1.0, sheet=SHEET, cap=Cap(), token=token, wish=WISH)
    if not isinstance(claimed, Claimed):
        raise TypeError(f"nothing to claim: {claimed}")
    usage = Usage(prompt=3, candidates=1_200, image=1_120)
    outcome = Made(Answer(pictures=1, usage=usage), Picture(f"{claimed.stem}.png", "0" * 64, 1, "image/png", 1, 1))
    settled = settlement(outcome, claimed.quote, SHEET, "1K")
    move = decide(outcome, Tries(), RetryPolicy(), jitter=0.0)
    await ledger.settle(claimed, outcome, settled, move, now=2.0, latency_s=1.0)


async def measure(folder: Path, count: int) -> float:
    """CPU milliseconds of one claim and settle in a ledger of `count` tasks."""
    with Ledger.open(f"sqlite:///{folder / str(count)}.db", "live", now_utc=0.0) as ledger:
        await ledger.enqueue(JobSpec("j", "0" * 64, "/", Cap(), {}), specs(count), now=0.0)
        for _ in range(count * 9 // 10 // 500):
            await asyncio.gather(*(buy(ledger) for _ in range(500)))
        before = time.process_time()
        for _ in range(CLAIMS):
            await buy(ledger)
        return (time.process_time() - before) * 1_000 / CLAIMS


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        times = [asyncio.run(measure(Path(name), count)) for count in SIZES]
    for count, ms in zip(SIZES, times, strict=True):
        print(f"{count:>9} tasks: {ms:.2f} ms of CPU a claim and settle, {ms / times[0]:.2f} x")
