"""What reading commands say: plan, status, export, models. None of them writes."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runner.app.campaign import load
from runner.app.comparison import Cells
from runner.app.planned import Plan
from runner.app.running import RECENT_S
from runner.app.settings import Options, Settings, resolve
from runner.app.start import preview
from runner.app.views import (
    Json,
    account_object,
    cap_object,
    exit_code,
    export_row,
    gravest,
    job_object,
    jobs_object,
)
from runner.core.budget import dollars
from runner.core.catalog import Model, Prices, builtin
from runner.core.errors import UsageError
from runner.core.lifecycle import TERMINAL, State
from runner.ledger import JobStatus, Ledger, Reader

LANES = ("standard", "batch")


def plan_manifest(path: Path, options: Options, environment: Mapping[str, str]) -> Plan:
    """Plan one manifest against the ledger and the folder as they are; creates neither."""
    settings = resolve(options, environment)
    return preview(load(path, settings), settings)


def plan_object(planned: Plan) -> Json:
    """`plan --json` (design §2)."""
    tasks = {"standard": planned.to_buy - planned.batched, "batch": planned.batched}
    return {
        "job": planned.campaign.job,
        "tasks": {
            "total": planned.total,
            "new": planned.new,
            "retry": planned.retry,
            "done": planned.done,
            "submitted": planned.submitted,
            "orphaned": planned.orphaned,
        },
        "projected": {
            "usd": _usd(planned.likely_nanos),
            "max_usd": _usd(planned.worst_nanos),
            "image_tokens": planned.image_tokens,
        },
        "lane": planned.campaign.lane,
        "lanes": {
            lane: {"usd": _usd(cost.likely_nanos), "max_usd": _usd(cost.worst_nanos), "tasks": tasks[lane]}
            for lane, cost in planned.lanes.items()
        },
        "cap": cap_object(planned.campaign.cap),
        "fits": planned.fits,
        "account": None if planned.account is None else account_object(planned.account),
        "finish": _finish_object(planned),
        "feasible": planned.feasible,
        "deadline": _deadline_object(planned),
        "difference": _difference_object(planned),
        "kept_models": {"tasks": planned.carried.tasks, "usd_anew": _usd(planned.carried.likely_nanos)},
        "notes": list(planned.notes),
    }


def _difference_object(planned: Plan) -> Json:
    """What an edit of the manifest changes, all in all and by axis; `usd` is likely, of new and changed."""
    difference = planned.difference
    axes = {
        name: {value: _cells_object(cells) for value, cells in values.items()}
        for name, values in difference.axes.items()
    }
    return {**_cells_object(difference.whole), "axes": axes}


def _cells_object(cells: Cells) -> Json:
    counts = {name: getattr(cells, name) for name in ("kept", "new", "changed", "orphaned")}
    return {**counts, "usd": _usd(cells.likely_nanos)}


def _deadline_object(planned: Plan) -> Json | None:
    """When all is to be done, and from when the standard lane has to buy it at the latest; times are UTC."""
    deadline = planned.deadline
    if deadline is None:
        return None
    begin = deadline.standard_from_utc
    return {
        "by": _utc(deadline.by_utc),
        "standard_from": None if begin is None else _utc(begin),
        "feasible": deadline.feasible,
        "max_usd": _usd(planned.worst_nanos),
    }


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _finish_object(planned: Plan) -> Json | None:
    """The earliest finish of the standard lane under all limits; null where it has nothing to buy."""
    finish = planned.finish
    if finish is None:
        return None
    return {
        "earliest_s": None if finish.finish_s is None else round(finish.finish_s),
        "binds": finish.binds,
        "tasks": finish.bought,
        "stopped_by": finish.stopped_by,
    }


@dataclass(frozen=True, slots=True)
class StatusReport:
    """One job, or all of a ledger."""

    jobs: tuple[JobStatus, ...]
    runners: Mapping[str, str]
    """Who runs a job now, in words; jobs that nobody runs are not in it."""
    single: bool
    """Whether one job was asked for."""

    @property
    def exit_code(self) -> int:
        """The gravest of its jobs."""
        return gravest([self._exit_code(job) for job in self.jobs])

    def _exit_code(self, job: JobStatus) -> int:
        return 0 if job.job in self.runners else exit_code(job)

    def as_object(self) -> Json:
        """`status --json` (design §2)."""
        objects = [{**job_object(job), "exit_code": self._exit_code(job)} for job in self.jobs]
        return jobs_object(objects, single=self.single)


def read_status(job: str | None, options: Options, environment: Mapping[str, str]) -> StatusReport:
    """The job, or every job of the ledger."""
    reader = _reader(resolve(options, environment))
    names = [_known(reader, job)] if job is not None else reader.job_names()
    since = time.time() - RECENT_S
    runners = {name: runner for name in names if (runner := reader.runner(name))}
    jobs = tuple(_honest(reader.status(name, since_utc=since), runners) for name in names)
    return StatusReport(jobs, runners, single=job is not None)


def _honest(status: JobStatus, runners: Mapping[str, str]) -> JobStatus:
    """A job that is not finished, was not halted and is run by nobody was cut off."""
    ended = sum(status.tasks[state] for state in TERMINAL)
    if status.job in runners:
        return replace(status, halted=None, reason=None)
    status = replace(status, pulse=None)
    if status.halted is not None or ended == status.total:
        return status
    left, submitted = status.tasks[State.RUNNING], status.tasks[State.SUBMITTED]
    reason = f"nobody runs it; {left} requests were in flight when it died; run it again to resume"
    if not (left or submitted):
        reason = "nobody runs it; run it again to go on"
    elif not left:
        reason = f"nobody runs it; {submitted} tasks are in remote batches; run it again to pick them up"
    return replace(status, halted="interrupted", reason=reason)


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
