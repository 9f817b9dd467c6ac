"""The batches of a job at the service, from their submission to their last result.

A create is marked in the ledger before it leaves. What must not be cut off, a create and a harvest, runs where an
interrupt lets things land; everything else stops at once and goes on with the next run.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from runner.core.errors import RunnerError
from runner.core.lifecycle import BatchState
from runner.engine.harvest import Books
from runner.engine.openbatches import OpenBatches
from runner.engine.ports import Batches, Clock
from runner.engine.shared import Shared
from runner.engine.submission import Submission
from runner.engine.watching import Watch
from runner.ledger import BatchRecord, Submitted

log = logging.getLogger("bulkrender")


@dataclass(frozen=True, slots=True)
class Batching:
    """How the batches of a job are waited for."""

    books: Books
    batches: Batches
    poll_s: float = 30.0
    """Between two looks at one; it slows down with their age."""
    settle_s: float = 900.0
    """How far apart two complete lists must be that lack a job which may have been created."""

    def remotes(self, pool: Shared, clock: Clock) -> "Remotes":
        """All of them, in one run."""
        settings = {"poll_s": self.poll_s, "settle_s": self.settle_s}
        return Remotes(OpenBatches(pool, self.books, self.batches, clock, **settings))


class Remotes:
    """All open batches of one job. `pool.crew` must be running before anything is sent or watched."""

    def __init__(self, batches: OpenBatches) -> None:
        self._open, self._pool = batches, batches.pool
        self._submission, self._watch = Submission(batches), Watch(batches)
        self._watchers: TaskGroup | None = None

    @property
    def open(self) -> Mapping[str, BatchRecord]:
        """Those that are not over, by token."""
        return self._open.by_token

    async def pick_up(self) -> None:
        """What earlier runs left. What was never asked for goes back into the queue: it costs nothing.

        Raises RunnerError.
        """
        batches = self._open
        records = await anyio.to_thread.run_sync(batches.ledger.reader.open_batches, batches.books.job)
        for record in records:
            batches.add(record)
        for record in records:
            if record.state is BatchState.INTENT:
                await batches.withdraw(record)

    async def send(self, submitted: Submitted) -> None:
        """Upload the input of a new batch and create its job; returns once it exists, or is looked for."""
        if await self._submission.send(submitted) and self._watchers is not None:
            self._watchers.start_soon(self._watch.watch, submitted.batch.token)

    async def wait_out(self, said: str) -> bool:
        """Wait while nothing can be submitted (`said`); False where that was long enough: the run stops."""
        return await self._submission.wait_out(said)

    async def watch(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Wait for all that are open, and those that are sent meanwhile, until cancelled."""
        async with anyio.create_task_group() as self._watchers:
            for token in list(self.open):
                self._watchers.start_soon(self._watch.watch, token)
            task_status.started()
            await anyio.sleep_forever()

    async def look_once(self) -> None:
        """Ask about each of them once, and settle what is over."""
        async with anyio.create_task_group() as looking:
            for record in list(self.open.values()):
                looking.start_soon(self._watch.look, record)

    async def all_over(self) -> None:
        """Return once none is open."""
        while self.open:
            await self._pool.changed.wait()

    def take_back(self) -> None:
        """Cancel all that are open; what they have done by then is harvested."""
        self._pool.hurrying = True
        self._open.hurry()

    async def withdraw_unsent(self) -> None:
        """Put back the tasks of batches that were not asked for: the run is over."""
        for record in list(self.open.values()):
            if record.state is BatchState.INTENT:
                try:
                    await self._open.withdraw(record)
                except RunnerError as error:  # the next run does it
                    log.warning("%s", error)

    def words(self) -> str:
        """The open batches for a person."""
        return self._open.words()
