"""What the ledger says of batches. Plain values, no SQL."""

from dataclasses import dataclass

from runner.core.lifecycle import BatchState
from runner.core.remote import Place, Stats


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """Tasks that were taken together, to be sent as one remote batch job. Times are UTC seconds since 1970."""

    id: int
    job: str
    token: str
    """32 hex digits; the display name ends with them."""
    model: str
    endpoint: str
    display_name: str
    state: BatchState
    lines: int
    input_tokens: int
    """Of all its lines, at their worst."""
    file: str | None
    """`files/…`: the input; None before it was uploaded."""
    name: str | None
    """`batches/…`; None before the job was known to exist."""
    remote_state: str
    """As the service said last, without its prefix; empty before."""
    stats: Stats
    results: str | None
    """`files/…`; None while there are none."""
    place: Place
    """How far its results have been taken."""
    made_at: float
    """When its tasks were taken."""
    posted_at: float | None
    """When the last create may have left."""
    posts: int
    """Creates that may have left."""
    created_at: float | None
    """By the provider's clock if it says."""
    looked_at: float | None
    """When it was last learnt how it stands."""
    absent_at: float | None
    """By the provider's clock: the first complete list, since the last create, that lacked it."""
    cancelled_at: float | None
    """When it was first asked to be cancelled."""
    ended_at: float | None
    reason: str
    """How it ended, named, for a program."""
    error: str
    """The same for a person."""

    @property
    def open(self) -> bool:
        """Whether it still has something to wait for."""
        return self.state is not BatchState.OVER


@dataclass(frozen=True, slots=True)
class BatchTally:
    """Attempts of a batch that have ended."""

    answered: int
    """Those the provider answered with a picture, a refusal or words."""
    failed: int
    """The others."""
