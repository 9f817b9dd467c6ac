"""What a manifest may hold: every field with its kind and its words for the schema.

`manifest` judges what concerns several fields at once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from runner.core.axes import Axes, MatrixKind
from runner.core.catalog import Catalog, Prices
from runner.core.fields import GENERATION, AxisText, ImageTokens, ModelId, Money, Part, Price, Tier
from runner.core.limits import Limits
from runner.core.retry import RetryPolicy
from runner.core.shape import (
    At,
    Choice,
    Field,
    Flag,
    Kind,
    Label,
    ListOf,
    Located,
    Partial,
    Record,
    Schema,
    Scope,
    Seconds,
    Text,
    Whole,
    text_of,
    wrong,
)
from runner.core.yaml12 import Fields, Node, Scalar

Lane = Literal["standard", "batch", "auto"]
LANES: tuple[Lane, ...] = ("standard", "batch", "auto")
BYTES_OF_MB = 10**6
MOST_LINES = 10_000
"""Of one batch: pictures of 4K would be hundreds of gigabytes."""
SLOWER = 10
"""How many times slower polling becomes."""


@dataclass(frozen=True, slots=True)
class GivenLimits:
    """How fast, how many at once, how long, as written; None is not given. `resolved` is what holds."""

    rpm: int | None = None
    concurrency: int | None = None
    request_timeout_s: float = 360.0
    max_tasks: int | None = None
    tier: int | None = None
    """The usage tier of the project, which says what may be spent."""
    tpm: int | None = None
    ipm: int | None = None
    rpd: int | None = None
    spend_nanos: int | None = None
    month_nanos: int | None = None
    month_elsewhere_nanos: int = 0
    bytes_in_flight: int | None = None

    def resolved(self, catalog: Catalog) -> Limits:
        """What requests are held to: what is given, and where it says nothing, what its tier documents."""
        tier = None if self.tier is None else catalog.usage_tiers[self.tier]
        spend_nanos, month_nanos = self.spend_nanos, self.month_nanos
        if tier is not None:
            spend_nanos = tier.spend_nanos if spend_nanos is None else spend_nanos
            month_nanos = tier.month_nanos if month_nanos is None else month_nanos
        return Limits(
            rpm=self.rpm,
            tpm=self.tpm,
            ipm=self.ipm,
            rpd=self.rpd,
            spend_nanos=spend_nanos,
            month_nanos=month_nanos,
            month_elsewhere_nanos=self.month_elsewhere_nanos,
            concurrency=self.concurrency,
            bytes_in_flight=self.bytes_in_flight,
        )


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How tasks become remote batch jobs, and how those are watched (gemini-api.md §8)."""

    poll_s: float = 30.0
    """Seconds from one look at a job to the next, to begin with."""
    settle_s: float = 900.0
    """Seconds, by the provider's clock, between two lists that lack a job before it counts as never made."""
    lines: int = 500
    """Requests of a job at most."""
    output_bytes: int = 1000 * BYTES_OF_MB
    """Bytes that the results of a job may be expected to have."""
    tokens: int | None = None
    """Input tokens of the jobs of a model that are not done, together; None is not given."""
    jobs: int = 100
    """Jobs that are not done, together."""
    least: int = 20
    """Under `lane: auto` fewer tasks alike than this are bought on the standard lane."""

    @property
    def slowest_poll_s(self) -> float:
        """What the seconds from one look to the next grow to (gemini-api.md §8.12)."""
        return self.poll_s * SLOWER


@dataclass(frozen=True, slots=True)
class Account:
    """What several jobs spend out of; a cap that is None is not given, and may be known to the ledger."""

    name: str
    cap_nanos: int | None = None
    cap_image_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """The cap of the job and what it does; None is no cap of that kind."""

    cap_nanos: int | None = None
    cap_image_tokens: int | None = None
    on_exceed: Literal["halt", "refuse"] = "halt"
    order: Literal["spread", "manifest"] = "spread"
    account: Account | None = None
    """With a cap over all its jobs together."""


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """Nano-dollars a token and tokens a picture that go before the catalog's; None is not given."""

    input: int | None = None
    text: int | None = None
    image: int | None = None
    image_tokens: Mapping[str, int] | int | None = None

    @property
    def prices(self) -> Prices:
        """The three prices alone."""
        return Prices(self.input, self.text, self.image)


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt as written, with the places of what can clash."""

    text: Located[str]
    id: Located[str] | None = None
    matrix: Located[dict[str, tuple[AxisText, ...]]] | None = None
    template: bool = True
    references: tuple[Located[str], ...] = ()


@dataclass(frozen=True, slots=True)
class SourceDraft:
    """A file of prompts as written, with the places of what can be wrong with it."""

    name: Located[str]
    text: Located[str] | None = None
    matrix: Located[dict[str, tuple[AxisText, ...]]] | None = None
    template: bool = True
    references: tuple[Located[str], ...] = ()
    limit: int | None = None
    sample: Fraction | None = None
    seed: int = 0


Event = Literal["done", "failing", "halted"]
EVENTS: tuple[Event, ...] = ("done", "failing", "halted")
"""How a run of a job ends: all done; finished, with tasks that failed or were refused; stopped before its end."""


@dataclass(frozen=True, slots=True)
class Notify:
    """Who is told how a run ended; nobody, where neither is given."""

    command: tuple[str, ...] = ()
    """Program and arguments; the final object comes on its stdin."""
    webhook: str | None = None
    """Where the final object is posted."""
    secret_env: str | None = None
    """The environment variable that holds the secret to sign with."""
    on: tuple[str, ...] = EVENTS


def _source(**given: Any) -> SourceDraft:
    return SourceDraft(given.pop("from"), **given)


_TEXT = At(Text("a prompt"))
_REFERENCES = Field(
    ListOf(At(Text("a path, a pattern or a URI")), single=True),
    "Pictures that go with the prompt: paths and patterns relative to the manifest, https and Files API URIs. "
    "{axis} is replaced.",
)
_MATRIX = Field(At(Axes()), "Axes whose values are others for this prompt.")
_DRAFT = Record(
    Draft,
    {
        "text": Field(
            _TEXT, "The prompt. {axis} is replaced by the axis value, {{axis}} is a literal.", required=True
        ),
        "id": Field(At(Label("an id")), "Names the prompt in paths and reports. Default: made from its text."),
        "matrix": _MATRIX,
        "template": Field(Flag(), "false takes the text literally, braces and all. Default: true."),
        "references": _REFERENCES,
    },
)
_SOURCE = Record(
    _source,
    {
        "from": Field(
            At(Text("a file of prompts")),
            "A .csv, .tsv, .jsonl or .txt file, relative to the manifest. Its columns id, prompt (or text) and "
            "references fill those fields, a column named like an axis replaces the axis for its row, all others "
            "are variables.",
            required=True,
        ),
        "text": Field(_TEXT, "The prompt of every row; in it {prompt} is that of the row, if the file has one."),
        "matrix": Field(At(Axes()), "Axes whose values are others for these prompts."),
        "template": Field(Flag(), "false takes the texts literally, braces and all. Default: true."),
        "references": _REFERENCES,
        "limit": Field(Whole(), "So many rows at most. Default: all."),
        "sample": Field(Part(), "A part of the rows, such as 1%: the same ones however the file is ordered."),
        "seed": Field(Whole(0), "Another number takes another sample. Default: 0."),
    },
)


@dataclass(frozen=True)
class _PromptKind(Kind[Draft | SourceDraft]):
    """A prompt: its text alone, a mapping, or a file of prompts."""

    def read(self, node: Node, scope: Scope) -> Draft | SourceDraft:
        if isinstance(node, Scalar):
            return Draft(_TEXT.read(node, scope))
        if not isinstance(node, Fields):
            raise wrong(node, f"expected a prompt's text or a mapping with text, got {node}")
        if any(key.text == "from" for key, _ in node.entries):
            return _SOURCE.read(node, scope)
        return _DRAFT.read(node, scope)

    def schema(self, catalog: Catalog) -> Schema:
        return {"anyOf": [Text().schema(catalog), _DRAFT.schema(catalog), _SOURCE.schema(catalog)]}


def _limits(
    spend_usd_per_10min: int | None = None,
    spend_usd_per_month: int | None = None,
    spent_usd_this_month: int = 0,
    in_flight_mb: int | None = None,
    **rest: Any,
) -> GivenLimits:
    return GivenLimits(
        spend_nanos=spend_usd_per_10min,
        month_nanos=spend_usd_per_month,
        month_elsewhere_nanos=spent_usd_this_month,
        bytes_in_flight=None if in_flight_mb is None else in_flight_mb * BYTES_OF_MB,
        **rest,
    )


def _batch(output_mb: int | None = None, **rest: Any) -> BatchSettings:
    if output_mb is not None:
        rest["output_bytes"] = output_mb * BYTES_OF_MB
    return BatchSettings(**rest)


def _account(name: str, usd: int | None = None, image_tokens: int | None = None) -> Account:
    return Account(name, usd, image_tokens)


def _budget(
    usd: int | None = None,
    image_tokens: int | None = None,
    account: str | Account | None = None,
    **rest: Any,
) -> Budget:
    if isinstance(account, str):
        account = Account(account, usd, image_tokens)  # named alone: one cap for both
    return Budget(usd, image_tokens, account=account, **rest)


_ACCOUNT_NAME = Label("an account name")
_ACCOUNT = Record(
    _account,
    {
        "name": Field(_ACCOUNT_NAME, "Names the account in the ledger.", required=True),
        "usd": Field(Money(), "The account's cap in dollars, over all its jobs."),
        "image_tokens": Field(Whole(0), "The account's cap in image tokens, over all its jobs."),
    },
)


@dataclass(frozen=True)
class _AccountKind(Kind[str | Account]):
    """An account: its name alone, or a mapping with caps of its own."""

    def read(self, node: Node, scope: Scope) -> str | Account:
        if isinstance(node, Scalar):
            return _ACCOUNT_NAME.read(node, scope)
        if not isinstance(node, Fields):
            raise wrong(node, f"expected an account name or a mapping with name, got {node}")
        return _ACCOUNT.read(node, scope)

    def schema(self, catalog: Catalog) -> Schema:
        return {"anyOf": [_ACCOUNT_NAME.schema(catalog), _ACCOUNT.schema(catalog)]}


LIMITS = Record(
    _limits,
    {
        "rpm": Field(Whole(), "Requests a minute. Default: the rate is found from the provider's refusals."),
        "concurrency": Field(Whole(), "Requests in flight at most. Default: 64."),
        "request_timeout_s": Field(Seconds(), "Seconds to the first byte of an answer. Default: 360."),
        "max_tasks": Field(Whole(), "More tasks than this are an error."),
        "tier": Field(Tier(), "Usage tier of the project: fills in the two limits on dollars."),
        "tpm": Field(Whole(), "Input tokens a minute."),
        "ipm": Field(Whole(), "Images a minute."),
        "rpd": Field(Whole(), "Requests a day, from midnight to midnight Pacific."),
        "spend_usd_per_10min": Field(Money(zero=False), "Dollars in any ten minutes. Default: the tier's."),
        "spend_usd_per_month": Field(
            Money(zero=False),
            "Dollars in a calendar month, Pacific time, batches included. Default: the tier's, if it has one.",
        ),
        "spent_usd_this_month": Field(
            Money(),
            "Dollars of this month that the ledger does not know of: spent by others, or elsewhere. Default: 0.",
        ),
        "in_flight_mb": Field(Whole(), "Megabytes (a million bytes) that the answers in flight may have."),
    },
)
BATCH = Record(
    _batch,
    {
        "poll_s": Field(
            Seconds(), "Seconds between two looks at a remote job; they grow tenfold at most. Default: 30."
        ),
        "settle_s": Field(
            Seconds(),
            "Seconds between two lists without a job before it counts as never made and is submitted again. "
            "Default: 900.",
        ),
        "lines": Field(Whole(high=MOST_LINES), "Requests of one remote job at most. Default: 500."),
        "output_mb": Field(
            Whole(), "Megabytes (a million bytes) that one job's results may be expected to have. Default: 1000."
        ),
        "tokens": Field(
            Whole(), "Input tokens of all jobs of a model that are not done. Default: what its tier documents."
        ),
        "jobs": Field(Whole(), "Remote jobs that are not done. Default: 100."),
        "least": Field(
            Whole(), "Under lane auto, fewer tasks alike than this go to the standard lane. Default: 20."
        ),
    },
)
BUDGET = Record(
    _budget,
    {
        "usd": Field(Money(), "The cap in dollars; spend and reservations never pass it."),
        "image_tokens": Field(Whole(0), "The cap in image tokens."),
        "on_exceed": Field(
            Choice(("halt", "refuse")),
            "halt when the cap is reached, or refuse to start if it may be. Default: halt.",
        ),
        "order": Field(
            Choice(("spread", "manifest")),
            "spread buys one of every prompt first, manifest in the order as written. Default: spread.",
        ),
        "account": Field(
            _AccountKind(),
            "What several jobs spend out of. Named alone it has the caps beside it, "
            "as a mapping with name, usd and image_tokens its own.",
        ),
    },
)
RETRY = Record(
    RetryPolicy,
    {
        "attempts": Field(Whole(), "Tries of a task, the first included. Default: 5."),
        "refused": Field(Whole(), "Tries of a task that is refused. Default: 2."),
        "unknown": Field(
            Choice(("retry", "hold")),
            "Whether a task that may have been bought is tried again, or held for you to decide. Default: retry.",
        ),
    },
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYS = frozenset({"GOOGLE_API_KEY", "GEMINI_API_KEY", "GEMINI_API_KEY_FILE"})


@dataclass(frozen=True)
class _Variable(Kind[str]):
    """The name of an environment variable; never that of the key, which goes into one header and nowhere else."""

    def read(self, node: Node, _scope: Scope) -> str:
        name = text_of(node, "the name of an environment variable")
        if not _VARIABLE.fullmatch(name):
            raise wrong(node, "expected the name of an environment variable such as HOOK_SECRET, not the secret")
        if name in _KEYS:
            raise wrong(node, f"{name} holds the API key: make a secret of its own for the webhook")
        return name

    def schema(self, _catalog: Catalog) -> Schema:
        return {"type": "string", "pattern": f"^{_VARIABLE.pattern}$", "not": {"enum": sorted(_KEYS)}}


@dataclass(frozen=True)
class _Address(Kind[str]):
    """An http address; who may use it is no part of it."""

    def read(self, node: Node, _scope: Scope) -> str:
        url = text_of(node, "an address such as https://hooks.example/x")
        if not re.fullmatch(r"https?://[^\s/?#@]+(?:[/?][^\s#]*)?", url):
            raise wrong(node, "expected an address such as https://hooks.example/x, without a user name")
        return url

    def schema(self, _catalog: Catalog) -> Schema:
        return {"type": "string", "pattern": "^https?://[^\\s/?#@]+([/?][^\\s#]*)?$"}


NOTIFY = Record(
    Notify,
    {
        "command": Field(
            ListOf(Text("a word of the command", empty=True)),
            "Program and arguments, no shell; the final JSON object of the job is its stdin.",
        ),
        "webhook": Field(_Address(), "Where the final JSON object of the job is posted."),
        "secret_env": Field(
            _Variable(), "Environment variable with the secret that signs the webhook (HMAC-SHA256)."
        ),
        "on": Field(
            ListOf(Choice(EVENTS), single=True),
            "done (all is there), failing (finished; some failed or were refused), halted. Default: all three.",
        ),
    },
)
PRICES = Record(
    PriceOverride,
    {
        "input": Field(Price(), "Dollars a million input tokens. Default: the catalog's."),
        "text": Field(Price(), "Dollars a million text and thinking tokens. Default: the catalog's."),
        "image": Field(Price(), "Dollars a million image tokens. Default: the catalog's."),
        "image_tokens": Field(ImageTokens(), "Tokens of a picture, or of each size. Default: the catalog's."),
    },
)
ROOT = Record(
    dict[str, Any],
    {
        "job": Field(Label("a job name"), "Names the job in the ledger and in paths.", required=True),
        "model": Field(
            At(ModelId()),
            "Model id; one that the catalog does not list runs unchecked. Not beside an axis model.",
        ),
        "prompts": Field(Partial(ListOf(_PromptKind())), "What to render.", required=True),
        "matrix": Field(MatrixKind(), "What every prompt is multiplied by: size, aspect and axes of your own."),
        "variants": Field(Whole(), "Pictures of every cell. Default: 1."),
        "generation": Field(GENERATION, "Settings of every request."),
        "lane": Field(
            Choice(LANES),
            "How to buy: standard asks for one picture at a time, batch at half the price within a day or two, "
            "auto takes batch for what is many and can wait and standard for the rest. Default: standard.",
        ),
        "batch": Field(BATCH, "How tasks become remote batch jobs, and how those are watched."),
        "limits": Field(LIMITS, "How fast and how long."),
        "budget": Field(BUDGET, "What may be spent."),
        "retry": Field(RETRY, "How often a task is tried."),
        "prices": Field(PRICES, "Prices of the standard lane that go before the catalog's."),
        "verify": Field(Choice(("structure", "full")), "full decodes every pixel. Default: structure."),
        "keep": Field(
            ListOf(ModelId(), single=True),
            "Models whose pictures count as done: what was bought of them is not bought again of this one.",
        ),
        "notify": Field(NOTIFY, "Who is told how a run ended; never waited for long, never a reason to fail."),
        "drafts": Field(
            Label("a job name"),
            "The job that these tasks were chosen from: a column draft holds the key of each.",
        ),
        "output": Field(
            At(Text("an output template")),
            "Where pictures go: fields job, prompt, variant, key and every axis, then .{ext}. "
            "Default: {job}/{prompt}/{size}-{aspect}-…every other axis…-{variant}.{ext}.",
        ),
    },
)
