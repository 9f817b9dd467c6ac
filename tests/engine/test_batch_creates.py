"""A create whose answer is lost makes no second job, and none is forgotten (gemini-api.md §8.9)."""

import logging

import anyio.to_thread
import pytest

from runner.core.batching import Load
from runner.core.lifecycle import FileGone, Invalid, State, Stopped, Throttled
from runner.core.remote import Declined, NotNow
from runner.core.retry import RetryPolicy
from runner.engine.ports import Unsendable
from tests.driven import drive
from tests.engine.batch_bench import COST, WORST, Bench, until
from tests.engine.batch_service import BatchService, End

BUSY = NotNow(Throttled(429, "unnamed", "Resource has been exhausted"))
KEY = Declined(Stopped(403, "key", "the key is not valid"))


def first(fault):
    """A fault of the first create only."""
    return lambda n, _now: fault if n == 1 else None


@pytest.mark.parametrize("listed_after_s", [0.0, 600.0])
def test_a_job_whose_create_was_lost_is_adopted(tmp_path, listed_after_s):
    service = BatchService(on_create=first("lost"), listed_after_s=listed_after_s)
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert len(service.jobs) == service.count("create") == 1
    bench.is_square()


def test_a_batch_that_somebody_else_changed_in_the_ledger_is_not_created(tmp_path):
    service = BatchService()
    bench = Bench(tmp_path, service, 10)

    async def meddle(pool):
        await until(lambda: service.count("upload"))
        [record] = await anyio.to_thread.run_sync(pool.ledger.reader.batches, "j")
        await pool.ledger.posting(record.token, "files/9", now=0.0)

    drive(lambda: bench.run(meanwhile=meddle))
    assert (bench.ending.halted, service.count("create")) == ("local", 0)
    assert "is no longer as this run left it" in (bench.ending.reason or "")


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_a_job_that_is_in_neither_of_two_lists_is_made_anew(tmp_path, caplog, rate):
    service = BatchService(on_create=first("never"), rate=rate)
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    lost_at, made_at = service.times("create")
    assert 900.0 <= rate * (made_at - lost_at) <= 900.0 + rate * 400.0
    assert [record.levelno for record in caplog.records if "was not created" in record.message] == [
        logging.WARNING
    ]
    assert [one.reason for one in bench.reader().batches("j")] == ["absent", "succeeded"]
    bench.is_square()


def test_a_job_that_may_exist_is_held_where_the_manifest_asks(tmp_path):
    service = BatchService(on_create=first("never"))
    bench = Bench(tmp_path, service, 10, retry=RetryPolicy(unknown="hold"))
    drive(bench.run)
    assert service.count("create") == 1
    assert (bench.state(State.FAILED), bench.status.spend.unknown) == (10, 10 * WORST)
    assert {one.reason for one in bench.reader().tasks("j")} == {"unknown_held"}


def test_lists_that_cannot_be_read_to_their_end_decide_nothing(tmp_path):
    service = BatchService(on_create=first("lost"), on_find=lambda _n, now: BUSY if now < 6_000.0 else None)
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert len(service.jobs) == 1
    bench.is_square()


def test_one_list_is_not_enough_whatever_comes_between(tmp_path):
    service = BatchService(
        on_create=first("lost"), listed_after_s=800.0, on_find=lambda n, _now: BUSY if 1 < n < 8 else None
    )
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert len(service.jobs) == 1
    bench.is_square()


def test_of_two_jobs_with_its_name_the_first_is_ours(tmp_path, caplog):
    service = BatchService(on_create=first("lost"))
    bench = Bench(tmp_path, service, 10)

    async def twin(_pool):
        await until(lambda: service.jobs)
        ours = service.jobs[0]
        service.jobs.append(type(ours)("batches/2", ours.display_name, ours.model, (), ours.made_at + 1, End()))

    drive(lambda: bench.run(meanwhile=twin))
    assert "batches/2 is another job" in caplog.text
    assert bench.state(State.SUCCEEDED) == 10


def test_creates_that_are_refused_for_hours_are_waited_for_while_batches_are_open(tmp_path):
    service = BatchService(
        ends=lambda _: End(after_s=4 * 3600.0),
        on_create=lambda n, now: BUSY if n > 1 and now < 3 * 3600.0 else None,
    )
    bench = Bench(tmp_path, service, 20, load=Load(lines=10))
    drive(bench.run)
    assert bench.ending.halted is None
    assert len(service.jobs) == 2
    assert service.count("create") < 130
    bench.is_square()


def test_creates_that_are_refused_with_nothing_open_stop_the_run_after_half_an_hour(tmp_path):
    bench = Bench(tmp_path, BatchService(on_create=lambda _n, _now: BUSY), 20, load=Load(lines=10))
    drive(bench.run)
    assert bench.ending.halted == "provider"
    assert 1_800.0 < bench.service.times("create")[-1] - 1_000.0 < 2_200.0
    assert bench.state(State.QUEUED) == 20
    assert bench.status.spend.held == 0


def test_two_models_that_are_refused_do_not_wait_for_each_other(tmp_path):
    models = ("gemini-3.1-flash-image-preview", "gemini-2.5-flash-image")
    bench = Bench(tmp_path, BatchService(on_create=lambda _n, _now: BUSY), 20, models=models)
    drive(bench.run)
    assert bench.ending.halted == "provider"
    assert (bench.state(State.QUEUED), bench.status.spend.held) == (20, 0)


def test_a_key_that_is_refused_stops_the_run_and_nothing_is_held(tmp_path):
    bench = Bench(tmp_path, BatchService(on_create=first(KEY)), 20)
    drive(bench.run)
    assert (bench.ending.halted, bench.ending.reason) == ("provider", "the key is not valid")
    assert (bench.state(State.QUEUED), bench.status.spend.held) == (20, 0)


def test_an_input_that_is_gone_is_uploaded_anew(tmp_path):
    gone = Declined(FileGone(404, "files/1 not found"))
    bench = Bench(tmp_path, BatchService(on_create=first(gone)), 20)
    drive(bench.run)
    assert (bench.service.count("upload"), bench.service.count("create")) == (2, 2)
    bench.is_square()


def test_a_line_that_the_service_names_at_once_fails_alone(tmp_path):
    wrong = Declined(Invalid(400, "Error on line 3: unknown field"))
    bench = Bench(tmp_path, BatchService(on_create=first(wrong)), 20)
    drive(bench.run)
    assert [one.key for one in bench.reader().tasks("j") if one.state is State.FAILED] == ["j00002"]
    assert bench.state(State.SUCCEEDED) == 19
    assert bench.status.spend.settled == 19 * COST
    assert {one.move.counts for one in bench.ended[:20]} == {None, "try"}


def test_uploads_that_fail_are_tried_again(tmp_path):
    busy = Unsendable("upload_failed", "503", passing=True)
    bench = Bench(tmp_path, BatchService(on_upload=lambda n, _keys: busy if n < 4 else None), 20)
    drive(bench.run)
    assert bench.service.count("upload") == 4
    bench.is_square()


def test_without_a_files_api_there_is_no_batch_lane(tmp_path):
    none = Unsendable("upload_failed", "404")
    bench = Bench(tmp_path, BatchService(on_upload=lambda _n, _keys: none), 20)
    drive(bench.run)
    assert bench.ending.halted == "provider"
    assert "Files API" in str(bench.ending.reason)
    assert (bench.state(State.QUEUED), bench.status.spend.held) == (20, 0)


def test_one_request_that_cannot_be_written_fails_alone(tmp_path):
    service = BatchService(
        on_upload=lambda n, keys: Unsendable("upload_failed", "a lone surrogate", key=keys[4]) if n == 1 else None
    )
    bench = Bench(tmp_path, service, 20)
    drive(bench.run)
    assert [one.key for one in bench.reader().tasks("j") if one.state is State.FAILED] == ["j00004"]
    assert bench.state(State.SUCCEEDED) == 19
