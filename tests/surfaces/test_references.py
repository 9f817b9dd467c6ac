"""References through the command line: uploaded once, over restarts; expired, vanished, changed."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.ledger import Ledger
from tests.sandbox.process import sandbox_process
from tests.surfaces.conftest import CALM

MODEL = "gemini-3.1-flash-image"


@pytest.fixture
def box(tmp_path, monkeypatch, home):
    """A sandbox of its own, as the service."""
    state = tmp_path / "box"
    with sandbox_process(state, latency_s=0.01, faults=CALM, port=0) as base_url:
        monkeypatch.setenv("GEMINI_API_KEY", "sandbox")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", base_url)
        yield Box(state)


class Box:
    def __init__(self, state: Path) -> None:
        self.state = state

    def rows(self, name: str) -> list[dict[str, Any]]:
        path = self.state / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def uploads(self) -> int:
        return sum(row["op"] == "finalize" and row["status"] == "200" for row in self.rows("files.jsonl"))

    def sent(self) -> list[list[tuple[str, str]]]:
        """For each request that was answered: (kind, sha256) of its references."""
        rows = [row for row in self.rows("requests.jsonl") if row["references"] is not None]
        return [[(one["kind"], one["sha256"]) for one in row["references"]] for row in rows]


def picture(path: Path, side=8, seed=0) -> str:
    """A PNG that does not compress; its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(side * side * 3)).save(
        path, compress_level=0
    )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def manifest(home: Path, prompts: str, more: str = "") -> Path:
    path = home / "j.yaml"
    path.write_text(f"job: j\nmodel: {MODEL}\nprompts: {prompts}\nmatrix: {{size: [512]}}\n{more}\n")
    return path


def test_small_references_go_inline_in_their_order_after_the_text(command, home, box):
    shas = [picture(home / f"brand/{name}.png", seed=n) for n, name in enumerate("abc")]
    prompts = "[{text: one, references: [brand/c.png, 'brand/[ab].png']}]"
    assert command("run", manifest(home, prompts), "--yes").code == 0
    assert box.sent() == [[("inline", shas[2]), ("inline", shas[0]), ("inline", shas[1])]]
    assert box.uploads() == 0


def test_a_large_reference_is_uploaded_once_for_all_tasks_and_runs(command, home, box):
    sha = picture(home / "big.png", side=2_300)
    assert (home / "big.png").stat().st_size > 15_000_000
    prompts = "[{id: a, text: one, references: big.png}, {id: b, text: two, references: big.png}]"
    assert command("run", manifest(home, prompts), "--yes").code == 0
    assert box.uploads() == 1
    assert command("run", manifest(home, prompts, "variants: 2"), "--yes").code == 0
    assert box.sent() == [[("file", sha)]] * 4
    assert box.uploads() == 1


@pytest.fixture
def uploaded(command, home, box):
    """A run that has uploaded one file."""
    picture(home / "big.png", side=2_300)
    prompts = "[{id: a, text: one, references: big.png}]"
    assert command("run", manifest(home, prompts), "--yes").code == 0
    return manifest(home, prompts, "variants: 3")


def test_an_upload_that_has_expired_is_renewed_before_anything_is_sent(command, home, box, uploaded):
    with closing(sqlite3.connect(home / "bulkrender.db")) as ledger, ledger:
        ledger.execute("UPDATE upload SET expires_at = ?", (time.time() + 3_600,))  # less than a renewal leaves
    assert command("run", uploaded, "--yes").code == 0
    assert box.uploads() == 2
    assert [len(refs) for refs in box.sent()] == [1, 1, 1]


def test_a_file_that_the_service_has_lost_is_uploaded_again_and_nothing_is_bought_twice(
    command, home, box, uploaded
):
    with closing(sqlite3.connect(home / "bulkrender.db")) as ledger, ledger:
        ledger.execute("UPDATE upload SET name = 'files/gone', uri = replace(uri, '/files/', '/files/gone-')")
    result = command("run", uploaded, "--yes", "--json")
    assert json.loads(result.out)["tasks"]["succeeded"] == 3
    assert box.uploads() == 2
    assert len(box.sent()) == 3


def test_a_file_that_changed_between_plan_and_send_stops_its_task_and_no_other(command, home, box, monkeypatch):
    picture(home / "a.png", seed=1)
    original = (home / "b.png", picture(home / "b.png", seed=2))[0].read_bytes()
    prompts = "[{id: a, text: one, references: a.png}, {id: b, text: two, references: b.png}]"
    path = manifest(home, prompts)
    whole = Ledger.enqueue

    async def then_changed(*args, **kwargs):
        result = await whole(*args, **kwargs)
        picture(home / "b.png", seed=3)
        return result

    monkeypatch.setattr(Ledger, "enqueue", then_changed)
    result = command("run", path, "--yes", "--json")
    assert result.code == 1
    assert (
        json.loads(result.out)["tasks"] | {"total": 2, "succeeded": 1, "failed": 1}
        == json.loads(result.out)["tasks"]
    )
    failed = next(task for task in Ledger.read("sqlite:///bulkrender.db", "live").tasks("j") if task.reason)
    assert (failed.prompt_id, failed.reason, failed.attempts) == ("b", "reference_changed", 0)
    assert "b.png" in failed.error
    monkeypatch.setattr(Ledger, "enqueue", whole)
    (home / "b.png").write_bytes(original)
    assert command("run", path, "--yes").code == 0  # the file is what was planned again, and so the task goes on


def test_an_edited_picture_is_another_task_and_a_renamed_one_is_not(command, home, box):
    picture(home / "a.png", seed=1)
    assert command("run", manifest(home, "[{id: a, text: one, references: a.png}]"), "--yes").code == 0
    (home / "a.png").rename(home / "z.png")
    renamed = json.loads(command("plan", manifest(home, "[{id: a, text: one, references: z.png}]"), "--json").out)
    assert (renamed["tasks"]["new"], renamed["tasks"]["done"]) == (0, 1)
    picture(home / "z.png", seed=9)
    edited = json.loads(command("plan", manifest(home, "[{id: a, text: one, references: z.png}]"), "--json").out)
    assert (edited["difference"]["changed"], edited["difference"]["orphaned"]) == (1, 1)


def test_a_reference_counts_in_the_price(command, home):
    picture(home / "a.png")
    without = json.loads(command("plan", manifest(home, "[one]"), "--json").out)["projected"]["max_usd"]
    with_one = json.loads(command("plan", manifest(home, "[{text: one, references: a.png}]"), "--json").out)[
        "projected"
    ]["max_usd"]
    assert float(with_one) - float(without) == pytest.approx(1_120 * 0.5e-6)


def test_kills_while_references_are_uploaded_and_pictures_rendered(command, home, box):
    """Every task is bought, none twice but what was in flight at a kill; so with uploads."""
    for n in range(3):
        picture(home / f"refs/{n}.png", side=2_250, seed=n)
    rows = "".join(
        f'{{"id": "p{n}", "prompt": "picture {n}", "references": "refs/{n % 3}.png"}}\n' for n in range(24)
    )
    (home / "prompts.jsonl").write_text(rows)
    path = manifest(home, "[{from: prompts.jsonl}]", "limits: {rpm: 100000, concurrency: 2}\nretry: {attempts: 9}")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [sys.executable, "-P", "-m", "runner", "run", str(path), "--yes"]
    kills = 0
    for want in (1, 3, 8):
        with subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL) as run:
            while run.poll() is None and len(box.rows("files.jsonl")) + len(box.sent()) < want * 3:
                time.sleep(0.02)
            run.send_signal(signal.SIGKILL)
        kills += 1
    result = command("run", path, "--yes", "--json")
    assert json.loads(result.out)["tasks"]["succeeded"] == 24
    assert 24 <= len(box.sent()) <= 24 + 2 * kills
    assert box.uploads() <= 3 + 3 * kills
