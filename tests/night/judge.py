"""What the limits would have allowed: an independent judge over what the sandbox saw and billed.

Nothing here comes from the runner. Instants are seconds of the sandbox's clock, money is nano-dollars.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from tests.crash.bill import rows

MINUTE_S, SPEND_S = 60.0, 600.0

Span = tuple[float, float]
"""From, and up to but not including."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request at the sandbox; `nanos` is what it cost, known from the draw."""

    at: float
    status: str
    admitted: bool
    refused_by: str | None
    nanos: int


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a minute and ten minutes may hold."""

    rpm: int
    spend_nanos: int


def read_arrivals(state: Path) -> list[Arrival]:
    """Every request so far, in order."""
    return [
        Arrival(row["clock"], row["status"], row["admitted"], row["refused_by"], row["nanos"])
        for row in rows(state / "requests.jsonl")
    ]


class _Window:
    """Half-open: what was counted at `t` has left at `t + length_s`."""

    def __init__(self, length_s: float, limit: int) -> None:
        self._length_s, self._limit = length_s, limit
        self._held: deque[tuple[float, int]] = deque()
        self._total = 0

    def room_at(self, at: float, amount: int) -> float:
        """The first instant from `at` on at which so much more fits."""
        while self._held and (self._held[0][0] + self._length_s <= at or self._total + amount > self._limit):
            counted_at, gone = self._held.popleft()
            self._total -= gone
            at = max(at, counted_at + self._length_s)
        return at

    def count(self, at: float, amount: int) -> None:
        self._held.append((at, amount))
        self._total += amount


def best_finish(costs: Iterable[int], limits: Allowed, begin: float, closed: Sequence[Span]) -> float:
    """When the last of these requests could have left: each as soon as both limits let it, none in a span."""
    minute, spend, at = _Window(MINUTE_S, limits.rpm), _Window(SPEND_S, limits.spend_nanos), begin
    for nanos in costs:
        at = _open_from(spend.room_at(minute.room_at(at, 1), nanos), closed)
        minute.count(at, 1)
        spend.count(at, nanos)
    return at


def _open_from(at: float, closed: Sequence[Span]) -> float:
    for begin, end in sorted(closed):
        if begin <= at < end:
            at = end
    return at


def windows(arrivals: Sequence[Arrival], step_s: float, apart_from: Sequence[Span] = ()) -> list[int]:
    """Nano-dollars of full windows of ten minutes that touch none of the spans, one at every `step_s`."""
    instants = [one.at for one in arrivals]
    sums = [0, *accumulate(one.nanos for one in arrivals)]
    begin, found = instants[0], []
    while (end := begin + SPEND_S) <= instants[-1]:
        if not any(start < end and begin < stop for start, stop in apart_from):
            found.append(sums[bisect_left(instants, end)] - sums[bisect_left(instants, begin)])
        begin += step_s
    return found
