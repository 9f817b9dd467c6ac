"""States of a task and outcomes of an attempt: the vocabulary every other module speaks.

Where a task goes from an outcome is `retry.decide`; what an outcome costs is `pricing.settlement`.
"""

from dataclasses import dataclass
from enum import StrEnum

from runner.core.limits import Dimension


class State(StrEnum):
    """Where a task is. A budget halt is a condition on claiming, not a state."""

    QUEUED = "queued"
    RUNNING = "running"
    SUBMITTED = "submitted"
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    FAILED = "failed"


TERMINAL = frozenset({State.SUCCEEDED, State.REFUSED, State.FAILED})

MOVES = {
    State.QUEUED: frozenset({State.RUNNING, State.SUBMITTED}),
    State.RUNNING: frozenset({State.QUEUED, *TERMINAL}),
    State.SUBMITTED: frozenset({State.QUEUED, *TERMINAL}),
    State.SUCCEEDED: frozenset({State.QUEUED}),
    State.REFUSED: frozenset({State.QUEUED}),
    State.FAILED: frozenset({State.QUEUED}),
}
"""Allowed moves; a terminal task goes back to `queued` only by `run` or `retry`."""


class AttemptState(StrEnum):
    """How an attempt stands with the budget."""

    RUNNING = "running"
    """Its reservation is held."""
    SETTLED = "settled"
    """Its cost is known and spent."""
    RELEASED = "released"
    """It cost nothing."""
    UNKNOWN = "unknown"
    """It may have left and was never fully answered: it keeps its hold."""


class Verdict(StrEnum):
    """What a person found out about an unknown attempt: from then on its recorded reason."""

    WRITTEN_OFF = "written_off"
    """It was bought, as far as anybody can tell: settled at what it held."""
    RELEASED = "released_by_hand"
    """It was not."""


GONE = "gone"
"""Recorded as the outcome of an attempt whose picture came, and of which a person said later that it is lost."""


class BatchState(StrEnum):
    """How far the submission of tasks as one remote batch job is."""

    INTENT = "intent"
    """Its tasks are taken and nothing was asked for: it may be submitted."""
    CREATING = "creating"
    """A create may have left: whether the job exists must be found out, never assumed (gemini-api.md §8.9)."""
    CREATED = "created"
    """The remote job is known by name."""
    OVER = "over"
    """None of its attempts is left open."""


@dataclass(frozen=True, slots=True)
class Usage:
    """`usageMetadata` of an answer, in tokens; fields left out on the wire are zero (gemini-api.md §5.2)."""

    prompt: int = 0
    """promptTokenCount + toolUsePromptTokenCount."""
    candidates: int = 0
    thoughts: int = 0
    image: int | None = None
    """Itemised IMAGE tokens of candidatesTokensDetails; None where nothing is itemised."""
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP 200 said, apart from the picture itself."""

    finish_reason: str | None = None
    """Verbatim, unknown values included; `BLOCKED:<reason>` for a blocked prompt."""
    message: str = ""
    """finishMessage or blockReasonMessage."""
    text: str = ""
    """The words beside or instead of the picture; thoughts left out."""
    usage: Usage | None = None
    """None where the answer carried no token count at all."""
    pictures: int = 0
    """Image parts that are not thoughts; the last one is the result."""
    response_id: str | None = None
    model_version: str | None = None
    tier: str | None = None
    """Service tier that served it, as the header or the usage says."""
    notices: tuple[str, ...] = ()
    """Things a person should hear of, such as modelStatus."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A stored picture: facts, never bytes."""

    path: str
    """Below the output root, `/` between segments."""
    sha256: str
    bytes: int
    mime: str
    """What the bytes are, whatever the answer called them."""
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Pictured:
    """The provider's half of a success: the last image is in the sink, storage has yet to judge it."""

    answer: Answer
    mime: str
    """As the answer called it."""


@dataclass(frozen=True, slots=True)
class Made:
    """The picture that was paid for, verified and durable on disk."""

    answer: Answer
    picture: Picture


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider declined the content; `again` where another sample may pass."""

    answer: Answer
    reason: str
    """`prompt_blocked`, `image_safety`, `prohibited_content`, `recitation`, `blocklist`, `spii`, `safety`."""
    again: bool


@dataclass(frozen=True, slots=True)
class Unusable:
    """Answered in full without an acceptable picture."""

    answer: Answer
    reason: str
    """`no_image`, `image_other`, `words_only`, `empty`, `max_tokens`, `other`, `unknown_finish_reason`,
    `wrong_pixels`, `broken_image`."""
    detail: str = ""
    picture: Picture | None = None
    """The rejected picture, kept under `rejected/`; None where there was none."""


@dataclass(frozen=True, slots=True)
class Named:
    """A limit that a refusal names."""

    dimension: Dimension
    value: int | None = None
    """Its `quotaValue`: requests, tokens or images; None where it names none."""


@dataclass(frozen=True, slots=True)
class Throttled:
    """429 or 503 that passes: not a try. It closes the gate of its model."""

    status: int
    reason: str
    """`minute`, `spend_window`, `unnamed` or `capacity`."""
    message: str
    retry_after_s: float | None = None
    named: tuple[Named, ...] = ()


@dataclass(frozen=True, slots=True)
class Parked:
    """A limit that only the calendar lifts: not a try. Nothing is sent to its model before."""

    status: int
    reason: str
    """`day` or `month`."""
    message: str
    retry_after_s: float | None = None
    named: tuple[Named, ...] = ()


@dataclass(frozen=True, slots=True)
class Faulted:
    """Any other error status. `billed_unknown` for those that may have been billed (408, 499, 504)."""

    status: int
    message: str
    billed_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Invalid:
    """The provider calls this very request invalid; sending it again cannot help."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class FileGone:
    """The service no longer has a file that the request names, or cannot use it (gemini-api.md §9, §12)."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Unreached:
    """The request never left: refused, DNS, TLS, no free connection. Not a try, and free."""

    cause: str


@dataclass(frozen=True, slots=True)
class Lost:
    """It left and was never fully answered, or answered with neither usage nor picture: money unknown."""

    reason: str
    """`connection_broken`, `timed_out`, `body_cut`, `not_an_answer`, `crashed`; of a batch also `line_missing`,
    `results_gone`, `batch_lost`, `batch_gone`, `batch_failed`, `batch_expired`, `batch_cancelled`."""
    cause: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The provider will not serve this run at all: key, model, quota, credits. Not a try."""

    status: int
    reason: str
    """`key`, `model_gone`, `no_quota`, `credits`, `billing`, `endpoint` (not the API at all)."""
    message: str


@dataclass(frozen=True, slots=True)
class Unstored:
    """Paid for, and this machine could not keep it. Not a try."""

    answer: Answer
    cause: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The run left before the answer came; `left` if the request may have been sent. Not a try."""

    left: bool


@dataclass(frozen=True, slots=True)
class Undone:
    """Its batch ended without doing it, as far as the provider says: free. `tried` where that is a try."""

    reason: str
    """`batch_failed`, `batch_expired`, `batch_cancelled`, `batch_absent`, `withdrawn`, `line_missing`."""
    cause: str
    tried: bool = False


Reply = (
    Pictured | Refused | Unusable | Throttled | Parked | Faulted | Invalid | FileGone | Unreached | Lost | Stopped
)
"""What a provider says of one request."""

Outcome = (
    Made
    | Refused
    | Unusable
    | Throttled
    | Parked
    | Faulted
    | Invalid
    | FileGone
    | Unreached
    | Lost
    | Stopped
    | Unstored
    | Interrupted
    | Undone
)
"""How one attempt ended."""
