"""`export`: what is written where, in which format, and what is said of it."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bought(live, manifest):
    live("run", manifest())
    return [json.loads(line) for line in live("export", "j").out.splitlines()]


def keys(path):
    if path.endswith(".parquet"):
        return pq.read_table(path)["key"].to_pylist()
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(lines) if path.lower().endswith(".csv") else map(json.loads, lines)
    return [row["key"] for row in rows]


@pytest.mark.parametrize("to", ["j.csv", "J.CSV", "j.parquet", "j.jsonl", "j"])
def test_the_name_of_the_file_says_the_format(live, bought, to):
    result = live("export", "j", "--to", to)
    format_ = {"csv": "csv", "parquet": "parquet"}.get(to.lower().partition(".")[2], "jsonl")
    assert (result.code, result.out) == (0, f"job j: 2 rows as {format_} in {to}\n")
    assert keys(to) == [row["key"] for row in bought]


@pytest.mark.parametrize("to", ["j.xlsx", "j.csv.gz", "j.json"])
def test_an_ending_of_no_format_is_refused_unless_a_format_is_given(live, bought, to):
    result = live("export", "j", "--to", to)
    assert (result.code, Path(to).exists()) == (2, False)
    assert result.err == (
        f"error: --to {to}: {Path(to).suffix} is none of the formats that there are: end its name in .jsonl, "
        ".csv or .parquet, or say which it is to be with --format\n"
    )
    assert live("export", "j", "--to", to, "--format", "csv").code == 0


def unread(stream, *words):
    """Run a command with a stream whose reader has gone: its exit code and what it wrote to the other."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "wb") as closed:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: closed}
        done = subprocess.run(
            [sys.executable, "-m", "runner", *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
            **streams,
        )
    return done.returncode, done.stderr if stream == "stdout" else done.stdout


@pytest.mark.parametrize("verb", ["export", "report"])
def test_a_reader_that_has_seen_enough_ends_it_quietly_as_the_signal_would(bought, verb):
    assert unread("stdout", verb, "j") == (128 + signal.SIGPIPE, b"")


def test_a_run_goes_on_where_nobody_reads_its_progress(live, manifest):
    code, out = unread("stderr", "run", manifest(), "--json")
    assert (code, json.loads(out)["tasks"]["succeeded"]) == (0, 2)


def test_a_format_that_is_given_goes_before_the_name(live, bought):
    assert live("export", "j", "--format", "jsonl", "--to", "j.csv").code == 0
    assert [json.loads(line) for line in Path("j.csv").read_text().splitlines()] == bought


def test_json_says_what_was_written(live, bought):
    answer = json.loads(live("export", "j", "--to", "j.csv", "--json").out)
    assert answer == {"job": "j", "rows": 2, "format": "csv", "to": "j.csv", "exit_code": 0}
    result = live("export", "j", "--json")
    assert (result.code, json.loads(result.out)["exit_code"]) == (2, 2)
    assert "--to" in result.err


def test_a_forgotten_sandbox_is_named(command, manifest):
    assert command("run", manifest(), "--sandbox", "--sandbox-latency", 0).code == 0
    for words in (["export", "j"], ["status"], ["ledger", "backup"]):
        result = command(*words)
        assert result.code == 2
        assert "no ledger yet; there is bulkrender-sandbox.db: add --sandbox to read that" in result.err
