"""What becomes of requests that a job which is over did not answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.lifecycle import Invalid, Lost, Undone
from runner.core.remains import remains
from runner.core.remote import Failure, Remote, Stats

LEFT = [("a", 10), ("b", 30), ("c", 20)]


def over(state, *, requests=3, succeeded=0, error=None):
    return Remote("batches/1", state=state, stats=Stats(requests, 0, succeeded, 0), error=error)


def kinds(outcomes):
    return {key: type(one).__name__ for key, one in outcomes.items()}


def test_as_many_of_the_dearest_are_held_as_were_done_unsaid():
    said = remains(over("EXPIRED", succeeded=2), LEFT, asked=3, answered=0)
    assert kinds(said) == {"a": "Undone", "b": "Lost", "c": "Lost"}
    assert said["a"] == Undone("batch_expired", "its batch expired before it was done", tried=True)


def test_what_was_answered_is_not_held_again():
    said = remains(over("CANCELLED", requests=5, succeeded=3), LEFT, asked=5, answered=2)
    assert kinds(said) == {"a": "Undone", "b": "Lost", "c": "Undone"}


def test_a_cancelled_job_costs_no_try():
    said = remains(over("CANCELLED"), LEFT, asked=3, answered=0)
    cause = "cancelled before it ran, nothing charged (its batch was cancelled before it was done)"
    assert set(said.values()) == {Undone("batch_cancelled", cause)}


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "EXPIRED", "CANCELLED", "PARTIALLY_SUCCEEDED", "ODD"])
def test_a_job_that_does_not_say_how_much_it_did_may_have_done_all(state):
    assert set(kinds(remains(over(state, requests=0), LEFT, asked=3, answered=0)).values()) == {"Lost"}


def test_an_unknown_price_is_held_last():
    said = remains(over("EXPIRED", succeeded=1), [("a", None), ("b", 1)], asked=3, answered=0)
    assert kinds(said) == {"a": "Undone", "b": "Lost"}


def test_the_line_that_a_failed_job_names_is_invalid_and_the_others_are_not_tried():
    failed = over("FAILED", error=Failure(3, "Error on line 2, column 7"))
    said = remains(failed, LEFT, asked=3, answered=0)
    assert said["b"] == Invalid(400, "Error on line 2, column 7")
    other = Undone("batch_failed", "another line of its batch was refused: Error on line 2, column 7")
    assert said["a"] == said["c"] == other


@pytest.mark.parametrize("named", ["line 0", "line 4", "line", "no such place"])
def test_a_line_that_is_none_of_ours_names_nobody(named):
    said = remains(over("FAILED", error=Failure(3, named)), LEFT, asked=3, answered=0)
    assert set(said.values()) == {Undone("batch_failed", named, tried=True)}


@pytest.mark.parametrize("code", [1, 4])
def test_a_failure_that_may_have_been_billed_holds_all(code):
    said = remains(over("FAILED", error=Failure(code, "timed out")), LEFT, asked=3, answered=0)
    assert set(kinds(said).values()) == {"Lost"}


def test_results_that_are_gone():
    said = remains(over("SUCCEEDED", succeeded=2), LEFT, asked=3, answered=0, gone=True)
    gone = "the results of its batch can no longer be read"
    assert said == {
        "a": Undone("line_missing", gone, tried=True),
        "b": Lost("results_gone", gone),
        "c": Lost("results_gone", gone),
    }


def test_where_unknowns_are_held_all_are_or_none():
    some = remains(over("EXPIRED", succeeded=1), LEFT, asked=3, answered=0, hold=True)
    none = remains(over("EXPIRED"), LEFT, asked=3, answered=0, hold=True)
    assert (set(kinds(some).values()), set(kinds(none).values())) == ({"Lost"}, {"Undone"})


@given(
    state=st.sampled_from(["SUCCEEDED", "FAILED", "EXPIRED", "CANCELLED", "PARTIALLY_SUCCEEDED", "DREAMING"]),
    stats=st.tuples(st.integers(0, 6), st.integers(0, 8)),
    error=st.none() | st.builds(Failure, st.none() | st.integers(0, 16), st.sampled_from(["", "line 2", "no"])),
    prices=st.lists(st.none() | st.integers(0, 9), max_size=6),
    answered=st.integers(0, 6),
    gone=st.booleans(),
    hold=st.booleans(),
)
def test_each_has_one_ending_and_what_may_be_billed_is_held(state, stats, error, prices, answered, gone, hold):
    left = [(str(n), price) for n, price in enumerate(prices)]
    asked = len(left) + answered
    remote = over(state, requests=stats[0], succeeded=stats[1], error=error)
    said = remains(remote, left, asked=asked, answered=answered, gone=gone, hold=hold)
    assert set(said) == {key for key, _ in left}
    held = sum(isinstance(one, Lost) for one in said.values())
    if stats[0] == asked and stats[1]:
        assert held >= min(len(left), max(0, stats[1] - answered))
