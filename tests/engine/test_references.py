"""References before the claim, uploads that fail or vanish, several models in one job; in driven time."""

import asyncio
import uuid
from dataclasses import replace
from typing import Any

import anyio
import pytest

from runner.core.budget import Cap
from runner.core.catalog import builtin
from runner.core.errors import LocalFailureError
from runner.core.lifecycle import FileGone, Parked, State
from runner.core.limits import Limits
from runner.core.pricing import Seen, Tokens, sheet
from runner.core.reference import Part, Reference
from runner.core.retry import RetryPolicy
from runner.core.task import Recipe, TaskSpec
from runner.engine.pool import Pool, Terms
from runner.engine.ports import Unsendable
from runner.ledger import JobSpec, Ledger, Reader, Wish
from tests.driven import DrivenClock, drive
from tests.fakes import DrivenLedger, MemoryStore, ScriptedProvider, pictured
from tests.windows import worst_window

FLASH, PRO = builtin().models["gemini-3.1-flash-image"], builtin().models["gemini-3-pro-image"]


def reference(name):
    return Reference(f"{name}.png", "image/png", name * 64, 1_000)


def spec(number, references=(), model=FLASH):
    recipe = Recipe(model.id, thinking="minimal" if model is FLASH else None)
    return TaskSpec(
        f"k{number:04}",
        "p",
        f"prompt{number:02}",
        recipe,
        "1K",
        "1:1",
        (),
        1,
        f"j/{number}",
        number,
        references=tuple(references),
    )


class Shelf:
    """References that take a while to be made ready; `broken` says what happens to one instead."""

    def __init__(self, takes_s=3.0, broken=lambda _name: None):
        self.takes_s, self.broken = takes_s, broken
        self.at_hand, self.promised, self.prepared, self.doors = set(), set(), [], {}

    def ready(self, wanted):
        names = {one.name for one in wanted}
        if names <= self.at_hand:
            self.promised |= names
            return True
        return False

    def parts(self, wanted):
        assert {one.name for one in wanted} <= self.promised
        self.promised -= {one.name for one in wanted}
        return tuple(Part(one.mime, uri=self._uri(one.sha256)) for one in wanted)

    def release(self, wanted):
        self.promised -= {one.name for one in wanted}

    def forget(self, sha256, uri=None):
        if uri == self._uri(sha256):
            self.at_hand -= {f"{sha256[0]}.png"}

    async def prepare(self, wanted):
        for one in wanted:
            async with self.doors.setdefault(one.name, anyio.Lock()):
                if one.name in self.at_hand:
                    continue
                await anyio.sleep(self.takes_s)
                if error := self.broken(one.name):
                    raise error
                self.at_hand.add(one.name)
                self.prepared.append(one.name)

    def _uri(self, sha256):
        return f"files/{sha256[0]}-{self.prepared.count(f'{sha256[0]}.png')}"


class Bench:
    def __init__(self, tmp_path, specs, *, shelf=None, rpm=100_000, cap=Cap(), concurrency=4, **provider):
        self.url, self.specs, self.shelf = f"sqlite:///{tmp_path / 'l.db'}", specs, shelf
        models = {one.recipe.model: builtin().models[one.recipe.model] for one in specs}
        self.terms = [
            Terms(
                "j",
                entry,
                Wish("test", id_, Limits(rpm=rpm, concurrency=concurrency), only=len(models) > 1),
                sheet(entry, "standard"),
                cap,
                RetryPolicy(attempts=3),
                1,
            )
            for id_, entry in models.items()
        ]
        self.provider = ScriptedProvider(**provider)

    def run(self):
        result = drive(self._run)
        self.tasks = {one.key: one for one in Ledger.read(self.url, "live").tasks("j")}
        return result

    async def _run(self):
        clock = DrivenClock()
        with Ledger.open(self.url, "live", now_utc=clock.utc()) as opened:
            ledger: Any = DrivenLedger(opened, asyncio.get_running_loop())
            await ledger.enqueue(JobSpec("j", "0" * 64, "/out", Cap(), {}), self.specs, now=clock.utc())
            pool = Pool(
                self.terms,
                ledger,
                self.provider,
                MemoryStore(),
                clock,
                new_token=lambda: uuid.uuid4().hex,
                references=self.shelf,
            )
            start = clock.now()
            ending = await pool.drain()
            assert opened.reader.counters("j") == opened.reader.recount("j")
            return ending, opened.reader.status("j", since_utc=0), clock.now() - start


def test_nothing_is_claimed_before_its_references_are_ready_and_each_is_made_ready_once(tmp_path):
    specs = [spec(n, [reference("ab"[n % 2])]) for n in range(12)]
    bench = Bench(tmp_path, specs, shelf=Shelf())
    ending, status, _ = bench.run()
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 12
    assert sorted(bench.shelf.prepared) == ["a.png", "b.png"]
    assert not bench.shelf.promised
    for _, task in bench.provider.sent:
        assert [str(part.uri)[:7] for part in task.references] == [f"files/{'ab'[int(task.key[1:]) % 2]}"]


def test_the_next_references_are_made_ready_while_others_render(tmp_path):
    specs = [spec(n, [reference(chr(ord("a") + n))]) for n in range(8)]
    _, status, took_s = Bench(tmp_path, specs, shelf=Shelf(takes_s=10.0), latency_s=10.0, concurrency=1).run()
    assert status.tasks[State.SUCCEEDED] == 8
    assert took_s < 8 * 10 + 25  # one after the other would be 160 s


def test_a_ledger_that_cannot_be_read_ahead_is_no_bug_while_claims_succeed(tmp_path, monkeypatch):
    def fails(*_args):
        raise LocalFailureError("the ledger cannot be read")

    monkeypatch.setattr(Reader, "coming_references", fails)
    specs = [spec(n, [reference("ab"[n % 2])]) for n in range(6)]
    ending, status, _ = Bench(tmp_path, specs, shelf=Shelf()).run()
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 6


@pytest.mark.parametrize("reason", ["reference_changed", "reference_missing", "upload_failed"])
def test_a_reference_that_cannot_be_sent_ends_its_tasks_with_the_reason_and_no_others(tmp_path, reason):
    broken = lambda name: Unsendable(reason, "b.png is another one now") if name == "b.png" else None  # noqa: E731
    specs = [spec(n, [reference("ab"[n % 2])]) for n in range(6)]
    bench = Bench(tmp_path, specs, shelf=Shelf(broken=broken))
    ending, status, _ = bench.run()
    assert ending.halted is None
    assert (status.tasks[State.SUCCEEDED], status.tasks[State.FAILED]) == (3, 3)
    failed = bench.tasks["k0001"]
    assert (failed.reason, failed.error, failed.attempts) == (reason, "b.png is another one now", 0)
    assert status.spend.unknown == status.spend.reserved == 0


def test_uploads_that_fail_for_a_while_are_waited_out_and_blame_no_task(tmp_path):
    tries = []

    def broken(name):
        tries.append(name)
        return Unsendable("upload_failed", "503", passing=True) if len(tries) < 5 else None

    bench = Bench(tmp_path, [spec(0, [reference("a")])], shelf=Shelf(broken=broken))
    ending, status, _ = bench.run()
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 1


def test_trouble_long_after_the_last_upload_is_waited_out_as_well(tmp_path):
    def broken(name):
        still = name == "b.png" and anyio.current_time() < 1_000 + 40 * 60 + 300
        return Unsendable("upload_failed", "503", passing=True) if still else None

    specs = [spec(0, [reference("a")]), *(spec(n) for n in range(1, 40)), spec(40, [reference("b")])]
    bench = Bench(tmp_path, specs, shelf=Shelf(broken=broken), latency_s=60.0, concurrency=1)
    ending, status, took_s = bench.run()
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 41
    assert took_s > 40 * 60 + 300


def test_a_disk_that_fails_while_references_are_made_ready_stops_the_run(tmp_path):
    shelf = Shelf(broken=lambda _: LocalFailureError("the disk is gone"))
    ending, status, _ = Bench(tmp_path, [spec(0, [reference("a")])], shelf=shelf).run()
    assert (ending.halted, ending.reason) == ("local", "the disk is gone")
    assert status.tasks[State.QUEUED] == 1


def test_half_an_hour_without_one_upload_stops_the_run(tmp_path):
    shelf = Shelf(broken=lambda _: Unsendable("upload_failed", "503 all night", passing=True))
    ending, status, took_s = Bench(tmp_path, [spec(0, [reference("a")])], shelf=shelf).run()
    assert ending.halted == "provider"
    assert "503 all night" in ending.reason
    assert status.tasks[State.QUEUED] == 1
    assert 1_800 <= took_s < 2_100


def test_a_file_that_the_service_lost_is_uploaded_again_and_costs_nothing(tmp_path):
    def script(task, _seen):
        return FileGone(403, "it may not exist") if task.references[0].uri.endswith("-1") else pictured()

    bench = Bench(tmp_path, [spec(n, [reference("a")]) for n in range(3)], shelf=Shelf(), script=script)
    ending, status, _ = bench.run()
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 3
    assert bench.shelf.prepared == ["a.png"] * 2
    assert status.spend.unknown == 0


def test_a_file_that_is_lost_every_time_ends_its_task(tmp_path):
    bench = Bench(
        tmp_path, [spec(0, [reference("a")])], shelf=Shelf(), script=lambda *_: FileGone(403, "it may not exist")
    )
    _, status, _ = bench.run()
    assert status.tasks[State.FAILED] == 1
    assert bench.tasks["k0000"].reason == "file_gone"
    assert len(bench.provider.sent) == 3


def test_a_reservation_holds_the_tokens_of_the_references(tmp_path):
    price = sheet(FLASH, "standard")
    quote = price.quote(size="1K", thinking="minimal", input_bytes=8, seen=Seen(), references=2)
    worst = price.cost(Tokens(8 + 2 * 1_120, 1_500, 1_120)) or 0
    assert (quote.input_tokens, quote.nanos) == (8 + 2 * 1_120, worst)
    tight = Bench(tmp_path, [spec(0, [reference("a"), reference("b")])], shelf=Shelf(), cap=Cap(worst - 1))
    ending, _, _ = tight.run()
    assert ending.halted == "budget"
    assert not tight.provider.sent
    tight.terms = [replace(tight.terms[0], cap=Cap(worst))]
    assert tight.run()[1].tasks[State.SUCCEEDED] == 1


def test_each_model_has_its_own_rate_and_they_run_side_by_side(tmp_path):
    specs = [spec(n, model=(FLASH, PRO)[n % 2]) for n in range(80)]
    bench = Bench(tmp_path, specs, rpm=20, concurrency=30, latency_s=5.0)
    ending, status, took_s = bench.run()
    assert ending.halted is None
    assert status.tasks[State.SUCCEEDED] == 80
    for model in (FLASH, PRO):
        times = [at for at, task in bench.provider.sent if task.recipe.model == model.id]
        assert len(times) == 40
        assert worst_window(times) <= 20
    assert took_s < 40 / 19 * 60 + 10


def test_the_concurrency_is_that_of_the_job_not_of_each_model(tmp_path):
    specs = [spec(n, model=(FLASH, PRO)[n % 2]) for n in range(30)]
    bench = Bench(tmp_path, specs, concurrency=5)
    bench.run()
    assert bench.provider.most_in_flight == 5


def test_a_model_whose_day_is_over_leaves_the_other_to_finish(tmp_path):
    def script(task, _seen):
        return Parked(429, "day", "no more today") if task.recipe.model == PRO.id else pictured()

    specs = [spec(n, model=(FLASH, PRO)[n % 2]) for n in range(20)]
    bench = Bench(tmp_path, specs, script=script)
    ending, status, _ = bench.run()
    assert ending.halted == "provider"
    assert "no more today" in ending.reason
    assert status.tasks[State.SUCCEEDED] == 10
    assert status.tasks[State.QUEUED] == 10


def test_models_are_priced_as_themselves(tmp_path):
    bench = Bench(tmp_path, [spec(0, model=FLASH), spec(1, model=PRO)])
    _, status, _ = bench.run()
    used = Tokens(5, 80, 1_120)
    expected = sum(sheet(model, "standard").cost(used) or 0 for model in (FLASH, PRO))
    assert status.spend.settled == expected
