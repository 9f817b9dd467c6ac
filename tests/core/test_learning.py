"""What is believed of a rate nobody configured: it grows, shrinks on refusals, and is tried again."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.learning import (
    FIRST,
    LONGEST_HOLD,
    NAMED_FOR_S,
    RECOVERY_S,
    Belief,
    full,
    named,
    refused,
    succeeded,
)

ceilings = st.integers(1, 100_000)
instants = st.floats(1.0, 1e9)


def found(ceiling, **facts):
    return Belief(ceiling, found=True, **facts)


def test_it_starts_low_and_doubles_with_every_round_of_answers():
    belief = Belief()
    for _ in range(4):
        before = belief.ceiling
        for _ in range(before):
            belief = succeeded(belief, sent_last_minute=belief.ceiling)
        assert belief.ceiling == 3 * before
    assert Belief().ceiling == FIRST == 4


def test_what_is_not_used_does_not_grow():
    assert succeeded(Belief(), sent_last_minute=1) == Belief()
    assert succeeded(found(60), sent_last_minute=60) == found(60)


def test_a_refusal_shows_the_ceiling_and_is_answered_with_half_of_it_and_back_in_small_steps():
    belief = refused(Belief(100, since=0.0), sent_at=10.0, admitted=60, now=11.0)
    assert (belief.ceiling, belief.found) == (60, True)
    allowed = [belief.allowed(11.0 + RECOVERY_S * share / 20) for share in range(21)]
    assert allowed[0] == 30
    assert allowed[-1] == 60
    assert all(0 <= later - earlier <= 3 for earlier, later in pairwise(allowed))


@given(ceilings, st.integers(0, 200_000), instants)
def test_one_refusal_takes_half_at_most_and_never_adds(ceiling, admitted, now):
    belief = refused(Belief(ceiling), sent_at=now - 0.5, admitted=admitted, now=now)
    assert max(1, ceiling // 2) <= belief.ceiling <= ceiling
    assert belief.allowed(now) >= 1


def test_requests_that_left_before_the_last_refusal_teach_nothing_new():
    belief = refused(Belief(100), sent_at=10.0, admitted=60, now=11.0)
    for sent_at in (9.0, 10.9, 11.0):
        assert refused(belief, sent_at=sent_at, admitted=1, now=12.0) == belief
    assert refused(belief, sent_at=11.5, admitted=1, now=12.0).ceiling == 30


def test_a_named_value_is_taken_at_its_word_at_once():
    belief = named(7, now=50.0)
    assert [belief.allowed(at) for at in (50.0, 51.0, 10_000.0)] == [7, 7, 7]
    assert refused(belief, sent_at=49.0, admitted=3, now=51.0) == belief
    assert full(belief, 50.0 + NAMED_FOR_S - 1) == belief
    assert full(belief, 50.0 + NAMED_FOR_S).ceiling == 8


def test_a_ceiling_that_stood_long_enough_is_raised_in_growing_steps_and_each_failure_doubles_the_wait():
    belief = found(100, step=5, refused_at=0.0)
    assert full(belief, belief.hold_s - 0.1) == belief
    raised = full(belief, belief.hold_s)
    assert (raised.ceiling, raised.step) == (105, 10)
    assert full(raised, raised.since + 60).ceiling == 115
    for _ in range(10):
        belief = full(belief, now := belief.since + belief.hold_s)
        belief = refused(belief, sent_at=now + 1, admitted=100, now=now + 1)
        assert belief.ceiling == 100
    assert belief.patience == LONGEST_HOLD


def test_a_raise_that_stood_takes_the_long_waits_back():
    belief = full(found(100, step=5, refused_at=0.0, patience=4), 240.0)
    assert (belief.ceiling, belief.patience) == (105, 4)
    assert full(belief, 300.0).patience == 1


def test_small_ceilings_are_raised_by_one_and_held_for_twenty_requests():
    belief = found(2, refused_at=0.0)
    assert belief.hold_s == 600.0
    assert full(belief, 600.0).ceiling == 3


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["made", "refused", "named", "full"]), st.floats(0.1, 700.0), st.integers(0, 5_000)
        ),
        max_size=60,
    )
)
def test_whatever_comes_something_may_always_be_sent(events):
    belief, now = Belief(), 1.0
    for kind, after_s, number in events:
        now += after_s
        match kind:
            case "made":
                belief = succeeded(belief, number)
            case "refused":
                belief = refused(belief, sent_at=now - 0.2, admitted=number, now=now)
            case "named":
                belief = named(max(1, number), now)
            case "full":
                belief = full(belief, now)
        assert 1 <= belief.allowed(now) <= belief.ceiling


@pytest.mark.parametrize(
    ("belief", "words", "cause"),
    [
        (Belief(), "4 requests a minute (looking for more)", "nothing was refused for its rate so far"),
        (found(60, refused_at=1.0), "60 requests a minute (found)", "a request was refused"),
        (found(63), "63 requests a minute (found)", "nothing was refused while it was lower"),
        (named(10, 0.0), "10 requests a minute (as the provider says)", "the provider named it"),
    ],
)
def test_it_says_what_is_believed_and_why(belief, words, cause):
    assert (belief.words(), belief.cause()) == (words, cause)


def test_a_belief_outgrows_its_name():
    belief = full(named(10, 0.0), NAMED_FOR_S)
    assert belief == replace(belief, named=False, found=True)
