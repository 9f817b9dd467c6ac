"""What an attempt may cost at worst, and what it did cost. Integer nano-dollars; None is unknown, never zero."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import assert_never

from runner.core.catalog import Model, Prices, builtin
from runner.core.lifecycle import (
    Answer,
    AttemptState,
    Faulted,
    FileGone,
    Interrupted,
    Invalid,
    Lost,
    Made,
    Outcome,
    Parked,
    Refused,
    Stopped,
    Throttled,
    Undone,
    Unreached,
    Unstored,
    Unusable,
)

TEXT_ALLOWANCE = {"minimal": 1_500}
"""Text and thinking tokens an answer is expected to stay under, by thinking level."""
TEXT_ALLOWANCE_OTHERWISE = 4_000
"""The same for every other level, and where the model decides for itself."""

REFERENCE_TOKENS = 1_120
"""Input tokens of a reference picture where the catalog has none: the largest number met (gemini-api.md §13.8)."""

STANDARD_TIERS = frozenset({"", "standard", "unspecified", "default"})
"""Service tiers that cost what the lane costs (gemini-api.md §4.2)."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is billed: input, text with thinking, image."""

    input: int
    text: int
    image: int | None
    """None where pictures came whose tokens nobody knows."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The largest answers so far: text and thinking of a thinking level, image tokens of a picture of a size."""

    text: int = 0
    image: int = 0
    pictures: int = 1
    """In one answer, of late."""
    reference: int = 0
    """Input tokens of one reference."""


Sight = tuple[str, str, str]
"""Of what a largest answer is kept: model, kind (a field of `Seen`), and the thinking level or size."""


def seen_at(known: Mapping[Sight, int], model: str, size: str, thinking: str | None) -> Seen:
    """The largest answers to tasks of a model, size and thinking level."""
    at = {"text": thinking or "", "image": size, "pictures": size, "reference": ""}
    return Seen(**{kind: known[model, kind, of] for kind, of in at.items() if (model, kind, of) in known})


@dataclass(frozen=True, slots=True)
class Quote:
    """The worst case of one attempt, held against the cap before it may be sent."""

    nanos: int | None
    image_tokens: int | None
    text_tokens: int
    input_tokens: int
    pictures: int = field(default=1, compare=False)
    """How many pictures of an answer it covers."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an attempt stands with the budget once it has ended."""

    state: AttemptState
    """`settled`, `released` or `unknown`."""
    nanos: int | None
    """Cost if settled, what is held if unknown, 0 if released; None at unknown prices."""
    tokens: Tokens | None
    """What was billed; None unless settled."""


STANDARD = Fraction(1)


@dataclass(frozen=True, slots=True)
class PriceSheet:
    """Prices and tokens of one model on one lane, the manifest's `prices:` applied."""

    prices: Prices
    image_tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokens of one picture by size."""
    any_size_tokens: int | None = None
    """Tokens of one picture of a size that `image_tokens` does not list."""
    service_tiers: Mapping[str, Fraction] = field(default_factory=dict)
    """What an answer of another service tier costs, as a factor of `prices`."""
    reference_tokens: int = REFERENCE_TOKENS
    """Input tokens of one reference picture."""

    def picture_tokens(self, size: str) -> int | None:
        """Image tokens of one picture; None if not known."""
        return self.image_tokens.get(size, self.any_size_tokens)

    def quote(
        self, *, size: str, thinking: str | None, input_bytes: int, seen: Seen, references: int = 0
    ) -> Quote:
        """The worst case (design §4.1): catalog tokens, or 1.25 x the largest seen where that is more.

        A token is at least a byte of UTF-8, so bytes bound the text of the input.
        """
        image = self.picture_tokens(size)
        if image is not None and seen.image > image:
            image = _raised(seen.image)
        if image is not None:
            image *= seen.pictures
        text = max(allowance(thinking), _raised(seen.text))
        each = self.reference_tokens if seen.reference <= self.reference_tokens else _raised(seen.reference)
        tokens = input_bytes + references * each
        nanos = None if image is None else self.cost(Tokens(tokens, text, image))
        return Quote(nanos, image, text, tokens, seen.pictures)

    def cost(self, tokens: Tokens, tier: str | None = None) -> int | None:
        """Nano-dollars of what was billed, as the service tier that served it; part of one counts as a whole.

        None if a count or a price it needs, or what the tier costs, is not known.
        """
        factor = self._factor(tier)
        if tokens.image is None or factor is None:
            return None
        pairs = (
            (tokens.input, self.prices.input),
            (tokens.text, self.prices.text),
            (tokens.image, self.prices.image),
        )
        total = 0
        for count, price in pairs:
            if count and price is None:
                return None
            total += count * (price or 0)
        return total if factor == 1 else ceil(total * factor)

    def _factor(self, tier: str | None) -> Fraction | None:
        name = (tier or "").strip().lower().removeprefix("service_tier_")
        return STANDARD if name in STANDARD_TIERS else self.service_tiers.get(name)


def sheet(
    model: Model | None,
    lane: str,
    *,
    override: Prices | None = None,
    image_tokens: Mapping[str, int] | int | None = None,
) -> PriceSheet:
    """The price sheet of a lane: the catalog's, with the manifest's `prices:` over it.

    The manifest's prices are the standard lane's, like the catalog's; a batch, and a service tier that is not
    standard, cost the same factor of them.
    """
    base = Prices(None, None, None) if model is None else model.prices
    over = override or Prices(None, None, None)
    merged = Prices(*(_first(getattr(over, n), getattr(base, n)) for n in ("input", "text", "image")))
    of_lane = model.batch_factor if lane == "batch" and model is not None else Decimal(1)
    factors = builtin().service_tiers if model is None else model.service_tiers
    tiers = {name: Fraction(factor) / Fraction(of_lane) for name, factor in factors.items()}
    merged = merged.scaled(of_lane)
    known = dict(model.image_tokens) if model is not None else {}
    each = REFERENCE_TOKENS if model is None else model.reference_tokens or REFERENCE_TOKENS
    if isinstance(image_tokens, int):
        return PriceSheet(merged, {}, image_tokens, tiers, each)
    return PriceSheet(merged, {**known, **(image_tokens or {})}, None, tiers, each)


def allowance(thinking: str | None) -> int:
    """Text and thinking tokens reserved for an answer before anything was seen (design §4.1)."""
    return TEXT_ALLOWANCE.get(thinking or "", TEXT_ALLOWANCE_OTHERWISE)


def settlement(outcome: Outcome, quote: Quote, price: PriceSheet, size: str) -> Settlement:
    """How an attempt ends in money (design §4, table)."""
    match outcome:
        case Made() | Refused() | Unusable() | Unstored():
            return _answered(outcome.answer, quote, price, size)
        case Throttled() | Parked() | Invalid() | FileGone() | Stopped() | Unreached() | Undone():
            return _RELEASED
        case Faulted():
            return _held(quote) if outcome.billed_unknown else _RELEASED
        case Lost():
            return _held(quote)
        case Interrupted():
            return _held(quote) if outcome.left else _RELEASED
        case _:
            assert_never(outcome)


def billed(answer: Answer, price: PriceSheet, size: str, quote: Quote) -> Tokens | None:
    """Tokens of an answered request; None where the answer says nothing of its cost.

    Itemised IMAGE tokens are image; all other output and thinking are text. Candidates exceed their itemised
    details in most answers by text that is not itemised (gemini-api.md §5.4).
    """
    each = price.picture_tokens(size) if answer.pictures else 0
    pictures = None if each is None else answer.pictures * each
    usage = answer.usage
    if usage is None:
        return Tokens(quote.input_tokens, quote.text_tokens, pictures) if answer.pictures else None
    image = pictures if usage.image is None else usage.image
    return Tokens(usage.prompt, max(0, usage.candidates - (image or 0)) + usage.thoughts, image)


def _answered(answer: Answer, quote: Quote, price: PriceSheet, size: str) -> Settlement:
    tokens = billed(answer, price, size, quote)
    if tokens is None:
        return _held(quote)
    nanos = price.cost(tokens, answer.tier)
    if (nanos is None and quote.nanos is not None) or (tokens.image is None and quote.image_tokens is not None):
        return _held(quote)  # it had a price when it was sent: unknown is neither nothing nor a guess
    return Settlement(AttemptState.SETTLED, nanos, tokens)


_RELEASED = Settlement(AttemptState.RELEASED, 0, None)


def _held(quote: Quote) -> Settlement:
    return Settlement(AttemptState.UNKNOWN, quote.nanos, None)


def _raised(seen: int) -> int:
    return -(-seen * 5 // 4)


def _first(value: int | None, otherwise: int | None) -> int | None:
    return otherwise if value is None else value
