"""The batch lane of one model: takes due tasks many at a time and hands them to `remotes`.

As in the standard lane all waiting comes before the claim, and one lane claims at a time.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import anyio
import anyio.lowlevel

from runner.core.budget import Cap
from runner.core.errors import LocalFailureError, RunnerError
from runner.core.pricing import PriceSheet
from runner.core.retry import RetryPolicy
from runner.engine.gate import TICK_S
from runner.engine.lane import (
    AT_LEAST_EVERY_S,
    BEAT_S,
    LOOK_AGAIN_S,
    RARER,
    SETTLED_S,
    come_back,
    does_not_fit,
    limit_in_words,
)
from runner.engine.ports import Clock, Unsendable
from runner.engine.remotes import Remotes
from runner.engine.shared import Shared
from runner.engine.why import Why
from runner.ledger import (
    Empty,
    Held,
    Load,
    OverBudget,
    Pulse,
    Submission,
    Submitted,
    TooFew,
    Unprepared,
    Unready,
    Waiting,
    Wish,
)

log = logging.getLogger("bulkrender")

OTHERS_S = 60.0
"""Batches of other runs end without a word to this one: it looks again so often."""


@dataclass(frozen=True, slots=True)
class BatchTerms:
    """What the batches of one model of a job are held to."""

    job: str
    wish: Wish
    sheet: PriceSheet
    """Prices of the batch lane."""
    cap: Cap
    retry: RetryPolicy
    picture_bytes: int
    load: Load
    weigh: Callable[[str, str], int] = lambda _size, _aspect: 0


class BatchLane:
    """Submits the tasks of one model."""

    def __init__(self, pool: Shared, terms: BatchTerms, clock: Clock, remotes: Remotes) -> None:
        self.terms = terms
        self.why = Why(clock)
        self.pulse: Pulse | None = None
        self.over = False
        self.left = ""
        """Why a detached run leaves tasks that are not submitted; empty where it leaves none."""
        self._pool, self._clock, self._remotes = pool, clock, remotes
        self._passed: int | None = None
        """What had gone back into the queue when it last left the rest to the standard lane."""
        self._largest = 0
        """Lines of its largest batch."""
        self._flows = True
        """Whether the last batch was about as large as any: there is more where it came from."""

    @property
    def leaves_rest(self) -> bool:
        """Whether what is due now is the standard lane's."""
        return self.over or self._pool.hurrying or self._passed == self._pool.requeued

    async def claim_until_done(self) -> None:
        """Submit until nothing is left of this model, or something stops the run."""
        try:
            await self._submit_until_done()
        finally:
            self.over = True
            self._pool.wake()

    async def _submit_until_done(self) -> None:
        pool = self._pool
        while await self._clear_to_submit():
            async with pool.turn:
                await anyio.lowlevel.checkpoint_if_cancelled()
                seen, requeued = pool.changes, pool.requeued
                with anyio.CancelScope(shield=True):
                    try:
                        said = await self._submit()
                    except LocalFailureError as error:
                        return pool.stop("local", str(error))
            match said:
                case Submitted(batch):
                    self.why.waits(None)
                    self._largest = max(self._largest, batch.lines)
                    self._flows = 2 * batch.lines >= self._largest
                    await self._remotes.send(said)
                    continue
                case Unprepared():
                    await self._make_ready(said)
                    continue
            self._flows = False
            match said:
                case _ if self._is_old(said, seen, requeued):
                    continue
                case OverBudget() if pool.is_idle:
                    return pool.stop("budget", does_not_fit(said))
                case Held(binds="month") if seen == pool.changes and pool.is_idle:
                    return pool.park(come_back(said))
                case Empty() if not pool.in_flight:
                    return None
                case Waiting(next_due=None) if not pool.in_flight and not pool.remote[self.terms.wish.model]:
                    return None  # what other models have out brings this one nothing
            if pool.detach:
                self.left = self._why_left(said)
                return None
            if isinstance(said, TooFew | Waiting | Empty) and self._passed != requeued:
                self._passed = requeued
                pool.wake()
            await self._pause(said, seen)
        return None

    def _is_old(self, said: Submission, seen: int, requeued: int) -> bool:
        """Whether something landed, while the ledger answered, that changes its answer."""
        if isinstance(said, TooFew):
            return requeued != self._pool.requeued
        return seen != self._pool.changes and not isinstance(said, Held)

    async def _submit(self) -> Submission:
        terms, pool = self.terms, self._pool
        return await pool.ledger.submit(
            terms.job,
            now=self._clock.utc(),
            sheet=terms.sheet,
            cap=terms.cap,
            wish=terms.wish,
            load=terms.load,
            weigh=terms.weigh,
            ready=pool.batch_references.ready,
            policy_attempts=terms.retry.attempts,
            new_token=pool.new_token,
        )

    async def _clear_to_submit(self) -> bool:
        """Wait until nothing but the ledger stands between tasks and a batch; False: never more.

        While results are being settled what failed among them, and the room they free, gathers for the next batch.
        """
        pool = self._pool
        while not pool.hurrying:
            if pool.harvesting and not self._flows:
                await pool.changed.wait()
                continue
            out = pool.in_flight + sum(one.lines for one in self._remotes.open.values())
            room = await pool.store.has_room(out + 1, self.terms.picture_bytes)
            if pool.blocked_by is not None or not room:
                self.why.waits("room", pool.blocked_by or "no room for another picture")
                if not room and pool.is_idle:
                    pool.stop("local", "the output has no room for another picture; free some space and run again")
                    await anyio.lowlevel.checkpoint_if_cancelled()
                    return False
            else:
                return True
            await pool.changed.wait()
        return False

    async def _make_ready(self, said: Unprepared) -> None:
        """Upload the references of the next batch; tasks whose references can never be sent end."""
        self.why.waits("references", "references of the next batch are being uploaded")
        failed: list[tuple[Unready, Unsendable]] = []
        broken: list[RunnerError] = []

        async def prepare(one: Unready) -> None:
            try:
                await self._pool.batch_references.prepare(one.references)
            except Unsendable as error:
                failed.append((one, error))
            except RunnerError as error:
                broken.append(error)

        async with anyio.create_task_group() as together:
            for one in said.wanted:
                together.start_soon(prepare, one)
        if broken:
            return self._pool.stop("local", str(broken[0]))
        for one, error in failed:
            if error.passing:
                self.why.waits("outage", f"uploads: {error.message}")
                await self._remotes.wait_out(error.message)
                return None
            log.warning("%s: %s (%s)", one.stem, error.message, error.reason)
            try:
                await self._pool.ledger.fail(one.task_id, error.reason, error.message, now=self._clock.utc())
            except LocalFailureError as failure:
                return self._pool.stop("local", str(failure))
        if failed:
            self._pool.change()
        return None

    async def _pause(self, said: Submission, seen: int) -> None:
        """Wait until something lands, or the time that the ledger named has come."""
        pool, until = self._pool, None
        match said:
            case OverBudget():
                self.why.waits("budget", does_not_fit(said))
            case Held():
                until = said.until or self._clock.utc() + OTHERS_S
                self.why.waits(said.binds, _no_room(said, self.terms.load))
            case Waiting() if not pool.remote.total():
                until = said.next_due
                self.why.waits("retries", "retries that are not due yet")
            case Waiting(next_due=due):
                until = due
                self.why.waits("remote", self._remotes.words())
            case _:
                self.why.waits("concurrency", "what is too little for a batch, in the standard lane")
        if seen != pool.changes:
            return
        wait_s = None if until is None else min(LOOK_AGAIN_S, max(TICK_S, until - self._clock.utc()))
        with anyio.move_on_after(wait_s):
            await pool.changed.wait()
            while isinstance(said, TooFew) and self.leaves_rest and not pool.is_idle and not pool.hurrying:
                await pool.changed.wait()

    def _why_left(self, said: Submission) -> str:
        match said:
            case OverBudget():
                return does_not_fit(said)
            case Held():
                return _no_room(said, self.terms.load)
            case Waiting(next_due=float()):
                return "not due again yet"
            case TooFew():
                return "too few for a batch"
            case _:
                return ""

    async def tell(self) -> None:
        """Say what it waits for, to all who look."""
        while True:
            with suppress(LocalFailureError):  # the next submit says it
                await self._beat()
            await self._clock.sleep(10 * BEAT_S)
            if (stands_s := self.why.stands_s) > SETTLED_S:
                with anyio.move_on_after(min(AT_LEAST_EVERY_S, RARER * stands_s)):
                    await self._pool.changed.wait()

    async def _beat(self) -> None:
        now, binds = self._clock.utc(), self.why.binds()
        if binds in {None, "remote"} and self._remotes.open:
            binds, said = "remote", self._remotes.words()
        else:
            said = self.why.said(binds)
        since = self.pulse.since if self.pulse is not None and self.pulse.binds == binds else now
        self.pulse = Pulse(
            binds=binds,
            said=said,
            since=since,
            finish_at=None,  # nobody knows how long a batch takes
            finish_without_at=None,
            rpm=None,
            belief="",
            at=now,
        )
        # at no endpoint: it stands in no line for the limits of the standard lane
        await self._pool.ledger.beat(self.terms.job, replace(self.terms.wish, endpoint=""), self.pulse, now=now)


def _no_room(said: Held, load: Load) -> str:
    """Why no further batch may be created now."""
    if said.binds != "batches":
        return limit_in_words(said)
    if said.limit == load.tokens:
        return f"{load.tokens} input tokens may be enqueued in batches of the model at once"
    return f"{load.jobs} batches may be open at once"
