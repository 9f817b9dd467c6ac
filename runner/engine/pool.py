"""Runs a job: a lane for each of its models, and what they share.

`lane` is where tasks are claimed, sent and settled. Here is what goes on beside that, and how a run that is
told to leave lets what is in flight, and already being paid for, land.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio
import anyio.to_thread

from runner.core.errors import RunnerError
from runner.core.reference import Reference
from runner.engine.lane import Ended, Lane, Terms
from runner.engine.ports import Clock, ImageStore, NoReferences, Provider, References, Unsendable
from runner.engine.shared import Ending, Halt, Shared
from runner.ledger import Ledger, Pulse

__all__ = ["Ended", "Ending", "Halt", "Pool", "Terms"]

log = logging.getLogger("bulkrender")

AHEAD = 16
"""Tasks whose references are made ready before it is their turn."""
AHEAD_BYTES = 64 * 2**20
"""Of them all."""
AHEAD_EVERY_S = 0.5


class Pool(Shared[Ended]):
    """One run of one job. `drain` is called once.

    `terms` are those of its model, or of each: what concerns the job as a whole is the same in all of them.
    """

    def __init__(
        self,
        terms: Terms | Sequence[Terms],
        ledger: Ledger,
        provider: Provider,
        store: ImageStore,
        clock: Clock,
        *,
        new_token: Callable[[], str],
        references: References | None = None,
        watch: Callable[[Ended], None] = lambda _: None,
    ) -> None:
        of_models = [terms] if isinstance(terms, Terms) else list(terms)
        super().__init__(
            ledger,
            provider,
            store,
            new_token=new_token,
            references=references,
            watch=watch,
            concurrency=of_models[0].wish.limits.concurrency,
        )
        self.lanes = tuple(Lane(self, one, clock) for one in of_models)
        self._clock, self._job = clock, of_models[0].job
        self._beside = anyio.CancelScope()

    @property
    def pulse(self) -> Pulse | None:
        """What was last said of the lane that will be done last."""
        said = [lane.pulse for lane in self.lanes if lane.pulse is not None]
        return max(said, key=lambda one: (one.finish_at is None, one.finish_at or 0.0), default=None)

    async def drain(self) -> Ending:
        """Claim until done, halted or interrupted; then let what is in flight land."""
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._accompany)
            async with anyio.create_task_group() as self.crew:
                with self._claiming:
                    await self._claim_all()
                for lane in self.lanes:
                    lane.why.waits(None)
            self._beside.cancel()
        if self.ending.halted is None and self._parked is not None:
            self.ending = Ending("provider", self._parked)
        return self.ending

    async def _claim_all(self) -> None:
        if len(self.lanes) == 1:
            await self.lanes[0].claim_until_done()
            return
        async with anyio.create_task_group() as lanes:
            for lane in self.lanes:
                lanes.start_soon(lane.claim_until_done)

    async def _accompany(self) -> None:
        """What goes on beside the claims until the last request has landed."""
        with self._beside:
            async with anyio.create_task_group() as beside:
                for lane in self.lanes:
                    beside.start_soon(lane.tell)
                if not isinstance(self.references, NoReferences):
                    beside.start_soon(self._read_ahead)

    async def _read_ahead(self) -> None:
        """Make the references of the next tasks ready, so that a claim rarely waits for them."""
        while True:
            sets = await anyio.to_thread.run_sync(self.ledger.reader.coming_references, self._job, AHEAD)
            seen, left = self.changes, AHEAD_BYTES
            async with anyio.create_task_group() as reading:
                for wanted in sets:
                    left -= sum(one.bytes for one in wanted)
                    if left > 0:
                        reading.start_soon(self._prepare, wanted)
            await self._clock.sleep(AHEAD_EVERY_S)
            if seen == self.changes:
                await self.changed.wait()

    async def _prepare(self, wanted: Sequence[Reference]) -> None:
        with suppress(Unsendable, RunnerError):  # the claim of the task that needs them says it
            await self.references.prepare(wanted)

    def interrupt(self) -> None:
        """Stop claiming; what is in flight, and already being paid for, lands."""
        self.stop("interrupted", "a signal; run again to resume")
        self.store.stop_waiting()

    def abandon(self) -> None:
        """Leave what is in flight: it is booked as unknown."""
        self.crew.cancel_scope.cancel("the grace period is over")
