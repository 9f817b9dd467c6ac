"""What reading commands say: plan, status, export, models. None of them writes."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.adapters.storage import FolderStore
from runner.app.campaign import Plan, load, plan, refuse_shared_paths
from runner.app.running import RECENT_S
from runner.app.settings import Options, Settings, resolve
from runner.app.views import Json, cap_object, exit_code, export_row, gravest, job_object, jobs_object
from runner.core.budget import dollars
from runner.core.catalog import Model, Prices, builtin
from runner.core.errors import UsageError
from runner.ledger import JobStatus, Ledger, Reader

LANES = ("standard", "batch")


def plan_manifest(path: Path, options: Options, environment: Mapping[str, str]) -> Plan:
    """Plan one manifest against the ledger and the folder as they are; creates neither."""
    settings = resolve(options, environment)
    campaign = load(path, settings)
    reader = Ledger.read(settings.database, settings.kind) if Ledger.exists(settings.database) else None
    if reader is not None:
        refuse_shared_paths(campaign, reader, str(settings.output.resolve()))
    return plan(campaign, reader, FolderStore(settings.output))


def plan_object(planned: Plan) -> Json:
    """`plan --json` (design §2)."""
    return {
        "job": planned.campaign.job,
        "tasks": {
            "total": planned.total,
            "new": planned.new,
            "retry": planned.retry,
            "done": planned.done,
            "orphaned": planned.orphaned,
        },
        "projected": {
            "usd": _usd(planned.likely_nanos),
            "max_usd": _usd(planned.worst_nanos),
            "image_tokens": planned.image_tokens,
        },
        "cap": cap_object(planned.campaign.cap),
        "fits": planned.fits,
    }


@dataclass(frozen=True, slots=True)
class StatusReport:
    """One job, or all of a ledger."""

    jobs: tuple[JobStatus, ...]

    @property
    def exit_code(self) -> int:
        """The gravest of its jobs."""
        return gravest([exit_code(job) for job in self.jobs])

    def as_object(self) -> Json:
        """`status --json` (design §2)."""
        return jobs_object([job_object(job) for job in self.jobs])


def read_status(job: str | None, options: Options, environment: Mapping[str, str]) -> StatusReport:
    """The job, or every job of the ledger."""
    reader = _reader(resolve(options, environment))
    names = [_known(reader, job)] if job is not None else reader.job_names()
    since = time.time() - RECENT_S
    return StatusReport(tuple(reader.status(name, since_utc=since) for name in names))


def export_rows(job: str, options: Options, environment: Mapping[str, str], *, orphaned: bool) -> Iterator[Json]:
    """One row per task, streamed."""
    reader = _reader(resolve(options, environment))
    return (export_row(task) for task in reader.tasks(_known(reader, job), orphaned=orphaned))


def models_object() -> Json:
    """The catalog as one object: prices in dollars a million tokens."""
    catalog = builtin()
    return {"as_of": catalog.as_of, "models": [_model_object(model) for model in catalog.models.values()]}


def _model_object(model: Model) -> Json:
    return {
        "id": model.id,
        "name": model.name,
        "status": model.status,
        "released": model.released,
        "deprecated": model.deprecated,
        "shutdown": model.shutdown,
        "successor": model.successor,
        "sizes": {
            size: {
                "image_tokens": model.image_tokens[size],
                "usd": {lane: _picture_usd(model, lane, size) for lane in LANES},
                "pixels": {aspect: "{}x{}".format(*model.pixels[size, aspect]) for aspect in model.aspects},
            }
            for size in model.sizes
        },
        "aspects": list(model.aspects),
        "thinking": list(model.thinking),
        "thinking_default": model.thinking_default,
        "prices": {lane: _prices_object(model.prices_for(lane)) for lane in LANES},
        "cap_provable": model.prices.complete,
        "missing_prices": list(model.prices.missing),
        "source": model.source,
        "note": model.note,
    }


def _prices_object(prices: Prices) -> Json:
    per_million = {"input": prices.input, "text": prices.text, "image": prices.image}
    return {name: None if price is None else dollars(price * 1_000_000) for name, price in per_million.items()}


def _picture_usd(model: Model, lane: str, size: str) -> str | None:
    price = model.prices_for(lane).image
    return None if price is None else dollars(model.image_tokens[size] * price)


def _reader(settings: Settings) -> Reader:
    return Ledger.read(settings.database, settings.kind if settings.sandbox else None)


def _known(reader: Reader, job: str) -> str:
    names = reader.job_names()
    if job not in names:
        raise UsageError(f"no job {job!r} in this ledger; it has: {', '.join(names) or 'none'}")
    return job


def _usd(nanos: int | None) -> str | None:
    return None if nanos is None else dollars(nanos)
