"""The sandbox as a command: every limit can be typed, and what cannot be meant is refused."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from runner.app import child
from runner.app.serving import quota_limit, read_outages, read_quotas
from runner.app.settings import Options, resolve
from runner.cli.commands import cli
from runner.core.errors import UsageError
from tests.sandbox.process import ROOT, sandbox_process
from tests.sandbox.wire import MODEL, asking

POST = f"/v1beta/models/{MODEL}:generateContent?key=sandbox"


@contextmanager
def command(state: Path, *words: str):
    """The base URL of a sandbox started by its command line."""
    argv = [
        sys.executable,
        "-m",
        "runner",
        "sandbox",
        "--port",
        "0",
        "--state",
        str(state),
        "--latency",
        "0",
        *words,
    ]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("words", "refused_by"),
    [
        (["--ipm", "1", "--rpm", "1000", "--tpm", "100000", "--rpd", "1000"], "ipm"),
        (["--rpd", "1"], "rpd"),
        (["--tpm", "5"], "tpm"),
        (["--spend-per-10min", "$0.07", "--spend-per-month", "250"], "spend"),
        (["--spend-per-month", "250", "--spent-this-month", "249.93"], "month"),
    ],
)
def test_every_quota_can_be_typed(words, refused_by, tmp_path):
    """One picture costs seven cents and has an input of three tokens: the second is one too many."""
    with command(tmp_path, *words) as url:
        answers = [httpx.post(url + POST, json=asking("a lighthouse")) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert "QuotaFailure" in answers[1].text
    rows = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert rows[1]["refused_by"] == refused_by


def test_how_quotas_refuse_and_outages_can_be_typed(tmp_path):
    with command(tmp_path / "a", "--rpm", "1", "--no-quota-values", "--count-rejected") as url:
        texts = [httpx.post(url + POST, json=asking()).text for _ in range(2)]
    assert "PerMinute" in texts[1]
    assert "quotaValue" not in texts[1]
    with command(tmp_path / "b", "--rpm", "1", "--nameless-quotas") as url:
        texts = [httpx.post(url + POST, json=asking()).text for _ in range(2)]
    assert "(e.g. check quota)" in texts[1]
    with command(tmp_path / "c", "--outage", "0+9e9:504", "--outage", "1+1", "--speed", "2") as url:
        assert httpx.post(url + POST, json=asking()).status_code == 504


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rpm", "0"], "--rpm 0: expected a whole number from 1"),
        (["--ipm", "many"], "--ipm many: expected a whole number"),
        (["--spend-per-10min", "ten"], "--spend-per-10min ten: expected dollars such as 10"),
        (["--spend-per-month", "0"], "--spend-per-month 0: expected dollars"),
        (["--spent-this-month", "-1"], "--spent-this-month -1: expected dollars"),
        (["--outage", "soon"], "--outage: 'soon': expected START+LENGTH"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, said, tmp_path):
    result = CliRunner().invoke(cli, ["sandbox", "--port", "0", "--state", str(tmp_path), *words])
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sandbox-quota", "rps=1"], "--sandbox-quota rps=1: expected name=value, where name is rpm, tpm, ipm"),
        (["--sandbox-quota", "rpm"], "--sandbox-quota rpm: expected name=value"),
        (["--sandbox-quota", "rpm=1.5"], "--sandbox-quota 1.5: expected a whole number"),
        (["--sandbox-outage", "1+1:418"], "--sandbox-outage: unknown kind of outage '418'"),
    ],
)
def test_run_refuses_them_before_anything_is_recorded(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["run", "none.yaml", "--sandbox", *words])
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_run_hands_them_to_its_sandbox(tmp_path):
    options = Options(
        sandbox=True,
        sandbox_quotas=("rpm=60", "spend=0.5"),
        sandbox_speed=30.0,
        sandbox_outages=("60+30", "90+1:timeout"),
    )
    words = child._command(resolve(options, {}), tmp_path, "socket")
    assert words[-10:] == [
        *("--speed", "30.0", "--rpm", "60", "--spend-per-10min", "0.5"),
        *("--outage", "60+30", "--outage", "90+1:timeout"),
    ]


def test_limits_as_they_are_typed():
    assert read_quotas("--q", ["rpm=60", "month=$250", "rpm=30"]) == {"rpm": "30", "month": "$250"}
    assert [quota_limit("--q", *pair) for pair in (("tpm", "7"), ("spend", "0.25"), ("month", "1e3"))] == [
        7,
        250_000_000,
        10**12,
    ]
    assert [outage.kind for outage in read_outages("--o", ["1+1", "2+2:500"])] == ["503", "500"]


def test_options_travel_to_a_process_of_its_own(tmp_path):
    """Sets, outages and quotas included."""
    given = {"retired": frozenset({MODEL}), "outages": ["3600+1:500"], "quotas": {"rpm": 9, "month": 10**9}}
    with sandbox_process(tmp_path, latency_s=0, **given) as url:
        assert httpx.post(url + POST, json=asking()).status_code == 404
    with sandbox_process(tmp_path, latency_s=0, outages=["0+1e9:500"]) as url:
        assert httpx.post(url + POST, json=asking()).status_code == 500
