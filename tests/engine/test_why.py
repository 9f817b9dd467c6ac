"""What holds a run back is named within seconds; when it will be done, with it and without, is told truly."""

from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from runner.core.budget import Cap
from runner.core.lifecycle import Faulted
from runner.core.limits import Binding, Limits, Need
from runner.engine.why import Why
from runner.ledger import Pulse
from tests.driven import DrivenClock, drive
from tests.engine.bench import EPOCH, Bench, Service, around
from tests.fakes import pictured

USAGE = {"prompt": 8, "candidates": 1_200, "image": 1_120}
COST = 8 * 250 + 80 * 1_500 + 1_120 * 60_000
WORST = 8 * 250 + 1_500 * 1_500 + 1_120 * 60_000
LIKELY = Need(tokens=8, images=1, nanos=COST, bytes=10)
PLENTY = 1_000_000
BEGIN = 1_000.0
TASKS = 200


def limits(**some) -> Limits:
    """Far more than eight in flight need, but for some."""
    return Limits(**{"rpm": PLENTY, "concurrency": 8, **some})


@dataclass(frozen=True)
class Case:
    """One cause made to bind, and the run without it."""

    binds: Binding
    begins_with: int
    """It binds from this request on."""
    looked_at_s: float
    """When the forecast is taken, in seconds of the run."""
    held: dict[str, Any]
    lifted: dict[str, Any] = field(default_factory=lambda: {"limits": limits()})


CASES = [
    Case("requests", 2, 60, {"limits": limits(rpm=40)}),
    Case("images", 2, 60, {"limits": limits(ipm=40)}),
    Case("tokens", 40, 60, {"limits": limits(tpm=8 * 40)}),
    Case("spend_window", 100 * WORST // COST - 1, 80, {"limits": limits(spend_nanos=100 * WORST)}),
    Case("day", 100, 80, {"limits": limits(rpd=100), "wait": True}),
    Case("concurrency", 3, 60, {"limits": limits(rpm=90, concurrency=3)}, {"limits": Limits(rpm=90)}),
    Case("bytes", 3, 60, {"limits": limits(bytes_in_flight=30), "weigh": lambda *_: 10}),
]


def service() -> Service:
    """Answers everything after around five seconds."""
    latency = around(5.0)
    return Service(lambda *_: (latency(), pictured(**USAGE)))


class Watch:
    """What the ledger says of a run, every second until `until_s`."""

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.pulses: list[tuple[float, Pulse]] = []

    async def __call__(self, run: Any) -> None:
        while anyio.current_time() < BEGIN + self.until_s:
            status = await run.look()
            if status.pulse is not None:
                self.pulses.append((anyio.current_time(), status.pulse))
            await anyio.sleep(1.0)

    def named_at(self, binds: Binding, begins: float) -> float:
        """When the ledger first named it from `begins` on."""
        return next(at for at, pulse in self.pulses if pulse.binds == binds and at >= begins)


def close(real: float, told: float, now: float) -> bool:
    """Within 15 % of what was left."""
    print(f"told {told - now:.0f} s, was {real - now:.0f} s")  # noqa: T201
    return abs(real - told) <= 0.15 * (real - now)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.binds)
def test_what_binds_is_named_within_five_seconds_and_left_alone_it_ends_when_it_said(tmp_path, case):
    watch, provider = Watch(case.looked_at_s), service()

    async def main():
        return await Bench(tmp_path).run(provider, TASKS, meanwhile=watch, likely=LIKELY, **case.held)

    done = drive(main)
    began = provider.sent[case.begins_with - 1][0]
    assert watch.named_at(case.binds, began) <= began + 5
    at, pulse = watch.pulses[-1]
    assert pulse.binds == case.binds
    assert pulse.finish_at is not None
    assert close(done.finished_at, pulse.finish_at, EPOCH + at)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.binds)
def test_lifted_it_ends_when_it_was_said_to_without(tmp_path, case):
    watch = Watch(case.looked_at_s)

    async def main():
        bench = Bench(tmp_path)
        stop = case.looked_at_s + 0.1
        terms: dict[str, Any] = {"likely": LIKELY, **case.held}
        await bench.run(service(), TASKS, stop_after_s=stop, meanwhile=watch, **terms)
        return await bench.run(service(), TASKS, **{**terms, **case.lifted})

    done = drive(main)
    at, pulse = watch.pulses[-1]
    assert pulse.binds == case.binds
    assert pulse.finish_without_at is not None
    assert close(done.finished_at, pulse.finish_without_at, EPOCH + at)


def test_a_cap_is_named_before_it_halts_the_run_and_no_end_is_promised(tmp_path):
    watch, provider = Watch(80), service()

    async def main():
        bench = Bench(tmp_path)
        cap = Cap(nanos=60 * WORST)
        first = await bench.run(provider, TASKS, meanwhile=watch, likely=LIKELY, cap=cap, limits=limits())
        second = await bench.run(service(), TASKS, likely=LIKELY, limits=limits())
        return first, second

    first, second = drive(main)
    assert first.ending.halted == "budget"
    named = [(at, pulse) for at, pulse in watch.pulses if pulse.binds == "budget"]
    assert named[0][0] <= provider.sent[-1][0] + 5
    at, pulse = named[-1]
    assert pulse.finish_at is None
    assert pulse.finish_without_at is not None
    assert close(second.finished_at, pulse.finish_without_at, EPOCH + at)


def test_an_outage_is_named_and_once_it_is_over_the_run_ends_as_told(tmp_path):
    watch, latency, opened = Watch(64), around(5.0), []

    def says(_key, _seen, now):
        if BEGIN + 40 <= now < BEGIN + 64:
            return 0.2, Faulted(500, "internal")
        return latency(), pictured(**USAGE)

    async def look(run):
        while not run.pool.lanes[0].gate.outage:  # noqa: ASYNC110 - the gate tells nobody
            await anyio.sleep(0.1)
        opened.append(anyio.current_time())

    async def both(run):
        async with anyio.create_task_group() as group:
            group.start_soon(watch, run)
            group.start_soon(look, run)

    async def main():
        choices: dict[str, Any] = {"likely": LIKELY, "limits": limits()}
        return await Bench(tmp_path).run(Service(says), 300, meanwhile=both, **choices)

    done = drive(main)
    assert watch.named_at("outage", opened[0]) <= opened[0] + 5
    at, pulse = watch.pulses[-1]
    assert pulse.binds == "outage"
    assert pulse.finish_at is None
    assert pulse.finish_without_at is not None
    assert close(done.finished_at, pulse.finish_without_at, EPOCH + at)


def test_the_cause_of_most_of_the_waiting_is_named_and_forgotten_when_it_is_over():
    async def main():
        why, told = Why(DrivenClock()), []
        told.append(why.binds())
        why.waits("concurrency")
        await anyio.sleep(60)
        told.append(why.binds())
        why.waits("requests")
        await anyio.sleep(5)
        told.append(why.binds())
        why.waits(None)
        await anyio.sleep(5)
        told.append(why.binds())
        return told

    assert drive(main) == [None, "concurrency", "requests", None]
