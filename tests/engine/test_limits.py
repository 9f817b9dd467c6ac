"""Limits on a real ledger in driven time, judged where requests arrive: every window, over restarts and months."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from runner.core.budget import Cap
from runner.core.calendar import PACIFIC, day_start, month_start
from runner.core.catalog import builtin
from runner.core.lifecycle import State, Throttled
from runner.core.limits import Limits
from runner.core.pricing import sheet
from runner.core.retry import RetryPolicy
from runner.core.task import Recipe, TaskSpec
from runner.engine.pool import Ending, Pool, Terms
from runner.engine.rescue import Rescue
from runner.ledger import JobSpec, JobStatus, Ledger, Wish
from tests.driven import DrivenClock, drive
from tests.fakes import DrivenLedger, MemoryStore, pictured
from tests.windows import heaviest_window, lightest_window, worst_window

CATALOG = builtin()
MODEL = CATALOG.models["gemini-3.1-flash-image-preview"]
SHEET = sheet(MODEL, "standard")
WORST_NANOS = 1_120 * 60_000 + 1_500 * 1_500 + 10 * 250
FAST = Limits(rpm=10**6, concurrency=64)

pytestmark = pytest.mark.usefixtures("rare_beats")


@pytest.fixture(autouse=True)
def opening_may_block(no_blocking_calls):
    """Nothing waits for the loop while a run starts or ends."""
    for function in no_blocking_calls.functions.values():
        function.can_block_in("tests/engine/test_limits.py", {"run"})


def specs(count: int, *, size: Callable[[int], int] = lambda _: 10) -> list[TaskSpec]:
    """Tasks whose prompts have so many bytes."""
    recipe = Recipe(MODEL.id, thinking="minimal")
    return [
        TaskSpec(f"k{n:05}", "p", f"{n:05}".ljust(size(n), "x"), recipe, "1K", "1:1", (), 1, f"j/{n}", n)
        for n in range(count)
    ]


@dataclass(frozen=True)
class Sent:
    """One request as the provider saw it arrive."""

    at: float
    tokens: int
    nanos: int


class Service:
    """Connects after a while, answers after another, and remembers every send."""

    def __init__(self, *, connect_s: float = 0.2, answer_s: float = 20.0, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        self.connect_s, self.answer_s = connect_s, answer_s
        self.sent: list[Sent] = []
        self.answered: Counter[str] = Counter()
        self.refuses: Callable[[], bool] = lambda: False

    async def render(self, task, sink, left):
        await anyio.sleep(self.chance.random() * self.connect_s)
        left()
        refused = self.refuses()
        tokens = max(1, len(task.prompt) // 2)
        nanos = 0 if refused else tokens * 250 + 80 * 1_500 + 1_120 * 60_000
        self.sent.append(Sent(anyio.current_time(), tokens, nanos))
        await anyio.sleep(self.chance.random() * self.answer_s)
        if refused:
            return Throttled(429, "unnamed", "too many")
        sink.restart("image/png")
        sink.write(b"picture")
        self.answered[task.key] += 1
        return pictured(prompt=tokens, candidates=1_200, image=1_120)


@dataclass
class House:
    """A ledger, a service and one job; every `run` is a process of its own."""

    path: Path
    tasks: list[TaskSpec]
    limits: Limits = FAST
    wait: bool = False
    service: Service = field(default_factory=Service)
    clock: DrivenClock = field(default_factory=DrivenClock)

    async def run(self, meanwhile: Callable[[Pool], Any] | None = None) -> tuple[Ending, JobStatus]:
        """Open, mend, record, drain."""
        with Ledger.open(f"sqlite:///{self.path / 'l.db'}", "live", now_utc=self.clock.utc()) as opened:
            ledger: Any = DrivenLedger(opened, asyncio.get_running_loop())
            store, retry = MemoryStore(), RetryPolicy()
            if opened.reader.recorded("j"):
                await Rescue(ledger, store, self.clock, CATALOG, lambda _: SHEET, retry).mend("j")
            await ledger.enqueue(JobSpec("j", "0" * 64, "/out", Cap(), {}), self.tasks, now=self.clock.utc())
            wish = Wish("test", MODEL.id, self.limits)
            terms = Terms("j", MODEL, wish, SHEET, Cap(), retry, 1, wait=self.wait)
            pool = Pool(terms, ledger, self.service, store, self.clock, new_token=lambda: uuid.uuid4().hex)
            async with anyio.create_task_group() as beside:
                if meanwhile is not None:
                    beside.start_soon(meanwhile, pool)
                ending = await pool.drain()
                beside.cancel_scope.cancel()
            await ledger.quiet("j")
            return ending, opened.reader.status("j", since_utc=0)


DIMENSIONS: dict[str, tuple[Limits, float, Callable[[Sent], int], int]] = {
    "requests": (Limits(rpm=60), 60, lambda _: 1, 60),
    "tokens": (Limits(tpm=1_500), 60, lambda sent: sent.tokens, 1_500),
    "images": (Limits(ipm=60), 60, lambda _: 1, 60),
    "spend_window": (Limits(spend_nanos=40 * WORST_NANOS), 600, lambda sent: sent.nanos, 40 * WORST_NANOS),
}


def alone(limits: Limits) -> Limits:
    """With room for all else."""
    return replace(limits, concurrency=200, rpm=limits.rpm or 6_000)


@pytest.mark.parametrize("dimension", ["requests", "tokens", "images", "spend_window"])
def test_each_limit_alone_is_met_and_never_passed(tmp_path, dimension):
    limits, length_s, weight, most = DIMENSIONS[dimension]
    house = House(tmp_path, specs(130, size=lambda n: 20 + n % 40))
    house.limits = alone(limits)
    house.service = Service(connect_s=0.05, answer_s=10.0)
    ending, status = drive(house.run)
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 130
    sent = house.service.sent
    assert heaviest_window(sent, length_s, at=at, weight=weight) <= most
    took_s = sent[-1].at - sent[0].at
    total = sum(map(weight, sent))
    assert took_s <= (total / most + 0.15) * length_s * 1.02
    if dimension == "requests":
        assert lightest_window(sent, 60, at=at, weight=weight, step_s=0.25) >= 58


def at(sent: Sent) -> float:
    return sent.at


ALL = Limits(
    rpm=30, tpm=500, ipm=28, rpd=110, spend_nanos=100 * WORST_NANOS, month_nanos=600 * WORST_NANOS, concurrency=40
)


def check(house: House, limits: Limits) -> None:
    """Every window, day and month of what the service saw."""
    sent, epoch = house.service.sent, house.clock.epoch
    times = [one.at for one in sent]
    assert worst_window(times) <= min(limits.rpm or 10**9, limits.ipm or 10**9)
    if limits.tpm is not None:
        assert heaviest_window(sent, 60, at=at, weight=lambda one: one.tokens) <= limits.tpm
    if limits.spend_nanos is not None:
        assert heaviest_window(sent, 600, at=at, weight=lambda one: one.nanos) <= limits.spend_nanos
    days = Counter(day_start(epoch + time) for time in times)
    assert max(days.values()) <= (limits.rpd or 10**9)
    months: Counter[float] = Counter()
    for one in sent:
        months[month_start(epoch + one.at)] += one.nanos
    assert max(months.values()) <= (limits.month_nanos or 10**18)


@pytest.mark.parametrize("seed", [1, 2])
def test_all_limits_together_hold_over_restarts_at_any_moment(tmp_path, seed):
    """Drained, or abandoned with requests still connecting; what was lost is sent again and counts again."""
    house = House(tmp_path, specs(150, size=lambda n: 10 + n * 7 % 60), limits=ALL, wait=True)
    house.service = Service(connect_s=4.0, answer_s=30.0, seed=seed)
    chance = random.Random(seed)

    async def cut(pool):
        await anyio.sleep(chance.random() * 200)
        pool.interrupt()
        if chance.random() < 0.6:
            pool.abandon()

    async def main():
        for _ in range(5):
            await house.run(cut)
            await anyio.sleep(chance.choice([0.0, 1.0, 30.0]))
        return await house.run()

    ending, status = drive(main)
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 150
    check(house, ALL)


def test_refused_requests_count_as_requests_and_cost_nothing(tmp_path):
    house = House(tmp_path, specs(60), limits=Limits(rpm=20, concurrency=10))
    house.service.refuses = lambda: house.service.chance.random() < 0.2
    ending, _ = drive(house.run)
    assert ending.halted is None
    check(house, house.limits)


# --- a month in seconds ------------------------------------------------------------------------------------------

OCTOBER = datetime(2026, 10, 10, 15, tzinfo=PACIFIC).timestamp() - 1_000
"""Clocks go back on the first of November."""
LATE_OCTOBER = datetime(2026, 10, 31, 15, tzinfo=PACIFIC).timestamp() - 1_000
MIDDLE_OF_MARCH = datetime(2027, 3, 13, 15, tzinfo=PACIFIC).timestamp() - 1_000
"""Clocks go forward on the fourteenth."""


@pytest.mark.parametrize("epoch", [LATE_OCTOBER, MIDDLE_OF_MARCH])
def test_with_wait_a_run_sleeps_through_the_nights_to_the_second(tmp_path, epoch):
    """Over the one in which clocks change."""
    limits = Limits(rpm=60, rpd=3, concurrency=8)
    house = House(tmp_path, specs(7), limits=limits, wait=True, clock=DrivenClock(epoch=epoch))
    ending, status = drive(house.run)
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 7
    days = Counter(day_start(epoch + one.at) for one in house.service.sent)
    assert list(days.values()) == [3, 3, 1]
    first, second, third = days
    assert second - first == 86_400
    assert abs(third - second - 86_400) == 3_600
    after_midnight = [epoch + one.at - day_start(epoch + one.at) for one in house.service.sent[3:]]
    assert max(after_midnight) < 10


def test_without_wait_a_run_a_day_fills_every_day_of_a_month(tmp_path):
    """Each goes on where the last one stopped, at the time that it named."""
    limits = Limits(rpm=60, rpd=3, concurrency=8)
    house = House(tmp_path, specs(31 * 3 + 1), limits=limits, clock=DrivenClock(epoch=OCTOBER))

    async def main():
        stops = 0
        while (ending := (await house.run())[0]).halted is not None:
            assert ending.halted == "provider"
            assert ending.reason is not None
            come_back = ending.reason.split("run again after ")[1].split(",")[0]
            await anyio.sleep(datetime.fromisoformat(come_back).timestamp() - house.clock.utc())
            stops += 1
        return stops

    assert drive(main) == 31
    days = Counter(day_start(OCTOBER + one.at) for one in house.service.sent)
    assert list(days.values()) == [3] * 31 + [1]
    assert len({later - earlier for earlier, later in pairwise(days)}) == 2  # a day of 25 hours


def test_without_wait_a_run_stops_at_the_day_and_a_later_one_goes_on(tmp_path):
    limits = Limits(rpm=60, rpd=3, concurrency=8)
    house = House(tmp_path, specs(5), limits=limits, clock=DrivenClock(epoch=OCTOBER))

    async def main():
        first, _ = await house.run()
        again, _ = await house.run()
        sent = len(house.service.sent)
        await anyio.sleep(9 * 3_600)
        last, status = await house.run()
        return first, again, sent, last, status

    first, again, sent, last, status = drive(main)
    for stopped in (first, again):
        assert stopped.halted == "provider"
        assert stopped.reason == "3 requests a day; run again after 2026-10-11T07:00:00Z, or with --wait"
    assert sent == 3
    assert last.halted is None
    assert status.tasks[State.SUCCEEDED] == 5


@pytest.mark.parametrize("wait", [False, True])
def test_nobody_waits_for_a_month_and_the_next_one_goes_on(tmp_path, wait):
    limits = Limits(rpm=60, month_nanos=10 * WORST_NANOS, month_elsewhere_nanos=4 * WORST_NANOS, concurrency=1)
    house = House(tmp_path, specs(9), limits=limits, wait=wait, clock=DrivenClock(epoch=OCTOBER))

    async def main():
        first, _ = await house.run()
        sent = len(house.service.sent)
        await anyio.sleep(22 * 86_400)
        house.limits = replace(limits, month_elsewhere_nanos=0)
        last, status = await house.run()
        return first, sent, last, status

    first, sent, last, status = drive(main)
    assert first.halted == "provider"
    assert first.reason.endswith("a month; run again after 2026-11-01T07:00:00Z")
    assert sent == 6
    assert last.halted is None
    assert status.tasks[State.SUCCEEDED] == 9
