import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from runner.core.lifecycle import Faulted, Invalid, Lost, Refused, State
from runner.core.retry import RetryPolicy
from runner.ledger import InTheWay, Misplaced, queries
from runner.ledger.enqueue import BATCH
from runner.ledger.models import prompt, recipe
from runner.ledger.settle import relocate
from tests.ledger.desk import answer, spec, specs


def test_records_every_task_once_and_again_changes_nothing(desk):
    first = desk.enqueue(specs(5))
    again = desk.enqueue(specs(5))

    assert (first.total, first.new, first.kept) == (5, 5, 0)
    assert (again.total, again.new, again.kept, again.orphaned) == (5, 0, 5, 0)
    assert desk.counters().tasks["queued"] == 5


def test_a_prompt_is_stored_once_however_many_tasks_use_it(desk):
    desk.enqueue([spec(n, prompt="the same", size=size) for n, size in enumerate(["1K", "2K", "4K"])])

    with desk.read() as connection:
        assert connection.scalar(select(func.count()).select_from(prompt)) == 1
        assert connection.scalar(select(func.count()).select_from(recipe)) == 1


def test_more_tasks_than_a_batch(desk):
    count = 2 * BATCH + 3
    assert desk.enqueue(iter(specs(count))).new == count
    edited = desk.enqueue(spec(n) for n in range(3, count + 1))
    assert (edited.total, edited.new, edited.kept, edited.orphaned) == (count - 2, 1, count - 3, 3)
    desk.counters()


def test_a_repeated_key_is_refused_and_nothing_is_recorded(desk):
    with pytest.raises(IntegrityError):
        desk.enqueue([spec(1), spec(1, stem="elsewhere")])
    with pytest.raises(IntegrityError):
        desk.enqueue([*specs(BATCH), spec(1)])
    with desk.read() as connection:
        assert queries.job_names(connection) == []


def test_a_key_keeps_its_picture_and_takes_name_place_and_order_from_the_manifest(desk):
    desk.enqueue(specs(2))
    desk.settle(desk.claimed())
    renamed = spec(0, prompt_id="poster", stem="job/poster", position=7, axes=(("palette", "red"),))

    recorded = desk.enqueue([renamed, spec(1)])

    last = desk.tasks()[-1]
    assert (last.prompt_id, last.axes, last.state, last.path) == (
        "poster",
        {"palette": "red"},
        State.SUCCEEDED,
        "job/P0.png",
    )
    assert recorded.kept == 2
    assert recorded.misplaced == (Misplaced(last.key, "job/P0.png", "job/poster"),)


def test_a_picture_is_misplaced_until_its_move_is_recorded(desk):
    desk.enqueue(specs(1))
    desk.settle(desk.claimed())
    desk.enqueue([spec(0, stem="job/p0")])  # differs by case alone

    recorded = desk.enqueue([spec(0, stem="job/p0")])
    assert [moved.stem for moved in recorded.misplaced] == ["job/p0"]

    with desk.write() as connection:
        moves = [(recorded.misplaced[0].key, "job/P0.png", "job/p0.png")]
        assert relocate(connection, desk.name, moves) == 1
        assert relocate(connection, desk.name, moves) == 0
    assert desk.enqueue([spec(0, stem="job/p0")]).misplaced == ()


def test_an_orphans_picture_in_the_way_of_a_new_task_is_reported_until_it_moved(desk):
    desk.enqueue(specs(2))
    desk.settle(desk.claimed())
    edited = [spec(9, stem="job/p0"), spec(1)]

    recorded = desk.enqueue(edited)
    assert recorded.in_the_way == (InTheWay(spec(0).key, "job/P0.png"),)

    with desk.write() as connection:
        relocate(connection, desk.name, [(spec(0).key, "job/P0.png", "job/superseded/P0.png")])
    assert desk.enqueue(edited).in_the_way == ()


def test_orphans_are_not_claimed_keep_their_spend_and_live_again_when_named_again(desk):
    desk.enqueue(specs(2))
    spent = desk.settle(desk.claimed()).spend

    gone = desk.enqueue([spec(2)])
    assert (gone.total, gone.new, gone.orphaned) == (1, 1, 2)
    assert desk.counters().spend == spent
    assert desk.claimed().key == spec(2).key
    assert [task.live for task in desk.tasks(orphaned=True)] == [True, False, False]

    back = desk.enqueue(specs(3))
    assert (back.revived, back.kept, back.orphaned) == (2, 1, 0)
    assert desk.counters().tasks == {
        **dict.fromkeys(["submitted", "refused", "failed"], 0),
        **dict.fromkeys(["queued", "running", "succeeded"], 1),
    }


@pytest.mark.parametrize(
    ("outcome", "requeue_failed", "state"),
    [
        (Faulted(500, "oops"), True, State.QUEUED),
        (Faulted(500, "oops"), False, State.FAILED),
        (Invalid(400, "bad"), True, State.FAILED),
        (Refused(answer(pictures=0), "image_safety", again=False), True, State.REFUSED),
    ],
)
def test_run_puts_back_what_may_pass_and_leaves_the_rest(desk, outcome, requeue_failed, state):
    desk.policy = RetryPolicy(attempts=1)
    desk.enqueue(specs(1))
    desk.settle(desk.claimed(), outcome)

    recorded = desk.enqueue(specs(1), requeue_failed=requeue_failed)

    task = desk.tasks()[0]
    assert task.state is state
    assert recorded.requeued == (state is State.QUEUED)
    assert recorded.kept == (state is not State.QUEUED)
    desk.counters()
    if state is State.QUEUED:
        assert (desk.claimed().tries, task.reason, task.attempts) == (0, "", 1)


def test_what_may_have_been_bought_and_is_held_stays_failed(desk):
    desk.policy = RetryPolicy(unknown="hold")
    desk.enqueue(specs(1))
    desk.settle(desk.claimed(), Lost("timed_out", "no answer"))

    assert desk.enqueue(specs(1)).requeued == 0
    assert desk.counters().tasks["failed"] == 1
