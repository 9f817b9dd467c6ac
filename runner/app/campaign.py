"""A manifest made ready: read, priced, expanded, compared with ledger and output folder. Writes nothing."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.adapters.storage import FolderStore, largest_bytes
from runner.app.settings import Settings, budget_nanos
from runner.core.budget import Cap, Spend, dollars, fits
from runner.core.catalog import Catalog, Model, builtin
from runner.core.errors import OutputError, UsageError
from runner.core.lifecycle import State
from runner.core.manifest import Manifest, parse
from runner.core.matrix import duplicates, expand
from runner.core.paths import fold
from runner.core.pricing import PriceSheet, Quote, Seen, Tokens, allowance, sheet
from runner.core.retry import LASTING
from runner.core.task import TaskSpec
from runner.ledger import Known, Reader

LIKELY_TEXT = {"minimal": 350}
"""Text and thinking tokens of a usual answer (gemini-api.md §5.4); the likely cost counts with them."""
LIKELY_TEXT_OTHERWISE = 1_100
BYTES_A_TOKEN = 4
DEFAULT_CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Campaign:
    """One manifest, ready to be planned or run."""

    manifest: Manifest
    model: Model | None
    sheet: PriceSheet
    cap: Cap
    specs: tuple[TaskSpec, ...]
    sha256: str
    notes: tuple[str, ...]
    rpm: int | None
    concurrency: int

    @property
    def job(self) -> str:
        """The job's name."""
        return self.manifest.job

    @property
    def picture_bytes(self) -> int:
        """Room the largest of its pictures may need."""
        sizes = {(spec.size, spec.aspect) for spec in self.specs}
        known = {} if self.model is None else self.model.pixels
        return max((largest_bytes(known.get(size), size[0]) for size in sizes), default=0)

    def quote(self, spec: TaskSpec) -> Quote:
        """The worst price of one try of a task, before anything was seen."""
        size_bytes = len(spec.prompt.encode()) + len((spec.recipe.system or "").encode())
        return self.sheet.quote(size=spec.size, thinking=spec.recipe.thinking, input_bytes=size_bytes, seen=Seen())

    def likely(self, spec: TaskSpec) -> int | None:
        """What one try of a task will probably cost, in nano-dollars."""
        quote = self.quote(spec)
        if quote.image_tokens is None:
            return None
        text = min(
            allowance(spec.recipe.thinking), LIKELY_TEXT.get(spec.recipe.thinking or "", LIKELY_TEXT_OTHERWISE)
        )
        return self.sheet.cost(Tokens(-(-quote.input_tokens // BYTES_A_TOKEN), text, quote.image_tokens))


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
    fits: bool
    cut_after: int | None
    """How many of the tasks to buy fit at worst; None if all do or there is no cap."""
    missing: tuple[str, ...] = ()
    """Pictures that the ledger paid for and the folder no longer has."""
    cap_before: Cap | None = None
    """What the last run was held to; None if there was none."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should hear of before a run."""
        notes = list(self.campaign.notes)
        if self.missing:
            notes.append(f"{len(self.missing)} paid pictures are no longer on disk, first {self.missing[0]}")
        if self.cap_before not in {None, Cap()} and self.campaign.cap == Cap():
            notes.append("the last run of this job had a cap, this one has none: a --budget counts for one run")
        return tuple(notes)

    @property
    def total(self) -> int:
        """Tasks of the manifest."""
        return self.new + self.retry + self.done

    @property
    def to_buy(self) -> int:
        """Tasks a run would send."""
        return self.new + self.retry


@dataclass(frozen=True, slots=True)
class Before:
    """What the ledger holds of a job before a run."""

    known: dict[str, Known | None] = field(default_factory=dict)
    """By key of the manifest's tasks."""
    spend: Spend = field(default_factory=Spend)
    orphaned: int = 0
    paths: frozenset[str] = frozenset()
    """Of all its pictures, orphans' included."""
    in_flight: frozenset[str] = frozenset()
    """Stems of requests that a dead run left."""
    cap: Cap | None = None
    unpriced: int = 0
    """Attempts whose cost nobody knows."""
    uncounted: int = 0
    """Attempts whose image tokens nobody knows."""


def load(path: Path, settings: Settings) -> Campaign:
    """Read and expand a manifest. Raises ManifestError, or UsageError for a cap that cannot be proven."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or 'cannot be read'}") from None
    catalog = builtin()
    manifest = parse(text, str(path), catalog)
    campaign = _campaign(manifest, catalog, settings, hashlib.sha256(text).hexdigest())
    _refuse_later_lanes(settings.options.lane or manifest.lane)
    _refuse_unproven_caps(campaign)
    return campaign


def _campaign(manifest: Manifest, catalog: Catalog, settings: Settings, sha256: str) -> Campaign:
    model = catalog.find(manifest.model)
    prices = manifest.prices
    specs = tuple(expand(manifest, catalog))
    options = settings.options
    cap = Cap(manifest.budget.cap_nanos, manifest.budget.cap_image_tokens)
    if options.budget is not None:
        cap = replace(cap, nanos=budget_nanos(options.budget))
    notes = manifest.notes
    if same := duplicates(specs):
        notes = (*notes, f"{same} tasks repeat the request of another; each is a picture of its own")
    return Campaign(
        manifest=manifest,
        model=model,
        sheet=sheet(model, "standard", override=prices.prices, image_tokens=prices.image_tokens),
        cap=cap,
        specs=specs,
        sha256=sha256,
        notes=notes,
        rpm=options.rpm or manifest.limits.rpm,
        concurrency=options.concurrency or manifest.limits.concurrency or DEFAULT_CONCURRENCY,
    )


def _refuse_later_lanes(lane: str) -> None:
    if lane != "standard":
        raise UsageError(f"lane {lane}: only the standard lane is served in this release")


def _refuse_unproven_caps(campaign: Campaign) -> None:
    """A cap needs a worst case; without prices or token counts there is none (design §3)."""
    cap, price = campaign.cap, campaign.sheet
    uncounted = sorted({spec.size for spec in campaign.specs if price.picture_tokens(spec.size) is None})
    missing = []
    if cap.nanos is not None:
        missing += [f"prices.{name}" for name in price.prices.missing]
    if uncounted and (cap.nanos is not None or cap.image_tokens is not None):
        missing.append(f"prices.image_tokens (for {', '.join(uncounted)})")
    if missing:
        raise UsageError(
            f"{campaign.manifest.file}: a cap cannot be proven for {campaign.manifest.model}: "
            f"fill in {', '.join(missing)}, or leave the budget out"
        )


def _refuse_unpriced_past(campaign: Campaign, before: Before) -> None:
    """A cap covers what was spent before it was set; where nobody knows that, it cannot be proven."""
    cap = campaign.cap
    if (cap.nanos is not None and before.unpriced) or (cap.image_tokens is not None and before.uncounted):
        raise UsageError(
            f"{campaign.manifest.file}: {max(before.unpriced, before.uncounted)} earlier requests of job "
            f"{campaign.job} have no known price: a cap over them cannot be proven. "
            "Leave the budget out, or start a job of another name"
        )


def plan(campaign: Campaign, reader: Reader | None, store: FolderStore) -> Plan:
    """Compare a campaign with what is recorded and on disk. Raises OutputError for files in its way."""
    before = _before(campaign, reader)
    _refuse_unpriced_past(campaign, before)
    to_buy, counts = _to_buy(campaign, before.known)
    refuse_foreign(campaign, store, before)
    quotes = [campaign.quote(spec) for spec in to_buy]
    worst = total(quote.nanos for quote in quotes)
    image_tokens = total(quote.image_tokens for quote in quotes)
    spend = before.spend
    return Plan(
        campaign=campaign,
        **counts,
        orphaned=before.orphaned,
        likely_nanos=total(campaign.likely(spec) for spec in to_buy),
        worst_nanos=worst,
        image_tokens=image_tokens,
        spend=spend,
        fits=fits(spend, campaign.cap, Quote(worst, image_tokens, 0, 0)),
        cut_after=_cut_after(campaign.cap, spend, quotes),
        cap_before=before.cap,
        missing=tuple(store.missing(sorted(before.paths))),
    )


def _before(campaign: Campaign, reader: Reader | None) -> Before:
    job = campaign.job
    if reader is None or not (recorded := reader.recorded(job)):
        return Before()
    known = dict(reader.known(job, (spec.key for spec in campaign.specs)))
    status = reader.status(job, since_utc=0)
    return Before(
        known=known,
        spend=_unreserved(status.spend),
        cap=status.cap,
        unpriced=status.unpriced,
        uncounted=status.uncounted,
        orphaned=recorded - sum(1 for one in known.values() if one is not None),
        paths=frozenset(one.path for one in reader.tasks(job, orphaned=True) if one.path),
        in_flight=frozenset(one.stem for one in reader.running(job)),
    )


def _to_buy(campaign: Campaign, known: dict[str, Known | None]) -> tuple[list[TaskSpec], dict[str, int]]:
    """The tasks a run would send, in order, and how many are new, tried before or done."""
    buy, counts = [], {"new": 0, "retry": 0, "done": 0}
    for spec in sorted(campaign.specs, key=lambda spec: spec.position):
        one = known.get(spec.key)
        if one is None or (one.state is State.QUEUED and not one.attempts):
            counts["new"] += 1
        elif one.state in {State.QUEUED, State.RUNNING, State.SUBMITTED} or one.goes_back(LASTING):
            counts["retry"] += 1
        else:
            counts["done"] += 1
            continue
        buy.append(spec)
    return buy, counts


def refuse_foreign(campaign: Campaign, store: FolderStore, before: Before) -> None:
    """Files that are not ours where a picture is to go: an error, never overwritten or adopted.

    What a dead run had in flight may lie there whole: it is the next run's to adopt.
    """
    stems = (spec.stem for spec in campaign.specs if spec.stem not in before.in_flight)
    strangers = store.foreign(stems, before.paths | _half_moved(campaign, store, before))
    if strangers:
        listed = ", ".join(strangers[:5]) + (f" and {len(strangers) - 5} more" if len(strangers) > 5 else "")
        raise OutputError(
            f"{store.root}: files that this ledger does not know are where pictures of job "
            f"{campaign.job} go: {listed}. Move them away, or choose another --output"
        )


def _half_moved(campaign: Campaign, store: FolderStore, before: Before) -> set[str]:
    """Where pictures of renamed tasks are that a crash moved on disk and not in the ledger: still ours."""
    gone = set(store.missing(before.paths))
    known = ((spec, before.known.get(spec.key)) for spec in campaign.specs)
    return {spec.stem + Path(one.path).suffix for spec, one in known if one and one.path and one.path in gone}


def refuse_shared_paths(campaign: Campaign, reader: Reader, root: str) -> None:
    """Two tasks never share a path, across the jobs of an output root either; raises OutputError."""
    ours = {fold(spec.stem): spec for spec in campaign.specs}
    for stem, job in reader.stems_elsewhere(root, campaign.job):
        if spec := ours.get(stem):
            raise OutputError(
                f"{campaign.manifest.file}: {spec.stem} is already where job {job} keeps a picture: "
                "give one of the two another `output:`"
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


def _cut_after(cap: Cap, spend: Spend, quotes: list[Quote]) -> int | None:
    if cap == Cap():
        return None
    for number, quote in enumerate(quotes):
        if not fits(spend, cap, quote):
            return number
        spend = replace(
            spend,
            settled=spend.settled + (quote.nanos or 0),
            settled_image_tokens=spend.settled_image_tokens + (quote.image_tokens or 0),
        )
    return None


def total(values: Iterable[int | None]) -> int | None:
    """The sum; None if any of it is not known."""
    result = 0
    for value in values:
        if value is None:
            return None
        result += value
    return result


def price_line(plan: Plan) -> str:
    """What is said before the first request: tasks, likely and worst cost, the cap and where it cuts."""
    worst = "an unknown price" if plan.worst_nanos is None else f"up to ${dollars(plan.worst_nanos)}"
    likely = "" if plan.likely_nanos is None else f"likely ${dollars(plan.likely_nanos)}, "
    cap = plan.campaign.cap
    limits = [f"${dollars(cap.nanos)}"] if cap.nanos is not None else []
    limits += [f"{cap.image_tokens} image tokens"] if cap.image_tokens is not None else []
    if not limits:
        return f"{plan.to_buy} tasks to buy: {likely}{worst}; no cap: {worst}"
    cut = "" if plan.cut_after is None else f"; at worst the cap cuts after task {plan.cut_after} of {plan.to_buy}"
    return f"{plan.to_buy} tasks to buy: {likely}{worst}; cap {' and '.join(limits)}{cut}"
