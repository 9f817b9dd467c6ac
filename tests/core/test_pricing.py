"""What an attempt may cost and did cost: tables against the owner's prices, properties for the rest."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.budget import Cap, Spend, about, dollars, fits, passed
from runner.core.catalog import Prices, builtin, nanos_per_token
from runner.core.lifecycle import (
    Answer,
    AttemptState,
    Faulted,
    Interrupted,
    Invalid,
    Lost,
    Made,
    Picture,
    Refused,
    Stopped,
    Throttled,
    Unreached,
    Unstored,
    Unusable,
    Usage,
)
from runner.core.pricing import PriceSheet, Quote, Seen, Tokens, settlement, sheet

OWNERS = builtin().models["gemini-3.1-flash-image-preview"]
SHEET = sheet(OWNERS, "standard")
PICTURE = Picture("a.jpg", "0" * 64, 10, "image/jpeg", 1024, 1024)


def quoted(size="1K", thinking="minimal", input_bytes=100, seen=Seen()):
    return SHEET.quote(size=size, thinking=thinking, input_bytes=input_bytes, seen=seen)


def settled(outcome, size="1K"):
    return settlement(outcome, quoted(size), SHEET, size)


def made(pictures=1, **usage):
    return Made(Answer(pictures=pictures, usage=Usage(**usage) if usage else None), PICTURE)


@pytest.mark.parametrize(
    ("size", "cents"), [("512", "0.04482"), ("1K", "0.0672"), ("2K", "0.1008"), ("4K", "0.1512")]
)
def test_a_picture_costs_what_the_owners_sheet_says(size, cents):
    assert SHEET.cost(Tokens(0, 0, OWNERS.image_tokens[size])) == int(Decimal(cents) * 10**9)


def test_the_batch_lane_costs_half():
    assert sheet(OWNERS, "batch").prices == Prices(125, 750, 30_000)


def test_the_worst_case_is_image_plus_text_plus_bytes():
    assert quoted() == Quote(100 * 250 + 1_500 * 1_500 + 1120 * 60_000, 1120, 1_500, 100)
    assert quoted(thinking="high").text_tokens == 4_000
    assert quoted(thinking=None).text_tokens == 4_000


def test_a_larger_answer_raises_the_allowance_by_a_quarter():
    assert quoted(seen=Seen(text=1_300)).text_tokens == 1_625
    assert quoted(seen=Seen(text=1_200)).text_tokens == 1_500
    assert quoted(seen=Seen(image=1_120)).image_tokens == 1_120
    assert quoted(seen=Seen(image=2_240)).image_tokens == 2_800


@pytest.mark.parametrize(
    ("outcome", "tokens"),
    [
        (made(prompt=5, candidates=1_573, image=1_120, total=1_578), Tokens(5, 453, 1_120)),
        (made(prompt=9, candidates=1_337, thoughts=619, image=1_120), Tokens(9, 836, 1_120)),
        (made(prompt=5, candidates=1_400), Tokens(5, 280, 1_120)),
        (made(pictures=3, prompt=5, candidates=3_360, image=3_360), Tokens(5, 0, 3_360)),
        (made(), Tokens(100, 1_500, 1_120)),
        (Refused(Answer(usage=Usage(prompt=59, candidates=11)), "image_safety", again=True), Tokens(59, 11, 0)),
        (Unusable(Answer(usage=Usage(prompt=9)), "no_image"), Tokens(9, 0, 0)),
        (
            Unstored(Answer(pictures=1, usage=Usage(prompt=1, candidates=1_120, image=1_120)), ""),
            Tokens(1, 0, 1_120),
        ),
    ],
)
def test_an_answer_settles_at_its_usage(outcome, tokens):
    result = settled(outcome)
    assert result.state is AttemptState.SETTLED
    assert result.tokens == tokens
    assert result.nanos == tokens.input * 250 + tokens.text * 1_500 + tokens.image * 60_000


@pytest.mark.parametrize(
    "outcome",
    [
        Lost("timed_out", ""),
        Faulted(504, "", billed_unknown=True),
        Interrupted(left=True),
        Unusable(Answer(), "words_only"),
        Refused(Answer(), "image_safety", again=True),
    ],
)
def test_what_may_have_been_bought_keeps_its_hold(outcome):
    result = settled(outcome)
    assert (result.state, result.nanos, result.tokens) == (AttemptState.UNKNOWN, quoted().nanos, None)


@pytest.mark.parametrize(
    "outcome",
    [
        Throttled(429, "minute", ""),
        Invalid(400, ""),
        Stopped(400, "key", ""),
        Unreached("refused"),
        Faulted(500, ""),
        Interrupted(left=False),
    ],
)
def test_what_cost_nothing_releases_its_hold(outcome):
    assert settled(outcome).state is AttemptState.RELEASED


def test_unknown_prices_are_never_zero():
    blank = sheet(None, "standard")
    quote = blank.quote(size="1K", thinking=None, input_bytes=10, seen=Seen())
    assert (quote.nanos, quote.image_tokens) == (None, None)
    result = settlement(made(prompt=5, candidates=1_120), quote, blank, "1K")
    assert (result.state, result.nanos) == (AttemptState.SETTLED, None)
    assert not fits(Spend(), Cap(nanos=10**12), quote)
    assert fits(Spend(), Cap(), quote)


def test_the_manifests_prices_go_over_the_catalogs():
    over = sheet(OWNERS, "standard", override=Prices(None, None, 30_000), image_tokens={"8K": 9})
    assert over.prices == Prices(250, 1_500, 30_000)
    assert over.picture_tokens("8K") == 9
    assert over.picture_tokens("1K") == 1_120
    assert sheet(None, "standard", image_tokens=7).picture_tokens("anything") == 7


def test_a_sheet_of_prices_alone_knows_no_tokens():
    assert PriceSheet(OWNERS.prices).picture_tokens("1K") is None


def test_prices_that_would_round_are_refused():
    with pytest.raises(ValueError, match="not a whole number"):
        nanos_per_token("0.0001")


USAGE = Usage(prompt=5, candidates=1_573, image=1_120)
STANDARD_NANOS = 5 * 250 + 453 * 1_500 + 1_120 * 60_000


def served(tier, price=SHEET, **answer):
    """The settlement of an answer that a service tier served."""
    outcome = Made(Answer(**{"usage": USAGE, "pictures": 1, "tier": tier, **answer}), PICTURE)
    return settlement(
        outcome, price.quote(size="1K", thinking="minimal", input_bytes=100, seen=Seen()), price, "1K"
    )


@pytest.mark.parametrize(
    "tier",
    [None, "", " ", "standard", "STANDARD", "unspecified", "default", "SERVICE_TIER_UNSPECIFIED"],
)
def test_standard_in_every_spelling_costs_what_the_lane_costs(tier):
    assert served(tier).nanos == STANDARD_NANOS


@pytest.mark.parametrize(
    ("tier", "factor"), [("flex", "0.5"), ("FLEX", "0.5"), ("priority", "2"), ("SERVICE_TIER_PRIORITY", "2")]
)
def test_an_answer_costs_what_the_tier_that_served_it_costs(tier, factor):
    result = served(tier)
    assert (result.state, result.nanos) == (AttemptState.SETTLED, STANDARD_NANOS * Decimal(factor))
    assert result.tokens == Tokens(5, 453, 1_120)
    refused = Refused(Answer(usage=Usage(prompt=60), tier=tier), "image_safety", again=True)
    assert settled(refused).nanos == 60 * 250 * Decimal(factor)


def test_a_priority_answer_without_usage_may_pass_its_reservation():
    result = served("priority", usage=None)
    assert result.nanos == 2 * quoted().nanos


@pytest.mark.parametrize(
    "tier", ["turbo", "flex2", "batch", "SERVICE_TIER_TURBO", "SERVICE_TIER_SERVICE_TIER_FLEX"]
)
def test_what_an_unknown_tier_costs_is_not_guessed(tier):
    result = served(tier)
    assert (result.state, result.nanos, result.tokens) == (AttemptState.UNKNOWN, quoted().nanos, None)


def test_an_unknown_tier_of_a_job_without_prices_keeps_its_tokens():
    unpriced = sheet(None, "standard", image_tokens=1_120)
    assert served("turbo", unpriced) == served("flex", unpriced)
    assert served("turbo", unpriced).tokens == Tokens(5, 453, 1_120)


def test_a_model_that_is_not_in_the_catalog_has_the_general_tiers():
    own = sheet(None, "standard", override=OWNERS.prices, image_tokens=1_120)
    assert served("flex", own).nanos == STANDARD_NANOS / 2
    assert served("priority", own).nanos == STANDARD_NANOS * 2


def test_another_tier_is_a_factor_of_the_standard_prices_on_every_lane():
    batch = sheet(OWNERS, "batch")
    assert served("standard", batch).nanos == STANDARD_NANOS / 2
    assert served("flex", batch).nanos == STANDARD_NANOS / 2
    assert served("priority", batch).nanos == STANDARD_NANOS * 2


@given(
    prices=st.tuples(*[st.integers(0, 10**6)] * 3),
    counts=st.tuples(*[st.integers(0, 10**5)] * 3),
    factor=st.decimals("0.001", "9.999", places=3),
)
def test_a_part_of_a_nano_dollar_counts_as_a_whole(prices, counts, factor):
    model = replace(OWNERS, service_tiers={"other": factor})
    nanos = sheet(model, "standard", override=Prices(*prices)).cost(Tokens(*counts), "other")
    exact = sum(count * price for count, price in zip(counts, prices, strict=True)) * factor
    assert isinstance(nanos, int)
    assert 0 <= nanos - exact < 1


@given(prompt=st.integers(0, 100), text=st.integers(0, 1_500))
def test_every_answer_within_its_reservation_costs_no_more_than_it(prompt, text):
    quote = quoted()
    result = settlement(made(prompt=prompt, candidates=1_120 + text, image=1_120), quote, SHEET, "1K")
    assert result.nanos is not None
    assert quote.nanos is not None
    assert result.nanos <= quote.nanos


@given(
    held=st.integers(0, 10**10),
    more=st.integers(0, 10**10),
    cap=st.integers(0, 2 * 10**10),
    tokens=st.integers(0, 9),
)
def test_what_fits_never_passes_the_cap(held, more, cap, tokens):
    spend = Spend(settled=held, unknown_image_tokens=tokens)
    if fits(spend, Cap(cap, 8), Quote(more, 1, 0, 0)):
        assert held + more <= cap
        assert tokens + 1 <= 8
    assert passed(spend, Cap(cap, None)) == (held > cap)


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0.00"), (481_200_000, "0.4812"), (5 * 10**9, "5.00"), (1, "0.000000001"), (-1_500_000_000, "-1.50")],
)
def test_money_is_an_exact_decimal(nanos, text):
    assert dollars(nanos) == text


@given(st.integers(0, 10**15))
def test_what_is_rounded_for_a_person_is_never_less_and_never_more_than_a_cent_off(nanos):
    shown = Decimal(about(nanos)) * 10**9
    assert 0 <= shown - nanos < (10**7 if nanos >= 10**9 else 10**5)
