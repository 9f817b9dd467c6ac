"""A batch at the service: looked for, asked about ever more rarely, taken back, harvested.

While it is not known whether a job exists, none is made in its place: it is looked for until it is found, or was
absent from two complete lists long enough apart (gemini-api.md §8.9).
"""

import logging

import anyio

from runner.core.errors import RunnerError
from runner.core.lifecycle import BatchState, FileGone, Invalid, Lost, Undone
from runner.core.remote import (
    EXPIRES_S,
    INPUT_LASTS_S,
    WARNED_AT_S,
    Absent,
    Accepted,
    Declined,
    Found,
    NotNow,
    Remote,
    poll_in_s,
)
from runner.engine.harvest import Harvest, Unkept
from runner.engine.openbatches import OpenBatches, roughly
from runner.engine.ports import Unreadable
from runner.ledger import BatchRecord

log = logging.getLogger("bulkrender")

WHILE_CANCELLING_S = 10.0
"""Between two looks at one whose end is waited for; it slows down likewise."""


class Watch:
    """Waits for the batches of one job."""

    def __init__(self, batches: OpenBatches) -> None:
        self._open, self._pool, self._clock = batches, batches.pool, batches.clock
        self._ledger = batches.ledger
        self._harvesting = anyio.CapacityLimiter(1)
        self._cancelled: set[str] = set()
        """What this run has asked to be cancelled: an earlier one may have died before its cancel left."""
        self._warned: dict[str, float] = {}
        self._foreign: set[str] = set()
        """What the log has said of batches that another project may have."""

    async def watch(self, token: str) -> None:
        """Wait for one until it is over, or this machine fails."""
        await self._open.sleep(self._first_look_s(self._open.by_token[token]))
        while token in self._open.by_token and await self.look(self._open.by_token[token]):
            if token in self._open.by_token:
                await self._open.sleep(self._next_look_s(self._open.by_token[token]))

    async def look(self, record: BatchRecord) -> bool:
        """Ask how one stands, and do what that asks for; False where this machine failed: the run stops."""
        try:
            if record.state is BatchState.CREATED:
                await self._ask(record)
            elif record.state is BatchState.CREATING:
                await self._look_for(record)
        except RunnerError as error:
            self._pool.stop("local", str(error))
            return False
        return True

    def _first_look_s(self, record: BatchRecord) -> float:
        """A restart asks no more often than a run that went on."""
        if record.state is not BatchState.CREATED or record.looked_at is None:
            return 0.0
        every_s = self._next_look_s(record)
        return min(every_s, record.looked_at + every_s - self._clock.utc())

    def _next_look_s(self, record: BatchRecord) -> float:
        if self._pool.hurrying:
            asked_s = self._clock.utc() - (record.cancelled_at or self._clock.utc())
            return poll_in_s(asked_s, min(self._open.poll_s, WHILE_CANCELLING_S))
        return poll_in_s(self._age_s(record), self._open.poll_s)

    def _age_s(self, record: BatchRecord) -> float:
        """By our clock alone: the provider's may be anywhere."""
        return self._clock.utc() - (record.posted_at or record.made_at)

    # --- whether it exists -----------------------------------------------------------------------------------

    async def _look_for(self, record: BatchRecord) -> None:
        """Whether a job that may have been created exists (gemini-api.md §8.9)."""
        async with self._open.asking:
            found = await self._open.batches.find(record.display_name)
        match found:
            case Found(remotes=()):
                await self._missed(record, found.seen_utc or self._clock.utc())
            case Found():
                first = min(found.remotes, key=lambda one: (one.created_utc or 0.0, one.name))
                await self._open.created(record, first)
                for other in found.remotes:
                    if other.name != first.name:
                        log.warning("%s is another job of batch %s: it is not ours", other.name, first.name)
            case Declined() | NotNow():
                self._open.not_told(record, found)

    async def _doubt(self, record: BatchRecord) -> None:
        """The service does not know a job that it had made: the list decides."""
        async with self._open.asking:
            found = await self._open.batches.find(record.display_name)
        if not isinstance(found, Found):
            self._open.not_told(record, found)
        elif any(one.name == record.name for one in found.remotes):
            await self._present(record)
        else:
            await self._missed(record, found.seen_utc or self._clock.utc())

    async def _present(self, record: BatchRecord) -> BatchRecord:
        """It exists; that a list lacked it once says nothing of later."""
        if record.absent_at is None:
            return record
        await self._ledger.present(record.token)
        return self._open.change(record, absent_at=None)

    async def _missed(self, record: BatchRecord, at: float) -> None:
        """A complete list lacks it; two that are far enough apart settle that it does not exist."""
        first = await self._ledger.absent(record.token, at)
        self._open.change(record, absent_at=first)
        if at - first < self._open.settle_s:
            log.warning("batch %s is not in the list of jobs yet", record.token[:8])
            return
        if not await self._is_its_project(record, at - first):
            return
        lists = f"it is in neither of two complete lists {roughly(at - first)} apart"
        if record.state is BatchState.CREATED:
            log.warning("%s is gone: %s", record.name, lists)
            lost = Lost("batch_gone", f"{record.name} is gone: {lists}")
            await self._open.end_all(record, lost, "gone", lists)
        elif self._open.books.retry.unknown == "hold":
            log.warning("batch %s was not created: %s; held as the manifest asks", record.token[:8], lists)
            await self._open.end_all(record, Lost("batch_lost", lists), "held", lists)
        else:
            log.warning("batch %s was not created: %s; its tasks are submitted again", record.token[:8], lists)
            await self._open.end_all(record, Undone("batch_absent", lists), "absent", lists)

    async def _is_its_project(self, record: BatchRecord, absent_s: float) -> bool:
        """Whether the list was that of the project the batch was submitted in: that one shows its input too.

        Without this a key of another project would find every batch gone, and buy all of it again (§9.2). It has
        been absent for `absent_s` by the provider's clock, by which the input expires, and there for longer.
        """
        if not record.file or max(absent_s, self._clock.utc() - record.made_at) > INPUT_LASTS_S:
            return True
        async with self._open.asking:
            shown = await self._open.batches.shows(record.file)
        if shown is False and record.token not in self._foreign:
            self._foreign.add(record.token)
            log.warning(
                "batch %s is in no list, and its input %s is not shown either: this key seems to be of another "
                "project than the one it was submitted with; it is held until a key of that project asks, or %s "
                "have passed since",
                *(record.name or record.token[:8], record.file, roughly(INPUT_LASTS_S)),
            )
        return shown is True

    # --- how it stands ---------------------------------------------------------------------------------------

    async def _ask(self, record: BatchRecord) -> None:
        """Look at a job, and do what its state asks for."""
        async with self._open.asking:
            remote = await self._open.batches.get(record.name or "")
        match remote:
            case Remote():
                record = await self._present(record)
                now = self._clock.utc()
                await self._ledger.looked(record.token, remote, now=now)
                self._say_changes(record, remote)
                said = {"remote_state": remote.state, "stats": remote.stats, "results": remote.responses_file}
                record = self._open.change(record, **said, looked_at=now)
                if remote.terminal:
                    await self._finish(record, remote)
                elif self._pool.hurrying:
                    await self._cancel(record)
            case Absent() | Declined(reply=Invalid() | FileGone()):
                await self._doubt(record)
            case Declined() | NotNow():
                self._open.not_told(record, remote)

    async def _cancel(self, record: BatchRecord) -> None:
        if record.token in self._cancelled:
            return
        now = self._clock.utc()
        await self._ledger.cancelling(record.token, now=now)
        async with self._open.asking:
            said = await self._open.batches.cancel(record.name or "")
        match said:
            # where it is over already, the next look says so
            case Accepted() | Absent() | Declined(reply=Invalid() | FileGone()):
                self._cancelled.add(record.token)
                self._open.change(record, cancelled_at=record.cancelled_at or now)
                log.info("%s: asked to be cancelled", record.name)
            case Declined() | NotNow():
                self._open.not_told(record, said)

    async def _finish(self, record: BatchRecord, remote: Remote) -> None:
        """Harvest a job that is over; one at a time, since their lines are large."""
        async with self._harvesting:
            if self._pool.ending.halted is not None or record.token not in self._open.by_token:
                return
            self._pool.harvesting += 1
            try:
                await self._open.carry_through(lambda: self._harvest(record, remote))
            finally:
                self._pool.harvesting -= 1
                self._pool.change()

    async def _harvest(self, record: BatchRecord, remote: Remote) -> None:
        batches, pool = self._open, self._pool
        harvest = Harvest(pool, batches.books, batches.batches, self._clock, record, remote)
        try:
            await harvest.gather()
        except Unkept as error:
            pool.stop("local", f"a picture could not be stored: {error}; its batch waits at the service")
        except Unreadable as error:
            log.warning("results of %s: %s; they are asked for again later", record.name, error.message)
            batches.change(record, place=harvest.place)
        else:
            log.info("%s: %s, settled", record.name, remote.state.lower())
            batches.drop(record)

    # --- what a person hears ---------------------------------------------------------------------------------

    def _say_changes(self, record: BatchRecord, remote: Remote) -> None:
        age_s = self._age_s(record)
        if remote.state != record.remote_state:
            self._pool.wake()
            stats = remote.stats
            log.info(
                "%s: %s after %s, %d of %d done",
                *(remote.name, remote.state, roughly(age_s), stats.succeeded + stats.failed, record.lines),
            )
            if not remote.known:
                log.warning("%s: unknown state %s; waiting on", remote.name, remote.state)
        passed = max((at for at in WARNED_AT_S if at <= age_s), default=0.0)
        if passed > self._warned.get(record.token, 0.0) and not remote.terminal:
            self._warned[record.token] = passed
            log.warning(
                "%s: %s for %s; it expires without results in %s",
                *(remote.name, remote.state, roughly(age_s), roughly(max(0.0, EXPIRES_S - age_s))),
            )
