"""What a plan says of the lanes, of a deadline, and of tasks that are in batches."""

import re
import sqlite3
import time
from collections import Counter
from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Group

from runner.app.campaign import load
from runner.app.finish import NEAR_S, Outlook, latest
from runner.app.reports import plan_manifest, plan_object
from runner.app.settings import Options, deadline, resolve
from runner.app.tally import Alike
from runner.cli.tables import plan_table
from runner.core.calendar import PACIFIC
from runner.core.deadline import CANCEL_S, SPARE, standard_from
from runner.core.errors import UsageError
from runner.core.forecast import Batch
from runner.core.task import Recipe

FAST = ("--sandbox", "--sandbox-latency", 0, "--sandbox-faults", "none,details_missing=0,overrun=0")


AS_IF_SUBMITTED = """
    UPDATE attempt SET state = 'running', ended_at = NULL, cost_nanos = NULL, image_tokens = NULL
        WHERE task_id = (SELECT id FROM task WHERE prompt_id = 'a');
    UPDATE task SET state = 'submitted', path = NULL, path_folded = NULL WHERE prompt_id = 'a';
"""
"""Killed between the picture and its settlement: it lies where it goes."""


def planned(path, **options):
    return plan_manifest(path, Options(sandbox=True, **options), {})


def told(path, **options):
    return plan_object(planned(path, **options))


def usd(text):
    return Decimal(text)


def in_hours(hours):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + hours * 3600))


def lines(plan):
    table = plan_table(plan)
    assert isinstance(table, Group)
    return [str(line).strip() for line in table.renderables]


def test_every_lane_is_priced_and_batch_costs_half(manifest):
    said = told(manifest())
    standard, batch = said["lanes"]["standard"], said["lanes"]["batch"]
    assert said["lane"] == "standard"
    assert (standard["tasks"], batch["tasks"]) == (2, 0)
    assert usd(standard["usd"]) == 2 * usd(batch["usd"]) > 0
    assert usd(standard["max_usd"]) == 2 * usd(batch["max_usd"]) > usd(standard["usd"])
    assert (said["projected"]["usd"], said["projected"]["max_usd"]) == (standard["usd"], standard["max_usd"])
    assert said["deadline"] is None


@pytest.mark.parametrize("options", [{"lane": "batch"}, {}])
def test_the_lane_of_the_command_line_beats_the_manifests(manifest, options):
    said = told(manifest("lane: auto\nbatch: {least: 1}"), **options)
    batch = said["lanes"]["batch"]
    assert (said["lane"], batch["tasks"], said["finish"]) == (options.get("lane", "auto"), 2, None)
    assert said["projected"]["usd"] == batch["usd"]
    worst = said["lanes"]["batch" if options else "standard"]["max_usd"]
    assert said["projected"]["max_usd"] == worst


def test_the_batch_lane_is_not_held_to_the_limits_of_the_other(command, manifest):
    path = manifest("limits: {tpm: 1, spend_usd_per_10min: 0.000001}")
    assert command("plan", path, "--sandbox").code == 2
    assert command("plan", path, "--sandbox", "--lane", "batch").code == 0


def test_few_alike_go_to_the_standard_lane(manifest):
    """Five of one setting and two of the other, where three are enough."""
    path = manifest(
        "lane: auto\nbatch: {least: 3}",
        prompts="[{text: 'a {n}', matrix: {n: [1, 2, 3, 4, 5]}}, {text: 'b {n}', matrix: {n: [6, 7]}}]",
    )
    settings = "settings: [{where: {n: 6}, generation: {system: s}}, {where: {n: 7}, generation: {system: s}}]"
    path.write_text(path.read_text().replace("size: [512]", f"size: [512], n: [0], {settings}"))
    plan = planned(path)
    said = plan_object(plan)
    assert (said["lanes"]["standard"]["tasks"], said["lanes"]["batch"]["tasks"]) == (2, 5)
    assert (
        usd(said["lanes"]["batch"]["usd"]) < usd(said["projected"]["usd"]) < usd(said["lanes"]["standard"]["usd"])
    )
    assert said["finish"]["tasks"] == 2
    assert said["difference"]["usd"] == said["projected"]["usd"]
    assert "* lane auto     5 of the tasks as batches, 2 on the standard lane" in lines(plan)


def test_the_table_marks_the_chosen_lane(command, manifest):
    printed = command("plan", manifest(), "--sandbox", "--lane", "batch").out
    assert "2 tasks to buy on the batch lane: likely $" in printed
    assert "* lane batch    likely $" in printed
    assert "  lane standard likely $" in printed
    assert "2 tasks go as batches: done within a day as a rule, after two at the latest" in printed


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (
            "tokens: 130",
            "40 tasks go as batches, some 26 at a time (batch.tokens: 130): 2 turns, each done within a",
        ),
        (
            "tokens: 1",
            "40 tasks go as batches, some 1 at a time (batch.tokens: 1): 40 turns, each done within a day",
        ),
        ("tokens: 240", "40 tasks go as batches: done within a day as a rule"),
        ("lines: 4, jobs: 5", "some 20 at a time (batch.jobs: 5): 2 turns, each done"),
        ("output_mb: 50, jobs: 1", "some 8 at a time (batch.jobs: 1): 5 turns, each done"),
    ],
)
def test_what_may_not_be_enqueued_at_once_takes_turns(manifest, batch, said):
    plan = planned(manifest(f"variants: 20\nbatch: {{{batch}}}"), lane="batch")
    assert any(said in line for line in lines(plan)), lines(plan)


def test_a_lane_without_prices_is_not_free(manifest):
    path = manifest()
    path.write_text(path.read_text().replace("gemini-3.1-flash-image-preview", "some-router/model"))
    said = told(path, lane="batch")
    assert said["lanes"]["batch"] == {"usd": None, "max_usd": None, "tasks": 2}
    plan = planned(path)
    assert "lane batch    an unknown price" in lines(plan)


def test_prices_that_cannot_be_halved_are_unknown_on_the_batch_lane_alone(manifest):
    said = told(manifest("prices: {input: 0.251}"))
    assert said["lanes"]["batch"]["usd"] is None
    assert said["projected"]["usd"] == said["lanes"]["standard"]["usd"] is not None


def test_a_deadline_counts_both_lanes_at_worst(manifest):
    path = manifest("lane: auto\nlimits: {rpm: 1}\nbatch: {least: 1}")
    said = told(path, by=in_hours(10))
    both = usd(said["lanes"]["standard"]["max_usd"]) + usd(said["lanes"]["batch"]["max_usd"])
    assert said["deadline"]["feasible"]
    assert usd(said["deadline"]["max_usd"]) == usd(said["projected"]["max_usd"]) == both
    assert said["projected"]["usd"] == said["lanes"]["batch"]["usd"]
    assert said["projected"]["image_tokens"] == 2 * 747


def test_a_deadline_that_costs_both_lanes_may_pass_the_cap(manifest):
    path = manifest("lane: auto\nbatch: {least: 1}")
    worst = told(path)["projected"]["max_usd"]
    assert told(path, budget=worst)["fits"]
    assert not told(path, budget=worst, by=in_hours(10))["fits"]
    tokens = manifest("lane: auto\nbudget: {image_tokens: 1494}")
    assert told(tokens)["fits"]
    assert not told(tokens, by=in_hours(10))["fits"]


def test_the_standard_lane_begins_in_time_for_its_limits(manifest):
    """Thirty-one at one a minute take half an hour; a fifth more to be safe, and ten minutes for the cancel."""
    path = manifest("lane: auto\nvariants: 31\nlimits: {rpm: 1}", prompts="[a]")
    by = int(time.time()) + 10 * 3600
    plan = planned(path, by=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(by)))
    begin = plan.deadline.standard_from_utc
    assert 30 * 60 * SPARE + CANCEL_S <= by - begin <= 31 * 60 * SPARE + CANCEL_S + 90
    assert any(line.startswith("by ") and "goes to the standard lane" in line for line in lines(plan))


def test_a_run_takes_its_batches_back_when_the_plan_said(manifest):
    plan = planned(manifest("lane: auto\nvariants: 31\nlimits: {rpm: 1}", prompts="[a]"), by=in_hours(10))
    settings, cell = resolve(Options(sandbox=True), {}), ("gemini-3.1-flash-image-preview", "512", "1:1")
    left = {cell[0]: [Batch(31, plan.campaign.usual({cell: 31}))]}
    by, said = plan.deadline.by_utc, plan.deadline.standard_from_utc

    def short(now: float) -> bool:
        needed_s = Outlook(plan.campaign, None, settings, now).needed_s(left, by)
        assert needed_s is not None
        return now >= standard_from(by, needed_s)

    assert (short(said - 1), short(said + NEAR_S + 1)) == (False, True)


@pytest.mark.parametrize(
    ("limits", "least_s", "most_s"),
    [
        ("{rpm: 1}", 3_600 - 60, 3_600),  # all the time there is, for a part of it
        ("{rpm: 60, rpd: 30}", 0, 60),  # no longer than for the thirty that the day lets through
        ("{rpm: 60, spend_usd_per_month: 1}", 0, 60),
        ("{rpm: 60, spend_usd_per_month: 0.01}", None, None),
    ],
)
def test_a_lane_that_can_buy_only_a_part_in_time_needs_what_that_part_takes(manifest, limits, least_s, most_s):
    plan = planned(manifest(f"lane: auto\nvariants: 500\nlimits: {limits}", prompts="[a]"), by=in_hours(100))
    settings, cell = resolve(Options(sandbox=True), {}), ("gemini-3.1-flash-image-preview", "512", "1:1")
    left = {cell[0]: [Batch(500, plan.campaign.usual({cell: 500}))]}
    noon = datetime(2026, 11, 30, 12, tzinfo=PACIFIC).timestamp()
    needed_s = Outlook(plan.campaign, None, settings, noon).needed_s(left, noon + 3_600)
    if least_s is None:
        assert needed_s is None
    else:
        assert least_s <= needed_s <= most_s


def test_a_day_that_turns_before_the_deadline_is_counted(manifest):
    """Two requests a day and three to buy: two days have to be touched, whenever the third one leaves."""
    path = manifest("lane: auto\nvariants: 3\nlimits: {rpd: 2}", prompts="[a]")
    said = told(path, by=in_hours(60))["deadline"]
    assert said["feasible"]
    assert said["standard_from"] is not None
    assert not told(path, by=in_hours(0.001))["deadline"]["feasible"]


def test_a_deadline_that_cannot_be_met_is_noted(manifest):
    plan = planned(manifest("lane: auto\nvariants: 31\nlimits: {rpm: 1}"), by=in_hours(0.25))
    assert plan_object(plan)["deadline"]["standard_from"] is None
    assert not plan_object(plan)["deadline"]["feasible"]
    (told,) = (note for note in plan.notes if "not in time" in note)
    assert re.search(r"even the standard lane alone needs 1:01:\d\d from now on, and 0:1[45]:\d\d is left", told)
    assert any("not even the standard lane alone" in line for line in lines(plan))


def test_a_deadline_under_limits_that_never_let_it_be_done_is_noted(manifest):
    path = manifest("lane: auto\nvariants: 9\nlimits: {spend_usd_per_month: 0.06}")
    (told,) = (note for note in planned(path, by=in_hours(1)).notes if "not in time" in note)
    assert "even the standard lane alone is never done, and 1:00:00 is left until 20" in told


@pytest.mark.parametrize(
    ("lane", "options", "says"),
    [
        ("batch", {"by": "07:00"}, "--by .* needs lane auto, and job j is bought on lane batch"),
        ("standard", {"by": "07:00"}, "--by .* needs lane auto"),
        ("standard", {"detach": True}, "--detach .* needs lane batch or auto"),
        ("auto", {"detach": True, "by": "07:00"}, "leave one of the two out"),
    ],
)
def test_waiting_needs_a_lane_that_can_wait(manifest, lane, options, says):
    settings = resolve(Options(sandbox=True, **options), {})
    with pytest.raises(UsageError, match=says):
        load(manifest(f"lane: {lane}"), settings)


@pytest.mark.parametrize("lane", ["batch", "auto"])
def test_detaching_needs_nothing_but_batches(manifest, lane):
    assert load(manifest(), resolve(Options(lane=lane, detach=True), {})).lane == lane


def test_submitted_tasks_are_neither_new_nor_to_be_tried_again(command, manifest):
    """Their reservation counts and their pictures are ours; before a deadline they may be bought once more."""
    path = manifest("lane: auto\nbatch: {least: 1}\nbudget: {usd: 5}")
    assert command("run", path, *FAST, "--lane", "standard").code == 0
    connection = sqlite3.connect("bulkrender-sandbox.db")
    connection.executescript(AS_IF_SUBMITTED)
    connection.close()
    plan = planned(path)
    said = plan_object(plan)
    assert said["tasks"] == {"total": 2, "new": 0, "retry": 0, "done": 2, "submitted": 1, "orphaned": 0}
    assert (said["projected"]["usd"], said["projected"]["max_usd"]) == ("0.00", "0.00")
    assert "2 tasks: 0 new, 0 to try again, 2 done (1 of them in batches); 0 orphaned" in lines(plan)
    late = told(path, by=in_hours(10))
    assert usd(late["deadline"]["max_usd"]) > 0


def test_the_tokens_of_all_batches_are_the_manifests_or_the_catalogs(manifest):
    settings = resolve(Options(), {})
    model = "gemini-3-pro-image"

    def tokens(text):
        path = manifest(text)
        path.write_text(path.read_text().replace("gemini-3.1-flash-image-preview", model).replace("[512]", "[1K]"))
        return load(path, settings).batch_tokens(model)

    assert tokens("") == 2_000_000
    assert tokens("limits: {tier: 2}") == 270_000_000
    assert tokens("limits: {tier: 2}\nbatch: {tokens: 5}") == 5
    assert load(manifest("limits: {tier: 2}"), settings).batch_tokens("gemini-3.1-flash-image") is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40), st.integers(1, 8))
def test_tasks_alike_are_told_their_lane_once_and_rightly(asked, least):
    """Whoever asks, before or after enough of them have been counted."""
    alike = Alike("auto", least)
    told: dict[int, list[str]] = {}
    for number, (model, counts) in enumerate(asked):
        alike.when_known(Recipe(model), told.setdefault(number, []).append, counts=counts)
    alike.settle()
    enough = Counter(model for model, counts in asked if counts)
    assert told == {
        number: ["batch" if enough[model] >= least else "standard"] for number, (model, _) in enumerate(asked)
    }


@given(st.floats(0, 1e5), st.floats(0, 1e5))
def test_the_latest_start_is_in_time_and_found_to_a_minute(takes, spare):
    by = 2e9 + takes + spare
    found = latest(lambda start: start + takes <= by, 2e9, by)
    assert 2e9 <= found <= by - takes + 1e-3
    assert by - takes - found <= NEAR_S or found == 2e9


@pytest.fixture
def berlin(monkeypatch):
    """This machine's clock is Berlin's."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


NOON = 1_795_604_400.0  # 2026-11-25T11:00:00Z, noon in Berlin


def test_a_plan_tells_its_deadline_in_utc_and_by_this_machines_clock(manifest, berlin):
    by = time.strftime("%Y-%m-%dT%H:00:00Z", time.gmtime(time.time() + 36_000))
    plan = planned(manifest("lane: auto"), by=by)
    here = datetime.fromisoformat(by).astimezone().strftime("%H:%M")
    (said,) = (line for line in lines(plan) if line.startswith("by "))
    assert said.startswith(f"by {by} ({here} here): what no batch has brought until 20")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12:01", 60),
        ("7:00", 19 * 3600),
        ("07:00", 19 * 3600),
        ("12:00", 24 * 3600),
        ("12:00:01", 1),
        ("2026-11-25T12:01", 60),
        ("2026-11-25 12:01", 60),
        ("2026-11-25T12:01+02:00", 60 - 3600),
        ("2026-11-25T12:01Z", 3660),
        ("2027-03-28T12:00", 123 * 86_400 - 3600),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_a_deadline_is_the_next_such_time(text, seconds):
    if seconds < 0:
        with pytest.raises(UsageError, match="that time is over"):
            deadline(text, NOON)
    else:
        assert deadline(text, NOON) == NOON + seconds


@pytest.mark.usefixtures("berlin")
def test_an_hour_that_the_clock_skips_still_comes():
    before = deadline("2027-03-27T23:00", NOON)
    assert before < deadline("02:30", before) <= before + 4 * 3600


@pytest.mark.parametrize(
    "text", ["", "noon", "7", "25:00", "07:60", "2026-11-25", "2026-13-01T07:00", "9999-12-31T23:59+00:00x", "+1h"]
)
def test_a_deadline_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="expected a time such as 07:00 or 2026-11-25T07:00"):
        deadline(text, NOON)


@pytest.mark.parametrize("text", ["2020-01-01T00:00Z", "0001-01-01T00:00Z"])
def test_a_time_that_is_over_is_refused(text):
    with pytest.raises(UsageError, match="that time is over"):
        deadline(text, NOON)


def test_options_reach_the_settings():
    assert resolve(Options(by="2026-11-25T12:00Z"), {}, now_utc=NOON).deadline_utc == NOON + 3600
    assert resolve(Options(), {}).deadline_utc is None
