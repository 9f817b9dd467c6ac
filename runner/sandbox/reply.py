"""An answer ready to leave, and the shapes of those in which nothing was generated (gemini-api.md §7)."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from runner.sandbox.errors import REPORT, ApiError, exhausted, no_quota, quota_exceeded, retired_model
from runner.sandbox.sample import Sample

JSON_TYPE = "application/json; charset=UTF-8"
HTML_TYPE = "text/html; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Stream:
    """A body too large to hold."""

    chunks: Iterable[bytes]
    length: int
    """Of all chunks together, in bytes."""
    until: int | None = None
    """Where the connection ends before that."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    sha256: str | None = None
    """Of the result, the last picture."""
    answered: bool = True
    """False where the fault keeps the answer from its caller."""
    delivery: str | None = None
    """A fault of the connection."""
    tier: str = "standard"
    """Which tier served it."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Besides those that every reply has."""
    stream: Stream | None = None
    """In place of the body."""


def dump(body: object) -> bytes:
    """A body as JSON."""
    return json.dumps(body).encode()


def error_reply(error: ApiError) -> Reply:
    """An error status with the service's envelope."""
    return Reply(error.code, dump(error.body()))


def html(status: int, title: str) -> Reply:
    """A page, as front ends and proxies answer."""
    return Reply(status, f"<!DOCTYPE html><html><title>{title}</title><h1>{title}</h1></html>".encode(), HTML_TYPE)


def _minute_quota(sample: Sample) -> ApiError:
    # Without a quota of its own the sandbox names one too large to hold anybody back once the delay is over.
    limit = sample.options.quotas.get("rpm", 1_000_000)
    return quota_exceeded("rpm", limit, sample.asked.model.id, 0.2 + 2.8 * sample.chance.unit("retry"))


def _daily_quota(sample: Sample) -> ApiError:
    return quota_exceeded("rpd", sample.options.quotas.get("rpd", 250), sample.asked.model.id, 9303.27)


def _internal(sample: Sample) -> ApiError:
    wordings = (f"An internal error has occurred. {REPORT}", "Internal error encountered.")
    return ApiError(500, sample.chance.pick("wording", wordings))


UNAVAILABLE = ApiError(503, "The service is currently unavailable.")
_HIGH_DEMAND = ApiError(
    503,
    "This model is currently experiencing high demand. Spikes in demand are usually temporary. "
    "Please try again later.",
)
_DEPLETED = ApiError(
    429,
    "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to manage your "
    "project and billing.",
)

ERRORS: Mapping[str, Callable[[Sample], ApiError]] = {
    "minute_quota": _minute_quota,
    "daily_quota": _daily_quota,
    "bare_429": lambda _: exhausted(),
    "no_quota": lambda sample: no_quota(sample.asked.model.id),
    "credits": lambda _: _DEPLETED,
    "retired_404": lambda sample: retired_model(sample.asked.model.id),
    "http_500": _internal,
    "http_503": lambda _: UNAVAILABLE,
    "http_503_demand": lambda _: _HIGH_DEMAND,
}
"""Error statuses with the service's envelope; nothing was generated."""

MISSHAPEN: Mapping[str, Reply] = {
    "http_502_html": html(502, "502 Bad Gateway"),
    "empty_502": Reply(502, b"", HTML_TYPE),
    "error_list": Reply(503, dump([UNAVAILABLE.body()])),
    "error_in_200": Reply(200, dump(ApiError(500, "Internal error encountered.").body())),
}
"""Errors in other shapes; nothing was generated."""

_DEADLINE = ApiError(504, "Deadline expired before operation could complete.")

OUTAGES: Mapping[str, Reply] = {
    "503": error_reply(UNAVAILABLE),
    "500": error_reply(ApiError(500, "Internal error encountered.")),
    "504": error_reply(_DEADLINE),
    "timeout": Reply(503, b"", delivery="hang"),
    "refuse": Reply(503, b"", delivery="reset_before"),
}
"""What every request meets in an outage of each kind; nothing was generated."""

LOST: Mapping[str, tuple[Reply | None, float]] = {
    "http_504": (error_reply(_DEADLINE), 0.5),
    "http_408": (error_reply(ApiError(408, "Request Timeout")), 0.5),
    "http_499": (error_reply(ApiError(499, "The operation was cancelled.")), 0.5),
    "html_200": (html(200, "Please wait"), 0.5),
    "hang": (None, 0.5),
    "reset_before": (None, 0.5),
    "close_after_read": (None, 0.5),
    "reset_mid": (None, 1.0),
    "cut": (None, 1.0),
}
"""What the caller gets (None: a broken connection) and how often it was generated and billed all the same."""
