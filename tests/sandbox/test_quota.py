"""Quotas over true sliding windows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.sandbox.errors import spoken
from runner.sandbox.quota import Quotas
from tests.sandbox.wire import CALM, asking, serving


def quotas(limit: int, speed: float = 1, *, count_rejected: bool = False, admitted=()) -> Quotas:
    return Quotas({"rpm": limit}, speed, count_rejected=count_rejected, admitted=admitted)


@given(gaps=st.lists(st.integers(0, 40_000), max_size=120), limit=st.integers(1, 9))
def test_no_window_holds_more_and_none_is_turned_away_from_room(gaps, limit):
    """Admitted exactly where the 60 s that end here hold fewer than the limit."""
    judge, now = quotas(limit), 1e9
    admitted: list[float] = []
    for gap in gaps:
        now += gap / 1024
        room = sum(now - at < 60 for at in admitted) < limit
        assert (judge.judge("m", now) is None) == room
        if room:
            admitted.append(now)


def test_a_burst_at_the_turn_of_the_minute_does_not_pass_twice():
    """A fixed window, or a bucket, would let both bursts through."""
    judge = quotas(10)
    assert not any(judge.judge("m", 59.0) for _ in range(10))
    assert all(judge.judge("m", 61.0) for _ in range(10))
    assert judge.judge("m", 118.999)
    assert not any(judge.judge("m", 119.0) for _ in range(10))


def test_models_have_windows_of_their_own():
    judge = quotas(1)
    assert [judge.judge(model, 0.0) is None for model in ("a", "b", "a")] == [True, True, False]


def test_rejected_requests_count_if_told_so():
    """Whoever keeps knocking stays outside."""
    for count_rejected, admitted in ((False, True), (True, False)):
        judge = quotas(1, count_rejected=count_rejected)
        for at in (0.0, 30.0):
            judge.judge("m", at)
        assert (judge.judge("m", 61.0) is None) == admitted


def test_a_fast_clock_has_short_windows_and_names_delays_of_its_own():
    judge = quotas(1, speed=60)
    assert judge.judge("m", 0.0) is None
    rejection = judge.judge("m", 0.5)
    assert rejection is not None
    assert "retry in 30s" in rejection.message
    assert judge.judge("m", 1.0) is None


def test_delay_leads_to_room():
    judge = quotas(2)
    for at in (0.0, 10.0):
        judge.judge("m", at)
    rejection = judge.judge("m", 25.75)
    assert rejection is not None
    assert "Please retry in 34.25s." in rejection.message
    assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"} in rejection.details


def test_several_limits_at_once():
    judge = Quotas({"rpm": 2, "rpd": 3}, 1, count_rejected=False, admitted=())
    verdicts = [judge.judge("m", at) for at in (0.0, 0.0, 0.0, 60.0, 120.0)]
    assert [bool(verdict) for verdict in verdicts] == [False, False, True, False, True]
    assert "PerMinute" in str(verdicts[2] and verdicts[2].details)
    assert "PerDay" in str(verdicts[4] and verdicts[4].details)


def test_unknown_limits_are_refused():
    with pytest.raises(ValueError, match="unknown quota 'rps'"):
        Quotas({"rps": 1}, 1, count_rejected=False, admitted=())


@pytest.mark.parametrize(
    ("seconds", "text"), [(9303.27, "2h35m3.27s"), (34.286670503, "34.286670503s"), (60, "1m0s"), (0.5, "0.5s")]
)
def test_delays_as_they_are_spoken(seconds, text):
    assert spoken(seconds) == text


def test_window_survives_a_restart(tmp_path):
    """Rejected requests are on the request log, do not count, and are no samples."""
    now = [1e9]
    statuses = []
    for moment in (0.0, 1.0, 59.5, 60.5):
        now[0] = 1e9 + moment
        with serving(tmp_path, quotas={"rpm": 2}, now=lambda: now[0]) as sandbox:
            statuses += [
                sandbox.post(asking()).status,
                sandbox.post(asking(), model="gemini-3.1-flash-image").status,
            ]
    assert statuses == [200, 200, 200, 200, 429, 429, 200, 200]
    assert [row["status"] for row in sandbox.requests()].count("http_429") == 2
    assert [row["seen"] for row in sandbox.requests()[::2]] == [1, 2, None, 3]
    assert len(sandbox.bill()) == 6


def test_drawn_minute_quota_names_the_configured_limit(tmp_path):
    """A client that takes `quotaValue` at its word must not be told another one."""
    with serving(tmp_path, faults=f"{CALM},minute_quota=1", quotas={"rpm": 77}) as sandbox:
        error = sandbox.post(asking()).json["error"]
    assert error["details"][1]["violations"][0]["quotaValue"] == "77"
