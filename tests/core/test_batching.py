import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.batching import NOTHING, both, crowd, display_name, together
from runner.core.pricing import Quote

TOKEN = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("tries", "attempts", "expected"),
    [
        (0, 5, 500),
        (1, 5, 62),
        (2, 5, 7),
        (3, 5, 1),
        (4, 5, 1),
        (0, 1, 500),
        (1, 2, 1),
        (2, 3, 1),
        (7, 5, 1),
        (9, 99, 1),
    ],
)
def test_suspects_go_in_ever_smaller_company_and_alone_at_last(tries, attempts, expected):
    assert crowd(tries, lines=500, attempts=attempts) == expected


@given(st.integers(0, 20), st.integers(1, 10_000), st.integers(1, 20))
def test_a_crowd_is_never_empty_and_never_grows(tries, lines, attempts):
    now = crowd(tries, lines=lines, attempts=attempts)
    assert 1 <= crowd(tries + 1, lines=lines, attempts=attempts) <= now <= lines


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("mugs", f"bulkrender-mugs-{TOKEN}"),
        ("a/b: c", f"bulkrender-a-b-c-{TOKEN}"),
        ("x" * 300, f"bulkrender-{'x' * 80}-{TOKEN}"),
    ],
)
def test_a_display_name_tells_the_job_and_ends_with_the_token(job, expected):
    assert display_name(job, TOKEN) == expected


@given(
    st.lists(
        st.builds(Quote, st.none() | st.integers(0, 9), st.none() | st.integers(0, 9), st.just(1), st.just(2))
    )
)
def test_a_sum_with_an_unknown_part_is_unknown(quotes):
    total = together(quotes)
    nanos = [quote.nanos for quote in quotes]
    assert total.nanos == (None if None in nanos else sum(known for known in nanos if known is not None))
    assert (total.text_tokens, total.input_tokens) == (len(quotes), 2 * len(quotes))


def test_nothing_adds_nothing():
    quote = Quote(5, 6, 7, 8)
    assert both(NOTHING, quote) == quote
