"""A cap halts submission and never a harvest; the service itself looks that it holds at every request."""

from runner.core.batching import Load
from runner.core.budget import Cap
from runner.core.lifecycle import Faulted, State
from tests.driven import drive
from tests.engine.batch_bench import COST, WORST, Bench
from tests.engine.batch_service import BatchService
from tests.fakes import pictured


def test_room_that_settled_lines_free_is_used_until_nothing_fits(tmp_path):
    cap = 20 * WORST
    bench = Bench(tmp_path, BatchService(), 100, cap=Cap(nanos=cap), load=Load(lines=50))
    drive(bench.run)
    assert bench.ending.halted == "budget"
    bought = bench.state(State.SUCCEEDED)
    assert bought == (cap - WORST) // COST + 1
    assert bench.state(State.QUEUED) == 100 - bought
    assert bench.status.spend.held == bought * COST == sum(bench.service.billed)
    assert len(bench.service.jobs[0].items) == 20


def test_a_run_goes_on_where_the_cap_is_raised(tmp_path):
    bench = Bench(tmp_path, BatchService(), 30, cap=Cap(nanos=10 * WORST))

    async def twice():
        await bench.run()
        assert bench.ending.halted == "budget"
        bench.cap = Cap(nanos=40 * WORST)
        await bench.run()

    drive(twice)
    assert bench.ending.halted is None
    bench.is_square()


def test_holds_that_nobody_explains_count_against_the_cap(tmp_path):
    fault = Faulted(504, "gRPC 4", billed_unknown=True)
    service = BatchService(says=lambda _task, seen: fault if seen == 1 else pictured())
    bench = Bench(tmp_path, service, 10, cap=Cap(nanos=15 * WORST))
    drive(bench.run)
    assert bench.ending.halted == "budget"
    assert bench.status.spend.unknown == 10 * WORST
    assert bench.state(State.SUCCEEDED) == 5


def test_a_cap_of_image_tokens_halts_too(tmp_path):
    bench = Bench(tmp_path, BatchService(), 30, cap=Cap(image_tokens=12 * 1_120))
    drive(bench.run)
    assert (bench.ending.halted, bench.state(State.SUCCEEDED)) == ("budget", 12)


def test_a_cap_below_one_picture_halts_at_once(tmp_path):
    bench = Bench(tmp_path, BatchService(), 5, cap=Cap(nanos=WORST - 1))
    drive(bench.run)
    assert (bench.ending.halted, bench.service.asked) == ("budget", [])
