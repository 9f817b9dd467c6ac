"""The pace judged by a strict sliding window, and the gate."""

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core.lifecycle import Invalid, Lost, Throttled, Unreached
from runner.engine.limiter import Gate, Pace
from tests.driven import DrivenClock, drive


def worst_window(times, length_s=60.0):
    """The most events any half-open window of that length holds."""
    worst, start = 0, 0
    for end, at in enumerate(times):
        while times[start] <= at - length_s:
            start += 1
        worst = max(worst, end - start + 1)
    return worst


async def sends(rpm, count, recent=(), claim_s=lambda _: 0.0):
    clock = DrivenClock()
    pace = Pace(rpm, clock, recent)
    times = []
    for n in range(count):
        await pace.turn()
        await anyio.sleep(claim_s(n))
        pace.launch().left()
        times.append(clock.now())
    return times


@pytest.mark.parametrize("rpm", [1, 2, 10, 60, 1_000, 10_000])
def test_no_window_is_over_the_limit_and_none_is_wasted(rpm):
    times = drive(sends, rpm, rpm * 4)
    assert worst_window(times) <= rpm
    span_s = times[-1] - times[0]
    windows = [
        sum(1 for at in times if times[0] + s <= at < times[0] + s + 60) for s in range(0, int(span_s) - 60, 7)
    ][:40]
    assert windows
    assert min(windows) >= rpm - max(1, rpm * 0.02)


@settings(max_examples=60, deadline=None)
@given(
    rpm=st.sampled_from([1, 2, 3, 10, 60, 200]),
    recent=st.lists(st.floats(0, 90), max_size=20),
    stalls=st.lists(st.sampled_from([0.0, 0.01, 1.0, 7.0, 30.0, 90.0]), min_size=1, max_size=12),
)
def test_slow_claims_and_restarts_never_break_the_window(rpm, recent, stalls):
    recent = sorted(recent, reverse=True)[-rpm:]
    start = 1_000.0
    times = drive(sends, rpm, min(rpm * 3, 150), recent, lambda n: stalls[n % len(stalls)])
    earlier = [start - ago for ago in recent]
    if worst_window(earlier) <= rpm:
        assert worst_window(earlier + times) <= rpm


@settings(max_examples=40, deadline=None)
@given(
    rpm=st.sampled_from([1, 2, 10, 60]),
    connects=st.lists(st.sampled_from([0.0, 0.3, 5.0, 29.0, None]), min_size=1, max_size=9),
)
def test_slow_connections_never_break_the_window_at_the_send(rpm, connects):
    """Requests are sent when their connection is open, in any order; None never gets one."""

    async def main():
        clock = DrivenClock()
        pace = Pace(rpm, clock)
        times = []

        async def send(launch, connect_s):
            await anyio.sleep(30.0 if connect_s is None else connect_s)
            if connect_s is None:
                launch.over()
                return
            times.append(clock.now())
            launch.left()

        async with anyio.create_task_group() as crew:
            for n in range(min(3 * rpm, 90)):
                await pace.turn()
                crew.start_soon(send, pace.launch(), connects[n % len(connects)])
        return times

    assert worst_window(drive(main)) <= rpm


def test_an_unused_turn_is_kept():
    async def main():
        clock = DrivenClock()
        pace = Pace(2, clock)
        await pace.turn()
        before = clock.now()
        await pace.turn()
        return clock.now() - before

    assert drive(main) < 0.001


def test_no_limit_never_waits():
    assert worst_window(drive(sends, None, 500)) == 500


def test_one_refusal_closes_the_gate_for_as_long_as_it_says():
    async def main():
        clock = DrivenClock()
        gate = Gate(clock)
        gate.report(gate.enter(), Throttled(429, "minute", "", 34.0))
        assert not gate.admits()
        start = clock.now()
        await gate.wait()
        return clock.now() - start

    assert drive(main) == pytest.approx(34.0)


def test_refusals_of_one_burst_are_one_strike():
    async def main():
        gate = Gate(DrivenClock())
        epochs = [gate.enter() for _ in range(16)]
        for epoch in epochs:
            gate.report(epoch, Throttled(429, "unnamed", ""))
        return gate.strikes, gate.closed_for_s()

    strikes, closed_s = drive(main)
    assert strikes == 1
    assert closed_s <= 2.0


def test_after_two_strikes_one_probe_goes_first_and_its_success_opens():
    async def main():
        clock = DrivenClock()
        gate = Gate(clock)
        for _ in range(2):
            gate.report(gate.enter(), Unreached("refused"))
            await gate.wait()
        probe = gate.enter()
        assert not gate.admits()
        gate.report(probe, Invalid(400, ""))
        assert gate.admits()
        return gate.strikes

    assert drive(main) < 0.001


def test_a_lost_probe_lets_the_next_one_go():
    async def main():
        gate = Gate(DrivenClock())
        for _ in range(3):
            gate.report(gate.enter(), Throttled(503, "capacity", ""))
            await gate.wait()
        gate.report(gate.enter(), Lost("timed_out", ""))
        return gate.admits(), gate.strikes

    assert drive(main) == (True, 3)


def test_waits_double_up_to_two_minutes():
    async def main():
        clock = DrivenClock(chance=0.999999)
        gate = Gate(clock)
        waits = []
        for _ in range(9):
            gate.report(gate.enter(), Throttled(503, "capacity", ""))
            waits.append(round(gate.closed_for_s()))
            await gate.wait()
        return waits

    assert drive(main) == [2, 4, 8, 16, 32, 64, 120, 120, 120]
