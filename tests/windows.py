"""The strict judge of limits: every half-open window, over all that was sent."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def worst_window(times: Sequence[float], length_s: float = 60.0) -> int:
    """The most events any half-open window of that length holds."""
    return heaviest_window(times, length_s, at=lambda at: at, weight=lambda _: 1)


def heaviest_window(
    events: Iterable[T], length_s: float, *, at: Callable[[T], float], weight: Callable[[T], int]
) -> int:
    """The most that any half-open window of that length holds, by weight."""
    ordered = sorted(events, key=at)
    worst = total = start = 0
    for event in ordered:
        total += weight(event)
        while at(ordered[start]) <= at(event) - length_s:
            total -= weight(ordered[start])
            start += 1
        worst = max(worst, total)
    return worst


def lightest_window(
    events: Iterable[T], length_s: float, *, at: Callable[[T], float], weight: Callable[[T], int], step_s: float
) -> int:
    """The least that a full window of that length holds, looked for at every `step_s`."""
    ordered = sorted(events, key=at)
    first, last = at(ordered[0]), at(ordered[-1])
    begins = first
    lightest = None
    while begins + length_s <= last:
        inside = sum(weight(e) for e in ordered if begins <= at(e) < begins + length_s)
        lightest = inside if lightest is None else min(lightest, inside)
        begins += step_s
    assert lightest is not None, "not one full window"
    return lightest
