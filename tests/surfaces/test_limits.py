"""Limits as a user meets them: what a run says when one stops it, and what plan and status say of the rest."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

SANDBOX = ("--sandbox", "--sandbox-latency", 0.01, "--sandbox-faults", "none,details_missing=0,overrun=0")
STATE = Path("bulkrender-sandbox.db.sandbox")


def requests():
    return [json.loads(line) for line in (STATE / "requests.jsonl").read_text().splitlines()]


def answer(result):
    return json.loads(result.out)


def test_a_daily_limit_of_the_provider_parks_the_model_over_restarts_until_it_is_asked_anew(command, manifest):
    path = manifest("variants: 3\nlimits: {rpm: 10000, concurrency: 1}")
    quota = (*SANDBOX, "--sandbox-quota", "rpd=2")

    first = command("run", path, *quota, "--json")
    told = answer(first)
    assert (first.code, told["halted"], told["tasks"]["succeeded"]) == (4, "provider", 2)
    assert "day" in told["reason"]
    assert "run again after" in told["reason"]
    assert "--wait" in told["reason"]
    assert "T08:00:00Z" in told["reason"] or "T07:00:00Z" in told["reason"]  # midnight Pacific
    assert len(requests()) == 3

    second = command("run", path, *quota, "--json")
    assert (second.code, answer(second)["halted"]) == (4, "provider")
    assert "run again after" in answer(second)["reason"]
    assert len(requests()) == 3, "nothing is sent to a parked model"

    planned = answer(command("plan", path, *SANDBOX[:1], "--json"))
    assert planned["finish"]["binds"] == "day"
    assert planned["feasible"]

    command("run", path, *quota, "--forget-limits")
    assert len(requests()) == 4


def test_a_daily_limit_of_the_manifest_stops_the_run_before_the_provider_has_to(command, manifest):
    path = manifest("variants: 3\nlimits: {rpm: 10000, rpd: 2}")
    result = command("run", path, *SANDBOX, "--json")
    told = answer(result)
    assert (result.code, told["tasks"]["succeeded"], told["tasks"]["queued"]) == (4, 2, 4)
    assert told["reason"].startswith("2 requests a day; run again after ")
    assert [row["status"] for row in requests()] == ["image", "image"]


def test_the_months_limit_makes_a_plan_infeasible_and_stops_the_run(command, manifest):
    path = manifest("variants: 3\nlimits: {rpm: 10000, spend_usd_per_month: 100, spent_usd_this_month: 99.90}")
    planned = command("plan", path, "--sandbox", "--json")
    told = answer(planned)
    assert (planned.code, told["fits"], told["feasible"]) == (3, True, False)
    assert (told["finish"]["stopped_by"], told["finish"]["tasks"]) == ("month", 2)
    assert "the month's spend limit stops it after 2 of 6 tasks" in command("plan", path, "--sandbox").out

    ran = command("run", path, *SANDBOX, "--wait", "--json")
    assert (ran.code, answer(ran)["tasks"]["succeeded"]) == (4, 2)
    assert "$100.00 a month; run again after" in answer(ran)["reason"]


def test_the_months_limit_holds_batches_back_too(command, manifest):
    """Six lines of at most $0.0235 each: there is room for two of them."""
    month = "limits: {spend_usd_per_month: 100, spent_usd_this_month: 99.94}"
    path = manifest(f"variants: 3\nlane: batch\nbatch: {{poll_s: 1}}\n{month}")
    planned = command("plan", path, "--sandbox", "--json")
    told = answer(planned)
    assert (planned.code, told["fits"], told["feasible"], told["finish"]) == (3, True, False, None)
    said = command("plan", path, "--sandbox").out
    assert "the month's spend limit stops it after 2 of 6 tasks that go as batches" in " ".join(said.split())

    quick = (*SANDBOX, "--sandbox-speed", 1_000)
    ran = command("run", path, *quick, "--json")
    assert (ran.code, answer(ran)["halted"], answer(ran)["tasks"]["succeeded"]) == (4, "provider", 2)
    assert answer(ran)["reason"].startswith("$100.00 a month; run again after ")
    assert Decimal(answer(ran)["spend"]["usd"]) < Decimal("0.06")

    single = command("run", path, *quick, "--lane", "standard", "--json")  # what batches spent counts here
    assert (single.code, answer(single)["tasks"]["succeeded"]) == (4, 2)

    more = manifest(f"variants: 3\nlane: batch\nbatch: {{poll_s: 1}}\n{month.replace('99.94', '99.50')}")
    assert command("plan", more, "--sandbox").code == 0
    assert answer(command("run", more, *quick, "--json"))["tasks"]["succeeded"] == 6


@pytest.mark.parametrize(
    ("elsewhere", "code", "said"),
    [
        ("99.60", 0, "6 tasks go as batches: done within a day"),
        ("99.66", 3, "the month's spend limit stops it after 2 of 3 tasks; 6 tasks go as batches"),
        ("99.90", 3, "the month's spend limit stops it after 4 of 6 tasks that go as batches"),
    ],
)
def test_a_plan_adds_up_both_lanes_for_the_month(command, manifest, elsewhere, code, said):
    """Six alike as batches for some $0.136, three of another setting one by one for some $0.207."""
    path = manifest(
        "variants: 3\nlane: auto\nbatch: {least: 4}\n"
        f"limits: {{spend_usd_per_month: 100, spent_usd_this_month: {elsewhere}}}",
        prompts="[{id: a, text: a cat}, {id: b, text: a dog}, {id: c, text: a cow, matrix: {size: [1K]}}]",
        size="[512], settings: [{where: {size: 1K}, generation: {thinking: high}}]",
    )
    result = command("plan", path, "--sandbox")
    assert (result.code, said in " ".join(result.out.split())) == (code, True)


def test_a_rate_that_is_still_being_looked_for_is_no_limit_of_a_plan(command, manifest):
    """It grows with every answer: "at the earliest" must not be reckoned with where it stood after two."""
    assert command("run", manifest(), *SANDBOX).code == 0
    planned = answer(command("plan", manifest("variants: 1000"), "--sandbox", "--json"))
    assert planned["tasks"]["new"] == 1998
    assert planned["finish"]["binds"] != "requests"


@pytest.mark.parametrize(
    "limits", ["rpm: 60, concurrency: 2", "tpm: 1000", "ipm: 60", "tier: 1", "in_flight_mb: 1"]
)
def test_every_limit_lets_a_small_job_through(command, manifest, limits):
    result = command("run", manifest(f"limits: {{{limits}}}"), *SANDBOX, "--json")
    assert (result.code, answer(result)["tasks"]["succeeded"]) == (0, 2)


def test_limits_in_dollars_need_prices(command, manifest):
    path = manifest("limits: {tier: 1}")
    path.write_text(path.read_text().replace("gemini-3.1-flash-image-preview", "some-router/model"))
    result = command("plan", path)
    assert result.code == 2
    assert "limits in dollars cannot be kept for some-router/model: fill in prices.input" in result.err
    assert command("plan", path, "--lane", "batch").code == 2  # the month's
