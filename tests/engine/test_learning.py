"""Nobody configured a limit: what the runner makes of a quota that the provider keeps to itself."""

import logging

import anyio
import pytest

from runner.core.lifecycle import Throttled
from runner.core.limits import Limits
from tests.driven import drive
from tests.engine.bench import Bench, HiddenQuota, Service, around, share_used

BEGIN = 1_000.0
"""When the loop's clock starts."""


HOW = ["unnamed", "retry_info", "named"]

pytestmark = pytest.mark.usefixtures("rare_beats")


def always(most):
    return lambda _now: most


def learn(tmp_path, quota, minutes, limits=Limits()):
    """One run of so many minutes."""

    async def main():
        most = max(quota.most(BEGIN + 60 * minute) for minute in range(minutes))
        service = Service(quota)
        return await Bench(tmp_path).run(
            service, most * (minutes + 2), limits=limits, stop_after_s=60 * minutes + 1
        )

    return drive(main)


def judge(quota, begin, end, *, whole_run=True):
    """At least 90 % used and under 10 % wasted from `begin` to `end`, in seconds of the run."""
    used = share_used(quota.admitted, quota.most, BEGIN + begin, BEGIN + end)
    wasted = sum(at >= BEGIN + begin for at in quota.refused)
    sent = wasted + sum(at >= BEGIN + begin for at in quota.admitted)
    assert used >= 0.9, f"{used:.1%} used"
    assert wasted < 0.1 * sent, f"{wasted} of {sent} wasted"
    if whole_run:
        assert len(quota.refused) < 0.1 * (len(quota.refused) + len(quota.admitted))


@pytest.mark.parametrize(
    ("most", "minutes", "says"),
    [
        *((2, 25, says) for says in HOW),
        *((10, 12, says) for says in HOW),
        (60, 8, "unnamed"),
        (500, 3, "unnamed"),
    ],
)
def test_two_windows_after_the_start_a_hidden_quota_is_used_and_hardly_a_request_wasted(
    tmp_path, most, minutes, says
):
    quota = HiddenQuota(always(most), around(12.0), says)
    learn(tmp_path, quota, minutes)
    judge(quota, 120, 60 * minutes, whole_run=most >= 10)


def test_answers_that_all_take_the_same_time_change_nothing(tmp_path):
    quota = HiddenQuota(always(10), lambda: 12.0)
    learn(tmp_path, quota, 12)
    judge(quota, 120, 720)


@pytest.mark.parametrize(("before", "after", "minutes"), [(10, 20, 20), (20, 10, 12)])
def test_a_quota_that_changes_in_the_night_is_followed(tmp_path, before, after, minutes):
    quota = HiddenQuota(lambda now: before if now < BEGIN + 300 else after, around(12.0))
    learn(tmp_path, quota, minutes)
    judge(quota, 60 * (minutes - 5), 60 * minutes)


def test_a_configured_rate_that_the_provider_does_not_grant_is_lowered(tmp_path):
    quota = HiddenQuota(always(30), around(12.0))
    run = learn(tmp_path, quota, 12, Limits(rpm=100))
    judge(quota, 120, 720)
    assert run.pool.pulse.rpm <= 31


def test_a_configured_rate_is_never_outgrown(tmp_path):
    quota = HiddenQuota(always(60), around(12.0))
    run = learn(tmp_path, quota, 4, Limits(rpm=20))
    assert not quota.refused
    assert len(quota.admitted) <= 20 * 5
    assert run.pool.pulse.belief == ""


def test_a_rate_that_the_provider_names_above_the_configured_one_is_not_spoken_of(tmp_path):
    quota = HiddenQuota(always(30), around(12.0), "named")

    async def main():
        bench = Bench(tmp_path)
        await bench.run(Service(quota), 400, stop_after_s=180)
        again = await bench.run(Service(quota), 400, stop_after_s=61, limits=Limits(rpm=20))
        return again.pool.pulse

    assert drive(main).belief == ""


@pytest.mark.parametrize("says", ["unnamed", "named"])
def test_the_next_run_starts_at_what_the_last_one_learned(tmp_path, says):
    quota = HiddenQuota(always(30), around(12.0), says)

    async def main():
        bench = Bench(tmp_path)
        await bench.run(Service(quota), 400, stop_after_s=180)
        await anyio.sleep(3_600)
        began = anyio.current_time()
        again = await bench.run(Service(quota), 400, stop_after_s=61)
        return began, again.pool.pulse

    began, pulse = drive(main)
    assert sum(at >= began for at in quota.admitted) >= 27
    assert sum(at >= began for at in quota.refused) <= 1
    assert pulse.belief.startswith("30 requests a minute")


@pytest.mark.parametrize("status", [429, 503])
def test_a_provider_without_capacity_does_not_lower_the_belief(tmp_path, status):
    latency = around(12.0)

    def says(_key, seen, now):
        if BEGIN + 180 <= now < BEGIN + 200 and seen == 1:
            return 0.2, Throttled(status, "capacity", "overloaded")
        return quota(_key, seen, now)

    quota = HiddenQuota(always(30), latency)

    async def main():
        return await Bench(tmp_path).run(Service(says), 400, stop_after_s=260)

    run = drive(main)
    assert run.pool.pulse.belief == "30 requests a minute (found)"


def test_what_it_believes_and_why_is_logged_once_for_each_change(tmp_path, caplog):
    caplog.set_level(logging.INFO, "bulkrender")
    quota = HiddenQuota(always(60), around(12.0))
    learn(tmp_path, quota, 2)
    lines = [record.message for record in caplog.records if "a minute (" in record.message]
    assert [line.split(": ")[1].split(" ")[0] for line in lines[:4]] == ["4", "8", "16", "32"]
    assert lines[-1].endswith("60 requests a minute (found); a request was refused")
    assert len(lines) <= 6
