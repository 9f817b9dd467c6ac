"""A manifest made ready: read, priced, expanded. Writes nothing; what a run of it would do is `plan`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import tee
from pathlib import Path

from runner.adapters.material import Material
from runner.adapters.storage import FolderStore, largest_bytes
from runner.app.settings import Options, Settings, budget_nanos
from runner.core.budget import Cap, Spend, dollars
from runner.core.catalog import Catalog, Model, builtin
from runner.core.errors import OutputError, UsageError
from runner.core.limits import Limits, Need
from runner.core.manifest import Budget, Manifest, parse
from runner.core.matrix import Expansion
from runner.core.paths import fold
from runner.core.pricing import PriceSheet, Quote, Seen, Tokens, allowance, sheet
from runner.core.task import TaskSpec
from runner.ledger import AccountSpec, AccountStatus, Reader

LIKELY_TEXT = {"minimal": 350}
"""Text and thinking tokens of a usual answer (gemini-api.md §5.4); the likely cost counts with them."""
LIKELY_TEXT_OTHERWISE = 1_100
BYTES_A_TOKEN = 4
DEFAULT_CONCURRENCY = 64
DEFAULT_BYTES = 10**9
"""Of answers in flight: sixty-four of 4K would be gigabytes of memory."""
SIGNATURE_BYTES = 3 * 2**20
"""What comes beside a picture (recorded: up to 2.9 MB)."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What one try of a task takes."""

    quote: Quote
    """At worst."""
    likely: int | None
    """Nano-dollars, probably."""
    need: Need
    """Of the limits, probably."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """One manifest, ready to be planned or run."""

    manifest: Manifest
    models: Mapping[str, Model | None]
    """Every model of its tasks, with the catalog's entry."""
    sheets: Mapping[str, PriceSheet]
    """Prices of each."""
    cap: Cap
    specs: Expansion
    sha256: str
    notes: tuple[str, ...]
    limits: Limits
    account: AccountSpec | None
    base: Path
    """The folder that the files it names are relative to."""
    _known: dict[tuple[str, str, str, str | None, int, int], Worth] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def job(self) -> str:
        """The job's name."""
        return self.manifest.job

    def sheet(self, model: str) -> PriceSheet:
        """Prices of a model, also of one that only an earlier run rendered with."""
        return self.sheets.get(model) or sheet(builtin().find(model), "standard")

    @property
    def has_references(self) -> bool:
        """Whether pictures go with any prompt."""
        return self.specs.has_references

    @property
    def picture_bytes(self) -> int:
        """Room the largest of its pictures may need."""
        return max(
            (self._bytes(recipe.model, size, aspect) for recipe, size, aspect in self.specs.cells), default=0
        )

    def answer_bytes(self, model: str, size: str, aspect: str) -> int:
        """What the answer to one request may have: a picture in base64, and what comes beside it."""
        return self._bytes(model, size, aspect) * 4 // 3 + SIGNATURE_BYTES

    def _bytes(self, model: str, size: str, aspect: str) -> int:
        entry = self.models.get(model) or builtin().find(model)
        return largest_bytes(None if entry is None else entry.pixels.get((size, aspect)), size)

    def usual(self, mix: Mapping[tuple[str, str], int]) -> Need:
        """What a usual request takes, where so many tasks of each size and aspect are left."""
        by_cell = {(size, aspect): worth.need for (_, size, aspect, *_), worth in self._known.items()}
        known = [(count, by_cell[cell]) for cell, count in mix.items() if cell in by_cell]
        whole = sum(count for count, _ in known) or 1
        tokens, nanos, size_bytes = (
            sum(count * getattr(need, name) for count, need in known) // whole
            for name in ("tokens", "nanos", "bytes")
        )
        return Need(tokens, 1, nanos, size_bytes)

    def worth(self, spec: TaskSpec) -> Worth:
        """What a task takes. Tasks alike are worked out once: a job may have millions of them."""
        recipe = spec.recipe
        size_bytes = len(spec.prompt.encode()) + len((recipe.system or "").encode())
        kind = (recipe.model, spec.size, spec.aspect, recipe.thinking, size_bytes, len(spec.references))
        if kind not in self._known:
            self._known[kind] = self._work_out(*kind)
        return self._known[kind]

    def _work_out(
        self, model: str, size: str, aspect: str, thinking: str | None, size_bytes: int, references: int
    ) -> Worth:
        price = self.sheet(model)
        quote = price.quote(
            size=size, thinking=thinking, input_bytes=size_bytes, seen=Seen(), references=references
        )
        tokens = -(-size_bytes // BYTES_A_TOKEN) + references * price.reference_tokens
        text = min(allowance(thinking), LIKELY_TEXT.get(thinking or "", LIKELY_TEXT_OTHERWISE))
        likely = None if quote.image_tokens is None else price.cost(Tokens(tokens, text, quote.image_tokens))
        return Worth(quote, likely, Need(tokens, 1, likely or 0, self.answer_bytes(model, size, aspect)))


@dataclass(frozen=True, slots=True)
class Before:
    """What the ledger holds of a job before a run."""

    recorded: int = 0
    """Tasks it has ever had."""
    spend: Spend = field(default_factory=Spend)
    paths: frozenset[str] = frozenset()
    """Of all its pictures, orphans' included."""
    in_flight: frozenset[str] = frozenset()
    """Stems of requests that a dead run left."""
    cap: Cap | None = None
    unpriced: int = 0
    """Attempts whose cost nobody knows."""
    uncounted: int = 0
    """Attempts whose image tokens nobody knows."""
    account: AccountStatus | None = None
    """With what the job would bring along, and the cap it would have."""
    account_cap: Cap | None = None
    """The account's cap as the ledger has it."""
    left: str | None = None
    """An account that the job was under and is no more."""


def load(path: Path, settings: Settings) -> Campaign:
    """Read and expand a manifest. Raises ManifestError, or UsageError for a cap that cannot be proven."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or 'cannot be read'}") from None
    catalog = builtin()
    manifest = parse(text, str(path), catalog)
    campaign = _campaign(manifest, catalog, settings, path.parent, hashlib.sha256(text).hexdigest())
    _refuse_later_lanes(settings.options.lane or manifest.lane)
    refuse_unproven_caps(campaign, campaign.cap, campaign.account.cap if campaign.account else Cap())
    _refuse_hopeless_limits(campaign)
    return campaign


def _campaign(manifest: Manifest, catalog: Catalog, settings: Settings, base: Path, sha256: str) -> Campaign:
    prices = manifest.prices
    specs = Expansion(manifest, catalog, Material(base))
    models = {recipe.model: catalog.find(recipe.model) for recipe, _, _ in specs.cells}
    if len(models) > 1 and "prices" in manifest.places:
        line, column = manifest.places["prices"]
        raise UsageError(
            f"{manifest.file}:{line}:{column}: prices are those of one model, and the tasks have {len(models)}: "
            "leave them out, or make a job of each"
        )
    options = settings.options
    cap = Cap(manifest.budget.cap_nanos, manifest.budget.cap_image_tokens)
    if options.budget is not None:
        cap = replace(cap, nanos=budget_nanos(options.budget))
    notes = manifest.notes
    if same := specs.repeating:
        notes = (*notes, f"{same} tasks repeat the request of another; each is a picture of its own")
    return Campaign(
        manifest=manifest,
        models=models,
        sheets={
            model: sheet(entry, "standard", override=prices.prices, image_tokens=prices.image_tokens)
            for model, entry in models.items()
        },
        cap=cap,
        specs=specs,
        sha256=sha256,
        notes=notes,
        limits=_limits(manifest, catalog, options),
        account=_account(manifest.budget, options.budget),
        base=base,
    )


def _limits(manifest: Manifest, catalog: Catalog, options: Options) -> Limits:
    """The manifest's, the command line's over them, defaults below."""
    given = manifest.limits.resolved(catalog)
    return replace(
        given,
        rpm=options.rpm or given.rpm,
        concurrency=options.concurrency or given.concurrency or DEFAULT_CONCURRENCY,
        bytes_in_flight=given.bytes_in_flight or DEFAULT_BYTES,
    )


def _account(budget: Budget, told: str | None) -> AccountSpec | None:
    """The account, with the cap that manifest or command line names; `--budget` may change a recorded one."""
    account = budget.account
    if account is None:
        return None
    cap = Cap(account.cap_nanos, account.cap_image_tokens)
    # the short form: one cap for both
    shared = (account.cap_nanos, account.cap_image_tokens) == (budget.cap_nanos, budget.cap_image_tokens)
    if told is not None and shared:
        cap = replace(cap, nanos=budget_nanos(told))
    return AccountSpec(account.name, cap, may_change=told is not None and shared)


def _refuse_later_lanes(lane: str) -> None:
    if lane != "standard":
        raise UsageError(f"lane {lane}: only the standard lane is served in this release")


def refuse_unproven_caps(campaign: Campaign, *caps: Cap) -> None:
    """A cap needs a worst case; without prices or token counts there is none (design §3)."""
    money = any(cap.nanos is not None for cap in caps)
    counted = money or any(cap.image_tokens is not None for cap in caps)
    for model, price in campaign.sheets.items():
        sizes = {size for recipe, size, _ in campaign.specs.cells if recipe.model == model}
        uncounted = sorted(size for size in sizes if price.picture_tokens(size) is None)
        missing = [f"prices.{name}" for name in price.prices.missing] if money else []
        if uncounted and counted:
            missing.append(f"prices.image_tokens (for {', '.join(uncounted)})")
        if missing:
            raise UsageError(
                f"{campaign.manifest.file}: a cap cannot be proven for {model}: "
                f"fill in {', '.join(missing)}, or leave the budget out"
            )


def _refuse_hopeless_limits(campaign: Campaign) -> None:
    """A limit in dollars needs prices; and every task must fit a limit that stands empty, or it waits for ever."""
    limits, file = campaign.limits, campaign.manifest.file
    for model, price in campaign.sheets.items():
        missing = price.prices.missing
        if missing and (limits.spend_nanos is not None or limits.month_nanos is not None):
            raise UsageError(
                f"{file}: limits in dollars cannot be kept for {model}: fill in "
                f"{', '.join(f'prices.{name}' for name in missing)}, or leave tier and spend_usd_per_… out"
            )
    for spec in campaign.specs if limits.tpm is not None or limits.spend_nanos is not None else ():
        quote = campaign.worth(spec).quote
        if limits.tpm is not None and quote.input_tokens > limits.tpm:
            raise UsageError(
                f"{file}: {spec.prompt_id} may have {quote.input_tokens} input tokens (its bytes"
                f"{', and its references' if spec.references else ''}), more than limits.tpm {limits.tpm} lets "
                "through in a minute: raise it, or shorten the prompt"
            )
        if limits.spend_nanos is not None and (quote.nanos or 0) > limits.spend_nanos:
            raise UsageError(
                f"{file}: {spec.prompt_id} may cost ${dollars(quote.nanos or 0)}, more than "
                f"limits.spend_usd_per_10min ${dollars(limits.spend_nanos)}: raise it"
            )


class Way:
    """Files that are not ours where a picture is to go: an error, never overwritten or adopted.

    What a dead run had in flight may lie there whole: it is the next run's to adopt. Stems are looked at some at a
    time, so that those of a large job are never all in memory.
    """

    AT_ONCE = 50_000

    def __init__(self, campaign: Campaign, store: FolderStore, before: Before, reader: Reader | None) -> None:
        self._job, self._store, self._in_flight = campaign.job, store, before.in_flight
        self._ours = before.paths | _half_moved(campaign, store, before, reader)
        self._stems: list[str] = []
        self._strangers: set[str] = set()

    def leads_to(self, stem: str) -> None:
        """A picture of the job is to go here."""
        if stem not in self._in_flight:
            self._stems.append(stem)
        if len(self._stems) >= self.AT_ONCE:
            self._look()

    def refuse_strangers(self) -> None:
        """OutputError if anything is in the way of what it was told of."""
        self._look()
        if self._strangers:
            first = ", ".join(sorted(self._strangers)[:5])
            more = f" and {len(self._strangers) - 5} more" if len(self._strangers) > 5 else ""
            raise OutputError(
                f"{self._store.root}: files that this ledger does not know are where pictures of job "
                f"{self._job} go: {first}{more}. Move them away, or choose another --output"
            )

    def _look(self) -> None:
        self._strangers.update(self._store.foreign(self._stems, self._ours))
        self._stems.clear()


def _half_moved(campaign: Campaign, store: FolderStore, before: Before, reader: Reader | None) -> set[str]:
    """Where pictures of renamed tasks are that a crash moved on disk and not in the ledger: still ours."""
    gone = set(store.missing(before.paths))
    if not gone or reader is None:
        return set()
    specs, keys = tee(campaign.specs)
    known = zip(specs, reader.known(campaign.job, (spec.key for spec in keys)), strict=True)
    return {spec.stem + Path(one.path).suffix for spec, (_, one) in known if one and one.path and one.path in gone}


def refuse_shared_paths(campaign: Campaign, reader: Reader, root: str) -> None:
    """Two tasks never share a path, across the jobs of an output root either; raises OutputError."""
    theirs = dict(reader.stems_elsewhere(root, campaign.job))
    for spec in campaign.specs if theirs else ():
        if job := theirs.get(fold(spec.stem)):
            raise OutputError(
                f"{campaign.manifest.file}: {spec.stem} is already where job {job} keeps a picture: "
                "give one of the two another `output:`"
            )
