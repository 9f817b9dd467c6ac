"""Which price sheets the attempts of a job may have been priced by: recorded, of the manifest, of the catalog.

A sheet proves itself: it is the right one where it gives both what was reserved and what was settled.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from runner.core.catalog import Prices, builtin
from runner.core.errors import ManifestError
from runner.core.manifest import Manifest, parse
from runner.core.pricing import PriceSheet, sheet

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """A price sheet, and where it is from. Two are one only if they are the same object."""

    model: str
    lane: str
    sheet: PriceSheet
    source: str
    """Where the prices are from, with a date."""


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The sheets that attempts of a job may have been priced by, those that were recorded first."""

    recorded: Sequence[Priced]
    recorded_since: float | None
    """UTC from which on every sheet that was used is recorded; None: never."""
    manifest: Manifest | None
    """The manifest as it is now, where it can be read."""

    def sheets(self, model: str, lane: str) -> tuple[Priced, ...]:
        """Each sheet once, of this model on this lane."""
        found = [one for one in self.recorded if (one.model, one.lane) == (model, lane)]
        for one in (*_of_manifest(self.manifest, model, lane), catalogued(model, lane)):
            if all(one.sheet != other.sheet for other in found):
                found.append(one)
        return tuple(found)

    def coming(self, model: str, lane: str = "standard") -> Priced:
        """What the next attempt will be priced by, if the manifest stays as it is."""
        return next(_of_manifest(self.manifest, model, lane), None) or catalogued(model, lane)


def price_book(config: Mapping[str, Any]) -> PriceBook:
    """The sheets of a job, from what was recorded with it and the manifest it names."""
    since = config.get("sheets_since")
    return PriceBook(
        recorded=tuple(_parsed(raw) for raw in config.get("sheets") or ()),
        recorded_since=None if since is None else float(since),
        manifest=_manifest(config.get("manifest")),
    )


def recorded_sheets(
    manifest: Manifest,
    models: Iterable[str],
    before: Mapping[str, Any],
    *,
    now_utc: float,
    lanes: Sequence[str] = ("standard", "batch"),
) -> Json:
    """What a run adds to its job's `config`, so that its costs can be recomputed for ever: sheets only ever join.

    Those that it uses come last.

    `before` is the job's `config` as it was; empty for a new job.
    """
    book = PriceBook((), None, manifest)
    used = [book.coming(model, lane) for model in models for lane in lanes]
    now = [(one.model, one.lane, one.sheet) for one in used]
    earlier = [
        one for one in map(_parsed, before.get("sheets") or ()) if (one.model, one.lane, one.sheet) not in now
    ]
    sheets = [_as_object(one) for one in (*earlier, *used)]
    return {"sheets": sheets, "sheets_since": before.get("sheets_since", now_utc)}


def catalogued(model: str, lane: str) -> Priced:
    """The sheet of the catalog that this release ships."""
    entry = builtin().find(model)
    source = f"catalog of {builtin().as_of}: {'no such model' if entry is None else entry.source}"
    return Priced(model, lane, sheet(entry, lane), source)


def _of_manifest(manifest: Manifest | None, model: str, lane: str) -> Iterator[Priced]:
    """The catalog's with the manifest's `prices:` over it, where it has any."""
    if manifest is not None and "prices" in manifest.places:
        over = manifest.prices
        try:
            merged = sheet(builtin().find(model), lane, override=over.prices, image_tokens=over.image_tokens)
        except ValueError:  # half of them is no whole number of nano-dollars: nothing was bought so
            return
        line, _ = manifest.places["prices"]
        yield Priced(
            model, lane, merged, f"prices: at {manifest.file}:{line}, over {catalogued(model, lane).source}"
        )


def _manifest(file: object) -> Manifest | None:
    """The manifest that a job was last run from, if it is still there and can be read."""
    try:
        return parse(Path(str(file)).read_bytes(), str(file), builtin()) if file else None
    except (OSError, ManifestError):
        return None


# --- as they are recorded ---


def _as_object(one: Priced) -> Json:
    prices = one.sheet.prices
    return {
        "model": one.model,
        "lane": one.lane,
        "source": one.source,
        "nanos_per_token": {"input": prices.input, "text": prices.text, "image": prices.image},
        "image_tokens": dict(one.sheet.image_tokens),
        "any_size_tokens": one.sheet.any_size_tokens,
        "service_tiers": {name: str(factor) for name, factor in one.sheet.service_tiers.items()},
        "reference_tokens": one.sheet.reference_tokens,
    }


def _parsed(raw: Json) -> Priced:
    price = PriceSheet(
        prices=Prices(**raw["nanos_per_token"]),
        image_tokens=raw["image_tokens"],
        any_size_tokens=raw["any_size_tokens"],
        service_tiers={name: Fraction(factor) for name, factor in raw["service_tiers"].items()},
        reference_tokens=raw["reference_tokens"],
    )
    return Priced(raw["model"], raw["lane"], price, raw["source"])
