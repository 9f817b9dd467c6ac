import asyncio
import gc
import threading
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from runner.core.budget import Cap
from runner.core.errors import LocalFailureError
from runner.core.pricing import settlement
from runner.core.retry import RetryPolicy, Tries, decide
from runner.ledger import Claimed, Empty, Held, Ledger, OverBudget
from tests.ledger.desk import SHEET, WISH, Desk, job, made, specs


@pytest.fixture
def ledger(desk):
    with Ledger.open(desk.url, "live", now_utc=0.0) as opened:
        yield opened


def claim(ledger, number, cap=None):
    return ledger.claim("job", now=1.0, sheet=SHEET, cap=cap or Cap(), token=f"{number:032x}", wish=WISH)


async def settle(ledger, claimed):
    outcome = made(claimed)
    paid = settlement(outcome, claimed.quote, SHEET, claimed.size)
    move = decide(outcome, Tries(), RetryPolicy(), jitter=0.0)
    return await ledger.settle(claimed, outcome, paid, move, now=2.0, latency_s=1.0)


@contextmanager
def held_up(ledger):
    """The writer is inside an operation until the context ends, so that what is queued becomes one group."""
    entered, go = threading.Event(), threading.Event()

    def wait(_):
        entered.set()
        assert go.wait(10)

    waiting = ledger._writer.submit(wait)
    assert entered.wait(10)
    try:
        yield
    finally:
        go.set()
        waiting.result(10)


def raw(ledger):
    return ledger._writer._connection.connection.driver_connection


def test_a_claim_that_waited_too_long_to_write_is_asked_for_again(ledger, monkeypatch):
    """It would be judged, and presumed to leave, by an instant that is long past."""

    async def run():
        await ledger.enqueue(job(), specs(1), now=0.0)
        monkeypatch.setattr("runner.ledger.ledger.WRITES_WITHIN_S", -1.0)
        late = await claim(ledger, 1)
        monkeypatch.undo()
        return late, await claim(ledger, 2)

    late, again = asyncio.run(run())
    assert late == Held("requests", 1.0)
    assert isinstance(again, Claimed)


def test_a_crowd_of_coroutines_claims_each_task_once(ledger):
    async def run():
        await ledger.enqueue(job(), specs(60), now=0.0)
        return await asyncio.gather(*(claim(ledger, n) for n in range(80)))

    claims = asyncio.run(run())

    keys = [one.key for one in claims if isinstance(one, Claimed)]
    assert len(keys) == len(set(keys)) == 60
    assert ledger.reader.counters("job") == ledger.reader.recount("job")


def test_a_crowd_never_passes_the_cap(ledger):
    async def run():
        await ledger.enqueue(job(), specs(40), now=0.0)
        cap = Cap(image_tokens=10 * 1_120 + 7)
        return await asyncio.gather(*(claim(ledger, n, cap) for n in range(40)))

    claims = asyncio.run(run())

    assert sum(isinstance(one, Claimed) for one in claims) == 10
    assert sum(isinstance(one, OverBudget) for one in claims) == 30
    assert ledger.reader.counters("job").spend.held_image_tokens == 10 * 1_120


def test_what_waits_together_is_committed_together_and_answered_after(ledger):
    async def run():
        await ledger.enqueue(job(), specs(30), now=0.0)
        claims = await asyncio.gather(*(claim(ledger, n) for n in range(30)))
        said: list[str] = []
        raw(ledger).set_trace_callback(said.append)
        with held_up(ledger):
            settles = [asyncio.create_task(settle(ledger, one)) for one in claims]
            await asyncio.sleep(0)
            assert ledger.busy
        answers = await asyncio.gather(*settles)
        assert all(answer.recorded for answer in answers)
        raw(ledger).set_trace_callback(None)
        return said.count("COMMIT"), await claim(ledger, 99)

    commits, after = asyncio.run(run())

    assert commits == 2  # the operation that held them up, and the group of thirty
    assert after == Empty()
    ledger.close()
    assert not ledger.busy


def test_one_operations_error_undoes_only_its_own_changes(ledger):
    async def run():
        await ledger.enqueue(job(), specs(3), now=0.0)
        await claim(ledger, 7)
        with held_up(ledger):
            # the second repeats a token; the third is about no job at all
            together = [
                claim(ledger, 8),
                claim(ledger, 7),
                ledger.halt("nobody", None, None, now=0.0),
                claim(ledger, 9),
            ]
            waiting = [asyncio.ensure_future(one) for one in together]
            await asyncio.sleep(0)
        return await asyncio.gather(*waiting, return_exceptions=True)

    first, repeated, unknown, last = asyncio.run(run())

    assert isinstance(first, Claimed)
    assert "UNIQUE" in str(repeated)
    assert isinstance(unknown, LookupError)
    assert isinstance(last, Claimed)
    assert ledger.reader.counters("job").tasks["running"] == 3
    assert ledger.reader.counters("job") == ledger.reader.recount("job")


def test_a_commit_that_fails_fails_all_of_its_group_and_none_after_it(ledger):
    def poison(connection):
        """A reference to nothing, which is judged at the commit."""
        connection.execute(text("PRAGMA defer_foreign_keys = ON"))
        connection.execute(text("UPDATE task SET prompt_row = 999"))

    async def run():
        await ledger.enqueue(job(), specs(3), now=0.0)
        with held_up(ledger):
            together = [claim(ledger, 1), ledger._writer.run(poison), claim(ledger, 2)]
            waiting = [asyncio.ensure_future(one) for one in together]
            await asyncio.sleep(0)
        failed = await asyncio.gather(*waiting, return_exceptions=True)
        return failed, ledger.reader.counters("job"), await claim(ledger, 3)

    failed, between, after = asyncio.run(run())

    assert all(isinstance(one, Exception) and "FOREIGN KEY" in str(one) for one in failed)
    assert between.tasks["running"] == 0
    assert isinstance(after, Claimed)
    assert ledger.reader.counters("job") == ledger.reader.recount("job")


def test_an_operation_ends_even_if_nobody_waits_for_it_any_more(ledger):
    async def run():
        await ledger.enqueue(job(), specs(1), now=0.0)
        with held_up(ledger):
            waiting = asyncio.create_task(claim(ledger, 1))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        ledger._writer.submit(lambda _: None).result(10)

    asyncio.run(run())

    assert [left.token for left in ledger.reader.running("job")] == [f"{1:032x}"]


def test_an_operation_outlives_the_loop_that_asked_for_it(ledger, recwarn):
    async def run():
        await ledger.enqueue(job(), specs(1), now=0.0)
        entered = threading.Event()
        ledger._writer.submit(lambda _: entered.wait(10))
        task = asyncio.create_task(claim(ledger, 1))
        await asyncio.sleep(0)
        task.cancel()
        return entered

    asyncio.run(run()).set()
    ledger._writer.submit(lambda _: None).result(10)
    gc.collect()

    assert len(ledger.reader.running("job")) == 1
    assert not recwarn.list


def test_a_full_disk_fails_the_group_changes_nothing_and_is_over_when_there_is_room(ledger):
    def pages(connection, limit=None):
        command = "page_count" if limit is None else f"max_page_count = {limit}"
        return connection.execute(text(f"PRAGMA {command}")).scalar_one()

    async def run():
        await ledger.enqueue(job(), specs(200), now=0.0)
        full = await ledger._writer.run(pages)
        await ledger._writer.run(lambda connection: pages(connection, full))
        failed = await asyncio.gather(*(claim(ledger, n) for n in range(200)), return_exceptions=True)
        halfway = ledger.reader.counters("job")
        assert halfway == ledger.reader.recount("job")
        assert halfway.tasks["running"] == sum(isinstance(one, Claimed) for one in failed)
        await ledger._writer.run(lambda connection: pages(connection, full * 10))
        return failed, await claim(ledger, 999)

    failed, after = asyncio.run(run())

    errors = [one for one in failed if not isinstance(one, Claimed)]
    assert errors
    assert all(isinstance(error, LocalFailureError) and "full" in str(error) for error in errors)
    assert isinstance(after, Claimed)


def test_a_ledger_that_another_program_keeps_locked_is_a_local_failure(tmp_path):
    desk = Desk.at(tmp_path)
    desk.enqueue(specs(1))
    with Ledger.open(desk.url, "live", now_utc=0.0, write_patience_s=0.0) as ledger:
        raw(ledger).execute("PRAGMA busy_timeout = 1")
        with desk.write(), pytest.raises(LocalFailureError, match="locked"):
            asyncio.run(claim(ledger, 1))
        assert isinstance(asyncio.run(claim(ledger, 1)), Claimed)


def test_a_writer_waits_for_another_process_that_records_a_long_manifest(tmp_path):
    desk = Desk.at(tmp_path)
    desk.enqueue(specs(1))
    with Ledger.open(desk.url, "live", now_utc=0.0) as ledger:
        raw(ledger).execute("PRAGMA busy_timeout = 1")
        tries = threading.Semaphore(0)
        raw(ledger).set_trace_callback(lambda _: tries.release())
        with desk.write():
            waiting = ledger._writer.submit(str)
            for _ in range(3):  # refused, and it still tries
                assert tries.acquire(timeout=10)
            assert not waiting.done()
        assert "Connection" in waiting.result(10)


def test_close_finishes_what_is_queued_and_refuses_more(desk):
    ledger = Ledger.open(desk.url, "live", now_utc=0.0)
    results = [ledger._writer.submit(str) for _ in range(5)]
    ledger.close()
    assert all(one.result(0) for one in results)
    with pytest.raises(RuntimeError, match="closed"):
        ledger._writer.submit(lambda _: None)
