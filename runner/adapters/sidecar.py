"""The JSON file beside every picture: who it is, what was answered, which bytes it vouches for.

It is all that a run needs to settle an attempt whose picture reached the disk before a crash. No secret is in it.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, get_type_hints

from runner.core.lifecycle import Answer, Made, Picture, Unusable, Usage

FORMAT = 1
"""Raised when an older program could no longer read what a newer one writes."""

MADE = "made"
"""Verdict of a picture that is what was paid for; any other verdict is a reason of `Unusable`."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is known of one picture of one attempt."""

    key: str
    job: str
    attempt: str
    """Token of the attempt."""
    model: str
    prompt: str
    size: str
    aspect: str
    verdict: str
    detail: str
    file: str
    """Name of the picture, in the same folder."""
    sha256: str
    bytes: int
    mime: str
    width: int
    height: int
    answer: Answer

    def same_attempt(self, other: "Sidecar") -> bool:
        """Whether both belong to one attempt."""
        return (self.key, self.attempt) == (other.key, other.attempt)

    def outcome(self, path: str) -> Made | Unusable:
        """The outcome it records, for a picture at `path` below the output root."""
        picture = Picture(path, self.sha256, self.bytes, self.mime, self.width, self.height)
        if self.verdict == MADE:
            return Made(self.answer, picture)
        return Unusable(self.answer, self.verdict, self.detail, picture)


def dump(sidecar: Sidecar) -> bytes:
    """A sidecar as people and `load` read it."""
    document = {"bulkrender": FORMAT, **asdict(sidecar)}
    try:
        return json.dumps(document, ensure_ascii=False, indent=1).encode()
    except UnicodeEncodeError:  # half a surrogate pair in the words of a model: only escapes can hold it
        return json.dumps(document, indent=1).encode()


def load(raw: bytes) -> Sidecar | None:
    """Read a sidecar; None for any file that is not one."""
    try:
        document = json.loads(raw)
        if document.pop("bulkrender") != FORMAT:
            return None
        answer = document.pop("answer")
        usage = answer.pop("usage")
        answer["notices"] = tuple(answer["notices"])
        said = _build(Answer, {**answer, "usage": None if usage is None else _build(Usage, usage)})
        found = _build(Sidecar, {**document, "answer": said})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return None if "/" in found.file else found


def _build(cls: type[T], values: dict[str, Any]) -> T:
    """A dataclass from JSON values of the right types; fields of a later version are left out."""
    hints = get_type_hints(cls)
    hints["notices"] = tuple
    known = {field.name: values[field.name] for field in fields(cls) if field.name in values}  # type: ignore[arg-type]
    for name, value in known.items():
        if not isinstance(value, hints[name]):
            raise TypeError(f"{name} is {type(value).__name__}")
    return cls(**known)
