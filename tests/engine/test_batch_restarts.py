"""Batches over the ends of runs: interrupted, or killed at any touch of the ledger, the service or the disk."""

import shutil
from typing import Any

import anyio
import pytest

from runner.core.batching import Load
from runner.core.lifecycle import BatchState, State, Throttled
from runner.core.remote import NotNow
from tests.driven import drive
from tests.engine.batch_bench import Bench, until
from tests.engine.batch_service import BatchService, End

BUSY = NotNow(Throttled(429, "unnamed", "Resource has been exhausted"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A ledger that is migrated and empty."""
    bench = Bench(tmp_path_factory.mktemp("fresh"), BatchService(), 0)
    drive(lambda: bench.run(detach=True))
    return bench.folder / "l.db"


def leaving(when, *, abandon=False):
    """Interrupt a run once something is true."""

    async def leave(pool):
        await until(when)
        pool.interrupt()
        if abandon:
            await anyio.sleep(0.01)
            pool.abandon()

    return leave


FAULTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "lost": {"on_create": lambda n, _now: "lost" if n == 1 else None},
    "never": {"on_create": lambda n, _now: "never" if n == 1 else None},
    "busy": {"on_create": lambda n, _now: BUSY if n == 1 else None},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_at_many_a_touch_nothing_is_lost_or_bought_twice(tmp_path, fresh, fault):
    def bench(n):
        folder = tmp_path / str(n)
        folder.mkdir()
        shutil.copy(fresh, folder / "l.db")
        service = BatchService(**FAULTS[fault], ends=lambda _: End(after_s=50.0))
        return Bench(folder, service, 4, load=Load(lines=2))

    whole = bench(0)
    drive(whole.run)
    whole.is_square()
    for n in range(1, whole.touches + 1, 2 if fault == "nothing" else 5):
        killed = bench(n)

        async def twice(killed=killed, n=n):
            await killed.run(dies_at=n)
            assert killed.ending.reason == "killed"
            await killed.run()

        drive(twice)
        assert killed.ending.halted is None, n
        killed.is_square()
        assert sum(killed.shelf.stored.values()) <= 5, n


def test_interrupted_during_the_upload_the_tasks_go_back_for_nothing(tmp_path):
    bench = Bench(tmp_path, BatchService(latency_s=10.0), 6)
    drive(lambda: bench.run(meanwhile=leaving(lambda: bench.service.count("upload"))))
    assert bench.ending.halted == "interrupted"
    assert (bench.state(State.QUEUED), bench.status.spend.held, bench.service.jobs) == (6, 0, [])
    assert {(one.state, one.reason) for one in bench.reader().batches("j")} == {(BatchState.OVER, "withdrawn")}
    drive(bench.run)
    bench.is_square()


def test_interrupted_during_a_create_the_answer_is_booked(tmp_path):
    bench = Bench(tmp_path, BatchService(latency_s=10.0), 6)

    async def twice():
        await bench.run(meanwhile=leaving(lambda: bench.service.count("create")))
        assert (bench.ending.halted, bench.status.batches[0].state) == ("interrupted", BatchState.CREATED)
        await bench.run()

    drive(twice)
    assert bench.service.count("create") == 1
    bench.is_square()


def test_interrupted_while_a_create_must_wait_the_tasks_go_back(tmp_path):
    bench = Bench(tmp_path, BatchService(on_create=lambda _n, _now: BUSY), 6)
    drive(lambda: bench.run(meanwhile=leaving(lambda: bench.service.count("create") == 2)))
    assert (bench.state(State.QUEUED), bench.status.spend.held, bench.service.jobs) == (6, 0, [])


def test_interrupted_while_batches_run_it_leaves_at_once_and_they_go_on(tmp_path):
    bench = Bench(tmp_path, BatchService(), 6, load=Load(lines=3))

    async def twice():
        await bench.run(meanwhile=leaving(lambda: anyio.current_time() > 1_200.0))
        assert anyio.current_time() < 1_202.0
        assert (bench.ending.halted, bench.state(State.SUBMITTED)) == ("interrupted", 6)
        await bench.run()

    drive(twice)
    assert len(bench.service.jobs) == 2
    bench.is_square()


def test_interrupted_in_a_harvest_that_one_is_finished_and_no_other_begun(tmp_path):
    bench = Bench(tmp_path, BatchService(line_s=5.0), 12, load=Load(lines=6))

    async def twice():
        await bench.run(meanwhile=leaving(lambda: len(bench.shelf.kept) == 2))
        assert bench.ending.halted == "interrupted"
        assert (bench.state(State.SUCCEEDED), bench.state(State.SUBMITTED)) == (6, 6)
        await bench.run()

    drive(twice)
    assert set(bench.shelf.stored.values()) == {1}
    bench.is_square()


def test_abandoned_in_a_harvest_what_is_not_settled_stays_open(tmp_path):
    bench = Bench(tmp_path, BatchService(line_s=5.0), 6)

    async def twice():
        await bench.run(meanwhile=leaving(lambda: len(bench.shelf.kept) == 2, abandon=True))
        assert (bench.state(State.SUCCEEDED), bench.state(State.SUBMITTED)) == (2, 4)
        assert anyio.current_time() < 1_000.0 + 700.0
        await bench.run()

    drive(twice)
    assert set(bench.shelf.stored.values()) == {1}
    bench.is_square()


def test_abandoned_in_a_create_the_job_is_looked_for(tmp_path):
    bench = Bench(tmp_path, BatchService(latency_s=20.0), 6)

    async def twice():
        await bench.run(meanwhile=leaving(lambda: bench.service.jobs, abandon=True))
        assert bench.state(State.SUBMITTED) == 6
        await bench.run()

    drive(twice)
    assert bench.service.count("create") == 1
    bench.is_square()
