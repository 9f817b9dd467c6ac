"""The gate: what closes it, for how long, and who goes first when it opens."""

from functools import partial

import anyio
import pytest

from runner.core.lifecycle import Faulted, Invalid, Lost, Parked, State, Throttled, Unreached
from runner.core.limits import Limits
from runner.engine.gate import OPENS_AFTER, PATIENCE_S, Gate
from tests.driven import DrivenClock, drive
from tests.engine.bench import EPOCH, WISH, Bench, Service
from tests.fakes import pictured

FAULT = Faulted(500, "internal")


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


def test_what_left_before_an_outage_was_over_is_blamed_on_it_and_opens_no_new_one():
    async def main():
        gate = Gate(DrivenClock())
        early = [gate.enter() for _ in range(20)]
        for epoch in early[:OPENS_AFTER]:
            gate.report(epoch, FAULT)
        states = [gate.outage]
        await gate.wait()
        gate.report(probe := gate.enter(), Invalid(400, ""))
        states.append(gate.outage)
        for epoch in early[OPENS_AFTER:]:
            gate.report(epoch, Lost("timed_out", "360 s"))
        states.append(gate.outage)
        return states, [gate.blames_an_outage(epoch) for epoch in (early[-1], probe)]

    assert drive(main) == ([True, False, False], [True, False])


def test_in_an_outage_nothing_leaves_until_the_one_that_asks_has_ended():
    async def main():
        gate = Gate(DrivenClock())
        early = [gate.enter() for _ in range(20)]
        for epoch in early[:OPENS_AFTER]:
            gate.report(epoch, FAULT)
        await gate.wait()
        probe = gate.enter()
        for epoch in early[OPENS_AFTER:]:
            gate.report(epoch, FAULT)
            assert not gate.admits()
        gate.report(probe, FAULT)
        await gate.wait()
        return gate.admits()

    assert drive(main)


def test_faults_of_tasks_that_were_sent_before_open_nothing():
    async def main():
        gate = Gate(DrivenClock())
        for _ in range(4 * OPENS_AFTER):
            gate.report(gate.enter(), FAULT, fresh=False)
        return gate.outage

    assert not drive(main)


@pytest.mark.parametrize("reason", ["minute", "unnamed", "spend_window"])
def test_refusals_are_no_outage(reason):
    async def main():
        gate = Gate(DrivenClock())
        for _ in range(4 * OPENS_AFTER):
            gate.report(gate.enter(), Throttled(429, reason, ""))
            await gate.wait()
        return gate.outage

    assert not drive(main)


def test_trouble_before_a_long_rest_does_not_use_up_the_patience():
    async def main():
        clock = DrivenClock()
        gate = Gate(clock)
        gate.report(gate.enter(), Throttled(503, "capacity", ""))
        await clock.sleep(8 * 3_600)
        gate.report(gate.enter(), Throttled(503, "capacity", ""))
        return gate.patience_s()

    assert drive(main) == pytest.approx(PATIENCE_S)


REFUSED, PARKED = Throttled(429, "minute", "slow down", 34.0), Parked(429, "day", "come back tomorrow")
FAST = Limits(rpm=100_000, concurrency=4)


def once(refusal, at=1_010.0):
    """A service that refuses what comes first after `at`."""
    refused: list[float] = []

    def says(_key, _seen, now):
        if now >= at and not refused:
            refused.append(now)
            return 0.2, refusal
        return 3.0, pictured()

    return Service(says), refused


@pytest.mark.parametrize("refusal", [REFUSED, Throttled(429, "spend_window", "ten minutes", 34.0)])
def test_one_refusal_holds_every_run_of_the_model_on_the_ledger(tmp_path, refusal):
    one, refused = once(refusal)
    other = Service(lambda *_: (3.0, pictured()))

    async def main():
        bench = Bench(tmp_path)
        async with anyio.create_task_group() as both:
            both.start_soon(partial(bench.run, one, 60, job="one", limits=FAST))
            both.start_soon(partial(bench.run, other, 60, job="other", limits=FAST))

    drive(main)
    sent = [at for at, _ in one.sent + other.sent]
    assert not [at for at in sent if refused[0] + 0.3 < at < refused[0] + 34.2]
    assert len(one.sent) == 61
    assert len(other.sent) == 60


@pytest.mark.parametrize(("reason", "held"), [("spend_window", True), ("minute", False)])
def test_other_models_wait_only_for_what_is_the_endpoints(tmp_path, reason, held):
    one, refused = once(Throttled(429, reason, "", 34.0))
    other = Service(lambda *_: (3.0, pictured()))
    model = "gemini-3-pro-image"

    async def main():
        bench = Bench(tmp_path)
        async with anyio.create_task_group() as both:
            both.start_soon(partial(bench.run, one, 60, job="one", limits=FAST))
            both.start_soon(partial(bench.run, other, 60, job="other", model=model, limits=FAST))

    drive(main)
    quiet = [at for at, _ in other.sent if refused[0] + 0.3 < at < refused[0] + 34.2]
    assert bool(quiet) is not held


def test_parked_for_the_day_stays_parked_over_restarts_until_it_is_lifted(tmp_path):
    service, refused = once(PARKED)

    async def main():
        bench = Bench(tmp_path)
        first = await bench.run(service, 60, limits=FAST)
        sent = len(service.sent)
        await anyio.sleep(3_600)
        second = await bench.run(service, 60, limits=FAST)
        assert len(service.sent) == sent
        ledger = bench.open()
        await ledger.unlearn(WISH, now=bench.clock.utc())
        await bench.close(ledger)
        third = await bench.run(service, 60, limits=FAST)
        return first.ending, second.ending, third

    first, second, third = drive(main)
    assert first.halted == second.halted == "provider"
    assert "come back tomorrow" in second.reason
    assert "run again after 2027-01-16T08:00:00Z" in second.reason
    assert third.ending.halted is None
    assert third.status.tasks[State.SUCCEEDED] == 60
    assert refused


def test_a_run_that_may_wait_sleeps_until_the_day_turns(tmp_path):
    service, refused = once(PARKED)

    async def main():
        return await Bench(tmp_path).run(service, 60, limits=FAST, wait=True)

    run = drive(main)
    assert run.ending.halted is None
    after = min(at for at, _ in service.sent if at > refused[0] + 10)
    assert after + EPOCH == pytest.approx(1_800_086_400.0, abs=2)
