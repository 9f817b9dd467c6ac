"""What becomes of the requests of a batch job that is over and did not answer them (gemini-api.md §8.6, §8.11).

What was answered is settled line by line. Of the rest only the provider can say how much it did, and it says it
in numbers, not by name: so many of the dearest stay held, the others are free.
"""

import re
from collections.abc import Mapping, Sequence

from runner.core.lifecycle import Invalid, Lost, Outcome, Undone
from runner.core.remote import Remote

CANCELLED = "batch_cancelled"
"""Reason of what its batch, cancelled, had not done."""

_LINE = re.compile(r"\bline (\d{1,9})\b", re.IGNORECASE)
_MAYBE_BILLED = frozenset({1, 4})
"""gRPC codes of requests that may have been billed: cancelled, deadline exceeded (design §4, 499 and 504)."""

Open = Sequence[tuple[str, int | None]]
"""(key, what is held for it) of what was not answered, in the order of the input."""


def remains(
    remote: Remote, left: Open, *, asked: int, answered: int, gone: bool = False, hold: bool = False
) -> Mapping[str, Outcome]:
    """An outcome for each of `left`.

    `asked` is how many lines the input had, `answered` how many were answered, not counting those that failed.
    `gone`: there are results, and they can no longer be read. `hold`: what may have been bought is not bought
    again; then nothing of a job that may have bought something unsaid goes back.
    """
    line = spoilt(remote, asked) if len(left) == asked else None
    if line is not None:
        said = remote.error.message if remote.error else ""
        others: dict[str, Outcome] = {
            key: Undone("batch_failed", f"another line of its batch was refused: {said}") for key, _ in left
        }
        return {**others, left[line - 1][0]: Invalid(400, said)}
    reason, cause = _why(remote, gone=gone)
    bought = _unsaid(remote, len(left), asked=asked, answered=answered)
    if hold and bought:
        bought = len(left)
    dearest = sorted(left, key=lambda one: -(one[1] or 0))[:bought]
    held = {key for key, _ in dearest}
    tried = remote.state != "CANCELLED"
    free = "line_missing" if reason == "results_gone" else reason
    said = f"cancelled before it ran, nothing charged ({cause})" if free == CANCELLED else cause
    return {key: Lost(reason, cause) if key in held else Undone(free, said, tried) for key, _ in left}


def spoilt(remote: Remote, asked: int) -> int | None:
    """The line of the input, from 1, that failed the whole job, where the job names it (§8.4)."""
    if remote.state != "FAILED" or remote.error is None or remote.stats.succeeded:
        return None
    named = _LINE.search(remote.error.message)
    line = int(named[1]) if named else 0
    return line if 1 <= line <= asked else None


def _unsaid(remote: Remote, left: int, *, asked: int, answered: int) -> int:
    """How many of what is left the provider may have done."""
    stats = remote.stats
    if remote.state == "FAILED" and remote.error is not None and not stats.succeeded:
        return left if remote.error.code in _MAYBE_BILLED else 0
    if stats.requests != asked:  # it does not say
        return left
    return min(left, max(0, stats.succeeded - answered))


def _why(remote: Remote, *, gone: bool) -> tuple[str, str]:
    said = remote.error.message if remote.error else ""
    if gone:
        return "results_gone", "the results of its batch can no longer be read"
    match remote.state:
        case "FAILED":
            return "batch_failed", said or "its batch failed without a word"
        case "EXPIRED":
            return "batch_expired", said or "its batch expired before it was done"
        case "CANCELLED":
            return CANCELLED, said or "its batch was cancelled before it was done"
        case _:
            return "line_missing", "the results of its batch have no line for it"
