"""The batch lane as people and programs use it: run, detach, pick up, cancel, reconcile, auto."""

import json
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from tests.sandbox.process import sandbox_process
from tests.surfaces.conftest import CALM

QUICK = {"batch_pending_s": 0.2, "batch_running_s": 0.2, "batch_line_s": 0.02}
SLOW = {"batch_pending_s": 0.2, "batch_running_s": 3_600.0}
BATCH = "batch: {poll_s: 1}"


def serving(path, monkeypatch, **options):
    monkeypatch.setenv("GEMINI_API_KEY", "sandbox")
    service = sandbox_process(path, latency_s=0.01, port=0, **{"faults": CALM, **options})
    base_url = service.__enter__()
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", base_url)
    return service


@pytest.fixture
def at(tmp_path, monkeypatch):
    """Serve a sandbox with these options to the command line; its folder."""
    served = []

    def serve(name="service", **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        served.append(serving(folder, monkeypatch, **options))
        return folder

    yield serve
    for service in served:
        service.__exit__(None, None, None)


def book(folder, name):
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def told(result):
    return json.loads(result.out)


def test_a_batch_is_bought_at_half_the_price_and_exported(at, command, manifest, home):
    folder = at(**QUICK)
    result = command("run", manifest(f"{BATCH}\nlane: batch\nbudget: {{usd: 1}}"), "--json")
    answer = told(result)
    assert (result.code, answer["tasks"]["succeeded"], answer["batches"]) == (0, 2, [])
    bill = book(folder, "bill")
    nanos = sum(one["nanos"] for one in bill) if "nanos" in bill[0] else None
    assert {one["lane"] for one in bill} == {"batch"}
    assert nanos is None or Decimal(answer["spend"]["usd"]) == Decimal(nanos) / 10**9
    standard = sum(one["input"] * 250 + one["text"] * 1_500 + one["image"] * 60_000 for one in bill)
    assert Decimal(answer["spend"]["usd"]) == Decimal(standard) / 2 / 10**9
    rows = [json.loads(line) for line in command("export", "j").out.splitlines()]
    assert [(row["lane"], row["state"], row["attempts"]) for row in rows] == [("batch", "succeeded", 1)] * 2
    assert all((home / "renders" / row["path"]).is_file() for row in rows)
    assert not list(home.glob("*.batches/*"))


def test_detach_leaves_and_the_next_run_picks_up(at, command, manifest):
    folder = at(**QUICK)
    path = manifest(f"{BATCH}\nlane: batch")
    left = command("run", path, "--detach", "--json")
    assert (left.code, told(left)["tasks"]["submitted"]) == (0, 2)
    status = command("status", "j", "--json")
    assert status.code == 130
    (batch,) = told(status)["batches"]
    assert (batch["requests"], batch["name"].startswith("batches/")) == (2, True)
    assert "in remote batches" in told(status)["reason"]
    again = command("run", path, "--lane", "standard", "--json")  # what is out is waited for on any lane
    assert (again.code, told(again)["tasks"]["succeeded"]) == (0, 2)
    assert len([act for act in book(folder, "batches") if act["op"] == "create"]) == 1
    assert {one["lane"] for one in book(folder, "bill")} == {"batch"}


def test_a_detached_run_says_what_it_could_not_submit_and_is_not_told_as_done(at, command, manifest, home):
    at(**QUICK)
    notify = "notify: {command: [sh, -c, 'cat > told-$BULKRENDER_EVENT']}"
    path = manifest(f"batch: {{poll_s: 1, lines: 1, jobs: 1}}\nlane: batch\n{notify}")
    left = command("run", path, "--detach")
    said = (
        "1 tasks are in 1 remote batches, 1 are not submitted (1 batches may be open at once); "
        "run it again to pick them up and to submit the rest"
    )
    assert (left.code, f"left: {said}\n" in left.err) == (0, True)
    assert f"job j: left: {said}, 0 of 2 pictures" in (home / "bulkrender.db.log").read_text()
    assert not list(home.glob("told-*"))
    assert command("run", path).code == 0
    assert [one.name for one in home.glob("told-*")] == ["told-done"]


def test_a_detached_run_names_the_tokens_that_may_be_enqueued(at, command, manifest):
    at(**SLOW)
    left = command("run", manifest("batch: {lines: 1, tokens: 1}\nlane: batch"), "--detach", "--json")
    reason = told(left)["reason"]
    assert "1 are not submitted (1 input tokens may be enqueued in batches of the model at once)" in reason


def test_cancel_takes_back_and_a_run_buys_the_rest(at, command, manifest):
    folder = at(**SLOW, speed=20)
    path = manifest(f"{BATCH}\nlane: batch")
    assert command("run", path, "--detach").code == 0
    assert command("ledger", "backup", "older.db").code == 0
    cancelled = command("cancel", "j", "--json")
    answer = told(cancelled)
    assert (cancelled.code, answer["cancelled"], answer["tasks"]["queued"]) == (0, 1, 2)
    assert answer["spend"]["reserved_usd"] == "0.00"
    assert [act["op"] for act in book(folder, "batches") if act["op"] == "cancel"] == ["cancel"]
    assert command("cancel", "j").out.startswith("j: 0 batches taken back")
    receipt = command("report", "j").out
    assert "charges  0 = 2 sends - 2 cancelled before they ran, nothing charged\n" in receipt
    assert "slowest" not in receipt
    log = Path("bulkrender.db.log").read_text()
    assert log.count(" undone batch_cancelled cancelled before it ran, nothing charged (") == 2
    bought = command("run", path, "--lane", "standard", "--json")
    assert (bought.code, told(bought)["tasks"]["succeeded"]) == (0, 2)
    assert command("plan", path, "--database", "sqlite:///older.db").code == 2, (
        "its open batch is not what brought them"
    )


def test_reconcile_harvests_lists_strangers_and_proves_the_books(at, command, manifest, home):
    at(**QUICK)
    path = manifest(f"{BATCH}\nlane: batch")
    assert command("run", path, "--detach").code == 0
    (home / "other").mkdir()
    other = manifest(f"{BATCH}\nlane: batch", name="other.yaml")
    elsewhere = ("--database", "sqlite:///other.db", "--output", "other")
    assert command("run", other, "--detach", *elsewhere).code == 0
    for _ in range(50):
        found = told(command("reconcile", "--json"))
        (job,) = found["jobs"]
        if job["batches"][0]["over"]:
            break
    assert (found["exit_code"], job["adds_up"], job["unresolved"]) == (0, True, 0)
    (batch,) = job["batches"]
    assert (batch["lines"], batch["settled"], batch["over"]) == (2, 2, "succeeded")
    (stranger,) = found["strangers"]
    assert stranger["of_bulkrender"] is True
    words = command("reconcile", "j").out
    assert "adds up" in words
    assert "of another ledger" in words
    assert told(command("status", "j", "--json"))["tasks"]["succeeded"] == 2


def test_auto_batches_many_and_sends_few(at, command, manifest):
    folder = at(**QUICK)
    prompts = "[" + ", ".join(f"{{id: p{n}, text: picture {n}}}" for n in range(6)) + "]"
    text = "lane: auto\nbatch: {poll_s: 1, least: 6}"
    many = command("run", manifest(text, prompts=prompts), "--json")
    assert (many.code, told(many)["tasks"]["succeeded"]) == (0, 6)
    assert {one["lane"] for one in book(folder, "bill")} == {"batch"}
    few = command("run", manifest(text, prompts=prompts[:-1] + ", {id: q, text: one more}]"), "--json")
    assert (few.code, told(few)["tasks"]["succeeded"]) == (0, 7)
    assert [one["lane"] for one in book(folder, "bill")][6:] == ["standard"]


def test_near_its_deadline_auto_takes_back_and_is_done_in_time(at, command, manifest):
    folder = at(**SLOW, speed=20)
    prompts = "[" + ", ".join(f"{{id: p{n}, text: picture {n}}}" for n in range(6)) + "]"
    path = manifest("lane: auto\nbatch: {poll_s: 1, least: 2}\nbudget: {usd: 5}", prompts=prompts)
    assert command("run", path, "--detach").code == 0
    soon = command("run", path, "--by", _in_five_minutes(), "--json")
    assert (soon.code, told(soon)["tasks"]["succeeded"]) == (0, 6)
    assert {one["op"] for one in book(folder, "batches")} >= {"create", "cancel"}
    assert "standard" in {one["lane"] for one in book(folder, "bill")}


def _in_five_minutes():
    return (datetime.now().astimezone() + timedelta(minutes=5)).isoformat(timespec="seconds")


def test_a_run_elsewhere_is_refused_while_batches_are_open(at, command, manifest):
    at(**SLOW)
    path = manifest(f"{BATCH}\nlane: batch")
    assert command("run", path, "--detach").code == 0
    at("another", **QUICK)
    result = command("run", path)
    assert result.code == 2
    assert "that are not over" in result.err


def test_misuse_is_one_clear_line(at, command, manifest):
    at(**QUICK)
    result = command("run", manifest(), "--detach")
    assert (result.code, len(result.err.strip().splitlines())) == (2, 1)
    result = command("cancel", "nothing")
    assert result.code == 2
    assert "no ledger yet" in result.err
