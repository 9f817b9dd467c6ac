"""The log of what was sent, against a judge that recounts everything at every look."""

import heapq
import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runner.core.calendar import PACIFIC, day_start, day_turns, month_start, month_turns
from runner.core.limits import Dimension, Limits, Need
from runner.core.quota import (
    AHEAD_S,
    KEPT_S,
    LANDED_S,
    LEAVES_WITHIN_S,
    SOON_S,
    WINDOW_MARGIN,
    Calendar,
    Facts,
    Full,
    LineFacts,
    QuotaLog,
)
from tests.windows import heaviest_window, worst_window

START = datetime(2026, 10, 31, 21, tzinfo=PACIFIC).timestamp()
"""Three hours before a month's turn, and clocks go back in the night after it."""
NEVER_S = 900.0
SLIDING_S: dict[Dimension, float] = {"requests": 60.0, "tokens": 60.0, "images": 60.0, "spend_window": 600.0}


@dataclass
class Attempt:
    """One request, with all that will become of it."""

    id: int
    model: str
    claimed_at: float
    reserved: Need
    final: Need
    sends_at: float
    leaves: bool
    sent: bool = False
    ended: bool = False

    @property
    def counts(self) -> bool:
        return self.sent or not self.ended

    @property
    def need(self) -> Need:
        return self.final if self.ended else self.reserved

    def facts(self) -> Facts:
        sent_at = self.sends_at if self.sent else None
        return Facts(self.id, self.model, self.claimed_at, sent_at, not self.ended, self.need)

    def left_at(self, at: float) -> float | None:
        """When it left, or is presumed to have, as one knows who looks at `at`."""
        if self.sent:
            return self.sends_at
        last = self.claimed_at + LEAVES_WITHIN_S
        return last if last <= at else None


@dataclass
class Line:
    """One line of a batch, with what will become of it."""

    id: int
    reserved: int
    final: int
    ended_at: float | None = None

    @property
    def nanos(self) -> int:
        return self.reserved if self.ended_at is None else self.final

    def facts(self) -> LineFacts:
        return LineFacts(self.id, self.nanos, self.ended_at)

    def counts_in(self, month: float) -> bool:
        return self.ended_at is None or self.ended_at >= month


def weight(dimension: Dimension, need: Need) -> int:
    if dimension in {"requests", "day"}:
        return 1
    return {"tokens": need.tokens, "images": need.images}.get(dimension, need.nanos)


def limit_of(dimension: Dimension, limits: Limits) -> int | None:
    return {
        "requests": limits.rpm,
        "tokens": limits.tpm,
        "images": limits.ipm,
        "day": limits.rpd,
        "spend_window": limits.spend_nanos,
        "month": limits.month_nanos,
    }[dimension]


DIMENSIONS: tuple[Dimension, ...] = ("requests", "tokens", "images", "day", "spend_window", "month")


@dataclass
class World:
    """Attempts, the log that is told of them, and a recount of both."""

    limits: Limits
    now: float = START
    attempts: list[Attempt] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    coming: list[tuple[float, int, str]] = field(default_factory=list)
    log: QuotaLog = field(default_factory=lambda: QuotaLog(START))

    def pass_to(self, now: float) -> None:
        """Let everything happen that happens until then."""
        while self.coming and self.coming[0][0] <= now:
            at, number, what = heapq.heappop(self.coming)
            if what == "is harvested":
                self.lines[number].ended_at = at
                self.log.advance(at)
                self.log.show_line(self.lines[number].facts())
                continue
            attempt = self.attempts[number]
            attempt.sent, attempt.ended = attempt.sent or what != "ends", attempt.ended or what != "sends"
            self.log.advance(at)
            self.log.show(attempt.facts())
        self.now = now
        if self.log.stale:
            self.restart()

    def restart(self) -> None:
        """A log from the attempts alone, as the ledger reads it."""
        long_ago = [one for one in self.attempts if one.sent and one.sends_at <= self.now - KEPT_S]
        day = Counter(one.model for one in long_ago if one.sends_at >= day_start(self.now))
        began = month_start(self.now)
        month = sum(one.need.nanos for one in long_ago if one.sends_at >= began)
        month += sum(one.nanos for one in self.lines if one.ended_at is not None and one.ended_at >= began)
        self.log = QuotaLog(self.now, Calendar(dict(day), month))
        for line in self.lines:
            if line.ended_at is None:
                self.log.show_line(line.facts())
        for attempt in self.attempts:
            if attempt not in long_ago:
                self.log.show(attempt.facts())
        self.log.advance(self.now)  # as the ledger does: what was shown late may count no longer

    def claim(self, model: str, reserved: Need, final: Need, delay_s: float, latency_s: float, *, leaves=True):
        number, sends_at = len(self.attempts), self.now + delay_s
        self.attempts.append(Attempt(number, model, self.now, reserved, final, sends_at, leaves=leaves))
        if leaves:
            heapq.heappush(self.coming, (sends_at, number, "sends"))
        heapq.heappush(self.coming, (sends_at + latency_s, number, "ends"))
        self.log.show(self.attempts[-1].facts())

    def claim_and_die(self, model: str, need: Need, mended_in_s: float) -> None:
        """A run dies with a request of which nobody said whether it left, and is mended long after, if ever."""
        number, mended_at = len(self.attempts), self.now + mended_in_s
        left_at = min(mended_at, self.now + LEAVES_WITHIN_S)
        self.attempts.append(Attempt(number, model, self.now, need, need, left_at, leaves=True))
        if mended_in_s < NEVER_S:
            heapq.heappush(self.coming, (mended_at, number, "is mended"))
        self.log.show(self.attempts[-1].facts())

    def submit(self, reserved: int, finals: list[int], lasts_s: float) -> None:
        """A batch of alike lines, where the month has room for all of them."""
        self.log.advance(self.now)
        if self.log.stale:
            self.restart()
        whole = reserved * len(finals)
        full = self.log.month_full(self.limits, whole)
        limit = self.limits.month_nanos
        assert (full is None) == (limit is None or self.month(self.now) + whole <= limit)
        if full is not None:
            assert full == Full("month", month_turns(self.now), limit or 0)
            return
        for number, final in enumerate(finals, len(self.lines)):
            self.lines.append(Line(number, reserved, final))
            self.log.show_line(self.lines[-1].facts())
            heapq.heappush(self.coming, (self.now + lasts_s, number, "is harvested"))

    def month(self, at: float) -> int:
        """Everything that counts in the month of `at`, recounted."""
        sends = [
            one.need.nanos
            for one in self.attempts
            if one.counts and ((left := one.left_at(at)) is None or together("month", left, at))
        ]
        return sum(sends) + sum(one.nanos for one in self.lines if one.counts_in(month_start(at)))

    def judge(self, model: str, need: Need) -> Full | None:
        return self.log.judge(self.now, model, self.limits, need)

    def full(self, at: float, model: str, need: Need) -> set[Dimension]:
        """Limits that one more request at `at` would pass, recounted."""
        found = set()
        for dimension in DIMENSIONS:
            limit = limit_of(dimension, self.limits)
            mine = [
                weight(dimension, one.need)
                for one in self.attempts
                if one.counts
                and (dimension in {"spend_window", "month"} or one.model == model)
                and ((left := one.left_at(at)) is None or together(dimension, left, at))
            ]
            if dimension == "month":
                mine.append(sum(one.nanos for one in self.lines if one.counts_in(month_start(at))))
            if limit is not None and sum(mine) + weight(dimension, need) > limit:
                found.add(dimension)
        return found

    def check_nothing_is_over(self) -> None:
        """The strict judge, over true send times. A request weighs the least that was ever known of it."""
        sent = [one for one in self.attempts if one.sent]
        for dimension in DIMENSIONS:
            limit = limit_of(dimension, self.limits)
            if limit is None:
                continue
            for group in self.groups(dimension, sent):
                least = [
                    (one.sends_at, min(weight(dimension, one.reserved), weight(dimension, one.need)))
                    for one in group
                ]
                if dimension == "month":
                    least += [
                        (one.ended_at, min(one.reserved, one.final))
                        for one in self.lines
                        if one.ended_at is not None
                    ]
                assert held(dimension, least) <= limit, dimension

    @staticmethod
    def groups(dimension: Dimension, sent: list[Attempt]) -> Iterator[list[Attempt]]:
        if dimension in {"spend_window", "month"}:
            yield sent
        else:
            for model in {one.model for one in sent}:
                yield [one for one in sent if one.model == model]


def together(dimension: Dimension, sent_at: float, at: float) -> bool:
    """Whether what was sent at `sent_at` still counts at `at`."""
    if dimension in SLIDING_S:
        return sent_at + SLIDING_S[dimension] * WINDOW_MARGIN > at
    return sent_at >= (day_start(at) if dimension == "day" else month_start(at))


def held(dimension: Dimension, sends: list[tuple[float, int]]) -> int:
    """The most that any window, day or month holds."""
    if dimension in SLIDING_S:
        return heaviest_window(sends, SLIDING_S[dimension], at=lambda one: one[0], weight=lambda one: one[1])
    start = day_start if dimension == "day" else month_start
    sums: Counter[float] = Counter()
    for at, more in sends:
        sums[start(at)] += more
    return max(sums.values(), default=0)


needs = st.builds(Need, tokens=st.integers(0, 9), images=st.integers(1, 3), nanos=st.integers(0, 9))
limits = st.builds(
    Limits,
    rpm=st.none() | st.integers(1, 6),
    tpm=st.none() | st.integers(9, 40),
    ipm=st.none() | st.integers(3, 12),
    rpd=st.none() | st.integers(1, 30),
    spend_nanos=st.none() | st.integers(9, 60),
    month_nanos=st.none() | st.integers(9, 200),
)
gaps = st.one_of(
    st.floats(0, 5), st.floats(0, 5), st.floats(0, 70), st.floats(500, 700), st.sampled_from([3_600.0, 1e6])
)
delays = st.one_of(st.just(0.0), st.floats(0, 2), st.floats(0, 60), st.floats(0, LEAVES_WITHIN_S))
arrivals = st.lists(
    st.tuples(gaps, st.sampled_from("aab"), needs, needs, delays, st.floats(0, 40), st.integers(0, 9)),
    max_size=40,
)


@given(limits, arrivals)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_it_lets_through_is_exactly_what_every_window_has_room_for(held_to, coming):
    world = World(held_to)
    for gap_s, model, reserved, final, delay_s, latency_s, luck in coming:
        world.pass_to(world.now + gap_s)
        if luck == 0:
            world.restart()
        for _ in range(3):
            found, full = world.judge(model, reserved), world.full(world.now, model, reserved)
            assert (found is None) == (not full)
            if found is None:
                break
            the_longest_wait(world, found, full, model, reserved)
            world.pass_to(found.until)
        if world.judge(model, reserved) is None:
            leaves = luck != 1
            if luck == 3:
                world.submit(reserved.nanos, [final.nanos, 0, reserved.nanos], delay_s * 20_000)
                continue
            if luck == 2:
                world.claim_and_die(model, reserved, mended_in_s=delay_s * 15)
                continue
            world.claim(model, reserved, final if leaves else Need(images=0), delay_s, latency_s, leaves=leaves)
    world.pass_to(world.now + 200)
    world.check_nothing_is_over()


def the_longest_wait(world: World, found: Full, full: set[Dimension], model: str, need: Need) -> None:
    """`until` is the first instant with room, unless what is about to leave decides."""
    assert found.dimension in full
    assert found.until > world.now
    before = math.nextafter(found.until, 0)
    if found.until != world.now + SOON_S:
        assert found.dimension in world.full(before, model, need)
        assert found.dimension not in world.full(found.until, model, need) or found.dimension in {"day", "month"}
        assert full.isdisjoint(world.full(found.until, model, need) - {"day", "month"}) or any(
            not one.sent and one.counts for one in world.attempts
        )


@pytest.mark.parametrize("rpm", [2, 10, 60, 1_000, 10_000])
def test_no_window_holds_too_many_and_no_full_one_too_few(rpm):
    chance = random.Random(rpm)
    world = World(Limits(rpm=rpm))
    log = world.log
    unsent: list[tuple[float, int]] = []
    sent: list[float] = []
    now = turn = START
    number = 0
    while now < START + 200:
        while unsent and unsent[0][0] <= now:
            at, one = heapq.heappop(unsent)
            log.advance(at)
            log.show(Facts(one, "a", at, at, running=False, need=Need()))
            sent.append(at)
        found = log.judge(now, "a", world.limits, Need())
        if found is not None:
            now = found.until
            continue
        log.show(Facts(number, "a", now, None, running=True, need=Need()))
        heapq.heappush(unsent, (now + chance.random() * min(0.2, 6 / rpm), number))
        number += 1
        turn = max(turn, now) + 60 / rpm
        now = turn
    assert worst_window(sent) <= rpm
    assert fewest(sent) >= rpm - max(1, 0.02 * rpm)


def fewest(sent: list[float]) -> int:
    """The least that any full half-open minute holds: those that begin just after a send are the emptiest."""
    return min(bisect_right(sent, at + 60) - place for place, at in enumerate(sent, 1) if at + 60 < sent[-1])


@given(
    st.sampled_from([0.001, 5.0, AHEAD_S, AHEAD_S + 1, 600.0, 3_600.0, 7_200.0]),
    st.integers(1, 6),
    st.floats(0, 3),
    st.booleans(),
    st.floats(0, 120),
)
@example(3_600.0, 6, 0.0, True, 50.0)
@settings(max_examples=100, deadline=None)
def test_a_clock_that_is_set_back_neither_lets_too_many_through_nor_stops_the_run(
    back_s, rpm, pace_s, again, when_s
):
    """True time goes on; the clock that is written down does not."""
    sent: list[tuple[float, float]] = []
    log, true, offset, last = QuotaLog(START), 0.0, 0.0, 0.0
    while true < 400:
        if not offset and true > when_s:
            offset = back_s
            if again:
                log = rebuilt(START + true - offset, [at for _, at in sent])
        now = START + true - offset
        log.advance(now)
        if log.stale:
            log = rebuilt(now, [at for _, at in sent])
        if log.judge(now, "a", Limits(rpm=rpm), Need()) is None:
            log.show(Facts(len(sent), "a", now, now, running=False, need=Need()))
            sent.append((true, now))
            last = true
            true += pace_s
        assert true - last <= 2 * 60.6 + AHEAD_S
        true += 0.25
    assert worst_window([at for at, _ in sent]) <= rpm


def rebuilt(now: float, sent: list[float]) -> QuotaLog:
    log = QuotaLog(now, Calendar({"a": sum(at <= now - KEPT_S for at in sent)}))
    for number, at in enumerate(sent):
        if at > now - KEPT_S:
            log.show(Facts(number, "a", START, at, running=False, need=Need()))
    return log


def test_a_caller_that_waited_to_write_hears_of_sends_after_its_own_instant():
    """They count from when they left, not from when it began to wait."""
    log = QuotaLog(START)
    log.show(Facts(1, "a", START, START + 5, running=True, need=Need()))
    assert log.judge(START, "a", Limits(rpm=1), Need()) == Full("requests", START + 5 + 60.6)
    assert log.judge(START + 61, "a", Limits(rpm=1), Need()) is not None
    log.advance(START + 60)  # said late
    assert log.judge(START + 65.5, "a", Limits(rpm=1), Need()) is not None
    assert log.judge(START + 65.6, "a", Limits(rpm=1), Need()) is None


def test_a_day_that_comes_back_is_read_again():
    """Its requests of long ago are not in the log."""
    midnight = day_turns(day_turns(START))
    log = QuotaLog(midnight - 7_200)
    for number in range(3):
        log.show(Facts(number, "a", START, midnight - 7_200, running=False, need=Need()))
    log.advance(midnight + 1)
    assert (log.today("a"), log.stale) == (0, False)
    log.advance(midnight - 1_800)
    assert log.stale


def test_a_day_and_a_month_end_at_midnight_pacific_and_say_so():
    log = QuotaLog(START)
    log.show(Facts(1, "a", START, START, running=False, need=Need(nanos=7)))
    assert log.judge(START, "a", Limits(rpd=1), Need()) == Full("day", day_turns(START))
    assert log.judge(START, "b", Limits(rpd=1), Need()) is None
    over = Limits(month_nanos=10, month_elsewhere_nanos=2)
    assert log.judge(START, "b", over, Need(nanos=2)) == Full("month", month_turns(START))
    assert log.judge(START, "b", over, Need(nanos=1)) is None


def test_a_line_of_a_batch_counts_for_the_month_alone_and_in_every_one_while_it_is_open():
    log = QuotaLog(START)
    log.show_line(LineFacts(1, 7, None))
    log.show_line(LineFacts(2, 5, None))
    strict = Limits(rpm=1, tpm=1, ipm=1, rpd=1, spend_nanos=1, month_nanos=13)
    assert log.judge(START, "a", strict, Need(1, 1, 1)) is None
    assert log.month_full(strict, 2) == Full("month", month_turns(START))
    assert (log.month_nanos, log.batches_nanos, log.recent(), log.today("a")) == (12, 12, [], 0)
    log.show_line(LineFacts(1, 4, START + 1))
    assert (log.month_nanos, log.batches_nanos, log.stale) == (9, 5, False)
    log.advance(month_turns(START))
    assert (log.month_nanos, log.stale) == (5, True)


def test_what_a_line_counted_that_nobody_saw_open_is_read_anew():
    """It came and ended between two looks, or a person has said of an unknown one what became of it."""
    log = QuotaLog(START)
    log.show_line(LineFacts(1, 4, START))
    assert (log.month_nanos, log.stale) == (0, True)


def test_a_line_that_ended_in_a_month_that_has_turned_since_is_no_longer_counted():
    """It was harvested just before midnight; who looks just after it hears of that."""
    log = QuotaLog(START)
    log.show_line(LineFacts(1, 4, None))
    midnight = month_turns(START)
    log.advance(midnight)
    log.show_line(LineFacts(1, 4, midnight - 0.1))
    assert log.month_nanos == 0


def test_what_never_left_and_was_given_back_does_not_count():
    log = QuotaLog(START)
    log.show(Facts(1, "a", START, None, running=True, need=Need(tokens=5)))
    assert log.judge(START, "a", Limits(rpm=1), Need()) == Full("requests", START + SOON_S)
    log.show(Facts(1, "a", START, None, running=False, need=Need(tokens=5)))
    assert log.judge(START, "a", Limits(rpm=1, tpm=5, rpd=1), Need(tokens=5)) is None


def test_what_a_dead_run_claimed_counts_as_sent_at_the_last_moment_at_which_it_could_have_been():
    log = QuotaLog(START)
    log.show(Facts(1, "a", START, None, running=True, need=Need()))
    one, leaves = Limits(rpm=1), START + LEAVES_WITHIN_S
    assert log.judge(leaves - 1, "a", one, Need()) == Full("requests", leaves - 1 + SOON_S)
    assert log.judge(leaves, "a", one, Need()) == Full("requests", leaves + 60.6)
    assert (log.sent_last_minute("a"), log.today("a"), log.in_flight("a")) == (1, 1, 1)
    assert log.judge(leaves + 60.6, "a", one, Need()) is None
    log.advance(START + LANDED_S)
    assert (log.sent_last_minute("a"), log.today("a"), log.in_flight("a")) == (0, 1, 0)


@pytest.mark.parametrize("mended_after_s", [130.0, 300.0, 1_000.0])
@pytest.mark.parametrize("sent_after_s", [None, 10.0, 100.0])
def test_what_is_said_late_replaces_what_was_presumed(mended_after_s, sent_after_s):
    """A send that was booked late, or that there was none: as if it had been known from the start."""
    sent_at = None if sent_after_s is None else START + sent_after_s
    now, need = START + mended_after_s, Need(3, 1, 7)
    late, anew = QuotaLog(START), QuotaLog(now)
    late.show(Facts(1, "a", START, None, running=True, need=need))
    late.advance(now)
    late.show(Facts(1, "a", START, sent_at, running=sent_at is not None, need=need))
    anew.show(Facts(1, "a", START, sent_at, running=sent_at is not None, need=need))
    for log in (late, anew):
        log.advance(now)
    assert late.recent() == anew.recent()
    assert (late.sent_last_minute("a"), late.today("a")) == (anew.sent_last_minute("a"), anew.today("a"))
    assert (late.month_nanos, late.in_flight("a")) == (anew.month_nanos, anew.in_flight("a"))


def test_a_day_that_turns_before_it_is_presumed_to_have_left_does_not_hold_it_twice():
    midnight = day_turns(START)
    log = QuotaLog(midnight - 60)
    log.show(Facts(1, "a", midnight - 60, None, running=True, need=Need(nanos=7)))
    log.advance(midnight + 3_600)
    assert log.today("a") == 1
    log.show(Facts(1, "a", midnight - 60, midnight - 59, running=False, need=Need(nanos=7)))
    assert log.today("a") == 0


def test_of_several_full_limits_the_one_that_lasts_longest_is_named():
    log = QuotaLog(START)
    log.show(Facts(1, "a", START, START, running=False, need=Need(tokens=5, nanos=5)))
    both = Limits(rpm=1, tpm=5, spend_nanos=5)
    assert log.judge(START, "a", both, Need(1, 1, 1)) == Full("spend_window", START + 606)
    assert log.judge(START, "a", replace(both, rpd=1), Need(1, 1, 1)) == Full("day", day_turns(START))


def test_a_request_that_lasts_longer_than_the_log_remembers_is_booked_all_the_same():
    """Its cost changes the month's sum, so a log that has forgotten it asks to be read again."""
    log = QuotaLog(START)
    log.show(Facts(1, "a", START, START, running=True, need=Need(nanos=9)))
    log.advance(START + 2_000)
    log.show(Facts(1, "a", START, START, running=False, need=Need(nanos=4)))
    assert (log.month_nanos, log.stale) == (4, False)
    log.show(Facts(2, "a", START, START, running=False, need=Need(nanos=4)))
    assert log.stale
