"""Batch jobs at the service: what is said of one, and what can come of a request about one (gemini-api.md §8).

Creating is not idempotent (§8.9), so its answer is one of four: the job, certainly none for good, certainly none
for now, or perhaps one. Every answer carries the provider's clock.
"""

from dataclasses import dataclass

from runner.core.lifecycle import Faulted, FileGone, Invalid, Lost, Parked, Stopped, Throttled, Unreached

ACTIVE = frozenset({"UNSPECIFIED", "PENDING", "QUEUED", "RUNNING", "CANCELLING", "PAUSED", "UPDATING"})
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED"})
"""States without their prefix (gemini-api.md §8.5)."""


@dataclass(frozen=True, slots=True)
class Stats:
    """How many requests of a job are where; zero is left out on the wire."""

    requests: int = 0
    pending: int = 0
    succeeded: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job as a whole failed."""

    code: int | None
    """gRPC's."""
    message: str


@dataclass(frozen=True, slots=True)
class Remote:
    """What the service says of a job; empty or None where it does not. Times are seconds since 1970."""

    name: str
    """`batches/…`."""
    display_name: str = ""
    state: str = ""
    """Without its prefix; a state not known is verbatim."""
    created_utc: float | None = None
    updated_utc: float | None = None
    ended_utc: float | None = None
    stats: Stats = Stats()
    responses_file: str | None = None
    """`files/…`: the results."""
    error: Failure | None = None
    model: str = ""
    """Without `models/`."""
    done: bool = False
    seen_utc: float | None = None
    """When it said so, by the provider's clock."""

    @property
    def known(self) -> bool:
        """Whether its state is one of those documented; others are waited for, with a warning."""
        return self.state in ACTIVE or self.state in TERMINAL

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen to it: by its state, or because the operation is done (§8.5)."""
        return self.state in TERMINAL or self.done


@dataclass(frozen=True, slots=True)
class Declined:
    """It will not be done, now or later: nothing was made, nothing changed."""

    reply: Stopped | Invalid | FileGone
    seen_utc: float | None = None


@dataclass(frozen=True, slots=True)
class NotNow:
    """It was not done and may be asked again; of a create, that certainly no job was made."""

    reply: Throttled | Parked | Unreached | Faulted | Lost
    """Faulted and Lost only of requests that may be repeated."""
    seen_utc: float | None = None


@dataclass(frozen=True, slots=True)
class Unsure:
    """The answer to a create was lost, or does not tell: the job may exist (gemini-api.md §8.9)."""

    reply: Faulted | Throttled | Lost
    seen_utc: float | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such job, or it is not of this key's project."""

    message: str
    seen_utc: float | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The service heard it. A cancel takes effect later: look at the state (gemini-api.md §8.11)."""

    seen_utc: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The jobs of one display name in a list that was read to its end."""

    remotes: tuple[Remote, ...]
    seen_utc: float | None
    """When its first page was made, by the provider's clock: what came later may be missing."""
    listed: int
    """How many jobs the list held."""


Creation = Remote | Declined | NotNow | Unsure
"""What comes of a create."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a result file has been taken: what to remember, so that nothing is stored twice after a crash."""

    lines: int = 0
    offset: int = 0
    """In bytes: where the next line begins."""
    digest: str = ""
    """Of all lines before; tells whether a file is still the same one."""


START = Place()
"""Nothing was taken yet."""

PATIENCE = 10
"""Polling slows down tenfold at most."""
EXPIRES_S = 48 * 3600.0
"""A job that is not done by then yields nothing (gemini-api.md §8.1)."""
INPUT_LASTS_S = 47 * 3600.0
"""So long after a batch was made its uploaded input is there, as its project sees it (gemini-api.md §9.2)."""
WARNED_AT_S = (24 * 3600.0, 36 * 3600.0, 44 * 3600.0, 47 * 3600.0)
"""Ages of a job that is not done, of which a person should hear."""


def poll_in_s(age_s: float, poll_s: float) -> float:
    """Seconds until a job of that age is asked about again: a tenth of its age, within bounds.

    It depends on nothing but the age, so that a restart asks no more often than a run that went on.
    """
    return min(PATIENCE * poll_s, max(poll_s, age_s / 10))
