"""A manifest made ready: read, priced, expanded, compared with ledger and output folder. Writes nothing."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import groupby
from math import ceil
from pathlib import Path

from runner.adapters.storage import FolderStore, largest_bytes
from runner.app.settings import Options, Settings, budget_nanos
from runner.core.budget import Cap, Spend, dollars, fits
from runner.core.catalog import Catalog, Model, builtin
from runner.core.errors import OutputError, UsageError
from runner.core.forecast import Batch, Forecast, Past, forecast
from runner.core.lifecycle import State
from runner.core.limits import Binding, Limits, Need
from runner.core.manifest import Budget, Manifest, parse
from runner.core.matrix import duplicates, expand
from runner.core.paths import fold
from runner.core.pricing import PriceSheet, Quote, Seen, Tokens, allowance, sheet
from runner.core.retry import LASTING
from runner.core.task import TaskSpec
from runner.engine.outlook import past_of
from runner.ledger import AccountSpec, AccountStatus, Known, Reader, Wish, agreed_cap

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
class Campaign:
    """One manifest, ready to be planned or run."""

    manifest: Manifest
    model: Model | None
    sheet: PriceSheet
    cap: Cap
    specs: tuple[TaskSpec, ...]
    sha256: str
    notes: tuple[str, ...]
    limits: Limits
    account: AccountSpec | None
    _known: dict[tuple[str, str, str | None, int], "Worth"] = field(
        default_factory=dict, repr=False, compare=False
    )

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

    def answer_bytes(self, size: str, aspect: str) -> int:
        """What the answer to one request may have: a picture in base64, and what comes beside it."""
        known = {} if self.model is None else self.model.pixels
        return largest_bytes(known.get((size, aspect)), size) * 4 // 3 + SIGNATURE_BYTES

    def need(self, spec: TaskSpec) -> Need:
        """What one request of a task will likely take of the limits."""
        return self._worth(spec).need

    def usual(self, mix: Mapping[tuple[str, str], int]) -> Need:
        """What a usual request takes, where so many tasks of each size and aspect are left."""
        by_cell = {(spec.size, spec.aspect): self.need(spec) for spec in self.specs}
        known = [(count, by_cell[cell]) for cell, count in mix.items() if cell in by_cell]
        whole = sum(count for count, _ in known) or 1
        means = (
            sum(count * getattr(need, name) for count, need in known) // whole
            for name in ("tokens", "nanos", "bytes")
        )
        tokens, nanos, size_bytes = means
        return Need(tokens, 1, nanos, size_bytes)

    def quote(self, spec: TaskSpec) -> Quote:
        """The worst price of one try of a task, before anything was seen."""
        return self._worth(spec).quote

    def likely(self, spec: TaskSpec) -> int | None:
        """What one try of a task will probably cost, in nano-dollars."""
        return self._worth(spec).likely

    def _worth(self, spec: TaskSpec) -> "Worth":
        """Tasks alike are worked out once: a job may have millions of them."""
        size_bytes = len(spec.prompt.encode()) + len((spec.recipe.system or "").encode())
        kind = (spec.size, spec.aspect, spec.recipe.thinking, size_bytes)
        if kind not in self._known:
            self._known[kind] = self._work_out(*kind)
        return self._known[kind]

    def _work_out(self, size: str, aspect: str, thinking: str | None, size_bytes: int) -> "Worth":
        quote = self.sheet.quote(size=size, thinking=thinking, input_bytes=size_bytes, seen=Seen())
        tokens = -(-size_bytes // BYTES_A_TOKEN)
        text = min(allowance(thinking), LIKELY_TEXT.get(thinking or "", LIKELY_TEXT_OTHERWISE))
        likely = None if quote.image_tokens is None else self.sheet.cost(Tokens(tokens, text, quote.image_tokens))
        return Worth(quote, likely, Need(tokens, 1, likely or 0, self.answer_bytes(size, aspect)))


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
    campaign = _campaign(manifest, catalog, settings, hashlib.sha256(text).hexdigest())
    _refuse_later_lanes(settings.options.lane or manifest.lane)
    _refuse_unproven_caps(campaign, campaign.cap, campaign.account.cap if campaign.account else Cap())
    _refuse_hopeless_limits(campaign)
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
        limits=_limits(manifest, catalog, options),
        account=_account(manifest.budget, options.budget),
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


def _refuse_unproven_caps(campaign: Campaign, *caps: Cap) -> None:
    """A cap needs a worst case; without prices or token counts there is none (design §3)."""
    price = campaign.sheet
    money = any(cap.nanos is not None for cap in caps)
    uncounted = sorted({spec.size for spec in campaign.specs if price.picture_tokens(spec.size) is None})
    missing = []
    if money:
        missing += [f"prices.{name}" for name in price.prices.missing]
    if uncounted and (money or any(cap.image_tokens is not None for cap in caps)):
        missing.append(f"prices.image_tokens (for {', '.join(uncounted)})")
    if missing:
        raise UsageError(
            f"{campaign.manifest.file}: a cap cannot be proven for {campaign.manifest.model}: "
            f"fill in {', '.join(missing)}, or leave the budget out"
        )


def _refuse_hopeless_limits(campaign: Campaign) -> None:
    """A limit in dollars needs prices; and every task must fit a limit that stands empty, or it waits for ever."""
    limits, file = campaign.limits, campaign.manifest.file
    missing = campaign.sheet.prices.missing
    if missing and (limits.spend_nanos is not None or limits.month_nanos is not None):
        raise UsageError(
            f"{file}: limits in dollars cannot be kept for {campaign.manifest.model}: fill in "
            f"{', '.join(f'prices.{name}' for name in missing)}, or leave tier and spend_usd_per_… out"
        )
    for spec in campaign.specs if limits.tpm is not None or limits.spend_nanos is not None else ():
        quote = campaign.quote(spec)
        if limits.tpm is not None and quote.input_tokens > limits.tpm:
            raise UsageError(
                f"{file}: {spec.prompt_id} may have {quote.input_tokens} input tokens (its bytes), more than "
                f"limits.tpm {limits.tpm} lets through in a minute: raise it, or shorten the prompt"
            )
        if limits.spend_nanos is not None and (quote.nanos or 0) > limits.spend_nanos:
            raise UsageError(
                f"{file}: {spec.prompt_id} may cost ${dollars(quote.nanos or 0)}, more than "
                f"limits.spend_usd_per_10min ${dollars(limits.spend_nanos)}: raise it"
            )


def _refuse_unpriced_past(campaign: Campaign, before: Before) -> None:
    """A cap covers what was spent before it was set; where nobody knows that, it cannot be proven."""
    holders = [(f"job {campaign.job}", campaign.cap, before.unpriced, before.uncounted)]
    if shared := before.account:
        _refuse_unproven_caps(campaign, shared.cap)
        holders.append((f"account {shared.name}", shared.cap, shared.unpriced, shared.uncounted))
    for whose, cap, unpriced, uncounted in holders:
        if (cap.nanos is not None and unpriced) or (cap.image_tokens is not None and uncounted):
            kind, _, _ = whose.partition(" ")
            raise UsageError(
                f"{campaign.manifest.file}: {max(unpriced, uncounted)} earlier requests of {whose} have no known "
                f"price: a cap over them cannot be proven. Leave the budget out, or name another {kind}"
            )


def plan(
    campaign: Campaign, reader: Reader | None, store: FolderStore, settings: Settings, *, now_utc: float
) -> Plan:
    """Compare a campaign with what is recorded and on disk. Raises OutputError for files in its way."""
    before = _before(campaign, reader)
    _refuse_unpriced_past(campaign, before)
    to_buy, counts = _to_buy(campaign, before.known)
    refuse_foreign(campaign, store, before)
    quotes = [campaign.quote(spec) for spec in to_buy]
    worst = total(quote.nanos for quote in quotes)
    image_tokens = total(quote.image_tokens for quote in quotes)
    whole = Quote(worst, image_tokens, 0, 0)
    holders = _holders(campaign, before)
    return Plan(
        campaign=campaign,
        **counts,
        orphaned=before.orphaned,
        likely_nanos=total(campaign.likely(spec) for spec in to_buy),
        worst_nanos=worst,
        image_tokens=image_tokens,
        spend=before.spend,
        cut_after=min(
            (cut for _, spend, cap in holders if (cut := _cut_after(cap, spend, quotes)) is not None), default=None
        ),
        cap_before=before.cap,
        missing=tuple(store.missing(sorted(before.paths))),
        finish=_finish(campaign, reader, to_buy, settings, now_utc) if to_buy else None,
        account=before.account,
        account_cap_before=before.account_cap,
        left=before.left,
        over=" and ".join(whose for whose, spend, cap in holders if not fits(spend, cap, whole)),
    )


def _holders(campaign: Campaign, before: Before) -> list[tuple[str, Spend, Cap]]:
    """What is held against each cap: the job's own, and its account's."""
    own = ("the cap", before.spend, campaign.cap)
    if (shared := before.account) is None:
        return [own]
    return [own, (f"the cap of account {shared.name}", _unreserved(shared.spend), shared.cap)]


def _finish(
    campaign: Campaign, reader: Reader | None, to_buy: list[TaskSpec], settings: Settings, now: float
) -> Forecast:
    """The earliest finish under all limits, a usual answer's time and one try each."""
    needs = (campaign.need(spec) for spec in to_buy)
    batches = [Batch(sum(1 for _ in alike), need) for need, alike in groupby(needs)]
    past, limits = Past(), campaign.limits
    if reader is not None:
        model = campaign.manifest.model
        standing = reader.standing(Wish(settings.endpoint, model, campaign.limits), now=now)
        past, limits = past_of(standing, model), standing.limits
    return forecast(batches, limits, past, now=now, latency_s=settings.usual_latency_s)


def _before(campaign: Campaign, reader: Reader | None) -> Before:
    job = campaign.job
    if reader is None or not (recorded := reader.recorded(job)):
        return _with_account(Before(), campaign, reader, None)
    known = dict(reader.known(job, (spec.key for spec in campaign.specs)))
    status = reader.status(job, since_utc=0)
    before = Before(
        known=known,
        spend=_unreserved(status.spend),
        cap=status.cap,
        unpriced=status.unpriced,
        uncounted=status.uncounted,
        orphaned=recorded - sum(1 for one in known.values() if one is not None),
        paths=frozenset(one.path for one in reader.tasks(job, orphaned=True) if one.path),
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
}


def duration(seconds: float) -> str:
    """`2 d 3:04:05`, `0:00:12`."""
    days, rest = divmod(ceil(seconds), 86_400)
    clock = str(timedelta(seconds=rest))
    return f"{days} d {clock}" if days else clock
