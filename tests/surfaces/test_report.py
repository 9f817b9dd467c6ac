"""`report`: the receipt, which is wrong by not one nano-dollar without saying so."""

import csv
import io
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest

from runner.app.pricebook import PriceBook, price_book, recorded_sheets
from runner.app.report import receipt
from runner.app.report_views import SEND_COLUMNS
from runner.app.settings import Options
from runner.core.budget import Cap
from runner.core.catalog import Prices, builtin
from runner.core.lifecycle import Faulted, Lost, Outcome, Refused, Unusable
from runner.core.manifest import parse
from runner.core.pricing import STANDARD, PriceSheet, sheet
from runner.core.retry import RetryPolicy
from runner.ledger import AccountSpec, Claimed, quotas
from runner.ledger.enqueue import enqueue
from runner.ledger.models import account, attempt, job, task
from tests.ledger.desk import PICTURE_NANOS, RECIPE, SHEET, USAGE, Desk, answer, made, specs
from tests.ledger.desk import job as described

ODD = PriceSheet(Prices(7, 11, 61_001), SHEET.image_tokens, None, SHEET.service_tiers)
"""Prices that no catalog has."""
OPTIONS = Options(database="sqlite:///ledger.db")


def fill(desk, price=SHEET, config=None, count=8, *, capped=True):
    """Every ending: pictures, a refusal, a wrong picture, an error, a loss, one in flight, one to come."""
    desk.policy = RetryPolicy(attempts=1, refused=1, unknown="hold")
    spec = replace(described(desk.name), config=config or {})
    if capped:
        spec = replace(spec, cap=Cap(900_000_000), account=AccountSpec("acme", Cap(2_000_000_000)))
    with desk.write() as connection:
        enqueue(connection, spec, specs(count), requeue_failed=False, now=desk.now)
    endings: list[Callable[[Claimed], Outcome]] = [
        made,
        lambda _: Refused(answer(pictures=0, finish_reason="SAFETY"), "image_safety", again=False),
        lambda one: Unusable(
            answer(response_id="r-wrong"), "wrong_pixels", "asked 4096x4096, got 1024x1024", made(one).picture
        ),
        lambda _: Faulted(500, "oops"),
        lambda _: Lost("connection_broken", "reset"),
        lambda one: made(one, answer(replace(USAGE, image=None), tier="priority")),
    ]
    for ending in endings:
        claimed = desk.claimed(price=price)
        with desk.write() as connection:
            quotas.left(connection, claimed.token, desk.now)
        desk.settle(claimed, ending(claimed), price=price)
    out = desk.claimed(price=price)
    with desk.write() as connection:
        quotas.left(connection, out.token, desk.now)


@pytest.fixture
def desk(home):
    return Desk.at(home)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A ledger like `filled`, once: migrating an empty one takes longest."""
    folder = tmp_path_factory.mktemp("filled")
    desk = Desk.at(folder)
    fill(desk, config=recorded_sheets(odd_manifest(""), [RECIPE.model], {}, now_utc=0.0))
    with closing(sqlite3.connect(desk.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return desk.path


@pytest.fixture
def filled(home, template):
    shutil.copy(template, home / "ledger.db")
    return Desk(home / "ledger.db")


def problems():
    return receipt("job", (), OPTIONS, {}).audit.problems


def alter(statement, *values):
    with closing(sqlite3.connect("ledger.db")) as connection, connection:
        return connection.execute(statement, values).fetchall()


def test_how_tasks_become_sends_charges_and_pictures(filled, command):
    result = command("report", "job", "--database", filled.url)
    assert result.code == 0, result.out
    lines = [line.rstrip() for line in result.out.splitlines()]
    tier = PICTURE_NANOS * 2
    settled = 3 * PICTURE_NANOS + tier
    assert lines[0].startswith("job job: receipt of 20")
    assert lines[1:5] == [
        "  tasks    8",
        "  sends    7 = 8 tasks - 1 never sent",
        "  charges  4 = 7 sends - 1 answered with an error, free - 1 never fully answered, held - 1 in flight",
        "  pictures 2 = 4 charges - 2 for an answer without the picture",
    ]
    assert f"settled ${settled / 1e9} + reserved " in lines[5]
    assert lines[5].endswith("of $0.90: the cap held")
    assert lines[6].startswith("  account acme: settled ")
    [ends] = [line for line in lines if "tasks without a picture: " in line]
    assert "1 refused (image_safety)" in ends
    assert any(
        line.startswith("  p1 (1K, 1:1, ") and line.endswith("): refused, image_safety, $0.067775: SAFETY")
        for line in lines
    )
    assert any(line.startswith("  p2 (") and "): failed, wrong_pixels" in line for line in lines)
    assert "): failed, connection_broken, $0.00 and $0.06" in result.out
    wrong = next(
        n for n, line in enumerate(lines) if line.startswith("  wrong_pixels: $0.067775 p2 (1K, 1:1, baroque")
    )
    assert lines[wrong].endswith("number 1 (asked 4096x4096, got 1024x1024)")
    assert lines[wrong + 1].startswith(
        "    response r-wrong of gemini-3.1-flash-image-preview, sent 1970-01-01T00:16:40Z"
    )
    assert any(line.startswith("  overrun, tier priority: ") for line in lines)
    assert "input 0.25, text 1.50, image 60.00; catalog of 2026-11-22: prices and sizes [owner]" in result.out
    assert lines[-1] == (
        "adds up: 4 costs recomputed from their tokens; every counter of the job and 1 account and of 8 tasks "
        "from 7 attempts"
    )


def test_a_job_in_which_all_went_well_is_one_equation(live, manifest, home):
    live("run", manifest())
    assert "  2 tasks = 2 sends = 2 charges = 2 pictures" in live("report", "j").out
    found = json.loads(live("report", "j", "--json").out)
    assert found["equal"]
    assert found["checks"]["adds_up"]
    assert found["spend"] == {
        **json.loads(live("status", "j", "--json").out)["spend"],
        "held_usd": found["spend"]["usd"],
    }
    assert live("report", "k").err == "error: no job 'k' in this ledger; it has: j\n"


def test_each_unit_of_a_cap_has_its_own_sum(live, manifest):
    live("run", manifest("budget: {image_tokens: 2000}"))
    assert ", image tokens 1494 + 0 + 0 = 1494 of 2000: the cap held\n" in live("report", "j").out
    live("run", manifest("budget: {usd: 3, image_tokens: 2000}"))
    assert " of $3.00, image tokens 1494 + 0 + 0 = 1494 of 2000: the cap held\n" in live("report", "j").out


def test_reconcile_proves_what_the_receipt_proves(live, manifest, home):
    live("run", manifest("budget: {usd: 3, account: acme}"))
    with closing(sqlite3.connect("bulkrender.db")) as connection, connection:
        connection.execute("UPDATE account SET settled_nanos = 0")
    found = live("reconcile", "j", "--json")
    [problem] = json.loads(found.out)["jobs"][0]["problems"]
    assert (found.code, problem.startswith("account acme: settled_nanos is $0.00, its rows come to $")) == (
        1,
        True,
    )
    assert problem in live("report", "j").out


def test_one_object_says_all_of_it(filled, command):
    result = command("report", "job", "--database", filled.url, "--by", "style,lane", "--by", "state", "--json")
    found = json.loads(result.out)
    assert result.code == found["exit_code"] == 0
    assert found["tasks"]["total"] == 8
    assert found["sends"] == {
        "total": 7,
        "tasks_never_sent": 1,
        "again": 0,
        "charged": 4,
        "free": 1,
        "cancelled": 0,
        "undone": 0,
        "released_by_hand": 0,
        "unknown": 1,
        "in_flight": 1,
    }
    assert found["charges"] == {"total": 4, "pictures": 2, "lost": 0, "written_off": 0, "without_picture": 2}
    assert (found["equal"], found["within_cap"], found["accounts"][0]["within_cap"]) == (False, True, True)
    by = {tuple(row["group"].values()): row for row in found["by"]}
    assert by["baroque", "standard", "succeeded"]["pictures"] == 2
    assert by["baroque", "-", "queued"]["sends"] == 0
    assert sum(row["tasks"] for row in found["by"]) == 8
    assert [(row["prompt_id"], row["reason"]) for row in found["without_picture"]] == [
        ("p1", "image_safety"),
        ("p2", "wrong_pixels"),
        ("p3", "http_500"),
        ("p4", "connection_broken"),
    ]
    assert [row["what"] for row in found["not_as_ordered"]] == [["wrong_pixels"], ["overrun", "tier priority"]]
    assert found["not_as_ordered"][0]["response_id"] == "r-wrong"
    assert found["dearest"][0]["usd"] == "0.13555"
    assert len(found["slowest"]) == 5
    assert found["prices"][0]["charges"] == 4
    assert found["prices"][0]["image"] == "60.00"


def test_csv_is_every_send_or_every_group(filled, command):
    sends = list(csv.DictReader(io.StringIO(command("report", "job", "--database", filled.url, "--csv").out)))
    assert tuple(sends[0]) == SEND_COLUMNS
    assert [row["state"] for row in sends] == [*["settled"] * 3, "released", "unknown", "settled", "running"]
    assert json.loads(sends[0]["axes"]) == {"style": "baroque"}
    words = ("report", "job", "--database", filled.url, "--csv", "--by", "size,outcome")
    groups = list(csv.DictReader(io.StringIO(command(*words).out)))
    assert {row["outcome"]: row["sends"] for row in groups}["made"] == "2"
    assert "choose one" in command(*words, "--json").err


def test_an_axis_that_is_not_there(filled, command):
    result = command("report", "job", "--database", filled.url, "--by", "styl")
    assert result.code == 2
    assert "--by styl: unknown axis 'styl': did you mean 'style'? it can be style, size, aspect" in result.err


# --- altered by one ---

TABLES = {"job": job, "account": account, "task": task, "attempt": attempt}
CHOSEN = {"cap_nanos", "cap_image_tokens"}
"""What somebody chose cannot be recomputed."""
MONEY = [
    (name, column.name)
    for name, table in TABLES.items()
    for column in table.c
    if column.name.endswith(("_nanos", "_tokens")) and column.name not in CHOSEN
]


def test_all_money_is_altered_below():
    assert len(MONEY) == 6 + 6 + 3 + 8, MONEY


@pytest.mark.parametrize(("table", "column"), MONEY, ids=lambda word: word)
def test_one_nano_dollar_or_token_anywhere_is_named(filled, table, column):
    """In every row that has it, up and down."""
    name = {"job": "name", "account": "name", "task": "key", "attempt": "token"}[table]
    rows = alter(f"SELECT id, {name}, {column} FROM {table} WHERE {column} IS NOT NULL")
    assert rows
    for row, said, before in rows:
        for after in {before + 1, abs(before - 1)}:
            alter(f"UPDATE {table} SET {column} = ? WHERE id = ?", after, row)
            found = problems()
            assert any(f"{table} {said}" in one for one in found), (row, found)
        alter(f"UPDATE {table} SET {column} = ? WHERE id = ?", before, row)
    assert problems() == []


@pytest.mark.parametrize("count", ["prompt", "candidates", "thoughts", "image"])
def test_the_usage_that_was_recorded_is_what_was_billed(filled, count):
    alter(f"UPDATE attempt SET usage = json_set(usage, '$.{count}', usage ->> '{count}' + 1) WHERE id = 1")
    [found] = problems()
    assert "_tokens is" in found
    assert found.startswith(f"attempt {1:032x} (number 1 of task ")


@pytest.mark.parametrize(
    "column", ["queued", "running", "succeeded", "refused", "failed", "orphaned", "unpriced", "uncounted"]
)
def test_counters_of_tasks_and_of_unknown_prices_too(filled, column):
    alter(f"UPDATE job SET {column} = {column} + 1")
    [found] = problems()
    assert found.startswith(f"job job: {column} is ")


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE attempt SET overrun = 1 WHERE id = 1", "overrun is True"),
        ("UPDATE attempt SET tier = 'flex' WHERE id = 1", "cost_nanos is $0.067775, its tokens"),
        ("UPDATE task SET sha256 = 'b' WHERE id = 1", "its picture is not the one that its attempt brought"),
        (
            "UPDATE task SET state = 'failed' WHERE id = 1",
            "it is failed, and 1 of its attempts brought the picture",
        ),
        ("UPDATE attempt SET number = 2 WHERE id = 1", "its attempts are not numbered 1, 2, 3"),
        ("DELETE FROM attempt WHERE id = 4", "attempts is 1, its attempts come to 0"),
        ("UPDATE attempt SET task_id = 8 WHERE id = 7", "it is running, and 0 of its attempts are in flight"),
        ("UPDATE task SET job_id = 99 WHERE id = 1", f"attempt {1:032x}: its task is of another job"),
        ("UPDATE task SET job_id = 99 WHERE id = 7", f"attempt {7:032x}: its task is of another job"),
    ],
)
def test_what_else_does_not_fit(filled, statement, says):
    alter(statement)
    assert any(says in one for one in problems()), problems()


def test_who_altered_the_cost_and_every_sum_of_it_is_found_by_the_price(filled, command):
    alter("UPDATE attempt SET cost_nanos = cost_nanos - 1 WHERE id = 1")
    alter("UPDATE task SET cost_nanos = cost_nanos - 1 WHERE id = 1")
    alter("UPDATE job SET settled_nanos = settled_nanos - 1")
    alter("UPDATE account SET settled_nanos = settled_nanos - 1")
    result = command("report", "job", "--database", filled.url)
    assert result.code == 1
    assert "DOES NOT ADD UP: 1 rows are not what the others say" in result.out
    assert f"  attempt {1:032x} (number 1 of task " in result.out
    assert (
        "cost_nanos is $0.067774999, its tokens (20 input, 380 text, 1120 image) come to $0.067775" in result.out
    )
    found = command("report", "job", "--database", filled.url, "--json")
    assert (found.code, json.loads(found.out)["checks"]["adds_up"]) == (1, False)
    as_csv = command("report", "job", "--database", filled.url, "--csv")
    assert as_csv.code == 1
    assert as_csv.err.startswith("does not add up: attempt ")


# --- prices that are not the catalog's ---


def test_prices_nobody_recorded_are_added_up_and_that_is_said(desk, command):
    fill(desk, ODD)
    result = command("report", "job", "--database", desk.url)
    assert result.code == 0
    assert "the prices of 7 attempts were not recorded" in result.out
    assert "adds up: 0 costs recomputed" in result.out
    alter("UPDATE attempt SET cost_nanos = cost_nanos + 1 WHERE id = 1")
    assert "cost_nanos is" in problems()[0]


def odd_manifest(prices="prices: {input: 0.007, text: 0.011, image: 61.001}"):
    text = f"job: job\nmodel: {RECIPE.model}\nprompts: [x]\n{prices}\n"
    return parse(text, "odd.yaml", builtin())


def test_recorded_prices_prove_every_cost_for_ever(desk):
    config = recorded_sheets(odd_manifest(), [RECIPE.model], {}, now_utc=desk.now)
    fill(desk, ODD, json.loads(json.dumps(config)))
    found = receipt("job", (), OPTIONS, {}).audit
    assert (found.problems, found.unproven, found.proven.total()) == ([], [], 4)
    [used] = found.proven
    assert used.source.startswith("prices: at odd.yaml:4, over catalog of 2026-11-22")
    alter("UPDATE attempt SET reserved_nanos = reserved_nanos + 1 WHERE id = 4")  # released: in no sum
    [one] = problems()
    assert "reserved_nanos is $" in one


def test_what_was_bought_before_prices_were_recorded_is_not_accused(desk):
    fill(desk, ODD, recorded_sheets(odd_manifest(""), [RECIPE.model], {}, now_utc=desk.now + 1))
    found = receipt("job", (), OPTIONS, {}).audit
    assert (found.problems, len(found.unproven)) == ([], 7)


def test_sheets_join_those_recorded_before():
    first = recorded_sheets(odd_manifest(), ["a", "b"], {"manifest": "x"}, now_utc=5.0, lanes=("standard",))
    again = recorded_sheets(odd_manifest(), ["a", "b"], first, now_utc=9.0, lanes=("standard",))
    assert again == first
    changed = recorded_sheets(odd_manifest(""), ["a"], first, now_utc=9.0, lanes=("standard",))
    assert [one["model"] for one in changed["sheets"]] == ["a", "b", "a"]
    assert (changed["sheets"][:2], changed["sheets_since"]) == (first["sheets"], 5.0)
    assert price_book(json.loads(json.dumps(changed))).sheets("a", "standard")[0].sheet.prices == Prices(
        7, 11, 61_001
    )


@pytest.mark.parametrize("lane", ["standard", "batch"])
def test_the_coming_sheet_is_the_one_that_a_run_would_use(lane):
    entry, over = builtin().models[RECIPE.model], odd_manifest("prices: {image: 61}").prices
    used = sheet(entry, lane, override=over.prices, image_tokens=over.image_tokens)
    book = PriceBook((), None, odd_manifest("prices: {image: 61}"))
    assert book.coming(RECIPE.model, lane).sheet == used
    assert book.coming("gemini-3.1-flash-image", lane).sheet.service_tiers.get("standard", STANDARD) == STANDARD


def test_prices_of_the_manifest_are_read_from_it(live, manifest, home):
    path = manifest("prices: {input: 0.5, text: 2, image: 61}")
    assert live("run", path).code == 0
    result = live("report", "j")
    assert result.code == 0
    assert "input 0.50, text 2.00, image 61.00; prices: at j.yaml:5, over catalog of" in result.out
    alter_here("UPDATE attempt SET cost_nanos = cost_nanos + 1 WHERE id = 1")
    assert live("report", "j").code == 1
    alter_here("UPDATE attempt SET cost_nanos = cost_nanos - 1 WHERE id = 1")
    path.unlink()
    result = live("report", "j")
    assert (result.code, "were not recorded" in result.out) == (0, False)
    alter_here("UPDATE job SET config = json_remove(config, '$.sheets', '$.sheets_since')")  # an older release's
    result = live("report", "j")
    assert (result.code, "the prices of 2 attempts were not recorded" in result.out) == (0, True)


def alter_here(statement):
    with closing(sqlite3.connect("bulkrender.db")) as connection, connection:
        connection.execute(statement)


def test_no_price_at_all_is_never_shown_as_nothing(desk, command):
    fill(desk, PriceSheet(Prices(None, None, None), SHEET.image_tokens), capped=False)
    result = command("report", "job", "--database", desk.url, "--by", "size")
    assert result.code == 0, result.out
    assert "spend unknown: 6 attempts have no known price" in result.out
    assert [line for line in result.out.splitlines() if "$" in line] == [
        "  p3 (1K, 1:1, baroque, variant 1): failed, http_500, $0.00: oops"
    ]
    found = json.loads(command("report", "job", "--database", desk.url, "--by", "size", "--json").out)
    assert (found["spend"]["usd"], found["by"][0]["usd"]) == (None, None)


# --- beside a run ---


def test_a_receipt_of_a_live_job_is_of_one_instant(desk):
    fill(desk, count=40, capped=False)
    done = threading.Event()

    def buy():
        try:
            for _ in range(25):
                desk.settle(desk.claimed())
        finally:
            done.set()

    buyer = threading.Thread(target=buy)
    buyer.start()
    looks = 0
    while not done.is_set() or not looks:
        assert problems() == []
        looks += 1
    buyer.join()
    assert receipt("job", (), OPTIONS, {}).tally.whole.pictures == 27
