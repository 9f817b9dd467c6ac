"""When a job will be done under all its limits, and which of them costs the most time.

A dry run of the pool on numbers alone: nothing is sent and nothing is counted here (that is `quota`). What it
assumes: every request is answered after the same latency, none is refused, and tasks are bought in their order.

Sends are not walked one by one but in runs of evenly spaced ones, so that a thousand and ten million tasks take
about the same time. Limits that are filled hundreds of times in a job are taken as an even rate, and a schedule
that falls into too many runs is walked in steps. The finish stays within 2 % of the exact one; only where a few
uneven requests fill a limit, and another one binds about alike, may it be some per cent more.
"""

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise, takewhile
from typing import TypeVar

from runner.core.calendar import day_turns, month_turns
from runner.core.limits import MINUTE_S, SPEND_WINDOW_S, Binding, Limits, Need
from runner.core.quota import WINDOW_MARGIN

BATCHES = 2_000
"""Batches told apart; where there are more, neighbours are averaged to `GROUPS`."""
GROUPS = 250
EXACT_RUNS = 2_000
"""Runs of sends before the schedule is walked in steps."""
STEPS = 500
"""Such steps in a whole job."""
SMOOTH_TURNS = 200
"""A limit that is filled this often is an even rate: the last filling is all that can go wrong."""
ROUGH_TURNS = 1_000
"""The same where its requests are uneven and few fill it."""
FINE = 50
"""Requests in a window from which on their unevenness does not matter."""
WALKED = 100_000
"""Requests that are walked one by one to find the pace of uneven ones."""
FAR = 1_000
"""Days or months after which the pace so far is taken for the rest."""
MATTERS = 0.01
"""Share of the time that a limit must cost to be named."""

T = TypeVar("T")
N = TypeVar("N", int, float)

_WITHOUT: dict[Binding, Callable[[Limits], Limits]] = {
    "requests": lambda limits: replace(limits, rpm=None),
    "tokens": lambda limits: replace(limits, tpm=None),
    "images": lambda limits: replace(limits, ipm=None),
    "day": lambda limits: replace(limits, rpd=None),
    "spend_window": lambda limits: replace(limits, spend_nanos=None),
    "month": lambda limits: replace(limits, month_nanos=None),
    "concurrency": lambda limits: replace(limits, concurrency=None),
    "bytes": lambda limits: replace(limits, bytes_in_flight=None),
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Tasks alike, one after the other in the order of buying."""

    count: int
    need: Need
    """What one request will likely take."""


@dataclass(frozen=True, slots=True)
class Past:
    """What already counts. Instants are seconds since 1970, lists oldest first."""

    sent: Sequence[tuple[float, Need]] = ()
    """Sends of this model in the last ten minutes."""
    spend: Sequence[tuple[float, int]] = ()
    """Sends of all models of the endpoint in the last ten minutes, in nano-dollars."""
    day: int = 0
    """Requests since midnight Pacific."""
    month_nanos: int = 0
    """Nano-dollars of this month in the ledger; `Limits.month_elsewhere_nanos` comes on top."""
    in_flight: int = 0
    """Requests without an answer: the last of `sent`."""
    not_before: float | None = None
    """Nothing is sent before: a closed gate, a parked model."""
    held_by: Binding = "outage"
    """What `not_before` is to be called: `outage`, `refused`, or `day` for a parked model."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a job will be done, if at all."""

    finish_s: float | None
    """Seconds from now until the last answer; None: never under these limits."""
    binds: Binding | None
    """The limit without which it would be done soonest, or the one that stops it; None: nothing but latency."""
    bought: int
    """Tasks that can be bought at all, in their order."""
    stopped_by: Binding | None
    """`month` or `budget` where that ends the job short."""


def forecast(
    batches: Sequence[Batch],
    limits: Limits,
    past: Past,
    *,
    now: float,
    latency_s: float,
    budget_nanos: int | None = None,
    without: Binding | None = None,
) -> Forecast:
    """When `batches` will be done.

    `now` is in seconds since 1970, `latency_s` from a send to its answer, `budget_nanos` what the cap still lets
    be spent; `without` drops one limit. The cap of the month stops a job for good, unless the month turns before
    it is reached: no job waits for the next one.
    """
    job = _Job(batches)
    world = _World(limits, past, now, latency_s, budget_nanos).without(without)
    walk = _Walk(job, world)
    walk.run()
    if not walk.ends:
        return Forecast(None, walk.stopped_by or walk.never, walk.sent, walk.stopped_by)
    finish_s = walk.finish_s()
    return Forecast(finish_s, _binds(job, world, finish_s, walk.cost_s), walk.sent, None)


def _binds(job: "_Job", world: "_World", finish_s: float, cost_s: dict[Binding, float]) -> Binding | None:
    """The limit whose removal helps most; where several bind alike, and none alone, the one met most."""
    gains: dict[Binding, float] = {}
    for limit in (limit for limit, cost in cost_s.items() if cost > MATTERS * finish_s / 10):
        walk = _Walk(job, world.without(limit))
        walk.run()
        if walk.ends:
            gains[limit] = finish_s - walk.finish_s()
    for costs in (gains, cost_s):
        worst = max(costs, key=lambda limit: costs[limit], default=None)
        if worst is not None and costs[worst] > MATTERS * finish_s:
            return worst
    return None


@dataclass(frozen=True, slots=True)
class _World:
    """All that holds a job back."""

    limits: Limits
    past: Past
    now: float
    latency_s: float
    budget_nanos: int | None

    def without(self, limit: Binding | None) -> "_World":
        world = self
        if limit in _WITHOUT:
            world = replace(world, limits=_WITHOUT[limit](world.limits))
        if limit == "budget":
            world = replace(world, budget_nanos=None)
        if limit == world.past.held_by:
            world = replace(world, past=replace(world.past, not_before=None))
        return world

    def landings(self) -> list[tuple[float, Need]]:
        """When what is in flight will be answered; what left too long ago to be known of, a latency from now."""
        known = self.past.sent[-self.past.in_flight :] if self.past.in_flight else ()
        landings = [(max(self.now, at + self.latency_s), need) for at, need in known]
        strangers = [(self.now + self.latency_s, Need())] * (self.past.in_flight - len(known))
        return sorted([*landings, *strangers], key=lambda landing: landing[0])


@dataclass(frozen=True, slots=True)
class _Amounts:
    """What requests take of one thing."""

    means: list[float]
    """One request of each group."""
    largest: int
    alike: bool


class _Job:
    """The tasks, in groups of requests as good as alike."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        batches = [batch for batch in batches if batch.count]
        self._batches = batches
        self._starts = _sums(batch.count for batch in batches)
        self._nanos = _sums(batch.count * batch.need.nanos for batch in batches)
        self.count = self._starts[-1]
        self.averaged = len(batches) > BATCHES
        self._cuts: Sequence[int] = range(len(batches) + 1)
        if self.averaged:
            places = {bisect_left(self._starts, self.count * n // GROUPS) for n in range(GROUPS + 1)}
            self._cuts = sorted(places)
        self.counts = self._totals(self._starts)
        self.ones = _Amounts([1.0] * len(self.counts), min(1, len(batches)), alike=True)
        self._amounts: dict[str, _Amounts] = {}
        self._rates: dict[tuple[str, int], list[float]] = {}

    def amounts(self, name: str) -> _Amounts:
        """What requests take of one thing: a field of `Need`, or "" for one each."""
        if not name:
            return self.ones
        if name not in self._amounts:
            each = self._each(name)
            totals = self._totals(
                _sums(batch.count * need for batch, need in zip(self._batches, each, strict=True))
            )
            means = [total / count for total, count in zip(totals, self.counts, strict=True)]
            kinds = set(each)
            self._amounts[name] = _Amounts(means, max(kinds, default=0), alike=len(kinds) <= 1)
        return self._amounts[name]

    def first_over(self, name: str, room: int) -> int:
        """The first task that takes more than `room`."""
        if self.amounts(name).largest <= room:
            return self.count
        each = self._each(name)
        return self._starts[next(place for place, need in enumerate(each) if need > room)]

    def fillings(self, name: str, room: int) -> list[float]:
        """How many times one request of each group, on average, fills `room` as the requests come."""
        if (name, room) not in self._rates:
            fillings = self._totals(list(_alone(self._batches, self._each(name), room)))
            means = [total / count for total, count in zip(fillings, self.counts, strict=True)]
            self._rates[name, room] = means
        return self._rates[name, room]

    def affords(self, start: int, nanos: int) -> int:
        """The task, counted from the first, that `nanos` do not suffice for if spent from `start` on."""
        nanos += self._cost(start)
        if nanos >= self._nanos[-1]:
            return self.count
        place = bisect_right(self._nanos, nanos) - 1
        if place < 0:
            return start
        return max(start, self._starts[place] + (nanos - self._nanos[place]) // self._batches[place].need.nanos)

    def _cost(self, task: int) -> int:
        place = max(0, bisect_right(self._starts, task) - 1)
        if place == len(self._batches):
            return self._nanos[-1]
        return self._nanos[place] + (task - self._starts[place]) * self._batches[place].need.nanos

    def _each(self, name: str) -> list[int]:
        return [getattr(batch.need, name) if name else 1 for batch in self._batches]

    def _totals(self, sums: list[N]) -> list[N]:
        return [sums[last] - sums[first] for first, last in pairwise(self._cuts)]


def _sums(numbers: Iterable[int]) -> list[int]:
    return list(accumulate(numbers, initial=0))


def _alone(batches: Sequence[Batch], each: list[int], room: int) -> Iterator[float]:
    """When each batch has been sent if only `room` held it back, after a first 0; a request counts for 1.

    What is sent at once is spread over the time that it counts.
    """
    at, even, held, burst, done, walked = 0.0, 0.0, 0, 0, 0, 0
    sent: deque[tuple[float, int]] = deque()
    yield 0.0
    for batch, need in zip(batches, each, strict=True):
        taken, left = min(need, room), batch.count
        done += left * taken
        if walked > WALKED:  # enough is known of their pace
            even *= done / (done - left * taken)
            yield even
            continue
        if taken and left > 2 * (room // taken):  # all fillings in between are alike
            skipped = left // (room // taken) - 1
            left -= skipped * (room // taken)
            at += skipped
            sent = deque((when + skipped, amount) for when, amount in sent)
        for _ in range(left if taken else 0):
            while held + taken > room:
                when, amount = sent.popleft()
                held -= amount
                if when + 1 > at:
                    at, burst = when + 1, 0
            sent.append((at, taken))
            held += taken
            burst += taken
        walked += left if taken else 0
        even = max(even, at + burst / room)
        yield even


@dataclass(slots=True)
class _Run:
    """Requests of one size that stop to count one after another."""

    count: int
    each: float
    at: float
    """When the first one stops to count."""
    step_s: float

    def nth(self, number: int) -> float:
        return self.at + (number - 1) * self.step_s


@dataclass(frozen=True, slots=True)
class _Line:
    """When the next `count` requests may leave: after the first `free` one at `at`, each other `step_s` later."""

    count: float
    at: float = -math.inf
    step_s: float = 0.0
    free: int = 0

    def nth(self, number: int) -> float:
        return self.at + (number - self.free - 1) * self.step_s if number > self.free else -math.inf


@dataclass(slots=True)
class _Window:
    """One limit: what is sent within `span_s` takes at most `room`."""

    binds: Binding
    takes: str
    """A field of `Need`; "" for one each."""
    room: int
    span_s: float
    alone: bool = False
    """One request that is larger than the room may go by itself."""
    needs: list[float] = field(default_factory=list)
    """What one request of each group takes."""
    held: float = 0
    queue: deque[_Run] = field(default_factory=deque)

    def hold(self, job: _Job, sends: Iterable[tuple[float, float]]) -> "_Window":
        """Count what was sent before."""
        self.needs = [min(mean, self.room) for mean in job.amounts(self.takes).means]
        counted = [send for send in sends if send[1]]
        size = len(counted) // GROUPS + 1
        for part in (counted[place : place + size] for place in range(0, len(counted), size)):
            amount = sum(amount for _, amount in part)
            step_s = (part[-1][0] - part[0][0]) / max(1, len(part) - 1)
            self.held += amount
            self.append(len(part), amount / len(part), part[0][0] + self.span_s, step_s)
        return self

    def smooth_s(self, job: _Job) -> list[float] | None:
        """Seconds for one request of each group where it is filled so often that it is as good as an even rate."""
        amounts = job.amounts(self.takes)
        turns = sum(count * need for count, need in zip(job.counts, self.needs, strict=True)) / max(1, self.room)
        if amounts.alike or amounts.largest * FINE <= self.room:
            if turns > SMOOTH_TURNS:
                return [self.span_s / (self.room // need) if 0 < need <= self.room else 0.0 for need in self.needs]
        elif self.room > 0 and (job.averaged or turns > ROUGH_TURNS):
            return [self.span_s * fillings for fillings in job.fillings(self.takes, self.room)]
        return None

    def take(self, count: int, each: float, at: float, step_s: float) -> None:
        """Let requests be sent from `at` on, and forget those before that they need the room of."""
        if not each:
            return
        self.release(self.held + count * each - self.room)
        self.held += count * each
        self.append(count, each, at + self.span_s, step_s)

    def append(self, count: int, each: float, at: float, step_s: float) -> None:
        last = self.queue[-1] if self.queue else None
        if last and last.each == each and last.step_s == step_s and abs(last.nth(last.count + 1) - at) < 1e-6:
            last.count += count
        else:
            self.queue.append(_Run(count, each, at, step_s))

    def release(self, amount: float) -> None:
        while amount > 0 and self.queue:
            head = self.queue[0]
            count = min(head.count, _ceil(amount / head.each))
            amount -= count * head.each
            self.held -= count * head.each
            head.at, head.count = head.nth(count + 1), head.count - count
            if not head.count:
                self.queue.popleft()
        if not self.queue:
            self.held = 0  # whatever rounding left

    def line(self, each: float, least: int) -> _Line:
        """When the next requests may leave: as many as keep to one line, or `least` if that is more."""
        if not each:
            return _Line(math.inf)
        free = self.room - self.held
        fits = max(0, int(free // each))
        if fits >= least:
            return _Line(fits)
        head = self.queue[0]
        if not fits and head.each == each and head.count >= least and free >= 0:
            return _Line(head.count, head.at, head.step_s)
        return self._walked(each, least, free, fits)

    def _walked(self, each: float, least: int, free: float, fits: int) -> _Line:
        first: float | None = None
        for run in self.queue:
            freed = free + run.count * run.each
            if first is None and freed >= (fits + 1) * each:
                needed = run.count if run.step_s == 0 else _ceil(((fits + 1) * each - free) / run.each)
                first = run.nth(needed)
                count = (free + needed * run.each) // each
                if count >= least:
                    return _Line(count, first, 0.0, fits)
            if first is not None and freed >= least * each:
                last = run.nth(_ceil((least * each - free) / run.each))
                return _Line(least, first, (last - first) / max(1, least - fits - 1), fits)
            free = freed
        last = run.nth(run.count)
        count = max(1, int(free // each))
        first = last if first is None else first
        return _Line(count, first, (last - first) / max(1, count - fits - 1), fits)


def _ceil(number: float) -> int:
    return max(1, math.ceil(number - 1e-9))


class _Walk:
    """One pass over the tasks, from the first send to the last."""

    def __init__(self, job: _Job, world: _World) -> None:
        self._job = job
        self._world = world
        self.cost_s: dict[Binding, float] = {}
        """Seconds between sends, by the limit they were waited for."""
        self.sent = 0
        self.stopped_by: Binding | None = None
        self.never: Binding | None = None
        """The limit that the next task can never pass."""
        self._last = world.now
        self._runs = 0
        self._rates: list[tuple[list[float], Binding]] = []
        self._windows: list[_Window] = []
        ends: list[tuple[int, Binding | None]] = [(job.count, None)]
        if world.budget_nanos is not None:
            ends.append((job.affords(0, world.budget_nanos), "budget"))
        if world.limits.rpd == 0:
            ends.append((0, "day"))
        for window in _windows(job, world):
            if not window.alone:
                ends.append((job.first_over(window.takes, window.room), window.binds))
            rates = window.smooth_s(job)
            if rates is None:
                self._windows.append(window)
            else:
                self._rates.append((rates, window.binds))
        self._end, self._end_by = min(ends, key=lambda end: end[0])
        self._floor, self._floor_by = world.now, world.past.held_by
        if world.past.not_before is not None:
            self._floor = max(world.now, world.past.not_before)
        self._days = _Days(world)
        self._months = _Months(world, job)

    @property
    def ends(self) -> bool:
        """Whether every task is sent in the end."""
        return self.stopped_by is None and self.never is None

    def finish_s(self) -> float:
        """Seconds from now until the last answer."""
        landed = self._world.now
        if landings := self._world.landings():
            landed = landings[-1][0]
        if self._job.count:
            landed = max(landed, self._last + self._world.latency_s)
        return landed - self._world.now

    def run(self) -> None:
        """Walk until all is sent or nothing more can be."""
        for group, count in enumerate(self._job.counts):
            left = min(count, self._end - self.sent)
            rate_s, rate_by = self._rate(group)
            while left:
                left -= self._step(group, left, rate_s, rate_by)
                if self.stopped_by:
                    return
                if self._far():
                    break
        if self._end_by == "budget":
            self.stopped_by = "budget"
        else:
            self.never = self._end_by

    def _rate(self, group: int) -> tuple[float, Binding | None]:
        """Seconds between sends that the smooth limits ask for, and which of them."""
        rates: list[tuple[float, Binding | None]] = [(0.0, None)]
        rates.extend((seconds[group], by) for seconds, by in self._rates)
        return max(rates, key=lambda rate: rate[0])

    def _step(self, group: int, left: int, rate_s: float, rate_by: Binding | None) -> int:
        """Send the next run of requests; 0 where a day or the month has to turn first."""
        exact = STEPS if self._job.averaged else EXACT_RUNS
        least = 1 if self._runs < exact else max(1, self._job.count // STEPS)
        least = min(least, left)
        self._runs += 1
        lines = [(window.line(window.needs[group], least), window.binds) for window in self._windows]
        start, start_by = self._floor, self._floor_by if self._floor > self._last else None
        if self.sent and self._last + rate_s >= start:
            start, start_by = self._last + rate_s, rate_by
        step_s, step_by = rate_s, rate_by
        for line, by in lines:
            left = min(left, int(line.count)) if line.count < left else left
            if not line.free and line.at > start:
                start, start_by = line.at, by
                step_s, step_by = (line.step_s, by) if line.step_s > rate_s else (rate_s, rate_by)
        left, step_s, step_by = _envelope(lines, start, left, least, (step_s, step_by))
        if not self._admitted(start):
            return 0
        left = int(min(left, self._days.left, self._months.stop - self.sent))
        if step_s > 0 and (until := min(self._days.until, self._months.until)) < start + (left - 1) * step_s:
            left = max(1, math.ceil((until - start) / step_s))
        for window in self._windows:
            window.take(left, window.needs[group], start, step_s)
        self._days.left -= left
        self.sent += left
        self._charge(start_by, start - self._last)
        self._last = start + (left - 1) * step_s
        self._charge(step_by, self._last - start)
        return left

    def _admitted(self, start: float) -> bool:
        """Whether day and month have room at `start`; if not, wait for the day or stop by the month."""
        self._days.turn(start)
        if not self._days.left:
            self._floor, self._floor_by = self._days.until, "day"
            return False
        self._months.turn(start, self.sent)
        if self.sent >= self._months.stop:
            self.stopped_by = "month"
            return False
        return True

    def _charge(self, by: Binding | None, waited_s: float) -> None:
        if by is not None and waited_s > 0:
            self.cost_s[by] = self.cost_s.get(by, 0.0) + waited_s

    def _far(self) -> bool:
        """Take the pace so far for the rest once too many days or months have turned."""
        if max(self._days.turned, self._months.turned) <= FAR:
            return False
        self._last = self._world.now + (self._last - self._world.now) * self._end / self.sent
        self.sent = self._end
        return True


def _envelope(
    lines: list[tuple[_Line, Binding]], start: float, count: int, least: int, step: tuple[float, Binding | None]
) -> tuple[int, float, Binding | None]:
    """How many requests from `start` on keep to one line that no other one crosses, its step and whose it is.

    `least` of them are sent on one line, whatever crosses it.
    """
    step_s, step_by = step
    for line, _ in lines:
        if line.nth(count) > start + (count - 1) * step_s:
            ahead_s = start + line.free * step_s - line.at
            steeper_s = max(line.step_s - step_s, 1e-12)  # as steep only by rounding
            crossing = line.free if ahead_s < 0 else line.free + 1 + int(ahead_s / steeper_s)
            count = max(min(least, count), min(count, crossing))
    if count > 1:
        for line, by in lines:
            if (needed_s := (line.nth(count) - start) / (count - 1)) > step_s + 1e-9:
                step_s, step_by = needed_s, by
    return count, step_s, step_by


class _Days:
    """Requests that the Pacific day has left."""

    def __init__(self, world: _World) -> None:
        self._rpd = world.limits.rpd
        self.turned = 0
        self.left = math.inf if self._rpd is None else max(0, self._rpd - world.past.day)
        self.until = math.inf if self._rpd is None else day_turns(world.now)

    def turn(self, at: float) -> None:
        """Begin the day of `at`."""
        if self._rpd is not None and at >= self.until:
            self.left, self.until = self._rpd, day_turns(at)
            self.turned += 1


class _Months:
    """The task that the Pacific month has no dollars left for."""

    def __init__(self, world: _World, job: _Job) -> None:
        self._cap = world.limits.month_nanos
        self._job = job
        self.turned = 0
        self.stop: float = math.inf
        self.until = math.inf
        if self._cap is not None:
            left = self._cap - world.past.month_nanos - world.limits.month_elsewhere_nanos
            self.stop = job.affords(0, left)
            self.until = month_turns(world.now)

    def turn(self, at: float, sent: int) -> None:
        """Begin the month of `at`."""
        if self._cap is not None and at >= self.until:
            self.stop, self.until = self._job.affords(sent, self._cap), month_turns(at)
            self.turned += 1


def _windows(job: _Job, world: _World) -> Iterator[_Window]:
    """Every limit that a send counts against for a while, with what counts already."""
    limits, past = world.limits, world.past
    minute_s, spend_s = MINUTE_S * WINDOW_MARGIN, SPEND_WINDOW_S * WINDOW_MARGIN
    sent = _since(past.sent, world.now - minute_s)
    if limits.rpm is not None:
        yield _Window("requests", "", limits.rpm, minute_s).hold(job, ((at, 1) for at, _ in sent))
    if limits.tpm is not None:
        window = _Window("tokens", "tokens", limits.tpm, minute_s)
        yield window.hold(job, ((at, need.tokens) for at, need in sent))
    if limits.ipm is not None:
        window = _Window("images", "images", limits.ipm, minute_s)
        yield window.hold(job, ((at, need.images) for at, need in sent))
    if limits.spend_nanos is not None:
        window = _Window("spend_window", "nanos", limits.spend_nanos, spend_s)
        yield window.hold(job, _since(past.spend, world.now - spend_s))
    paces: list[tuple[int | None, Binding]] = [(limits.rpm, "requests"), (limits.ipm, "images")]
    pace, by = min(paces, key=lambda pace: math.inf if pace[0] is None else pace[0])
    if pace:
        burst = max(1, pace // 100)
        yield _Window(by, "", burst, burst * MINUTE_S / pace).hold(job, ((at, 1) for at, _ in sent))
    landings = [(at - world.latency_s, need) for at, need in world.landings()]
    if limits.concurrency is not None:
        window = _Window("concurrency", "", limits.concurrency, world.latency_s)
        yield window.hold(job, ((at, 1) for at, _ in landings))
    if limits.bytes_in_flight is not None:
        window = _Window("bytes", "bytes", max(1, limits.bytes_in_flight), world.latency_s, alone=True)
        yield window.hold(job, ((at, min(need.bytes, window.room)) for at, need in landings))


def _since(entries: Sequence[tuple[float, T]], since: float) -> list[tuple[float, T]]:
    return list(takewhile(lambda entry: entry[0] > since, reversed(entries)))[::-1]
