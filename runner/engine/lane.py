"""One model of a run: its pace, its gate, what is learnt of its limits, and the claims of its tasks.

All waiting happens before the claim. A single claimer keeps pacing exact (a permission is used before the next is
given) and leaves nothing waiting with a task in its hands; a job of several models has a lane for each, and what
they share (concurrency, bytes, room, the end) is the pool's.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import anyio
import anyio.lowlevel

from runner.core.budget import Cap, dollars, fits
from runner.core.calendar import day_turns, month_turns
from runner.core.catalog import Model
from runner.core.errors import LocalFailureError, RunnerError
from runner.core.learning import Belief
from runner.core.lifecycle import (
    AttemptState,
    Faulted,
    FileGone,
    Interrupted,
    Lost,
    Made,
    Outcome,
    Parked,
    Refused,
    State,
    Stopped,
    Throttled,
    Unreached,
    Unstored,
    Unusable,
)
from runner.core.limits import Binding, Need
from runner.core.pricing import PriceSheet, settlement
from runner.core.retry import CEILING_S, Move, RetryPolicy, Tries, backoff_s, decide
from runner.core.task import Assignment
from runner.engine.execute import assignment, execute
from runner.engine.gate import PATIENCE_S, TICK_S, Gate, Shut
from runner.engine.limiter import Smoother, pace_of
from runner.engine.outlook import Measured, outlook
from runner.engine.ports import Clock, Unsendable
from runner.engine.shared import Ended, Shared
from runner.engine.why import Why
from runner.ledger import (
    Claim,
    Claimed,
    Closed,
    Closing,
    Empty,
    Held,
    Lesson,
    OverBudget,
    Pulse,
    Room,
    Unready,
    Waiting,
    Wish,
)

log = logging.getLogger("bulkrender")

LOOK_AGAIN_S = 900.0
BEAT_S = 1.0
"""A run says what holds it back so often at most."""
SETTLED_S = 6.0
RARER = 0.1
AT_LEAST_EVERY_S = 600.0
"""Once the answer is settled only the forecast without it moves: it is said again after a tenth of the time."""

ASIDE_S = CEILING_S
"""In an outage a task that met a fault stands aside so long: if it is the task after all, the next request, with
another one, shows it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the tasks of one model of a job are held to."""

    job: str
    model: Model | None
    wish: Wish
    """Where it sends and the limits there."""
    sheet: PriceSheet
    cap: Cap
    retry: RetryPolicy
    picture_bytes: int
    """Room that the largest picture of the job may need."""
    likely: Need = field(default_factory=Need)
    """What a usual request takes."""
    weigh: Callable[[str, str], int] = lambda _size, _aspect: 0
    """Bytes that the answer to a size and an aspect may have."""
    wait: bool = False
    """Sleep through a daily limit instead of stopping."""


class Lane:
    """Claims, sends and settles the tasks of one model."""

    def __init__(
        self, pool: Shared, terms: Terms, clock: Clock, may_take: Callable[[], bool] = lambda: True
    ) -> None:
        """`may_take`: whether what is due now is not another lane's."""
        self.terms, self._may_take = terms, may_take
        self.gate = Gate(clock)
        self.why = Why(clock)
        self.smoother = Smoother(clock)
        self.smoother.pace(pace_of(terms.wish.limits, None, clock.utc()))
        self.measured = Measured(terms.likely)
        self.in_flight = 0
        self.remotes_in_words: Callable[[], str] = lambda: ""
        self.pulse: Pulse | None = None
        """What was last said of it."""
        self._pool, self._clock = pool, clock
        self._ledger, self._store, self._references = pool.ledger, pool.store, pool.references
        self._leave: set[str] = set()
        """Attempts that stay `running` in the ledger: the next run mends them from the disk."""
        self._burnt: list[tuple[Claimed, float]] = []
        """Attempts that used up a try on a fault, and when, since the last request left that was answered well: an
        outage may have been their end."""
        self._aside: list[int] = []
        """Tasks that an outage made stand aside."""
        self._sent_at: dict[str, float] = {}
        self._growing = terms.wish.limits.rpm is None
        """Whether successes still teach something of the rate."""
        self._said: Belief | None = None
        """The belief that was last logged."""
        self._upload_trouble = 0
        self._trouble_since = clock.now()

    async def claim_until_done(self) -> None:
        """Claim and launch until nothing is left of this model, or something stops the run."""
        pool = self._pool
        while True:
            await self._clear_to_send()
            async with pool.turn:  # one lane claims at a time: what is free is free for one
                if pool.is_full:
                    continue
                await anyio.lowlevel.checkpoint_if_cancelled()
                seen = pool.changes
                with anyio.CancelScope(shield=True):  # a claim that commits is always launched
                    try:
                        claim = await self._claim()
                    except LocalFailureError as error:
                        return pool.stop("local", str(error))
                    if isinstance(claim, Claimed):
                        self._launch(claim)
            if isinstance(claim, Unready):
                await self._make_ready(claim)
                continue
            if isinstance(claim, Claimed) or (seen != pool.changes and not isinstance(claim, Held | Closed)):
                continue  # launched; or something landed while the ledger answered: its answer is old
            match claim:
                case OverBudget() if pool.is_idle:
                    return pool.stop("budget", does_not_fit(claim))
                case Empty() if not pool.in_flight:
                    return None
                case Waiting(next_due=None) if not self.in_flight and self._brings_nothing():
                    return None
                case Held(binds="month") if seen == pool.changes and pool.is_idle:
                    return pool.park(come_back(claim))
                case Held(binds="month") if pool.detach and not pool.in_flight:
                    return None
                case Held(binds="day") | Closed(parked=True) if not (self.in_flight or self._sleeps(claim)):
                    return pool.park(come_back(claim))
            await self._pause(claim, seen)

    def _brings_nothing(self) -> bool:
        """Whether what is out, of other models or in batches that are not waited for, brings this one nothing."""
        pool, wish = self._pool, self.terms.wish
        return pool.detach or (wish.only and not pool.remote[wish.model])

    async def _claim(self) -> Claim:
        terms, pool = self.terms, self._pool
        most = terms.wish.limits.bytes_in_flight
        # one may always go: an answer larger than the limit must come through as well
        left = None if most is None or not pool.in_flight else most - pool.bytes_in_flight
        return await self._ledger.claim(
            terms.job,
            now=self._clock.utc(),
            sheet=terms.sheet,
            cap=terms.cap,
            token=pool.new_token(),
            wish=terms.wish,
            room=Room(left, terms.weigh),
            ready=self._references.ready,
        )

    async def _clear_to_send(self) -> None:
        """Return when nothing but the ledger stands between a task and its request."""
        limits, pool = self.terms.wish.limits, self._pool
        while True:
            while not self._may_take():
                self.why.waits("remote", "the batch lane takes its tasks first")
                await pool.changed.wait()
            room = await self._store.has_room(pool.in_flight + 1, self.terms.picture_bytes)
            if pool.blocked_by is not None or not room:
                self.why.waits("room", pool.blocked_by or "no room for another picture")
                if not room and not pool.in_flight:
                    return pool.stop("local", self._no_room())
                await pool.changed.wait()
            elif pool.is_full:
                self.why.waits("concurrency", f"{limits.concurrency} requests in flight at most")
                await pool.changed.wait()
            elif not self.gate.admits():
                self.why.waits(Closed(self.gate.reason, 0.0).binds, f"{self.gate.reason}: {self.gate.said}")
                await self._wait_for_the_gate()
            elif self.smoother.due:
                return None
            else:
                which: Binding = "requests" if limits.ipm is None or limits.rpm == self.smoother.rpm else "images"
                self.why.waits(which, f"{self.smoother.rpm} a minute")
                await self.smoother.turn()

    def _no_room(self) -> str:
        return (
            "the output has no room for another picture: the largest of this job may need "
            f"{-(-self.terms.picture_bytes // 2**20)} MB, and 64 MB stay free; free some space and run again"
        )

    async def _wait_for_the_gate(self) -> None:
        """Wait, but not past the time after which trouble without one success stops the run."""
        patience_s = self.gate.patience_s()
        if self._pool.in_flight or self.gate.closed_for_s() < patience_s:
            await self.gate.wait()
            return
        with anyio.move_on_after(max(0.0, patience_s)):
            await self.gate.wait()
            return
        self._out_of_patience()
        await anyio.lowlevel.checkpoint_if_cancelled()

    def _out_of_patience(self) -> None:
        self._pool.stop("provider", f"half an hour without one success ({self.gate.reason}: {self.gate.said})")

    async def _make_ready(self, claim: Unready) -> None:
        """Read or upload the references of the next task; where that can never be, the task ends."""
        self.why.waits("references", "references of the next task are being read or uploaded")
        try:
            await self._references.prepare(claim.references)
            self._upload_trouble = 0
        except Unsendable as error:
            await (self._wait_out(error) if error.passing else self._give_up(claim, error))
        except RunnerError as failure:
            self._pool.stop("local", str(failure))

    async def _give_up(self, claim: Unready, error: Unsendable) -> None:
        """End a task whose references can never be sent."""
        log.warning("%s: %s (%s)", claim.stem, error.message, error.reason)
        try:
            await self._ledger.fail(claim.task_id, error.reason, error.message, now=self._clock.utc())
        except LocalFailureError as failure:
            self._pool.stop("local", str(failure))
        self._pool.change()

    async def _wait_out(self, error: Unsendable) -> None:
        """The service takes no uploads now: no task is to blame for that."""
        if not self._upload_trouble:
            self._trouble_since = self._clock.now()
        self._upload_trouble += 1
        if self._clock.now() - self._trouble_since > PATIENCE_S:
            self._pool.stop("provider", f"half an hour without one upload ({error.message})")
            return
        self.why.waits("outage", f"uploads: {error.message}")
        log.warning("uploads: %s", error.message)
        await self._clock.sleep(max(TICK_S, backoff_s(self._upload_trouble, 0.5 + self._clock.jitter() / 2)))

    async def _pause(self, claim: Claim, seen: int) -> None:
        """Wait until something lands, or the time that the ledger named has come."""
        pool, until = self._pool, None
        match claim:
            case Waiting():
                until = claim.next_due
                if until is None and pool.remote.total() and not pool.in_flight:
                    self.why.waits("remote", self.remotes_in_words())
                elif self.gate.outage:  # every task that is left stands aside
                    self.why.waits("outage", f"{self.gate.reason}: {self.gate.said}")
                else:
                    self.why.waits("retries", "retries that are not due yet")
            case OverBudget():
                self.why.waits("budget", does_not_fit(claim))
            case Held():
                until = claim.until
                self.why.waits(claim.binds, limit_in_words(claim))
            case Closed():
                until = claim.until
                self.why.waits(claim.binds, f"{claim.reason}: {claim.said}")
        if seen != pool.changes:
            return
        # the loop's clock does not count a machine's sleep: the calendar is looked at now and then
        wait_s = None if until is None else min(LOOK_AGAIN_S, max(TICK_S, until - self._clock.utc()))
        with anyio.move_on_after(wait_s):
            await pool.changed.wait()

    def _sleeps(self, claim: Held | Closed) -> bool:
        """Whether the run waits for the calendar to turn: for the day if it was asked to, never for the month."""
        return self.terms.wait and claim.binds == "day"

    def _launch(self, attempt: Claimed) -> None:
        self.smoother.used()
        self.why.waits(None)
        weight = self.terms.weigh(attempt.size, attempt.aspect)
        self.in_flight += 1
        self._pool.took_off(weight)
        task = assignment(self.terms.job, attempt, self.terms.model, self._references.parts(attempt.references))
        self._pool.crew.start_soon(self._run_one, attempt, task, self.gate.enter(), weight)

    async def _run_one(self, attempt: Claimed, task: Assignment, epoch: int, weight: int) -> None:
        pool = self._pool
        started = self._clock.now()
        outcome: Outcome = Interrupted(left=True)
        log.info("> %s %s %s %s attempt %d", task.stem, task.size, task.aspect, task.token[:8], attempt.number)
        try:
            outcome = await execute(task, pool.provider, self._store, lambda: self._left(attempt))
        except Exception as bug:
            self._store.stop_waiting()
            pool.stop("local", f"a bug: {type(bug).__name__}: {bug}")
            raise
        finally:
            with anyio.CancelScope(shield=True):  # from here to the ledger nothing may be lost
                if isinstance(outcome, Unstored):
                    outcome = await self._last_look(task, outcome)
                if isinstance(outcome, FileGone):
                    self._forget(attempt, task)
                ended = await self._settle(attempt, epoch, outcome, self._clock.now() - started)
                self.in_flight -= 1
                pool.landed(weight)
                self._heed(outcome)
                pool.change()
                pool.watch(ended)

    def _left(self, attempt: Claimed) -> None:
        """It is being written to the wire: quotas are judged now."""
        self._sent_at[attempt.token] = at = self._clock.utc()
        self._ledger.left(attempt.token, at=at)

    def _forget(self, attempt: Claimed, task: Assignment) -> None:
        """The service has lost a file of this task, and does not say which: all are looked after anew."""
        for reference, part in zip(attempt.references, task.references, strict=True):
            if part.uri is not None and reference.uri is None:
                self._references.forget(reference.sha256, part.uri)

    async def _last_look(self, task: Assignment, outcome: Unstored) -> Outcome:
        """What was given up may be whole on disk all the same, but for its last step: then it is kept."""
        try:
            found = await anyio.to_thread.run_sync(self._store.adopt, task)
        except RunnerError as error:
            log.warning("%s: left to the next run (%s)", task.stem, error)
            self._leave.add(task.token)
            return outcome
        return found or outcome

    async def _settle(self, attempt: Claimed, epoch: int, outcome: Outcome, latency_s: float) -> Ended:
        settled = settlement(outcome, attempt.quote, self.terms.sheet, attempt.size)
        shut = self.gate.report(epoch, outcome, fresh=attempt.number == 1)
        move = self._move(attempt, epoch, outcome, held=settled.state is AttemptState.UNKNOWN)
        sent_at = self._sent_at.pop(attempt.token, attempt.started_at)
        try:
            if attempt.token not in self._leave:
                await self._ledger.settle(
                    attempt, outcome, settled, move, now=self._clock.utc(), latency_s=latency_s
                )
                self._pool.requeued += move.state is State.QUEUED
            await self._forgive(attempt, outcome, move, sent_at)
            await self._recall()
            await self._learn(outcome, shut, sent_at)
        except LocalFailureError as error:
            self._pool.stop("local", str(error))
        log.info("< %s %s %s %s", attempt.stem, type(outcome).__name__.lower(), move.reason, move.error)
        if (
            isinstance(outcome, Made) or move.counts is not None
        ):  # what an outage burns says nothing of other times
            self.measured.answered(latency_s, success=isinstance(outcome, Made), nanos=settled.nanos)
        return Ended(attempt, outcome, settled, move, latency_s)

    def _move(self, attempt: Claimed, epoch: int, outcome: Outcome, *, held: bool) -> Move:
        outage = self.gate.blames_an_outage(epoch)
        used = Tries(attempt.tries, attempt.refused_tries)
        jitter = self._clock.jitter()
        move = decide(outcome, used, self.terms.retry, jitter=jitter, held=held, outage=outage)
        if outage and isinstance(outcome, Faulted | Lost) and move.state is State.QUEUED:
            self._aside.append(attempt.task_id)
            return replace(move, due_in_s=ASIDE_S)
        return move

    async def _forgive(self, attempt: Claimed, outcome: Outcome, move: Move, sent_at: float) -> None:
        """Give back, once the circuit is open, the tries that the first faults of an outage cost."""
        if isinstance(outcome, Made):
            self._burnt = [(burnt, at) for burnt, at in self._burnt if at > sent_at]
        if not isinstance(outcome, Faulted | Lost):
            return
        if move.counts == "try" and move.reason != "unknown_held":
            self._burnt.append((attempt, self._clock.utc()))
        if self.gate.outage and self._burnt:
            burnt, self._burnt = [one for one, _ in self._burnt], []
            given = await self._ledger.forgive(self.terms.job, burnt, now=self._clock.utc())
            log.warning("an outage (%s); %d tasks get back the tries it cost them", self.gate.said, given)

    async def _recall(self) -> None:
        """Once an outage is over, what stood aside for it need not wait any longer."""
        if self._aside and not self.gate.outage:
            aside, self._aside = self._aside, []
            await self._ledger.recall(aside, now=self._clock.utc())

    async def _learn(self, outcome: Outcome, shut: Shut | None, sent_at: float) -> None:
        """Tell the ledger what the outcome says of the model's limits: all runs heed it."""
        lesson = self._lesson(outcome, shut, sent_at)
        if lesson is None:
            return
        belief = await self._ledger.learn(self.terms.wish, lesson, now=self._clock.utc())
        self._heed_belief(belief)

    def _lesson(self, outcome: Outcome, shut: Shut | None, sent_at: float) -> Lesson | None:
        now = self._clock.utc()
        closing = None
        if shut is not None:
            whole = shut.reason == "spend_window"
            closing = Closing(shut.reason, now + shut.for_s, shut.said, whole_endpoint=whole)
        match outcome:
            case Parked():
                turns = day_turns(now) if outcome.reason == "day" else month_turns(now)
                until = max(turns, now + (outcome.retry_after_s or 0.0))
                closing = Closing(outcome.reason, until, outcome.message, whole_endpoint=outcome.reason == "month")
                return Lesson(sent_at, named=outcome.named, closing=closing)
            case Throttled():
                return Lesson(sent_at, False, _blames_the_rate(outcome), outcome.named, closing)
            case Made() | Refused() | Unusable() if self._growing:  # whatever it says, there was room for it
                return Lesson(sent_at, succeeded=True)
        return None if closing is None else Lesson(sent_at, closing=closing)

    def _heed_belief(self, belief: Belief | None) -> None:
        if belief is not None:
            self._growing = not belief.found
            if self.terms.wish.limits.rpm is None or belief.found:
                self._say(belief)
        self.smoother.pace(pace_of(self.terms.wish.limits, belief, self._clock.utc()))

    def _say(self, belief: Belief) -> None:
        """Log what is believed when it changes; while it grows, when it has doubled."""
        said = self._said
        grown = said is None or belief.ceiling >= 2 * said.ceiling
        changed = said is None or (belief.ceiling, belief.named) != (said.ceiling, said.named) or not said.found
        if grown or (belief.found and changed):
            self._said = belief
            log.info("%s: %s; %s", self.terms.wish.model, belief.words(), belief.cause())

    def _heed(self, outcome: Outcome) -> None:
        """What an outcome means for the run as a whole."""
        match outcome:
            case Stopped():
                self._pool.stop("provider", outcome.message)
            case Unstored():
                self._pool.stop("local", f"a picture could not be stored: {outcome.cause}")
            case Throttled() | Unreached() | Faulted() | Lost():
                if self.gate.patience_s() <= 0 and (self.gate.outage or not isinstance(outcome, Faulted | Lost)):
                    self._out_of_patience()

    async def tell(self) -> None:
        """Say what holds it back, to all who look, whenever it may have changed."""
        while True:
            with suppress(LocalFailureError):  # the next claim says it
                await self._beat()
            await self._clock.sleep(BEAT_S)
            if (stands_s := self.why.stands_s) > SETTLED_S:
                with anyio.move_on_after(min(AT_LEAST_EVERY_S, RARER * stands_s)):
                    await self._pool.changed.wait()

    async def _beat(self) -> None:
        now, binds = self._clock.utc(), self.why.binds()
        wish = self.terms.wish
        standing = await self._ledger.standing(self.terms.job, wish, now=now)
        self._heed_belief(standing.belief)
        finish_at, without_at = outlook(
            standing, self.measured, wish.model, binds, in_flight=self.in_flight, now=now
        )
        if self._pool.remote.total():  # nobody knows how long a batch takes, and it is not done before
            finish_at = without_at = None
        since = self.pulse.since if self.pulse is not None and self.pulse.binds == binds else now
        believed, given = standing.belief, wish.limits.rpm
        if believed is not None and given is not None and (not believed.found or believed.allowed(now) >= given):
            believed = None  # what was asked for is what holds
        self.pulse = Pulse(
            binds=binds,
            said=self.why.said(binds),
            since=since,
            finish_at=finish_at,
            finish_without_at=without_at,
            rpm=standing.limits.rpm,
            belief="" if believed is None else believed.words(),
            at=now,
        )
        await self._ledger.beat(self.terms.job, wish, self.pulse, now=now)


def does_not_fit(claim: OverBudget) -> str:
    """Which cap the next task would pass, and by what."""
    quote, spend, cap = claim.quote, claim.spend, claim.cap
    whose = "the cap" if claim.account is None else f"account {claim.account}'s cap"
    binding = []
    if not fits(spend, Cap(nanos=cap.nanos), quote):
        worst = "an unknown price" if quote.nanos is None else f"${dollars(quote.nanos)}"
        binding.append(
            f"{worst} on top of ${dollars(spend.held)} would pass {whose} of ${dollars(cap.nanos or 0)}"
        )
    if not fits(spend, Cap(image_tokens=cap.image_tokens), quote):
        tokens = f"{quote.image_tokens} image tokens on top of {spend.held_image_tokens}"
        binding.append(f"{tokens} would pass {whose} of {cap.image_tokens}")
    many = f", {quote.pictures} pictures in one answer as lately seen" if quote.pictures > 1 else ""
    return f"the next task ({claim.stem}) at worst{many}: {'; '.join(binding)}"


def come_back(claim: Held | Closed) -> str:
    """The limit of the calendar that is reached, and when it turns."""
    what = limit_in_words(claim) if isinstance(claim, Held) else f"{claim.reason}: {claim.said}"
    when = datetime.fromtimestamp(claim.until or 0.0, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"{what}; run again after {when}" + (", or with --wait" if claim.binds == "day" else "")


def limit_in_words(held: Held) -> str:
    """The limit that holds a request back, with its value."""
    value = held.limit or 0
    match held.binds:
        case "requests":
            return f"{value} requests a minute" if value else "other runs, whose turn it is"
        case "tokens":
            return f"{value} input tokens a minute"
        case "images":
            return f"{value} images a minute"
        case "day":
            return f"{value} requests a day"
        case "spend_window":
            return f"${dollars(value)} in ten minutes"
        case "month":
            return f"${dollars(value)} a month"
        case "bytes":
            return "megabytes in flight"
        case "budget":
            return "what other jobs of the account hold"
        case _:
            return held.binds


def _blames_the_rate(outcome: Throttled) -> bool:
    """Whether fewer requests a minute would have helped, as far as anybody can tell."""
    requests = not outcome.named or any(one.dimension == "requests" for one in outcome.named)
    return outcome.reason in {"minute", "unnamed"} and requests
