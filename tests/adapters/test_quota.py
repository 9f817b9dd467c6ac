"""Every refusal that was recorded or is documented -> its class, its wait and what the run does about it."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.adapters.rejection import Asked, read_rejection
from runner.core.catalog import builtin
from runner.core.lifecycle import Faulted, Named, Parked, Reply, Stopped, Throttled
from tests.adapters.refusal_samples import CASES, IPM, RPD, RPM, SPEND, TPM, Case, error, limit, quota, wait
from tests.adapters.wire_server import MODEL, recorded

ASKED = Asked(MODEL, "jobs/x.yaml:2", builtin())
PAGE = Path(__file__).parents[2] / "docs" / "refusals.md"
EFFECTS = {
    "Throttled minute": "gate closed for at least the wait, for all workers and processes; its value believed",
    "Throttled spend_window": "gate closed for at least the wait; no rate blamed",
    "Parked day": "nothing more to this model until midnight Pacific, also after a restart; exit 4 unless --wait",
    "Parked month": "nothing more until the month turns (Pacific), also after a restart; exit 4",
    "Stopped no_quota": "the run stops at once; exit 4",
    "Stopped credits": "the run stops at once; exit 4",
    "Stopped billing": "the run stops at once; exit 4",
    "Stopped key": "the run stops at once; exit 4",
    "Stopped model_gone": "the run stops at once; exit 4",
    "Stopped endpoint": "the run stops at once; exit 4",
    "Throttled capacity": "backs off; no quota blamed",
    "Throttled unnamed": "own back-off, at least the wait; the believed rate is halved",
    "Faulted": "counts as a try of its task, but not in an outage; own back-off",
    "Faulted unknown": "counts as a try of its task, but not in an outage; own back-off; its price stays held",
    "Invalid": "fails its task",
}
"""What the runner does about each class; the page says the same."""


def class_of(reply: Reply) -> str:
    """How the page calls a reply."""
    match reply:
        case Throttled() | Parked() | Stopped():
            return f"{type(reply).__name__} {reply.reason}"
        case Faulted(billed_unknown=True):
            return "Faulted unknown"
        case _:
            return type(reply).__name__


def refused(body: Any, status: int = 429, **headers: str) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return read_rejection(status, named, raw, ASKED)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_refusal_lands_in_its_class_with_its_wait_and_all_it_names(case: Case) -> None:
    reply = refused(case.body, case.status, **case.headers)
    assert class_of(reply) == case.cls
    assert getattr(reply, "status", None) == case.status
    assert getattr(reply, "named", ()) == case.named
    delay_s = getattr(reply, "retry_after_s", None)
    assert delay_s == (case.wait_s if case.wait_s is None else pytest.approx(case.wait_s))


RECORDED = {
    "429-image-free-tier-limit0-16s": ("Stopped no_quota", (), None),
    "429-image-rpm-500": ("Throttled minute", (Named("requests", 500),), 34.286670503),
    "429-prepayment-depleted": ("Stopped credits", (), None),
    "429-terse": ("Throttled unnamed", (), None),
    "503-unavailable": ("Throttled capacity", (), None),
    "503-high-demand": ("Throttled capacity", (), None),
    "503-deadline-expired": ("Throttled capacity", (), None),
    "503-batch-get-60s": ("Throttled capacity", (), None),
    "400-api-key-invalid": ("Stopped key", (), None),
    "403-no-key": ("Stopped key", (), None),
    "404-model": ("Stopped model_gone", (), None),
}
"""Every other recorded error is the request's own: `Invalid`."""


def test_every_recorded_refusal_lands_in_its_class_with_its_wait() -> None:
    entries = [e for e in json.loads(recorded("errors.json").read_bytes()) if e["http_status"] != 200]
    for entry in entries:
        body = b"" if entry["body"] is None else entry["body"]
        reply = refused(body, entry["http_status"], **(entry["headers"] or {}))
        cls, named, delay_s = RECORDED.get(entry["id"], ("Invalid", (), None))
        assert (class_of(reply), getattr(reply, "named", ())) == (cls, named), entry["id"]
        assert getattr(reply, "retry_after_s", None) == delay_s
    assert {e["id"] for e in entries} >= RECORDED.keys()


def rows() -> list[list[str]]:
    """The cells of the page's table: what is said, class, wait, effect, source."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[1:]]


def test_the_page_has_every_class_with_its_effect() -> None:
    said = {cls: {row[3] for row in rows() if row[1].strip("`") == cls} for cls in EFFECTS}
    assert said == {cls: {effect} for cls, effect in EFFECTS.items()}
    assert {case.cls for case in CASES} == EFFECTS.keys()
    assert {row[1].strip("`") for row in rows()} == EFFECTS.keys()


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_page_quotes_what_lands_there(row: list[str]) -> None:
    statuses = [int(number) for number in re.findall(r"\b[345]\d\d\b", row[0].split("`", maxsplit=1)[0])]
    quotes = re.findall(r"`([^`]+)`", row[0]) or [""]
    for status in statuses:
        for quote in quotes:
            assert class_of(refused(quoted(quote), status)) == row[1].strip("`"), (status, quote)


def quoted(quote: str) -> Any:
    """The body that a quotation of the page stands for: a status, a quotaId, nothing, HTML or a message."""
    if quote.isupper():
        return error("said", {"reason": quote}, status=quote)
    if "Per" in quote and " " not in quote:
        return error("said", quota(limit(quote, "5")))
    return quote.encode() if not quote or quote.startswith("<") else error(quote, status="")


# --- properties ---

DIMENSIONS = {RPM: "requests", TPM: "tokens", IPM: "images", RPD: "day", SPEND: "spend_window"}
WORST = ("month", "day", "spend_window", "minute")


@given(
    st.lists(st.tuples(st.sampled_from(list(DIMENSIONS)), st.none() | st.integers(1, 2**63 - 1)), min_size=1),
    st.booleans(),
)
def test_the_worst_wins_and_all_stay_named(violated: list[tuple[str, int | None]], as_text: bool) -> None:
    entries = [limit(i, str(value) if as_text and value is not None else value) for i, value in violated]
    reply = refused(error("said", quota(*entries)))
    assert isinstance(reply, Throttled | Parked)
    named = {limit.dimension: limit.value for limit in reply.named}
    assert len(named) == len(reply.named)
    assert named.keys() == {DIMENSIONS[i] for i, _ in violated}
    for dimension, value in named.items():
        said = [value for i, value in violated if DIMENSIONS[i] == dimension and value is not None]
        assert value == (None if dimension == "spend_window" else min(said, default=None))
    found = {"minute" if name in {"requests", "tokens", "images"} else name for name in named}
    assert reply.reason == next(reason for reason in WORST if reason in found)


@given(
    st.text()
    | st.floats()
    | st.booleans()
    | st.integers(max_value=-1)
    | st.integers(min_value=2**63)
    | st.lists(st.integers())
)
def test_a_value_that_is_no_int64_is_none(value: Any) -> None:
    reply = refused(error("said", {"violations": [{"quotaId": RPM, "quotaValue": value}]}))
    if isinstance(reply, Stopped):  # a zero, however it is written
        assert reply.reason == "no_quota"
        return
    assert isinstance(reply, Throttled)
    (named,) = reply.named
    assert named.value is None or (0 < named.value < 2**63 and float(value) == named.value)


@given(st.floats(0.001, 3599), st.floats(0.001, 3599), st.integers(0, 3599))
def test_the_longest_wait_of_the_three_counts(info: float, prose: float, header: int) -> None:
    body = error(f"Please retry in {prose:.9f}s.", quota(limit(RPM, "5")), wait(f"{info:.9f}s"))
    reply = refused(body, retry_after=str(header))
    assert isinstance(reply, Throttled)
    assert reply.retry_after_s == pytest.approx(max(info, prose, header), abs=1e-6)


CLAUSES = st.sampled_from(
    ["requests per minute", "PerDay", "monthly", "spend", "rate", "limit: 0", "limit: 7", "cap", "no credits left"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(CLAUSES | st.text(max_size=12), max_size=6), st.sampled_from([402, 403, 429, 503]))
def test_whatever_the_prose_it_is_one_reply_with_limits_of_its_class(said: list[str], status: int) -> None:
    reply = refused(error(". ".join(said)), status)
    assert class_of(reply) in EFFECTS
    dimensions = {limit.dimension for limit in getattr(reply, "named", ())}
    match reply:
        case Parked():
            assert reply.reason in dimensions
        case Throttled(reason="minute"):
            assert dimensions
            assert dimensions <= {"requests", "tokens", "images"}
        case Throttled(reason="spend_window"):
            assert "spend_window" in dimensions
        case _:
            assert not dimensions
