"""`export`: what is written where, in which format, and what is said of it."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest


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


@pytest.mark.parametrize("to", ["j.csv", "J.CSV", "j.parquet", "j.jsonl", "j.txt"])
def test_the_name_of_the_file_says_the_format(live, bought, to):
    result = live("export", "j", "--to", to)
    format_ = {"csv": "csv", "parquet": "parquet"}.get(to.lower().partition(".")[2], "jsonl")
    assert (result.code, result.out) == (0, f"job j: 2 rows as {format_} in {to}\n")
    assert keys(to) == [row["key"] for row in bought]


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
