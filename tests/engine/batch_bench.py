"""Runs of one job with batches, after each other, on one ledger and at one service: some end, some are killed."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from runner.core.batching import Load
from runner.core.budget import Cap
from runner.core.catalog import builtin
from runner.core.lifecycle import Answer, State
from runner.core.limits import Limits
from runner.core.pricing import PriceSheet, sheet
from runner.core.retry import RetryPolicy
from runner.engine.deadline import Deadline
from runner.engine.harvest import Books
from runner.engine.pool import Batching, BatchTerms, Ended, Ending, Pool, Terms
from runner.engine.rescue import Rescue
from runner.ledger import JobSpec, JobStatus, Ledger, Wish
from tests.driven import DrivenClock
from tests.engine.batch_service import BatchService
from tests.engine.bench import EPOCH, MODEL, specs
from tests.fakes import USAGE, DrivenLedger, MemoryStore, made

WORST = (1_120 * 60_000 + 1_500 * 1_500 + 8 * 250) // 2
"""Nano-dollars reserved for one task in a batch."""
COST = (5 * 250 + 80 * 1_500 + 1_120 * 60_000) // 2
"""What its picture costs."""


class Killed(BaseException):
    """The process is dead: whatever it touches next is not there any more."""


async def until(happened: Callable[[], object]) -> None:
    """Return once it has, give or take a hundredth of a second."""
    while not happened():  # noqa: ASYNC110 - what a test waits for tells nobody
        await anyio.sleep(0.01)


@dataclass
class Life:
    """Counts what a process touches, and ends at a chosen touch."""

    ends_at: int | None = None
    touches: int = 0
    dead: bool = False

    def touch(self) -> None:
        """Raises Killed."""
        self.touches += 1
        self.dead = self.dead or self.touches == self.ends_at
        if self.dead:
            raise Killed


class MortalLedger(DrivenLedger):
    """Dies before a verb, or after it was committed and before anybody heard of it. `fails` makes trouble."""

    def __init__(self, ledger: Ledger, loop: Any, life: Life) -> None:
        super().__init__(ledger, loop)
        self.life = life
        self.calls: Counter[str] = Counter()
        self.fails: Callable[[str, int], Exception | None] = lambda _verb, _n: None
        threads = anyio.to_thread.current_default_thread_limiter()
        loop.busy = lambda: self.working > 0 or ledger.busy or threads.borrowed_tokens > 0

    def __getattr__(self, verb):
        run = super().__getattr__(verb)

        async def mortal(*args, **kwargs):
            self.calls[verb] += 1
            if verb == "beat":  # whoever dies there leaves nothing behind
                return await run(*args, **kwargs)
            self.life.touch()
            if (failure := self.fails(verb, self.calls[verb])) is not None:
                raise failure
            answer = await run(*args, **kwargs)
            self.life.touch()
            return answer

        return mortal


class Shelf(MemoryStore):
    """Counts how often the picture of each attempt was stored, over all runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: Counter[str] = Counter()
        self.life = Life()

    @asynccontextmanager
    async def landing(self, task):
        async with super().landing(task) as landing:
            yield _Counted(self, landing)

    def adopt(self, task):
        return made(task, Answer(pictures=1, usage=USAGE)) if task.token in self.kept else None


class _Counted:
    def __init__(self, shelf, landing) -> None:
        self.shelf, self.landing = shelf, landing
        self.restart, self.write = landing.restart, landing.write

    async def keep(self, answer):
        self.shelf.life.touch()
        kept = await self.landing.keep(answer)
        if not self.shelf.unstored:
            self.shelf.stored[self.landing.task.token] += 1
        self.shelf.life.touch()
        return kept


@dataclass
class Bench:
    """A job, its ledger, its folder and the service, over as many runs as it takes."""

    folder: Path
    service: BatchService
    tasks: int = 10
    cap: Cap = field(default_factory=Cap)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    load: Load = field(default_factory=Load)
    auto: bool = False
    models: Sequence[str] = (MODEL.id,)
    limits: Limits = field(default_factory=lambda: Limits(rpm=100_000, concurrency=16))
    poll_s: float = 30.0
    settle_s: float = 900.0
    clock: DrivenClock = field(default_factory=lambda: DrivenClock(epoch=EPOCH))
    shelf: Shelf = field(default_factory=Shelf)
    ended: list[Ended] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    """Verbs of the ledger that were called."""
    touches: int = 0
    """Of the last run."""
    pool: Pool = field(init=False)
    ending: Ending = field(init=False)
    status: JobStatus = field(init=False)

    async def run(
        self,
        *,
        dies_at: int | None = None,
        meanwhile: Callable[[Pool], Coroutine[Any, Any, None]] | None = None,
        detach: bool = False,
        by_s: float | None = None,
        standard_s: Callable[[], float | None] = lambda: 0.0,
        fails: Callable[[str, int], Exception | None] = lambda _verb, _n: None,
    ) -> "Bench":
        """One run, to its end, or until it dies at its so many-th touch of anything outside of it."""
        life = Life()
        url = f"sqlite:///{self.folder / 'l.db'}"
        opened = Ledger.open(url, "live", now_utc=self.clock.utc())
        ledger: Any = MortalLedger(opened, asyncio.get_running_loop(), life)
        try:
            await self._prepare(ledger)
            ledger.fails = fails
            self.shelf.life, self.service.before = life, partial(self._touched, life, opened)
            self.pool = self._pool(ledger, detach=detach, by_s=by_s, standard_s=standard_s)
            life.touches, life.ends_at = 0, dies_at
            try:
                await self._drain(meanwhile)
            except* Killed:
                self.ending = Ending("local", "killed")
            self.touches, self.calls = life.touches, ledger.calls
        finally:
            life.dead = True
            self.service.before = anyio.lowlevel.checkpoint
            opened.close()
        await anyio.to_thread.run_sync(self._look)
        return self

    def _look(self) -> None:
        reader = self.reader()
        self.status = reader.status("j", since_utc=0)
        assert reader.counters("j") == reader.recount("j")

    async def _prepare(self, ledger: Any) -> None:
        now = self.clock.utc()
        spec = JobSpec("j", "0" * 64, "/out", self.cap, {})
        rows = [one for n, model in enumerate(self.models) for one in _share(self.tasks, n, model, self.models)]
        rescue = Rescue(ledger, self.shelf, self.clock, builtin(), _sheet("standard"), self.retry)
        if await anyio.to_thread.run_sync(ledger.reader.job_names):
            await rescue.mend("j")
        await ledger.enqueue(spec, rows, now=now)

    async def _drain(self, meanwhile: Callable[[Pool], Coroutine[Any, Any, None]] | None) -> None:
        async with anyio.create_task_group() as beside:
            if meanwhile is not None:
                beside.start_soon(meanwhile, self.pool)
            self.ending = await self.pool.drain()
            beside.cancel_scope.cancel()

    async def _touched(self, life: Life, opened: Ledger) -> None:
        life.touch()
        if self.cap.nanos is not None:
            status = await anyio.to_thread.run_sync(partial(opened.reader.status, "j", since_utc=0))
            assert status.spend.held <= self.cap.nanos

    def _pool(
        self, ledger: Any, *, detach: bool, by_s: float | None, standard_s: Callable[[], float | None]
    ) -> Pool:
        several = len(self.models) > 1
        wishes = [Wish("test", model, self.limits, several) for model in self.models]
        standard = _sheet("standard")
        return Pool(
            [
                Terms("j", builtin().models[one.model], one, standard(one.model), self.cap, self.retry, 1)
                for one in wishes
                if self.auto
            ],
            ledger,
            self.service,
            self.shelf,
            self.clock,
            new_token=lambda: uuid.uuid4().hex,
            watch=self.ended.append,
            batching=Batching(
                Books("j", self.retry, _sheet("batch"), builtin().find), self.service, self.poll_s, self.settle_s
            ),
            batch_terms=[
                BatchTerms("j", one, _sheet("batch")(one.model), self.cap, self.retry, 1, self.load)
                for one in wishes
            ],
            detach=detach,
            deadline=None if by_s is None else Deadline(self.clock.epoch + by_s, self.clock, standard_s),
        )

    # --- what tests look at ---

    def state(self, state: State) -> int:
        """How many tasks are there."""
        return self.status.tasks[state]

    def reader(self) -> Any:
        """The ledger, from outside."""
        return Ledger.read(f"sqlite:///{self.folder / 'l.db'}")

    def is_square(self) -> None:
        """Everything bought once, stored once, and paid for as the service says."""
        assert self.state(State.SUCCEEDED) == self.tasks
        assert set(self.service.seen.values()) == {1}
        assert len(self.shelf.kept) == self.tasks
        assert self.status.spend.settled == sum(self.service.billed)
        assert self.status.spend.reserved == self.status.spend.unknown == 0
        tokens = [job.token for job in self.service.jobs]
        assert len(tokens) == len(set(tokens))


def _sheet(lane: str) -> Callable[[str], PriceSheet]:
    return lambda model: sheet(builtin().models[model], lane)


def _share(tasks: int, n: int, model: str, models: Sequence[str]) -> list[Any]:
    return list(specs(f"j{n}" if n else "j", tasks // len(models), model))
