"""Batch jobs outlive the sandbox: killed and started again, it does the rest, and bills nothing twice."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runner.sandbox.books import Books
from runner.sandbox.jobs import Work
from tests.sandbox.batching import Batching, batching, lines
from tests.sandbox.filing import rows, talking
from tests.sandbox.process import spawn
from tests.sandbox.wire import CALM

FAULTS = f"{CALM},several_images=0.2,batch_code_13=0.2,batch_lines_dropped=1"


class KillError(RuntimeError):
    """In place of a kill: it ends the work and leaves what that wrote."""


def bought(state_dir: Path) -> list[tuple[Any, ...]]:
    """The bill without its times."""
    kept = ("batch", "line", "key", "request", "seen", "input", "text", "image", "sha256", "outcome", "answered")
    return sorted(tuple(row[name] for name in kept) for row in rows(state_dir, "bill.jsonl"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A job of a sandbox that nobody disturbs: its bill and its results."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with batching(folder, faults=FAULTS) as client:
        name = client.create(*lines(12))
        client.later()
        content = client.download(name).content
        return name, bought(folder), content


@pytest.mark.parametrize("moment", ["noted", "billed", "written", "torn"])
def test_a_kill_within_a_line_changes_nothing(tmp_path, monkeypatch, undisturbed, moment):
    """After the note, after the bill, after the result, in the middle of it: the next sandbox goes on there."""
    begin, bill, keep, count = Books.begin, Books.bill, Work.keep, Counter[str]()

    def dies(name: str) -> bool:
        count[name] += moment == name
        return count[name] >= 4

    def begin_(*args: Any, **given: Any) -> Any:
        begun = begin(*args, **given)
        if dies("noted"):
            raise KillError
        return begun

    def bill_(*args: Any, **given: Any) -> None:
        bill(*args, **given)
        if dies("billed"):
            raise KillError

    def keep_(work: Work, result: bytes) -> None:
        keep(work, result[:100] if dies("torn") else result)
        if count["torn"] >= 4 or dies("written"):
            raise KillError

    for owner, name, stand_in in ((Books, "begin", begin_), (Books, "bill", bill_), (Work, "keep", keep_)):
        monkeypatch.setattr(owner, name, stand_in)
    wall = [1.8e9]
    with batching(tmp_path, wall, faults=FAULTS) as client:
        name = client.create(*lines(12))
        client.later()
        assert client.api.get(name).status_code == 500
    for owner, attribute, real in ((Books, "begin", begin), (Books, "bill", bill), (Work, "keep", keep)):
        monkeypatch.setattr(owner, attribute, real)
    with batching(tmp_path, wall, faults=FAULTS) as client:
        assert client.state(name) == "SUCCEEDED"
        assert (name, bought(tmp_path), client.download(name).content) == undisturbed
    assert Counter(row["line"] for row in rows(tmp_path, "lines.jsonl")) == Counter(range(12))


def test_what_came_due_while_it_was_down_is_done_when_it_is_up(tmp_path, undisturbed):
    wall = [1.8e9]
    with batching(tmp_path, wall, faults=FAULTS) as client:
        name = client.create(*lines(12))
    wall[0] += 3600
    with batching(tmp_path, wall, faults=FAULTS) as client:
        shown = client.get(name)
        assert (name, bought(tmp_path), client.download(name).content) == undisturbed
    with batching(tmp_path, wall, faults=FAULTS) as client:
        assert client.get(name) == shown
        assert client.listed() == [name]
    assert [row["op"] for row in rows(tmp_path, "batches.jsonl") if row["op"] != "get"][:2] == ["create", "finish"]
    assert Counter(row["op"] for row in rows(tmp_path, "batches.jsonl"))["finish"] == 1


def test_a_job_whose_create_was_never_noted_is_noted(tmp_path):
    """The kill came between the job and the log: the list shows it, so the log must."""
    with batching(tmp_path) as client:
        name = client.create(*lines(1), name="token")
    (tmp_path / "batches.jsonl").write_text("")
    with batching(tmp_path) as client:
        assert client.listed() == [name]
    first = rows(tmp_path, "batches.jsonl")[0]
    assert (first["op"], first["batch"], first["display_name"], first["status"]) == (
        "create",
        name,
        "token",
        "broken",
    )


def test_killed_again_and_again_it_bills_each_line_once(tmp_path):
    """A real process, real SIGKILLs at whatever it is doing."""
    options: dict[str, Any] = {"faults": FAULTS, "speed": 60, "batch_pending_s": 5, "batch_running_s": 60}
    name, kills = "", 0
    while True:
        child, base_url = spawn(tmp_path, **options)
        with child, talking(base_url, tmp_path) as api:
            client = Batching(api)
            name = name or client.create(*lines(60))
            before, end = len(rows(tmp_path, "bill.jsonl")), time.monotonic() + 20
            while time.monotonic() < end and kills < 4:
                if client.get(name, fields="done").get("done") or len(rows(tmp_path, "bill.jsonl")) >= before + 8:
                    break
            if kills == 4:
                while not client.get(name, fields="done").get("done"):
                    assert time.monotonic() < end
                results = client.results(name)
                child.kill()
                break
            child.kill()
            kills += 1
    bill = rows(tmp_path, "bill.jsonl")
    failed = {row["key"] for row in rows(tmp_path, "lines.jsonl") if row["code"] is not None}
    assert Counter(row["key"] for row in bill) == Counter(f"k{n}" for n in range(60) if f"k{n}" not in failed)
    assert len({row["response_id"] for row in bill}) == len(bill)
    assert len(results) == 54
    said = {result["key"]: result["response"]["responseId"] for result in results if "response" in result}
    assert said == {row["key"]: row["response_id"] for row in bill if row["answered"]}
