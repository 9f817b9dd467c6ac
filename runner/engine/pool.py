"""Runs a job: claims when a request may leave, executes, settles. All waiting happens before the claim.

There is one claiming coroutine and one coroutine per request in flight. A single claimer keeps pacing exact (a
permission is used before the next is given) and leaves nothing waiting with a task in its hands.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskGroup

from runner.core.budget import Cap, dollars, fits
from runner.core.catalog import Model
from runner.core.errors import LocalFailureError, RunnerError
from runner.core.lifecycle import AttemptState, Interrupted, Outcome, Stopped, Throttled, Unreached, Unstored
from runner.core.pricing import PriceSheet, Settlement, settlement
from runner.core.retry import Move, RetryPolicy, Tries, decide
from runner.core.task import Assignment
from runner.engine.execute import assignment, execute
from runner.engine.limiter import Gate, Launch, Pace
from runner.engine.ports import Clock, ImageStore, Provider
from runner.ledger import Claimed, Empty, Ledger, OverBudget, Waiting

log = logging.getLogger("bulkrender")

PATIENCE_S = 1_800.0
"""Without one success for this long, 429, 503 and unreachable hosts stop the run."""

Halt = Literal["budget", "provider", "local", "interrupted"]
RANK: dict[Halt, int] = {"interrupted": 0, "local": 1, "provider": 2, "budget": 3}
"""Which halt a run reports when several apply."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run of one job is held to."""

    job: str
    model: Model | None
    endpoint: str
    """Names the quota the requests count against; carries no secret."""
    sheet: PriceSheet
    cap: Cap
    retry: RetryPolicy
    concurrency: int
    picture_bytes: int
    """Room that the largest picture of the job may need."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One attempt ended: told to whoever watches the run."""

    attempt: Claimed
    outcome: Outcome
    settlement: Settlement
    move: Move
    latency_s: float


@dataclass(frozen=True, slots=True)
class Ending:
    """Why claiming stopped; `halted` is None when nothing was left to claim."""

    halted: Halt | None = None
    reason: str | None = None


class Pool:
    """One run of one job. `drain` is called once."""

    def __init__(
        self,
        terms: Terms,
        ledger: Ledger,
        provider: Provider,
        store: ImageStore,
        clock: Clock,
        pace: Pace,
        *,
        new_token: Callable[[], str],
        watch: Callable[[Ended], None] = lambda _: None,
    ) -> None:
        self.terms = terms
        self.pace = pace
        self.gate = Gate(clock)
        self.in_flight = 0
        self.ending = Ending()
        self.holding = ""
        self._ledger, self._provider, self._store, self._clock = ledger, provider, store, clock
        self._new_token, self._watch = new_token, watch
        self._claiming = anyio.CancelScope()
        self._changed = anyio.Event()
        self._changes = 0
        self._blocked: str | None = None
        self._leave: set[str] = set()
        """Attempts that stay `running` in the ledger: the next run mends them from the disk."""
        self._crew: TaskGroup

    async def drain(self) -> Ending:
        """Claim until done, halted or interrupted; then let what is in flight land."""
        async with anyio.create_task_group() as self._crew:
            with self._claiming:
                await self._claim_until_done()
            self.holding = "waiting for what is in flight"
        return self.ending

    def interrupt(self) -> None:
        """Stop claiming; what is in flight, and already being paid for, lands."""
        self.stop("interrupted", "a signal; run again to resume")
        self._store.stop_waiting()

    def abandon(self) -> None:
        """Leave what is in flight: it is booked as unknown."""
        self._crew.cancel_scope.cancel("the grace period is over")

    def stop(self, halt: Halt, reason: str) -> None:
        """Claim no more, for this reason; of several the gravest is reported."""
        if self.ending.halted is None or RANK[halt] < RANK[self.ending.halted]:
            self.ending = Ending(halt, reason)
            log.warning("stopping (%s): %s", halt, reason)
        self._claiming.cancel()

    def blocked(self, cause: str | None) -> None:
        """Storage cannot write what has arrived (`cause`), or can again (None): nothing is claimed meanwhile."""
        if cause is not None and self._blocked is None:
            log.warning("pictures wait in memory: %s", cause)
        self._blocked = cause
        self._change()

    async def _claim_until_done(self) -> None:
        while True:
            await self._clear_to_send()
            await anyio.lowlevel.checkpoint_if_cancelled()
            seen = self._changes
            with anyio.CancelScope(shield=True):  # a claim that commits is always launched
                try:
                    claim = await self._ledger.claim(
                        self.terms.job,
                        now=self._clock.utc(),
                        sheet=self.terms.sheet,
                        cap=self.terms.cap,
                        token=self._new_token(),
                        endpoint=self.terms.endpoint,
                    )
                except LocalFailureError as error:
                    return self.stop("local", str(error))
                if isinstance(claim, Claimed):
                    self._launch(claim)
            if isinstance(claim, Claimed):
                continue
            if seen != self._changes:
                continue  # something landed while the ledger answered: its answer is old
            if not self.in_flight:
                if isinstance(claim, OverBudget):
                    return self.stop("budget", _does_not_fit(claim, self.terms.cap))
                if isinstance(claim, Empty):
                    return None
            await self._pause(claim)

    async def _clear_to_send(self) -> None:
        """Return when nothing but the ledger stands between a task and its request."""
        if self.pace.rpm is not None:
            self.holding = f"the pace of {self.pace.rpm} a minute"
        await self.pace.turn()
        while True:
            room = await self._store.has_room(self.in_flight + 1, self.terms.picture_bytes)
            if self._blocked is not None or not room:
                self.holding = self._blocked or "no room for another picture"
                if not room and not self.in_flight:
                    return self.stop("local", self._no_room())
                await self._changed.wait()
            elif self.in_flight >= self.terms.concurrency:
                self.holding = f"the concurrency of {self.terms.concurrency}"
                await self._changed.wait()
            elif not self.gate.admits():
                self.holding = f"the provider ({self.gate.reason})"
                await self._wait_for_the_gate()
            else:
                self.holding = ""
                return None

    def _no_room(self) -> str:
        return (
            "the output has no room for another picture: the largest of this job may need "
            f"{-(-self.terms.picture_bytes // 2**20)} MB, and 64 MB stay free; free some space and run again"
        )

    async def _wait_for_the_gate(self) -> None:
        """Wait, but not past the time after which no success stops the run."""
        patience_s = self.gate.last_success + PATIENCE_S - self._clock.now()
        if self.in_flight or self.gate.closed_for_s() < patience_s:
            await self.gate.wait()
            return
        with anyio.move_on_after(patience_s):
            await self.gate.wait()
            return
        self.stop("provider", f"half an hour without one success ({self.gate.reason})")
        await anyio.lowlevel.checkpoint_if_cancelled()

    async def _pause(self, claim: Waiting | OverBudget | Empty) -> None:
        """Wait until something lands, or the first retry is due."""
        due = claim.next_due if isinstance(claim, Waiting) else None
        due_in_s = None if due is None else max(0.0, due - self._clock.utc())
        self.holding = "the budget" if isinstance(claim, OverBudget) else "retries that are not due yet"
        with anyio.move_on_after(due_in_s):
            await self._changed.wait()

    def _launch(self, attempt: Claimed) -> None:
        self.in_flight += 1
        self._crew.start_soon(self._run_one, attempt, self.pace.launch(), self.gate.enter())

    async def _run_one(self, attempt: Claimed, launch: Launch, epoch: int) -> None:
        task = assignment(self.terms.job, attempt, self.terms.model)
        started = self._clock.now()
        outcome: Outcome = Interrupted(left=True)
        log.info("> %s %s %s %s attempt %d", task.stem, task.size, task.aspect, task.token[:8], attempt.number)
        try:
            outcome = await execute(task, self._provider, self._store, launch.left)
        except Exception as bug:
            self._store.stop_waiting()
            self.stop("local", f"a bug: {type(bug).__name__}: {bug}")
            raise
        finally:
            launch.over()
            with anyio.CancelScope(shield=True):  # from here to the ledger nothing may be lost
                if isinstance(outcome, Unstored):
                    outcome = await self._last_look(task, outcome)
                await self._settle(attempt, epoch, outcome, self._clock.now() - started)

    async def _last_look(self, task: Assignment, outcome: Unstored) -> Outcome:
        """What was given up may be whole on disk all the same, but for its last step: then it is kept."""
        try:
            found = await anyio.to_thread.run_sync(self._store.adopt, task)
        except RunnerError as error:
            log.warning("%s: left to the next run (%s)", task.stem, error)
            self._leave.add(task.token)
            return outcome
        return found or outcome

    async def _settle(self, attempt: Claimed, epoch: int, outcome: Outcome, latency_s: float) -> None:
        settled = settlement(outcome, attempt.quote, self.terms.sheet, attempt.size)
        used = Tries(attempt.tries, attempt.refused_tries)
        held = settled.state is AttemptState.UNKNOWN
        move = decide(outcome, used, self.terms.retry, jitter=self._clock.jitter(), held=held)
        try:
            if attempt.token not in self._leave:
                await self._ledger.settle(
                    attempt, outcome, settled, move, now=self._clock.utc(), latency_s=latency_s
                )
        except LocalFailureError as error:
            self.stop("local", str(error))
        log.info("< %s %s %s %s", attempt.stem, type(outcome).__name__.lower(), move.reason, move.error)
        self.in_flight -= 1
        self.gate.report(epoch, outcome)
        self._heed(outcome)
        self._change()
        self._watch(Ended(attempt, outcome, settled, move, latency_s))

    def _heed(self, outcome: Outcome) -> None:
        """What an outcome means for the run as a whole."""
        match outcome:
            case Stopped():
                self.stop("provider", outcome.message)
            case Unstored():
                self.stop("local", f"a picture could not be stored: {outcome.cause}")
            case Throttled() | Unreached():
                if self._clock.now() - self.gate.last_success >= PATIENCE_S:
                    self.stop("provider", f"half an hour without one success ({self.gate.reason})")

    def _change(self) -> None:
        self._changes += 1
        self._changed.set()
        self._changed = anyio.Event()


def _does_not_fit(claim: OverBudget, cap: Cap) -> str:
    """Which cap the next task would pass, and by what."""
    quote, spend = claim.quote, claim.spend
    binding = []
    if not fits(spend, Cap(nanos=cap.nanos), quote):
        worst = "an unknown price" if quote.nanos is None else f"${dollars(quote.nanos)}"
        binding.append(
            f"{worst} on top of ${dollars(spend.held)} would pass the cap of ${dollars(cap.nanos or 0)}"
        )
    if not fits(spend, Cap(image_tokens=cap.image_tokens), quote):
        tokens = f"{quote.image_tokens} image tokens on top of {spend.held_image_tokens}"
        binding.append(f"{tokens} would pass the cap of {cap.image_tokens}")
    return f"the next task ({claim.stem}) at worst: {'; '.join(binding)}"
