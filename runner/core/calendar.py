"""Days and months as the provider counts them: they turn at midnight Pacific (gemini-api.md §7.5).

Instants are seconds since 1970, in and out.
"""

import math
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

PACIFIC = ZoneInfo("America/Los_Angeles")


def day_start(utc: float) -> float:
    """The midnight Pacific at or before `utc`."""
    return _midnight(_date(utc))


def day_turns(utc: float) -> float:
    """The first midnight Pacific after `utc`."""
    return _midnight(_date(utc) + timedelta(days=1))


def month_start(utc: float) -> float:
    """The midnight Pacific that began the month of `utc`."""
    return _midnight(_date(utc).replace(day=1))


def month_turns(utc: float) -> float:
    """The first midnight Pacific after `utc` that begins a month."""
    return _midnight((_date(utc).replace(day=1) + timedelta(days=31)).replace(day=1))


def _date(utc: float) -> date:
    # whole seconds, because datetime rounds the last half microsecond of a day into the next one
    return datetime.fromtimestamp(math.floor(utc), PACIFIC).date()


def _midnight(day: date) -> float:
    return datetime.combine(day, time(), PACIFIC).timestamp()
