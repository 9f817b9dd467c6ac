from dataclasses import replace

import pytest

from runner.core.lifecycle import (
    AttemptState,
    Faulted,
    Interrupted,
    Invalid,
    Lost,
    Picture,
    Refused,
    State,
    Stopped,
    Throttled,
    Unreached,
    Unstored,
    Unusable,
    Usage,
)
from runner.core.retry import RetryPolicy
from runner.ledger import Settled
from tests.ledger.desk import PICTURE_NANOS, answer, made, specs

USED = answer(Usage(20, 300, 80), pictures=0, text="no", finish_reason="IMAGE_SAFETY")
USED_NANOS = 20 * 250 + 380 * 1_500
REJECTED = Picture("job/rejected/P0.png", "b" * 64, 9, "image/png", 1, 1)


@pytest.fixture
def claimed(desk):
    desk.enqueue(specs(1))
    return desk.claimed()


def test_a_success_moves_task_attempt_and_money_together(desk, claimed):
    answered = desk.settle(claimed)

    task, attempt, kept = desk.tasks()[0], desk.attempts()[0], desk.counters()
    assert answered == Settled(kept.spend, recorded=True)
    assert (kept.spend.settled, kept.spend.reserved, kept.spend.settled_image_tokens) == (PICTURE_NANOS, 0, 1_120)
    assert (task.state, task.path, task.width, task.cost_nanos) == (
        State.SUCCEEDED,
        "job/P0.png",
        1024,
        PICTURE_NANOS,
    )
    assert (task.finish_reason, task.response_id, task.attempts, task.lane) == ("STOP", "r1", 1, "standard")
    assert (attempt.state, attempt.outcome, attempt.status, attempt.cost_nanos) == (
        AttemptState.SETTLED,
        "made",
        200,
        PICTURE_NANOS,
    )
    assert (attempt.input_tokens, attempt.text_tokens, attempt.image_tokens) == (20, 380, 1_120)
    assert (attempt.overrun, attempt.adopted, attempt.latency_s) == (False, False, 12.5)


HELD = "held"


@pytest.mark.parametrize(
    ("outcome", "state", "money", "tries"),
    [
        (Refused(USED, "image_safety", again=True), State.QUEUED, USED_NANOS, (0, 1)),
        (Refused(USED, "prohibited_content", again=False), State.REFUSED, USED_NANOS, (0, 1)),
        (Unusable(USED, "no_image"), State.QUEUED, USED_NANOS, (1, 0)),
        (Unusable(answer(), "wrong_pixels", "8x8", REJECTED), State.QUEUED, PICTURE_NANOS, (1, 0)),
        (Unusable(answer(usage=None, pictures=0), "empty"), State.QUEUED, HELD, (1, 0)),
        (Throttled(429, "minute", "slow down"), State.QUEUED, None, (0, 0)),
        (Faulted(500, "oops"), State.QUEUED, None, (1, 0)),
        (Faulted(504, "late", billed_unknown=True), State.QUEUED, HELD, (1, 0)),
        (Invalid(400, "bad aspect"), State.FAILED, None, (1, 0)),
        (Unreached("connection refused"), State.QUEUED, None, (0, 0)),
        (Lost("timed_out", "no first byte"), State.QUEUED, HELD, (1, 0)),
        (Lost("crashed", "the runner died"), State.QUEUED, HELD, (0, 0)),
        (Stopped(403, "key", "denied"), State.QUEUED, None, (0, 0)),
        (Unstored(answer(), "disk full"), State.QUEUED, PICTURE_NANOS, (0, 0)),
        (Interrupted(left=True), State.QUEUED, HELD, (0, 0)),
        (Interrupted(left=False), State.QUEUED, None, (0, 0)),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "__dataclass_fields__") else None,
)
def test_every_other_ending(desk, outcome, state, money, tries):
    desk.enqueue(specs(1))
    claimed = desk.claimed()
    desk.settle(claimed, outcome)

    task, attempt, spend = desk.tasks()[0], desk.attempts()[0], desk.counters().spend
    settled = money if isinstance(money, int) else 0
    held = claimed.quote.nanos if money is HELD else 0
    assert task.state is state
    assert (spend.settled, spend.unknown, spend.reserved) == (settled, held, 0)
    assert (task.cost_nanos, task.unknown_nanos) == (settled, held)
    assert attempt.cost_nanos == (settled if isinstance(money, int) else None)
    assert attempt.outcome == type(outcome).__name__.lower()
    assert attempt.status == getattr(outcome, "status", 200 if hasattr(outcome, "answer") else None)
    assert task.path is None
    assert task.reason == attempt.reason != ""
    if state is State.QUEUED:
        desk.now += 1_000
        again = desk.claimed()
        assert (again.number, again.tries, again.refused_tries) == (2, *tries)


def test_a_second_settle_changes_nothing_and_says_so(desk, claimed):
    desk.settle(claimed)
    before = (desk.counters(), desk.tasks(), desk.attempts())

    late = desk.settle(claimed, Lost("timed_out", "late"))

    assert late == Settled(before[0].spend, recorded=False)
    assert (desk.counters(), desk.tasks(), desk.attempts()) == before


def test_a_late_picture_of_an_attempt_given_up_counts_nothing_while_the_next_one_runs(desk, claimed):
    desk.settle(claimed, Lost("crashed", "the runner died"))
    second = desk.claimed()

    assert not desk.settle(claimed).recorded
    assert desk.counters().tasks["running"] == 1
    assert desk.settle(second).recorded
    assert desk.tasks()[0].cost_nanos == PICTURE_NANOS
    assert desk.tasks()[0].unknown_nanos == claimed.quote.nanos


def test_an_answer_dearer_than_its_reservation_is_settled_in_full_and_marked(desk, claimed):
    dear = made(claimed, answer(Usage(20, 1_120 + 3_000, 0, 1_120)))
    spend = desk.settle(claimed, dear).spend

    assert spend.settled == 20 * 250 + 3_000 * 1_500 + 1_120 * 60_000 > claimed.quote.nanos
    assert desk.attempts()[0].overrun


def test_more_image_tokens_than_reserved_are_an_overrun_too(desk, claimed):
    desk.settle(claimed, made(claimed, answer(Usage(1, 1_121, 0, 1_121))))
    assert desk.attempts()[0].overrun
    assert desk.counters().spend.settled_image_tokens == 1_121


def test_a_task_adds_up_all_it_has_cost(desk, claimed):
    desk.settle(claimed, Unusable(USED, "no_image"))
    desk.now += 1_000
    desk.settle(desk.claimed(), Lost("timed_out", "x"))
    desk.now += 1_000
    desk.settle(desk.claimed())

    task = desk.tasks()[0]
    assert (task.state, task.cost_nanos, task.attempts) == (State.SUCCEEDED, USED_NANOS + PICTURE_NANOS, 3)
    assert (task.unknown_nanos, task.image_tokens, task.error) == (claimed.quote.nanos, 1_120, "")


def test_the_words_of_the_last_answer_outlive_a_broken_connection(desk, claimed):
    desk.settle(claimed, Unusable(USED, "no_image"))
    desk.now += 1_000
    desk.settle(desk.claimed(), Lost("timed_out", "x"))
    assert (desk.tasks()[0].text, desk.tasks()[0].finish_reason) == ("no", "IMAGE_SAFETY")


def test_a_rejected_picture_is_the_attempts_and_not_the_tasks(desk, claimed):
    desk.settle(claimed, Unusable(answer(), "wrong_pixels", "8x8", REJECTED))
    assert desk.attempts()[0].path == REJECTED.path
    assert desk.tasks()[0].path is None


def test_half_characters_and_nul_in_an_answer_cannot_lose_its_price(desk, claimed):
    odd = answer(text="a\ud800b\0c", finish_reason="NEW\udfff", response_id="\0")
    desk.settle(claimed, Unusable(odd, "no_image"))

    task = desk.tasks()[0]
    assert (task.text, task.finish_reason, task.response_id) == ("a\\ud800b\\x00c", "NEW\\udfff", "\\x00")
    assert task.cost_nanos == PICTURE_NANOS


def test_an_adopted_picture_is_marked(desk, claimed):
    desk.settle(claimed, adopted=True)
    assert desk.attempts()[0].adopted


def test_a_task_orphaned_while_it_runs_settles_outside_of_the_live_counts(desk, claimed):
    desk.enqueue([])
    desk.settle(claimed)

    kept = desk.counters()
    assert (sum(kept.tasks.values()), kept.orphaned, kept.spend.settled) == (0, 1, PICTURE_NANOS)


def test_tries_used_up_end_in_failed_with_the_reason(desk):
    desk.policy = RetryPolicy(attempts=2)
    desk.enqueue(specs(1))
    for _ in range(2):
        desk.settle(desk.claimed(), Faulted(500, "oops"))
        desk.now += 1_000
    task = desk.tasks()[0]
    assert (task.state, task.reason, task.error) == (State.FAILED, "http_500", "oops")


def test_a_forged_attempt_is_not_settled(desk, claimed):
    assert not desk.settle(replace(claimed, token="f" * 32)).recorded
    assert desk.counters().spend.reserved == claimed.quote.nanos
