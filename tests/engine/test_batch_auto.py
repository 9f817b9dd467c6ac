"""Both lanes in one run: what is enough for a batch goes in one, the small rest and retries go the quick way."""

import uuid
from typing import Any

import anyio

from runner.core.batching import Load
from runner.core.budget import Cap
from runner.core.lifecycle import Faulted, Lost, State
from tests.driven import drive
from tests.engine.batch_bench import COST, WORST, Bench
from tests.engine.batch_service import BatchService, End
from tests.engine.bench import MODEL
from tests.fakes import pictured

AUTO: dict[str, Any] = {"auto": True, "load": Load(lines=50, least=20)}
FEW_S = 100.0


def test_a_large_group_goes_in_batches_and_the_rest_at_once(tmp_path):
    bench = Bench(tmp_path, BatchService(), 110, **AUTO)
    drive(bench.run)
    assert [len(job.items) for job in bench.service.jobs] == [50, 50]
    assert len(bench.service.sent) == 10
    assert bench.status.spend.settled == 100 * COST + 10 * 2 * COST
    bench.is_square()


def test_the_rest_is_done_while_the_batches_run(tmp_path):
    bench = Bench(tmp_path, BatchService(ends=lambda _: End(after_s=5_000.0)), 110, **AUTO)

    async def look(pool):
        await anyio.sleep(FEW_S)
        assert len(bench.service.sent) == 10
        assert pool.remote.total() == 2
        assert (pool.pulse.binds, pool.pulse.finish_at) == ("remote", None), (
            "not done now, with nothing left to send"
        )

    drive(lambda: bench.run(meanwhile=look))
    bench.is_square()


def test_few_tasks_need_no_batch(tmp_path):
    bench = Bench(tmp_path, BatchService(), 15, **AUTO)
    drive(bench.run)
    assert bench.service.jobs == []
    assert bench.clock.epoch + 1_000.0 + FEW_S > bench.status.updated_at
    bench.is_square()


def test_few_retries_go_the_quick_way_and_many_in_a_batch(tmp_path):
    def says(failing):
        fault = Faulted(500, "gRPC 13")
        return lambda task, seen: fault if seen == 1 and int(task.key[1:]) < failing else pictured()

    few = Bench(tmp_path / "few", BatchService(says=says(5)), 100, **AUTO)
    many = Bench(tmp_path / "many", BatchService(says=says(30)), 100, **AUTO)
    for bench in (few, many):
        bench.folder.mkdir()
        drive(bench.run)
        assert bench.state(State.SUCCEEDED) == 100
        assert bench.status.spend.settled == sum(bench.service.billed)
    assert ([len(job.items) for job in few.service.jobs], len(few.service.sent)) == ([50, 50], 5)
    assert [len(job.items) for job in many.service.jobs] == [50, 50, 6, 6]


def test_neither_lane_asks_the_ledger_in_vain_again_and_again(tmp_path):
    service = BatchService(
        says=lambda _task, seen: Faulted(500, "no") if seen == 1 else pictured(),
        ends=lambda _: End(after_s=20_000.0),
    )
    bench = Bench(tmp_path, service, 115, **AUTO)
    drive(bench.run)
    assert bench.state(State.SUCCEEDED) == 115
    assert bench.calls["submit"] < 120
    assert bench.calls["claim"] < 4 * 115


def test_two_models_in_both_lanes(tmp_path):
    bench = Bench(tmp_path, BatchService(), 130, models=(MODEL.id, "gemini-2.5-flash-image"), **AUTO)
    drive(bench.run)
    assert bench.ending.halted is None
    assert [len(job.items) for job in bench.service.jobs] == [50, 50]
    assert len(bench.service.sent) == 30
    assert (set(bench.service.seen.values()), bench.state(State.SUCCEEDED)) == ({1}, 130)
    assert bench.calls["submit"] < 100


def test_one_cap_holds_for_both_lanes(tmp_path):
    bench = Bench(tmp_path, BatchService(), 110, cap=Cap(nanos=90 * WORST), **AUTO)
    drive(bench.run)
    assert bench.ending.halted == "budget"
    assert bench.status.spend.settled == sum(bench.service.billed)
    assert bench.state(State.SUCCEEDED) >= 85


def test_a_detached_run_does_the_small_rest_before_it_leaves(tmp_path):
    bench = Bench(tmp_path, BatchService(), 110, **AUTO)
    drive(lambda: bench.run(detach=True))
    assert (bench.state(State.SUBMITTED), bench.state(State.SUCCEEDED)) == (100, 10)


def test_a_killed_run_of_both_lanes_is_resumed(tmp_path):
    for dies_at in range(20, 420, 80):
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        bench = Bench(folder, BatchService(), 50, auto=True, load=Load(lines=20, least=20))

        async def twice(bench=bench, dies_at=dies_at):
            await bench.run(dies_at=dies_at)
            await bench.run()

        drive(twice)
        assert bench.state(State.SUCCEEDED) == 50
        in_flight = [one.outcome for one in bench.ended if isinstance(one.outcome, Lost)]
        assert not in_flight  # the rescue settles these, outside of the pool
        assert max(bench.service.seen.values()) <= 2
        assert bench.status.spend.reserved == 0
