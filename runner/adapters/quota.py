"""HTTP 429: which limits it names, what they allow and how long to wait (gemini-api.md §7.3, §7.5)."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

from runner.adapters.trouble import Trouble
from runner.adapters.wire import listing, mapping, words
from runner.core.lifecycle import Named, Parked, Stopped, Throttled
from runner.core.limits import Dimension

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_STEP = re.compile(r"(\d+(?:\.\d+)?)\s?(h|ms|m|us|µs|ns|s)", re.ASCII)
_PROSE = re.compile(
    r"(?:retry|try again|resets?) (?:in|after) ((?:\d+(?:\.\d+)?\s?(?:h|ms|m|us|µs|ns|s))+)", re.IGNORECASE
)
_LONG_S = 3600.0
"""No limit of minutes asks to wait an hour."""
_LONGEST_DURATION = 64
_LONGEST_S = 31 * 24 * _LONG_S

_READ_CHARS = 8_192
"""More of a message is not looked at: the service's own are a few hundred characters."""
_LARGEST = 2**63 - 1
_NUMBER = r"(\d{1,3}(?:,\d{3})+|\d{1,19})(?![\w]|[.,]\d)"
_ZERO = re.compile(r"limit:? ?0(?![\w]|[.,]\d)", re.IGNORECASE)
_VALUE = re.compile(rf"limit(?::|\s+of|\s+is)?\s*{_NUMBER}", re.IGNORECASE)
_METRIC = re.compile(rf"metric: ?([\w./-]+)(?:, ?limit: ?{_NUMBER})?", re.IGNORECASE)
_URL = re.compile(r"https?://\S+")
_CLAUSE = re.compile(r"\n|[.;!?](?=\s|$)")
_ADVICE = re.compile(
    r"\W*(?:for more|learn|see|visit|(?:to|please) (?:go|visit|monitor|manage|increase|reduce|request|see))\b",
    re.IGNORECASE,
)
_SEAM = re.compile(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])|[-_]+")

_WINDOWS = {
    "month": re.compile(r"(?:\bper |/ ?)month|monthly|\b(?:calendar|billing|this) (?:month|cycle|period)\b"),
    "day": re.compile(r"(?:\bper |/ ?)day|daily|\b(?:rpd|tpd)\b"),
    "minute": re.compile(r"(?:\bper |/ ?)min(?:ute)?\b|\b(?:rpm|tpm|ipm)\b"),
    "other": re.compile(r"(?:\bper |/ ?)(?:\d+|ten|sec(?:ond)?|s|h(?:ou)?r)\b|hourly|rolling"),
}
"""The longest first; `other` is any shorter than a day that no dimension has."""
_KINDS: Mapping[str, Dimension] = {"request": "requests", "token": "tokens", "image": "images"}
_KIND = re.compile(r"\b(output )?(request|token|image)s?\b")
_INITIALS: Mapping[str, Dimension] = {"rpm": "requests", "rpd": "requests", "tpm": "tokens", "ipm": "images"}
_MONEY = re.compile(r"\b(?:spend\w*|costs?|dollars?|usd)\b|\$ ?\d")
_BILLING = re.compile(r"\bbilling (?:rate|limit|cap|quota)\b")
_RATE = re.compile(r"\brate\b|\bwindow\b")
_CAP = re.compile(r"\b(?:spend(?:ing)?|costs?|billing|budget) (cap|limit|quota)")
_LIMITED = re.compile(r"limit|quota|\bcap\b|exceed|exhaust|reach|allowance|budget|usage|requests")

_OVERLOAD = re.compile(r"overload|high demand|(?<!your )capacity", re.IGNORECASE)
_LATER = re.compile(r"try again later", re.IGNORECASE)
_QUOTA = re.compile(r"quota|rate[-_ ]?limit|too many requests", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Limit:
    """A limit as the answer words it."""

    text: str
    """Its id, metric and description, spelled as `_spelled` does."""
    value: int | None = None
    metric: str = ""
    zero_tier: bool = False
    """A free tier without a value; a zero is left out on the wire."""


def read_quota(trouble: Trouble, headers: Mapping[str, str]) -> Stopped | Parked | Throttled:
    """The worst of what it names: no quota, no money, month, day, spend window, minute, capacity, nothing.

    All limits that were named stay in `named`, whichever was the worst.
    """
    limits, clauses = _limits(trouble), _clauses(trouble)
    if _ZERO.search(trouble.said) or _no_quota(limits):
        return Stopped(429, "no_quota", trouble.said)
    if trouble.no_credit:
        return Stopped(429, "credits", trouble.said)
    delay_s = read_delay_s(trouble, headers)
    named = _named(limits, clauses, delay_s)
    if not named and not _OVERLOAD.search(_heard(trouble)) and _is_long(limits, clauses, delay_s):
        named = (Named("day"),)
    if parked := _parked(429, trouble, delay_s, named):
        return parked
    return Throttled(429, _throttled(trouble, named), trouble.said, delay_s, named)


def read_parked(status: int, trouble: Trouble) -> Parked | None:
    """A limit of the day or the month; routers say those with 402 and 403 too (§11)."""
    return _parked(status, trouble, None, _named(_limits(trouble), _clauses(trouble), None))


def _parked(status: int, trouble: Trouble, delay_s: float | None, named: tuple[Named, ...]) -> Parked | None:
    dimensions = {limit.dimension for limit in named}
    for reason in ("month", "day"):
        if reason in dimensions:
            return Parked(status, reason, trouble.said, delay_s, named)
    return None


def _throttled(trouble: Trouble, named: tuple[Named, ...]) -> str:
    if any(limit.dimension == "spend_window" for limit in named):
        return "spend_window"
    if named:
        return "minute"
    heard = _heard(trouble)
    if _OVERLOAD.search(heard) or (_LATER.search(heard) and not _QUOTA.search(heard)):
        return "capacity"
    return "unnamed"


def _heard(trouble: Trouble) -> str:
    return " ".join([_URL.sub(" ", trouble.said[:_READ_CHARS]), *trouble.reasons])


# --- what it names ---


def _limits(trouble: Trouble) -> list[_Limit]:
    """Those of the details; of the message where there are none there.

    The message lists the same limits in the same order, so it fills in the values that the details leave out.
    """
    said = trouble.said[:_READ_CHARS]
    listed = [_Limit(_spelled(m[1]), _number(m[2] or ""), m[1]) for m in _METRIC.finditer(said)]
    detailed = [limit for detail in trouble.details for limit in map(_limit, _entries(detail)) if limit.text]
    if not detailed or len(detailed) != len(listed):
        return detailed or listed
    return [
        replace(limit, value=line.value)
        if limit.value is None and line.value is not None and limit.metric in {"", line.metric}
        else limit
        for limit, line in zip(detailed, listed, strict=True)
    ]


def _entries(detail: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The violations of a QuotaFailure; the metadata of an ErrorInfo, which older answers carry instead."""
    return [*map(mapping, listing(detail.get("violations"))), mapping(detail.get("metadata"))]


def _limit(entry: Mapping[str, Any]) -> _Limit:
    quota = words(entry.get("quotaId")) or words(entry.get("quotaLimit"))
    metric, raw = words(entry.get("quotaMetric")), entry.get("quotaValue", entry.get("quotaLimitValue"))
    text = " ".join(filter(None, (quota, metric, words(entry.get("description")))))
    zero_tier = quota.endswith("-FreeTier") and (raw is None or raw == "")
    return _Limit(_spelled(text[:_READ_CHARS]), _number(raw), metric, zero_tier)


def _number(value: object) -> int | None:
    """An int64, which JSON carries as text; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    digits = words(value).replace(",", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
        return None
    return number if (number := int(digits)) <= _LARGEST else None


def _no_quota(limits: list[_Limit]) -> bool:
    """Whether a limit is zero, or all that was violated is a free tier that says no value."""
    if any(limit.value == 0 for limit in limits):
        return True
    return bool(limits) and all(limit.zero_tier and limit.value is None for limit in limits)


def _clauses(trouble: Trouble) -> list[str]:
    """The prose that may name a limit: no addresses, no advice, none of the lines that `_limits` reads."""
    said = _METRIC.sub(" ", _URL.sub(" ", trouble.said[:_READ_CHARS]))
    clauses = [part for part in _CLAUSE.split(said) if not _ADVICE.match(part)]
    return [_spelled(part) for part in (*clauses, trouble.code, *trouble.reasons) if part.strip()]


def _spelled(text: str) -> str:
    """`InputTokensPerModelPerMinute`, `input_tokens-per-model` and prose as lower-case words."""
    return " ".join(_SEAM.sub(" ", text).split()).lower()


def _named(limits: list[_Limit], clauses: list[str], delay_s: float | None) -> tuple[Named, ...]:
    """Every limit that it names, once: the smallest value of those that it says."""
    is_long = _is_long(limits, clauses, delay_s)
    found = [_of_limit(limit, delay_s, is_long=is_long) for limit in limits]
    for clause in clauses:
        prose = _of_clause(clause, delay_s)
        # Next to exact limits, prose that speaks of requests or tokens may be general.
        if prose and not (limits and prose.dimension in {"requests", "tokens", "images"}):
            found.append(prose)
    return _merged(filter(None, found))


def _merged(found: Iterable[Named]) -> tuple[Named, ...]:
    values: dict[Dimension, list[int]] = {}
    for limit in found:
        values.setdefault(limit.dimension, []).extend([] if limit.value is None else [limit.value])
    return tuple(Named(dimension, min(said, default=None)) for dimension, said in values.items())


def _of_limit(limit: _Limit, delay_s: float | None, *, is_long: bool) -> Named | None:
    window = _window(limit.text)
    if _is_money(limit.text):
        return Named(_spent(limit.text, window, delay_s) or "month")
    if not window and _kind(limit.text):  # a metric alone: minutes and days may share it
        window = "day" if is_long else "minute"
    return _counted(limit.text, window, limit.value)


def _of_clause(clause: str, delay_s: float | None) -> Named | None:
    window = _window(clause)
    if _is_money(clause):
        dimension = _spent(clause, window, delay_s)
        return Named(dimension) if dimension else None
    if window in {"day", "month"} and not _LIMITED.search(clause):
        return None
    value = _VALUE.search(clause)
    return _counted(clause, window, _number(value[1]) if value else None)


def _counted(text: str, window: str, value: int | None) -> Named | None:
    """A limit of requests, tokens or images. A value of what no dimension counts is nothing to believe."""
    kind = _kind(text)
    match window:
        case "month":
            return Named("month")
        case "day":
            return Named("day", value if kind == "requests" else None)
        case "minute":
            return Named(kind, value) if kind else Named("requests")
        case _:
            return None


def _spent(text: str, window: str, delay_s: float | None) -> Dimension | None:
    """Which limit of money; a cap is the month's, a limit without a window the month's unless it passes soon."""
    if window == "month":
        return "month"
    if window == "day":
        return "day"
    if window or _RATE.search(text):
        return "spend_window"
    cap = _CAP.search(text)
    if cap is None:
        return None
    return "spend_window" if cap[1] != "cap" and delay_s is not None and delay_s < _LONG_S else "month"


def _window(text: str) -> str:
    return next((name for name, pattern in _WINDOWS.items() if pattern.search(text)), "")


def _kind(text: str) -> Dimension | None:
    """What it counts: the last word for it before the window, since model names say `image` too."""
    named = next((pattern.search(text) for pattern in _WINDOWS.values() if pattern.search(text)), None)
    found = list(_KIND.finditer(text[: named.start()] if named else text)) or list(_KIND.finditer(text))
    if found:
        return None if found[-1][1] else _KINDS[found[-1][2]]
    return _INITIALS.get(named[0]) if named else None


def _is_money(text: str) -> bool:
    if _MONEY.search(text) or _BILLING.search(text):
        return True
    return "billing" in text and bool(_window(text)) and not _kind(text)


def _is_long(limits: list[_Limit], clauses: list[str], delay_s: float | None) -> bool:
    """Whether it can only be a day: the wait is long, and no shorter window is named."""
    texts = [*(limit.text for limit in limits), *clauses]
    return (delay_s or 0.0) >= _LONG_S and not any(_window(text) in {"minute", "other"} for text in texts)


# --- how long to wait ---


def read_delay_s(trouble: Trouble, headers: Mapping[str, str]) -> float | None:
    """The longest wait that RetryInfo, the prose or Retry-After ask for; None where none does.

    They disagree: RetryInfo is cut to whole seconds, no recorded answer carried the header.
    """
    asked = [_duration_s(d.get("retryDelay")) for d in trouble.details]
    asked += [_duration_s(match[1]) for match in _PROSE.finditer(trouble.said)]
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
