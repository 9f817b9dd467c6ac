"""A complete HTTP 200 -> exactly one Reply (gemini-api.md §5.3, §6, §11). Error statuses are `rejection`'s."""

from dataclasses import dataclass
from typing import Any

from runner.adapters.embedded import Contents, decode, sort_parts
from runner.adapters.usage import read_usage
from runner.adapters.wire import excerpt, listing, load, mapping, words
from runner.core.catalog import bare
from runner.core.lifecycle import Answer, Lost, Pictured, Refused, Reply, Unusable
from runner.engine.ports import Sink

DELIVERED = frozenset({"", "STOP", "FINISH_REASON_UNSPECIFIED", "MAX_TOKENS"})
"""Finish reasons with which a picture that came is the picture. With any other the service took it back."""

DECLINED = {
    "SAFETY": ("safety", True),
    "IMAGE_SAFETY": ("image_safety", True),
    "PROHIBITED_CONTENT": ("prohibited_content", False),
    "IMAGE_PROHIBITED_CONTENT": ("prohibited_content", False),
    "RECITATION": ("recitation", True),
    "IMAGE_RECITATION": ("recitation", True),
    "BLOCKLIST": ("blocklist", False),
    "SPII": ("spii", False),
    "MODEL_ARMOR": ("safety", False),
}
"""Finish reason -> reason of the refusal, and whether another sample may pass (gemini-api.md §6.2)."""

FRUITLESS = {
    "NO_IMAGE": "no_image",
    "IMAGE_OTHER": "image_other",
    "OTHER": "other",
    "LANGUAGE": "other",
    "MALFORMED_RESPONSE": "other",
    "MALFORMED_FUNCTION_CALL": "other",
    "UNEXPECTED_TOOL_CALL": "other",
    "TOO_MANY_TOOL_CALLS": "other",
    "MISSING_THOUGHT_SIGNATURE": "other",
    "ESCALATION": "other",
    "PUP_LIMITED_DISABLED": "other",
    "CONTINUATION": "other",
}
"""Finish reason -> reason of an answer that cannot be used."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """An answer taken apart."""

    answer: Answer
    contents: Contents
    ending: str
    """The finish reason in upper case; empty where there is none."""
    blocked: bool


def read_answer(body: bytes | bytearray, *, asked: str, tier: str | None, sink: Sink) -> Reply:
    """The reply of a 200, its last picture written to `sink`.

    `asked` is the model of the request, `tier` what the header `x-gemini-service-tier` said.
    """
    try:
        data = _unwrapped(load(body))
    except ValueError:
        return Lost("not_an_answer", f"the answer is not JSON: {excerpt(body) or 'empty'}")
    if not _is_answer(data):
        return Lost("not_an_answer", f"the answer holds no candidates: {excerpt(body)}")
    judged = _take_apart(mapping(data), asked, tier)
    del data
    return _judge(judged, sink)


def _unwrapped(data: object) -> object:
    """The answer in a list that holds just one: some routers and the streaming form send that."""
    answers = [entry for entry in listing(data) if _is_answer(entry)]
    return answers[0] if len(answers) == 1 else data


def _is_answer(data: object) -> bool:
    raw = mapping(data)
    if raw.get("error") and not listing(raw.get("candidates")):
        return False
    blocked = mapping(raw.get("promptFeedback")).get("blockReason")
    return bool(
        isinstance(raw.get("candidates"), list) or blocked or read_usage(mapping(raw.get("usageMetadata")))
    )


def _take_apart(raw: dict[str, Any], asked: str, tier: str | None) -> _Judged:
    candidate, contents = _chosen([mapping(c) for c in listing(raw.get("candidates"))])
    feedback, usage = mapping(raw.get("promptFeedback")), mapping(raw.get("usageMetadata"))
    reason, block = words(candidate.get("finishReason")), words(feedback.get("blockReason"))
    blocked = bool(block and not reason and not contents.pictures)
    answer = Answer(
        finish_reason=f"BLOCKED:{block}" if blocked else reason or None,
        message=words(candidate.get("finishMessage")) or words(feedback.get("blockReasonMessage")),
        text=contents.text,
        usage=read_usage(usage),
        pictures=len(contents.pictures),
        response_id=words(raw.get("responseId")) or None,
        model_version=words(raw.get("modelVersion")) or None,
        tier=tier or words(usage.get("serviceTier")) or None,
        notices=tuple(_notices(raw, asked)),
    )
    return _Judged(answer, contents, reason.upper(), blocked)


def _chosen(candidates: list[dict[str, Any]]) -> tuple[dict[str, Any], Contents]:
    """The candidate that counts, and the contents of all: the last with a picture, else the first."""
    sorted_ = [sort_parts(listing(mapping(c.get("content")).get("parts"))) for c in candidates]
    if not sorted_:
        return {}, Contents()
    everything = Contents(
        [p for c in sorted_ for p in c.pictures],
        [t for c in sorted_ for t in c.texts],
        [link for c in sorted_ for link in c.links],
        sum(c.drafts for c in sorted_),
    )
    with_picture = [c for c, contents in zip(candidates, sorted_, strict=True) if contents.pictures]
    return (with_picture or candidates[:1])[-1], everything


def _notices(raw: dict[str, Any], asked: str) -> list[str]:
    notices = []
    served = words(raw.get("modelVersion"))
    if served and bare(served) != bare(asked):
        notices.append(f"asked for {bare(asked)}, served by {bare(served)}")
    status = mapping(raw.get("modelStatus"))
    said = [words(status.get(name)) for name in ("modelStage", "message")]
    if retires := words(status.get("retirementTime")):
        said.append(f"retires {retires}")
    if any(said):
        notices.append("model status: " + ", ".join(filter(None, said)))
    return notices


def _judge(judged: _Judged, sink: Sink) -> Reply:
    answer, contents, ending = judged.answer, judged.contents, judged.ending
    if judged.blocked:
        return Refused(answer, "prompt_blocked", again=False)
    if ending in DELIVERED:
        return _deliver(answer, contents, sink) if contents.pictures else _without_picture(judged)
    if ending in DECLINED:
        reason, again = DECLINED[ending]
        return Refused(answer, reason, again)
    if ending in FRUITLESS:
        detail = answer.message or (f"finish reason {ending}" if FRUITLESS[ending] == "other" else "")
        return Unusable(answer, FRUITLESS[ending], detail)
    return Unusable(answer, "unknown_finish_reason", f"finish reason {answer.finish_reason}: {answer.message}")


def _deliver(answer: Answer, contents: Contents, sink: Sink) -> Reply:
    last = contents.pictures.pop()
    contents.pictures.clear()
    data = decode(last.data)
    if not data:
        return Unusable(answer, "broken_image", "the picture is empty or its base64 is broken")
    sink.restart(last.mime)
    sink.write(data)
    return Pictured(answer, last.mime)


def _without_picture(judged: _Judged) -> Unusable:
    answer, contents = judged.answer, judged.contents
    if contents.links:
        detail = f"the picture came as {contents.links[-1]}, not as data; hosted pictures are not fetched"
        return Unusable(answer, "no_image", detail)
    drafts = f"only {contents.drafts} drafts of its thinking" if contents.drafts else ""
    if judged.ending == "MAX_TOKENS":
        return Unusable(answer, "max_tokens", drafts)
    return Unusable(answer, "words_only" if answer.text.strip() else "empty", drafts)
