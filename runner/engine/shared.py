"""What the lanes of a run share: how many requests are out, who claims, how the run ends."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import anyio
from anyio.abc import TaskGroup

from runner.core.lifecycle import Outcome
from runner.core.pricing import Settlement
from runner.core.retry import Move
from runner.engine.ports import ImageStore, NoReferences, Provider, References
from runner.ledger import Claimed, Ledger

log = logging.getLogger("bulkrender")

Halt = Literal["budget", "provider", "local", "interrupted"]
RANK: dict[Halt, int] = {"interrupted": 0, "local": 1, "provider": 2, "budget": 3}
"""Which halt a run reports when several apply."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why claiming stopped; `halted` is None when nothing was left to claim."""

    halted: Halt | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """One attempt ended: told to whoever watches the run."""

    attempt: Claimed
    outcome: Outcome
    settlement: Settlement
    move: Move
    latency_s: float


class Shared:
    """Counts, marks and ports of one run."""

    def __init__(
        self,
        ledger: Ledger,
        provider: Provider,
        store: ImageStore,
        *,
        new_token: Callable[[], str],
        references: References | None,
        batch_references: References | None = None,
        watch: Callable[[Ended], None],
        concurrency: int | None,
    ) -> None:
        self.ledger, self.provider, self.store = ledger, provider, store
        self.references: References = NoReferences() if references is None else references
        self.batch_references: References = NoReferences() if batch_references is None else batch_references
        """Of tasks in batches: all of them uploaded."""
        self.new_token, self.watch = new_token, watch
        self.in_flight = 0
        self.bytes_in_flight = 0
        self.remote: Counter[str] = Counter()
        """Batches that are not over, by model."""
        self.harvesting = 0
        """Batches whose results are being settled."""
        self.requeued = 0
        """Tasks that have gone back into the queue."""
        self.detach = False
        """Leave once everything that can be is submitted."""
        self.hurrying = False
        """The deadline is near: what is in batches is taken back, and all the rest goes the quick way."""
        self.ending = Ending()
        self.blocked_by: str | None = None
        """Why storage cannot write what has arrived."""
        self.changes = 0
        self.changed = anyio.Event()
        """Set, and replaced, whenever something lands or may be written again."""
        self.turn = anyio.Lock(fast_acquire=True)
        """Held by the lane that claims."""
        self.crew: TaskGroup
        """Runs the requests."""
        self._claiming = anyio.CancelScope()
        self._most = concurrency
        self._parked: str | None = None

    @property
    def is_full(self) -> bool:
        """Whether as many requests are in flight as may be."""
        return self._most is not None and self.in_flight >= self._most

    @property
    def is_idle(self) -> bool:
        """Whether nothing is out that could still bring a task or room under a cap."""
        return not self.in_flight and not self.remote.total()

    def stop(self, halt: Halt, reason: str) -> None:
        """Claim no more, for this reason; of several the gravest is reported."""
        if self.ending.halted is None or RANK[halt] < RANK[self.ending.halted]:
            self.ending = Ending(halt, reason)
            log.warning("stopping (%s): %s", halt, reason)
        self._claiming.cancel()

    def park(self, reason: str) -> None:
        """Only the calendar opens a model again; the others go on."""
        self._parked = reason
        log.warning("stopping (provider): %s", reason)

    def blocked(self, cause: str | None) -> None:
        """Storage cannot write what has arrived (`cause`), or can again (None): nothing is claimed meanwhile."""
        if cause is not None and self.blocked_by is None:
            log.warning("pictures wait in memory: %s", cause)
        self.blocked_by = cause
        self.change()

    def took_off(self, weight: int) -> None:
        """A request leaves whose answer may have so many bytes."""
        self.in_flight += 1
        self.bytes_in_flight += weight

    def landed(self, weight: int) -> None:
        """Its outcome is booked."""
        self.in_flight -= 1
        self.bytes_in_flight -= weight

    def wake(self) -> None:
        """Whoever waits looks again, though nothing landed."""
        self.changed.set()
        self.changed = anyio.Event()

    def change(self) -> None:
        """Something landed, or may be written again: whoever waits looks again."""
        self.changes += 1
        self.wake()
