"""Downloads that break, disks and ledgers that fail, keys that are refused: what a run does, and the next."""

import pytest

from runner.core.batching import Load
from runner.core.errors import LocalFailureError
from runner.core.lifecycle import State, Stopped, Unreached
from runner.core.remote import Declined, NotNow
from tests.driven import drive
from tests.engine.batch_bench import Bench
from tests.engine.batch_service import BatchService

KEY = Declined(Stopped(403, "key", "the key is not valid"))
DOWN = NotNow(Unreached("no route to host"))


def test_a_download_that_breaks_goes_on_where_it_was(tmp_path):
    service = BatchService(breaks=lambda _job, n: (n, True) if n < 4 else None)
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert service.count("results") == 4
    assert set(bench.shelf.stored.values()) == {1}
    bench.is_square()


def test_a_download_that_breaks_for_an_hour_is_asked_for_again_later(tmp_path, caplog):
    bench = Bench(tmp_path, BatchService(), 10)
    bench.service.breaks = lambda _job, n: (3, True) if n == 1 else (0, True) if n < 60 else None
    drive(bench.run)
    assert "asked for again later" in caplog.text
    assert set(bench.shelf.stored.values()) == {1}
    bench.is_square()


def test_a_key_that_is_refused_while_polling_stops_the_run_and_loses_nothing(tmp_path):
    service = BatchService(on_get=lambda _job, now: KEY if now > 1_200.0 else None)
    bench = Bench(tmp_path, service, 10)

    async def twice():
        await bench.run()
        assert (bench.ending.halted, bench.state(State.SUBMITTED)) == ("provider", 10)
        service.on_get = lambda _job, _now: None
        await bench.run()

    drive(twice)
    assert len(service.jobs) == 1
    bench.is_square()


def test_a_service_that_is_away_for_hours_is_waited_for(tmp_path, caplog):
    service = BatchService()
    service.on_get = lambda _job, now: DOWN if now < 10_000.0 else None
    bench = Bench(tmp_path, service, 10)
    drive(bench.run)
    assert caplog.text.count("no route to host") == 1
    bench.is_square()


def test_a_picture_that_cannot_be_stored_stops_the_run_and_the_next_one_harvests(tmp_path):
    bench = Bench(tmp_path, BatchService(), 10)

    async def twice():
        bench.shelf.unstored = True
        await bench.run()
        assert bench.ending.halted == "local"
        assert "waits at the service" in str(bench.ending.reason)
        assert (bench.state(State.SUBMITTED), bench.status.spend.settled) == (10, 0)
        bench.shelf.unstored = False
        await bench.run()

    drive(twice)
    bench.is_square()


def test_no_room_halts_before_anything_is_submitted(tmp_path):
    bench = Bench(tmp_path, BatchService(), 10)
    bench.shelf.room = False
    drive(bench.run)
    assert (bench.ending.halted, bench.service.asked) == ("local", [])


VERBS = ["submit", "posting", "created", "looked", "settle", "over", "absent", "unposted"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("nth", [1, 3])
def test_a_ledger_that_fails_stops_the_run_and_nothing_is_lost(tmp_path, verb, nth):
    service = BatchService(on_create=lambda n, _now: DOWN if n == 1 else "never" if n == 2 else None)
    bench = Bench(tmp_path, service, 6, load=Load(lines=3))

    def fails(called, n):
        return LocalFailureError("the disk is full") if called == verb and n == nth else None

    async def twice():
        await bench.run(fails=fails)
        called = bench.calls[verb] >= nth
        assert (bench.ending.halted == "local") is called
        await bench.run()

    drive(twice)
    assert bench.ending.halted is None
    bench.is_square()
