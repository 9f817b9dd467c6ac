"""Small worlds with faults, interrupts and deaths drawn at random: what holds in all of them."""

import random
import shutil
import tempfile
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.core.batching import Load
from runner.core.budget import Cap
from runner.core.lifecycle import Faulted, Invalid, Made, State, Throttled
from runner.core.remote import Declined, Failure, NotNow
from tests.driven import drive
from tests.engine.batch_bench import WORST, Bench
from tests.engine.batch_service import BatchService, End
from tests.fakes import pictured

BUSY = NotNow(Throttled(429, "unnamed", "busy"))
LINE_2 = Declined(Invalid(400, "Error on line 2"))
ENDS = (
    *[End(after_s=40.0)] * 6,
    End("FAILED", error=Failure(13, "internal"), does=0, shows=False),
    End("FAILED", error=Failure(3, "Error on line 1"), does=0, shows=False),
    End("EXPIRED", does=0, shows=False),
    End("CANCELLED", does=1),
    End("PARTIALLY_SUCCEEDED", does=2),
)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A ledger that is migrated and empty."""
    bench = Bench(tmp_path_factory.mktemp("fresh"), BatchService(), 0)
    drive(lambda: bench.run(detach=True))
    return bench.folder / "l.db"


def world(folder, seed, *, auto, cap):
    """A service whose every whim is drawn from a seed; it grows tame with time."""
    chance = random.Random(seed)

    def whim(*choices):
        return chance.choice(choices) if anyio.current_time() < 6_000.0 else None

    def shape(_job, rows):
        return chance.sample(rows, len(rows)) + chance.choices(rows, k=chance.choice([0, 0, 1]) if rows else 0)

    def says(_task, _seen):
        return whim(None, None, None, Faulted(500, "13"), Faulted(504, "4", billed_unknown=True)) or pictured()

    service = BatchService(
        says=says,
        ends=lambda _: chance.choice(ENDS) if anyio.current_time() < 6_000.0 else End(after_s=40.0),
        shape=shape,
        on_create=lambda _n, _now: whim(None, None, None, "lost", "never", BUSY, LINE_2),
        on_get=lambda _job, _now: whim(None, None, BUSY),
        on_find=lambda _n, _now: whim(None, None, BUSY),
        on_cancel=lambda _job, _now: whim(None, BUSY),
        breaks=lambda _job, _n: whim(None, None, (1, True)),
        listed_after_s=chance.choice([0.0, 0.0, 400.0]),
    )
    return Bench(folder, service, 9, auto=auto, load=Load(lines=3, least=2 if auto else 1), cap=cap)


deaths = st.lists(st.tuples(st.sampled_from(["kill", "leave", "abandon"]), st.integers(1, 150)), max_size=4)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), deaths=deaths, auto=st.booleans(), capped=st.booleans())
def test_whatever_happens_money_and_pictures_add_up(fresh, seed, deaths, auto, capped):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(fresh, Path(folder) / "l.db")
        bench = world(Path(folder), seed, auto=auto, cap=Cap(nanos=14 * WORST) if capped else Cap())
        drive(live, bench, deaths)
        judge(bench)


async def live(bench, deaths):
    for kind, when in deaths:
        await bench.run(dies_at=when if kind == "kill" else None, meanwhile=leave_after(kind, when))
    await bench.run()


def leave_after(kind, seconds):
    async def leave(pool):
        if kind == "kill":
            return
        await anyio.sleep(seconds * 5.0)
        pool.interrupt()
        if kind == "abandon":
            await anyio.sleep(0.2)
            pool.abandon()

    return leave


def judge(bench):
    """The ledger's own recount is made after every run, and the cap is looked at with every request."""
    succeeded = [one.attempt.key for one in bench.ended if isinstance(one.outcome, Made)]
    assert len(succeeded) == len(set(succeeded))
    tokens = [job.token for job in bench.service.jobs]
    assert len(tokens) == len(set(tokens))
    made = {attempt.token for attempt in bench.reader().attempts("j") if attempt.outcome == "made"}
    assert made <= set(bench.shelf.kept)
    assert len(made) == bench.state(State.SUCCEEDED)
    spend = bench.status.spend
    assert spend.reserved == 0
    assert spend.settled <= sum(bench.service.billed) <= spend.held
    assert bench.state(State.SUBMITTED) == bench.state(State.RUNNING) == 0
    assert bench.ending.halted in ({None, "budget"} if bench.cap.nanos else {None})
