"""The smoother spreads requests; windows are the ledger's to keep, see `test_limits`."""

import pytest

from runner.core.learning import Belief
from runner.core.limits import Limits
from runner.engine.limiter import GROWING_LEAST, Smoother, pace_of
from tests.driven import DrivenClock, drive


async def turns(rpm, count):
    clock = DrivenClock()
    smoother = Smoother(clock)
    smoother.pace(rpm)
    times = []
    for _ in range(count):
        await smoother.turn()
        smoother.used()
        times.append(clock.now())
    return times


@pytest.mark.parametrize("rpm", [1, 2, 10, 60, 1_000, 10_000])
def test_turns_come_at_an_even_pace_after_a_small_burst(rpm):
    times = drive(turns, rpm, 200)
    burst = max(1, rpm // 100)
    gaps = [later - earlier for earlier, later in zip(times[burst:], times[burst + 1 :], strict=False)]
    assert all(gap == pytest.approx(60 / rpm, rel=0.01) for gap in gaps)
    assert times[burst - 1] - times[0] < 0.01


def test_an_unused_turn_is_kept():
    async def main():
        clock = DrivenClock()
        smoother = Smoother(clock)
        smoother.pace(2)
        await smoother.turn()
        before = clock.now()
        await smoother.turn()
        return clock.now() - before

    assert drive(main) < 0.001


def test_no_rate_never_waits():
    times = drive(turns, None, 500)
    assert times[-1] - times[0] < 0.01


@pytest.mark.parametrize(
    ("limits", "belief", "rpm"),
    [
        (Limits(), None, None),
        (Limits(rpm=60), None, 60),
        (Limits(rpm=60, ipm=30), None, 30),
        (Limits(), Belief(), GROWING_LEAST),
        (Limits(), Belief(ceiling=1_000), 8_000),
        (Limits(), Belief(ceiling=100, found=True), 126),
        (Limits(rpm=60), Belief(ceiling=100, found=True), 60),
    ],
)
def test_the_least_rate_sets_the_pace_and_a_believed_one_has_play(limits, belief, rpm):
    assert pace_of(limits, belief, 0.0) == rpm
