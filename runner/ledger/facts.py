"""What goes into the ledger's verbs and comes out of them. Plain values, no SQL."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from runner.core.budget import Cap, Spend
from runner.core.lifecycle import State
from runner.core.pricing import Quote
from runner.core.task import Recipe


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job as its manifest now describes it."""

    name: str
    manifest_sha256: str
    output_root: str
    cap: Cap
    config: Mapping[str, object]
    """Anything JSON can say; kept for reports, never interpreted."""


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A picture that is not where its task now says: the file moves from `path` to `stem` with its extension."""

    key: str
    path: str
    stem: str


@dataclass(frozen=True, slots=True)
class InTheWay:
    """A picture of an orphan at the path of a live task: it moves to `superseded/`."""

    key: str
    path: str


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What recording a manifest changed. `total` is its tasks: new + kept + revived + requeued."""

    total: int
    new: int
    kept: int
    revived: int
    """Orphans that the manifest names again."""
    requeued: int
    """Failed tasks put back with fresh tries."""
    orphaned: int
    """Tasks of the job that the manifest no longer names, all of them."""
    misplaced: tuple[Misplaced, ...]
    in_the_way: tuple[InTheWay, ...]


@dataclass(frozen=True, slots=True)
class Claimed:
    """One attempt whose reservation is committed, with all that sending, settling and rescuing it takes."""

    job: str
    task_id: int
    token: str
    number: int
    key: str
    prompt_id: str
    prompt: str
    recipe: Recipe
    size: str
    aspect: str
    stem: str
    """Where this attempt's picture goes, even if the task is renamed meanwhile."""
    tries: int
    refused_tries: int
    quote: Quote
    started_at: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing to claim now. The next task is due at `next_due`; None: only what is in flight may bring one."""

    next_due: float | None


@dataclass(frozen=True, slots=True)
class OverBudget:
    """The next task in order does not fit under the cap."""

    quote: Quote
    key: str
    stem: str
    spend: Spend
    """What was spent and held when it was asked for."""


@dataclass(frozen=True, slots=True)
class Empty:
    """Every live task of the job has ended."""


Claim = Claimed | Waiting | OverBudget | Empty


@dataclass(frozen=True, slots=True)
class Settled:
    """The job's spend after a settle; `recorded` is false if the attempt had already ended: nothing changed."""

    spend: Spend
    recorded: bool


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Where a job is."""

    job: str
    tasks: Mapping[State, int]
    """Live tasks by state; every state is there."""
    orphaned: int
    spend: Spend
    unpriced: int
    """Attempts whose money is not known: if there are any, the spend is not the whole of it."""
    uncounted: int
    """The same for image tokens."""
    cap: Cap
    halted: str | None
    reason: str | None
    output_root: str
    config: Mapping[str, object]
    created_at: float
    updated_at: float
    recent_successes: int
    """Pictures bought in the window that was asked for."""
    last_attempt_at: float | None
    """When an attempt last ended."""
    next_due: float | None
    """The earliest due time of a queued task that has one."""

    @property
    def total(self) -> int:
        """Tasks of the present manifest."""
        return sum(self.tasks.values())


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows of a key."""

    state: State
    reason: str
    live: bool
    stem: str
    path: str | None
    attempts: int

    def goes_back(self, lasting: Collection[str]) -> bool:
        """Whether `run` puts this task back: failed for a cause that may pass."""
        return self.state is State.FAILED and self.reason not in lasting


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One task, for people and programs."""

    key: str
    job: str
    prompt_id: str
    prompt: str
    model: str
    lane: str
    size: str
    aspect: str
    variant: int
    axes: Mapping[str, str]
    live: bool
    state: State
    reason: str
    error: str
    path: str | None
    sha256: str | None
    bytes: int | None
    mime: str | None
    width: int | None
    height: int | None
    image_tokens: int | None
    cost_nanos: int | None
    """All its settled attempts; None if one of them has no known price."""
    unknown_nanos: int | None
    attempts: int
    finish_reason: str | None
    text: str | None
    response_id: str | None
    model_version: str | None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt, for receipts."""

    job: str
    key: str
    token: str
    number: int
    lane: str
    model: str
    endpoint: str
    state: str
    outcome: str | None
    reason: str
    error: str
    status: int | None
    finish_reason: str | None
    reserved_nanos: int | None
    reserved_image_tokens: int | None
    cost_nanos: int | None
    input_tokens: int | None
    text_tokens: int | None
    image_tokens: int | None
    started_at: float
    ended_at: float | None
    latency_s: float | None
    response_id: str | None
    model_version: str | None
    tier: str | None
    path: str | None
    overrun: bool
    adopted: bool


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """Live tasks that stand alike."""

    state: State
    reason: str
    tasks: int
    attempts: int
    cost_nanos: int | None
    """None if the price of one of them is not known."""


@dataclass(frozen=True, slots=True)
class Counters:
    """A job's kept counters, or the same recounted from its rows."""

    spend: Spend
    unpriced: int
    uncounted: int
    tasks: Mapping[str, int] = field(default_factory=dict)
    orphaned: int = 0
