"""Where a task goes from an outcome. Pure: tries and chance are passed in, delays come out."""

from dataclasses import dataclass
from typing import Literal, assert_never

from runner.core.lifecycle import (
    Faulted,
    FileGone,
    Interrupted,
    Invalid,
    Lost,
    Made,
    Outcome,
    Parked,
    Refused,
    State,
    Stopped,
    Throttled,
    Undone,
    Unreached,
    Unstored,
    Unusable,
)

BASE_S = 2.0
CEILING_S = 120.0

UNDECIDED = "unknown_held"
"""Reason of a failure that a person has to explain: it may have been bought, and the manifest asks to hold it."""
_HELD = "may have been bought ("
LASTING = frozenset({"invalid", UNDECIDED})
"""Reasons of a failure that running again cannot change: `run` leaves them to `retry`, `reconcile` or an edit."""


_OURS = frozenset({"crashed", "batch_cancelled"})
"""Our own death, and our own wish, are not the task's fault."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The manifest's `retry:`; tries count the first one."""

    attempts: int = 5
    refused: int = 2
    unknown: Literal["retry", "hold"] = "retry"


@dataclass(frozen=True, slots=True)
class Tries:
    """What a task has used up before this attempt."""

    tries: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """Where a task goes; a retry is `queued` with a due time."""

    state: State
    due_in_s: float | None
    """Seconds from now; None unless queued."""
    counts: Literal["try", "refused"] | None
    """Which of its tries the attempt used up."""
    reason: str
    """Named, stable, for a program; empty on success."""
    error: str
    """One line for a person; empty on success."""


def backoff_s(tries: int, jitter: float) -> float:
    """Full jitter: a share of 2 s doubled with every try, never over two minutes."""
    return jitter * min(CEILING_S, BASE_S * 2.0 ** min(tries, 10))


def decide(
    outcome: Outcome,
    used: Tries,
    policy: RetryPolicy,
    *,
    jitter: float,
    held: bool = False,
    outage: bool = False,
) -> Move:
    """The move of a task after an attempt; `jitter` is in [0, 1).

    `held`: the attempt may have been bought and keeps its hold; under `unknown: hold` it is not sent again.
    `outage`: the service is down for everybody; a fault is not the task's, and not a try.

    429, 503 and requests that never left are not tries: they wait behind the gate of their model.
    """
    if outage and isinstance(outcome, Faulted | Lost):
        said = (
            (f"http_{outcome.status}", outcome.message)
            if isinstance(outcome, Faulted)
            else (outcome.reason, outcome.cause)
        )
        move = _again(*said)
    else:
        move = _move(outcome, used, policy, jitter)
    if held and policy.unknown == "hold" and move.state is State.QUEUED:
        error = f"{_HELD}{move.reason}: {move.error}); held as the manifest asks"
        return Move(State.FAILED, None, "try", UNDECIDED, error)
    return move


def cause(reason: str, error: str) -> str:
    """Why an attempt was lost, named, from its recorded reason and error: also where it is held for a person."""
    return error.removeprefix(_HELD).partition(":")[0] if reason == UNDECIDED else reason


def _move(outcome: Outcome, used: Tries, policy: RetryPolicy, jitter: float) -> Move:
    match outcome:
        case Made():
            return Move(State.SUCCEEDED, None, "try", "", "")
        case Refused():
            return _refused(outcome, used, policy, jitter)
        case Unusable():
            error = outcome.detail or outcome.answer.message or _line(outcome.answer.text) or outcome.reason
            return _tried(outcome.reason, error, used, policy, jitter)
        case Faulted():
            return _tried(f"http_{outcome.status}", outcome.message, used, policy, jitter)
        case Invalid():
            return Move(State.FAILED, None, "try", "invalid", f"HTTP {outcome.status}: {outcome.message}")
        case FileGone():  # it is uploaded anew before the next try
            return _tried("file_gone", outcome.message, used, policy, 0.0)
        case Lost():
            if outcome.reason in _OURS:
                return _again(outcome.reason, outcome.cause)
            return _tried(outcome.reason, outcome.cause, used, policy, jitter)
        case Throttled() | Parked() | Stopped():
            return _again(outcome.reason, outcome.message)
        case Unreached() | Unstored():
            reason = "unreached" if isinstance(outcome, Unreached) else "unstored"
            return _again(reason, outcome.cause)
        case Undone():
            again = _tried(outcome.reason, outcome.cause, used, policy, jitter)
            return again if outcome.tried else _again(outcome.reason, outcome.cause)
        case Interrupted():
            return _again("interrupted", "the run left before the answer came")
        case _:
            assert_never(outcome)


def _refused(outcome: Refused, used: Tries, policy: RetryPolicy, jitter: float) -> Move:
    error = outcome.answer.message or _line(outcome.answer.text) or str(outcome.answer.finish_reason)
    if outcome.again and used.refused + 1 < policy.refused:
        return Move(State.QUEUED, backoff_s(used.refused, jitter), "refused", outcome.reason, error)
    return Move(State.REFUSED, None, "refused", outcome.reason, error)


def _tried(reason: str, error: str, used: Tries, policy: RetryPolicy, jitter: float) -> Move:
    if used.tries + 1 < policy.attempts:
        return Move(State.QUEUED, backoff_s(used.tries, jitter), "try", reason, error)
    return Move(State.FAILED, None, "try", reason, error)


def _line(words: str) -> str:
    """The first words of an answer as one line, without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in words[:200]).split())


def _again(reason: str, error: str) -> Move:
    return Move(State.QUEUED, 0.0, None, reason, error)
