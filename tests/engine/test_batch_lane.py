"""The batch lane on a real ledger, at a service in driven time: submitted, waited for, harvested at half price."""

from itertools import pairwise

import anyio
import pytest

from runner.core.batching import Load, display_name
from runner.core.lifecycle import State
from tests.driven import drive
from tests.engine.batch_bench import COST, Bench
from tests.engine.batch_service import BatchService, End
from tests.engine.bench import MODEL

DAY_S = 24 * 3600.0


def test_many_tasks_go_in_few_batches_at_half_the_price(tmp_path):
    bench = Bench(tmp_path, BatchService(), 1_300, load=Load(lines=500))
    drive(bench.run)
    assert bench.ending.halted is None
    assert [len(job.items) for job in bench.service.jobs] == [500, 500, 300]
    assert bench.status.spend.settled == 1_300 * COST
    assert len(bench.ended) == 1_300
    bench.is_square()


def test_a_job_is_called_after_its_batch_and_its_lines_after_their_attempts(tmp_path):
    bench = Bench(tmp_path, BatchService(), 3)
    drive(bench.run)
    (job,) = bench.service.jobs
    (batch,) = bench.reader().batches("j")
    assert (job.display_name, job.model, job.token) == (display_name("j", batch.token), MODEL.id, batch.token)
    assert [key for key, _ in job.items] == [task.token for _, task in job.items]
    assert (batch.reason, batch.lines, batch.posts) == ("succeeded", 3, 1)


def test_batches_go_on_being_submitted_while_others_are_harvested(tmp_path):
    service = BatchService(ends=lambda _: End(after_s=30.0), latency_s=40.0, line_s=60.0)
    bench = Bench(tmp_path, service, 50, load=Load(lines=10))
    drive(bench.run)
    first_harvest = service.times("results")[0]
    assert sum(at > first_harvest for at in service.times("create")) >= 2
    assert max(service.times("create")) < first_harvest + 10 * 60.0
    bench.is_square()


def test_no_more_are_open_than_may_be(tmp_path):
    bench = Bench(tmp_path, BatchService(), 60, load=Load(lines=10, jobs=2))
    most = 0

    async def count(pool):
        nonlocal most
        while True:
            most = max(most, pool.remote.total())
            await anyio.sleep(1.0)

    drive(lambda: bench.run(meanwhile=count))
    assert most == 2
    assert len(bench.service.jobs) == 6
    bench.is_square()


def test_two_models_have_batches_of_their_own(tmp_path):
    bench = Bench(tmp_path, BatchService(), 20, models=(MODEL.id, "gemini-2.5-flash-image"))
    drive(bench.run)
    assert sorted((job.model, len(job.items)) for job in bench.service.jobs) == [
        ("gemini-2.5-flash-image", 10),
        (MODEL.id, 10),
    ]
    assert bench.state(State.SUCCEEDED) == 20


def test_polling_slows_down_with_the_age_of_a_job(tmp_path):
    bench = Bench(tmp_path, BatchService(ends=lambda _: End(after_s=DAY_S)), 3)
    drive(bench.run)
    times = bench.service.times("get")
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[0] == pytest.approx(31.0, abs=2.0)
    assert gaps[-2] == pytest.approx(301.0, abs=2.0)
    assert all(later > earlier - 2.0 for earlier, later in pairwise(gaps))
    assert len(times) < 320
    bench.is_square()


def test_runs_that_are_started_again_and_again_poll_no_faster(tmp_path):
    bench = Bench(tmp_path, BatchService(ends=lambda _: End(after_s=DAY_S / 4)), 3)

    async def restless():
        async def leave(pool):
            await anyio.sleep(20.0)
            pool.interrupt()

        for _ in range(20):
            await bench.run(meanwhile=leave)
        times = bench.service.times("get")
        await bench.run()
        return times

    times = drive(restless)
    assert len(times) <= 13  # a run that goes on asks so often in 400 s
    bench.is_square()


def test_a_machine_that_slept_notices_within_a_minute(tmp_path):
    bench = Bench(tmp_path, BatchService(ends=lambda _: End(after_s=4 * 3600.0)), 3)

    async def sleep(_pool):
        await anyio.sleep(3 * 3600.0 + 10.0)
        asked = bench.service.times("get")
        bench.clock.epoch += 8 * 3600.0
        await anyio.sleep(61.0)
        assert len(bench.service.times("get")) > len(asked)

    drive(lambda: bench.run(meanwhile=sleep))
    bench.is_square()


def test_a_calendar_that_is_set_back_does_not_stop_the_polling(tmp_path):
    bench = Bench(tmp_path, BatchService(), 3)

    async def set_back(_pool):
        await anyio.sleep(100.0)
        bench.clock.epoch -= 8 * 3600.0

    drive(lambda: bench.run(meanwhile=set_back))
    assert max(bench.service.times("results")) < 1_000.0 + 1_200.0
    bench.is_square()


def test_a_detached_run_leaves_when_all_is_submitted_and_the_next_one_picks_up(tmp_path):
    bench = Bench(tmp_path, BatchService(), 40, load=Load(lines=10))

    async def twice():
        await bench.run(detach=True)
        assert bench.ending.halted is None
        assert anyio.current_time() < 1_000.0 + 60.0
        assert bench.state(State.SUBMITTED) == 40
        assert len(bench.service.jobs) == 4
        await bench.run()

    drive(twice)
    assert len(bench.service.jobs) == 4
    bench.is_square()


def test_a_detached_run_leaves_what_may_not_be_open_yet(tmp_path):
    bench = Bench(tmp_path, BatchService(), 40, load=Load(lines=10, jobs=3))
    drive(lambda: bench.run(detach=True))
    assert (bench.ending.halted, bench.state(State.SUBMITTED), bench.state(State.QUEUED)) == (None, 30, 10)
