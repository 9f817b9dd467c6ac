"""The pool on a real ledger, a scripted provider and driven time: every way a run can end, every wait it makes."""

import asyncio
import uuid
from typing import Any

import anyio
import pytest

from runner.core.budget import Cap
from runner.core.catalog import builtin
from runner.core.lifecycle import (
    Answer,
    Faulted,
    Invalid,
    Lost,
    Refused,
    State,
    Stopped,
    Throttled,
    Unreached,
    Unusable,
)
from runner.core.limits import Limits
from runner.core.pricing import sheet
from runner.core.retry import RetryPolicy
from runner.core.task import Recipe, TaskSpec
from runner.engine.pool import Pool, Terms
from runner.ledger import JobSpec, Ledger, Wish
from tests.driven import DrivenClock, drive
from tests.fakes import DrivenLedger, MemoryStore, ScriptedProvider, pictured
from tests.windows import worst_window

MODEL = builtin().models["gemini-3.1-flash-image-preview"]
WORST = 1_120 * 60_000 + 1_500 * 1_500 + 8 * 250
"""Nano-dollars reserved for one 1K task with an eight-byte prompt."""


def specs(count):
    return [
        TaskSpec(
            f"k{n:04}", "p", f"prompt{n:02}", Recipe(MODEL.id, thinking="minimal"), "1K", "1:1", (), 1, f"j/{n}", n
        )
        for n in range(count)
    ]


class Bench:
    """One job on a ledger of its own, ready to be run in driven time."""

    def __init__(self, tmp_path, tasks=10, *, cap=Cap(), concurrency=4, rpm=None, retry=RetryPolicy(), **provider):
        self.tasks, self.cap, self.rpm = tasks, cap, rpm
        self.url = f"sqlite:///{tmp_path / 'l.db'}"
        limits = Limits(rpm=rpm or 100_000, concurrency=concurrency)
        wish = Wish("test", MODEL.id, limits)
        self.terms = Terms("j", MODEL, wish, sheet(MODEL, "standard"), cap, retry, 1)
        self.provider, self.store, self.ended = ScriptedProvider(**provider), MemoryStore(), []

    def run(self, meanwhile=None):
        """Drain; returns (ending, status, seconds it took)."""
        return drive(self._run, meanwhile)

    async def _run(self, meanwhile):
        clock = DrivenClock()
        with Ledger.open(self.url, "live", now_utc=clock.utc()) as opened:
            ledger: Any = DrivenLedger(opened, asyncio.get_running_loop())
            spec = JobSpec("j", "0" * 64, "/out", self.cap, {})
            await ledger.enqueue(spec, specs(self.tasks), now=clock.utc())
            pool = Pool(
                self.terms,
                ledger,
                self.provider,
                self.store,
                clock,
                new_token=lambda: uuid.uuid4().hex,
                watch=self.ended.append,
            )
            start = clock.now()
            async with anyio.create_task_group() as beside:
                if meanwhile is not None:
                    beside.start_soon(meanwhile, pool)
                ending = await pool.drain()
                beside.cancel_scope.cancel()
            took_s = clock.now() - start
            kept, recounted = opened.reader.counters("j"), opened.reader.recount("j")
            assert kept == recounted
            return ending, opened.reader.status("j", since_utc=0), took_s


def test_every_task_is_bought_once(tmp_path):
    bench = Bench(tmp_path, 10)
    ending, status, _ = bench.run()
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 10
    assert status.spend.settled == 10 * (5 * 250 + 80 * 1_500 + 1_120 * 60_000)
    assert set(bench.provider.seen.values()) == {1}
    assert bench.provider.most_in_flight == 4


def test_requests_overlap_up_to_the_concurrency_and_no_further(tmp_path):
    _, _, took_s = Bench(tmp_path, 12, concurrency=6).run()
    assert took_s == pytest.approx(20, abs=0.1)


def test_the_pace_holds_in_every_window_and_wastes_nothing(tmp_path):
    bench = Bench(tmp_path, 90, rpm=30, concurrency=50)
    bench.run()
    times = [at for at, _ in bench.provider.sent]
    assert worst_window(times) <= 30
    assert times[-1] - times[0] <= 90 / 29 * 60


def test_the_cap_halts_before_it_is_passed_and_raising_it_goes_on(tmp_path):
    bench = Bench(tmp_path, 10, cap=Cap(nanos=4 * WORST))
    ending, status, _ = bench.run()
    assert ending.halted == "budget"
    assert "would pass the cap" in ending.reason
    assert status.spend.held <= 4 * WORST
    assert status.tasks[State.SUCCEEDED] == 4
    assert status.spend.reserved == 0
    more = Bench(tmp_path, 10, cap=Cap(nanos=100 * WORST))
    ending, status, _ = more.run()
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 10
    assert len(more.provider.sent) == 6


def test_a_settlement_below_its_reservation_releases_room(tmp_path):
    """What is in flight may still release room, and the run waits for it."""
    bench = Bench(tmp_path, 5, cap=Cap(nanos=int(5.2 * WORST)), concurrency=8)
    ending, status, _ = bench.run()
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 5


def test_a_cap_in_image_tokens_holds_too(tmp_path):
    bench = Bench(tmp_path, 5, cap=Cap(nanos=10**12, image_tokens=3 * 1_120 + 5))
    ending, status, _ = bench.run()
    assert ending.halted == "budget"
    assert status.spend.held_image_tokens == 3 * 1_120


def test_a_429_closes_the_gate_for_all_and_is_no_try(tmp_path):
    def script(task, seen):
        return Throttled(429, "minute", "quota", 34.0) if task.key == "k0000" and seen == 1 else pictured()

    bench = Bench(tmp_path, 8, script=script, concurrency=2, latency_s=1.0, retry=RetryPolicy(attempts=1))
    ending, status, took_s = bench.run()
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 8
    assert took_s > 34
    quiet = [at for at, _ in bench.provider.sent if 1_001.5 < at < 1_034.9]
    assert not quiet


def test_half_an_hour_without_a_success_stops_the_run(tmp_path):
    bench = Bench(tmp_path, 8, script=lambda *_: Unreached("connection refused"), latency_s=0.01)
    ending, status, took_s = bench.run()
    assert ending.halted == "provider"
    assert "connection refused" in ending.reason
    assert 1_800 <= took_s <= 2_000
    assert status.tasks[State.QUEUED] == 8
    assert status.spend.held == 0


@pytest.mark.parametrize("reason", ["key", "model_gone", "no_quota", "credits", "billing"])
def test_what_no_retry_can_help_stops_at_once(tmp_path, reason):
    bench = Bench(tmp_path, 50, script=lambda *_: Stopped(400, reason, "told why"), concurrency=3)
    ending, status, _ = bench.run()
    assert (ending.halted, ending.reason) == ("provider", "told why")
    assert len(bench.provider.sent) == 3
    assert status.tasks[State.QUEUED] == 50
    assert status.spend.held == 0


def test_failures_end_in_named_states(tmp_path):
    replies = {
        "k0000": Refused(Answer(usage=None, finish_reason="SAFETY"), "safety", again=True),
        "k0001": Unusable(Answer(text="sorry"), "words_only"),
        "k0002": Invalid(400, "bad aspect"),
        "k0003": Faulted(500, "oops"),
        "k0004": Lost("timed_out", "360 s"),
    }
    bench = Bench(tmp_path, 6, script=lambda task, _: replies.get(task.key, pictured()))
    ending, status, _ = bench.run()
    assert ending.halted is None
    assert (status.tasks[State.REFUSED], status.tasks[State.FAILED], status.tasks[State.SUCCEEDED]) == (1, 4, 1)
    assert bench.provider.seen == {"k0000": 2, "k0001": 5, "k0002": 1, "k0003": 5, "k0004": 5, "k0005": 1}
    assert status.spend.unknown == (2 + 5 + 5) * WORST


def test_an_interrupt_lets_what_is_in_flight_land(tmp_path):
    async def interrupt(pool):
        await anyio.sleep(5)
        pool.interrupt()

    bench = Bench(tmp_path, 20, concurrency=4)
    ending, status, took_s = bench.run(interrupt)
    assert ending.halted == "interrupted"
    assert took_s == pytest.approx(10, abs=0.1)
    assert status.tasks[State.SUCCEEDED] == 4
    assert status.tasks[State.QUEUED] == 16
    assert not bench.store.waiting


def test_after_the_grace_period_what_is_in_flight_is_unknown(tmp_path):
    async def terminate(pool):
        await anyio.sleep(5)
        pool.interrupt()
        await anyio.sleep(2)
        pool.abandon()

    ending, status, took_s = Bench(tmp_path, 20, concurrency=4).run(terminate)
    assert ending.halted == "interrupted"
    assert took_s == pytest.approx(7, abs=0.1)
    assert status.spend.unknown == 4 * WORST
    assert status.tasks[State.QUEUED] == 20


def test_no_room_stops_claiming_before_anything_is_sent(tmp_path):
    bench = Bench(tmp_path, 3)
    bench.store.room = False
    ending, status, _ = bench.run()
    assert ending.halted == "local"
    assert "room" in ending.reason
    assert not bench.provider.sent
    assert status.tasks[State.QUEUED] == 3


def test_a_picture_that_cannot_be_stored_is_paid_and_stops_the_run(tmp_path):
    bench = Bench(tmp_path, 9, concurrency=2)
    bench.store.unstored = True
    ending, status, _ = bench.run()
    assert ending.halted == "local"
    assert status.tasks[State.QUEUED] == 9
    assert status.spend.settled > 0


def test_while_storage_is_blocked_nothing_is_claimed(tmp_path):
    async def block(pool):
        pool.blocked("no space left")
        await anyio.sleep(100)
        assert "no space" in pool.lanes[0].why.said("room")
        pool.blocked(None)

    bench = Bench(tmp_path, 3)
    ending, _, took_s = bench.run(block)
    assert ending.halted is None
    assert took_s >= 100


def test_a_dearer_answer_is_an_overrun_that_stops_claiming_once_the_cap_is_passed(tmp_path):
    bench = Bench(
        tmp_path,
        5,
        cap=Cap(nanos=2 * WORST),
        concurrency=1,
        script=lambda *_: pictured(prompt=5, candidates=90_000, image=1_120),
    )
    ending, status, _ = bench.run()
    assert ending.halted == "budget"
    assert len(bench.provider.sent) == 1
    assert status.spend.settled == 5 * 250 + 88_880 * 1_500 + 1_120 * 60_000


def test_a_bug_is_loud_and_keeps_the_money_held(tmp_path):
    def script(*_):
        raise ZeroDivisionError

    bench = Bench(tmp_path, 2, script=script, concurrency=1)
    with pytest.raises(ExceptionGroup):
        bench.run()
    with Ledger.open(bench.url, "live", now_utc=0.0) as ledger:
        assert ledger.reader.status("j", since_utc=0).spend.unknown == WORST


@pytest.mark.parametrize("retry_after_s", [3_500.0, 7_200.0])
def test_a_long_wait_that_the_provider_asks_for_does_not_outlast_the_patience(tmp_path, retry_after_s):
    bench = Bench(tmp_path, 2, script=lambda *_: Throttled(503, "capacity", "", retry_after_s), concurrency=1)
    ending, _, took_s = bench.run()
    assert ending.halted == "provider"
    assert "half an hour" in ending.reason
    assert took_s == pytest.approx(1_800, abs=15)


def test_a_picture_given_up_but_whole_on_disk_is_kept(tmp_path):
    bench = Bench(tmp_path, 3, concurrency=1)
    bench.store.unstored = bench.store.adoptable = True
    ending, status, _ = bench.run()
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 3


def test_a_picture_that_cannot_even_be_looked_at_is_left_to_the_next_run(tmp_path):
    bench = Bench(tmp_path, 3, concurrency=1)
    bench.store.unstored = bench.store.unreadable = True
    ending, status, _ = bench.run()
    assert ending.halted == "local"
    assert status.tasks[State.RUNNING] == 1
    assert status.spend.reserved == WORST
