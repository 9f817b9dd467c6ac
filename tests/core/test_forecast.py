"""The forecast: answers worked out by hand, and properties against the slow way of every task by itself."""

import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runner.core.forecast import Batch, Forecast, Past, forecast
from runner.core.limits import Binding, Limits, Need
from tests.core import slow_forecast

DOLLAR = 10**9
NOW = datetime(2026, 7, 15, 19, 0, tzinfo=UTC).timestamp()  # noon Pacific
TEN_PM = datetime(2026, 7, 16, 5, 0, tzinfo=UTC).timestamp()
LAST_OF_JULY = datetime(2026, 8, 1, 6, 0, tzinfo=UTC).timestamp()  # 23:00 Pacific
PICTURE = Need(tokens=100, images=1, nanos=67_700_000, bytes=2_000_000)
WIDE = Need(tokens=100, images=1, nanos=151_000_000, bytes=20_000_000)


def foreseen(count, limits=Limits(), past=Past(), now=NOW, latency_s=12.0, need=PICTURE, **more):
    return forecast([Batch(count, need)], limits, past, now=now, latency_s=latency_s, **more)


@pytest.mark.parametrize(
    ("count", "limits", "finish_s", "binds"),
    [
        (5_000, Limits(), 12, None),
        # 147 of $0.0677 in $10; the 35th filling begins after 34 x 606 s
        (5_000, Limits(spend_nanos=10 * DOLLAR), 34 * 606 + 12, "spend_window"),
        (4_998, Limits(spend_nanos=10 * DOLLAR), 33 * 606 + 12, "spend_window"),
        (148, Limits(spend_nanos=10 * DOLLAR), 606 + 12, "spend_window"),
        (147, Limits(spend_nanos=10 * DOLLAR), 12, None),
        # a second apart, and 0.6 s lost a minute
        (60, Limits(rpm=60), 59 + 12, "requests"),
        (61, Limits(rpm=60), 60.6 + 12, "requests"),
        (600, Limits(rpm=60), 9 * 60.6 + 59 + 12, "requests"),
        # bursts of five at 500 a minute
        (500, Limits(rpm=500), 99 * 0.6 + 12, "requests"),
        (60, Limits(ipm=30), 60.6 + 58 + 12, "images"),
        (60, Limits(rpm=60, ipm=30), 60.6 + 58 + 12, "images"),
        (60, Limits(rpm=60, ipm=60), 59 + 12, "requests"),
        # ten of 100 tokens at once
        (95, Limits(tpm=1_000), 9 * 60.6 + 12, "tokens"),
        # 16 at a time, 313 rounds
        (5_000, Limits(concurrency=16), 313 * 12, "concurrency"),
        (17, Limits(concurrency=16), 24, "concurrency"),
        (1, Limits(concurrency=1), 12, None),
        # five of 2 MB in 11 MB; one in less than its own size
        (50, Limits(bytes_in_flight=11_000_000), 120, "bytes"),
        (50, Limits(bytes_in_flight=1_000_000), 600, "bytes"),
        # what costs most is named, not what binds first
        (1_470, Limits(spend_nanos=10 * DOLLAR, concurrency=16), 9 * 606 + 120, "spend_window"),
    ],
)
def test_each_limit_alone(count, limits, finish_s, binds):
    answer = foreseen(count, limits)
    assert answer.finish_s == pytest.approx(finish_s, rel=0.01)
    assert replace(answer, finish_s=None) == Forecast(None, binds, count, None)


def test_a_day_ends_at_midnight_pacific():
    """1,200 at 500 a day from ten in the evening: 500 now, 500 after the first midnight, 200 after the second."""
    limits = Limits(rpd=500, rpm=60)
    answer = foreseen(1_200, limits, now=TEN_PM)
    assert answer.finish_s == pytest.approx(26 * 3600 + 3 * 60.6 + 19 + 12, abs=1)
    assert (answer.binds, answer.bought) == ("day", 1_200)
    assert foreseen(501, limits, Past(day=1), now=TEN_PM).finish_s == pytest.approx(2 * 3600 + 1 + 12, abs=1)
    assert foreseen(499, limits, Past(day=1), now=TEN_PM).binds == "requests"
    assert foreseen(1, limits, Past(day=800), now=TEN_PM) == Forecast(2 * 3600 + 12, "day", 1, None)


def test_the_day_that_clocks_go_back_has_25_hours():
    now = datetime(2026, 11, 1, 7, 0, tzinfo=UTC).timestamp()
    assert foreseen(2, Limits(rpd=1), now=now, latency_s=0.0).finish_s == 25 * 3600


@pytest.mark.parametrize(
    ("limits", "past", "bought"),
    [
        (Limits(month_nanos=10 * DOLLAR), Past(), 147),
        (Limits(month_nanos=10 * DOLLAR), Past(month_nanos=9 * DOLLAR), 14),
        (Limits(month_nanos=10 * DOLLAR, month_elsewhere_nanos=9 * DOLLAR), Past(month_nanos=DOLLAR), 0),
        (Limits(month_nanos=10 * DOLLAR, month_elsewhere_nanos=11 * DOLLAR), Past(), 0),
        (Limits(month_nanos=250 * DOLLAR, spend_nanos=10 * DOLLAR), Past(), 3_692),
    ],
)
def test_the_cap_of_the_month_stops_a_job(limits, past, bought):
    assert foreseen(5_000, limits, past) == Forecast(None, "month", bought, "month")
    assert foreseen(5_000, limits, past, without="month").bought == 5_000


def test_a_month_that_turns_before_its_cap_is_reached_begins_anew():
    """$200 are 2,954 pictures; the last hour of July sends fewer, at 30 a minute, and August pays for the rest."""
    limits = Limits(month_nanos=200 * DOLLAR, rpm=30)
    july = 59 * 30 + 13  # 59 x 60.6 s, and one every 2 s of the 24.6 s that are left
    assert foreseen(july + 2_954, limits, now=LAST_OF_JULY).bought == july + 2_954
    answer = foreseen(july + 2_955, limits, now=LAST_OF_JULY)
    assert (answer.finish_s, answer.binds, answer.stopped_by) == (None, "month", "month")
    assert answer.bought == pytest.approx(july + 2_954, abs=1)
    assert foreseen(july + 2_954, limits, now=LAST_OF_JULY - 3_600).bought == 2_954


def test_the_budget_stops_a_job():
    assert foreseen(5_000, budget_nanos=10 * DOLLAR) == Forecast(None, "budget", 147, "budget")
    assert foreseen(147, budget_nanos=10 * DOLLAR).stopped_by is None
    assert foreseen(5_000, budget_nanos=10 * DOLLAR, without="budget") == Forecast(12, None, 5_000, None)
    assert foreseen(5_000, budget_nanos=-1).bought == 0
    month_first = foreseen(5_000, Limits(month_nanos=5 * DOLLAR), budget_nanos=10 * DOLLAR)
    assert month_first == Forecast(None, "month", 73, "month")


@pytest.mark.parametrize(
    ("limits", "binds"),
    [
        (Limits(tpm=99), "tokens"),
        (Limits(spend_nanos=DOLLAR // 20), "spend_window"),
        (Limits(rpm=0), "requests"),
        (Limits(ipm=0), "images"),
        (Limits(rpd=0), "day"),
        (Limits(concurrency=0), "concurrency"),
    ],
)
def test_what_is_larger_than_its_limit_is_never_sent(limits, binds):
    assert foreseen(3, limits) == Forecast(None, binds, 0, None)
    assert forecast(
        [Batch(3, Need(images=0)), Batch(1, PICTURE)], Limits(tpm=99), Past(), now=NOW, latency_s=1.0
    ) == (Forecast(None, "tokens", 3, None))


def test_a_large_one_is_never_overtaken():
    batches = [Batch(4, PICTURE), Batch(1, WIDE), Batch(4, PICTURE)]
    limits = Limits(bytes_in_flight=20_000_000)
    assert forecast(batches, limits, Past(), now=NOW, latency_s=10.0).finish_s == 30


def test_what_was_sent_counts_until_it_leaves_its_window():
    sent = [(NOW - 30.6 + n * 0.01, PICTURE) for n in range(10)]
    assert foreseen(1, Limits(rpm=10), Past(sent)).finish_s == pytest.approx(30 + 12)
    assert foreseen(1, Limits(tpm=1_000), Past(sent)).finish_s == pytest.approx(30 + 12)
    spend = [(NOW - 300, 9 * DOLLAR), (NOW - 10, DOLLAR)]
    assert foreseen(1, Limits(spend_nanos=10 * DOLLAR), Past(spend=spend)).finish_s == pytest.approx(306 + 12)
    gone = [(NOW - 60.7, PICTURE)] * 10
    assert foreseen(1, Limits(rpm=10), Past(gone)).finish_s == pytest.approx(12)


def test_what_is_in_flight_lands_first():
    sent = [(NOW - 100, PICTURE), (NOW - 8, PICTURE), (NOW - 2, PICTURE)]
    assert foreseen(0, past=Past(sent, in_flight=2)).finish_s == 10
    assert foreseen(1, Limits(concurrency=2), Past(sent, in_flight=2)).finish_s == 4 + 12
    assert foreseen(1, Limits(concurrency=2), Past(in_flight=2)).finish_s == 12 + 12
    assert foreseen(1, Limits(bytes_in_flight=4_000_000), Past(sent, in_flight=2)).finish_s == 4 + 12
    assert foreseen(0).finish_s == 0


def test_a_closed_gate_binds_under_the_name_it_is_given():
    past = Past(not_before=NOW + 300)
    assert foreseen(10, past=past) == Forecast(312, "outage", 10, None)
    assert foreseen(10, past=replace(past, held_by="refused")).binds == "refused"
    assert foreseen(10, past=past, without="outage").finish_s == 12
    assert foreseen(10, past=Past(not_before=NOW - 300)) == Forecast(12, None, 10, None)


@pytest.mark.parametrize(
    ("binds", "limits"),
    [
        ("requests", Limits(rpm=10)),
        ("tokens", Limits(tpm=1_000)),
        ("images", Limits(ipm=10)),
        ("day", Limits(rpd=100)),
        ("spend_window", Limits(spend_nanos=DOLLAR)),
        ("concurrency", Limits(concurrency=1)),
        ("bytes", Limits(bytes_in_flight=2_000_000)),
    ],
)
def test_without_a_limit_the_others_remain(binds, limits):
    with_loose = replace(limits, concurrency=limits.concurrency or 64)
    assert foreseen(300, with_loose).binds == binds
    assert foreseen(300, with_loose, without=binds) == foreseen(
        300, replace(Limits(), concurrency=64), without=binds
    )
    assert foreseen(300, limits, without="retries") == foreseen(300, limits)


def test_limits_that_bind_alike_are_not_nothing():
    assert foreseen(600, Limits(rpm=10, ipm=10)).binds in {"requests", "images"}


def test_ten_million_tasks_take_few_runs():
    """The finish is arithmetic: $50 in ten minutes, 738 pictures each."""
    limits = Limits(rpm=500, tpm=10**6, spend_nanos=50 * DOLLAR, concurrency=64, bytes_in_flight=256_000_000)
    answer = foreseen(10_000_000, limits)
    assert answer.finish_s == pytest.approx(10_000_000 / 738 * 606, rel=0.01)
    assert (answer.binds, answer.bought) == ("spend_window", 10_000_000)
    assert foreseen(10_000_000, Limits(rpd=1_000)).finish_s == pytest.approx(10_000 * 86_400, rel=0.01)


def test_a_hundred_thousand_tasks_all_different():
    needs = [
        replace(PICTURE, tokens=50 + n % 200, nanos=[45, 67, 101, 151][n % 4] * 10**6) for n in range(100_000)
    ]
    batches = [Batch(1, need) for need in needs]
    rest: dict[str, Any] = {"past": Past(), "now": NOW, "latency_s": 12.0}
    spend = forecast(batches, Limits(spend_nanos=50 * DOLLAR), **rest)
    assert spend.finish_s == pytest.approx(100_000 * 0.091 / 50 * 606, rel=0.01)
    tokens = forecast(batches, Limits(tpm=30_000), **rest)
    assert tokens.finish_s == pytest.approx(100_000 * 149.5 / 30_000 * 60.6, rel=0.01)
    assert (spend.binds, tokens.binds) == ("spend_window", "tokens")
    cap = sum(need.nanos for need in needs[:54_321])
    assert forecast(batches, Limits(), **rest, budget_nanos=cap).bought == 54_321


def test_corners_of_jobs_with_too_many_batches_to_tell_apart():
    free, large = Need(images=0), replace(PICTURE, tokens=5_000)
    rest: dict[str, Any] = {"past": Past(), "now": NOW, "latency_s": 12.0}
    batches = [Batch(60, free), Batch(0, large)] * 2_500 + [Batch(1, PICTURE), Batch(1, large)] * 2_500
    limits = Limits(tpm=1_000, bytes_in_flight=0)
    assert forecast(batches, limits, **rest) == Forecast(None, "tokens", 150_001, None)
    assert forecast(batches[:5_000], limits, **rest) == Forecast(12, None, 150_000, None)
    alone = forecast(batches, Limits(bytes_in_flight=0), **rest)
    assert alone.finish_s == pytest.approx(5_000 * 12, rel=0.01)
    tight = forecast(batches, Limits(tpm=6_000, spend_nanos=DOLLAR), **rest)
    assert tight.finish_s == pytest.approx(5_000 / 14 * 606, rel=0.02)


def test_a_budget_stops_a_job_however_far_off():
    limits, cap = Limits(rpd=1), PICTURE.nanos * 4_000
    assert foreseen(5_000, limits, budget_nanos=cap) == Forecast(None, "budget", 4_000, "budget")
    assert foreseen(4_000, limits, budget_nanos=cap).finish_s == pytest.approx(4_000 * 86_400, rel=0.01)


def maybe(low, high, unit=1):
    return st.none() | st.integers(low, high).map(lambda number: number * unit)


NEEDS = st.builds(
    Need,
    tokens=st.sampled_from([0, 10, 100, 1_000]),
    images=st.sampled_from([1, 1, 2]),
    nanos=st.sampled_from([0, 45_000_000, 67_700_000, 151_000_000]),
    bytes=st.sampled_from([1_000_000, 2_000_000, 20_000_000]),
)
LIMITS = st.builds(
    Limits,
    rpm=maybe(1, 300),
    tpm=maybe(1, 300, 1_000),
    ipm=maybe(2, 300),
    rpd=maybe(5, 500),
    spend_nanos=maybe(1, 50, DOLLAR),
    month_nanos=maybe(1, 100, DOLLAR),
    concurrency=maybe(1, 64),
    bytes_in_flight=maybe(1, 100, 1_000_000),
)
BATCHES = st.lists(st.builds(Batch, st.integers(0, 120), NEEDS), max_size=6)
INSTANTS = st.integers(1_780_000_000, 1_815_000_000).map(float)
AGES = st.lists(st.tuples(st.integers(0, 600).map(float), NEEDS), max_size=40)


@st.composite
def pasts(draw, now):
    sent = sorted(((now - age, need) for age, need in draw(AGES)), key=lambda send: send[0])
    return Past(
        sent,
        [(at, need.nanos) for at, need in sent],
        day=draw(st.integers(0, 50)),
        month_nanos=draw(st.integers(0, 5)) * DOLLAR,
        in_flight=draw(st.integers(0, 20)),
        not_before=draw(st.none() | st.integers(-100, 1_000).map(lambda s: now + s)),
    )


@settings(deadline=None)
@given(BATCHES, LIMITS, INSTANTS, st.sampled_from([0.0, 1.0, 12.0, 40.0]), maybe(1, 50, DOLLAR), st.data())
def test_it_foretells_what_every_task_by_itself_would_do(batches, limits, now, latency_s, budget_nanos, data):
    past = data.draw(pasts(now))
    rest: dict[str, Any] = {"now": now, "latency_s": latency_s, "budget_nanos": budget_nanos}
    quick, slow = forecast(batches, limits, past, **rest), slow_forecast.forecast(batches, limits, past, **rest)
    assert (quick.bought, quick.stopped_by) == (slow.bought, slow.stopped_by)
    if slow.finish_s is None:
        assert (quick.finish_s, quick.binds) == (None, slow.binds)
    else:
        assert quick.finish_s == pytest.approx(slow.finish_s, rel=0.02, abs=1e-3)


ROOMY = st.builds(
    Limits,
    rpm=maybe(50, 300),
    tpm=maybe(50, 300, 1_000),
    ipm=maybe(100, 300),
    rpd=maybe(50, 500),
    spend_nanos=maybe(8, 50, DOLLAR),
    concurrency=maybe(1, 64),
    bytes_in_flight=maybe(1_000, 2_000, 1_000_000),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(NEEDS, min_size=1, max_size=20), ROOMY, st.integers(0, 2**32), st.integers(500, 2_500))
def test_it_does_so_for_long_jobs_of_many_kinds(needs, limits, seed, count):
    order = random.Random(seed)
    batches = [Batch(1, order.choice(needs)) for _ in range(count)]
    rest: dict[str, Any] = {"past": Past(), "now": NOW, "latency_s": 12.0}
    quick, slow = forecast(batches, limits, **rest), slow_forecast.forecast(batches, limits, **rest)
    assert quick.bought == slow.bought
    assert quick.finish_s == pytest.approx(slow.finish_s, rel=0.02)


@pytest.mark.parametrize(
    "limits",
    [Limits(bytes_in_flight=28_000_000), Limits(ipm=6), Limits(tpm=2_500), Limits(spend_nanos=DOLLAR // 2)],
)
@pytest.mark.parametrize("count", [900, 2_500])
def test_it_does_so_nearly_where_few_uneven_ones_fill_a_limit(limits, count):
    order = random.Random(count)
    needs = [replace(PICTURE, images=2, bytes=1_000_000), replace(WIDE, tokens=1_000), replace(PICTURE, tokens=10)]
    batches = [Batch(1, order.choice(needs)) for _ in range(count)]
    rest: dict[str, Any] = {"past": Past(), "now": NOW, "latency_s": 12.0}
    quick, slow = forecast(batches, limits, **rest), slow_forecast.forecast(batches, limits, **rest)
    assert quick.finish_s == pytest.approx(slow.finish_s, rel=0.05)


@settings(deadline=None)
@given(BATCHES, LIMITS, st.sampled_from(["rpm", "tpm", "ipm", "rpd", "spend_nanos", "concurrency"]), st.data())
def test_a_tighter_limit_never_finishes_earlier(batches, limits, name, data):
    limits = replace(limits, month_nanos=None)
    tighter = replace(limits, **{name: data.draw(st.integers(0, getattr(limits, name) or 10**11))})
    rest: dict[str, Any] = {"past": Past(), "now": NOW, "latency_s": 12.0}
    loose, tight = forecast(batches, limits, **rest), forecast(batches, tighter, **rest)
    if tight.finish_s is not None:
        assert loose.finish_s is not None
        assert tight.finish_s >= loose.finish_s * 0.98
    assert tight.bought <= loose.bought


@settings(deadline=None)
@given(BATCHES, LIMITS, st.sampled_from([1.0, 12.0]))
def test_the_limit_it_names_is_the_one_that_helps_most(batches, limits, latency_s):
    limits = replace(limits, month_nanos=None)
    rest: dict[str, Any] = {"past": Past(), "now": NOW, "latency_s": latency_s}
    answer = forecast(batches, limits, **rest)
    assume(answer.finish_s is not None)
    without = {
        limit: forecast(batches, limits, **rest, without=limit).finish_s or 0.0 for limit in get_args(Binding)
    }
    best, now = min(without.values()), answer.finish_s or 0.0
    if answer.binds is None:
        assert best >= 0.985 * now
    elif best < 0.98 * now:
        assert without[answer.binds] <= best + 0.01 * now
