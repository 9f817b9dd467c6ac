"""What a crash left behind, mended before anything is claimed.

An attempt that was in flight is adopted from its sidecar if its picture is whole on disk; otherwise it may have
been bought and keeps its hold as unknown.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.to_thread

from runner.core.catalog import Catalog
from runner.core.errors import RunnerError
from runner.core.lifecycle import AttemptState, Lost, Outcome
from runner.core.pricing import PriceSheet, settlement
from runner.core.retry import RetryPolicy, Tries, decide
from runner.engine.execute import assignment
from runner.engine.ports import Clock, ImageStore
from runner.ledger import Claimed, Ledger

log = logging.getLogger("bulkrender")

READERS = 8
"""Pictures looked for at once."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """Attempts that an earlier run left in flight, by what became of them."""

    adopted: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Rescue:
    """Settles attempts of a dead run; only the holder of the job's lock may use it."""

    ledger: Ledger
    store: ImageStore
    clock: Clock
    catalog: Catalog
    sheet_of: Callable[[str], PriceSheet]
    """Price sheet of a model id: a dead run may have rendered another model than the manifest names now."""
    retry: RetryPolicy

    async def mend(self, job: str) -> Rescued:
        """Settle every attempt of the job that is still `running`."""
        reading = anyio.CapacityLimiter(READERS)
        adopted: list[bool] = []
        failed: list[RunnerError] = []

        async def settle(attempt: Claimed) -> None:
            try:
                adopted.append(await self._settle(job, attempt, reading))
            except RunnerError as error:  # as a value: a task group would wrap it
                failed.append(error)

        running = await anyio.to_thread.run_sync(self.ledger.reader.running, job)
        async with anyio.create_task_group() as together:  # so that they share a commit
            for attempt in running:
                together.start_soon(settle, attempt)
        for error in failed:
            raise error
        return Rescued(sum(adopted), len(adopted) - sum(adopted))

    async def _settle(self, job: str, attempt: Claimed, reading: anyio.CapacityLimiter) -> bool:
        task = assignment(job, attempt, self.catalog.find(attempt.recipe.model))
        found = await anyio.to_thread.run_sync(self.store.adopt, task, limiter=reading)
        outcome: Outcome = found or Lost("crashed", "the runner died while this request was in flight")
        settled = settlement(outcome, attempt.quote, self.sheet_of(attempt.recipe.model), attempt.size)
        used, held = Tries(attempt.tries, attempt.refused_tries), settled.state is AttemptState.UNKNOWN
        move = decide(outcome, used, self.retry, jitter=0.0, held=held)
        now = self.clock.utc()
        latency_s = None  # nobody measured it
        adopted = found is not None
        await self.ledger.settle(attempt, outcome, settled, move, now=now, latency_s=latency_s, adopted=adopted)
        log.info("%s %s after a crash", "adopted" if adopted else "unknown", attempt.stem)
        return adopted
