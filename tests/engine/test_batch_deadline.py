"""A time by which all is to be done: batches first, then taken back, the rest the quick way; the bill of each."""

import anyio
import pytest

from runner.core.batching import Load
from runner.core.budget import Cap, dollars
from runner.core.lifecycle import State
from tests.driven import drive
from tests.engine.batch_bench import COST, WORST, Bench, until
from tests.engine.batch_service import BatchService, End

TASKS = 100
HOUR_S = 3_600.0
NEEDS_S = 600.0
"""What the standard lane is said to need."""


class Scenario:
    """A run of a hundred tasks that is to be done within two hours."""

    def __init__(self, folder, service, *, by_s=1_000.0 + 2 * HOUR_S, cap=Cap(), needs_s=NEEDS_S):
        self.service, self.done_at = service, 0.0
        self.bench = Bench(folder, service, TASKS, auto=True, load=Load(lines=50, least=20), cap=cap)

        async def run():
            await self.bench.run(by_s=by_s, standard_s=lambda: needs_s)
            self.done_at = anyio.current_time() - 1_000.0

        drive(run)
        spend = self.bench.status.spend
        self.bill = (
            f"{len(self.bench.service.billed) - len(service.sent)} in batches, {len(service.sent)} standard: "
            f"${dollars(spend.settled)} settled, ${dollars(spend.unknown)} unknown, "
            f"{self.bench.state(State.SUCCEEDED)} of {TASKS} after {self.done_at / 60:.0f} min"
        )
        print(self.bill)  # noqa: T201 - what each scenario costs is what this is about
        assert spend.settled <= sum(service.billed) <= spend.held
        assert spend.reserved == 0


def test_batches_that_are_in_time_cost_half(tmp_path):
    done = Scenario(tmp_path, BatchService(ends=lambda _: End(after_s=HOUR_S)))
    assert (done.service.sent, done.service.count("cancel")) == ([], 0)
    assert done.bench.status.spend.held == TASKS * COST


def test_batches_that_are_late_are_cancelled_and_the_rest_is_bought_in_time(tmp_path):
    done = Scenario(tmp_path, BatchService(ends=lambda _: End(after_s=3 * HOUR_S)))
    in_batches = TASKS - len(done.service.sent)
    assert done.service.count("cancel") == 2
    assert 0 < in_batches < TASKS
    assert done.done_at < 2 * HOUR_S
    assert done.bench.status.spend.held == in_batches * COST + len(done.service.sent) * 2 * COST
    done.bench.is_square()


def test_a_batch_that_did_nothing_costs_nothing(tmp_path):
    done = Scenario(tmp_path, BatchService(ends=lambda _: End(after_s=30 * HOUR_S, does=0)))
    assert len(done.service.sent) == TASKS
    assert done.done_at < 2 * HOUR_S
    assert done.bench.status.spend.held == TASKS * 2 * COST


@pytest.mark.parametrize("cancel_s", [5.0, 1_200.0])
def test_a_cancel_may_take_its_time_and_nothing_is_bought_before_it_is_confirmed(tmp_path, cancel_s):
    service = BatchService(ends=lambda _: End(after_s=3 * HOUR_S), cancel_s=cancel_s)
    done = Scenario(tmp_path, service)
    asked = service.times("cancel")[0]
    assert done.done_at + 1_000.0 > asked + cancel_s
    assert set(service.seen.values()) == {1}
    done.bench.is_square()


def test_what_a_cancelled_batch_did_and_does_not_show_is_held_and_bought_again(tmp_path):
    done = Scenario(tmp_path, BatchService(ends=lambda _: End(after_s=30 * HOUR_S, does=10, shows=False)))
    assert done.bench.status.spend.unknown == 2 * 10 * WORST
    assert len(done.service.sent) == TASKS


def test_a_stuck_batch_is_waited_for_and_nothing_of_it_is_bought_twice(tmp_path):
    service = BatchService(ends=lambda _: End("EXPIRED", after_s=12 * HOUR_S, does=0, shows=False), cancel_s=None)
    done = Scenario(tmp_path, service)
    assert done.done_at > 12 * HOUR_S
    assert service.count("get") < 1_200
    assert set(service.seen.values()) == {1}
    assert done.bench.status.spend.held == TASKS * 2 * COST


def test_a_deadline_that_is_past_leaves_everything_to_the_standard_lane(tmp_path):
    done = Scenario(tmp_path, BatchService(), by_s=900.0)
    assert (done.service.jobs, done.service.count("upload")) == ([], 0)
    assert len(done.service.sent) == TASKS


def test_batches_go_on_where_the_standard_lane_can_buy_nothing_in_time(tmp_path):
    done = Scenario(tmp_path, BatchService(ends=lambda _: End(after_s=3 * HOUR_S)), needs_s=None)
    assert (done.service.sent, done.service.count("cancel")) == ([], 0)
    assert done.bench.status.spend.held == TASKS * COST


def test_the_cap_is_the_same_for_what_is_bought_in_the_end(tmp_path):
    service = BatchService(ends=lambda _: End(after_s=30 * HOUR_S, does=0))
    done = Scenario(tmp_path, service, cap=Cap(nanos=110 * WORST))
    assert done.bench.ending.halted == "budget"
    assert 50 <= done.bench.state(State.SUCCEEDED) <= 57


def test_a_run_that_is_started_again_near_the_deadline_cancels_again(tmp_path):
    service = BatchService(ends=lambda _: End(after_s=30 * HOUR_S, does=0))
    bench = Bench(tmp_path, service, TASKS, auto=True, load=Load(lines=50, least=20))

    async def died_before_it_left(pool):
        await until(lambda: service.count("cancel"))
        pool.interrupt()

    async def twice():
        await bench.run(by_s=1_000.0 + HOUR_S, standard_s=lambda: NEEDS_S, meanwhile=died_before_it_left)
        for job in service.jobs:  # no cancel got there
            job.cancelled_at, job.state = None, "RUNNING"
        await bench.run(by_s=1_000.0 + HOUR_S, standard_s=lambda: NEEDS_S)

    drive(twice)
    assert len(service.sent) == TASKS
    bench.is_square()
