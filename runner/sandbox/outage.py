"""Outages: stretches of the sandbox's clock in which nothing is generated (gemini-api.md §7.2)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

KINDS = ("503", "500", "504", "timeout", "refuse")
"""What a request meets: a status, silence for as long as its caller waits, a connection that closes unread."""


@dataclass(frozen=True, slots=True)
class Outage:
    """From `start_s` after the sandbox first started, for `length_s`; ValueError for what cannot be meant."""

    start_s: float
    length_s: float
    kind: str = "503"

    def __post_init__(self) -> None:
        """Refuse what cannot happen."""
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of outage {self.kind!r}: expected one of {', '.join(KINDS)}")
        if not 0 <= self.start_s < math.inf or not 0 < self.length_s < math.inf:
            raise ValueError("an outage starts 0 or more seconds from the start and lasts more than 0")

    def covers(self, age_s: float) -> bool:
        """Whether it lasts, so many seconds after the first start."""
        return self.start_s <= age_s < self.start_s + self.length_s


def parse_outage(text: str) -> Outage:
    """Read `3600+1200` (start and length in seconds), or `3600+1200:timeout`. ValueError, saying what is wrong."""
    times, _, kind = text.partition(":")
    start, _, length = times.partition("+")
    try:
        numbers = float(start), float(length)
    except ValueError:
        raise ValueError(f"{text!r}: expected START+LENGTH or START+LENGTH:KIND, in seconds") from None
    return Outage(*numbers, kind or "503")


def outage_at(outages: Iterable[Outage], age_s: float) -> str | None:
    """The kind of the first outage that lasts, so many seconds after the first start; None where none does."""
    return next((outage.kind for outage in outages if outage.covers(age_s)), None)
