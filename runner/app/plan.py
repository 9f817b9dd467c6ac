"""What a run would do now: a campaign compared with ledger and output folder. Writes nothing.

The tasks pass by once, in the order of buying; of a large job no list of them is made.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from math import ceil

from runner.adapters.library import INLINE_BYTES
from runner.adapters.storage import FolderStore
from runner.app.campaign import Before, Campaign, Way, refuse_unproven_caps
from runner.app.settings import Settings
from runner.core.budget import Cap, Spend, dollars, fits
from runner.core.errors import UsageError
from runner.core.forecast import Batch, Forecast, Past, forecast
from runner.core.keys import key
from runner.core.lifecycle import State
from runner.core.limits import Binding, Need
from runner.core.pricing import Quote
from runner.core.retry import LASTING
from runner.core.task import Recipe, TaskSpec
from runner.engine.outlook import past_of
from runner.ledger import AccountStatus, Known, Reader, Wish, agreed_cap

BATCH = 1_000
PIECES = 20_000
"""A forecast is made of so many groups of tasks at most."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do now."""

    campaign: Campaign
    new: int
    retry: int
    done: int
    orphaned: int
    likely_nanos: int | None
    """Of all that is still to buy, one try each; None at unknown prices."""
    worst_nanos: int | None
    image_tokens: int | None
    spend: Spend
    cut_after: int | None
    """How many of the tasks to buy fit at worst; None if all do or there is no cap."""
    missing: tuple[str, ...] = ()
    """Pictures that the ledger paid for and the folder no longer has."""
    cap_before: Cap | None = None
    """What the last run was held to; None if there was none."""
    finish: Forecast | None = None
    """When it would be done if it started now; None where there is nothing to buy."""
    account: AccountStatus | None = None
    """The account as it stands, with the cap it would have."""
    account_cap_before: Cap | None = None
    """What its cap is until then; None where the ledger does not know it yet."""
    left: str | None = None
    """An account that the job was under and is no more."""
    over: str = ""
    """Whose cap it would pass at worst; empty if it fits."""
    difference: Difference = field(default_factory=Difference)
    recorded: bool = False
    """Whether the ledger knows the job."""
    carried: Carried = field(default_factory=Carried)
    uploads: frozenset[str] = frozenset()
    """sha256 of the references that go through the Files API."""
    lost_drafts: str | None = None
    """The job its tasks were chosen from, if this ledger does not have it."""

    @property
    def fits(self) -> bool:
        """Whether the worst case fits every cap."""
        return not self.over

    @property
    def feasible(self) -> bool:
        """Whether the cap of the month lets all of it be bought."""
        return self.finish is None or self.finish.stopped_by != "month"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should hear of before a run."""
        notes = list(self.campaign.notes)
        if self.missing:
            notes.append(f"{len(self.missing)} paid pictures are no longer on disk, first {self.missing[0]}")
        if self.cap_before not in {None, Cap()} and self.campaign.cap == Cap():
            notes.append("the last run of this job had a cap, this one has none: a --budget counts for one run")
        if self.account is not None and self.account_cap_before not in {None, self.account.cap}:
            before, after = (self.account_cap_before or Cap()).words(), self.account.cap.words()
            notes.append(f"the cap of account {self.account.name} goes from {before} to {after}, for all its jobs")
        if self.left is not None:
            notes.append(f"the job leaves account {self.left}; what it spent there still counts there")
        if self.lost_drafts is not None:
            notes.append(f"drafts: this ledger has no job {self.lost_drafts!r}, so its spend is not added up")
        return tuple(notes)

    @property
    def total(self) -> int:
        """Tasks of the manifest."""
        return self.new + self.retry + self.done

    @property
    def to_buy(self) -> int:
        """Tasks a run would send."""
        return self.new + self.retry


def plan(
    campaign: Campaign, reader: Reader | None, store: FolderStore, settings: Settings, *, now_utc: float
) -> Plan:
    """Compare a campaign with what is recorded and on disk. Raises OutputError for files in its way."""
    before = _before(campaign, reader)
    _refuse_unpriced_past(campaign, before)
    way = Way(campaign, store, before, reader)
    holders = _holders(campaign, before)
    cuts = [_Cut(spend, cap) for _, spend, cap in holders]
    found = _Comparison(campaign, reader if before.recorded else None, before.recorded, cuts, way)
    way.refuse_strangers()
    whole = Quote(found.worst, found.image_tokens, 0, 0)
    drafts = campaign.manifest.drafts
    lost = drafts is not None and (reader is None or not reader.recorded(drafts))
    return Plan(
        campaign=campaign,
        new=found.new,
        retry=found.retry,
        done=found.done,
        orphaned=before.recorded - found.kept,
        likely_nanos=found.likely,
        worst_nanos=found.worst,
        image_tokens=found.image_tokens,
        spend=before.spend,
        cut_after=min((cut.after for cut in found.cuts if cut.after is not None), default=None),
        cap_before=before.cap,
        missing=tuple(store.missing(sorted(before.paths))),
        finish=_finish(campaign, reader, found.needs, settings, now_utc) if found.new + found.retry else None,
        account=before.account,
        account_cap_before=before.account_cap,
        left=before.left,
        over=" and ".join(whose for whose, spend, cap in holders if not fits(spend, cap, whole)),
        difference=found.difference,
        recorded=bool(before.recorded),
        carried=found.carried,
        uploads=found.uploads,
        lost_drafts=drafts if lost else None,
    )


def resolved(campaign: Campaign, reader: Reader | None) -> Iterator[tuple[TaskSpec, Known | None, TaskSpec]]:
    """(task, what the ledger knows of it, the task as the manifest has it), in the order of buying.

    The two tasks differ where the manifest keeps the pictures of a predecessor of its model and this one was
    bought of it: then the task is that one, key and all.
    """
    specs = iter(campaign.specs)
    while batch := list(islice(specs, BATCH)):
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


class _Cut:
    """After how many tasks a cap is reached at worst."""

    def __init__(self, spend: Spend, cap: Cap) -> None:
        self.after: int | None = None
        self._spend, self._cap, self._count = spend, cap, 0

    def add(self, quote: Quote) -> None:
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


class _Needs:
    """What the tasks to buy of one model take of the limits, in their order, in few enough groups."""

    def __init__(self, total: int) -> None:
        self.batches: list[Batch] = []
        self._piece = total // PIECES + 1
        self._open: Counter[Need] = Counter()

    def add(self, need: Need) -> None:
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


class _Comparison:
    """One pass over the tasks of a campaign, counting."""

    def __init__(
        self, campaign: Campaign, reader: Reader | None, recorded: int, cuts: list[_Cut], way: Way
    ) -> None:
        self.new = self.retry = self.done = self.kept = 0
        self.likely: int | None = 0
        self.worst: int | None = 0
        self.image_tokens: int | None = 0
        self.cuts, self.difference = cuts, Difference()
        self.needs: dict[str, _Needs] = {}
        self._campaign = campaign
        self._carried, self._carried_nanos = 0, _Sum()
        self._traffic: Counter[tuple[str, int]] = Counter()
        self._large: set[str] = set()
        self._present: set[int] = set()
        """Hashes of the keys that are recorded and still named."""
        places: dict[int, int] | None = {} if reader is None else None
        replaced: list[tuple[int, TaskSpec]] = []
        for spec, known, as_written in resolved(campaign, reader):
            way.leads_to(spec.stem)
            if known is not None:
                self._present.add(hash(spec.key))
            else:
                if places is None and reader is not None:  # read only where something is new
                    places = _places(reader, campaign.job)
                if place := (places or {}).get(_place(spec)):
                    replaced.append((place, spec))
                    self._compare(spec, known, as_written)
                    continue
            self._compare(spec, known, as_written)
            self._count(spec, "new" if known is None else "kept")
        for old, spec in replaced:
            self._count(spec, "new" if old in self._present else "changed")
        if reader is not None and recorded > self.kept:
            self._count_orphans(reader)
        for needs in self.needs.values():
            needs.close()

    @property
    def carried(self) -> Carried:
        return Carried(self._carried, self._carried_nanos.value)

    @property
    def uploads(self) -> frozenset[str]:
        """What goes through the Files API: references too large for one request, or for all requests together."""
        shared = {sha256 for (sha256, size), times in self._traffic.items() if size * times > INLINE_BYTES}
        return frozenset(shared | self._large)

    def _compare(self, spec: TaskSpec, known: Known | None, as_written: TaskSpec) -> None:
        self.kept += known is not None
        if known is None or (known.state is State.QUEUED and not known.attempts):
            self.new += 1
        elif known.state in _LEFT or known.goes_back(LASTING):
            self.retry += 1
        else:
            self.done += 1
            if spec is not as_written:
                self._carried += 1
                self._carried_nanos.add(self._campaign.worth(as_written).likely)
            return
        self._buy(spec)

    def _buy(self, spec: TaskSpec) -> None:
        worth = self._campaign.worth(spec)
        self.likely, self.worst = plus(self.likely, worth.likely), plus(self.worst, worth.quote.nanos)
        self.image_tokens = plus(self.image_tokens, worth.quote.image_tokens)
        for cut in self.cuts:
            cut.add(worth.quote)
        model = spec.recipe.model
        if model not in self.needs:
            self.needs[model] = _Needs(len(self._campaign.specs))
        self.needs[model].add(worth.need)
        files = [one for one in spec.references if one.uri is None]
        self._traffic.update((one.sha256, one.bytes) for one in files)
        if sum(one.bytes for one in files) > INLINE_BYTES:
            self._large.update(one.sha256 for one in files)

    def _count(self, spec: TaskSpec, what: str) -> None:
        axes = {"size": spec.size, "aspect": spec.aspect, **dict(spec.axes)}
        for cells in self.difference.of(axes):
            setattr(cells, what, getattr(cells, what) + 1)
            if what != "kept":
                cells.likely_nanos = plus(cells.likely_nanos, self._campaign.worth(spec).likely)

    def _count_orphans(self, reader: Reader) -> None:
        for place in reader.places(self._campaign.job):
            if hash(place.key) not in self._present:
                axes = {"size": place.size, "aspect": place.aspect, **place.axes}
                for cells in self.difference.of(axes):
                    cells.orphaned += 1


_LEFT = frozenset({State.QUEUED, State.RUNNING, State.SUBMITTED})


class _Sum:
    """A sum that is unknown once a part of it is."""

    def __init__(self) -> None:
        self.value: int | None = 0

    def add(self, value: int | None) -> None:
        self.value = plus(self.value, value)


def plus(one: int | None, other: int | None) -> int | None:
    """The sum; None if any of it is not known."""
    return None if one is None or other is None else one + other


def _places(reader: Reader, job: str) -> dict[int, int]:
    """What was recorded, by hashes: the place of a task -> its key."""
    return {
        hash((one.prompt_id, one.size, one.aspect, tuple(sorted(one.axes.items())), one.variant)): hash(one.key)
        for one in reader.places(job)
    }


def _place(spec: TaskSpec) -> int:
    return hash((spec.prompt_id, spec.size, spec.aspect, tuple(sorted(spec.axes)), spec.variant))


def _finish(
    campaign: Campaign, reader: Reader | None, needs: Mapping[str, _Needs], settings: Settings, now: float
) -> Forecast:
    """The earliest finish under all limits, a usual answer's time and one try each; of the model done last."""
    forecasts = []
    for model, of_model in needs.items():
        past, limits = Past(), campaign.limits
        if reader is not None:
            standing = reader.standing(Wish(settings.endpoint, model, campaign.limits), now=now)
            past, limits = past_of(standing, model), standing.limits
        forecasts.append(forecast(of_model.batches, limits, past, now=now, latency_s=settings.usual_latency_s))
    return max(forecasts, key=_lateness)


def _lateness(one: Forecast) -> tuple[bool, float]:
    return (one.finish_s is None or one.stopped_by is not None, one.finish_s or 0.0)


def _refuse_unpriced_past(campaign: Campaign, before: Before) -> None:
    """A cap covers what was spent before it was set; where nobody knows that, it cannot be proven."""
    holders = [(f"job {campaign.job}", campaign.cap, before.unpriced, before.uncounted)]
    if shared := before.account:
        refuse_unproven_caps(campaign, shared.cap)
        holders.append((f"account {shared.name}", shared.cap, shared.unpriced, shared.uncounted))
    for whose, cap, unpriced, uncounted in holders:
        if (cap.nanos is not None and unpriced) or (cap.image_tokens is not None and uncounted):
            kind, _, _ = whose.partition(" ")
            raise UsageError(
                f"{campaign.manifest.file}: {max(unpriced, uncounted)} earlier requests of {whose} have no known "
                f"price: a cap over them cannot be proven. Leave the budget out, or name another {kind}"
            )


def _holders(campaign: Campaign, before: Before) -> list[tuple[str, Spend, Cap]]:
    """What is held against each cap: the job's own, and its account's."""
    own = ("the cap", before.spend, campaign.cap)
    if (shared := before.account) is None:
        return [own]
    return [own, (f"the cap of account {shared.name}", _unreserved(shared.spend), shared.cap)]


def _before(campaign: Campaign, reader: Reader | None) -> Before:
    job = campaign.job
    if reader is None or not (recorded := reader.recorded(job)):
        return _with_account(Before(), campaign, reader, None)
    status = reader.status(job, since_utc=0)
    before = Before(
        recorded=recorded,
        spend=_unreserved(status.spend),
        cap=status.cap,
        unpriced=status.unpriced,
        uncounted=status.uncounted,
        paths=frozenset(reader.paths(job)),
        in_flight=frozenset(one.stem for one in reader.running(job)),
    )
    return _with_account(before, campaign, reader, status.account)


def _with_account(
    before: Before, campaign: Campaign, reader: Reader | None, under: AccountStatus | None
) -> Before:
    """The account as a run would find it: its cap as agreed, with what the job brings along from under none."""
    spec = campaign.account
    left = under.name if under is not None and (spec is None or spec.name != under.name) else None
    if spec is None:
        return replace(before, left=left)
    recorded = None if reader is None else reader.account(spec.name)
    cap = agreed_cap(spec, None if recorded is None else recorded.cap)
    shared = recorded or AccountStatus(spec.name, cap, Spend(), 0, 0, ())
    brought = Spend() if reader is None else reader.under_no_account(campaign.job)
    unpriced, uncounted = (before.unpriced, before.uncounted) if under is None else (0, 0)
    return replace(
        before,
        account=replace(
            shared,
            cap=cap,
            spend=shared.spend.plus(brought),
            unpriced=shared.unpriced + unpriced,
            uncounted=shared.uncounted + uncounted,
        ),
        account_cap=None if recorded is None else recorded.cap,
        left=left,
    )


def _unreserved(spend: Spend) -> Spend:
    """What a run starts from: reservations that a dead run left become unknown, so they still count."""
    return replace(
        spend,
        reserved=0,
        unknown=spend.unknown + spend.reserved,
        reserved_image_tokens=0,
        unknown_image_tokens=spend.unknown_image_tokens + spend.reserved_image_tokens,
    )


def price_line(plan: Plan) -> str:
    """What is said before the first request: tasks, likely and worst cost, the cap and where it cuts."""
    worst = "an unknown price" if plan.worst_nanos is None else f"up to ${dollars(plan.worst_nanos)}"
    likely = "" if plan.likely_nanos is None else f"likely ${dollars(plan.likely_nanos)}, "
    cap = plan.campaign.cap
    caps = [f"cap {cap.words()}"] if cap != Cap() else []
    if plan.account is not None:
        caps.append(f"account {plan.account.name} {held_words(plan.account)}")
    if not caps:
        return f"{plan.to_buy} tasks to buy: {likely}{worst}; no cap: {worst}"
    cut = "" if plan.cut_after is None else f"; at worst the cap cuts after task {plan.cut_after} of {plan.to_buy}"
    return f"{plan.to_buy} tasks to buy: {likely}{worst}; {'; '.join(caps)}{cut}"


def held_words(account: AccountStatus) -> str:
    """What an account has spent and holds, against its cap: `$12.50 of $200.00`."""
    spend, cap = account.spend, account.cap
    money = "unknown spend (no prices)" if account.unpriced else f"${dollars(spend.held)}"
    words = money if cap.nanos is None else f"{money} of ${dollars(cap.nanos)}"
    if cap.image_tokens is not None:
        words += f", {spend.held_image_tokens} of {cap.image_tokens} image tokens"
    return words


def finish_line(plan: Plan) -> str | None:
    """When it would be done, and what makes it take so long; None where there is nothing to buy."""
    finish = plan.finish
    if finish is None:
        return None
    if finish.stopped_by == "month":
        return f"the month's spend limit stops it after {finish.bought} of {plan.to_buy} tasks"
    if finish.finish_s is None:
        return "under these limits it is never done"
    binds = "" if finish.binds is None else f"; {BINDING_WORDS[finish.binds]} is what binds"
    return f"done in {duration(finish.finish_s)} at the earliest{binds}"


BINDING_WORDS: Mapping[Binding, str] = {
    "requests": "requests a minute",
    "tokens": "input tokens a minute",
    "images": "images a minute",
    "day": "requests a day",
    "spend_window": "dollars in ten minutes",
    "month": "dollars a month",
    "concurrency": "the concurrency",
    "bytes": "bytes in flight",
    "budget": "the budget",
    "outage": "an outage",
    "refused": "a refusal of the provider",
    "room": "room on the disk",
    "retries": "retries that are not due yet",
    "references": "references being uploaded",
}


def duration(seconds: float) -> str:
    """`2 d 3:04:05`, `0:00:12`."""
    days, rest = divmod(ceil(seconds), 86_400)
    clock = str(timedelta(seconds=rest))
    return f"{days} d {clock}" if days else clock
