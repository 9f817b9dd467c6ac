"""The provider is down: few requests find out, none is lost for it, and the first answer opens everything."""

import random
from collections.abc import Callable
from statistics import median

import anyio
import pytest

from runner.core.lifecycle import Faulted, Lost, Reply, State, Throttled, Unreached
from runner.core.limits import Limits
from runner.core.retry import RetryPolicy
from tests.driven import drive
from tests.engine.bench import EPOCH, Answer, Bench, Service, around
from tests.fakes import pictured

DOWN, UP = 1_060.0, 2_260.0
"""Twenty minutes of outage, one minute into the run."""
TASKS = 120
PACE = Limits(rpm=60, concurrency=16)

KINDS: dict[str, tuple[float, Callable[[], Reply]]] = {
    "500": (0.2, lambda: Faulted(500, "internal")),
    "503": (0.2, lambda: Throttled(503, "capacity", "overloaded")),
    "504": (0.2, lambda: Faulted(504, "deadline", billed_unknown=True)),
    "refused": (0.01, lambda: Unreached("connection refused")),
    "timeouts": (360.0, lambda: Lost("timed_out", "360 s")),
}
SENT_AT_MOST = 40
"""Requests in those twenty minutes."""

pytestmark = pytest.mark.usefixtures("rare_beats")


def outage(kind: str, up: float = UP, poison: Callable[[str], bool] = lambda _: False):
    """A service that is down from `DOWN` to `up`; poison prompts never work."""
    latency = around(12.0)
    after_s, reply = KINDS[kind]

    def says(key: str, _seen: int, now: float) -> Answer:
        if DOWN <= now < up:
            return after_s, reply()
        if poison(key):
            return 2.0, Faulted(500, "this prompt")
        ends = latency()
        if DOWN <= now + ends < up:  # it was in flight when the service went down
            return DOWN - now + 0.1, reply() if kind not in {"503", "refused"} else Lost(
                "connection_broken", "reset"
            )
        return ends, pictured()

    return Service(says)


def run(tmp_path, service, tasks=TASKS, **choices):
    async def main():
        return await Bench(tmp_path).run(service, tasks, limits=PACE, **choices)

    return drive(main)


@pytest.mark.parametrize("kind", list(KINDS))
def test_twenty_minutes_of_outage_cost_no_task_and_few_requests_one_at_a_time(tmp_path, kind):
    service, asking = outage(kind), list[int]()

    async def count(running):
        while True:
            await anyio.sleep(1.0)
            if running.pool.lanes[0].gate.outage and anyio.current_time() > DOWN + 400:
                asking.append(running.pool.in_flight)

    done = run(tmp_path, service, meanwhile=count)
    assert done.ending.halted is None
    assert done.status.tasks[State.SUCCEEDED] == TASKS
    assert not service.hedged
    assert max(asking) == 1
    during = [at for at, _ in service.sent if DOWN <= at < UP]
    print(f"{kind}: {len(during)} requests during the outage, {len(service.sent)} in all")  # noqa: T201
    assert len(during) <= SENT_AT_MOST
    answers = [ended for ended in done.ended if ended.move.state is State.SUCCEEDED]
    assert max(ended.attempt.tries for ended in answers) <= 1
    assert median(ended.attempt.tries for ended in answers) == 0
    last_probe_s = 360.0 if kind == "timeouts" else 0.0
    assert done.finished_at - (UP + EPOCH) < TASKS + 120 + last_probe_s + 30


def test_what_may_have_been_bought_is_held_and_never_sent_again_if_the_manifest_says_so(tmp_path):
    service = outage("504")
    done = run(tmp_path, service, retry=RetryPolicy(unknown="hold"))
    assert done.ending.halted is None
    held = done.status.tasks[State.FAILED]
    assert 0 < held <= SENT_AT_MOST
    assert done.status.tasks[State.SUCCEEDED] == TASKS - held
    assert set(service.seen.values()) == {1}


def test_half_an_hour_of_outage_stops_the_run_and_the_next_one_loses_nothing(tmp_path):
    service = outage("500", up=DOWN + 2_400)

    async def main():
        bench = Bench(tmp_path)
        first = await bench.run(service, TASKS, limits=PACE)
        stopped_at = anyio.current_time()
        await anyio.sleep(1_000)
        second = await bench.run(service, TASKS, limits=PACE)
        return first, stopped_at, second

    first, stopped_at, second = drive(main)
    assert first.ending.halted == "provider"
    assert "half an hour without one success (outage: internal)" in first.ending.reason
    assert 1_790 <= stopped_at - DOWN <= 1_950
    assert first.status.tasks[State.FAILED] == 0
    assert second.status.tasks[State.SUCCEEDED] == TASKS


@pytest.mark.parametrize("where", [(0, 1, 2), (40, 41, 42), (30, 60, 90)])
def test_a_few_poison_prompts_are_no_outage_and_fail_after_their_tries(tmp_path, where):
    poison = {f"j{n:05}" for n in where}
    opened: list[bool] = []

    async def look(running):
        while True:
            await anyio.sleep(0.5)
            opened.append(running.pool.lanes[0].gate.outage)

    service = outage("500", up=0.0, poison=poison.__contains__)
    done = run(tmp_path, service, 100, meanwhile=look)
    assert not any(opened)
    assert done.ending.halted is None
    assert done.status.tasks[State.FAILED] == 3
    assert done.status.tasks[State.SUCCEEDED] == 97
    assert {service.seen[key] for key in poison} == {5}


def test_many_poison_prompts_at_the_front_hold_the_others_up_for_a_minute_only(tmp_path):
    poison = {f"j{n:05}" for n in range(6)}
    service = outage("500", up=0.0, poison=poison.__contains__)
    done = run(tmp_path, service, 60)
    assert done.ending.halted is None
    assert done.status.tasks[State.FAILED] == 6
    assert done.status.tasks[State.SUCCEEDED] == 54
    assert done.finished_at - done.started_at < 600


def test_what_only_poison_is_left_of_ends_as_failed_when_it_is_run_again(tmp_path):
    poison = {f"j{n:05}" for n in range(3)}
    service = outage("500", up=0.0, poison=poison.__contains__)

    async def main():
        bench = Bench(tmp_path)
        await bench.run(service, 20, limits=PACE)
        began = anyio.current_time()
        again = await bench.run(service, 20, limits=PACE)
        return again, anyio.current_time() - began

    again, took_s = drive(main)
    assert again.ending.halted is None
    assert again.status.tasks[State.FAILED] == 3
    assert took_s < 120


def test_true_faults_still_count_around_an_outage(tmp_path):
    """One request in twenty breaks by chance: nobody gets tries for nothing, and nobody fails for the outage."""
    chance, latency = random.Random(7), around(12.0)
    broken: dict[str, int] = {}

    def says(key: str, seen: int, now: float) -> Answer:
        if DOWN <= now < UP:
            return 0.2, Faulted(500, "internal")
        if chance.random() < 0.05:
            broken[key] = broken.get(key, 0) + 1
            return latency(), Lost("connection_broken", "reset")
        return latency(), pictured()

    service = Service(says)
    done = run(tmp_path, service)
    assert done.status.tasks[State.SUCCEEDED] == TASKS
    for ended in done.ended:
        if ended.move.state is State.SUCCEEDED:
            assert ended.attempt.tries <= broken.get(ended.attempt.key, 0) + 1
