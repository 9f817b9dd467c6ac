"""What goes into the ledger's verbs and comes out of them. Plain values, no SQL."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from runner.core.budget import Cap, Spend
from runner.core.learning import Belief
from runner.core.lifecycle import Named, State
from runner.core.limits import Binding, Limits, Need
from runner.core.pricing import Quote, Seen
from runner.core.reference import Reference
from runner.core.task import Recipe
from runner.ledger.batch_facts import BatchRecord


@dataclass(frozen=True, slots=True)
class AccountSpec:
    """The account that a job's manifest names."""

    name: str
    cap: Cap
    """As the manifest or the command line says; neither kind given: as the ledger has it."""
    may_change: bool = False
    """Whether a cap that differs from the ledger's replaces it: only where a person said so for this run."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job as its manifest now describes it."""

    name: str
    manifest_sha256: str
    output_root: str
    cap: Cap
    config: Mapping[str, object]
    """Anything JSON can say; kept for reports, never interpreted."""
    account: AccountSpec | None = None
    drafts: str | None = None
    """The job that its tasks were chosen from."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which cell of a manifest a recorded task is, or was."""

    key: str
    prompt_id: str
    size: str
    aspect: str
    axes: Mapping[str, str]
    variant: int


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
    references: tuple[Reference, ...] = ()
    seen: Seen = field(default_factory=Seen, compare=False)
    """What the quote was made of: an answer that is no larger has nothing to add to it."""
    lane: str = "standard"


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
    cap: Cap
    """The cap that it would pass: the job's or its account's."""
    account: str | None = None
    """The account, where it is its cap."""


@dataclass(frozen=True, slots=True)
class Empty:
    """Every live task of the job has ended."""


@dataclass(frozen=True, slots=True)
class Held:
    """The next task must wait for room under a limit until `until`, or until something lands."""

    binds: Binding
    until: float | None
    limit: int | None = field(default=None, compare=False)
    """As it holds now, where it is a number: requests, tokens, images or nano-dollars."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A refusal or an outage keeps the model, or its endpoint, closed until `until`."""

    reason: str
    until: float
    said: str = ""

    @property
    def binds(self) -> Binding:
        """What it is called."""
        match self.reason:
            case "day" | "month" | "outage":
                return self.reason
            case "unreached":
                return "outage"
            case _:
                return "refused"

    @property
    def parked(self) -> bool:
        """Whether only the calendar opens it again."""
        return self.reason in {"day", "month"}


@dataclass(frozen=True, slots=True)
class Unready:
    """The references of the next task are not ready to be sent."""

    task_id: int
    stem: str
    references: tuple[Reference, ...]


Claim = Claimed | Waiting | OverBudget | Empty | Held | Closed | Unready


@dataclass(frozen=True, slots=True)
class Submitted:
    """A batch whose reservations are committed; nothing has left yet."""

    batch: BatchRecord
    attempts: tuple[Claimed, ...]
    """In the order of its lines."""


@dataclass(frozen=True, slots=True)
class TooFew:
    """Tasks are due, and no group that may share a batch is worth one."""


@dataclass(frozen=True, slots=True)
class Unprepared:
    """References of the next batch are not ready to be sent; each set once, by the first task that has it."""

    wanted: tuple[Unready, ...]


Submission = Submitted | Waiting | OverBudget | Empty | Held | TooFew | Unprepared


@dataclass(frozen=True, slots=True)
class Wish:
    """Where a run sends, and what it is held to there."""

    endpoint: str
    model: str
    limits: Limits = field(default_factory=Limits)
    only: bool = False
    """Whether only tasks of this model are meant: others of the job have wishes of their own."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much more may be in flight."""

    bytes_left: int | None = None
    """None: as many as come."""
    weigh: Callable[[str, str], int] = lambda _size, _aspect: 0
    """Bytes that the answer to a size and an aspect may have."""


ROOM = Room()


@dataclass(frozen=True, slots=True)
class Closing:
    """Nothing is to be sent before `until`; of the whole endpoint where all its models share the limit."""

    reason: str
    until: float
    said: str = ""
    whole_endpoint: bool = False


@dataclass(frozen=True, slots=True)
class Lesson:
    """What an ended attempt says of its model's limits."""

    sent_at: float
    succeeded: bool = False
    blames_the_rate: bool = False
    """It was refused for too many requests, as far as anybody can tell."""
    named: tuple[Named, ...] = ()
    closing: Closing | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What counts against the limits now, and what they are believed to be."""

    limits: Limits
    belief: Belief | None
    closed: Closed | None
    recent: tuple[tuple[float, str, Need], ...]
    """(instant, model, need) of the last ten minutes at this endpoint, oldest first."""
    today: int
    """Requests to the model since midnight Pacific."""
    month_nanos: int
    """Of this month at this endpoint, in this ledger."""
    batches_nanos: int = 0
    """Of these what lines of open batches hold."""
    left: int = 0
    """Tasks of the run's job that have not ended."""
    free_nanos: int | None = None
    """What the caps of the job and its account still let be spent; None without one."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The job's spend after a settle; `recorded` is false if the attempt had already ended: nothing changed."""

    spend: Spend
    recorded: bool


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a live run says of itself."""

    binds: Binding | None
    """What holds it back now; None: nothing but the time that answers take."""
    said: str
    """The same in words."""
    since: float
    """UTC."""
    finish_at: float | None
    """When it will be done as things are; None: never, or nobody can say."""
    finish_without_at: float | None
    """When it would be done without what binds."""
    rpm: int | None
    """Requests a minute that it is held to now."""
    belief: str
    """What it believes of the model's rate, in words; empty where the rate is configured."""
    at: float
    """UTC of these facts."""


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """One cap over many jobs."""

    name: str
    cap: Cap
    spend: Spend
    unpriced: int
    uncounted: int
    jobs: tuple[str, ...]
    """Those that name it now."""


@dataclass(frozen=True, slots=True)
class Drafts:
    """What the job cost that another one's tasks were chosen from."""

    job: str
    spend: Spend
    unpriced: int
    uncounted: int


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
    account: AccountStatus | None = None
    pulse: Pulse | None = None
    """What its live run says of itself; after a crash, what it said last."""
    drafts: Drafts | None = None
    """The job that its tasks were chosen from, if the ledger has it."""
    finals: tuple[str, ...] = ()
    """Jobs whose tasks were chosen from this one."""
    batches: tuple[BatchRecord, ...] = ()
    """Those that are open, oldest first."""
    detached: bool = False
    """Its run has left on purpose: all that could be is submitted."""

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
    draft: str | None = None
    """Key of the task that it was chosen for."""


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
