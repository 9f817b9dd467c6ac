"""The retry decision as a table, and what it may never do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.lifecycle import (
    MOVES,
    TERMINAL,
    Answer,
    Faulted,
    Interrupted,
    Invalid,
    Lost,
    Made,
    Picture,
    Refused,
    State,
    Stopped,
    Throttled,
    Unreached,
    Unstored,
    Unusable,
)
from runner.core.retry import RetryPolicy, Tries, backoff_s, cause, decide

MADE = Made(Answer(), Picture("a.jpg", "", 1, "image/jpeg", 1, 1))
SAFETY = Refused(Answer(message="no"), "image_safety", again=True)
BLOCKED = Refused(Answer(), "prompt_blocked", again=False)
WORDS = Unusable(Answer(text="I cannot"), "words_only")
OUTCOMES = [
    MADE,
    SAFETY,
    BLOCKED,
    WORDS,
    Throttled(429, "minute", "", 3.0),
    Faulted(500, "oops"),
    Invalid(400, "bad aspect"),
    Unreached("refused"),
    Lost("timed_out", "360 s"),
    Lost("crashed", ""),
    Stopped(400, "key", "bad key"),
    Unstored(Answer(), "disk"),
    Interrupted(left=True),
    Interrupted(left=False),
]
HOLD = RetryPolicy(unknown="hold")


@pytest.mark.parametrize(
    ("outcome", "used", "policy", "state", "counts", "reason"),
    [
        (MADE, Tries(), RetryPolicy(), State.SUCCEEDED, "try", ""),
        (SAFETY, Tries(), RetryPolicy(), State.QUEUED, "refused", "image_safety"),
        (SAFETY, Tries(refused=1), RetryPolicy(), State.REFUSED, "refused", "image_safety"),
        (SAFETY, Tries(), RetryPolicy(refused=1), State.REFUSED, "refused", "image_safety"),
        (BLOCKED, Tries(), RetryPolicy(), State.REFUSED, "refused", "prompt_blocked"),
        (WORDS, Tries(), RetryPolicy(), State.QUEUED, "try", "words_only"),
        (WORDS, Tries(4), RetryPolicy(), State.FAILED, "try", "words_only"),
        (Faulted(500, ""), Tries(), RetryPolicy(), State.QUEUED, "try", "http_500"),
        (Faulted(500, ""), Tries(), RetryPolicy(attempts=1), State.FAILED, "try", "http_500"),
        (Invalid(400, ""), Tries(), RetryPolicy(), State.FAILED, "try", "invalid"),
        (Throttled(429, "minute", ""), Tries(99, 99), RetryPolicy(), State.QUEUED, None, "minute"),
        (Unreached(""), Tries(99), RetryPolicy(), State.QUEUED, None, "unreached"),
        (Stopped(404, "model_gone", ""), Tries(99), RetryPolicy(), State.QUEUED, None, "model_gone"),
        (Unstored(Answer(), ""), Tries(99), RetryPolicy(), State.QUEUED, None, "unstored"),
        (Lost("timed_out", ""), Tries(), RetryPolicy(), State.QUEUED, "try", "timed_out"),
        (Lost("timed_out", ""), Tries(), HOLD, State.FAILED, "try", "unknown_held"),
        (Lost("crashed", ""), Tries(99), RetryPolicy(), State.QUEUED, None, "crashed"),
        (Lost("crashed", ""), Tries(), HOLD, State.FAILED, "try", "unknown_held"),
        (Interrupted(left=True), Tries(99), RetryPolicy(), State.QUEUED, None, "interrupted"),
        (Interrupted(left=True), Tries(), HOLD, State.FAILED, "try", "unknown_held"),
        (Interrupted(left=False), Tries(), HOLD, State.QUEUED, None, "interrupted"),
    ],
)
def test_where_a_task_goes(outcome, used, policy, state, counts, reason):
    held = isinstance(outcome, Lost) or (isinstance(outcome, Interrupted) and outcome.left)
    move = decide(outcome, used, policy, jitter=0.5, held=held)
    assert (move.state, move.counts, move.reason) == (state, counts, reason)


@pytest.mark.parametrize("outcome", [WORDS, SAFETY, Faulted(504, "", billed_unknown=True), Lost("timed_out", "")])
def test_whatever_may_have_been_bought_is_held_where_the_manifest_asks(outcome):
    move = decide(outcome, Tries(), HOLD, jitter=0.5, held=True)
    assert move.reason == "unknown_held"
    assert cause(move.reason, move.error) == decide(outcome, Tries(), RetryPolicy(), jitter=0.5).reason
    assert decide(outcome, Tries(), HOLD, jitter=0.5, held=False).state is State.QUEUED
    assert decide(BLOCKED, Tries(), HOLD, jitter=0.5, held=True).state is State.REFUSED


@given(
    outcome=st.sampled_from(OUTCOMES),
    tries=st.integers(0, 10),
    refused=st.integers(0, 10),
    attempts=st.integers(1, 10),
    refusals=st.integers(1, 10),
    unknown=st.sampled_from(["retry", "hold"]),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_only_allowed_moves_and_only_queued_tasks_have_a_due_time(
    outcome, tries, refused, attempts, refusals, unknown, jitter
):
    move = decide(outcome, Tries(tries, refused), RetryPolicy(attempts, refusals, unknown), jitter=jitter)
    assert move.state in MOVES[State.RUNNING]
    assert (move.due_in_s is not None) == (move.state is State.QUEUED)
    assert move.due_in_s is None or 0 <= move.due_in_s <= 120
    assert (move.state in TERMINAL) == (move.state is not State.QUEUED)
    assert (move.reason == "") == isinstance(outcome, Made)


def test_no_outcome_of_one_kind_is_tried_for_ever():
    """Whatever keeps coming back, a task that was answered or lost ends after its tries."""
    for outcome in (SAFETY, BLOCKED, WORDS, Faulted(500, ""), Lost("timed_out", ""), Invalid(400, "")):
        tries = refused = 0
        for _ in range(6):
            move = decide(outcome, Tries(tries, refused), RetryPolicy(), jitter=0.0)
            tries, refused = tries + (move.counts == "try"), refused + (move.counts == "refused")
            if move.state in TERMINAL:
                break
        assert move.state in TERMINAL


def test_backoff_doubles_to_two_minutes():
    assert [backoff_s(n, 1.0) for n in range(8)] == [2, 4, 8, 16, 32, 64, 120, 120]


def test_the_words_of_an_answer_become_one_harmless_line():
    words = Unusable(Answer(text="I\ncannot \x1b[31mdo\x07 that"), "words_only")
    assert decide(words, Tries(), RetryPolicy(), jitter=0.0).error == "I cannot [31mdo that"
