"""Runs on one ledger in driven time, after or beside each other, at a service that has rules of its own."""

import asyncio
import random
import uuid
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from runner.core.budget import Cap
from runner.core.catalog import builtin
from runner.core.lifecycle import Named, Pictured, Reply, Throttled
from runner.core.limits import Limits
from runner.core.pricing import sheet
from runner.core.retry import RetryPolicy
from runner.core.task import Recipe, TaskSpec
from runner.engine.pool import Ended, Ending, Pool, Terms
from runner.ledger import JobSpec, JobStatus, Ledger, Wish
from tests.driven import DrivenClock
from tests.fakes import DrivenLedger, MemoryStore, pictured

MODEL = builtin().models["gemini-3.1-flash-image-preview"]
SHEET = sheet(MODEL, "standard")
WISH = Wish("test", MODEL.id)
EPOCH = 1_800_000_000.0 - 1_000.0
"""The loop begins at 1,000 s: 00:00 Pacific of a January day."""

Answer = tuple[float, Reply]
"""Seconds until it comes, and what it is."""


def specs(job: str, count: int, model: str = MODEL.id) -> Iterator[TaskSpec]:
    """Tasks that differ in key and path only."""
    recipe = Recipe(model, thinking="minimal")
    for n in range(count):
        yield TaskSpec(f"{job}{n:05}", "p", "a banana", recipe, "1K", "1:1", (), 1, f"{job}/{n}", n)


def around(mean_s: float, seed: int = 1) -> Callable[[], float]:
    """Latencies between half and one and a half of the mean."""
    chance = random.Random(seed)
    return lambda: chance.uniform(0.5, 1.5) * mean_s


@dataclass
class Service:
    """Answers what `says` tells; remembers when every request came, and who has two at once."""

    says: Callable[[str, int, float], Answer]
    """Key, how many times it was seen, instant -> answer."""
    sent: list[tuple[float, str]] = field(default_factory=list)
    live: Counter[str] = field(default_factory=Counter)
    hedged: set[str] = field(default_factory=set)
    seen: Counter[str] = field(default_factory=Counter)

    async def render(self, task: Any, sink: Any, left: Callable[[], None]) -> Reply:
        """One request."""
        self.seen[task.key] += 1
        self.live[task.key] += 1
        if self.live[task.key] > 1:
            self.hedged.add(task.key)
        try:
            now = anyio.current_time()
            after_s, reply = self.says(task.key, self.seen[task.key], now)
            left()
            self.sent.append((now, task.key))
            await anyio.sleep(after_s)
        finally:
            self.live[task.key] -= 1
        if isinstance(reply, Pictured):
            sink.restart(reply.mime)
        return reply


class HiddenQuota:
    """So many requests in any sliding minute; the others are turned away at once, in one of three ways."""

    def __init__(self, most: Callable[[float], int], latency: Callable[[], float], says: str = "unnamed") -> None:
        self.most, self.latency, self.says = most, latency, says
        self.admitted: list[float] = []
        self.refused: list[float] = []
        self._minute: deque[float] = deque()

    def __call__(self, _key: str, _seen: int, now: float) -> Answer:
        while self._minute and self._minute[0] <= now - 60:
            self._minute.popleft()
        if len(self._minute) < self.most(now):
            self._minute.append(now)
            self.admitted.append(now)
            return self.latency(), pictured()
        self.refused.append(now)
        return 0.2, self._refusal(now)

    def _refusal(self, now: float) -> Throttled:
        if self.says == "named":
            return Throttled(429, "minute", "quota", None, (Named("requests", self.most(now)),))
        room_in_s = self._minute[0] + 60 - now
        return Throttled(
            429,
            "minute" if self.says == "retry_info" else "unnamed",
            "quota",
            {"retry_info": room_in_s}.get(self.says),
        )


@dataclass
class Bench:
    """Ledger and clock of a test; runs in it are started one by one or side by side."""

    folder: Path
    clock: DrivenClock = field(default_factory=lambda: DrivenClock(epoch=EPOCH))
    ledgers: list[DrivenLedger] = field(default_factory=list)

    def open(self) -> DrivenLedger:
        """A ledger of its own, as another process would have it."""
        loop: Any = asyncio.get_running_loop()
        url = f"sqlite:///{self.folder / 'l.db'}"
        ledger = DrivenLedger(Ledger.open(url, "live", now_utc=self.clock.utc()), loop)
        self.ledgers.append(ledger)
        loop.busy = lambda: any(one.working > 0 or one.ledger.busy for one in self.ledgers)
        return ledger

    async def run(
        self,
        service: Service,
        tasks: int,
        *,
        job: str = "j",
        model: str = MODEL.id,
        limits: Limits = Limits(),
        cap: Cap = Cap(),
        retry: RetryPolicy = RetryPolicy(),
        stop_after_s: float | None = None,
        meanwhile: Callable[["Run"], Coroutine[Any, Any, None]] | None = None,
        **terms: Any,
    ) -> "Run":
        """One run of one job, to its end or until it is interrupted; its ledger is closed then."""
        ledger: Any = self.open()
        try:
            spec = JobSpec(job, "0" * 64, "/out", cap, {})
            await ledger.enqueue(spec, specs(job, tasks, model), now=self.clock.utc())
            wish = Wish("test", model, limits)
            pool_terms = Terms(job, MODEL, wish, SHEET, cap, retry, 1, **terms)
            run = Run(self, ledger, job)
            run.pool = Pool(
                pool_terms,
                ledger,
                service,
                MemoryStore(),
                self.clock,
                new_token=lambda: uuid.uuid4().hex,
                watch=run.ended.append,
            )
            async with anyio.create_task_group() as beside:
                if stop_after_s is not None:
                    beside.start_soon(_interrupt, run.pool, stop_after_s)
                if meanwhile is not None:
                    beside.start_soon(meanwhile, run)
                run.ending = await run.pool.drain()
                beside.cancel_scope.cancel()
            run.finished_at = self.clock.utc()
            run.status = await run.look()
            await ledger.quiet(job)
            return run
        finally:
            await self.close(ledger)

    async def close(self, ledger: DrivenLedger) -> None:
        """Close a ledger that was opened here."""
        ledger.working += 1
        await anyio.to_thread.run_sync(ledger.ledger.close)
        self.ledgers.remove(ledger)


async def _interrupt(pool: Pool, after_s: float) -> None:
    await anyio.sleep(after_s)
    pool.interrupt()


class Run:
    """What became of one run."""

    pool: Pool
    ending: Ending
    status: JobStatus

    def __init__(self, bench: Bench, ledger: Any, job: str) -> None:
        self.ledger, self.job, self.started_at, self.finished_at = ledger, job, bench.clock.utc(), 0.0
        self.ended: list[Ended] = []

    async def look(self) -> JobStatus:
        """The job as another process sees it now."""
        self.ledger.working += 1
        try:
            return await anyio.to_thread.run_sync(partial(self.ledger.reader.status, self.job, since_utc=0))
        finally:
            self.ledger.working -= 1


def share_used(admitted: Sequence[float], most: Callable[[float], int], begin: float, end: float) -> float:
    """What was admitted from `begin` to `end` of what could have been."""
    could = sum(most(begin + second) for second in range(int(end - begin))) / 60
    return sum(begin <= at < end for at in admitted) / could
