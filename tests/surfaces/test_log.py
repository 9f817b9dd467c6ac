"""The log beside the ledger: what a person reads in the morning, and what a program does."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.app.journal import Journal, Standing
from runner.app.logfile import log_beside
from runner.ledger import Pulse

FAST = ("--sandbox", "--sandbox-latency", 0.01)
CALM = "none,details_missing=0,overrun=0"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (\w+) +(.*)")


NOBODY: Any = None
"""The face of a journal that only watches."""


def told(kind=None):
    lines = [LINE.fullmatch(line) for line in Path("bulkrender-sandbox.db.log").read_text().splitlines()]
    assert all(lines)
    return [line[2] for line in lines if line and kind in {None, line[1]}]


def objects():
    return [json.loads(line) for line in Path("bulkrender-sandbox.db.log.jsonl").read_text().splitlines()]


def test_the_story_of_a_run_without_its_requests(command, manifest):
    command("run", manifest(), *FAST, "--sandbox-faults", CALM)
    (began,) = told("run")
    assert "j.yaml; ledger" in began
    assert told("plan")[0].startswith("job j: 2 tasks to buy: likely $")
    assert len(told("request")) == 4
    ends = told("end")
    assert ends[0].startswith("2 succeeded, 2 attempts, $")
    assert re.fullmatch(r"job j: done, 2 of 2 pictures, \$0.\d+ spent, after 0:00:\d\d", ends[-1])


def test_what_stopped_it(command, manifest):
    command("run", manifest("budget: {usd: 0.06}"), *FAST, "--sandbox-faults", CALM)
    assert "would pass the cap of $0.06" in told("stop")[0]
    assert "job j: halted (budget), 1 of 2 pictures" in told("end")[-1]


def test_a_daily_limit(command, manifest):
    path = manifest("variants: 3\nlimits: {rpm: 10000, concurrency: 1}")
    command("run", path, *FAST, "--sandbox-faults", CALM, "--sandbox-quota", "rpd=2")
    assert any("run again after" in line for line in told("stop"))


def test_an_outage_its_end_and_how_long_it_lasted(tmp_path, monkeypatch):
    """The run's own clock is not waited for: what is seen of a lane is played."""
    now = [1_000.0]
    monkeypatch.setattr("runner.app.journal.time", SimpleNamespace(time=lambda: now[0], monotonic=lambda: now[0]))
    gate = SimpleNamespace(outage=True, said="Internal error encountered.")
    lane: Any = SimpleNamespace(gate=gate, pulse=None)
    monkeypatch.chdir(tmp_path)
    journal, standing = Journal(NOBODY), Standing()
    with log_beside(Path("bulkrender-sandbox.db"), "text", lambda: "j"):
        for outage, pulse in ((True, None), (True, beat("outage", now[0])), (False, beat(None, now[0]))):
            gate.outage, lane.pulse = outage, pulse
            for _ in range(10):
                journal._look(lane, standing, "")
                now[0] += 1
    assert told("outage") == [
        "outage (Internal error encountered.): single requests ask whether the service is back",
        "over after 0:00:20",
    ]
    assert told("wait") == [
        "for an outage (in words); done in 0:59:45 as it is",
        "no longer for an outage, after 0:00:10",
    ]


def beat(cause, now):
    return Pulse(cause, "in words", now, 1_000.0 + 3_600, None, 60, "", now)


def test_a_pace_that_comes_and_goes_is_not_said_each_time(tmp_path, monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr("runner.app.journal.time", SimpleNamespace(time=lambda: now[0], monotonic=lambda: now[0]))
    lane: Any = SimpleNamespace(gate=SimpleNamespace(outage=False), pulse=None)
    monkeypatch.chdir(tmp_path)
    journal, standing = Journal(NOBODY), Standing()
    with log_beside(Path("bulkrender-sandbox.db"), "text", lambda: "j"):
        for n in range(40):
            lane.pulse = beat("concurrency" if n % 2 else "requests", now[0])
            for _ in range(10):
                journal._look(lane, standing, "")
                now[0] += 1
    assert [line for line in told("wait") if line.startswith("for requests")] == [
        "for requests a minute (in words); done in 0:59:55 as it is"
    ]
    assert len(told("wait")) == 4


def test_what_a_wait_was_for_and_how_long(command, manifest, monkeypatch):
    monkeypatch.setattr("runner.app.journal.STANDS_S", 0.5)
    monkeypatch.setattr("runner.app.journal.LOOK_S", 0.1)
    path = manifest("variants: 2\nlimits: {rpm: 60}")
    command("run", path, *FAST, "--sandbox-faults", CALM, "--sandbox-quota", "rpm=1000")
    assert any(line.startswith("for requests a minute (60 a minute)") for line in told("wait"))


def test_progress_is_said_now_and_then_with_what_has_ended(command, manifest, monkeypatch):
    monkeypatch.setattr("runner.app.journal.PROGRESS_S", 1.0)
    monkeypatch.setattr("runner.app.journal.LOOK_S", 0.1)
    command("run", manifest("variants: 2\nlimits: {rpm: 60}"), *FAST, "--sandbox-faults", CALM)
    assert any(re.search(r"of 4 pictures, .*; in the last 0:00:01: \d made", line) for line in told("progress"))


def test_the_pace_that_was_found(command, manifest):
    command("run", manifest(), *FAST, "--sandbox-faults", CALM)
    assert "requests a minute (looking for more)" in told("pace")[0]


def test_one_object_a_line(command, manifest):
    result = command("run", manifest(), *FAST, "--sandbox-faults", CALM, "--log-format", "json", "--json")
    lines = objects()
    assert all({"at", "level", "kind", "job", "message"} <= line.keys() for line in lines)
    assert {"run", "plan", "request", "pace", "end"} <= {line["kind"] for line in lines}
    assert {line["job"] for line in lines if line["kind"] in {"request", "end"}} == {"j"}
    last = lines[-1]
    assert (last["halted"], last["exit_code"]) == (None, json.loads(result.out)["exit_code"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", last["at"])
    assert not Path("bulkrender-sandbox.db.log").exists()


def test_each_job_of_a_run_has_its_name(command, manifest):
    first = manifest()
    second = manifest(name="k.yaml")
    second.write_text(second.read_text().replace("job: j", "job: k"))
    command("run", first, second, *FAST, "--sandbox-faults", CALM, "--log-format", "json")
    assert {line["job"] for line in objects() if line["kind"] == "request"} == {"j", "k"}


@pytest.mark.parametrize("written", ["text", "json"])
def test_a_bug_leaves_its_traceback(command, manifest, monkeypatch, written):
    async def broken(*_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("runner.app.start.run_jobs", broken)
    assert command("run", manifest(), *FAST, "--log-format", written).code == 5
    text = next(Path().glob("bulkrender-sandbox.db.log*")).read_text()
    assert "Traceback" in text
    assert "ZeroDivisionError: oops" in text
