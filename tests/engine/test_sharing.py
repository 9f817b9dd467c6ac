"""Several runs at one ledger: one limit for all of them, each with its share, whoever dies.

Two ledgers opened on one file, with a pool each, are two processes to everything but the loop that drives them.
"""

import asyncio
import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from runner.core.budget import Cap
from runner.core.catalog import builtin
from runner.core.lifecycle import State
from runner.core.limits import Limits
from runner.core.pricing import sheet
from runner.core.retry import RetryPolicy
from runner.core.task import Recipe, TaskSpec
from runner.engine.pool import Ending, Pool, Terms
from runner.ledger import JobSpec, Ledger, Wish
from tests.crash.rig import clean_environment
from tests.driven import DrivenClock, drive
from tests.fakes import DrivenLedger, MemoryStore, ScriptedProvider, pictured
from tests.sandbox.process import sandbox_process
from tests.windows import heaviest_window, lightest_window, worst_window

MODEL, OTHER = "gemini-3.1-flash-image-preview", "gemini-3.1-flash-image"

pytestmark = pytest.mark.usefixtures("rare_beats")


@pytest.fixture(autouse=True)
def opening_may_block(no_blocking_calls):
    """Nothing waits for the loop while a run starts or ends."""
    for function in no_blocking_calls.functions.values():
        function.can_block_in("tests/engine/test_sharing.py", {"run"})


@dataclass
class Run:
    """One process: a job of its own on the common ledger."""

    job: str
    tasks: int
    limits: Limits
    model: str = MODEL
    prompt_bytes: int = 10
    starts_in_s: float = 0.0
    ends_in_s: float | None = None
    """Dies then, without a word."""
    service: ScriptedProvider = field(default_factory=lambda: ScriptedProvider(latency_s=8.0))
    ending: Ending | None = None

    @property
    def sent(self) -> list[float]:
        return [at for at, _ in self.service.sent]

    def specs(self) -> list[TaskSpec]:
        recipe = Recipe(self.model, thinking="minimal")
        return [
            TaskSpec(
                f"{self.job}{n:05}", "p", f"{n:05}".ljust(self.prompt_bytes, "x"), recipe, "1K", "1:1", (), 1,
                f"{self.job}/{n}", n,
            )
            for n in range(self.tasks)
        ]  # fmt: skip

    async def run(self, url: str, busy: list[DrivenLedger]) -> None:
        clock, price = DrivenClock(), sheet(builtin().models[self.model], "standard")
        await anyio.sleep(self.starts_in_s)
        with Ledger.open(url, "live", now_utc=clock.utc()) as opened:
            loop: Any = asyncio.get_running_loop()
            ledger: Any = DrivenLedger(opened, loop)
            busy.append(ledger)
            loop.busy = lambda: any(one.working > 0 or one.ledger.busy for one in busy)
            spec = JobSpec(self.job, "0" * 64, f"/{self.job}", Cap(), {})
            await ledger.enqueue(spec, self.specs(), now=clock.utc())
            wish = Wish("test", self.model, self.limits)
            terms = Terms(self.job, builtin().models[self.model], wish, price, Cap(), RetryPolicy(), 1)
            pool = Pool(terms, ledger, self.service, MemoryStore(), clock, new_token=lambda: uuid.uuid4().hex)
            with anyio.move_on_after(self.ends_in_s) as life:
                if self.ends_in_s is not None:
                    silence(ledger, life, clock)
                self.ending = await pool.drain()
                await ledger.quiet(self.job)


def silence(ledger: Any, life: anyio.CancelScope, clock: DrivenClock) -> None:
    """From its death on it writes nothing: no settle, no lesson, no good-bye."""

    async def nothing(*_args: Any, **_more: Any) -> Any:
        return None

    real = ledger.ledger

    class Mortal:
        def __getattr__(self, verb: str) -> Any:
            dead = life.cancel_called or clock.now() >= life.deadline
            return nothing if dead and verb in {"settle", "learn", "forgive", "quiet"} else getattr(real, verb)

    ledger.ledger = Mortal()


def share(tmp_path: Path, *runs: Run) -> None:
    """Drive them all to their ends."""

    async def main():
        busy: list[DrivenLedger] = []
        async with anyio.create_task_group() as side_by_side:
            for one in runs:
                side_by_side.start_soon(one.run, f"sqlite:///{tmp_path / 'l.db'}", busy)

    Ledger.open(f"sqlite:///{tmp_path / 'l.db'}", "live", now_utc=0.0).close()
    drive(main)


SIXTY = Limits(rpm=60, concurrency=32)


def together(*runs: Run) -> list[float]:
    """All sends while everybody had work."""
    last = min(run.sent[-1] for run in runs)
    return sorted(at for run in runs for at in run.sent if at <= last)


def least_share(runs: tuple[Run, ...], length_s: float) -> float:
    """The least part that any of them had in any window that begins with a send."""
    times = together(*runs)
    shares = []
    for begins in times:
        if begins + length_s > times[-1]:
            break
        counts = [sum(begins <= at < begins + length_s for at in run.sent) for run in runs]
        shares.append(min(counts) / sum(counts))
    return min(shares)


@pytest.mark.parametrize(("count", "tasks", "share_s"), [(2, 100, 150.0), (3, 70, 120.0)])
def test_runs_together_fill_one_quota_and_share_it_evenly(tmp_path, count, tasks, share_s):
    runs = tuple(Run(name, tasks, SIXTY, starts_in_s=n * 0.4) for n, name in enumerate("abc"[:count]))
    share(tmp_path, *runs)
    assert all(run.ending == Ending() for run in runs)
    everything = sorted(at for run in runs for at in run.sent)
    assert worst_window(everything) <= 60
    assert lightest_window(together(*runs), 60, at=lambda at: at, weight=lambda _: 1, step_s=0.25) >= 58
    assert least_share(runs, share_s) >= 0.8 / count


def test_who_comes_later_gets_its_share_at_once(tmp_path):
    first, later = runs = Run("a", 150, SIXTY), Run("b", 60, SIXTY, starts_in_s=70.0)
    share(tmp_path, *runs)
    assert worst_window(sorted(first.sent + later.sent)) <= 60
    assert least_share((replace_sent(first, later.sent[0]), later), 60.0) >= 0.4


def replace_sent(run: Run, since: float) -> Run:
    """As if it had begun then."""
    service = ScriptedProvider()
    service.sent = [(at, task) for at, task in run.service.sent if at >= since]
    return replace(run, service=service)


def test_large_tasks_get_through_beside_small_ones(tmp_path):
    """By turns: a large one is waited for, however many small ones would fit before it."""
    limits = Limits(rpm=600, tpm=1_000, concurrency=64)
    large = Run("large", 8, limits, prompt_bytes=400)
    small = Run("small", 300, limits, prompt_bytes=10)
    for run in (large, small):  # what is used is what was reserved
        run.service = ScriptedProvider(as_reserved, latency_s=2.0)
    share(tmp_path, large, small)
    tokens = sorted([(at, 400) for at in large.sent] + [(at, 10) for at in small.sent])
    assert heaviest_window(tokens, 60, at=lambda one: one[0], weight=lambda one: one[1]) <= 1_000
    gaps = [later - earlier for earlier, later in zip(large.sent, large.sent[1:], strict=False)]
    assert max(gaps) <= 61
    assert large.sent[-1] - large.sent[0] <= 7 * 400 / 1_000 * 60 * 2


def as_reserved(task, _seen):
    return pictured(prompt=len(task.prompt), candidates=1_200, image=1_120)


@pytest.mark.parametrize("dies_in_s", [20.0, 75.3])
def test_one_that_dies_without_a_word_holds_the_other_up_for_less_than_a_second(tmp_path, dies_in_s):
    dying, living = Run("a", 60, SIXTY, ends_in_s=dies_in_s), Run("b", 240, SIXTY)
    share(tmp_path, dying, living)
    assert living.ending == Ending()
    everything = sorted(dying.sent + living.sent)
    assert worst_window(everything) <= 60
    died = 1_000 + dies_in_s
    alone = [at for at in living.sent if at > died]
    after = [at for at in everything if died - 60.6 <= at <= died]
    room_at = max(died, after[0] + 60.6 if len(after) >= 60 else died)
    assert alone[0] - room_at <= 1.0 + 1.0  # its pace is one a second
    later = [at for at in alone if at > died + 122]  # what both had sent has left the window
    assert lightest_window(later, 60, at=lambda at: at, weight=lambda _: 1, step_s=0.25) >= 58


def test_other_models_run_beside_each_other_but_for_the_dollars(tmp_path):
    one, other = Run("a", 90, Limits(rpm=30, concurrency=32)), Run("b", 90, Limits(rpm=30, concurrency=32), OTHER)
    share(tmp_path, one, other)
    for run in (one, other):
        assert worst_window(run.sent) <= 30
        assert run.sent[-1] - run.sent[0] <= 180 * 1.02
    assert worst_window(sorted(one.sent + other.sent)) > 50


def test_the_dollars_of_ten_minutes_are_everybodys(tmp_path):
    worst = 1_120 * 60_000 + 1_500 * 3_000 + 10 * 500
    limits = Limits(rpm=600, spend_nanos=20 * worst, concurrency=4)
    one, other = Run("a", 20, limits), Run("b", 20, limits, OTHER)
    share(tmp_path, one, other)
    sent = sorted([(at, sheet_cost(MODEL)) for at in one.sent] + [(at, sheet_cost(OTHER)) for at in other.sent])
    assert heaviest_window(sent, 600, at=lambda e: e[0], weight=lambda e: e[1]) <= 20 * worst
    assert sent[-1][0] - sent[0][0] <= 2 * 606 * 1.1
    for run in (one, other):
        assert 6 <= sum(at < run.sent[0] + 600 for at in run.sent) <= 14


def sheet_cost(model: str) -> int:
    prices = builtin().models[model].prices
    return 5 * (prices.input or 0) + 80 * (prices.text or 0) + 1_120 * (prices.image or 0)


# --- two processes -----------------------------------------------------------------------------------------------

RPM = 30
BEFORE = 24


def test_two_processes_share_what_the_service_allows(tmp_path):
    """Each of them alone has room for six more in this minute, and for two more while they are watched.

    Twenty seconds: these are real processes, in time that nobody drives.
    """
    state = tmp_path / "service"
    for name, count in (("first", BEFORE), ("one", 20), ("two", 20)):
        prompts = [{"id": f"{name}{n}", "text": f"{name} {n}"} for n in range(count)]
        manifest = {"job": name, "model": MODEL, "prompts": prompts, "matrix": {"size": ["512"]}}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(manifest))
    quotas = {"rpm": RPM}
    with sandbox_process(state, port=0, latency_s=0.05, faults="none", quotas=quotas) as base_url:
        with start(tmp_path, "first", base_url, rpm=6_000) as first:
            assert first.wait(30) == 0
        with start(tmp_path, "one", base_url, rpm=RPM) as one, start(tmp_path, "two", base_url, rpm=RPM) as two:
            deadline = time.monotonic() + 30
            while len(refusals(state)) < RPM and time.monotonic() < deadline:
                goes_on_for(0.2, one)
            goes_on_for(2, one)
            goes_on_for(2, two)
            for run in (one, two):
                run.send_signal(signal.SIGINT)
            assert [run.wait(20) for run in (one, two)] == [130, 130]
    assert set(refusals(state)) == {None}
    assert len(refusals(state)) >= RPM
    url = f"sqlite:///{tmp_path / 'bulkrender.db'}"
    assert all(Ledger.read(url).status(job, since_utc=0).tasks[State.SUCCEEDED] > 0 for job in ("one", "two"))


@contextmanager
def start(folder: Path, name: str, base_url: str, *, rpm: int) -> "Iterator[subprocess.Popen[bytes]]":
    command = [sys.executable, "-P", "-m", "runner", "run", f"{name}.yaml", "--yes", "--rpm", str(rpm)]
    environment = clean_environment(GOOGLE_GEMINI_BASE_URL=base_url)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=quiet, stdout=quiet, stderr=quiet
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def goes_on_for(seconds: float, process: "subprocess.Popen[bytes]") -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)


def refusals(state: Path) -> list[str | None]:
    """The quota that refused, of every request so far."""
    lines = (state / "requests.jsonl").read_text().splitlines()
    return [json.loads(line)["refused_by"] for line in lines]
