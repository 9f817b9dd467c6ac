"""`retry`: refused and failed tasks wait again, with fresh tries; money stays where it is."""

import pytest

from runner.core.lifecycle import Faulted, Lost, Refused, State
from runner.core.retry import RetryPolicy
from runner.ledger import Ledger
from runner.ledger.retry import retry
from runner.ledger.settle import halt
from tests.ledger.desk import answer, spec, specs


@pytest.fixture
def ended(desk):
    """A picture, a refusal, a failure, one that is held, a failed orphan, one in flight, one that waits."""
    desk.policy = RetryPolicy(attempts=2, refused=1, unknown="hold")
    desk.enqueue(specs(7))
    desk.settle(desk.claimed())
    desk.settle(desk.claimed(), Refused(answer(pictures=0), "image_safety", again=False))
    desk.policy = RetryPolicy(attempts=1)
    desk.settle(desk.claimed(), Faulted(500, "oops"))
    desk.policy = RetryPolicy(attempts=2, unknown="hold")
    desk.settle(desk.claimed(), Lost("timed_out", "late"))
    desk.policy = RetryPolicy(attempts=1)
    desk.settle(desk.claimed(), Faulted(500, "oops"))
    desk.claimed()
    desk.enqueue([one for one in specs(7) if one.position != 4], requeue_failed=False)
    return desk


def put_back(desk, *numbers):
    with desk.write() as connection:
        return retry(connection, "job", [spec(number).key for number in numbers], now=desk.now + 5)


def test_only_refused_and_failed_tasks_of_the_manifest_go_back(ended):
    before = ended.counters()
    assert put_back(ended, 0, 1, 2, 3, 4, 5, 6, 99) == 3
    after = ended.counters()
    assert (after.spend, after.unpriced, after.orphaned) == (before.spend, before.unpriced, before.orphaned)
    assert after.tasks == {
        "queued": 4,
        "running": 1,
        "submitted": 0,
        "succeeded": 1,
        "refused": 0,
        "failed": 0,
    }
    states = [task.state for task in ended.tasks(orphaned=True)]
    assert states == [State.SUCCEEDED, *[State.QUEUED] * 3, State.RUNNING, State.QUEUED, State.FAILED]


def test_lost_pictures_of_the_manifest_go_back_and_nothing_else(ended):
    before = ended.counters()
    with ended.write() as connection:
        keys = [spec(number).key for number in range(8)]
        assert retry(connection, "job", keys, now=ended.now + 5, gone=True) == 1
    after = ended.counters()
    assert (after.spend, after.orphaned) == (before.spend, before.orphaned)
    assert (after.tasks["succeeded"], after.tasks["queued"]) == (0, before.tasks["queued"] + 1)
    [lost] = [task for task in ended.tasks() if task.key == spec(0).key]
    assert (lost.state, lost.path, lost.sha256, lost.attempts) == (State.QUEUED, None, None, 1)
    assert lost.cost_nanos > 0
    assert lost.reason == ""


def test_what_went_back_has_fresh_tries_and_keeps_its_past(ended):
    before = {task.key: task for task in ended.tasks()}
    put_back(ended, 1, 3)
    after = {task.key: task for task in ended.tasks()}
    for number in (1, 3):
        old, new = before[spec(number).key], after[spec(number).key]
        assert (new.reason, new.error, new.attempts) == ("", "", 1)
        assert (new.cost_nanos, new.unknown_nanos) == (old.cost_nanos, old.unknown_nanos)
    again = ended.claimed()
    assert (again.key, again.tries, again.refused_tries, again.number) == (spec(1).key, 0, 0, 2)
    ended.settle(again)
    assert ended.counters().tasks["succeeded"] == 2


def test_the_second_time_nothing_moves(ended):
    assert put_back(ended, 2) == 1
    kept = ended.counters()
    assert put_back(ended, 2) == 0
    assert ended.counters() == kept


def test_more_than_a_batch(desk):
    desk.enqueue(specs(4_100))
    with desk.write() as connection:
        connection.exec_driver_sql("UPDATE task SET state = 'failed', reason = 'invalid'")
        connection.exec_driver_sql("UPDATE job SET failed = 4100, queued = 0")
    assert put_back(desk, *range(4_100)) == 4_100
    assert desk.counters().tasks["queued"] == 4_100


def test_the_job_says_that_it_waits_for_a_run(ended):
    put_back(ended, 1, 2)
    status = Ledger.read(ended.url).status("job", since_utc=0)
    assert (status.halted, status.reason) == (
        "interrupted",
        "2 tasks were put back by `retry`; `run` buys them",
    )
    with ended.write() as connection:
        halt(connection, "job", "budget", "too dear", now=ended.now)
    put_back(ended, 3)
    assert Ledger.read(ended.url).status("job", since_utc=0).reason == "too dear"


def test_a_job_that_is_not_there(desk):
    with desk.write() as connection, pytest.raises(LookupError, match="no job 'job'"):
        retry(connection, "job", ["k"], now=0.0)
