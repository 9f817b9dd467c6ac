"""The catalog: dated, sourced facts about models and tiers, read from `catalog.toml`.

It knows nothing of manifests or requests. The sandbox shares this module with the runner and nothing else.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

SIZES = ("512", "1K", "2K", "4K")
"""Sizes known to any model of the catalog, as spelled on the wire (gemini-api.md §3.1)."""


@dataclass(frozen=True)
class Prices:
    """What a token costs in integer nano-dollars; None is not known, which is never zero.

    One dollar a million tokens is 1,000 nano-dollars a token, so nothing rounds.
    """

    input: int | None
    text: int | None
    image: int | None

    @property
    def complete(self) -> bool:
        """Whether a cap in dollars can be proven at these prices."""
        return None not in (self.input, self.text, self.image)

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of the prices that are not known."""
        return tuple(name for name in ("input", "text", "image") if getattr(self, name) is None)

    def scaled(self, factor: Decimal) -> "Prices":
        """These prices times a lane's factor; raises ValueError where a nano-dollar would have to round."""
        return Prices(*(None if p is None else _whole(p * factor) for p in (self.input, self.text, self.image)))


@dataclass(frozen=True)
class UsageTier:
    """What a project of this tier may spend, in nano-dollars (gemini-api.md §7.5); `source` says where from."""

    spend_nanos: int
    """In any ten minutes."""
    month_nanos: int | None
    """In a calendar month; None where no cap is documented."""
    source: str


@dataclass(frozen=True)
class Model:
    """One model: sizes, aspects, pixels, tokens, prices, retirement; `source` says where from."""

    id: str
    name: str
    status: str
    """`stable`, `deprecated` or `retired`."""
    released: str | None
    deprecated: str | None
    shutdown: str | None
    """ISO date from which it may be gone."""
    successor: str | None
    size_parameter: bool
    """False: the request must not carry `imageSize`."""
    image_tokens: Mapping[str, int]
    """Tokens of one picture, by size. Its keys are the model's sizes."""
    aspects: tuple[str, ...]
    pixels: Mapping[tuple[str, str], tuple[int, int]]
    """(size, aspect) -> (width, height)."""
    thinking: tuple[str, ...]
    """Levels it takes, lower-case; empty where thinking is not a parameter."""
    thinking_default: str | None
    max_references: int | None
    reference_tokens: int | None
    prices: Prices
    """Standard lane."""
    batch_factor: Decimal
    service_tiers: Mapping[str, Decimal]
    """Factor of the standard prices by the tier that served an answer: the catalog's, the model's own over it."""
    batch_tokens: Mapping[int, int]
    """Input tokens of its batch jobs that are not done, by usage tier; a tier not in it is not documented."""
    lanes: Mapping[str, str]
    """Lanes it offers besides standard and batch, each with its source."""
    source: str
    note: str | None

    @property
    def sizes(self) -> tuple[str, ...]:
        """The sizes it renders, smallest first."""
        return tuple(self.image_tokens)

    def prices_for(self, lane: str) -> Prices:
        """Prices of `standard` or `batch`."""
        return self.prices.scaled(self.batch_factor) if lane == "batch" else self.prices


@dataclass(frozen=True)
class Catalog:
    """All models by id, what holds for every model, and the date the table was last checked."""

    as_of: str
    models: Mapping[str, Model]
    usage_tiers: Mapping[int, UsageTier]
    service_tiers: Mapping[str, Decimal]
    """Factor of the standard prices by service tier, where a model names none of its own (gemini-api.md §10)."""

    def find(self, model: str) -> Model | None:
        """The entry of an id, with or without `models/`; None for an id this release does not know."""
        return self.models.get(bare(model))

    def last_successor(self, model: str) -> Model | None:
        """The end of the chain of successors of `model`, or None where it has none."""
        entry, last = self.find(model), None
        while entry is not None and entry.successor is not None:
            entry = last = self.models[entry.successor]
        return last


def bare(model: str) -> str:
    """A model id without its `models/` prefix."""
    return model.removeprefix("models/")


def nanos_per_token(dollars_per_million: Decimal | str) -> int:
    """Dollars a million tokens as nano-dollars a token; ValueError if that is not a whole number."""
    return _whole(Decimal(dollars_per_million) * 1000)


def _nanos(dollars: str) -> int:
    return _whole(Decimal(dollars).scaleb(9))


def _whole(value: Decimal) -> int:
    whole = int(value)
    if whole != value or whole < 0:
        raise ValueError(f"{value} nano-dollars is not a whole number")
    return whole


def parse(text: str) -> Catalog:
    """Read a catalog in the format of `catalog.toml`; KeyError or ValueError if it is malformed."""
    raw = tomllib.loads(text)
    tables = {name: _pixels(table) for name, table in raw["pixels"].items()}
    usage_tiers = {int(number): _usage_tier(entry) for number, entry in raw["usage_tiers"].items()}
    service_tiers = {name: _factor(entry["factor"]) for name, entry in raw["service_tiers"].items()}
    models = {
        id_: _model(id_, entry, tables[entry["pixels"]], service_tiers) for id_, entry in raw["models"].items()
    }
    return Catalog(raw["as_of"], models, usage_tiers, service_tiers)


def _usage_tier(raw: dict[str, str]) -> UsageTier:
    month = raw.get("spend_usd_per_month")
    return UsageTier(_nanos(raw["spend_usd_per_10min"]), None if month is None else _nanos(month), raw["source"])


def _factor(text: str) -> Decimal:
    factor = Decimal(text)
    if not 0 < factor < 100:
        raise ValueError(f"{text} is no factor of a price")
    return factor


def _lanes(raw: dict[str, dict[str, str]]) -> dict[str, str]:
    lanes = {name: entry["source"] for name, entry in raw.items()}
    if not all(source.strip() for source in lanes.values()):
        raise ValueError("a lane needs a source")
    return lanes


def _pixels(table: dict[str, list[str]]) -> dict[tuple[str, str], tuple[int, int]]:
    sizes = table["sizes"]
    result = {}
    for aspect, cells in table.items():
        if aspect != "sizes":
            for size, cell in zip(sizes, cells, strict=True):
                width, height = cell.split("x")
                result[size, aspect] = (int(width), int(height))
    return result


def _model(
    id_: str,
    raw: dict[str, Any],
    table: dict[tuple[str, str], tuple[int, int]],
    service_tiers: dict[str, Decimal],
) -> Model:
    prices = raw["prices"]
    known = {name: nanos_per_token(prices[name]) for name in prices}
    aspects = tuple(raw["aspects"])
    own_tiers = {name: _factor(factor) for name, factor in raw.get("service_tiers", {}).items()}
    return Model(
        id=id_,
        name=raw["name"],
        status=raw["status"],
        released=raw.get("released"),
        deprecated=raw.get("deprecated"),
        shutdown=raw.get("shutdown"),
        successor=raw.get("successor"),
        size_parameter=raw.get("size_parameter", True),
        image_tokens=raw["image_tokens"],
        aspects=aspects,
        pixels={(size, aspect): table[size, aspect] for size in raw["image_tokens"] for aspect in aspects},
        thinking=tuple(raw.get("thinking", ())),
        thinking_default=raw.get("thinking_default"),
        max_references=raw.get("max_references"),
        reference_tokens=raw.get("reference_tokens"),
        prices=Prices(known.get("input"), known.get("text"), known.get("image")),
        batch_factor=Decimal(raw["batch_factor"]),
        service_tiers={**service_tiers, **own_tiers},
        batch_tokens={int(tier): tokens for tier, tokens in raw.get("batch_tokens", {}).items()},
        lanes=_lanes(raw.get("lanes", {})),
        source=raw["source"],
        note=raw.get("note"),
    )


@cache
def builtin() -> Catalog:
    """The catalog this release ships."""
    return parse(files("runner.core").joinpath("catalog.toml").read_text(encoding="utf-8"))
