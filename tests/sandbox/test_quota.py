"""Quotas over true sliding windows and Pacific calendars, each against a judge that recounts everything."""

import json
import re
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from google import genai
from google.genai import errors, types
from hypothesis import example, given
from hypothesis import strategies as st

from runner.core.catalog import builtin
from runner.sandbox import Options, fault_plan
from runner.sandbox.draw import draw
from runner.sandbox.errors import QUOTAS, ApiError, quota_exceeded, spoken
from runner.sandbox.quota import Counted, Quotas, Weight, nanos
from runner.sandbox.request import understand
from runner.sandbox.sample import Charge
from tests.sandbox.wire import CALM, MODEL, asking, serving

PACIFIC = ZoneInfo("America/Los_Angeles")
GA = "gemini-3.1-flash-image"
PROMPT = "a lighthouse at dusk"
IDS = {
    "rpm": "GenerateRequestsPerMinutePerProjectPerModel",
    "tpm": "GenerateContentPaidTierInputTokensPerModelPerMinute",
    "ipm": "GenerateImagesPerMinutePerProjectPerModel",
    "rpd": "GenerateRequestsPerDayPerProjectPerModel",
    "spend": "SpendPer10MinutesPerProject",
    "month": "SpendPerMonthPerProject",
}
SLIDING_S = {"rpm": 60, "tpm": 60, "ipm": 60, "spend": 600}
START = datetime(2026, 10, 31, 21, tzinfo=PACIFIC).timestamp()
"""Three hours before a month's turn, and clocks go back in the night after it."""


def verdict(judge: Quotas, at: float, weight: Weight = Weight(1, 1, 1), model: str = "m") -> ApiError | None:
    try:
        judge.admit(Counted(model, at, weight))
    except ApiError as error:
        return error
    return None


def retry_s(rejection: ApiError) -> float:
    """The delay that the prose names."""
    found = re.search(r"Please retry in (?:(\d+)h)?(?:(\d+)m)?([\d.]+)s\.$", rejection.message)
    assert found is not None, rejection.message
    return int(found[1] or 0) * 3600 + int(found[2] or 0) * 60 + float(found[3])


# --- against brute force -----------------------------------------------------------------------------------------


def amount(name: str, weight: Weight) -> int:
    return {"tpm": weight.tokens, "ipm": weight.images, "spend": weight.nanos, "month": weight.nanos}.get(name, 1)


def together(name: str, one: float, other: float) -> bool:
    """Whether what came at `one` still counts at `other`."""
    if name in SLIDING_S:
        return other - one < SLIDING_S[name]
    first, second = (datetime.fromtimestamp(at, PACIFIC) for at in (one, other))
    return first.date() == second.date() if name == "rpd" else first.strftime("%Y%m") == second.strftime("%Y%m")


def room(name: str, limit: int, admitted: list[Counted], request: Counted, at: float) -> bool:
    held = [
        amount(name, one.weight)
        for one in admitted
        if together(name, one.at, at) and (name in {"spend", "month"} or one.model == request.model)
    ]
    return sum(held) + amount(name, request.weight) <= limit


WEIGHTS = st.builds(Weight, st.integers(1, 9), st.integers(0, 3), st.integers(0, 9))
ARRIVALS = st.lists(st.tuples(st.integers(0, 12_000), st.sampled_from("ab"), WEIGHTS), max_size=80)
PACE = {"rpm": 256, "tpm": 256, "ipm": 256, "spend": 32, "rpd": 1, "month": 1 / 60}
"""Arrivals come some two dozen to a window."""


@pytest.mark.parametrize("name", IDS)
@given(arrivals=ARRIVALS, limit=st.integers(1, 25))
def test_admits_exactly_what_fits_and_names_the_first_instant_at_which_the_rest_does(name, arrivals, limit):
    judge, at = Quotas({name: limit}), START
    admitted: list[Counted] = []
    for gap, model, weight in arrivals:
        at += gap / PACE[name]
        request = Counted(model, at, weight)
        rejection = verdict(judge, at, weight, model)
        assert (rejection is None) == room(name, limit, admitted, request, at)
        if rejection is None:
            admitted.append(request)
        elif amount(name, weight) <= limit:
            then = at + retry_s(rejection)
            assert room(name, limit, admitted, request, then + 1e-5)
            assert not room(name, limit, admitted, request, then - 1e-5)


@given(arrivals=ARRIVALS, limits=st.fixed_dictionaries({}, optional=dict.fromkeys(IDS, st.integers(1, 25))))
def test_several_limits_hold_together_and_the_longest_wait_is_named(arrivals, limits):
    judge, at = Quotas(limits), START
    admitted: list[Counted] = []
    for gap, model, weight in arrivals:
        at += gap / 128
        request = Counted(model, at, weight)
        short = {name for name, limit in limits.items() if not room(name, limit, admitted, request, at)}
        rejection = verdict(judge, at, weight, model)
        if rejection is None:
            assert not short
            admitted.append(request)
        else:
            assert rejection.refused_by in short
            alone = [Quotas({name: limits[name]}, counted=admitted) for name in short]
            waits = [retry_s(found) for one in alone if (found := verdict(one, at, weight, model))]
            assert retry_s(rejection) == max(waits)


@given(arrivals=ARRIVALS, limit=st.integers(1, 25), cut=st.integers(0, 80))
@example(arrivals=[(0, "a", Weight(1))] * 3, limit=2, cut=1)
def test_a_restart_changes_no_verdict(arrivals, limit, cut):
    limits = dict.fromkeys(IDS, limit)
    whole, first, at = Quotas(limits), Quotas(limits), START
    counted: list[Counted] = []
    for number, (gap, model, weight) in enumerate(arrivals):
        at += gap / 128
        if number == cut:
            first = Quotas(limits, counted=counted)
        one, other = verdict(whole, at, weight, model), verdict(first, at, weight, model)
        assert (one and one.message) == (other and other.message)
        if one is None:
            counted.append(Counted(model, at, weight))


# --- by hand -----------------------------------------------------------------------------------------------------


def test_a_burst_at_the_turn_of_the_minute_does_not_pass_twice():
    """A fixed window, or a bucket, would let both bursts through."""
    judge = Quotas({"rpm": 10})
    assert not any(verdict(judge, 59.0) for _ in range(10))
    assert all(verdict(judge, 61.0) for _ in range(10))
    assert verdict(judge, 118.999)
    assert not any(verdict(judge, 119.0) for _ in range(10))


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-08", 23), ("2026-11-01", 25), ("2026-07-01", 24), ("2028-02-29", 24)]
)
def test_the_day_turns_at_midnight_pacific_also_when_clocks_change(day, hours):
    midnight = datetime.fromisoformat(day).replace(tzinfo=PACIFIC).timestamp()
    judge = Quotas({"rpd": 1})
    assert verdict(judge, midnight) is None
    last = verdict(judge, midnight + 3600 * hours - 0.5)
    assert last is not None
    assert retry_s(last) == 0.5
    assert verdict(judge, midnight + 3600 * hours) is None
    assert verdict(judge, midnight + 3600 * hours + 1)


def test_money_of_a_month_counts_what_was_spent_elsewhere_until_the_month_turns():
    turn = datetime(2027, 1, 1, tzinfo=PACIFIC).timestamp()
    judge = Quotas({"month": 10}, spent=(turn - 9e5, 6))
    verdicts = [verdict(judge, at, Weight(1, 1, 5)) for at in (turn - 8e5, turn - 1, turn, turn + 1, turn + 2)]
    assert [bool(found) for found in verdicts] == [True, True, False, False, True]


def test_money_is_of_all_models_and_counts_of_each():
    for name in IDS:
        judge = Quotas({name: 1})
        verdicts = [verdict(judge, 0.0, model=model) for model in ("a", "b")]
        assert [bool(found) for found in verdicts] == [False, name in {"spend", "month"}]


@pytest.mark.parametrize(("name", "uses"), [(name, name in {"rpm", "tpm", "rpd"}) for name in IDS])
def test_rejected_requests_count_if_told_so(name, uses):
    """Whoever keeps knocking stays outside; images and money are not taken by what was never generated."""
    length = SLIDING_S.get(name, 40 * 86_400)
    for count_rejected in (False, True):
        judge = Quotas({name: 1}, count_rejected=count_rejected)
        verdicts = [verdict(judge, at) for at in (START, START + 1, START + length)]
        again = name in SLIDING_S and uses and count_rejected
        assert [bool(found) for found in verdicts] == [False, True, again]


def test_what_takes_nothing_fits_where_nothing_else_does():
    judge = Quotas({"ipm": 1, "spend": 1})
    weights = [Weight(1, 1, 1), Weight(1, 1, 0), Weight(1, 0, 1), Weight(1, 0, 0)]
    assert [bool(verdict(judge, 0.0, weight)) for weight in weights] == [False, True, True, False]


def test_delay_leads_to_room():
    judge = Quotas({"rpm": 2})
    for at in (0.0, 10.0):
        verdict(judge, at)
    rejection = verdict(judge, 25.75)
    assert rejection is not None
    assert "Please retry in 34.25s." in rejection.message
    assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"} in rejection.details


def test_unknown_limits_are_refused():
    with pytest.raises(ValueError, match="unknown quota 'rps': expected one of rpm, tpm, ipm, rpd, spend, month"):
        Quotas({"rps": 1})


@pytest.mark.parametrize(
    ("seconds", "text"), [(9303.27, "2h35m3.27s"), (34.286670503, "34.286670503s"), (60, "1m0s"), (0.5, "0.5s")]
)
def test_delays_as_they_are_spoken(seconds, text):
    assert spoken(seconds) == text


@pytest.mark.parametrize(("limit", "text"), [(10 * 10**9, "10"), (500_000_000, "0.5"), (2000 * 10**9, "2000")])
def test_money_is_said_in_dollars(limit, text):
    rejection = quota_exceeded("spend", limit, "m", 1.0)
    assert rejection.details[1]["violations"][0]["quotaValue"] == text
    assert f"limit: {text}\n" in rejection.message
    assert rejection.details[1]["violations"][0]["quotaDimensions"] == {"location": "global"}


def test_money_at_the_standard_prices_and_the_factor_of_the_tier():
    """Where the catalog knows no price the dearest of the model stands in: nothing is free."""
    model, half_known = builtin().models[MODEL], builtin().models["gemini-2.5-flash-image"]
    charge = Charge(10, 100, 1120, 1)
    assert nanos(model, charge) == 10 * 250 + 100 * 1500 + 1120 * 60_000
    assert nanos(model, charge, "flex") * 2 == nanos(model, charge)
    assert nanos(model, charge, "priority") == 2 * nanos(model, charge)
    assert nanos(half_known, charge) == 10 * 300 + (100 + 1120) * 30_000
    assert nanos(model, None) == 0


# --- over HTTP ---------------------------------------------------------------------------------------------------


def weights(tmp_path, count: int, faults: str = CALM) -> list[Weight]:
    """What the first samples of the request weigh."""
    asked = understand(builtin().models[MODEL], asking(PROMPT))
    options = Options(tmp_path, faults=fault_plan(faults))
    return [draw(asked, seen, options).weight for seen in range(1, count + 1)]


@pytest.mark.parametrize("name", IDS)
def test_windows_survive_restarts(name, tmp_path):
    """Two fit; a new sandbox meets each request. Rejected ones are logged, are no samples and cost nothing."""
    now = [START]
    first = weights(tmp_path, 2)
    limit, statuses = sum(amount(name, weight) for weight in first), []
    turn = START + SLIDING_S.get(name, 3 * 3600)
    for now[0] in (START, START + 1, START + 2, turn - 0.5, turn + 1):
        with serving(tmp_path, quotas={name: limit}, now=lambda: now[0]) as sandbox:
            statuses.append(sandbox.post(asking(PROMPT)).status)
    assert statuses == [200, 200, 429, 429, 200]
    rows = sandbox.requests()
    assert [row["refused_by"] for row in rows] == [None, None, name, name, None]
    assert [row["seen"] for row in rows] == [1, 2, None, None, 3]
    assert [row["status"] for row in rows] == ["image", "image", "http_429", "http_429", "image"]
    assert [row["counted"] for row in rows] == [True, True, False, False, True]
    assert [(row["tokens"], row["images"], row["nanos"]) for row in rows[:2]] == [
        (one.tokens, one.images, one.nanos) for one in first
    ]
    assert len(sandbox.bill()) == 3


def test_a_quota_refuses_before_a_fault_is_met(tmp_path):
    """What would have met a fault is refused by the quota, and meets that fault once there is room."""
    now = [START]
    with serving(tmp_path, faults="http_503=1", quotas={"rpm": 1}, now=lambda: now[0]) as sandbox:
        statuses = [sandbox.post(asking()).status for _ in range(3)]
        now[0] += 60
        statuses.append(sandbox.post(asking()).status)
    assert statuses == [503, 429, 429, 503]
    assert [row["seen"] for row in sandbox.requests()] == [1, None, None, 2]


def test_faults_that_generate_nothing_take_no_image_and_no_money(tmp_path):
    quotas = {"ipm": 1, "spend": 1, "month": 1}
    with serving(tmp_path / "dear", quotas=quotas) as sandbox:
        assert sandbox.post(asking()).status == 429
    with serving(tmp_path / "free", faults="http_500=1", quotas=quotas) as sandbox:
        assert [sandbox.post(asking()).status for _ in range(3)] == [500] * 3


def test_what_was_counted_at_admission_is_what_is_billed(tmp_path):
    """In a storm as well, to the nano-dollar and the picture."""
    faults = "storm,served_flex=0.1,served_priority=0.1"
    with serving(tmp_path, faults=faults, speed=50, seed=3, quotas={"month": 10**15}) as sandbox:
        for number in range(80):
            sandbox.post(asking(f"prompt {number}", imageConfig={"imageSize": "512"}))
    counted = {row["n"]: (row["nanos"], row["images"]) for row in sandbox.requests() if row["nanos"]}
    factors = {"standard": 2, "flex": 1, "priority": 4}
    assert counted == {
        row["arrival"]: (
            (row["input"] * 250 + row["text"] * 1500 + row["image"] * 60_000) * factors[row["tier"]] // 2,
            row["images"],
        )
        for row in sandbox.bill()
    }
    assert len({row["tier"] for row in sandbox.bill()}) == 3


def test_money_of_two_models_is_one(tmp_path):
    both = weights(tmp_path, 1)[0].nanos
    with serving(tmp_path, quotas={"spend": both}) as sandbox:
        assert sandbox.post(asking(PROMPT)).status == 200
        assert sandbox.post(asking(PROMPT), model=GA).status == 429
    assert sandbox.requests()[1]["refused_by"] == "spend"


def test_drawn_minute_quota_names_the_configured_limit(tmp_path):
    """A client that takes `quotaValue` at its word must not be told another one."""
    with serving(tmp_path, faults=f"{CALM},minute_quota=1", quotas={"rpm": 77}) as sandbox:
        error = sandbox.post(asking()).json["error"]
    assert error["details"][1]["violations"][0]["quotaValue"] == "77"


# --- as the official SDK meets them ------------------------------------------------------------------------------


def met(tmp_path, **options) -> errors.APIError:
    """The error that the SDK raises at its second request, or its first."""
    with serving(tmp_path, **options) as sandbox:
        url = f"http://127.0.0.1:{sandbox.port}"
        with (
            genai.Client(api_key="sandbox", http_options=types.HttpOptions(base_url=url)) as sdk,
            pytest.raises(errors.ClientError) as caught,
        ):
            _ = [sdk.models.generate_content(model=MODEL, contents="a cat") for _ in range(2)]
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")
    return caught.value


@pytest.mark.parametrize("name", IDS)
def test_the_sdk_meets_each_quota_under_its_name(name, tmp_path):
    error = met(tmp_path, quotas={name: 1}, now=lambda: START)
    _, failure, retry = error.details["error"]["details"]
    (violation,) = failure["violations"]
    assert (violation["quotaId"], violation["quotaMetric"]) == (IDS[name], QUOTAS[name].metric)
    assert violation["quotaValue"] == ("0.000000001" if name in {"spend", "month"} else "1")
    assert violation["quotaDimensions"].get("model") == (None if name in {"spend", "month"} else MODEL)
    wait_s = SLIDING_S.get(name, 3 * 3600)
    assert retry["retryDelay"] == f"{wait_s}s"
    assert str(error.message).endswith(f"Please retry in {spoken(wait_s)}.")


def test_the_sdk_meets_a_quota_without_its_value(tmp_path):
    error = met(tmp_path, quotas={"ipm": 1}, quota_values=False)
    (violation,) = error.details["error"]["details"][1]["violations"]
    assert (violation["quotaId"], "quotaValue" in violation) == (IDS["ipm"], False)
    assert "limit:" not in str(error.message)


@pytest.mark.parametrize("name", IDS)
def test_the_sdk_meets_a_quota_without_a_name(name, tmp_path):
    error = met(tmp_path, quotas={name: 1}, nameless_quotas=True)
    assert error.message == "Resource has been exhausted (e.g. check quota)."
    assert "details" not in error.details["error"]
    rows = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert rows[-1]["refused_by"] == name
