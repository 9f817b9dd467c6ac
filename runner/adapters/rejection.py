"""Every HTTP status that is no success -> exactly one Reply (gemini-api.md §7, §11)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runner.adapters.quota import read_delay_s, read_parked, read_quota
from runner.adapters.trouble import Trouble, read_trouble
from runner.core.catalog import Catalog, bare
from runner.core.lifecycle import Faulted, FileGone, Invalid, Reply, Stopped, Throttled

MAYBE_BILLED = frozenset({408, 499, 504, 524, 598, 599})
"""Someone on the way gave up waiting: the service may have gone on and billed (design §4). 524, 598 and 599 are
what gateways say for 504."""

WRONG_DOOR = frozenset({405, 407, 421, 426, *range(300, 400)})
"""Not this API: a redirect, a proxy that wants a password, another kind of server."""

PASSING = frozenset({409, 425})
"""Conflict and too early: the only other 4xx that the same request may survive."""

_BAD_KEY = re.compile(
    r"\W*(?:api key (?:not valid|not found|expired|invalid)|(?:invalid|incorrect) api[ _]?key)", re.IGNORECASE
)
_FILE = re.compile(
    r"\bfile\b.{0,400}(?:may not exist|does not exist|not found|not in an active state|expired)",
    re.IGNORECASE | re.DOTALL,
)
"""Of 400, 403 and 404: a file that was uploaded and is gone, or is not ready (gemini-api.md §12)."""
_CONTENT = re.compile(r"content[_ ]policy|moderation|\bflagged\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a message about a rejection has to name."""

    model: str
    model_line: str
    """Where the manifest names the model, as `file:line`; empty if not known."""
    catalog: Catalog


def read_rejection(status: int, headers: Mapping[str, str], body: bytes | bytearray, asked: Asked) -> Reply:
    """The reply of an error status with its whole body. A cut body never gets here."""
    trouble = read_trouble(body)
    if status in MAYBE_BILLED:
        return Faulted(status, trouble.said, billed_unknown=True)
    if status in WRONG_DOOR:
        return _wrong_door(status, headers, trouble)
    if status in {400, 403, 404} and trouble.enveloped and _FILE.search(trouble.said):
        return FileGone(status, trouble.said)
    match status:
        case 400 | 401 | 402 | 403:
            return _unwelcome(status, trouble)
        case 404 | 410:
            return _missing(status, trouble, asked)
        case 429:
            return read_quota(trouble, headers)
        case 503:
            return Throttled(status, "capacity", trouble.said, read_delay_s(trouble, headers))
        case _ if status >= 500:
            # an error without a word about it may come from anywhere on the way: nobody says it was not billed
            return Faulted(status, trouble.said, billed_unknown=not body)
        case _ if status in PASSING:
            return Faulted(status, trouble.said)
        case _:
            return Invalid(status, trouble.said)


def _unwelcome(status: int, trouble: Trouble) -> Reply:
    if trouble.no_credit:
        return Stopped(status, "credits", trouble.said)
    if trouble.status == "FAILED_PRECONDITION" or "BILLING_DISABLED" in trouble.reasons:
        return Stopped(status, "billing", trouble.said)
    if status == 403 and not trouble.status and _CONTENT.search(trouble.said):
        return Invalid(status, trouble.said)  # a router's own filter: this prompt, not the key
    if status in {402, 403} and (parked := read_parked(status, trouble)):
        return parked
    if status == 402:
        return Stopped(status, "credits", trouble.said)
    if status != 400 or _is_bad_key(trouble):
        return Stopped(status, "key", trouble.said)
    return Invalid(status, trouble.said)


def _is_bad_key(trouble: Trouble) -> bool:
    named = any(reason.startswith("API_KEY_") for reason in trouble.reasons)
    return named or trouble.code == "invalid_api_key" or bool(_BAD_KEY.match(trouble.said))


def _missing(status: int, trouble: Trouble, asked: Asked) -> Stopped:
    """A model that is gone; or no API at this address, whose 404 is a page or nothing (gemini-api.md §12)."""
    about_model = "model" in f"{trouble.said} {trouble.code}".lower()
    if trouble.enveloped and (trouble.status == "NOT_FOUND" or about_model):
        return Stopped(status, "model_gone", f"{_advice(asked)} The service says: {trouble.said}")
    return Stopped(status, "endpoint", f"no Gemini API answers at this base URL: {trouble.said or 'an empty 404'}")


def _advice(asked: Asked) -> str:
    model, line = bare(asked.model), f" in {asked.model_line}" if asked.model_line else ""
    names = successors(asked.catalog, model)
    if not names:
        return f"The model {model} is not served; change it{line} (`bulkrender models` lists what is known)."
    return f"The model {model} is not served any more; write {' or '.join(names)}{line}."


def successors(catalog: Catalog, model: str) -> list[str]:
    """The chain of models that came after `model`, the newest first, retired ones left out."""
    names: list[str] = []
    entry = catalog.find(model)
    while entry is not None and entry.successor is not None and entry.successor not in names:
        entry = catalog.find(entry.successor)
        if entry is not None and entry.status != "retired":
            names.insert(0, entry.id)
    return names


def _wrong_door(status: int, headers: Mapping[str, str], trouble: Trouble) -> Stopped:
    to = "/".join(headers.get("location", "").split("?")[0].split("/", 3)[:3])
    said = f"it redirects to {to}, where the key is not sent" if status < 400 and to else trouble.said
    return Stopped(status, "endpoint", f"no Gemini API answers at this base URL: {said or f'HTTP {status}'}")
