"""The tables. What may never be true of a row is a constraint here, not a check elsewhere.

Money is integer nano-dollars, time is UTC seconds since 1970. NULL money is not known, which is never zero: it
stays NULL through every sum of a task, and a job counts such attempts in `unpriced` and `uncounted`.
"""

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    Enum,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from runner.core.lifecycle import AttemptState, BatchState, State

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

ID = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER is SQLite's own row id
MAYBE_JSON = JSON(none_as_null=True)

WAITING = text("state = 'queued' AND live")
"""A task that may be claimed. Said in these very words wherever the partial index is meant: a bound parameter
would hide it from the planner."""
IN_FLIGHT = text("state = 'running'")
OPEN = text("state <> 'over'")
"""A batch that there is still something to wait for."""

SPENT = (
    "settled_nanos",
    "reserved_nanos",
    "unknown_nanos",
    "settled_image_tokens",
    "reserved_image_tokens",
    "unknown_image_tokens",
    "unpriced",
    "uncounted",
)
"""What a job and an account count of money and image tokens."""


def _values(kind: type[StrEnum]) -> Enum:
    return Enum(
        kind,
        native_enum=False,
        create_constraint=True,
        name="state",
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


def _never_negative(*columns: str) -> CheckConstraint:
    return CheckConstraint(" AND ".join(f"{column} >= 0" for column in columns), name="never_negative")


class LedgerRow(SQLModel, table=True):
    """What kind of money this ledger is about. One row."""

    __tablename__ = "ledger"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint("kind IN ('live', 'sandbox')", name="kind"),
    )

    id: int = Field(default=1, sa_type=Integer, primary_key=True)
    kind: str = Field(sa_type=Text)
    created_at: float = Field(sa_type=Double)


class AccountRow(SQLModel, table=True):
    """One cap that many jobs hold against, with counters like a job's."""

    __tablename__ = "account"
    __table_args__ = (UniqueConstraint("name"), _never_negative(*SPENT))

    id: int | None = Field(default=None, sa_type=ID, primary_key=True)
    name: str = Field(sa_type=Text)
    cap_nanos: int | None = Field(default=None, sa_type=BigInteger)
    cap_image_tokens: int | None = Field(default=None, sa_type=BigInteger)
    settled_nanos: int = Field(default=0, sa_type=BigInteger)
    reserved_nanos: int = Field(default=0, sa_type=BigInteger)
    unknown_nanos: int = Field(default=0, sa_type=BigInteger)
    settled_image_tokens: int = Field(default=0, sa_type=BigInteger)
    reserved_image_tokens: int = Field(default=0, sa_type=BigInteger)
    unknown_image_tokens: int = Field(default=0, sa_type=BigInteger)
    unpriced: int = Field(default=0, sa_type=BigInteger)
    uncounted: int = Field(default=0, sa_type=BigInteger)
    created_at: float = Field(sa_type=Double)
    updated_at: float = Field(sa_type=Double)


class JobRow(SQLModel, table=True):
    """A manifest under its name, with counters that move in the transaction of what they count."""

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("name"),
        _never_negative(*SPENT, *State, "orphaned"),
        CheckConstraint(
            "halted IS NULL OR halted IN ('budget', 'provider', 'local', 'interrupted')",
            name="halted",
        ),
    )

    id: int | None = Field(default=None, sa_type=ID, primary_key=True)
    name: str = Field(sa_type=Text)
    manifest_sha256: str = Field(sa_type=Text)
    config: dict[str, Any] = Field(sa_type=JSON)
    output_root: str = Field(sa_type=Text, index=True)
    cap_nanos: int | None = Field(default=None, sa_type=BigInteger)
    cap_image_tokens: int | None = Field(default=None, sa_type=BigInteger)
    settled_nanos: int = Field(default=0, sa_type=BigInteger)
    reserved_nanos: int = Field(default=0, sa_type=BigInteger)
    unknown_nanos: int = Field(default=0, sa_type=BigInteger)
    settled_image_tokens: int = Field(default=0, sa_type=BigInteger)
    reserved_image_tokens: int = Field(default=0, sa_type=BigInteger)
    unknown_image_tokens: int = Field(default=0, sa_type=BigInteger)
    unpriced: int = Field(default=0, sa_type=BigInteger)
    """Attempts whose money is not known at all."""
    uncounted: int = Field(default=0, sa_type=BigInteger)
    """Attempts whose image tokens are not known at all."""
    queued: int = Field(default=0, sa_type=BigInteger)
    running: int = Field(default=0, sa_type=BigInteger)
    submitted: int = Field(default=0, sa_type=BigInteger)
    succeeded: int = Field(default=0, sa_type=BigInteger)
    refused: int = Field(default=0, sa_type=BigInteger)
    failed: int = Field(default=0, sa_type=BigInteger)
    """The six states count live tasks only; these are the rest:"""
    orphaned: int = Field(default=0, sa_type=BigInteger)
    halted: str | None = Field(default=None, sa_type=Text)
    reason: str | None = Field(default=None, sa_type=Text)
    created_at: float = Field(sa_type=Double)
    updated_at: float = Field(sa_type=Double)
    account_id: int | None = Field(default=None, sa_type=ID, foreign_key="account.id")
    """What its next attempts hold against besides its own cap."""
    drafts: str | None = Field(default=None, sa_type=Text)
    """Name of the job that its tasks were chosen from."""


class PromptRow(SQLModel, table=True):
    """A prompt's text, once however many tasks use it."""

    __tablename__ = "prompt"
    __table_args__ = (UniqueConstraint("sha256"),)

    id: int | None = Field(default=None, sa_type=ID, primary_key=True)
    sha256: str = Field(sa_type=Text)
    text: str = Field(sa_type=Text)


class RecipeRow(SQLModel, table=True):
    """A `core.task.Recipe` as canonical JSON, once."""

    __tablename__ = "recipe"
    __table_args__ = (UniqueConstraint("sha256"),)

    id: int | None = Field(default=None, sa_type=ID, primary_key=True)
    sha256: str = Field(sa_type=Text)
    model: str = Field(sa_type=Text)
    body: str = Field(sa_type=Text)


class ReferenceRow(SQLModel, table=True):
    """The reference pictures of a task, a list of `core.reference.Reference` as canonical JSON, once."""

    __tablename__ = "reference"
    __table_args__ = (UniqueConstraint("sha256"),)

    id: int | None = Field(default=None, sa_type=ID, primary_key=True)
    sha256: str = Field(sa_type=Text)
    body: str = Field(sa_type=Text)


class UploadRow(SQLModel, table=True):
    """A file at the service, by the content that was uploaded; it is gone at `expires_at` (gemini-api.md §9)."""

    __tablename__ = "upload"

    endpoint: str = Field(sa_type=Text, primary_key=True)
    sha256: str = Field(sa_type=Text, primary_key=True)
    name: str = Field(sa_type=Text)
    uri: str = Field(sa_type=Text)
    mime: str = Field(sa_type=Text)
    expires_at: float = Field(sa_type=Double)


class TaskRow(SQLModel, table=True):
    """One image to buy. `live` is false once the manifest no longer names it."""

    __tablename__ = "task"
    __table_args__ = (
        UniqueConstraint("job_id", "key"),
        _never_negative("tries", "refused_tries", "attempts", "cost_nanos", "unknown_nanos", "image_tokens"),
        CheckConstraint("state <> 'succeeded' OR path IS NOT NULL", name="success_has_picture"),
        CheckConstraint("(path IS NULL) = (path_folded IS NULL)", name="path_folded_with_path"),
        Index(None, "job_id", "position"),
        # due_at and the recipe, which says the model, are in it so that tasks that wait are passed over without
        # reading their rows
        Index(
            "ix_task_waiting",
            *("job_id", "position", "due_at", "recipe_row"),
            sqlite_where=WAITING,
            postgresql_where=WAITING,
        ),
        Index(
            "ix_task_due",
            "job_id",
            "due_at",
            sqlite_where=text("state = 'queued' AND live AND due_at IS NOT NULL"),
            postgresql_where=text("state = 'queued' AND live AND due_at IS NOT NULL"),
        ),
    )

    id: int | None = Field(default=None, sa_type=ID, primary_key=True)
    job_id: int = Field(sa_type=ID, foreign_key="job.id")
    key: str = Field(sa_type=Text)
    prompt_id: str = Field(sa_type=Text)
    """The prompt's name in the manifest."""
    prompt_row: int = Field(sa_type=ID, foreign_key="prompt.id")
    recipe_row: int = Field(sa_type=ID, foreign_key="recipe.id")
    size: str = Field(sa_type=Text)
    aspect: str = Field(sa_type=Text)
    axes: dict[str, str] = Field(sa_type=JSON)
    variant: int = Field(sa_type=Integer)
    stem: str = Field(sa_type=Text)
    folded: str = Field(sa_type=Text)
    """`stem` as paths are compared: case-folded."""
    position: int = Field(sa_type=BigInteger)
    state: State = Field(default=State.QUEUED, sa_type=_values(State))
    due_at: float | None = Field(default=None, sa_type=Double)
    live: bool = Field(default=True)
    tries: int = Field(default=0, sa_type=Integer)
    refused_tries: int = Field(default=0, sa_type=Integer)
    attempts: int = Field(default=0, sa_type=Integer)
    reason: str = Field(default="", sa_type=Text)
    error: str = Field(default="", sa_type=Text)
    cost_nanos: int | None = Field(default=0, sa_type=BigInteger)
    """All settled attempts; NULL once one of them has no known price."""
    unknown_nanos: int | None = Field(default=0, sa_type=BigInteger)
    image_tokens: int | None = Field(default=0, sa_type=BigInteger)
    finish_reason: str | None = Field(default=None, sa_type=Text)
    text: str | None = Field(default=None, sa_type=Text)
    response_id: str | None = Field(default=None, sa_type=Text)
    model_version: str | None = Field(default=None, sa_type=Text)
    path: str | None = Field(default=None, sa_type=Text)
    path_folded: str | None = Field(default=None, sa_type=Text)
    """`path` without its extension, case-folded."""
    sha256: str | None = Field(default=None, sa_type=Text)
    bytes: int | None = Field(default=None, sa_type=BigInteger)
    mime: str | None = Field(default=None, sa_type=Text)
    width: int | None = Field(default=None, sa_type=Integer)
    height: int | None = Field(default=None, sa_type=Integer)
    reference_row: int | None = Field(default=None, sa_type=ID, foreign_key="reference.id")
    draft: str | None = Field(default=None, sa_type=Text)
    """Key of the task, of the job's `drafts`, that it was chosen for."""


class BatchRow(SQLModel, table=True):
    """Tasks taken together, to be sent as one remote batch job."""

    __tablename__ = "batch"
    __table_args__ = (
        UniqueConstraint("token"),
        _never_negative("input_tokens", "posts"),
        CheckConstraint("length(token) = 32", name="token"),
        CheckConstraint("lines > 0", name="lines"),
        CheckConstraint("state <> 'created' OR name IS NOT NULL", name="created_has_name"),
        CheckConstraint("(state = 'over') = (ended_at IS NOT NULL)", name="ended"),
        Index("ix_batch_open", "job_id", sqlite_where=OPEN, postgresql_where=OPEN),
        Index(
            "ix_batch_remote",
            *("endpoint", "name"),
            unique=True,
            sqlite_where=text("name IS NOT NULL"),
            postgresql_where=text("name IS NOT NULL"),
        ),
    )

    id: int | None = Field(default=None, sa_type=ID, primary_key=True)
    token: str = Field(sa_type=Text)
    job_id: int = Field(sa_type=ID, foreign_key="job.id")
    model: str = Field(sa_type=Text)
    endpoint: str = Field(sa_type=Text)
    display_name: str = Field(sa_type=Text)
    state: BatchState = Field(default=BatchState.INTENT, sa_type=_values(BatchState))
    lines: int = Field(sa_type=Integer)
    input_tokens: int = Field(sa_type=BigInteger)
    """Of all its lines, at their worst."""
    file: str | None = Field(default=None, sa_type=Text)
    """`files/…`: the input."""
    name: str | None = Field(default=None, sa_type=Text)
    """`batches/…`."""
    remote_state: str = Field(default="", sa_type=Text)
    stats: dict[str, int] = Field(default_factory=dict, sa_type=JSON)
    """A `core.remote.Stats`."""
    results: str | None = Field(default=None, sa_type=Text)
    """`files/…`."""
    place: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    """A `core.remote.Place`: how far the results have been taken."""
    made_at: float = Field(sa_type=Double)
    posted_at: float | None = Field(default=None, sa_type=Double)
    posts: int = Field(default=0, sa_type=Integer)
    """Creates that may have left."""
    created_at: float | None = Field(default=None, sa_type=Double)
    looked_at: float | None = Field(default=None, sa_type=Double)
    absent_at: float | None = Field(default=None, sa_type=Double)
    """By the provider's clock: the first complete list, since the last create, that lacked it."""
    cancelled_at: float | None = Field(default=None, sa_type=Double)
    """When it was first asked to be cancelled."""
    ended_at: float | None = Field(default=None, sa_type=Double)
    reason: str = Field(default="", sa_type=Text)
    error: str = Field(default="", sa_type=Text)


class AttemptRow(SQLModel, table=True):
    """One request for a task, or one line of a batch: what was held, what it cost, what came of it."""

    __tablename__ = "attempt"
    __table_args__ = (
        UniqueConstraint("token"),
        UniqueConstraint("task_id", "number"),
        _never_negative(
            "reserved_nanos", "reserved_image_tokens", "cost_nanos", "input_tokens", "text_tokens", "image_tokens"
        ),
        CheckConstraint("length(token) = 32", name="token"),
        CheckConstraint("(state = 'running') = (ended_at IS NULL)", name="ended"),
        CheckConstraint("state = 'settled' OR cost_nanos IS NULL", name="only_settled_costs"),
        CheckConstraint("state = 'settled' OR image_tokens IS NULL", name="only_settled_has_tokens"),
        CheckConstraint("lane IN ('standard', 'batch')", name="lane"),
        CheckConstraint("(lane = 'batch') = (batch_row IS NOT NULL)", name="lane_has_batch"),
        # unique: a task has one live attempt
        Index(
            "ix_attempt_in_flight",
            "job_id",
            "task_id",
            unique=True,
            sqlite_where=IN_FLIGHT,
            postgresql_where=IN_FLIGHT,
        ),
        Index(None, "job_id", "ended_at"),
        Index(None, "endpoint", "sent_at"),
        Index(None, "endpoint", "changed"),
        Index(None, "batch_row"),
    )

    id: int | None = Field(default=None, sa_type=ID, primary_key=True)
    token: str = Field(sa_type=Text)
    task_id: int = Field(sa_type=ID, foreign_key="task.id")
    job_id: int = Field(sa_type=ID, foreign_key="job.id")
    number: int = Field(sa_type=Integer)
    """Of its task, from 1."""
    lane: str = Field(default="standard", sa_type=Text)
    model: str = Field(sa_type=Text)
    endpoint: str = Field(sa_type=Text)
    """Where it was sent; no secrets."""
    stem: str = Field(sa_type=Text)
    """Where its picture goes; the task's may change while it is out."""
    state: AttemptState = Field(default=AttemptState.RUNNING, sa_type=_values(AttemptState))
    reserved_nanos: int | None = Field(default=None, sa_type=BigInteger)
    reserved_image_tokens: int | None = Field(default=None, sa_type=BigInteger)
    reserved_text_tokens: int = Field(sa_type=BigInteger)
    reserved_input_tokens: int = Field(sa_type=BigInteger)
    started_at: float = Field(sa_type=Double)
    ended_at: float | None = Field(default=None, sa_type=Double)
    latency_s: float | None = Field(default=None, sa_type=Double)
    outcome: str | None = Field(default=None, sa_type=Text)
    """Name of the `core.lifecycle.Outcome`, in lower case; `gone`: made, and its picture was lost since."""
    reason: str = Field(default="", sa_type=Text)
    error: str = Field(default="", sa_type=Text)
    status: int | None = Field(default=None, sa_type=Integer)
    """HTTP status; NULL where none came."""
    finish_reason: str | None = Field(default=None, sa_type=Text)
    cost_nanos: int | None = Field(default=None, sa_type=BigInteger)
    input_tokens: int | None = Field(default=None, sa_type=BigInteger)
    text_tokens: int | None = Field(default=None, sa_type=BigInteger)
    image_tokens: int | None = Field(default=None, sa_type=BigInteger)
    usage: dict[str, int | None] | None = Field(default=None, sa_type=MAYBE_JSON)
    response_id: str | None = Field(default=None, sa_type=Text)
    model_version: str | None = Field(default=None, sa_type=Text)
    tier: str | None = Field(default=None, sa_type=Text)
    path: str | None = Field(default=None, sa_type=Text)
    """Its picture, a rejected one included."""
    sha256: str | None = Field(default=None, sa_type=Text)
    overrun: bool = Field(default=False)
    """It cost more than was reserved."""
    adopted: bool = Field(default=False)
    """Its picture was found on disk after a crash."""
    sent_at: float | None = Field(default=None, sa_type=Double)
    """When it was written to the wire, or the latest moment at which that may have been; NULL while nobody knows
    that it left, and for good where it never did or went as a line of a batch."""
    pictures: int | None = Field(default=None, sa_type=Integer)
    """Pictures in its answer."""
    account_id: int | None = Field(default=None, sa_type=ID, foreign_key="account.id")
    changed: int = Field(default=0, sa_type=BigInteger)
    """Grows over all attempts with every change of one: who has seen it has seen all that changed before."""
    batch_row: int | None = Field(default=None, sa_type=ID, foreign_key="batch.id")
    """The batch it is a line of."""


class AllowanceRow(SQLModel, table=True):
    """The largest seen: text tokens of an answer, image tokens of a picture, pictures, tokens of a reference."""

    __tablename__ = "allowance"
    __table_args__ = (CheckConstraint("kind IN ('text', 'image', 'pictures', 'reference')", name="kind"),)

    model: str = Field(sa_type=Text, primary_key=True)
    kind: str = Field(sa_type=Text, primary_key=True)
    setting: str = Field(sa_type=Text, primary_key=True)
    """Thinking level (empty: none), size, or nothing."""
    tokens: int = Field(sa_type=BigInteger)
    """Of `pictures`: how many."""
    since: int = Field(default=0, sa_type=BigInteger)
    """Answers since then that had fewer `pictures`."""


class QuotaRow(SQLModel, table=True):
    """What is known of a model's limits at an endpoint, shared by all that send there and kept over restarts.

    The row whose model is empty is the endpoint's own.
    """

    __tablename__ = "quota"

    endpoint: str = Field(sa_type=Text, primary_key=True)
    model: str = Field(sa_type=Text, primary_key=True)
    closed_until: float | None = Field(default=None, sa_type=Double)
    """Nothing is sent before."""
    closed_by: str | None = Field(default=None, sa_type=Text)
    """Reason of the refusal, or `outage`."""
    said: str = Field(default="", sa_type=Text)
    belief: dict[str, Any] | None = Field(default=None, sa_type=MAYBE_JSON)
    """A `core.learning.Belief` of requests a minute."""
    named: dict[str, Any] | None = Field(default=None, sa_type=MAYBE_JSON)
    """Other limits as refusals named them: dimension -> [value, when]."""
    updated_at: float = Field(sa_type=Double)


class PulseRow(SQLModel, table=True):
    """What a live run says of itself, of each model: what it waits for, and what holds it back."""

    __tablename__ = "pulse"

    job_id: int = Field(sa_type=ID, primary_key=True, foreign_key="job.id")
    endpoint: str = Field(sa_type=Text)
    model: str = Field(sa_type=Text, primary_key=True)
    waits_for: str | None = Field(default=None, sa_type=Text)
    """A full limit whose next room it wants."""
    waiting_since: float | None = Field(default=None, sa_type=Double)
    back_at: float | None = Field(default=None, sa_type=Double)
    """When it will ask again; who is late is not waited for."""
    facts: dict[str, Any] | None = Field(default=None, sa_type=MAYBE_JSON)
    """What binds, since when, and when it will be done: `ledger.facts.Pulse`."""
    updated_at: float = Field(sa_type=Double)


def _table(row: type[SQLModel]) -> Table:
    return SQLModel.metadata.tables[str(row.__tablename__)]


ledger, job, prompt, recipe = _table(LedgerRow), _table(JobRow), _table(PromptRow), _table(RecipeRow)
task, attempt, allowance = _table(TaskRow), _table(AttemptRow), _table(AllowanceRow)
account, quota, pulse = _table(AccountRow), _table(QuotaRow), _table(PulseRow)
reference, upload, batch = _table(ReferenceRow), _table(UploadRow), _table(BatchRow)
