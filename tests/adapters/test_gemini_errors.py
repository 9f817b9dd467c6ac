"""Every error status becomes exactly one reply, whoever wrote the body."""

import json
import typing
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.adapters.answer import read_answer
from runner.adapters.rejection import MAYBE_BILLED, Asked, read_rejection, successors
from runner.core.catalog import builtin
from runner.core.lifecycle import Faulted, Invalid, Parked, Reply, Stopped, Throttled, Usage
from tests.adapters.test_answer import said
from tests.adapters.test_answer_mangled import REPLIES
from tests.adapters.wire_server import MODEL, MemorySink, recorded

ASKED = Asked(MODEL, "jobs/x.yaml:2", builtin())
HTML = b"<html><head><title>502 Server Error</title></head><body><h1>Bad   gateway</h1></body></html>"


def rejected(status: int, body: Any = b"", **headers: str) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return read_rejection(status, named, raw, ASKED)


def error(message: str = "said", status: str = "", details: Any = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "status": status, "details": details, **more}}


def wait(delay: Any) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


BODIES = [
    b"",
    HTML,
    b'"a bare string"',
    b"plain",
    b"[]",
    b"null",
    b"[1]",
    b"\xff",
    error(),
    [error()],
    {"error": "x"},
]


@pytest.mark.parametrize("status", [*range(300, 600), 600, 999])
def test_every_status_is_a_reply_whatever_the_body(status: int) -> None:
    for body in BODIES:
        reply = rejected(status, body)
        assert isinstance(reply, Stopped | Throttled | Parked | Faulted | Invalid)
        assert reply.status == status
        if isinstance(reply, Faulted):
            assert reply.billed_unknown == (status in MAYBE_BILLED or (status >= 500 and not body))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, error("bad field", "INVALID_ARGUMENT"), Invalid(400, "bad field")),
        (413, HTML, Invalid(413, "502 Server Error Bad gateway")),
        (422, error(), Invalid(422, "said")),
        (451, error(), Invalid(451, "said")),
        (
            400,
            error("API key expired. Renew it.", "INVALID_ARGUMENT"),
            Stopped(400, "key", "API key expired. Renew it."),
        ),
        (400, error(details=[{"reason": "API_KEY_INVALID"}]), Stopped(400, "key", "said")),
        (400, error(code="invalid_api_key"), Stopped(400, "key", "said")),
        (400, error("the prompt says: API key not valid", "INVALID_ARGUMENT"), "invalid"),
        (400, error(status="FAILED_PRECONDITION"), Stopped(400, "billing", "said")),
        (400, error("a poster: insufficient funds", "INVALID_ARGUMENT"), "invalid"),
        (401, b"", Stopped(401, "key", "")),
        (402, b"", Stopped(402, "credits", "")),
        (403, error(status="PERMISSION_DENIED"), Stopped(403, "key", "said")),
        (403, error("Insufficient credits"), Stopped(403, "credits", "Insufficient credits")),
        (403, error(details=[{"reason": "BILLING_DISABLED"}]), Stopped(403, "billing", "said")),
        (403, error("Your input was flagged", code=403), Invalid(403, "Your input was flagged")),
        (403, HTML, Stopped(403, "key", "502 Server Error Bad gateway")),
        (405, b"", Stopped(405, "endpoint", "no Gemini API answers at this base URL: HTTP 405")),
        (409, error(), Faulted(409, "said")),
        (408, error(), Faulted(408, "said", billed_unknown=True)),
        (499, error(), Faulted(499, "said", billed_unknown=True)),
        (504, HTML, Faulted(504, "502 Server Error Bad gateway", billed_unknown=True)),
        (524, HTML, Faulted(524, "502 Server Error Bad gateway", billed_unknown=True)),
        (500, error(), Faulted(500, "said")),
        (502, HTML, Faulted(502, "502 Server Error Bad gateway")),
        (500, b"", Faulted(500, "", billed_unknown=True)),
        (503, error("high demand"), Throttled(503, "capacity", "high demand")),
        (503, b"", Throttled(503, "capacity", "")),
        (500, [error("in a list")], Faulted(500, "in a list")),
        (500, b'"a bare string"', Faulted(500, "a bare string")),
        (500, {"error": "a word"}, Faulted(500, "a word")),
        (500, {"detail": "FastAPI"}, Faulted(500, "FastAPI")),
        (500, {"ERROR": None}, Faulted(500, "")),
    ],
)
def test_a_status_and_its_body_say_what_to_do(status: int, body: Any, expected: Any) -> None:
    reply = rejected(status, body)
    assert isinstance(reply, Invalid) if expected == "invalid" else reply == expected


# --- a model that is gone ---


@pytest.mark.parametrize("status", [404, 410])
def test_a_model_that_is_gone_names_its_successors_and_the_line_to_change(status: int) -> None:
    reply = rejected(status, error(f"models/{MODEL} is no longer available", "NOT_FOUND"))
    assert isinstance(reply, Stopped)
    assert reply.reason == "model_gone"
    assert successors(builtin(), MODEL)
    assert all(name in reply.message for name in [*successors(builtin(), MODEL), MODEL, "jobs/x.yaml:2"])
    assert "no longer available" in reply.message


def test_an_unknown_model_that_is_gone_still_names_the_line() -> None:
    body = json.dumps(error("x", "NOT_FOUND")).encode()
    reply = read_rejection(404, {}, body, Asked("models/mystery", "jobs/x.yaml:2", builtin()))
    assert isinstance(reply, Stopped)
    assert "mystery" in reply.message
    assert "jobs/x.yaml:2" in reply.message


def test_a_routers_own_words_for_a_model_that_is_gone_count_too() -> None:
    reply = rejected(404, error("The model does not exist", code="model_not_found"))
    assert isinstance(reply, Stopped)
    assert reply.reason == "model_gone"


@pytest.mark.parametrize("body", [b"", HTML, b"404 page not found", {"detail": "Not Found"}, error("Invalid URL")])
def test_a_404_that_no_api_wrote_is_a_wrong_address(body: Any) -> None:
    reply = rejected(404, body)
    assert isinstance(reply, Stopped)
    assert reply.reason == "endpoint"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_names_the_host_only(status: int) -> None:
    reply = rejected(status, location="https://elsewhere.example/path?key=secret")
    assert isinstance(reply, Stopped)
    assert "https://elsewhere.example," in reply.message
    assert "secret" not in reply.message


# --- 429 and 503; which limit it was is test_quota's ---


@pytest.mark.parametrize(
    ("headers", "delay_s"),
    [
        ({"retry_after": "50"}, 50.0),
        ({"retry_after": "20"}, 34.0),
        ({"retry_after": "Fri, 17 Apr 2026 22:20:43 GMT", "date": "Fri, 17 Apr 2026 22:19:43 GMT"}, 60.0),
        ({"retry_after": "Fri, 17 Apr 2026 22:20:43 GMT"}, 34.0),
        ({"retry_after": "soon"}, 34.0),
        ({"retry_after": "-5"}, 34.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_longest_wait_that_is_asked_for_counts(status: int, headers: dict[str, str], delay_s: float) -> None:
    reply = rejected(status, error("x", details=[wait("34s")]), **headers)
    assert isinstance(reply, Throttled)
    assert reply.retry_after_s == delay_s


# --- recorded ---

RECORDED_200 = {
    "200-no-image": ("no_image", Usage(9, total=9)),
    "200-no-image-empty-prompt": ("no_image", None),
    "200-prompt-blocked": ("prompt_blocked", Usage(9, total=9)),
    "200-image-safety-pro": ("image_safety", Usage(thoughts=220)),
    "200-recitation": ("recitation", Usage(16, total=16)),
    "200-refusal-as-text-stop": ("words_only", None),
}


def test_every_recorded_answer_without_a_picture_lands_in_its_outcome() -> None:
    entries = [e for e in json.loads(recorded("errors.json").read_bytes()) if e["http_status"] == 200]
    for entry in entries:
        body = json.dumps(entry["body"]).encode()
        reply = read_answer(body, asked=MODEL, tier=None, sink=MemorySink())
        assert (getattr(reply, "reason", ""), said(reply).usage) == RECORDED_200[entry["id"]]
    assert {e["id"] for e in entries} == RECORDED_200.keys()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "message",
                    "details",
                    "status",
                    "code",
                    "retryDelay",
                    "violations",
                    "quotaId",
                    "quotaMetric",
                    "quotaValue",
                    "metadata",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.integers(300, 599) | st.just(429), JSON | st.binary(max_size=40), st.text(max_size=20))
def test_no_error_body_is_too_odd(status: int, body: Any, header: str) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = read_rejection(status, {"retry-after": header, "date": header, "location": header}, raw, ASKED)
    assert isinstance(reply, REPLIES)
    assert set(REPLIES) == set(typing.get_args(Reply))
