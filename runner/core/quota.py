"""What was sent lately, and whether one more request keeps every window at its limit (design §4.5).

Pure: instants are passed in, in seconds since 1970. The ledger keeps one log for each endpoint and shows it every
attempt, of all jobs and all processes.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from runner.core.calendar import day_start, day_turns, month_start, month_turns
from runner.core.limits import MINUTE_S, SPEND_WINDOW_S, Dimension, Limits, Need

WINDOW_MARGIN = 1.01
"""A send counts for one per cent longer than its window, for what the way to the provider adds to one and not to
another. A full window still holds more than 98 % of its limit."""

SOON_S = 0.05
"""Look again after: a request that is about to leave counts as leaving at every moment until it has."""

AHEAD_S = MINUTE_S
"""Who has waited so long to write may be told of sends that are later than its own `now`; what is further ahead is
of a clock that was set back since."""

PACE = 1.25
"""Runs together may go so much faster than their limit, to make up for what was not sent in time. A window that is
emptied as evenly as this holds nearly all that its limit allows."""

LEAVES_WITHIN_S = 120.0
"""What was claimed so long ago has left, or never will: half a minute each to write the claim, to be given a
connection, to connect, and to spare. Only the run that claimed it could say when, and it may have died: until it
says so, the request counts as sent at the last moment at which it may have been."""

LANDED_S = 600.0
"""A request that was claimed so long ago has landed by now, or its run has died."""

MOST_AT_ONCE = 100
"""Runs together may claim a hundredth of a minute's requests at once, and no more than so many."""

KEPT_S = SPEND_WINDOW_S * WINDOW_MARGIN


@dataclass(frozen=True, slots=True)
class Facts:
    """One attempt as the ledger has it."""

    id: int
    model: str
    claimed_at: float
    """Runs take turns by it, and what has not left long after never will; see `LEAVES_WITHIN_S`."""
    sent_at: float | None
    """None while nobody has said that it left."""
    running: bool
    need: Need
    """What it counts, at worst until it is answered."""
    declined: bool = False
    """A 429: the provider had no room for it."""


@dataclass(frozen=True, slots=True)
class LineFacts:
    """One line of a batch as the ledger has it. Of all limits it counts for the month's alone."""

    id: int
    nanos: int
    """Its reservation while it is open or unknown, its cost once settled, 0 where that was released."""
    ended_at: float | None
    """Whose month it counts in; None: it is open, and counts in every one."""


@dataclass(slots=True, eq=False)
class Send:
    """One attempt that counts."""

    id: int
    model: str
    need: Need
    claimed_at: float
    at: float | None = None
    """When it left; None while it may at any moment."""
    presumed: bool = False
    """`at` is the last moment at which it may have left: nobody has said when."""
    declined: bool = False
    windows: list["Rolling"] = field(default_factory=list)
    """Those that count it now."""


@dataclass(slots=True)
class Totals:
    """Sums of what requests take."""

    requests: int = 0
    tokens: int = 0
    images: int = 0
    nanos: int = 0

    def add(self, need: Need, sign: int = 1) -> None:
        """Count one request, or with `sign` -1 no longer."""
        self.requests += sign
        self.tokens += sign * need.tokens
        self.images += sign * need.images
        self.nanos += sign * need.nanos


class Rolling:
    """Sums over the sends of the last `length_s` seconds."""

    def __init__(self, length_s: float) -> None:
        self.length_s = length_s
        self.totals = Totals()
        self._sends: deque[Send] = deque()

    def __iter__(self) -> Iterator[Send]:
        """Oldest first."""
        return iter(self._sends)

    def __reversed__(self) -> Iterator[Send]:
        return reversed(self._sends)

    def add(self, send: Send) -> None:
        """Count a send; its instant is known."""
        place = len(self._sends)
        while place and _at(self._sends[place - 1]) > _at(send):  # another process may tell of it late
            place -= 1
        self._sends.insert(place, send)
        self.totals.add(send.need)
        send.windows.append(self)

    def drop(self, send: Send) -> None:
        """No longer count a send of the window."""
        self._sends.remove(send)
        self.totals.add(send.need, -1)
        send.windows.remove(self)

    def advance(self, now: float) -> None:
        """Forget what has left the window."""
        while self._sends and _at(self._sends[0]) + self.length_s <= now:
            send = self._sends.popleft()
            self.totals.add(send.need, -1)
            send.windows.remove(self)


def _at(send: Send) -> float:
    assert send.at is not None  # noqa: S101 - only sends whose instant is known are in a window
    return send.at


@dataclass(frozen=True, slots=True)
class Full:
    """The limit that has no room for the next request."""

    dimension: Dimension
    until: float
    """When to look again: there is room then, or there may be."""
    limit: int = field(default=0, compare=False)
    """As it holds now: requests, tokens, images or nano-dollars."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """What the calendar's limits have counted before the log begins."""

    day: dict[str, int] = field(default_factory=dict)
    """Requests since midnight Pacific, by model."""
    month_nanos: int = 0


class QuotaLog:
    """Everything that counts against the limits of one endpoint."""

    def __init__(self, now: float, before: Calendar | None = None) -> None:
        """`before`: what the day and the month hold that `show` will not be told of."""
        self.seen = 0
        """The last change of an attempt that was shown; the owner's to set."""
        self.stale = False
        """Something changed that the log no longer holds: make a new one."""
        self._now = now
        self._minutes: defaultdict[str, Rolling] = defaultdict(lambda: Rolling(MINUTE_S * WINDOW_MARGIN))
        self._recent = Rolling(KEPT_S)
        self._open: dict[int, Send] = {}
        """Attempts that may still change, by id."""
        self._unsent: defaultdict[str, Totals] = defaultdict(Totals)
        """What may leave at any moment, by model."""
        self._leaving: dict[int, Send] = {}
        """The same one by one, in the order of `show`."""
        self._claims: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MOST_AT_ONCE))
        """The latest, by model."""
        before = before or Calendar()
        self._day = defaultdict(int, before.day)
        self._month_nanos = before.month_nanos
        self._lines: dict[int, int] = {}
        """Nano-dollars of the lines of batches that are open, by id."""
        self._lines_nanos = 0
        """Of them all."""
        self._day_start, self._day_turns = day_start(now), day_turns(now)
        self._month_start, self._month_turns = month_start(now), month_turns(now)

    def show(self, facts: Facts) -> None:
        """Learn of an attempt, or of a change of one."""
        send = self._open.get(facts.id)
        if send is None:
            self._first(facts)
            return
        if facts.need != send.need:
            self._reweigh(send, facts.need)
        send.declined = facts.declined
        if send.presumed and (facts.sent_at is not None or not facts.running):
            self._take_back(send)
        if send.at is None and facts.sent_at is not None:
            self._leaves(send, facts.sent_at)
        if not facts.running:
            self._close(send)

    def show_line(self, facts: LineFacts) -> None:
        """The same of a line of a batch."""
        held = self._lines.pop(facts.id, None)
        self._lines_nanos -= held or 0
        if facts.ended_at is None:
            self._lines[facts.id] = facts.nanos
            self._lines_nanos += facts.nanos
        elif held is None:
            self.stale = True  # it came and ended unseen, or was booked anew: nobody here knows what it counted
        elif facts.ended_at >= self._month_start:
            self._month_nanos += facts.nanos

    def _first(self, facts: Facts) -> None:
        if facts.sent_at is None and not facts.running:
            return  # it never left
        if facts.sent_at is not None and not facts.running and facts.sent_at + KEPT_S <= self._now:
            self.stale = True  # booked anew long after its end: the month's sum may be another
            return
        ahead = facts.claimed_at > self._now + AHEAD_S
        send = Send(facts.id, facts.model, facts.need, self._now if ahead else facts.claimed_at)
        send.declined = facts.declined
        self._claims[facts.model].append(facts.claimed_at)
        if facts.running:
            self._open[facts.id] = send
        self._may_leave(send)
        if facts.sent_at is not None:
            self._leaves(send, facts.sent_at)

    def _may_leave(self, send: Send) -> None:
        send.at = None
        self._leaving[send.id] = send
        self._unsent[send.model].add(send.need)

    def _leaves_no_more(self, send: Send) -> None:
        del self._leaving[send.id]
        self._unsent[send.model].add(send.need, -1)

    def _leaves(self, send: Send, at: float) -> None:
        self._leaves_no_more(send)
        send.at = at if at <= self._now + AHEAD_S else self._now
        self._recent.add(send)
        self._minutes[send.model].add(send)
        if send.at >= self._day_start:
            self._day[send.model] += 1
        if send.at >= self._month_start:
            self._month_nanos += send.need.nanos

    def _take_back(self, send: Send) -> None:
        """It did not leave when it was presumed to have."""
        for window in list(send.windows):
            window.drop(send)
        if _at(send) >= self._day_start:
            self._day[send.model] -= 1
        if _at(send) >= self._month_start:
            self._month_nanos -= send.need.nanos
        send.presumed = False
        self._may_leave(send)

    def _presume(self) -> None:
        """What can leave no more has left at the last moment at which it could."""
        late = [send for send in self._leaving.values() if send.claimed_at + LEAVES_WITHIN_S <= self._now]
        for send in late:
            send.presumed = True
            self._leaves(send, send.claimed_at + LEAVES_WITHIN_S)

    def _reweigh(self, send: Send, need: Need) -> None:
        if send.at is None:
            self._unsent[send.model].add(send.need, -1)
            self._unsent[send.model].add(need)
        elif send.at >= self._month_start:
            self._month_nanos += need.nanos - send.need.nanos
        for window in send.windows:
            window.totals.add(send.need, -1)
            window.totals.add(need)
        send.need = need

    def _close(self, send: Send) -> None:
        del self._open[send.id]
        if send.at is None:
            self._leaves_no_more(send)

    def advance(self, now: float) -> None:
        """Move to `now`; windows and the calendar forget."""
        if now < self._now - AHEAD_S:  # what was sent must not count for hours
            for send in self._recent:
                send.at = min(_at(send), now)
            for send in self._open.values():
                send.claimed_at = min(send.claimed_at, now)
        self._now = now
        self._presume()
        # what that day held is no longer here; and lines may have ended in a month that had not begun here
        self.stale = self.stale or now < self._day_start or now >= self._month_turns
        if now >= self._day_turns or now < self._day_start:
            self._day_start, self._day_turns = day_start(now), day_turns(now)
            self._day = defaultdict(int)
            for send in self._since(self._day_start):
                self._day[send.model] += 1
        if now >= self._month_turns or now < self._month_start:
            self._month_start, self._month_turns = month_start(now), month_turns(now)
            self._month_nanos = sum(send.need.nanos for send in self._since(self._month_start))
        self._recent.advance(now)
        for minute in self._minutes.values():
            minute.advance(now)

    def _since(self, at: float) -> Iterator[Send]:
        return (send for send in self._recent if _at(send) >= at)

    def judge(self, now: float, model: str, limits: Limits, need: Need) -> Full | None:
        """The limit that one more request of `need` would pass if it left now; of several the longest to wait for.

        A request that is about to leave counts as leaving at every moment.
        """
        self.advance(now)
        return max(self._full(model, limits, need), key=lambda full: full.until, default=None)

    def _full(self, model: str, limits: Limits, need: Need) -> Iterator[Full]:
        minute, recent, unsent = self._minutes[model], self._recent, self._unsent[model]
        rolling: tuple[tuple[Dimension, Rolling, int | None, int, int, str], ...] = (
            ("requests", minute, limits.rpm, 1, unsent.requests, "requests"),
            ("tokens", minute, limits.tpm, need.tokens, unsent.tokens, "tokens"),
            ("images", minute, limits.ipm, need.images, unsent.images, "images"),
            ("spend_window", recent, limits.spend_nanos, need.nanos, self._unsent_nanos(), "nanos"),
        )
        for dimension, window, limit, more, leaving, what in rolling:
            if limit is not None:
                over = getattr(window.totals, what) + leaving + more - limit
                if over > 0:
                    yield Full(dimension, self._room_at(window, what, over), limit)
        if limits.rpd is not None and self._day[model] + unsent.requests >= limits.rpd:
            yield Full("day", self._day_turns, limits.rpd)
        if (month := self.month_full(limits, need.nanos)) is not None:
            yield month

    def month_full(self, limits: Limits, nanos: int) -> Full | None:
        """The month's limit, if so many nano-dollars more would pass it: the one that batches are held to."""
        if limits.month_nanos is None:
            return None
        spent = self.month_nanos + self._unsent_nanos() + limits.month_elsewhere_nanos
        if spent + nanos <= limits.month_nanos:
            return None
        return Full("month", self._month_turns, limits.month_nanos)

    def _unsent_nanos(self) -> int:
        return sum(totals.nanos for totals in self._unsent.values())

    def _room_at(self, window: Rolling, what: str, over: int) -> float:
        """When so much will have left the window; soon, where it takes what is about to leave."""
        for send in window:
            over -= 1 if what == "requests" else getattr(send.need, what)
            if over <= 0:
                return _at(send) + window.length_s
        return self._now + SOON_S

    def next_turn(self, model: str, rpm: int) -> float:
        """When one more request to `model` keeps to a pace a little above `rpm`, whoever claimed the others."""
        burst = min(MOST_AT_ONCE, max(1, rpm // MOST_AT_ONCE))
        latest = self._claims[model]
        if len(latest) < burst:
            return self._now
        return min(latest[-burst], self._now) + MINUTE_S * burst / (rpm * PACE)

    def admitted_before(self, model: str, at: float) -> int:
        """Requests to `model` in the minute before `at` that the provider had room for."""
        return sum(
            1
            for send in self._recent
            if send.model == model and not send.declined and at - MINUTE_S < _at(send) < at
        )

    def sent_last_minute(self, model: str) -> int:
        """Requests to `model` that count in the minute that ends now, those about to leave included."""
        return self._minutes[model].totals.requests + self._unsent[model].requests

    def in_flight(self, model: str) -> int:
        """Requests to `model` that have not been answered and may still be."""
        since = self._now - LANDED_S
        return sum(1 for send in self._open.values() if send.model == model and send.claimed_at > since)

    def recent(self) -> list[tuple[float, str, Need]]:
        """(instant, model, need) of what counts in the last ten minutes, oldest first."""
        return [(_at(send), send.model, send.need) for send in self._recent]

    def today(self, model: str) -> int:
        """Requests to `model` since midnight Pacific."""
        return self._day[model]

    @property
    def month_nanos(self) -> int:
        """Nano-dollars of this month, in this ledger, those of open batches among them."""
        return self._month_nanos + self._lines_nanos

    @property
    def batches_nanos(self) -> int:
        """What lines of open batches hold."""
        return self._lines_nanos
