import pytest

from runner.core.budget import Cap
from runner.core.lifecycle import Faulted, Refused, State
from runner.core.retry import RetryPolicy
from runner.ledger import Known, Ledger, OutcomeRow, queries
from runner.ledger.settle import halt
from tests.ledger.desk import PICTURE_NANOS, Desk, answer, spec, specs


@pytest.fixture
def told(desk):
    """One picture, one refusal, one failure, one queued, one orphan."""
    desk.policy = RetryPolicy(attempts=1)
    desk.enqueue(specs(5), cap=Cap(5_000_000_000))
    desk.settle(desk.claimed())
    desk.settle(desk.claimed(), Refused(answer(pictures=0, text="no"), "image_safety", again=False))
    desk.settle(desk.claimed(), Faulted(500, "oops"))
    desk.enqueue(specs(4), cap=Cap(5_000_000_000), requeue_failed=False)
    return desk


def test_status_tells_where_a_job_is(told):
    with told.write() as connection:
        halt(connection, "job", "budget", "the next task needs $0.07", now=told.now)
    reader = Ledger.read(told.url)

    status = reader.status("job", since_utc=told.now - 60)

    assert status.tasks == {
        State.QUEUED: 1,
        State.RUNNING: 0,
        State.SUBMITTED: 0,
        State.SUCCEEDED: 1,
        State.REFUSED: 1,
        State.FAILED: 1,
    }
    assert (status.total, status.orphaned, status.cap) == (4, 1, Cap(5_000_000_000))
    assert (status.halted, status.reason) == ("budget", "the next task needs $0.07")
    assert (status.recent_successes, status.last_attempt_at, status.next_due) == (1, told.now, None)
    assert status.spend == reader.counters("job").spend
    assert (status.output_root, status.config["model"]) == ("/renders", "gemini-3.1-flash-image-preview")
    assert reader.status("job", since_utc=told.now + 1).recent_successes == 0
    told.enqueue(specs(4), requeue_failed=False)
    assert reader.status("job", since_utc=0).halted is None


def test_paths_are_those_of_all_pictures_with_their_keys(told):
    told.enqueue(specs(5)[1:], requeue_failed=False)
    assert told.counters().orphaned == 1
    assert Ledger.read(told.url).paths("job") == {"job/P0.png": spec(0).key}


def test_an_unknown_job_is_a_lookup_error(desk):
    reader = Ledger.read(desk.url)
    with pytest.raises(LookupError, match="no job 'x'"):
        reader.status("x", since_utc=0)
    with pytest.raises(LookupError, match="no job 'x'"):
        list(reader.tasks("x"))
    assert reader.job_names() == []
    assert reader.recorded("x") == 0


def test_outcomes_group_live_tasks_by_state_and_reason(told):
    assert set(Ledger.read(told.url).outcomes("job")) == {
        OutcomeRow(State.SUCCEEDED, "", 1, 1, PICTURE_NANOS),
        OutcomeRow(State.REFUSED, "image_safety", 1, 1, PICTURE_NANOS),
        OutcomeRow(State.FAILED, "http_500", 1, 1, 0),
        OutcomeRow(State.QUEUED, "", 1, 0, 0),
    }


def test_tasks_come_in_the_manifests_order_and_orphans_only_if_asked(told):
    keys = [task.key for task in told.tasks()]
    assert keys == [spec(n).key for n in range(4)]
    assert [task.key for task in told.tasks(orphaned=True)] == [*keys, spec(4).key]


def test_a_plan_learns_what_is_known_of_each_key_without_writing(told):
    reader = Ledger.read(told.url)
    known = [fact for _, fact in reader.known("job", (spec(n).key for n in range(6)))]

    assert known[0] == Known(State.SUCCEEDED, "", live=True, stem="job/P0", path="job/P0.png", attempts=1)
    assert known[2] is not None
    assert (known[2].goes_back({"invalid"}), known[2].goes_back({"http_500"})) == (True, False)
    assert [fact and fact.live for fact in known] == [True, True, True, True, False, None]
    assert reader.recorded("job") == 5
    assert list(reader.known("another", ["k"])) == [("k", None)]


def test_stems_of_other_jobs_under_the_same_root(told):
    with told.read() as connection:
        assert list(queries.stems_elsewhere(connection, "/renders", "job")) == []
        assert list(queries.stems_elsewhere(connection, "/elsewhere", "new")) == []
        taken = set(queries.stems_elsewhere(connection, "/renders", "new"))
    assert taken == {(f"job/p{n}", "job") for n in range(4)}

    told.enqueue([], requeue_failed=False)
    with told.read() as connection:
        assert set(queries.stems_elsewhere(connection, "/renders", "new")) == {("job/p0", "job")}


def test_jobs_do_not_see_each_other(told):
    other = Desk(told.path, name="another", tokens=100)
    other.enqueue(specs(2))
    before = told.counters()

    other.settle(other.claimed())

    assert told.counters() == before
    assert other.counters().tasks["succeeded"] == 1
    assert Ledger.read(told.url).job_names() == ["another", "job"]
