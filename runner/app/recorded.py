"""What a run writes down of its terms, so that what it left can be settled without its manifest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from runner.app.campaign import Campaign
from runner.app.views import Json
from runner.core.catalog import Prices, builtin
from runner.core.grammar import BatchSettings, Lane
from runner.core.pricing import PriceSheet, sheet
from runner.core.retry import RetryPolicy
from runner.ledger import Reader


@dataclass(frozen=True, slots=True)
class Recorded:
    """A job as its last run was held to."""

    job: str
    output: Path
    retry: RetryPolicy
    batch: BatchSettings
    verify: Any
    _sheets: Mapping[tuple[str, str], PriceSheet]

    def sheet(self, model: str, lane: Lane = "standard") -> PriceSheet:
        """Prices of a model on a lane: those of the last run, else the catalog's."""
        return self._sheets.get((model, lane)) or sheet(builtin().find(model), lane)


def config_of(campaign: Campaign) -> Json:
    """The terms of a campaign as the ledger keeps them."""
    manifest = campaign.manifest
    return {
        "manifest": manifest.file,
        "limits": asdict(campaign.limits),
        "retry": asdict(manifest.retry),
        "batch": asdict(manifest.batch),
        "verify": manifest.verify,
        "sheets": [
            {"model": model, "lane": lane, **_sheet_object(price)}
            for (model, lane), price in campaign.sheets.items()
        ],
    }


def recorded(reader: Reader, job: str) -> Recorded:
    """The terms of a job's last run; of one by an older release, the defaults."""
    status = reader.status(job, since_utc=0)
    config: Mapping[str, Any] = status.config
    return Recorded(
        job=job,
        output=Path(status.output_root),
        retry=RetryPolicy(**config.get("retry", {})),
        batch=BatchSettings(**config.get("batch", {})),
        verify=config.get("verify", "structure"),
        _sheets={(one["model"], one["lane"]): _sheet(one) for one in config.get("sheets", ())},
    )


def _sheet_object(price: PriceSheet) -> Json:
    """Nano-dollars a token; factors as fractions in words."""
    return {
        "prices": asdict(price.prices),
        "image_tokens": dict(price.image_tokens),
        "any_size_tokens": price.any_size_tokens,
        "service_tiers": {name: str(factor) for name, factor in price.service_tiers.items()},
        "reference_tokens": price.reference_tokens,
    }


def _sheet(record: Json) -> PriceSheet:
    return PriceSheet(
        prices=Prices(**record["prices"]),
        image_tokens=record["image_tokens"],
        any_size_tokens=record["any_size_tokens"],
        service_tiers={name: Fraction(factor) for name, factor in record["service_tiers"].items()},
        reference_tokens=record["reference_tokens"],
    )
