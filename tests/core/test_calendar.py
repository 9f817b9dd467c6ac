"""Pacific days and months: dates by hand, properties for the rest."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.calendar import PACIFIC, day_start, day_turns, month_start, month_turns

HOUR_S = 3600.0
INSTANTS = st.one_of(
    st.floats(0, 4e9),
    st.integers(0, 40_000).map(lambda day: day_start(day * 86_400.0)),
    st.integers(0, 40_000).map(lambda day: day_start(day * 86_400.0) - 1e-6),
)


def at(text):
    """Seconds since 1970 of an instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("utc", "start", "turns"),
    [
        ("2026-07-15T12:00", "2026-07-15T07:00", "2026-07-16T07:00"),
        ("2026-07-15T07:00", "2026-07-15T07:00", "2026-07-16T07:00"),
        ("2026-07-15T06:59:59", "2026-07-14T07:00", "2026-07-15T07:00"),
        ("2026-01-15T07:59", "2026-01-14T08:00", "2026-01-15T08:00"),
        ("2026-03-08T12:00", "2026-03-08T08:00", "2026-03-09T07:00"),  # clocks go forward: 23 hours
        ("2026-11-01T12:00", "2026-11-01T07:00", "2026-11-02T08:00"),  # clocks go back: 25 hours
        ("2027-01-01T03:00", "2026-12-31T08:00", "2027-01-01T08:00"),
        ("2028-02-29T20:00", "2028-02-29T08:00", "2028-03-01T08:00"),
    ],
)
def test_days_turn_at_midnight_pacific(utc, start, turns):
    assert (day_start(at(utc)), day_turns(at(utc))) == (at(start), at(turns))


@pytest.mark.parametrize(
    ("utc", "start", "turns"),
    [
        ("2026-07-15T12:00", "2026-07-01T07:00", "2026-08-01T07:00"),
        ("2026-08-01T06:59", "2026-07-01T07:00", "2026-08-01T07:00"),
        ("2026-03-31T12:00", "2026-03-01T08:00", "2026-04-01T07:00"),
        ("2026-11-30T12:00", "2026-11-01T07:00", "2026-12-01T08:00"),
        ("2027-01-01T07:59", "2026-12-01T08:00", "2027-01-01T08:00"),
        ("2028-02-10T00:00", "2028-02-01T08:00", "2028-03-01T08:00"),
    ],
)
def test_months_turn_with_their_first_day(utc, start, turns):
    assert (month_start(at(utc)), month_turns(at(utc))) == (at(start), at(turns))


@given(INSTANTS)
def test_every_instant_lies_in_one_day_of_one_month(utc):
    assert month_start(utc) <= day_start(utc) <= utc < day_turns(utc) <= month_turns(utc)
    assert day_turns(utc) - day_start(utc) in {23 * HOUR_S, 24 * HOUR_S, 25 * HOUR_S}
    assert 27.9 < (month_turns(utc) - month_start(utc)) / 86_400 < 31.1


@given(INSTANTS)
def test_days_and_months_leave_no_gap(utc):
    for start, turns in ((day_start, day_turns), (month_start, month_turns)):
        assert start(turns(utc)) == turns(utc)
        assert start(start(utc)) == start(utc)
        assert turns(start(utc)) == turns(utc)
        assert start(turns(utc) - 1e-3) == start(utc)
    assert datetime.fromtimestamp(month_turns(utc), PACIFIC).day == 1
