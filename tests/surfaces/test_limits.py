"""Limits as a user meets them: what a run says when one stops it, and what plan and status say of the rest."""

import json
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
