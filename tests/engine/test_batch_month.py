"""The month's limit holds both lanes back before anything leaves, and no harvest; the service adds up its bill."""

from datetime import datetime

import anyio

from runner.core.batching import Load
from runner.core.calendar import month_turns
from runner.core.lifecycle import State
from runner.core.limits import Limits
from tests.driven import drive
from tests.engine.batch_bench import COST, WORST, Bench
from tests.engine.batch_service import BatchService, End
from tests.engine.bench import EPOCH


def month(nanos: int) -> Limits:
    return Limits(rpm=100_000, concurrency=16, month_nanos=nanos)


def stopped_by_the_month(bench: Bench, nanos: int) -> bool:
    """Stopped, square with the service, and with no room left for another line."""
    when = datetime.fromtimestamp(month_turns(EPOCH)).astimezone().timestamp()
    assert bench.ending.halted == "provider", bench.ending
    assert bench.ending.reason is not None
    come_back = bench.ending.reason.partition(" a month; run again after ")[2]
    assert datetime.fromisoformat(come_back).timestamp() == when
    assert bench.status.spend.held == bench.status.spend.settled == sum(bench.service.billed)
    return nanos - WORST < sum(bench.service.billed) <= nanos


def test_room_that_settled_lines_free_is_used_until_nothing_fits_into_the_month(tmp_path):
    nanos = 20 * WORST
    bench = Bench(tmp_path, BatchService(), 100, limits=month(nanos), load=Load(lines=50))
    drive(bench.run)
    assert stopped_by_the_month(bench, nanos)
    bought = bench.state(State.SUCCEEDED)
    assert bought == (nanos - WORST) // COST + 1
    assert bench.state(State.QUEUED) == 100 - bought
    assert len(bench.service.jobs[0].items) == 20


def test_both_lanes_together_keep_the_month(tmp_path):
    """Nine go one by one at twice the price while the batches are out."""
    nanos = 60 * WORST
    service = BatchService(ends=lambda _: End(after_s=5_000.0))
    bench = Bench(tmp_path, service, 109, limits=month(nanos), auto=True, load=Load(lines=25, least=20))

    async def look(pool):
        await anyio.sleep(1_000.0)
        assert (len(service.jobs), pool.remote.total()) == (3, 3)  # 25, 25, and what the month had room for
        assert pool.ending.halted is None

    drive(lambda: bench.run(meanwhile=look))
    assert stopped_by_the_month(bench, nanos)


def test_few_tasks_of_a_job_with_both_lanes_stop_at_the_month(tmp_path):
    nanos = 9 * WORST
    bench = Bench(tmp_path, BatchService(), 15, limits=month(nanos), auto=True, load=Load(lines=50, least=20))
    drive(bench.run)
    assert bench.ending.halted == "provider"
    assert nanos - 2 * WORST < sum(bench.service.billed) <= nanos


def test_the_next_month_goes_on(tmp_path):
    bench = Bench(tmp_path, BatchService(), 30, limits=month(20 * WORST))

    async def over_the_turn():
        await bench.run()
        assert stopped_by_the_month(bench, 20 * WORST)
        await bench.run()
        assert bench.ending.halted == "provider"
        assert len(bench.service.billed) == bench.state(State.SUCCEEDED)
        await anyio.sleep(month_turns(EPOCH) - bench.clock.utc())
        await bench.run()

    drive(over_the_turn)
    assert bench.ending.halted is None
    bench.is_square()


def test_who_detaches_leaves_what_the_month_has_no_room_for(tmp_path):
    bench = Bench(tmp_path, BatchService(ends=lambda _: End(after_s=9_000.0)), 30, limits=month(20 * WORST))

    async def twice():
        await bench.run(detach=True)
        assert (bench.ending.halted, bench.state(State.SUBMITTED)) == (None, 20)
        await bench.run()

    drive(twice)
    assert stopped_by_the_month(bench, 20 * WORST)
