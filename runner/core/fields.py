"""What single fields of a manifest hold: model, size, aspect, generation settings, money.

A model the catalog lists judges sizes, aspects and thinking; for any other only their form is judged.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from runner.core.catalog import SIZES, Catalog, Model, bare, nanos_per_token
from runner.core.errors import Problem
from runner.core.shape import (
    At,
    Choice,
    Field,
    Kind,
    ListOf,
    Located,
    Record,
    Schema,
    Scope,
    Text,
    Whole,
    WrongError,
    collect,
    entries,
    guess,
    listed,
    problem,
    text_of,
    wrong,
)
from runner.core.task import Recipe
from runner.core.yaml12 import Node, Scalar, shortened

CATEGORIES = (
    "HARASSMENT",
    "HATE_SPEECH",
    "SEXUALLY_EXPLICIT",
    "DANGEROUS_CONTENT",
    "CIVIC_INTEGRITY",
    "JAILBREAK",
)
THRESHOLDS = ("BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF")
"""Both gemini-api.md §4.3."""
LEVELS = ("minimal", "low", "medium", "high", "xhigh")
"""gemini-api.md §4.3; which of them a model takes is the catalog's to say."""

MAX_DOLLARS = 10**9
"""Nano-dollars of more would not fit a 64-bit integer of the ledger."""

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:+-]*(?:/[A-Za-z0-9][A-Za-z0-9_.@:+-]*)*")
_SIZE = re.compile(r"[1-9][0-9]{0,4}K?")
_ASPECT = re.compile(r"[1-9][0-9]{0,2}:[1-9][0-9]{0,2}")
_PART = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")


@dataclass(frozen=True)
class ModelId(Kind[str]):
    """A model id without `models/`."""

    def read(self, node: Node, _scope: Scope) -> str:
        model = bare(text_of(node, "a model id"))
        if not _MODEL.fullmatch(model):
            raise wrong(node, f"expected a model id such as 'gemini-3.1-flash-image', got {node}")
        return model

    def schema(self, catalog: Catalog) -> Schema:
        return {"anyOf": [{"enum": list(catalog.models)}, {"type": "string", "minLength": 1}]}


@dataclass(frozen=True)
class Size(Kind[str]):
    """`1K` as on the wire; 512, "512" and 0.5K are one size (design §3)."""

    def read(self, node: Node, scope: Scope) -> str:
        text = text_of(node, "a size")
        size = "512" if text == "0.5K" else text
        model = scope.model
        if not (_SIZE.fullmatch(size) if model is None else size in model.sizes):
            near = re.sub(r"^0?\.5k$|^512px$", "512", size.lower().replace("1024", "1k")).upper()
            known = SIZES if model is None else model.sizes
            raise wrong(node, _not_offered(size, "size", model, known, near))
        return size

    def schema(self, _catalog: Catalog) -> Schema:
        return {"enum": [*SIZES, "0.5K", 512]}


@dataclass(frozen=True)
class Aspect(Kind[str]):
    """`16:9`, never the number 969."""

    def read(self, node: Node, scope: Scope) -> str:
        aspect = text_of(node, "an aspect such as 16:9")
        model = scope.model
        if not (_ASPECT.fullmatch(aspect) if model is None else aspect in model.aspects):
            known = ("1:1", "16:9") if model is None else model.aspects
            near = re.sub(r"\s*[:x/]\s*", ":", aspect.strip().lower())
            raise wrong(node, _not_offered(aspect, "aspect", model, known, near))
        return aspect

    def schema(self, catalog: Catalog) -> Schema:
        return {"enum": sorted({a for m in catalog.models.values() for a in m.aspects}, key=_by_sides)}


def _by_sides(aspect: str) -> tuple[int, ...]:
    return tuple(int(side) for side in aspect.split(":"))


def _not_offered(text: str, what: str, model: Model | None, known: tuple[str, ...], near: str) -> str:
    article = "an" if what == "aspect" else "a"
    owner = f"{article} {what}" if model is None else f"{article} {what} of {model.id}"
    offered = f"expected {listed(known)}" if model else f"expected a form such as {listed(known)}"
    suggestion = f"did you mean {near!r}? " if near in known and near != text else ""
    return f"{shortened(text)!r} is not {owner}: {suggestion}{offered}"


@dataclass(frozen=True)
class Thinking(Kind[str]):
    """A thinking level, lower-case whatever the spelling."""

    def read(self, node: Node, scope: Scope) -> str:
        level = text_of(node, "a thinking level").lower()
        model = scope.model
        if model is not None and not model.thinking:
            raise wrong(node, f"{model.id} takes no thinking level: leave it out")
        known = LEVELS if model is None else model.thinking
        if level not in known and (model is not None or not re.fullmatch(r"[a-z][a-z_]{0,30}", level)):
            owner = f" of {model.id}" if model else ""
            raise wrong(node, f"{shortened(level)!r} is not a thinking level{owner}: expected {listed(known)}")
        return level

    def schema(self, catalog: Catalog) -> Schema:
        known = {level for m in catalog.models.values() for level in m.thinking}
        return {"enum": [level for level in LEVELS if level in known]}


_MODALITIES = ListOf(Choice(("IMAGE", "TEXT"), fold=True), single=True)
_CATEGORY = Choice(CATEGORIES, prefix="HARM_CATEGORY_")
_THRESHOLD = Choice(THRESHOLDS)


@dataclass(frozen=True)
class Modalities(Kind[tuple[str, ...]]):
    """`IMAGE`, and `TEXT` if words are wanted beside it."""

    def read(self, node: Node, scope: Scope) -> tuple[str, ...]:
        words = _MODALITIES.read(node, scope)
        if "IMAGE" not in words:
            raise wrong(node, "expected IMAGE among the modalities")
        if len(set(words)) < len(words):
            raise wrong(node, "a modality is listed twice")
        return tuple(sorted(words))

    def schema(self, catalog: Catalog) -> Schema:
        return _MODALITIES.schema(catalog)


@dataclass(frozen=True)
class Safety(Kind[Mapping[str, str]]):
    """Threshold by category, `HARM_CATEGORY_` cut off."""

    def read(self, node: Node, scope: Scope) -> dict[str, str]:
        problems: list[Problem] = []
        result: dict[str, str] = {}
        for key, value in entries(node):
            name = shortened(key.text)
            category = key.text.removeprefix(_CATEGORY.prefix)
            threshold = collect(_THRESHOLD, value, scope, problems)
            if category not in CATEGORIES:
                problems.append(problem(key, f"unknown safety category {name!r}{guess(category, CATEGORIES)}"))
            elif category in result:
                problems.append(problem(key, f"safety category {category} is given twice"))
            result[category] = threshold or ""
        if problems:
            raise WrongError(problems)
        return result

    def schema(self, catalog: Catalog) -> Schema:
        names = {"propertyNames": _CATEGORY.schema(catalog)}
        return {"type": "object", **names, "additionalProperties": _THRESHOLD.schema(catalog)}


@dataclass(frozen=True)
class Generation:
    """Generation settings as given; None is not given."""

    modalities: tuple[str, ...] | None = None
    thinking: str | None = None
    system: str | None = None
    safety: Mapping[str, str] | None = None

    def over(self, other: "Generation") -> "Generation":
        """These settings over others; safety category by category."""
        return Generation(
            self.modalities or other.modalities,
            self.thinking or other.thinking,
            self.system or other.system,
            {**(other.safety or {}), **(self.safety or {})},
        )

    def recipe(self, model_id: str, model: Model | None) -> Recipe:
        """The settings of a request, defaults of program and catalog resolved."""
        return Recipe(
            model=model_id,
            modalities=self.modalities or ("IMAGE",),
            thinking=self.thinking or (model.thinking_default if model else None),
            system=self.system,
            safety=tuple(sorted((self.safety or {}).items())),
        )


GENERATION = Record(
    Generation,
    {
        "modalities": Field(
            Modalities(), "IMAGE, or IMAGE and TEXT for words beside the picture. Default: IMAGE."
        ),
        "thinking": Field(Thinking(), "Thinking level. Default: the model's own."),
        "system": Field(Text("a system text"), "System instruction, sent with every prompt."),
        "safety": Field(Safety(), "Safety threshold by category, such as HARASSMENT: BLOCK_ONLY_HIGH."),
    },
)


def _decimal(node: Node, what: str) -> Decimal:
    text = text_of(node, what)
    if not _NUMBER.fullmatch(text) or len(text) > 40:
        hint = " without a currency sign" if text.startswith("$") or text.endswith("$") else ""
        raise wrong(node, f"expected {what}{hint}, got {node}")
    number = Decimal(text)
    if number < 0:
        raise wrong(node, f"expected {what} that is not negative, got {text}")
    if len(number.as_tuple().digits) > 28:
        # more would be rounded by decimal arithmetic
        raise wrong(node, f"expected {what} of at most 28 digits, got {text}")
    if number > MAX_DOLLARS:
        raise wrong(node, f"expected {what} of at most {MAX_DOLLARS:,}, got {text}")
    return number


@dataclass(frozen=True)
class Money(Kind[int]):
    """Dollars, exact to nine decimals, as nano-dollars; nothing at all only where `zero` allows it."""

    zero: bool = True

    def read(self, node: Node, _scope: Scope) -> int:
        nanos = _decimal(node, "an amount in dollars such as 25.00").scaleb(9)
        if nanos == 0 and not self.zero:
            raise wrong(node, f"expected an amount in dollars above 0, got {node}")
        if nanos != int(nanos):
            assert isinstance(node, Scalar)  # noqa: S101 - it was a number
            raise wrong(node, f"expected an amount with at most nine decimals, got {node.text}")
        return int(nanos)

    def schema(self, _catalog: Catalog) -> Schema:
        low = "minimum" if self.zero else "exclusiveMinimum"
        some = "" if self.zero else "(?=.*[1-9])"
        return {
            "anyOf": [
                {"type": "number", low: 0, "maximum": MAX_DOLLARS},
                {"type": "string", "pattern": rf"^{some}[0-9]+(\.[0-9]{{1,9}})?$"},
            ]
        }


@dataclass(frozen=True)
class Tier(Kind[int]):
    """A usage tier that the catalog has."""

    def read(self, node: Node, scope: Scope) -> int:
        known = {str(number): number for number in scope.catalog.usage_tiers}
        if isinstance(node, Scalar) and node.kind == "int" and node.text in known:
            return known[node.text]
        raise wrong(node, f"expected {listed(known)}, got {node}")

    def schema(self, catalog: Catalog) -> Schema:
        return {"enum": list(catalog.usage_tiers)}


@dataclass(frozen=True)
class Price(Kind[int]):
    """Dollars a million tokens, as nano-dollars a token."""

    def read(self, node: Node, _scope: Scope) -> int:
        dollars = _decimal(node, "a price in dollars a million tokens such as 1.50")
        try:
            return nanos_per_token(dollars)
        except ValueError:
            raise wrong(node, f"expected a price with at most three decimals, got {dollars}") from None

    def schema(self, catalog: Catalog) -> Schema:
        return Money().schema(catalog)


@dataclass(frozen=True)
class ImageTokens(Kind[int | dict[str, int]]):
    """Tokens of a picture: one number, or one for each size."""

    def read(self, node: Node, scope: Scope) -> int | dict[str, int]:
        if isinstance(node, Scalar):
            return Whole().read(node, scope)
        problems: list[Problem] = []
        result: dict[str, int] = {}
        for key, value in entries(node):
            size = collect(Size(), key, scope, problems)
            tokens = collect(Whole(), value, scope, problems)
            if size in result:
                problems.append(problem(key, f"size {size} is given twice"))
            if size and tokens:
                result[size] = tokens
        if problems:
            raise WrongError(problems)
        return result

    def schema(self, catalog: Catalog) -> Schema:
        by_size = {"propertyNames": {"enum": [*SIZES, "0.5K"]}, "additionalProperties": Whole().schema(catalog)}
        return {"anyOf": [Whole().schema(catalog), {"type": "object", **by_size}]}


@dataclass(frozen=True)
class Part(Kind[Fraction]):
    """A part of a whole in per cent, such as `1%`."""

    def read(self, node: Node, _scope: Scope) -> Fraction:
        match = _PART.fullmatch(node.text) if isinstance(node, Scalar) else None
        part = Fraction(match.group(1)) / 100 if match else Fraction(0)
        if not 0 < part <= 1:
            raise wrong(node, f"expected a part such as 1% or 0.5%, above 0 and at most 100%, got {node}")
        return part

    def schema(self, _catalog: Catalog) -> Schema:
        return {"type": "string", "pattern": f"^{_PART.pattern}$"}


AxisText = Located[str]
_AXES: Mapping[str, Kind[str]] = {"size": Size(), "aspect": Aspect(), "model": ModelId()}


def axis_kind(name: str) -> Kind[AxisText]:
    """What the values of an axis are read as."""
    return At(_AXES.get(name, Text("a value", empty=True)))
