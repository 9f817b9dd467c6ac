"""Every way a job can end, and every line its results can have: what becomes of the tasks, and of their money."""

import pytest

from runner.core.batching import Load
from runner.core.lifecycle import Answer, Faulted, Invalid, Lost, Refused, Reply, State, Usage
from runner.core.remote import Failure, Remote, Stats
from runner.core.retry import RetryPolicy
from tests.driven import drive
from tests.engine.batch_bench import COST, WORST, Bench
from tests.engine.batch_service import BatchService, End
from tests.fakes import pictured

REFUSAL = Refused(Answer("IMAGE_SAFETY", usage=Usage(prompt=5)), "image_safety", again=False)
BAD_LINE = Failure(3, "Error on line 3: unknown field")


def first(end):
    """How the first job ends; all others end well."""
    return lambda job: end if job.name == "batches/1" else End()


def outcomes(bench):
    return [(one.outcome, one.reason) for one in bench.reader().attempts("j")]


def keys(bench, state):
    return [one.key for one in bench.reader().tasks("j") if one.state is state]


def test_lines_that_failed_go_into_another_batch(tmp_path):
    faults = {
        "j00000": Faulted(500, "gRPC 13"),
        "j00001": Faulted(429, "gRPC 8"),
        "j00002": Faulted(503, "gRPC 14"),
    }
    service = BatchService(says=lambda task, seen: faults.get(task.key, pictured()) if seen == 1 else pictured())
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert [len(job.items) for job in service.jobs] == [10, 3]
    assert bench.state(State.SUCCEEDED) == 10
    assert bench.status.spend.settled == 10 * COST == sum(service.billed)
    assert bench.status.spend.held == bench.status.spend.settled


def test_lines_that_may_have_been_billed_keep_their_hold(tmp_path):
    faults = {
        "j00000": Faulted(504, "gRPC 4", billed_unknown=True),
        "j00001": Faulted(499, "gRPC 1", billed_unknown=True),
    }
    service = BatchService(says=lambda task, seen: faults.get(task.key, pictured()) if seen == 1 else pictured())
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert bench.state(State.SUCCEEDED) == 10
    assert bench.status.spend.unknown == 2 * WORST
    assert bench.status.spend.settled == 10 * COST


def test_a_request_that_is_invalid_and_one_that_is_refused_end_there(tmp_path):
    says: dict[str, Reply] = {"j00000": Invalid(400, "gRPC 3: bad aspect"), "j00001": REFUSAL}
    service = BatchService(says=lambda task, _seen: says.get(task.key, pictured()))
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert len(service.jobs) == 1
    assert (keys(bench, State.FAILED), keys(bench, State.REFUSED)) == (["j00000"], ["j00001"])
    assert bench.status.spend.settled == 8 * COST + 5 * 125 == sum(service.billed)


def test_lines_in_any_order_and_twice_and_from_strangers(tmp_path, caplog):
    def shape(_job, rows):
        return [*reversed(rows), rows[2], (None, pictured()), ("strange", pictured()), rows[0]]

    bench = Bench(tmp_path, BatchService(shape=shape), 10)
    drive(bench.run)
    assert "2 lines of its results have no request, 2 came twice" in caplog.text
    bench.is_square()
    assert set(bench.shelf.stored.values()) == {1}


def test_missing_lines_that_were_counted_as_done_keep_their_hold(tmp_path):
    def shape(job, rows):
        return rows[:7] if job.name == "batches/1" else rows

    service = BatchService(shape=shape)
    service.on_get = lambda job, _now: counted(service, job, 10)
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert [len(job.items) for job in service.jobs] == [10, 3]
    assert bench.state(State.SUCCEEDED) == 10
    assert bench.status.spend.unknown == 3 * WORST
    assert outcomes(bench).count(("lost", "line_missing")) == 3


def counted(service, job, succeeded):
    """The first job says that so many were done."""
    remote = service._remote(job)
    if job.name != "batches/1" or not job.over:
        return remote
    return Remote(
        **{name: getattr(remote, name) for name in remote.__dataclass_fields__}
        | {"stats": Stats(10, 0, succeeded, 10 - succeeded)}
    )


def test_missing_lines_that_failed_are_free(tmp_path):
    service = BatchService(shape=lambda job, rows: rows[:7] if job.name == "batches/1" else rows)
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert bench.state(State.SUCCEEDED) == 10
    assert bench.status.spend.unknown == 0
    assert outcomes(bench).count(("undone", "line_missing")) == 3


def test_a_line_that_fails_the_whole_job_fails_alone_and_costs_the_others_no_try(tmp_path):
    service = BatchService(ends=first(End("FAILED", error=BAD_LINE, does=0, shows=False)))
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert keys(bench, State.FAILED) == ["j00002"]
    assert bench.state(State.SUCCEEDED) == 9
    assert [len(job.items) for job in service.jobs] == [10, 9]
    assert [one.move.counts for one in bench.ended[:10]].count(None) == 9
    assert bench.status.spend.held == 9 * COST


def test_a_line_that_fails_its_job_without_a_word_ends_alone_and_the_others_are_made(tmp_path):
    def ends(job):
        guilty = any(task.key == "j00007" for _, task in job.items)
        return End("FAILED", error=Failure(13, "internal"), does=0, shows=False) if guilty else End()

    bench = Bench(tmp_path, BatchService(ends=ends), 64, load=Load(lines=64), retry=RetryPolicy(attempts=4))
    drive(bench.run)
    assert keys(bench, State.FAILED) == ["j00007"]
    assert bench.state(State.SUCCEEDED) == 63
    assert max(len(job.items) for job in bench.service.jobs[1:]) <= 8
    assert bench.status.spend.held == 63 * COST


@pytest.mark.parametrize("state", ["EXPIRED", "CANCELLED"])
def test_of_a_job_without_results_as_many_stay_held_as_it_says(tmp_path, state):
    service = BatchService(ends=first(End(state, does=4, shows=False)))
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert bench.state(State.SUCCEEDED) == 10
    assert bench.status.spend.unknown == 4 * WORST
    assert bench.status.spend.settled == 10 * COST


def test_a_cancelled_job_with_results_gives_what_it_did(tmp_path):
    bench = Bench(tmp_path, BatchService(ends=first(End("CANCELLED", does=4))), 10)
    drive(bench.run)
    assert [len(job.items) for job in bench.service.jobs] == [10, 6]
    assert [one.move.counts for one in bench.ended[4:10]] == [None] * 6
    bench.is_square()


def test_an_expired_job_that_says_nothing_holds_all(tmp_path):
    bench = Bench(tmp_path, BatchService(ends=first(End("EXPIRED", does=0, shows=False, tells=False))), 10)
    drive(bench.run)
    assert bench.state(State.SUCCEEDED) == 10
    assert bench.status.spend.unknown == 10 * WORST


def test_where_unknowns_are_held_nothing_of_such_a_job_goes_back(tmp_path):
    service = BatchService(ends=first(End("EXPIRED", does=4, shows=False)))
    bench = Bench(tmp_path, service, 10, retry=RetryPolicy(unknown="hold"))
    drive(bench.run)
    assert (bench.state(State.FAILED), bench.status.spend.unknown) == (10, 10 * WORST)
    assert len(service.jobs) == 1


def test_partly_succeeded_is_harvested_like_any(tmp_path):
    bench = Bench(tmp_path, BatchService(ends=first(End("PARTIALLY_SUCCEEDED", does=6))), 10)
    drive(bench.run)
    assert [len(job.items) for job in bench.service.jobs] == [10, 4]
    bench.is_square()


def test_a_state_nobody_knows_is_waited_out(tmp_path, caplog):
    service = BatchService(ends=lambda _: End(after_s=2_000.0))
    service.on_get = lambda job, now: (
        Remote(job.name, job.display_name, "DREAMING") if 1_200.0 < now < 2_500.0 else None
    )
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert caplog.text.count("unknown state DREAMING") == 1
    bench.is_square()


def test_a_job_that_is_gone_may_have_bought_everything(tmp_path):
    service = BatchService(ends=first(End(after_s=5_000.0, away=[(1_500.0, 1e9)])))
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert bench.state(State.SUCCEEDED) == 10
    assert bench.status.spend.unknown == 10 * WORST
    assert set(outcomes(bench)[:10]) == {("lost", "batch_gone")}


@pytest.mark.parametrize("lost", [False, True])
def test_a_key_of_another_project_makes_no_job_gone(tmp_path, caplog, lost):
    """For five hours it shows neither the job nor its input; then the right key is back."""
    service = BatchService(
        ends=lambda _: End(after_s=9 * 3_600.0),
        on_create=lambda n, _now: "lost" if lost and n == 1 else None,
        foreign=lambda now: now < 6 * 3_600.0,
    )
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert (service.count("create"), bench.state(State.SUCCEEDED)) == (1, 10)
    [said] = [one.message for one in caplog.records if "another project" in one.message]
    assert "its input files/1 is not shown either" in said
    bench.is_square()


@pytest.mark.parametrize("rate", [1.0, 20.0])
def test_a_job_of_which_nothing_is_left_is_gone_once_its_input_would_have_expired(tmp_path, rate):
    """By the provider's clock, however fast that runs."""
    hour_s = 3_600.0 / rate
    service = BatchService(
        ends=lambda _: End(after_s=30.0, does=0), foreign=lambda now: now < 56 * hour_s, rate=rate
    )
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert bench.status.spend.unknown == 10 * WORST
    assert 47 * hour_s <= service.times("create")[1] - service.times("create")[0] <= 54 * hour_s


def test_a_job_that_is_not_found_now_and_then_is_not_gone(tmp_path):
    away = [(1_500.0, 1_900.0), (5_000.0, 5_400.0)]
    bench = Bench(tmp_path, BatchService(ends=lambda _: End(after_s=9_000.0, away=away)), 10)
    drive(bench.run)
    assert bench.service.count("find") >= 2
    assert len(bench.service.jobs) == 1
    bench.is_square()


def test_results_that_are_gone_count_as_bought_where_it_says_so(tmp_path):
    service = BatchService(breaks=lambda job, _n: (3, False) if job.name == "batches/1" else None)
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert bench.state(State.SUCCEEDED) == 10
    assert bench.status.spend.unknown == 7 * WORST
    assert outcomes(bench)[3:10] == [("lost", "results_gone")] * 7


def test_a_line_without_usage_keeps_its_hold(tmp_path):
    lost = Lost("not_an_answer", "neither usage nor picture")
    service = BatchService(says=lambda task, seen: lost if task.key == "j00003" and seen == 1 else pictured())
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert bench.state(State.SUCCEEDED) == 10
    assert bench.status.spend.unknown == WORST
