"""Sandbox and real money never mix: what was rendered in the sandbox is sent again when it is run for real."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.bill import read_requests
from tests.crash.rig import clean_environment, write_manifest
from tests.sandbox.process import sandbox_process

PROMPTS = [f"Banana {number} in the rain" for number in range(5)]


@pytest.fixture
def here(tmp_path):
    write_manifest(tmp_path / "job.yaml", PROMPTS)
    return tmp_path


def run(here: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "runner", "run", "job.yaml", "--json", *options]
    return subprocess.run(
        command, cwd=here, env=clean_environment(), capture_output=True, text=True, timeout=100, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def files(here: Path) -> dict[str, bytes]:
    """Everything that a run could touch: the sandbox's own books are its own."""
    return {
        str(path): path.read_bytes() for path in here.rglob("*") if path.is_file() and "server" not in path.parts
    }


def test_a_job_rendered_in_the_sandbox_is_sent_in_full_when_it_is_run_for_real(here):
    rehearsed = run(here, "--sandbox", "--sandbox-latency", "0")
    assert rehearsed.returncode == 0, rehearsed.stderr
    with sandbox_process(here / "server", port=0, latency_s=0.0) as base_url:
        real = run(here, "--base-url", base_url)
    assert real.returncode == 0, real.stderr
    assert json.loads(real.stdout)["tasks"]["succeeded"] == len(PROMPTS)
    assert sorted(read_requests(here / "server")) == [(prompt, "512", "1:1") for prompt in sorted(PROMPTS)]
    for name in ("renders", "renders-sandbox"):
        assert len([path for path in (here / name).rglob("*") if path.suffix in {".jpg", ".png"}]) == len(PROMPTS)


def test_a_ledger_of_the_other_kind_is_refused_in_one_line_before_anything_is_sent_or_written(here):
    with sandbox_process(here / "server", port=0, latency_s=0.0) as base_url:
        assert run(here, "--sandbox", "--sandbox-latency", "0").returncode == 0
        before = files(here)
        refused = run(here, "--base-url", base_url, "--database", "sqlite:///bulkrender-sandbox.db")
        assert one_line(refused) == refused.stderr
        assert files(here) == before
        assert read_requests(here / "server") == []

        assert run(here, "--base-url", base_url).returncode == 0
        before = files(here)
        refused = run(here, "--sandbox", "--database", "sqlite:///bulkrender.db")
        assert one_line(refused) == refused.stderr
        assert files(here) == before


def one_line(refused: "subprocess.CompletedProcess[str]") -> str:
    """What a refusal says: exit code 2, one line for people, the same for programs."""
    assert refused.returncode == 2, refused.stderr
    said = json.loads(refused.stdout)
    assert said["exit_code"] == 2
    assert "sandbox" in said["error"]
    assert "live" in said["error"] or "real" in said["error"]
    return f"error: {said['error']}\n"
