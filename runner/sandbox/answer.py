"""What a request gets if it is admitted: what that costs, and the body of its answer (gemini-api.md §5, §6).

Everything here is a pure function of the sample: what it will cost is known before a picture is drawn. How bytes
leave is in `delivery`, how errors look in `reply`, how tokens and pictures are drawn in `sample`.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from runner.sandbox.reply import ERRORS, LOST, MISSHAPEN, Reply, dump, error_reply
from runner.sandbox.sample import Charge, Image, Json, Sample, Usage, encoded
from runner.sandbox.schema import snake

WORDS = "I cannot draw this one, but here is what I imagined: a picture much like the one you describe."


def price(sample: Sample, fault: str | None) -> Charge | None:
    """What the answer of a sample that meets this fault puts on the bill; None where nothing is generated."""
    if fault is None:
        return _plain_price(sample)
    if fault in ERRORS or fault in MISSHAPEN:
        return None
    if fault in LOST:
        return _plain_price(sample) if _ran(sample, fault) else None
    if fault in PICTURELESS:
        return PICTURELESS[fault](sample)[1].charge(0)
    if fault == "no_usage_refusal":
        return _thinking_usage(sample).charge(0)
    return _plain_price(sample, fault)


def _plain_price(sample: Sample, fault: str | None = None) -> Charge:
    if "IMAGE" not in sample.asked.modalities:
        return _words(sample)[1].charge(0)
    count = _pictures(sample, fault)
    return _unreported(sample, count) if fault == "usage_missing" else sample.usage(count).charge(count)


def answer(sample: Sample, fault: str | None) -> Reply:
    """The reply to a sample that meets this fault."""
    if fault is None:
        return _plain(sample)
    if fault in ERRORS:
        return error_reply(ERRORS[fault](sample))
    if fault in MISSHAPEN:
        return MISSHAPEN[fault]
    if fault in LOST:
        return _lost(sample, fault)
    if fault in PICTURELESS:
        return _without(sample, *PICTURELESS[fault](sample))
    if fault == "no_usage_refusal":
        return _unaccounted(sample)
    return _plain(sample, fault)


def _plain(sample: Sample, fault: str | None = None) -> Reply:
    if "IMAGE" not in sample.asked.modalities:
        return _without(sample, *_words(sample))
    return _pictured(sample, fault)


def _lost(sample: Sample, fault: str) -> Reply:
    made = _plain(sample)
    reply = LOST[fault][0] or replace(made, delivery=fault)
    return replace(reply, sha256=made.sha256 if _ran(sample, fault) else None, answered=False)


def _ran(sample: Sample, fault: str) -> bool:
    """Whether a lost answer was generated."""
    return sample.chance.happens("billed", LOST[fault][1])


def _body(sample: Sample, said: Json, usage: Usage | None) -> Json:
    metadata = {"usageMetadata": usage.wire()} if usage else {}
    return {**said, **metadata, "modelVersion": sample.asked.model.id, "responseId": sample.response_id()}


def _candidate(content: Json | None, finish: str, message: str = "") -> Json:
    """One candidate; what is empty is left out, but `content: {}` is not (§6.3)."""
    said = {"content": content, "finishReason": finish, "finishMessage": message, "index": 0}
    return {"candidates": [{name: value for name, value in said.items() if value not in (None, "")}]}


# --- no picture ------------------------------------------------------------------------------------------------

Said = tuple[Json, Usage]


def _without(sample: Sample, said: Json, usage: Usage) -> Reply:
    return Reply(200, dump(_body(sample, said, usage)), tier=sample.tier)


def _hollow(sample: Sample) -> Json | None:
    """The content of a candidate that has none, in the shapes seen (§6.3)."""
    shapes: tuple[Json | None, ...] = ({}, {"role": "model"}, None)
    return sample.chance.pick("hollow", shapes)


def _thinking_usage(sample: Sample, candidates: int = 0) -> Usage:
    return replace(sample.prompt_usage(), candidates=candidates, thoughts=sample.thoughts())


def _refused(finish: str, message: str) -> Callable[[Sample], Said]:
    """A refusal that reports what it thought and a handful of tokens besides."""

    def said(sample: Sample) -> Said:
        usage = _thinking_usage(sample, sample.chance.whole("beside", 0, 20))
        return _candidate(_hollow(sample), finish, message), usage

    return said


def _unspoken(finish: str, *, content: Json | None = None) -> Callable[[Sample], Said]:
    """An end without a picture that reports its prompt only."""

    def said(sample: Sample) -> Said:
        return _candidate(_hollow(sample) if content is None else content, finish), sample.prompt_usage()

    return said


def _blocked(sample: Sample) -> Said:
    reason = sample.chance.pick("reason", ("PROHIBITED_CONTENT", "PROHIBITED_CONTENT", "SAFETY", "OTHER"))
    return {"promptFeedback": {"blockReason": reason}}, sample.prompt_usage()


def _spoken(finish: str, words: str) -> Callable[[Sample], Said]:
    def said(sample: Sample) -> Said:
        content = {"parts": [{"text": words}], "role": "model"}
        return _candidate(content, finish), _thinking_usage(sample, sample.chance.whole("beside", 15, 200))

    return said


_words = _spoken("STOP", WORDS)


def _total_shape(sample: Sample) -> Said:
    thoughts = sample.chance.whole("thoughts", 100, 800)
    usage = replace(sample.prompt_usage(), candidates=thoughts, thoughts=thoughts, doubled=True)
    return _candidate({}, "IMAGE_SAFETY", _FILTERED), usage


_FILTERED = (
    "Unable to show the generated image. The image was filtered out because it violated Google's Generative AI "
    "Prohibited Use policy. You will not be charged for blocked images. Try rephrasing the prompt."
)
_PROHIBITED = (
    "Unable to show the generated image. It might be close to content of third parties. "
    "You will not be charged for blocked images. Support code: 29310472."
)
_NOT_MADE = "Unable to generate the image. You will not be charged. Try rephrasing the prompt."

PICTURELESS: Mapping[str, Callable[[Sample], Said]] = {
    "image_safety": _refused("IMAGE_SAFETY", _FILTERED),
    "image_other": _refused("IMAGE_OTHER", _NOT_MADE),
    "image_prohibited": _refused("IMAGE_PROHIBITED_CONTENT", _PROHIBITED),
    "image_recitation": _unspoken("IMAGE_RECITATION", content={"role": "model"}),
    "no_image": _unspoken("NO_IMAGE"),
    "prompt_blocked": _blocked,
    "words_only": _words,
    "empty_stop": _refused("STOP", ""),
    "parts_null": _unspoken("STOP", content={"parts": None, "role": "model"}),
    "max_tokens": _spoken("MAX_TOKENS", WORDS[:40]),
    "unknown_finish": _refused("IMAGE_UNDER_REVIEW", "The image is being reviewed."),
    "refusal_total_shape": _total_shape,
}


def _unaccounted(sample: Sample) -> Reply:
    """A refusal that says nothing of tokens: no usage at all, or one that names the tier only (recorded)."""
    body = _body(sample, _candidate(None, "NO_IMAGE"), None)
    if sample.chance.happens("tier only", 0.5):
        body["usageMetadata"] = {"serviceTier": "standard"}
    return Reply(200, dump(body))


# --- with pictures ---------------------------------------------------------------------------------------------


def _pictures(sample: Sample, fault: str | None) -> int:
    return sample.chance.whole("drafts", 2, 3) if fault == "several_images" else 1


def _pictured(sample: Sample, fault: str | None) -> Reply:
    count = _pictures(sample, fault)
    images = [sample.image(fault, draft) for draft in range(1 - count, 1)]
    usage = sample.usage(count)
    parts = [
        *_thoughts(sample, fault, usage),
        *_around(sample, fault, [_image_part(sample, i, fault) for i in images]),
    ]
    content = {"parts": parts, "role": "model"}
    body = _body(sample, _candidate(content, "STOP"), None if fault == "usage_missing" else usage)
    sha256 = hashlib.sha256(images[-1].data).hexdigest()
    delivery = fault if fault in {"trickle", "keepalive_whitespace"} else None
    return Reply(200, dump(_twisted(sample, body, fault)), sha256=sha256, delivery=delivery, tier=sample.tier)


def _image_part(sample: Sample, image: Image, fault: str | None) -> Json:
    return sample.signed({"inlineData": {"mimeType": image.mime, "data": encoded(image.data, fault)}})


def _thoughts(sample: Sample, fault: str | None, usage: Usage) -> list[Json]:
    """Interim words and up to two interim pictures, where they were asked for or forced (§5.3)."""
    forced = fault == "thought_drafts"
    if not forced and not (sample.asked.include_thoughts and usage.thoughts):
        return []
    drafts = sample.chance.whole("thought drafts", 1 if forced else 0, 2)
    images = [sample.image(None, 10 + i) for i in range(drafts)]
    shown = [{"inlineData": {"mimeType": i.mime, "data": encoded(i.data, None)}, "thought": True} for i in images]
    return [{"text": "**Composing** I weigh the colours first.", "thought": True}, *shown]


def _around(sample: Sample, fault: str | None, images: list[Json]) -> list[Json]:
    """Words before or behind the pictures, where TEXT was asked for or the fault puts them first."""
    words = {"text": f"Here is the picture you asked for, at {sample.asked.size} and {sample.asked.aspect}."}
    if fault == "text_first":
        return [words, *images]
    if "TEXT" not in sample.asked.modalities or sample.chance.happens("silent", 0.4):
        return images
    return [words, *images] if sample.chance.happens("words first", 0.5) else [*images, words]


def _unreported(sample: Sample, pictures: int) -> Charge:
    """What a picture costs that comes without usage."""
    image = pictures * sample.asked.image_tokens
    return Charge(sample.asked.prompt_tokens, sample.chance.whole("unreported", 0, 400), image, pictures)


def _twisted(sample: Sample, body: Json, fault: str | None) -> Json:
    """The whole body as routers and newer versions rewrite it (§11)."""
    match fault:
        case "other_version":
            body["modelVersion"] = f"{sample.asked.model.successor or sample.asked.model.id}-001"
            return body
        case "snake_case":
            snaked: Json = _snaked(body)
            return snaked
        case "extra_fields":
            return _extended(body)
        case _:
            return body


def _snaked(value: Any) -> Any:
    if isinstance(value, dict):
        return {snake(name): _snaked(item) for name, item in value.items()}
    return [_snaked(item) for item in value] if isinstance(value, list) else value


def _extended(body: Json) -> Json:
    """Fields nobody has heard of, on every level, and words that look like a picture to a careless scanner."""
    candidate = body["candidates"][0]
    decoy = {"text": '{"inlineData": {"mimeType": "image/png", "data": "aGVsbG8="}}', "tone": "calm"}
    parts = [decoy, *({**part, "renderHints": {"data": "aGVsbG8="}} for part in candidate["content"]["parts"])]
    content = {**candidate["content"], "parts": parts, "locale": "en"}
    usage = {**body["usageMetadata"], "energyMilliwattHours": 3100, "trafficType": "ON_DEMAND"}
    candidates = [{**candidate, "content": content, "avgLogprobs": -0.31, "provenance": {"c2pa": True}}]
    return {**body, "candidates": candidates, "usageMetadata": usage, "modelStatus": {"modelStage": "PREVIEW"}}
