"""`reconcile` lists what may have been bought and books what a person found out; `report` still adds up."""

import json
import sqlite3
from contextlib import closing
from decimal import Decimal

import pytest

from runner.app.pricebook import recorded_sheets
from runner.app.report import receipt
from runner.app.settings import Options
from runner.cli.faces import ConsoleFace
from runner.core.catalog import builtin
from runner.core.lifecycle import Lost
from runner.core.manifest import parse
from runner.core.retry import RetryPolicy
from runner.ledger import Ledger
from tests.ledger.desk import BATCH_SHEET, RECIPE, Desk
from tests.ledger.test_resolve import record
from tests.surfaces.holding import ANSWER, holding_service

HOLD = "retry: {unknown: hold}\nbudget: {usd: 3, account: {name: acme, usd: 5}}"
OPTIONS = Options(database="sqlite:///ledger.db")


@pytest.fixture
def provider(home, monkeypatch):
    """Answers nothing that anybody could read, until `answer` is the picture."""
    with holding_service() as held:
        held.answer = "{}"
        held.release()
        monkeypatch.setenv("GEMINI_API_KEY", "sandbox")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", held.base_url)
        yield held


@pytest.fixture
def lost(provider, command, manifest):
    """Four tasks that may have been bought, failed as the manifest asks."""
    assert command("run", manifest(HOLD, size="[512, 1K]")).code == 1
    return provider


def told(result):
    return json.loads(result.out)


def spend(command):
    return told(command("status", "j", "--json"))["spend"]


def keys(command):
    return [json.loads(line)["key"] for line in command("export", "j").out.splitlines()]


def test_every_unknown_is_listed_with_since_why_and_what_it_holds(lost, command):
    [job] = told(command("reconcile", "j", "--json"))["jobs"]
    assert sorted(one["key"] for one in job["unknowns"]) == sorted(keys(command))
    first = job["unknowns"][0]
    assert (first["reason"], first["state"], first["lane"], first["number"]) == (
        "not_an_answer",
        "failed",
        "standard",
        1,
    )
    assert first["since"].endswith("Z")
    assert first["path"].startswith("j/")
    assert len(first["token"]) == 32
    assert "may have been bought" in first["error"]
    assert sum(one["image_tokens"] for one in job["unknowns"]) == spend(command)["unknown_image_tokens"]
    words = command("reconcile", "j").out
    assert first["key"][:12] in words
    assert f"4 requests that may have been bought hold ${spend(command)['unknown_usd']}" in words
    assert "--write-off KEY --reason …, or --release KEY" in words


def test_of_many_the_first_twenty_and_the_sum(provider, command, home):
    desk = Desk.at(home)
    desk.policy = RetryPolicy(attempts=1)
    record(desk, count=23)
    for _ in range(23):
        desk.settle(desk.claimed(), Lost("timed_out", "late"))
    words = command("reconcile", "job", "--database", desk.url).out
    assert words.count("timed_out") == 20
    assert "and 3 more: --json has them all; 23 requests that may have been bought hold $1.5" in words
    assert len(told(command("reconcile", "job", "--database", desk.url, "--json"))["jobs"][0]["unknowns"]) == 23


def test_written_off_is_spent_and_everything_still_adds_up(lost, command):
    before, sent = spend(command), lost.arrived
    one, other, *_ = keys(command)
    both = ("--write-off", one, "--write-off", other[:10])
    result = command("reconcile", "j", *both, "--reason", "on\nthe bill", "--json")
    answer = told(result)
    assert (result.code, answer["booked"], answer["reason"]) == (0, "written_off", "on the bill")
    assert sorted(attempt["key"] for attempt in answer["attempts"]) == sorted([one, other])
    assert len(answer["unknowns"]) == answer["stay_failed"] == 2
    after = spend(command)
    assert (after["usd"], after["image_tokens"]) == (answer["usd"], answer["image_tokens"])
    assert Decimal(after["usd"]) + Decimal(after["unknown_usd"]) == Decimal(before["unknown_usd"])
    assert "no room under the cap comes back" in result.err
    assert "until `retry --reason unknown_held` puts them back: 2" in result.err
    assert lost.arrived == sent
    report = command("report", "j")
    assert report.code == 0, report.out
    assert "charges  2 = 4 sends - 2 never fully answered, held" in report.out
    assert "pictures 0 = 2 charges - 2 written off by hand" in report.out
    assert f"booked by hand\n  written off: 2, ${answer['usd']}: on the bill\n" in report.out
    booked = told(command("report", "j", "--json"))["by_hand"]
    assert booked == [{"booked": "written_off", "reason": "on the bill", "attempts": 2, "usd": answer["usd"]}]
    rows = [json.loads(line) for line in command("export", "j").out.splitlines()]
    assert [row["state"] for row in rows] == ["failed"] * 4
    assert sum(row["unknown_usd"] == "0.00" for row in rows) == 2
    assert told(command("reconcile", "j", "--json"))["jobs"][0]["adds_up"]


def test_released_is_free_and_its_room_comes_back(lost, command):
    path = told(command("reconcile", "j", "--json"))["jobs"][0]["unknowns"][0]["path"]
    result = command("reconcile", "j", "--release", f"{path}.png", "--reason", "not billed, says support")
    assert (result.code, result.out[:21]) == (0, "released, as free: 1,")
    assert "still unknown: 3, $" in result.out
    assert "the cap does not know of it" in result.err
    assert command("reconcile", "j", "--release", "all", "--reason", "nothing was").code == 0
    after = spend(command)
    assert (after["usd"], after["unknown_usd"], after["unknown_image_tokens"]) == ("0.00", "0.00", 0)
    report = told(command("report", "j", "--json"))
    assert report["checks"]["adds_up"]
    assert (report["sends"]["released_by_hand"], report["sends"]["free"]) == (4, 0)
    assert told(command("status", "j", "--json"))["account"]["spend"]["unknown_usd"] == "0.00"
    again = command("reconcile", "j", "--release", "all", "--reason", "nothing was")
    assert (again.code, again.out) == (0, "job j: nothing is held as unknown\n")


def test_it_is_bought_again_only_by_retry(lost, command):
    lost.answer, sent = ANSWER, lost.arrived
    command("reconcile", "j", "--release", "all", "--reason", "not billed")
    command("run", "j.yaml")
    assert lost.arrived == sent
    retried = command("retry", "j", "--where", "size=512")
    assert "stays held" not in retried.err
    command("run", "j.yaml")
    assert lost.arrived == sent + 2
    assert told(command("status", "j", "--json"))["tasks"]["succeeded"] == 2
    assert command("report", "j").code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--write-off", "all"), "--write-off: say why, it is kept for ever"),
        (("--release", "all", "--reason", " \n"), "--release: say why"),
        (("--write-off", "all", "--release", "all", "--reason", "x"), "give one of the two"),
        (("--reason", "x"), "give one of the two"),
        (("--write-off", "nope", "--reason", "x"), "--write-off nope: none of the 4 unknown requests of job j"),
        (("--write-off", "k1-", "--reason", "x"), "8 or more characters of it, its path, or all"),
    ],
)
def test_what_cannot_be_meant_changes_nothing(lost, command, words, says):
    before = spend(command)
    result = command("reconcile", "j", *words)
    assert result.code == 2
    assert says in result.err
    assert spend(command) == before


def test_it_is_about_one_job_that_nobody_runs(lost, command, home):
    booking = ("--write-off", "all", "--reason", "x")
    assert "are about one job: name it" in command("reconcile", *booking).err
    assert "no job 'k' in this ledger; it has: j" in command("reconcile", "k", *booking).err
    with Ledger.open(f"sqlite:///{home}/bulkrender.db", "live", now_utc=0.0) as ledger, ledger.lock_job("j"):
        result = command("reconcile", "j", *booking)
    assert (result.code, "already being run" in result.err) == (2, True)
    elsewhere = command("reconcile", "j", *booking, "--database", "sqlite:///none.db")
    assert (elsewhere.code, "no ledger yet" in elsewhere.err) == (2, True)
    assert not list(home.glob("none.db*"))


def test_who_says_no_keeps_everything(lost, command, monkeypatch):
    before = spend(command)
    monkeypatch.setattr(ConsoleFace, "consent", lambda *_, ask: not ask)
    result = command("reconcile", "j", "--release", "all", "--reason", "x")
    assert (result.code, "not confirmed: nothing was booked" in result.err) == (2, True)
    assert spend(command) == before
    assert command("reconcile", "j", "--release", "all", "--reason", "x", "--yes").code == 0


def test_it_needs_no_key_and_says_in_the_log_what_it_was(lost, command, home, monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY")
    assert command("reconcile", "j", "--write-off", "all", "--reason", "bill of May").code == 0
    lines = [line for line in (home / "bulkrender.db.log").read_text().splitlines() if " money " in line]
    assert len(lines) == 4
    assert all("was unknown_held: may have been bought (not_an_answer" in line for line in lines)
    assert all(line.endswith(": bill of May") for line in lines)


def test_books_that_do_not_add_up_are_not_booked_into(lost, command):
    alter("UPDATE job SET unknown_nanos = unknown_nanos - 1", "bulkrender.db")
    result = command("reconcile", "j", "--release", "all", "--reason", "x")
    assert result.code == 2
    assert "the counters of job j are not what its rows add up to: nothing was booked" in result.err


# --- both lanes, and one nano-dollar ---


def alter(statement, file="ledger.db"):
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


@pytest.fixture
def desk(home):
    """One lost request of each lane."""
    desk = Desk.at(home)
    desk.policy = RetryPolicy(attempts=1, unknown="hold")
    manifest = parse(f"job: job\nmodel: {RECIPE.model}\nprompts: [x]\n", "j.yaml", builtin())
    record(desk, count=2, config=recorded_sheets(manifest, [RECIPE.model], {}, now_utc=0.0))
    desk.settle(desk.claimed(), Lost("timed_out", "late"))
    [line] = desk.submitted().attempts
    desk.settle(line, Lost("line_missing", "no line"), price=BATCH_SHEET)
    return desk


def book(desk, command, option):
    return command("reconcile", "job", option, "all", "--reason", "x", "--database", desk.url, "--json")


def test_a_line_of_a_batch_is_written_off_at_half_the_price(desk, command):
    answer = told(book(desk, command, "--write-off"))
    by_lane = {one["lane"]: Decimal(one["held_usd"]) for one in answer["attempts"]}
    assert by_lane["batch"] * 2 == by_lane["standard"]
    found = told(command("report", "job", "--by", "lane", "--database", desk.url, "--json"))
    assert found["checks"]["adds_up"]
    assert {row["lane"]: row["charges"] for row in found["prices"]} == {"standard": 1, "batch": 1}
    assert found["charges"] == {"total": 2, "pictures": 0, "lost": 0, "written_off": 2, "without_picture": 0}


@pytest.mark.parametrize("option", ["--write-off", "--release"])
@pytest.mark.parametrize("lane", ["standard", "batch"])
def test_one_nano_dollar_or_token_of_it_is_named(desk, command, option, lane):
    book(desk, command, option)
    spent = option == "--write-off"
    columns = ["cost_nanos", "input_tokens", "text_tokens", "image_tokens"] if spent else []
    for column in (*columns, "reserved_nanos"):
        for more in (1, -1):
            alter(f"UPDATE attempt SET {column} = {column} + {more} WHERE lane = '{lane}'")
            found = receipt("job", (), OPTIONS, {}).audit.problems
            assert any(one.startswith("attempt ") and column.removeprefix("reserved_") in one for one in found)
            alter(f"UPDATE attempt SET {column} = {column} - {more} WHERE lane = '{lane}'")


def test_it_never_cost_more_than_it_held(desk, command):
    book(desk, command, "--write-off")
    alter("UPDATE attempt SET overrun = 1 WHERE lane = 'batch'")
    [problem] = receipt("job", (), OPTIONS, {}).audit.problems
    assert problem.endswith("written off by hand, and overrun is True")


@pytest.mark.parametrize("lane", ["standard", "batch"])
def test_who_altered_every_sum_with_it_is_found_by_the_price(desk, command, lane):
    book(desk, command, "--write-off")
    for column in ("cost_nanos", "reserved_nanos"):
        alter(f"UPDATE attempt SET {column} = {column} + 1 WHERE lane = '{lane}'")
    mine = f"SELECT task_id FROM attempt WHERE lane = '{lane}'"
    alter(f"UPDATE task SET cost_nanos = cost_nanos + 1 WHERE id IN ({mine})")
    for table in ("job", "account"):
        alter(f"UPDATE {table} SET settled_nanos = settled_nanos + 1")
    result = command("report", "job", "--database", desk.url)
    assert result.code == 1
    assert "DOES NOT ADD UP: 1 rows are not what the others say" in result.out
    assert "reserved_nanos is $" in result.out
