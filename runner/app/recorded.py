"""What a run writes down of its terms, so that what it left can be settled without its manifest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.app.campaign import Campaign
from runner.app.pricebook import price_book, recorded_sheets
from runner.app.views import Json
from runner.core.catalog import builtin
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


def config_of(campaign: Campaign, before: Mapping[str, Any], *, now_utc: float) -> Json:
    """The terms of a campaign as the ledger keeps them; `before` is what it kept of the job until now."""
    manifest = campaign.manifest
    return {
        "manifest": manifest.file,
        "limits": asdict(campaign.limits),
        "retry": asdict(manifest.retry),
        "batch": asdict(manifest.batch),
        "verify": manifest.verify,
        **recorded_sheets(manifest, campaign.models, before, now_utc=now_utc),
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
        _sheets={(one.model, one.lane): one.sheet for one in price_book(config).recorded},
    )
