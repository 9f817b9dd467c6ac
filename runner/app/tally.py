"""What is added up of the tasks to buy, one by one: cost, where a cap cuts, what they take of the limits."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from runner.app.campaign import Cost, plus
from runner.core.budget import Cap, Spend, fits
from runner.core.forecast import Batch
from runner.core.grammar import Lane
from runner.core.limits import Need
from runner.core.pricing import Quote
from runner.core.task import Recipe

PIECES = 20_000
"""A forecast is made of so many groups of tasks at most."""


class Sum:
    """A sum that is unknown once a part of it is."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.value: int | None = 0

    def add(self, value: int | None) -> None:
        """One more part."""
        self.value = plus(self.value, value)


@dataclass(slots=True)
class Projection:
    """What some tasks cost, one try each; None at unknown prices or counts."""

    likely_nanos: int | None = 0
    worst_nanos: int | None = 0
    image_tokens: int | None = 0

    def add(self, cost: Cost) -> None:
        """One more task."""
        self.likely_nanos = plus(self.likely_nanos, cost.likely)
        self.hold(cost.quote)

    def hold(self, quote: Quote) -> None:
        """One more task, at worst."""
        self.worst_nanos = plus(self.worst_nanos, quote.nanos)
        self.image_tokens = plus(self.image_tokens, quote.image_tokens)


class Cut:
    """After how many tasks a cap is reached at worst."""

    def __init__(self, spend: Spend, cap: Cap) -> None:
        """The cap, and what is held against it now."""
        self.after: int | None = None
        self._spend, self._cap, self._count = spend, cap, 0

    def add(self, quote: Quote) -> None:
        """The next task to buy."""
        if self.after is not None or self._cap == Cap():
            return
        if not fits(self._spend, self._cap, quote):
            self.after = self._count
            return
        self._count += 1
        self._spend = replace(
            self._spend,
            settled=self._spend.settled + (quote.nanos or 0),
            settled_image_tokens=self._spend.settled_image_tokens + (quote.image_tokens or 0),
        )


class Needs:
    """What the tasks to buy of one model take of the limits, in their order, in few enough groups."""

    def __init__(self, total: int) -> None:
        """For `total` tasks at most."""
        self.batches: list[Batch] = []
        self._piece = total // PIECES + 1
        self._open: Counter[Need] = Counter()

    def add(self, need: Need) -> None:
        """The next task."""
        self._open[need] += 1
        if self._open.total() >= self._piece:
            self.close()

    def close(self) -> None:
        """Take what has come since as one group, averaged where it is uneven."""
        if not self._open:
            return
        count = self._open.total()
        need = next(iter(self._open)) if len(self._open) == 1 else _mean(self._open, count)
        if self.batches and self.batches[-1].need == need:
            count += self.batches.pop().count
        self.batches.append(Batch(count, need))
        self._open.clear()


def _mean(needs: Counter[Need], count: int) -> Need:
    tokens, images, nanos, size_bytes = (
        -(-sum(times * getattr(need, name) for need, times in needs.items()) // count)
        for name in ("tokens", "images", "nanos", "bytes")
    )
    return Need(tokens, images, nanos, size_bytes)


class Alike:
    """Which lane a task is bought on. Under lane auto that of the few is known only when all have been counted."""

    def __init__(self, lane: Lane, least: int) -> None:
        """Under lane auto so many alike at `least` go as a batch."""
        self._lane, self._least = lane, least
        self._counts: Counter[Recipe] = Counter()
        self._waiting: dict[Recipe, list[Callable[[Lane], None]]] = {}
        """At most a few for each recipe: once they are enough, nothing waits any more."""

    def when_known(self, recipe: Recipe, then: Callable[[Lane], None], *, counts: bool = False) -> None:
        """Call `then` with the lane of a task, now or later; `counts` where it is one more to buy."""
        if self._lane != "auto":
            then(self._lane)
            return
        self._counts[recipe] += counts
        if self._counts[recipe] < self._least:
            self._waiting.setdefault(recipe, []).append(then)
            return
        self._tell(recipe, "batch")
        then("batch")

    def settle(self) -> None:
        """All have been counted: what still waits is too few."""
        for recipe in list(self._waiting):
            self._tell(recipe, "standard")

    def _tell(self, recipe: Recipe, lane: Lane) -> None:
        for then in self._waiting.pop(recipe, ()):
            then(lane)
