"""`status --watch` of many jobs: one line each, in eighty columns, those under way first."""

import io
import re
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from rich.console import Console

from runner.app.reports import StatusReport
from runner.app.running import Watched
from runner.cli.faces import ConsoleFace
from runner.cli.watch import watched
from runner.core.budget import Cap, Spend
from runner.core.lifecycle import State
from runner.ledger import JobStatus, Pulse

NOW = dict.fromkeys(State, 0)
PULSE = Pulse("requests", "60 a minute", 0.0, time.time() + 3_590, None, 60, "", 0.0)
JOB = JobStatus(
    job="a",
    tasks={**NOW, State.SUCCEEDED: 40, State.REFUSED: 2, State.RUNNING: 8, State.QUEUED: 50},
    spend=Spend(settled=2_687_000_000),
    cap=Cap(25 * 10**9, None),
    recent_successes=42,
    last_attempt_at=None,
    next_due=None,
    account=None,
    pulse=PULSE,
    drafts=None,
    finals=(),
    orphaned=0,
    unpriced=0,
    uncounted=0,
    halted=None,
    reason=None,
    output_root="",
    config={},
    created_at=0.0,
    updated_at=0.0,
)
DONE = replace(JOB, job="b", tasks={**NOW, State.SUCCEEDED: 100}, pulse=None)
HALTED = replace(JOB, job="c", halted="budget", reason="the cap", pulse=None)
WAITING = replace(JOB, job="d", tasks={**NOW, State.QUEUED: 100}, pulse=None, recent_successes=0)


def shown(*jobs, runners=("a", "d"), height=40):
    written = io.StringIO()
    out = Console(file=written, width=80, force_terminal=False)
    out.print(watched(StatusReport(jobs, dict.fromkeys(runners, "process 1"), single=False), height))
    return written.getvalue().splitlines()


def test_a_line_a_job_those_under_way_first_and_a_sum():
    lines = shown(DONE, HALTED, WAITING, JOB)
    assert [line.split()[0] for line in lines[1:5]] == ["a", "d", "c", "b"]
    assert "42/100" in lines[1]
    assert "$2.69/25" in lines[1]
    assert re.search(r" [01]:\d\d:\d\d  ", lines[1])  # its hour began when this file was read
    assert lines[1].rstrip().endswith("its rate")
    assert "in line" in lines[2]
    assert "no budget" in lines[3]
    assert "done" in lines[4]
    assert lines[5] == "4 jobs: 184 of 400 done, $10.75 spent"


def test_eighty_columns_hold_hostile_and_long_names():
    names = ["[bold]x[/bold]" * 9, "a very long name of a campaign in spring " * 3, "日本語" * 30, "a"]
    lines = shown(*(replace(JOB, job=name) for name in names), runners=names)
    assert all(len(line) <= 80 for line in lines)
    assert len(lines) == 6
    assert any("[bold]" in line for line in lines)


def test_more_jobs_than_lines_are_counted():
    many = [replace(DONE, job=f"j{n:03}") for n in range(50)]
    lines = shown(*many, JOB, height=20)
    assert len(lines) <= 19
    assert lines[1].split()[0] == "a"
    assert "51 jobs: 5042 of 5100 done" in lines[-1]
    assert "more jobs below" in lines[-1]


@pytest.mark.parametrize("jobs", [(), (JOB,)])
def test_none_or_one_is_told_in_full(jobs):
    text = "\n".join(shown(*jobs))
    assert ("held back by" in text) if jobs else ("no jobs" in text)


def test_without_a_terminal_each_line_of_progress_has_its_time(monkeypatch):
    looks = iter([JOB])
    pool: Any = SimpleNamespace(in_flight=8, pulse=PULSE)
    written = io.StringIO()
    monkeypatch.setattr("runner.cli.faces.PLAIN_EVERY_S", 0.0)
    face = ConsoleFace(Console(file=written, force_terminal=False))
    with pytest.raises(RuntimeError, match="StopIteration"):  # nothing more to look at
        anyio.run(face.follow, Watched(pool, lambda: next(looks), 0.0))
    (line,) = written.getvalue().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ a: 42 of 100, 8 in flight, 42 images/min, ETA [01]:", line)


def test_watching_ends_with_the_last_job(command, manifest):
    first, second = manifest(), manifest(name="k.yaml")
    second.write_text(second.read_text().replace("job: j", "job: k"))
    command("run", first, second, "--sandbox", "--sandbox-latency", 0.01)
    result = command("status", "--watch", "--sandbox")
    assert "j: 2 of 2 done" in result.out
    assert "k: 2 of 2 done" in result.out
