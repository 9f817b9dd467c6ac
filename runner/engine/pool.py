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
from runner.engine.batchlane import BatchLane, BatchTerms
from runner.engine.deadline import Deadline
from runner.engine.lane import Lane, Terms
from runner.engine.ports import Clock, ImageStore, NoReferences, Provider, References, Unsendable
from runner.engine.remotes import Batching, Remotes
from runner.engine.shared import Ended, Ending, Halt, Shared
from runner.ledger import Ledger, Pulse

__all__ = ["BatchTerms", "Batching", "Ended", "Ending", "Halt", "Pool", "Terms"]

log = logging.getLogger("bulkrender")

AHEAD = 16
"""Tasks whose references are made ready before it is their turn."""
AHEAD_BYTES = 64 * 2**20
"""Of them all."""
AHEAD_EVERY_S = 0.5


class Pool(Shared):
    """One run of one job. `drain` is called once.

    `terms` are those of the standard lane of its model, or of each; `batch_terms` those of the batch lane. What
    concerns the job as a whole is the same in all of them. Where a model has both lanes, the batch lane takes what
    is enough for a batch, and the standard lane the rest.
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
        batching: Batching | None = None,
        batch_terms: Sequence[BatchTerms] = (),
        batch_references: References | None = None,
        job: str = "",
        detach: bool = False,
        deadline: Deadline | None = None,
    ) -> None:
        of_models = [terms] if isinstance(terms, Terms) else list(terms)
        super().__init__(
            ledger,
            provider,
            store,
            new_token=new_token,
            references=references,
            batch_references=batch_references,
            watch=watch,
            concurrency=of_models[0].wish.limits.concurrency if of_models else None,
        )
        self.detach = detach
        self._clock, self._deadline = clock, deadline
        self._job = job or (of_models[0].job if of_models else batch_terms[0].job)
        self.remotes = None if batching is None else batching.remotes(self, clock)
        self.batch_lanes = tuple(
            BatchLane(self, one, clock, self.remotes) for one in batch_terms if self.remotes is not None
        )
        beside = {one.terms.wish.model: one for one in self.batch_lanes}
        self.lanes = tuple(self._lane(one, beside.get(one.wish.model)) for one in of_models)
        self._beside = anyio.CancelScope()

    def _lane(self, terms: Terms, sibling: BatchLane | None) -> Lane:
        lane = Lane(self, terms, self._clock, lambda: sibling is None or sibling.leaves_rest)
        if self.remotes is not None:
            lane.remotes_in_words = self.remotes.words
        return lane

    @property
    def pulse(self) -> Pulse | None:
        """What was last said of the lane that will be done last."""
        said = [lane.pulse for lane in self._speaking() if lane.pulse is not None]
        return max(said, key=lambda one: (one.finish_at is None, one.finish_at or 0.0), default=None)

    async def drain(self) -> Ending:
        """Claim until done, halted or interrupted; then let what is in flight land."""
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._accompany)
            async with anyio.create_task_group() as self.crew:
                with self._claiming:
                    await self._claim_all()
                for why in (*(lane.why for lane in self.lanes), *(lane.why for lane in self.batch_lanes)):
                    why.waits(None)
            if self.remotes is not None:
                with anyio.CancelScope(shield=True):
                    await self.remotes.withdraw_unsent()
            self._beside.cancel()
        if self.ending.halted is None and self._parked is not None:
            self.ending = Ending("provider", self._parked)
        return self.ending

    async def look_once(self) -> Ending:
        """Claim nothing: find out how the batches stand, and settle what is over."""
        async with anyio.create_task_group() as self.crew:
            with self._claiming:
                if self.remotes is not None and await self._pick_up(self.remotes):
                    await self.remotes.look_once()
        return self.ending

    async def _claim_all(self) -> None:
        if self.remotes is None:
            return await self._run_lanes()
        if not await self._pick_up(self.remotes):
            return None
        if self._deadline is not None:  # before anything is put into a batch
            await self._deadline.look(self, self.remotes)
        async with anyio.create_task_group() as waiting:
            await waiting.start(self.remotes.watch)
            await self._run_lanes()
            if not self.detach:
                await self.remotes.all_over()
            waiting.cancel_scope.cancel()
        return None

    async def _pick_up(self, remotes: Remotes) -> bool:
        try:
            await remotes.pick_up()
        except RunnerError as error:
            self.stop("local", str(error))
            return False
        return True

    async def _run_lanes(self) -> None:
        lanes: list[Lane | BatchLane] = [*self.lanes, *self.batch_lanes]
        if len(lanes) == 1:
            return await lanes[0].claim_until_done()
        async with anyio.create_task_group() as group:
            for lane in lanes:
                group.start_soon(lane.claim_until_done)
        return None

    def _speaking(self) -> list[Lane | BatchLane]:
        """A lane of each model: where it has both the standard lane speaks for them."""
        spoken_for = {lane.terms.wish.model for lane in self.lanes}
        return [*self.lanes, *(lane for lane in self.batch_lanes if lane.terms.wish.model not in spoken_for)]

    async def _accompany(self) -> None:
        """What goes on beside the claims until the last request has landed."""
        with self._beside:
            async with anyio.create_task_group() as beside:
                for lane in self._speaking():
                    beside.start_soon(lane.tell)
                if self._deadline is not None and self.remotes is not None:
                    beside.start_soon(self._deadline.keep, self, self.remotes)
                if not isinstance(self.references, NoReferences):
                    beside.start_soon(self._read_ahead)

    async def _read_ahead(self) -> None:
        """Make the references of the next tasks ready, so that a claim rarely waits for them."""
        while True:
            seen, left = self.changes, AHEAD_BYTES
            async with anyio.create_task_group() as reading:
                for wanted in await self._coming():
                    left -= sum(one.bytes for one in wanted)
                    if left > 0:
                        reading.start_soon(self._prepare, wanted)
            await self._clock.sleep(AHEAD_EVERY_S)
            if seen == self.changes:
                await self.changed.wait()

    async def _coming(self) -> list[tuple[Reference, ...]]:
        try:
            return await anyio.to_thread.run_sync(self.ledger.reader.coming_references, self._job, AHEAD)
        except RunnerError:  # a ledger that cannot be read: the next claim says it
            return []

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
