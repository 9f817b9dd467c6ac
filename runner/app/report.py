"""The receipt of a job: tasks, sends, charges and pictures, money by any axis, and whether all of it adds up.

One pass over the rows, in one view of the ledger: a live run may go on meanwhile. What is kept of it is small: the
groups, the tasks without a picture, the attempts that were not as ordered.
"""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runner.app.audit import Audit
from runner.app.campaign import plus
from runner.app.pricebook import PriceBook, price_book
from runner.app.settings import Options, resolve
from runner.core.errors import UsageError
from runner.core.lifecycle import GONE, AttemptState, State, Verdict
from runner.core.pricing import STANDARD_TIERS
from runner.core.remains import CANCELLED
from runner.core.shape import guess, listed
from runner.ledger import BookedAttempt, BookedTask, Books, Ledger, Reader

MOST = 5
"""How many of the dearest and of the slowest attempts are listed."""
WRONG = frozenset({"wrong_pixels", "broken_image"})
"""Reasons of an attempt whose picture came, was charged, and is not what was ordered."""
UNDONE = "undone"
"""Outcome of a line that its batch did not do."""
OF_ATTEMPTS = ("lane", "tier", "served_by", "outcome", "endpoint")
"""What `--by` can ask of an attempt; all else it asks of a task."""
NOTHING = "-"
"""Group of those that have no such value."""

Pair = tuple[BookedTask, BookedAttempt]
Ranked = tuple[float, int, Pair]
"""What counts, minus the place in the books, so that no two are equal, and the attempt itself."""


@dataclass(slots=True)
class Line:
    """What a group of tasks came to; money in nano-dollars."""

    tasks: int = 0
    sends: int = 0
    """Attempts that left."""
    charges: int = 0
    """Those that were settled."""
    pictures: int = 0
    lost: int = 0
    """Charges for pictures that came, and that a person has said are lost since."""
    settled: int = 0
    reserved: int = 0
    unknown: int = 0
    image_tokens: int = 0
    unpriced: int = 0
    """Attempts whose money is not known at all: with any, the money above is not the whole of it."""
    free: int = 0
    """Sends that were answered with an error and cost nothing."""
    cancelled: int = 0
    """Lines of batches that were cancelled before they ran."""
    undone: int = 0
    """Lines of batches that ended in another way without doing them: free as well."""
    written_off: int = 0
    """Charges without an answer: they were unknown until a person booked them as spent."""
    released: int = 0
    """Sends that were unknown until a person booked them as free."""
    unanswered: int = 0
    """Sends that are held as unknown."""
    in_flight: int = 0

    @property
    def without_picture(self) -> int:
        """Charges for an answer that had not the picture."""
        return self.charges - self.written_off - self.lost - self.pictures

    def add(self, one: BookedAttempt) -> None:
        """Count one attempt."""
        self.sends += one.sent_at is not None
        self.pictures += one.outcome == "made"
        self.lost += one.outcome == GONE
        match one.state:
            case AttemptState.SETTLED:
                self.charges += 1
                self.settled += one.cost_nanos or 0
                self.image_tokens += one.image_tokens or 0
                self.unpriced += one.cost_nanos is None
                self.written_off += one.reason == Verdict.WRITTEN_OFF
            case AttemptState.UNKNOWN:
                self.unanswered += 1
                self.unknown += one.reserved_nanos or 0
                self.unpriced += one.reserved_nanos is None
            case AttemptState.RUNNING:
                self.in_flight += one.sent_at is not None
                self.reserved += one.reserved_nanos or 0
                self.unpriced += one.reserved_nanos is None
            case AttemptState.RELEASED if one.reason == Verdict.RELEASED:
                self.released += one.sent_at is not None
            case AttemptState.RELEASED if one.outcome == UNDONE and one.reason == CANCELLED:
                self.cancelled += one.sent_at is not None
            case AttemptState.RELEASED if one.outcome == UNDONE:
                self.undone += one.sent_at is not None
            case AttemptState.RELEASED:
                self.free += one.sent_at is not None


@dataclass
class Tally:
    """One pass over the rows of a job."""

    by: tuple[str, ...] = ()
    each_send: Callable[[BookedTask, BookedAttempt], None] = lambda *_: None
    whole: Line = field(default_factory=Line)
    unsent: int = 0
    """Tasks of which nothing ever left."""
    orphaned: Line = field(default_factory=Line)
    groups: dict[tuple[str, ...], Line] = field(default_factory=dict)
    without: list[BookedTask] = field(default_factory=list)
    """Refused and failed tasks of the manifest."""
    amiss: list[Pair] = field(default_factory=list)
    """Charges that were not as ordered."""
    dearest: list[Ranked] = field(default_factory=list)
    slowest: list[Ranked] = field(default_factory=list)
    by_hand: dict[tuple[str, str], tuple[int, int | None]] = field(default_factory=dict)
    """What people booked of unknown attempts, by verdict and the reason they gave: how many, what they held."""
    served_by: Counter[str] = field(default_factory=Counter)
    axes: dict[str, None] = field(default_factory=dict)
    _looked_at: int = 0

    def task(self, task: BookedTask, attempts: Sequence[BookedAttempt]) -> None:
        """Count a task with its attempts."""
        self.axes.update(dict.fromkeys(task.axes))
        self.unsent += all(one.sent_at is None for one in attempts)
        if task.live and task.state in {State.REFUSED, State.FAILED}:
            self.without.append(task)
        for line in (self.whole, *([] if task.live else [self.orphaned])):
            line.tasks += 1
            for one in attempts:
                line.add(one)
        if self.by:
            self._group(task, attempts)
        for one in attempts:
            self._look(task, one)

    def _group(self, task: BookedTask, attempts: Sequence[BookedAttempt]) -> None:
        """A task counts once in every group that it or one of its attempts is in."""
        has = values_of(task)
        touched: dict[tuple[str, ...], None] = {}
        for one in attempts or (None,):
            own = has if one is None else {**has, **_values_of(one)}
            name = tuple(own.get(axis, NOTHING) for axis in self.by)
            touched.setdefault(name)
            if one is not None:
                self.groups.setdefault(name, Line()).add(one)
        for name in touched:
            self.groups.setdefault(name, Line()).tasks += 1

    def _look(self, task: BookedTask, one: BookedAttempt) -> None:
        self._looked_at += 1
        order = -self._looked_at
        if one.cost_nanos:
            _keep(self.dearest, (one.cost_nanos, order, (task, one)))
        if one.latency_s is not None and one.sent_at is not None and one.outcome != UNDONE:
            _keep(self.slowest, (one.latency_s, order, (task, one)))
        if one.state is AttemptState.SETTLED:
            self.served_by[one.model_version or NOTHING] += 1
            if amiss(one):
                self.amiss.append((task, one))
        if one.reason in {Verdict.WRITTEN_OFF, Verdict.RELEASED}:
            many, held = self.by_hand.get((one.reason, one.error), (0, 0))
            self.by_hand[one.reason, one.error] = many + 1, plus(held, one.reserved_nanos)
        if one.sent_at is not None:
            self.each_send(task, one)


def _keep(heap: list[Ranked], entry: Ranked) -> None:
    (heapq.heappush if len(heap) < MOST else heapq.heappushpop)(heap, entry)


def amiss(one: BookedAttempt) -> list[str]:
    """What about a charge is not as it was ordered."""
    tier = (one.tier or "").strip().lower().removeprefix("service_tier_")
    found = [one.reason] if one.outcome == "unusable" and one.reason in WRONG else []
    return [*found, *(["overrun"] if one.overrun else []), *([] if tier in STANDARD_TIERS else [f"tier {tier}"])]


def values_of(task: BookedTask) -> dict[str, str]:
    """What `--by` can ask of a task."""
    own = {"size": task.size, "aspect": task.aspect, "model": task.model, "prompt": task.prompt_id}
    state = task.state.value if task.live else "orphaned"
    return {**task.axes, **own, "variant": str(task.variant), "state": state, "reason": task.reason or NOTHING}


def _values_of(one: BookedAttempt) -> dict[str, str]:
    words = {"lane": one.lane, "tier": one.tier, "served_by": one.model_version}
    words |= {"outcome": one.outcome or "in flight", "endpoint": one.endpoint}
    return {name: word or NOTHING for name, word in words.items()}


TASK_VALUES = ("size", "aspect", "model", "prompt", "variant", "state", "reason")


@dataclass(frozen=True, slots=True)
class Receipt:
    """A job with all that was counted, and what is wrong with it."""

    at: float
    """UTC."""
    database: str
    books: Books
    tally: Tally
    audit: Audit

    @property
    def adds_up(self) -> bool:
        """Whether every counter and every cost is what its rows and tokens say."""
        return not self.audit.problems

    @property
    def equal(self) -> bool:
        """Whether each task was sent once and charged once."""
        whole = self.tally.whole
        return whole.tasks == whole.sends == whole.charges == whole.pictures

    @property
    def exit_code(self) -> int:
        """0 if it adds up, else 1."""
        return 0 if self.adds_up else 1


def receipt(
    job: str,
    by: Sequence[str],
    options: Options,
    environment: Mapping[str, str],
    each_send: Callable[[BookedTask, BookedAttempt], None] = lambda *_: None,
) -> Receipt:
    """Read, count and check a job; `each_send` sees every attempt that left, in the order of the tasks.

    Raises UsageError for a job or an axis that is not there.
    """
    settings = resolve(options, environment)
    reader = Ledger.read(settings.database, settings.kind if settings.sandbox else None)
    book = _book(reader, job)
    tally, audit = Tally(tuple(by), each_send), Audit(book)

    def each(task: BookedTask, attempts: Sequence[BookedAttempt]) -> None:
        audit.task(task, attempts)
        tally.task(task, attempts)

    found = reader.books(job, each)
    audit.counters(found)
    _refuse_unknown(by, tally.axes)
    return Receipt(time.time(), settings.database, found, tally, audit)


def _book(reader: Reader, job: str) -> PriceBook:
    names = reader.job_names()
    if job not in names:
        raise UsageError(f"no job {job!r} in this ledger; it has: {', '.join(names) or 'none'}")
    return price_book(reader.status(job, since_utc=0).config)


def _refuse_unknown(by: Sequence[str], axes: Mapping[str, None]) -> None:
    known = (*axes, *TASK_VALUES, *OF_ATTEMPTS)
    for name in by:
        if name not in known:
            near = guess(name, known)
            all_of_them = "" if "expected" in near else f" it can be {listed(known)}"
            raise UsageError(f"--by {name}: unknown axis {name!r}{near}{all_of_them}")


def axes_of(texts: Sequence[str]) -> tuple[str, ...]:
    """The axes of `--by size,style --by lane`, each once."""
    names = (name.strip() for text in texts for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def pairs(heap: Sequence[Ranked]) -> Iterator[Pair]:
    """The attempts of a heap, the greatest first."""
    return (pair for *_, pair in sorted(heap, key=lambda entry: entry[:2], reverse=True))


def by_prompt(tasks: Sequence[BookedTask]) -> list[tuple[BookedTask, Line]]:
    """Tasks without a picture by prompt, state and reason: the first of them, and what they came to."""
    groups: dict[tuple[str, State, str], tuple[BookedTask, Line]] = {}
    for task in tasks:
        _, line = groups.setdefault((task.prompt_id, task.state, task.reason), (task, Line()))
        line.tasks += 1
        line.settled += task.cost_nanos or 0
        line.unknown += task.unknown_nanos or 0
        line.unpriced += None in (task.cost_nanos, task.unknown_nanos)
    return list(groups.values())
