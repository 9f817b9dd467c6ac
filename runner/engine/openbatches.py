"""The batches of a job that are not over: what is known of each, how one ends, and what all of them share."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
import anyio.to_thread

from runner.core.errors import LocalFailureError, RunnerError
from runner.core.lifecycle import BatchState, Outcome, Stopped, Undone
from runner.core.remote import Declined, NotNow, Remote, Unsure
from runner.engine.gate import TICK_S
from runner.engine.harvest import Books, Harvest
from runner.engine.ports import Batches, Clock
from runner.engine.shared import Shared
from runner.ledger import BatchRecord, Claimed

log = logging.getLogger("bulkrender")

AT_ONCE = 4
"""Requests about jobs; each is small."""
LOOKS_AT_CLOCK_S = 60.0
"""The loop's clock does not count a machine's sleep: the calendar is looked at now and then."""


class OpenBatches:
    """All of one job, in one run."""

    def __init__(
        self, pool: Shared, books: Books, batches: Batches, clock: Clock, *, poll_s: float, settle_s: float
    ) -> None:
        self.pool, self.books, self.batches, self.clock = pool, books, batches, clock
        self.ledger = pool.ledger
        self.poll_s, self.settle_s = poll_s, settle_s
        self.by_token: dict[str, BatchRecord] = {}
        self.asking = anyio.CapacityLimiter(AT_ONCE)
        self._hurry = anyio.Event()
        self._said: dict[str, str] = {}

    def add(self, record: BatchRecord) -> None:
        """One more is open."""
        self.by_token[record.token] = record
        self.pool.remote[record.model] += 1

    def drop(self, record: BatchRecord) -> None:
        """It is over."""
        if self.by_token.pop(record.token, None) is not None:
            self.pool.remote[record.model] -= 1
            self.pool.change()

    def change(self, record: BatchRecord, **facts: object) -> BatchRecord:
        """What the ledger knows of it now; the record as it is now."""
        changed: BatchRecord = replace(self.by_token.get(record.token, record), **facts)  # type: ignore[arg-type]
        if record.token in self.by_token:
            self.by_token[record.token] = changed
        return changed

    def at_service(self) -> int:
        """How many were asked for: only these may bring something."""
        return sum(one.state is not BatchState.INTENT for one in self.by_token.values())

    def hurry(self) -> None:
        """Nobody sleeps on: they are to be taken back."""
        self._hurry.set()

    async def created(self, record: BatchRecord, remote: Remote) -> None:
        """Its job exists. Raises RunnerError."""
        now = self.clock.utc()
        certain(await self.ledger.created(record.token, remote, now=now), record)
        self.change(
            record,
            state=BatchState.CREATED,
            name=remote.name,
            remote_state=remote.state,
            created_at=remote.created_utc or now,
            stats=remote.stats,
            looked_at=now,
            absent_at=None,
        )
        log.info("batch %s is %s: %d requests", record.token[:8], remote.name, record.lines)
        self.pool.change()

    async def withdraw(self, record: BatchRecord) -> None:
        """Nothing was asked for: its tasks go back into the queue. Raises RunnerError."""
        await self.end_all(record, put_back("withdrawn"), "withdrawn", "")

    async def end_all(self, record: BatchRecord, outcome: Outcome, reason: str, error: str) -> None:
        """End a batch and all its attempts in the same way. Raises RunnerError."""
        attempts = await anyio.to_thread.run_sync(self.ledger.reader.batch_attempts, record.token)
        await self.end(record, {one.token: (one, outcome) for one in attempts}, reason, error)

    async def end(
        self, record: BatchRecord, outcomes: dict[str, tuple[Claimed, Outcome]], reason: str, error: str
    ) -> None:
        """End a batch of which there is nothing to harvest. Raises RunnerError."""
        with anyio.CancelScope(shield=True):
            await Harvest(self.pool, self.books, self.batches, self.clock, record, Remote("")).end(outcomes)
            await self.ledger.over(record.token, reason, error, now=self.clock.utc())
            self.drop(record)

    async def carry_through(self, work: Callable[[], Awaitable[None]]) -> None:
        """What an interrupt lets land: it ends even if nobody waits for it any more."""
        done = anyio.Event()

        async def carry() -> None:
            try:
                await work()
            except RunnerError as error:
                self.pool.stop("local", str(error))
            finally:
                done.set()

        self.pool.crew.start_soon(carry)
        await done.wait()

    async def sleep(self, seconds: float) -> None:
        """Until then by either clock, or until batches are to be taken back."""
        until, until_utc = self.clock.now() + seconds, self.clock.utc() + seconds
        hurried = self._hurry.is_set()
        while (left_s := min(until - self.clock.now(), until_utc - self.clock.utc())) > 0:
            pause_s = max(TICK_S, min(left_s, LOOKS_AT_CLOCK_S))
            if hurried:
                await self.clock.sleep(pause_s)
                continue
            with anyio.move_on_after(pause_s):
                await self._hurry.wait()
                return

    def not_told(self, record: BatchRecord, answer: Declined | NotNow) -> None:
        """No answer to a question that may be repeated; a key that is refused stops the run."""
        if isinstance(answer, Declined) and isinstance(answer.reply, Stopped):
            self.pool.stop("provider", answer.reply.message)
            return
        said = cause(answer)
        if self._said.get(record.token) != said:
            self._said[record.token] = said
            log.warning("batch %s: %s", record.name or record.token[:8], said)

    def words(self) -> str:
        """The open batches for a person."""
        states = Counter(one.remote_state.lower() or one.state.value for one in self.by_token.values())
        if not states:
            return "no remote batch"
        now = self.clock.utc()
        oldest_s = max(now - (one.posted_at or one.made_at) for one in self.by_token.values())
        kinds = ", ".join(f"{count} {state}" for state, count in states.most_common())
        return f"remote batches: {kinds}; the oldest for {roughly(oldest_s)}"


def certain(booked: bool, record: BatchRecord) -> None:
    """Nothing more may leave for a batch that is not as this run left it. Raises LocalFailureError."""
    if not booked:
        raise LocalFailureError(
            f"batch {record.token} is no longer as this run left it in the ledger, and nothing more is sent: "
            "end whatever else changes this ledger, and run again"
        )


def put_back(reason: str) -> Undone:
    """Of a task whose batch was not submitted."""
    return Undone(reason, "its batch was not submitted")


def cause(answer: NotNow | Declined | Unsure) -> str:
    """Why, in the service's words."""
    reply = answer.reply
    return str(getattr(reply, "message", "") or getattr(reply, "cause", "") or type(reply).__name__.lower())


def roughly(seconds: float) -> str:
    """A time as a person says it: `40 s`, `90 min`, `26 h 05 min`."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"
