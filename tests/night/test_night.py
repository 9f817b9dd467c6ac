"""A night cut short; `python -m tests.night` passes the whole one."""

import pytest

from tests.night import clock
from tests.night.__main__ import table
from tests.night.judge import Allowed, Arrival, best_finish, windows
from tests.night.night import Plan, holds, pass_night
from tests.night.plot import svg

SHORT = Plan(tasks=600, kills=3, outage_at_s=100.0, slack=1.4, resume_s=20.0, late=30)
"""What the processors do beside must not decide a test: a second of theirs is a minute of the night. The windows
at the send, the bill and the audit are as strict as in the whole night; how long it took is judged there, and here
only so that windows of one and a half times their length are noticed. A minute of the wall is an
hour of the night."""


@pytest.mark.timeout(400)
def test_through_faults_an_outage_and_kills_a_night_takes_what_its_limits_allow_and_wastes_nothing(tmp_path):
    report = pass_night(tmp_path, SHORT)
    for line in table(report):
        print(*line, sep=": ")  # noqa: T201 - shown with -s, and after a failure
    holds(report)
    assert svg(report).count('class="kill"') == SHORT.kills


def test_the_judge_lets_every_request_leave_as_soon_as_both_windows_have_room():
    limits = Allowed(rpm=2, spend_nanos=10)
    assert best_finish([1, 1], limits, 5.0, []) == 5.0
    assert best_finish([1, 1, 1], limits, 5.0, []) == 65.0
    assert best_finish([6, 4], limits, 0.0, []) == 0.0
    assert best_finish([6, 5], limits, 0.0, []) == 600.0
    assert best_finish([0, 6, 5], limits, 0.0, [(0.0, 10.0), (600.0, 700.0)]) == 700.0


def test_a_full_window_holds_its_first_instant_and_not_its_last():
    sends = [Arrival(at, "image", True, None, 1) for at in (0.0, 599.0, 600.0, 700.0)]
    assert windows(sends, 100.0) == [2, 2]
    assert windows(sends, 100.0, apart_from=[(600.0, 610.0)]) == [2]


def test_the_night_stands_still_until_a_runner_lets_it_go_on_and_everybody_sees_the_same(tmp_path, monkeypatch):
    at = [1_000.0]
    monkeypatch.setattr(clock, "_wall", lambda: at[0])
    one, other = (clock.NightClock(tmp_path / "clock") for _ in range(2))
    at[0] = 1_007.0
    assert one.wall() == other.wall() == 1_000.0
    one.go_on()
    at[0] = 1_010.0
    assert one.wall() == other.wall() == 1_003.0
    other.stop()
    at[0] = 1_020.0
    assert one.wall() == other.wall() == 1_003.0
    one.go_on()
    other.go_on()
    at[0] = 1_021.0
    assert one.wall() == other.wall() == 1_004.0
