"""HTTP 429: which limit it was and how long to wait (gemini-api.md §7.3)."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from runner.adapters.trouble import Trouble
from runner.adapters.wire import listing, mapping, words
from runner.core.lifecycle import Stopped, Throttled

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_STEP = re.compile(r"(\d+(?:\.\d+)?)\s?(h|ms|m|us|µs|ns|s)", re.ASCII)
_PROSE = re.compile(
    r"(?:retry|try again) (?:in|after) ((?:\d+(?:\.\d+)?\s?(?:h|ms|m|us|µs|ns|s))+)", re.IGNORECASE
)
_ZERO = re.compile(r"limit: ?0(?![\d.])")
_DAILY = re.compile(r"per[-_ ]?day|per[-_ ]?month|daily|monthly", re.IGNORECASE)
_MINUTE = re.compile(r"per[-_ ]?minute", re.IGNORECASE)
_CAPACITY = re.compile(r"overloaded|high demand|capacity|try again later", re.IGNORECASE)
_LONG_S = 3600.0
"""No limit of minutes asks to wait an hour."""
_LONGEST_DURATION = 64
_LONGEST_S = 31 * 24 * _LONG_S


def read_quota(trouble: Trouble, headers: Mapping[str, str]) -> Stopped | Throttled:
    """The worst of what it names: no quota at all, no money, the day, the minute, capacity, nothing."""
    delay_s = read_delay_s(trouble, headers)
    violations = _violations(trouble)
    named = " ".join([trouble.said, *(words(v.get("quotaId")) for v in violations)])
    if _ZERO.search(trouble.said) or _no_free_tier(violations):
        return Stopped(429, "no_quota", trouble.said)
    if trouble.no_credit:
        return Stopped(429, "credits", trouble.said)
    if _DAILY.search(named) or (delay_s is not None and delay_s >= _LONG_S):
        return Stopped(429, "daily", trouble.said, delay_s)
    for reason, pattern in (("minute", _MINUTE), ("capacity", _CAPACITY)):
        if pattern.search(named):
            return Throttled(429, reason, trouble.said, delay_s)
    return Throttled(429, "unnamed", trouble.said, delay_s)


def _violations(trouble: Trouble) -> list[dict[str, Any]]:
    return [mapping(v) for d in trouble.details for v in listing(d.get("violations"))]


def _no_free_tier(violations: list[dict[str, Any]]) -> bool:
    """Whether all that was violated is a free tier of zero; a zero is left out on the wire."""
    return bool(violations) and all(
        words(v.get("quotaId")).endswith("-FreeTier") and words(v.get("quotaValue")) in {"", "0"}
        for v in violations
    )


def read_delay_s(trouble: Trouble, headers: Mapping[str, str]) -> float | None:
    """The longest wait that RetryInfo, the prose or Retry-After ask for; None where none does.

    They disagree: RetryInfo is cut to whole seconds, no recorded answer carried the header.
    """
    asked = [_duration_s(d.get("retryDelay")) for d in trouble.details]
    if match := _PROSE.search(trouble.said):
        asked.append(_duration_s(match[1]))
    asked.append(_retry_after_s(headers))
    return max((min(delay, _LONGEST_S) for delay in asked if delay is not None), default=None)


def _duration_s(value: object) -> float | None:
    """A protobuf duration (`34s`, or an object of seconds and nanos) or Go's `1h52m56.4s`."""
    if isinstance(value, dict):
        value = f"{words(value.get('seconds')) or 0}s"
    steps = _STEP.findall(words(value)[:_LONGEST_DURATION])
    return sum(float(number) * _UNITS_S[unit] for number, unit in steps) if steps else None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError):
        return None
    return max(0.0, wait.total_seconds())
