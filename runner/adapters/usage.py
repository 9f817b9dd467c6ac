"""`usageMetadata` of an answer -> Usage (gemini-api.md §5.2, §5.4). What is zero is left out on the wire."""

from typing import Any

from runner.adapters.wire import count, listing, mapping, words
from runner.core.lifecycle import Usage


def read_usage(raw: dict[str, Any]) -> Usage | None:
    """Token counts, or None where the answer carries none at all."""
    prompt, tools = count(raw.get("promptTokenCount")), count(raw.get("toolUsePromptTokenCount"))
    candidates, thoughts = count(raw.get("candidatesTokenCount")), count(raw.get("thoughtsTokenCount"))
    total = count(raw.get("totalTokenCount"))
    image = _itemised(raw.get("candidatesTokensDetails"))
    if all(n is None for n in (prompt, tools, candidates, thoughts, total, image)):
        return None
    asked, thought = (prompt or 0) + (tools or 0), thoughts or 0
    if candidates is None:
        candidates = max(0, (total or 0) - asked - thought)
    elif thought and candidates == thought and total == asked + thought:
        candidates = 0  # some refusals report their thinking a second time as candidates
    return Usage(asked, max(candidates, image or 0), thought, image, total)


def _itemised(details: object) -> int | None:
    """IMAGE tokens of the details; None where they do not say: some answers itemise nothing, some only text."""
    entries = [mapping(entry) for entry in listing(details)]
    return (
        sum(count(e.get("tokenCount")) or 0 for e in entries if words(e.get("modality")).upper() == "IMAGE")
        or None
    )
