"""One pass over the tasks of a campaign, compared with what is recorded of them, in the order of buying.

Of a large job no list of them is made.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

from runner.adapters.library import INLINE_BYTES
from runner.app.before import Way
from runner.app.campaign import Campaign, Worth, plus
from runner.app.tally import Alike, Cut, Needs, Projection, Sum
from runner.core.batching import Queue
from runner.core.grammar import Lane
from runner.core.keys import key
from runner.core.lifecycle import State
from runner.core.limits import Need
from runner.core.retry import LASTING
from runner.core.task import Recipe, TaskSpec
from runner.ledger import Known, Reader

AT_ONCE = 1_000
"""Tasks that the ledger is asked about together."""


@dataclass(slots=True)
class Cells:
    """Tasks with one value of an axis, compared with what is recorded."""

    kept: int = 0
    new: int = 0
    changed: int = 0
    """New, in the place of one that is no longer named: same prompt id, axes and variant."""
    orphaned: int = 0
    likely_nanos: int | None = 0
    """Of the new and the changed."""


@dataclass(slots=True)
class Difference:
    """What an edit of the manifest changes, all in all and by axis and value."""

    whole: Cells = field(default_factory=Cells)
    axes: dict[str, dict[str, Cells]] = field(default_factory=dict)

    def of(self, axes: Mapping[str, str]) -> list[Cells]:
        """The whole, and the cells of each axis value."""
        values = [self.axes.setdefault(name, {}).setdefault(value, Cells()) for name, value in axes.items()]
        return [self.whole, *values]


@dataclass(frozen=True, slots=True)
class Carried:
    """Pictures of a predecessor of the model that count as done."""

    tasks: int = 0
    likely_nanos: int | None = 0
    """What buying them of the present model would cost."""


def resolved(campaign: Campaign, reader: Reader | None) -> Iterator[tuple[TaskSpec, Known | None, TaskSpec]]:
    """(task, what the ledger knows of it, the task as the manifest has it), in the order of buying.

    The two tasks differ where the manifest keeps the pictures of a predecessor of its model and this one was
    bought of it: then the task is that one, key and all.
    """
    specs = iter(campaign.specs)
    while batch := list(islice(specs, AT_ONCE)):
        known = {} if reader is None else dict(reader.known(campaign.job, [spec.key for spec in batch]))
        bought = _bought_before(campaign, reader, [spec for spec in batch if spec.before], known)
        for spec in batch:
            carried, facts = bought.get(spec.key, (spec, known.get(spec.key)))
            yield carried, facts, spec


def _bought_before(
    campaign: Campaign, reader: Reader | None, batch: list[TaskSpec], known: Mapping[str, Known | None]
) -> dict[str, tuple[TaskSpec, Known]]:
    """By key: the same task of a kept model, where that one was bought and this one was not."""
    if reader is None:
        return {}
    wanted = [spec for spec in batch if not _succeeded(known.get(spec.key))]
    as_before = {
        spec.key: [replace(spec, key=_key(spec, recipe), recipe=recipe) for recipe in spec.before]
        for spec in wanted
    }
    keys = [one.key for others in as_before.values() for one in others]
    facts = dict(reader.known(campaign.job, keys)) if keys else {}
    bought = {}
    for key_, others in as_before.items():
        for one in others:
            there = facts.get(one.key)
            if there is not None and there.state is State.SUCCEEDED:
                bought[key_] = (one, there)
                break
    return bought


def _succeeded(known: Known | None) -> bool:
    return known is not None and known.state is State.SUCCEEDED


def _key(spec: TaskSpec, recipe: Recipe) -> str:
    return key(
        recipe,
        spec.prompt,
        spec.size,
        spec.aspect,
        variant=spec.variant,
        occurrence=spec.occurrence,
        references=[one.identity for one in spec.references],
    )


class Comparison:
    """One pass over the tasks of a campaign, counting."""

    def __init__(
        self, campaign: Campaign, reader: Reader | None, recorded: int, cuts: list[Cut], way: Way
    ) -> None:
        """Do it; `way` knows afterwards what is in the way of the pictures."""
        self.new = self.retry = self.done = self.submitted = self.kept = 0
        self.lanes: dict[Lane, Projection] = {"standard": Projection(), "batch": Projection()}
        """What all that is to buy would cost on one lane alone."""
        self.picture_bytes = 0
        """What all pictures that are still to come probably take."""
        self.likely = Sum()
        self.batched = Needs(len(campaign.specs))
        """Of what would go as batches, of all models: dollars alone."""
        self.queues: dict[str, Queue] = {}
        """The same by model, for what may be open at once."""
        self.worst = Projection()
        """All that may be held at once: with a deadline one try on each lane. Nothing of it is likely."""
        self.cuts, self.difference = cuts, Difference()
        self.needs: dict[str, Needs] = {}
        """Of what is bought on the standard lane, by model."""
        self.needs_at_last: dict[str, Needs] = {}
        """The same if all that is not there comes to the standard lane; empty without a deadline."""
        self._campaign = campaign
        self._alike = Alike(campaign.lane, campaign.manifest.batch.least)
        self._carried, self._carried_nanos = 0, Sum()
        self._traffic: Counter[tuple[str, int]] = Counter()
        self._large: set[str] = set()
        self._present: set[int] = set()
        """Hashes of the keys that are recorded and still named."""
        self._pass(reader, way)
        if reader is not None and recorded > self.kept:
            self._count_orphans(reader)
        for needs in (self.batched, *self.needs.values(), *self.needs_at_last.values()):
            needs.close()

    @property
    def carried(self) -> Carried:
        """Pictures of kept models."""
        return Carried(self._carried, self._carried_nanos.value)

    @property
    def uploads(self) -> frozenset[str]:
        """What goes through the Files API: references too large for one request, or for all requests together."""
        shared = {sha256 for (sha256, size), times in self._traffic.items() if size * times > INLINE_BYTES}
        return frozenset(shared | self._large)

    def _pass(self, reader: Reader | None, way: Way) -> None:
        places: dict[int, int] | None = {} if reader is None else None
        replaced: list[tuple[int, TaskSpec]] = []
        for spec, known, as_written in resolved(self._campaign, reader):
            way.leads_to(spec.stem)
            self._compare(spec, known, as_written)
            if known is not None:
                self._present.add(hash(spec.key))
                self._count(spec, "kept")
                continue
            if places is None and reader is not None:  # read only where something is new
                places = _places(reader, self._campaign.job)
            if place := (places or {}).get(_place(spec)):
                replaced.append((place, spec))
            else:
                self._count(spec, "new")
        for old, spec in replaced:
            self._count(spec, "new" if old in self._present else "changed")
        self._alike.settle()

    def _compare(self, spec: TaskSpec, known: Known | None, as_written: TaskSpec) -> None:
        self.kept += known is not None
        if known is None or (known.state is State.QUEUED and not known.attempts):
            self.new += 1
        elif known.state in _LEFT or known.goes_back(LASTING):
            self.retry += 1
        else:
            self.done += 1
            if known.state is State.SUBMITTED:
                self._submitted(spec)
            elif spec is not as_written:
                self._carried += 1
                self._carried_nanos.add(self._campaign.likely(as_written))
            return
        self._buy(spec)

    def _submitted(self, spec: TaskSpec) -> None:
        """Its batch has its reservation already; before a deadline it may be bought once more."""
        self.submitted += 1
        worth = self._campaign.worth(spec)
        self.picture_bytes += worth.picture_bytes
        if self._campaign.deadline_utc is not None:
            self.worst.hold(worth.standard.quote)
            self._need(self.needs_at_last, spec, worth)

    def _buy(self, spec: TaskSpec) -> None:
        worth = self._campaign.worth(spec)
        self.picture_bytes += worth.picture_bytes
        for lane, projection in self.lanes.items():
            projection.add(worth.on(lane))
        quote = self._campaign.at_worst(worth)
        self.worst.hold(quote)
        for cut in self.cuts:
            cut.add(quote)
        self._alike.when_known(spec.recipe, partial(self._goes_by, spec, worth), counts=True)
        if self._campaign.deadline_utc is not None:
            self._need(self.needs_at_last, spec, worth)
        files = [one for one in spec.references if one.uri is None]
        self._traffic.update((one.sha256, one.bytes) for one in files)
        if sum(one.bytes for one in files) > INLINE_BYTES:
            self._large.update(one.sha256 for one in files)

    def _goes_by(self, spec: TaskSpec, worth: Worth, lane: Lane) -> None:
        self.likely.add(worth.on(lane).likely)
        if lane == "batch":
            self.batched.add(Need(nanos=worth.batch.likely or 0))
            queue = self.queues.setdefault(spec.recipe.model, Queue())
            queue.add(worth.batch.quote.input_tokens, worth.need.bytes)
        else:
            self._need(self.needs, spec, worth)

    def _need(self, needs: dict[str, Needs], spec: TaskSpec, worth: Worth) -> None:
        model = spec.recipe.model
        if model not in needs:
            needs[model] = Needs(len(self._campaign.specs))
        needs[model].add(worth.need)

    def _count(self, spec: TaskSpec, what: str) -> None:
        axes = {"size": spec.size, "aspect": spec.aspect, **dict(spec.axes)}
        touched = self.difference.of(axes)
        for cells in touched:
            setattr(cells, what, getattr(cells, what) + 1)
        if what != "kept":
            worth = self._campaign.worth(spec)
            self._alike.when_known(spec.recipe, partial(_add_likely, touched, worth))

    def _count_orphans(self, reader: Reader) -> None:
        for place in reader.places(self._campaign.job):
            if hash(place.key) not in self._present:
                axes = {"size": place.size, "aspect": place.aspect, **place.axes}
                for cells in self.difference.of(axes):
                    cells.orphaned += 1


def _add_likely(touched: list[Cells], worth: Worth, lane: Lane) -> None:
    for cells in touched:
        cells.likely_nanos = plus(cells.likely_nanos, worth.on(lane).likely)


_LEFT = frozenset({State.QUEUED, State.RUNNING})


def _places(reader: Reader, job: str) -> dict[int, int]:
    """What was recorded, by hashes: the place of a task -> its key."""
    return {
        hash((one.prompt_id, one.size, one.aspect, tuple(sorted(one.axes.items())), one.variant)): hash(one.key)
        for one in reader.places(job)
    }


def _place(spec: TaskSpec) -> int:
    return hash((spec.prompt_id, spec.size, spec.aspect, tuple(sorted(spec.axes)), spec.variant))
