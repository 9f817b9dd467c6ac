"""What a person says of unknown attempts: every sum moves with them, once."""

from dataclasses import replace

import pytest
from sqlalchemy import select

from runner.core.budget import Cap, Spend
from runner.core.catalog import Prices
from runner.core.lifecycle import Lost, State, Verdict
from runner.core.pricing import PriceSheet
from runner.core.retry import RetryPolicy
from runner.ledger import AccountSpec, queries
from runner.ledger.enqueue import enqueue
from runner.ledger.models import attempt
from runner.ledger.resolve import resolve, unknowns
from tests.ledger.desk import BATCH_SHEET, PICTURE_NANOS, job, spec, specs

LOST = Lost("timed_out", "no byte in 360 s")
UNPRICED = PriceSheet(Prices(None, None, None))
VERDICTS = pytest.mark.parametrize("verdict", Verdict)


def record(desk, account="acme", count=4, config=None):
    """A job of so many tasks, under an account if it has a name."""
    shared = AccountSpec(account, Cap(10**12)) if account else None
    with desk.write() as connection:
        under = replace(job(desk.name), account=shared, config=config or {})
        enqueue(connection, under, specs(count), requeue_failed=False, now=desk.now)


def account_of(desk, name="acme"):
    """The counters of an account, which must be what its attempts add up to."""
    with desk.read() as connection:
        kept = queries.account(connection, name)
        assert kept is not None
        assert (kept.spend, kept.unpriced, kept.uncounted) == queries.account_recount(connection, name)
        return kept.spend


def held(desk):
    with desk.read() as connection:
        return unknowns(connection, desk.name)


def whole(desk, token):
    """The attempt's row, but what says that it changed."""
    with desk.read() as connection:
        row = dict(connection.execute(select(attempt).where(attempt.c.token == token)).mappings().one())
    del row["changed"]
    return row


@pytest.fixture
def lost(desk):
    """A picture and, in either lane, a request that may have been bought, both failed and held."""
    desk.policy = RetryPolicy(attempts=1, unknown="hold")
    record(desk)
    desk.settle(desk.claimed())
    desk.settle(desk.claimed(), LOST)
    desk.now += 60
    batch = desk.submitted()
    desk.settle(batch.attempts[0], Lost("line_missing", "no line"), price=BATCH_SHEET)
    return desk


def test_what_is_unknown_is_listed_longest_ago_first(lost):
    first, second = held(lost)
    assert (first.key, first.stem, first.lane, first.since) == (spec(1).key, "job/P1", "standard", 1_000.0)
    assert (first.reason, first.error) == ("timed_out", "no byte in 360 s")
    assert (second.key, second.lane, second.since) == (spec(2).key, "batch", 1_060.0)
    assert second.held_nanos < first.held_nanos
    assert (first.state, first.image_tokens) == (State.FAILED, 1_120)


@VERDICTS
def test_all_sums_move_with_it_in_either_lane(lost, verdict):
    before, mine = lost.counters(), account_of(lost)
    assert before.spend == mine
    for one in held(lost):
        row = whole(lost, one.token)
        spent = verdict is Verdict.WRITTEN_OFF
        assert lost.resolve(one.token, verdict=verdict, why="on the invoice") == {one.token}
        after = whole(lost, one.token)
        changed = {name: after[name] for name in after if after[name] != row[name]}
        tokens = {name: row[f"reserved_{name}"] for name in ("input_tokens", "text_tokens", "image_tokens")}
        assert changed == {
            "state": "settled" if spent else "released",
            "reason": verdict.value,
            "error": "on the invoice",
            **({"cost_nanos": one.held_nanos, **tokens} if spent else {}),
        }
        task = next(task for task in lost.tasks() if task.key == one.key)
        assert (task.state, task.reason, task.unknown_nanos) == (State.FAILED, row["reason"], 0)
        assert task.cost_nanos == (one.held_nanos if spent else 0)
        assert task.image_tokens == (one.image_tokens if spent else 0)
    spend = lost.counters().spend
    assert (spend.unknown, spend.unknown_image_tokens, spend.reserved) == (0, 0, before.spend.reserved)
    assert spend.settled == PICTURE_NANOS + (before.spend.unknown if spent else 0)
    assert spend.settled_image_tokens == 1_120 * (3 if spent else 1)
    assert account_of(lost) == spend
    assert lost.counters().tasks == before.tasks


@VERDICTS
def test_the_second_time_and_of_what_is_not_unknown_nothing_moves(lost, verdict):
    tokens = [one.token for one in lost.attempts()]
    assert lost.resolve(*tokens, verdict=verdict) == {tokens[1], tokens[2]}
    before = (lost.counters(), lost.tasks(), lost.attempts(), account_of(lost))
    for again in Verdict:
        assert lost.resolve(*tokens, "f" * 32, verdict=again) == frozenset()
    assert (lost.counters(), lost.tasks(), lost.attempts(), account_of(lost)) == before


@VERDICTS
def test_a_task_that_was_bought_again_keeps_its_picture_and_the_rest_of_its_hold(desk, verdict):
    record(desk, count=1)
    for _ in range(2):
        desk.settle(desk.claimed(), LOST)
        desk.now += 600
    desk.settle(desk.claimed())
    first, second = held(desk)
    desk.resolve(first.token, verdict=verdict)
    [task] = desk.tasks()
    assert (task.state, task.unknown_nanos) == (State.SUCCEEDED, second.held_nanos)
    assert task.cost_nanos == PICTURE_NANOS + (first.held_nanos if verdict is Verdict.WRITTEN_OFF else 0)
    assert [one.token for one in held(desk)] == [second.token]
    assert account_of(desk) == desk.counters().spend


@VERDICTS
def test_the_account_that_it_was_bought_under_pays(desk, verdict):
    desk.policy = RetryPolicy(attempts=1, unknown="hold")
    record(desk, "acme")
    desk.settle(desk.claimed(), LOST)
    record(desk, "other")
    desk.settle(desk.claimed(), LOST)
    here, there = account_of(desk), account_of(desk, "other")
    assert here == there != Spend()
    desk.resolve(held(desk)[0].token, verdict=verdict)
    assert account_of(desk).unknown == 0
    assert account_of(desk, "other") == there
    desk.resolve(held(desk)[0].token, verdict=verdict)
    assert account_of(desk, "other") == account_of(desk)
    desk.counters()


def test_what_has_no_price_is_known_to_be_free_once_it_is_released(desk):
    desk.policy = RetryPolicy(attempts=5)
    record(desk, None, count=1)
    desk.settle(desk.claimed(price=UNPRICED), LOST, price=UNPRICED)
    desk.now += 600
    desk.settle(desk.claimed(), LOST)
    first, second = held(desk)
    assert (first.held_nanos, desk.tasks()[0].unknown_nanos, desk.counters().unpriced) == (None, None, 1)
    desk.resolve(first.token, verdict=Verdict.RELEASED)
    [task] = desk.tasks()
    assert (task.unknown_nanos, task.cost_nanos, desk.counters().unpriced) == (second.held_nanos, 0, 0)


def test_what_has_no_price_stays_unknown_money_when_it_is_written_off(desk):
    record(desk, None, count=1)
    desk.settle(desk.claimed(price=UNPRICED), LOST, price=UNPRICED)
    desk.resolve(held(desk)[0].token, verdict=Verdict.WRITTEN_OFF)
    [task] = desk.tasks()
    assert (task.unknown_nanos, task.cost_nanos, task.image_tokens) == (0, None, None)
    assert (desk.counters().unpriced, desk.counters().uncounted) == (1, 1)


def test_more_than_a_batch_of_them(desk):
    record(desk, count=1)
    desk.settle(desk.claimed(), LOST)
    [one] = held(desk)
    others = [f"{number:032x}" for number in range(10_000, 15_000)]
    assert desk.resolve(*others, one.token, verdict=Verdict.RELEASED) == {one.token}


def test_a_job_that_is_not_there(desk):
    with desk.write() as connection, pytest.raises(LookupError, match="no job 'job'"):
        resolve(connection, "job", ["x"], Verdict.RELEASED, "y", now=0.0)
