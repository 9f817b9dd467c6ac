"""Until when the standard lane can wait, where a job is to be done by a given time."""

CANCEL_S = 600.0
"""What a cancel may take until it is confirmed and harvested (gemini-api.md §8.11)."""
SPARE = 1.2
"""The standard lane is given so many times the time it is expected to need."""


def standard_from(by_utc: float, needed_s: float) -> float:
    """When batches have to be taken back at the latest, so that the standard lane is done by `by_utc`.

    `needed_s` is what that lane is expected to take for what it is to buy; infinity: no time is early enough.
    """
    return by_utc - SPARE * needed_s - CANCEL_S
