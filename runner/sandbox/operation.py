"""How a batch job looks on the wire, and the part of it that a caller asked for (gemini-api.md §2, §8.5)."""

import re
from datetime import UTC, datetime
from typing import Any

from runner.sandbox.chance import Chance
from runner.sandbox.errors import ApiError, invalid
from runner.sandbox.job import Job

_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main."
RESULTS = "inlinedResponses"


def operation(job: Job, now: float, done: tuple[int, int], *, output: bool, inline: Any = None) -> dict[str, Any]:
    """The Operation; `done` counts the lines by success and failure, `output` says whether results can be had.

    `inline` is put where results go that came inline; None leaves them out, as lists do.
    """
    results = _results(job, inline) if output else {}
    metadata = {
        "@type": f"{_TYPE}GenerateContentBatch",
        "model": f"models/{job.model}",
        "displayName": job.display_name,
        "inputConfig": {"fileName": job.file} if job.file else None,
        "output": results,
        "createTime": stamp(job, "create", job.created),
        "endTime": stamp(job, "end", job.ends) if job.finished else None,
        "updateTime": stamp(job, *_updated(job, now)),
        "batchStats": _stats(job, *done),
        "state": f"BATCH_STATE_{job.state(now)}",
        "name": job.name,
    }
    shown: dict[str, Any] = {"name": job.name, "metadata": {k: v for k, v in metadata.items() if v}}
    if not job.finished:
        return shown
    if results:
        ending = {"response": {"@type": f"{_TYPE}GenerateContentBatchOutput", **results}}
    elif job.code:
        ending = {"error": {"code": job.code, "message": job.message}}
    else:
        ending = {}
    return {**shown, "done": True, **ending}


def _results(job: Job, inline: Any) -> dict[str, Any]:
    if job.file:
        return {"responsesFile": job.output}
    return {} if inline is None else {RESULTS: {RESULTS: inline}}


def _updated(job: Job, now: float) -> tuple[str, float]:
    if job.finished:
        return "end", job.ends
    return ("start", job.starts) if now >= job.starts else ("create", job.created)


def _stats(job: Job, succeeded: int, failed: int) -> dict[str, str]:
    """Counts as text, those of zero left out."""
    counts = {
        "requestCount": job.total,
        "pendingRequestCount": job.total - succeeded - failed,
        "successfulRequestCount": succeeded,
        "failedRequestCount": failed,
    }
    return {name: str(count) for name, count in counts.items() if count}


def stamp(job: Job, what: str, at: float) -> str:
    """A time with 0, 3, 6 or 9 digits behind the second, by the seed of the job."""
    chance = Chance(0, job.id, 1)
    digits = chance.pick(f"{what} digits", (9, 9, 6, 3, 0))
    nanos = int(at * 1e6) * 1000 + chance.whole(f"{what} nanos", 1, 999)
    seconds, rest = divmod(nanos, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:09d}"[: len(text) + 1 + digits].rstrip(".") + "Z"


# --- partial responses -------------------------------------------------------------------------------------------

Mask = dict[str, Any]
"""Fields to keep, each with those to keep below it; nothing below: all of it."""


def mask(fields: str) -> Mask:
    """Read `name,metadata.state` or `name,metadata(state,batchStats)`; ApiError 400 for what cannot be read."""
    tokens = re.findall(r"[(),]|[./]|[^(),./\s]+", fields)
    tree, rest = _listed(tokens)
    if rest:
        raise _unreadable(fields)
    return tree


def _listed(tokens: list[str]) -> tuple[Mask, list[str]]:
    tree: Mask = {}
    while tokens:
        below, tokens = _path(tokens, tree)
        if tokens[:1] == ["("]:
            found, tokens = _listed(tokens[1:])
            if tokens[:1] != [")"]:
                raise _unreadable("(")
            below.update(found)
            tokens = tokens[1:]
        if tokens[:1] != [","]:
            return tree, tokens
        tokens = tokens[1:]
    raise _unreadable("")


def _path(tokens: list[str], tree: Mask) -> tuple[Mask, list[str]]:
    """Put a dotted path into the tree; the place below its last field, and what follows."""
    while tokens and tokens[0] not in {"(", ")", ",", ".", "/"}:
        tree = tree.setdefault(tokens[0], {})
        if len(tokens) < 2 or tokens[1] not in {".", "/"}:
            return tree, tokens[1:]
        tokens = tokens[2:]
    raise _unreadable("".join(tokens))


def _unreadable(text: str) -> ApiError:
    return invalid(f"Error expanding 'fields' parameter. Invalid field selection {text}")


def masked(value: Any, keep: Mask) -> Any:
    """What a mask leaves of a value; of a list, of each of its elements."""
    if not keep or "*" in keep:
        return value
    if isinstance(value, list):
        return [masked(item, keep) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: masked(value[name], below) for name, below in keep.items() if name in value}
