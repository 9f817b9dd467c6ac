"""What a manifest may hold: every field with its kind and its words for the schema.

`manifest` judges what concerns several fields at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runner.core.axes import Axes, MatrixKind
from runner.core.catalog import Catalog, Prices
from runner.core.fields import GENERATION, AxisText, ImageTokens, ModelId, Money, Price
from runner.core.retry import RetryPolicy
from runner.core.shape import (
    At,
    Choice,
    Field,
    Flag,
    Kind,
    Label,
    Later,
    ListOf,
    Located,
    Partial,
    Record,
    Schema,
    Scope,
    Seconds,
    Text,
    Whole,
    wrong,
)
from runner.core.yaml12 import Fields, Node, Scalar

Lane = Literal["standard", "batch", "auto"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How fast, how many at once, how long; None is no limit of that kind."""

    rpm: int | None = None
    concurrency: int | None = None
    request_timeout_s: float = 360.0
    max_tasks: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """The cap and what it does; None is no cap of that kind."""

    cap_nanos: int | None = None
    cap_image_tokens: int | None = None
    on_exceed: Literal["halt", "refuse"] = "halt"
    order: Literal["spread", "manifest"] = "spread"


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


_TEXT = At(Text("a prompt"))
_DRAFT = Record(
    Draft,
    {
        "text": Field(
            _TEXT, "The prompt. {axis} is replaced by the axis value, {{axis}} is a literal.", required=True
        ),
        "id": Field(At(Label("an id")), "Names the prompt in paths and reports; from its text if left out."),
        "matrix": Field(At(Axes()), "Axes whose values are others for this prompt."),
        "template": Field(Flag(), "false takes the text literally, braces and all."),
        "references": Field(Later("references"), "Reference pictures: in a later release."),
        "from": Field(Later("from"), "A file of prompts: in a later release."),
    },
)


@dataclass(frozen=True)
class _PromptKind(Kind[Draft]):
    """A prompt: its text alone, or a mapping."""

    def read(self, node: Node, scope: Scope) -> Draft:
        if isinstance(node, Scalar):
            return Draft(_TEXT.read(node, scope))
        if not isinstance(node, Fields):
            raise wrong(node, f"expected a prompt's text or a mapping with text, got {node}")
        later = [key for key, _ in node.entries if key.text == "from"]
        if later:
            # a source has no text of its own, so that is not missing
            raise wrong(later[0], "'from' comes in a later release")
        return _DRAFT.read(node, scope)

    def schema(self, catalog: Catalog) -> Schema:
        return {"anyOf": [Text().schema(catalog), _DRAFT.schema(catalog)]}


def _budget(usd: int | None = None, image_tokens: int | None = None, **rest: Any) -> Budget:
    return Budget(usd, image_tokens, **rest)


LIMITS = Record(
    Limits,
    {
        "rpm": Field(
            Whole(), "Requests a minute. Without it concurrency and the provider's refusals set the pace."
        ),
        "concurrency": Field(Whole(), "Requests in flight at most."),
        "request_timeout_s": Field(Seconds(), "Seconds to the first byte of an answer. Default: 360."),
        "max_tasks": Field(Whole(), "More tasks than this are an error."),
        **{
            name: Field(Later(name), "In a later release.")
            for name in ("tpm", "ipm", "rpd", "spend_usd_per_10min")
        },
    },
)
BUDGET = Record(
    _budget,
    {
        "usd": Field(Money(), "The cap in dollars; spend and reservations never pass it."),
        "image_tokens": Field(Whole(0), "The cap in image tokens."),
        "on_exceed": Field(
            Choice(("halt", "refuse")), "halt when the cap is reached (default), or refuse to start."
        ),
        "order": Field(Choice(("spread", "manifest")), "spread (default) buys one of every prompt first."),
        "account": Field(Later("account"), "In a later release."),
    },
)
RETRY = Record(
    RetryPolicy,
    {
        "attempts": Field(Whole(), "Tries of a task, the first included. Default: 5."),
        "refused": Field(Whole(), "Tries of a task that is refused. Default: 2."),
        "unknown": Field(Choice(("retry", "hold")), "Whether a task that may have been bought is tried again."),
    },
)
PRICES = Record(
    PriceOverride,
    {
        "input": Field(Price(), "Dollars a million input tokens."),
        "text": Field(Price(), "Dollars a million text and thinking tokens."),
        "image": Field(Price(), "Dollars a million image tokens."),
        "image_tokens": Field(ImageTokens(), "Tokens of a picture, or of each size."),
    },
)
ROOT = Record(
    dict[str, Any],
    {
        "job": Field(Label("a job name"), "Names the job in the ledger and in paths.", required=True),
        "model": Field(ModelId(), "Model id; one that the catalog does not list runs unchecked.", required=True),
        "prompts": Field(Partial(ListOf(_PromptKind())), "What to render.", required=True),
        "matrix": Field(MatrixKind(), "What every prompt is multiplied by: size, aspect and axes of your own."),
        "variants": Field(Whole(), "Pictures of every cell. Default: 1."),
        "generation": Field(GENERATION, "Settings of every request."),
        "lane": Field(Choice(("standard", "batch", "auto")), "How to buy. Default: standard."),
        "limits": Field(LIMITS, "How fast and how long."),
        "budget": Field(BUDGET, "What may be spent."),
        "retry": Field(RETRY, "How often a task is tried."),
        "prices": Field(PRICES, "Prices of the standard lane that go before the catalog's."),
        "verify": Field(Choice(("structure", "full")), "full decodes every pixel. Default: structure."),
        "output": Field(
            At(Text("an output template")),
            "Where pictures go: fields job, prompt, variant, key and every axis, then .{ext}.",
        ),
    },
)
