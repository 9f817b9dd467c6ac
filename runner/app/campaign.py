"""A manifest made ready: read, priced, expanded. Writes nothing; what a run of it would do is `plan`."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.adapters.material import Material
from runner.adapters.pictures import largest_bytes, usual_bytes
from runner.app.settings import Options, Settings, budget_nanos
from runner.core.batching import Load, both
from runner.core.budget import Cap, dollars
from runner.core.catalog import Catalog, Model, Prices, builtin
from runner.core.errors import OutputError, UsageError
from runner.core.grammar import LANES, Lane
from runner.core.limits import Limits, Need
from runner.core.manifest import Budget, Manifest, parse
from runner.core.matrix import Expansion
from runner.core.paths import fold
from runner.core.pricing import PriceSheet, Quote, Seen, Sight, Tokens, allowance, seen_at, sheet
from runner.core.shape import listed
from runner.core.task import Cell, TaskSpec
from runner.ledger import AccountSpec, Reader

LIKELY_TEXT = {"minimal": 350}
"""Text and thinking tokens of a usual answer (gemini-api.md §5.4); the likely cost counts with them."""
LIKELY_TEXT_OTHERWISE = 1_100
BYTES_A_TOKEN = 4
DEFAULT_CONCURRENCY = 64
DEFAULT_BYTES = 10**9
"""Of answers in flight: sixty-four of 4K would be gigabytes of memory."""
FIRST_TIER = 1
"""Usage tier of a project that names none (gemini-api.md §7.5)."""
_PRICED: tuple[Lane, Lane] = ("standard", "batch")
SIGNATURE_BYTES = 3 * 2**20
"""What comes beside a picture (recorded: up to 2.9 MB)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one try of a task takes of the budget."""

    quote: Quote
    """At worst."""
    likely: int | None
    """Nano-dollars, probably; None at unknown prices."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What one try of a task takes, by lane."""

    standard: Cost
    batch: Cost
    need: Need
    """Of the limits of the standard lane, probably."""
    picture_bytes: int
    """Of its picture on the disk, probably."""

    def on(self, lane: Lane) -> Cost:
        """The cost on a lane; `auto` may always come to the standard lane."""
        return self.batch if lane == "batch" else self.standard


@dataclass(frozen=True, slots=True)
class Campaign:
    """One manifest, ready to be planned or run."""

    manifest: Manifest
    models: Mapping[str, Model | None]
    """Every model of its tasks, with the catalog's entry."""
    sheets: Mapping[tuple[str, Lane], PriceSheet]
    """Prices of each on the lanes `standard` and `batch`."""
    cap: Cap
    specs: Expansion
    sha256: str
    notes: tuple[str, ...]
    limits: Limits
    account: AccountSpec | None
    base: Path
    """The folder that the files it names are relative to."""
    lane: Lane
    deadline_utc: float | None
    """When all is to be done, under lane auto; None where nobody said."""
    _seen: dict[Sight, int] = field(default_factory=dict, repr=False, compare=False)
    _known: dict[tuple[str, str, str, str | None, int, int], Worth] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def job(self) -> str:
        """The job's name."""
        return self.manifest.job

    def sheet(self, model: str, lane: Lane = "standard") -> PriceSheet:
        """Prices of a model on `standard` or `batch`, also of one that only an earlier run rendered with."""
        return self.sheets.get((model, lane)) or sheet(builtin().find(model), lane)

    def batch_tokens(self, model: str) -> int | None:
        """Input tokens that a model's jobs may have enqueued, all together; None where nobody documents it.

        What the manifest says, else what the catalog has for its usage tier, the first if it names none.
        """
        entry = self.models.get(model) or builtin().find(model)
        documented = {} if entry is None else entry.batch_tokens
        return self.manifest.batch.tokens or documented.get(self.manifest.limits.tier or FIRST_TIER)

    def batch_load(self, model: str) -> Load:
        """How large a batch of a model may be, and how much of them open at once."""
        batch = self.manifest.batch
        return Load(
            lines=batch.lines,
            bytes=batch.output_bytes,
            tokens=self.batch_tokens(model),
            jobs=batch.jobs,
            least=batch.least if self.lane == "auto" else 1,
        )

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
        return largest_bytes(_pixels(entry, size, aspect), size)

    def usual(self, mix: Mapping[Cell, int]) -> Need:
        """What a usual request takes, where so many tasks of each cell are left."""
        by_cell = {(model, size, aspect): worth.need for (model, size, aspect, *_), worth in self._known.items()}
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

    def learn(self, seen: Mapping[Sight, int]) -> None:
        """Reckon the worst case from now on with the largest answers of the ledger, as a claim does."""
        self._seen.clear()
        self._seen.update(seen)
        self._known.clear()

    def likely(self, spec: TaskSpec) -> int | None:
        """Nano-dollars that buying a task probably costs."""
        return self.worth(spec).on(self.lane).likely

    def at_worst(self, worth: Worth) -> Quote:
        """What buying a task may hold against the caps, one try on each lane that it may come to.

        With a deadline that is both: a batch that is cancelled may keep its hold while the standard lane buys.
        """
        if self.deadline_utc is None:
            return worth.on(self.lane).quote
        return both(worth.batch.quote, worth.standard.quote)

    def _work_out(
        self, model: str, size: str, aspect: str, thinking: str | None, size_bytes: int, references: int
    ) -> Worth:
        seen = seen_at(self._seen, model, size, thinking)
        standard, batch = (
            cost_of(self.sheet(model, lane), size, thinking, size_bytes, references, seen) for lane in _PRICED
        )
        tokens = _input_tokens(self.sheet(model), size_bytes, references)
        need = Need(tokens, 1, standard.likely or 0, self.answer_bytes(model, size, aspect))
        entry = self.models.get(model) or builtin().find(model)
        return Worth(standard, batch, need, usual_bytes(_pixels(entry, size, aspect), size))


def _pixels(entry: Model | None, size: str, aspect: str) -> tuple[int, int] | None:
    return None if entry is None else entry.pixels.get((size, aspect))


def cost_of(
    price: PriceSheet, size: str, thinking: str | None, size_bytes: int, references: int, seen: Seen
) -> Cost:
    """What one try costs by a price sheet: at worst as a claim reserves it, and probably."""
    quote = price.quote(size=size, thinking=thinking, input_bytes=size_bytes, seen=seen, references=references)
    image = price.picture_tokens(size)
    if image is None:
        return Cost(quote, None)
    text = min(allowance(thinking), LIKELY_TEXT.get(thinking or "", LIKELY_TEXT_OTHERWISE))
    tokens = _input_tokens(price, size_bytes, references)
    return Cost(quote, price.cost(Tokens(tokens, text, image)))


def _input_tokens(price: PriceSheet, size_bytes: int, references: int) -> int:
    return -(-size_bytes // BYTES_A_TOKEN) + references * price.reference_tokens


def plus(one: int | None, other: int | None) -> int | None:
    """The sum; None if any of it is not known."""
    return None if one is None or other is None else one + other


def load(path: Path, settings: Settings) -> Campaign:
    """Read and expand a manifest. Raises ManifestError, or UsageError for a cap that cannot be proven."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or 'cannot be read'}") from None
    catalog = builtin()
    manifest = parse(text, str(path), catalog)
    campaign = _campaign(manifest, catalog, settings, path.parent, hashlib.sha256(text).hexdigest())
    _refuse_waiting(campaign, settings)
    refuse_unproven_caps(campaign, campaign.cap, campaign.account.cap if campaign.account else Cap())
    _refuse_hopeless_limits(campaign)
    return campaign


def _campaign(manifest: Manifest, catalog: Catalog, settings: Settings, base: Path, sha256: str) -> Campaign:
    specs = Expansion(manifest, catalog, Material(base))
    models = {recipe.model: catalog.find(recipe.model) for recipe, _, _ in specs.cells}
    if len(models) > 1 and "prices" in manifest.places:
        line, column = manifest.places["prices"]
        raise UsageError(
            f"{manifest.file}:{line}:{column}: prices are those of one model, and the tasks have {len(models)}: "
            "leave them out, or make a job of each"
        )
    options = settings.options
    bought_on = _lane(manifest, options.lane)
    cap = Cap(manifest.budget.cap_nanos, manifest.budget.cap_image_tokens)
    if options.budget is not None:
        cap = replace(cap, nanos=budget_nanos(options.budget))
    notes = (*manifest.notes, *specs.blanks)
    if specs.repeating:
        notes = (*notes, *_repeats(specs))
    return Campaign(
        manifest=manifest,
        models=models,
        sheets={
            (model, lane): price
            for model, entry in models.items()
            for lane, price in _sheets(manifest, entry, bought_on).items()
        },
        cap=cap,
        specs=specs,
        sha256=sha256,
        notes=notes,
        limits=_limits(manifest, catalog, options),
        account=_account(manifest.budget, options.budget),
        base=base,
        lane=bought_on,
        deadline_utc=settings.deadline_utc,
    )


def _repeats(specs: Expansion) -> Iterator[str]:
    """That requests are bought more than once, and why: axes that say nothing, prompts that stand there twice."""
    same, idle = specs.repeating, specs.idle_axes
    repeat = "1 task repeats" if same == 1 else f"{same} tasks repeat"
    said = f"{repeat} the request of another, each a picture of its own"
    prompts = specs.repeated_prompts
    if not idle:
        yield f"{said}: {prompts}" if prompts.first else said
        return
    named, many = listed([f"{{{name}}}" for name in idle], "and"), len(idle) > 1
    axes = f"{'axes' if many else 'axis'} {listed(idle, 'and')} {'change' if many else 'changes'} nothing there"
    yield f"{said}: {axes}; put {named} into the text, or leave {'them' if many else 'it'} out"
    if prompts.first:
        yield f"prompts repeat as well: {prompts}"


def _sheets(manifest: Manifest, entry: Model | None, bought_on: Lane) -> dict[Lane, PriceSheet]:
    """The prices of both lanes; of the batch lane not known where a nano-dollar would have to be split."""
    given = manifest.prices
    standard = sheet(entry, "standard", override=given.prices, image_tokens=given.image_tokens)
    try:
        batch = sheet(entry, "batch", override=given.prices, image_tokens=given.image_tokens)
    except ValueError as error:
        if bought_on != "standard":
            line, column = manifest.places["prices"]
            raise UsageError(
                f"{manifest.file}:{line}:{column}: the batch lane's part of these prices is not exact ({error} "
                "a token): give them with fewer decimals, or use lane standard"
            ) from None
        batch = replace(standard, prices=Prices(None, None, None))
    return {"standard": standard, "batch": batch}


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


def _lane(manifest: Manifest, told: str | None) -> Lane:
    """The command line's, else the manifest's."""
    for lane in LANES:
        if lane == (told or manifest.lane):
            return lane
    raise UsageError(f"--lane {told}: expected {listed(LANES)}")


def _refuse_waiting(campaign: Campaign, settings: Settings) -> None:
    """What is said of waiting must fit the lane."""
    if settings.deadline_utc is not None and campaign.lane != "auto":
        raise UsageError(
            f"--by chooses between the lanes as the time comes nearer: it needs lane auto, and job {campaign.job} "
            f"is bought on lane {campaign.lane}"
        )
    if settings.options.detach and campaign.lane == "standard":
        raise UsageError(
            f"--detach leaves submitted batches behind: it needs lane batch or auto, and job {campaign.job} "
            "is bought on lane standard"
        )
    if settings.options.detach and settings.deadline_utc is not None:
        raise UsageError("--detach leaves nobody behind who could keep --by: leave one of the two out")


def refuse_unproven_caps(campaign: Campaign, *caps: Cap) -> None:
    """A cap needs a worst case; without prices or token counts there is none (design §3)."""
    money = any(cap.nanos is not None for cap in caps)
    counted = money or any(cap.image_tokens is not None for cap in caps)
    for model in campaign.models:
        price = campaign.sheet(model)
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
    """A limit in dollars needs prices; and every task must fit a limit that stands empty, or it waits for ever.

    Batches are held to the month's alone.
    """
    limits, file = campaign.limits, campaign.manifest.file
    if campaign.lane == "batch":
        limits = Limits(month_nanos=limits.month_nanos)
    for model in campaign.models:
        missing = campaign.sheet(model).prices.missing
        if missing and (limits.spend_nanos is not None or limits.month_nanos is not None):
            raise UsageError(
                f"{file}: limits in dollars cannot be kept for {model}: fill in "
                f"{', '.join(f'prices.{name}' for name in missing)}, or leave tier and spend_usd_per_… out"
            )
    for spec in campaign.specs if limits.tpm is not None or limits.spend_nanos is not None else ():
        quote = campaign.worth(spec).standard.quote
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


def refuse_shared_paths(campaign: Campaign, reader: Reader, root: str) -> None:
    """Two tasks never share a path, across the jobs of an output root either; raises OutputError."""
    theirs = dict(reader.stems_elsewhere(root, campaign.job))
    for spec in campaign.specs if theirs else ():
        if job := theirs.get(fold(spec.stem)):
            raise OutputError(
                f"{campaign.manifest.file}: {spec.stem} is already where job {job} keeps a picture: "
                "give one of the two another `output:`"
            )
