"""Tables for people."""

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from runner.app.comparison import Cells
from runner.app.figures import duration
from runner.app.planned import Plan
from runner.app.promote import Promoted
from runner.app.prune import Pruned
from runner.app.reports import LANES, StatusReport
from runner.app.words import deadline_line, finish_line, lane_lines, price_line
from runner.cli.faces import account_line, ended, holding, megabytes, rate_and_eta, spend_against_cap
from runner.core.budget import about, dollars
from runner.core.catalog import Model, builtin
from runner.core.lifecycle import State
from runner.ledger import BatchRecord, Drafts, JobStatus

MOST_BATCHES = 10
"""Of a job, in its status."""


def plan_table(plan: Plan) -> RenderableType:
    """The plan in a few lines."""
    counts = f"{plan.total} tasks: {plan.new} new, {plan.retry} to try again, {plan.done} done"
    counts += f" ({plan.submitted} of them in batches)" if plan.submitted else ""
    lines = [f"job {plan.campaign.job}", f"  {counts}; {plan.orphaned} orphaned", f"  {price_line(plan)}"]
    lines += [f"  {line}" for line in (*lane_lines(plan), finish_line(plan), deadline_line(plan)) if line]
    if (carried := plan.carried).tasks:
        anew = "an unknown price" if carried.likely_nanos is None else f"${about(carried.likely_nanos)}"
        lines.append(f"  {carried.tasks} pictures of kept models count as done; buying them anew would be {anew}")
    lines += [f"  note: {note}" for note in plan.notes]
    lines.append("  fits the cap" if plan.fits else f"  does not fit {plan.over}")
    return Group(*(escape(line) for line in lines), *([_difference_table(plan)] if plan.recorded else []))


LONGEST_AXIS = 20
"""Values of one axis that a table shows."""


def _difference_table(plan: Plan) -> RenderableType:
    """What the manifest as it is now changes, by axis; axes that it leaves alone are not in it."""
    whole = plan.difference.whole
    if not (whole.new or whole.changed or whole.orphaned):
        return "  nothing has changed since it was recorded"
    table = Table("against what is recorded", *("kept", "new", "changed", "orphaned", "likely"), box=None)
    table.add_row("all", *_cells(whole))
    for name, values in plan.difference.axes.items():
        moved = {value: cells for value, cells in values.items() if cells.new or cells.changed or cells.orphaned}
        if len(values) == 1 and len(plan.difference.axes) > 1:
            continue
        for value, cells in list(moved.items())[:LONGEST_AXIS]:
            table.add_row(escape(f"{name} {value}"), *_cells(cells))
        if len(moved) > LONGEST_AXIS:
            table.add_row(escape(f"{name}: {len(moved) - LONGEST_AXIS} more values"))
    return table


def _cells(cells: Cells) -> list[str]:
    likely = "unknown" if cells.likely_nanos is None else f"${about(cells.likely_nanos)}"
    counts = [str(getattr(cells, name) or "") for name in ("kept", "new", "changed", "orphaned")]
    return [*counts, likely if cells.new or cells.changed else ""]


def promoted_table(made: Promoted) -> RenderableType:
    """What was written, what it would cost, and how it is run."""
    plan = made.plan
    what = f"{plan.total} tasks from job {plan.campaign.manifest.drafts} in {made.manifest} and {made.prompts}"
    lines = [f"job {plan.campaign.job}: {what}", f"  {price_line(plan)}"]
    lines += [f"  note: {note}" for note in (*made.notes, *plan.notes)]
    lines.append("  fits the cap" if plan.fits else f"  does not fit {plan.over}")
    return Group(*(escape(line) for line in [*lines, "nothing was bought yet; run it with:", made.command]))


def pruned_table(pruned: Pruned) -> RenderableType:
    """What has moved."""
    if not pruned.pictures:
        return escape(f"job {pruned.job}: no pictures of orphaned tasks to move")
    size = megabytes(pruned.bytes)
    lines = [f"job {pruned.job}: {pruned.moved} pictures ({size}) moved to superseded/ beside where they were"]
    lines += [f"  not there, so left as it is: {path}" for path in pruned.gone]
    return Group(*(escape(line) for line in lines))


def status_table(report: StatusReport) -> RenderableType:
    """A few lines a job."""
    if not report.jobs:
        return "no jobs in this ledger yet"
    return Group(
        *(escape(line) for job in report.jobs for line in _status_lines(job, report.runners.get(job.job)))
    )


def _status_lines(job: JobStatus, runner: str | None) -> list[str]:
    counts = [f"{job.tasks[state]} {state.value}" for state in State if job.tasks[state]]
    if job.orphaned:
        counts.append(f"{job.orphaned} orphaned")
    lines = [
        f"{job.job}: {ended(job)} of {job.total} done ({', '.join(counts) or 'no tasks'})",
        f"  {', '.join([spend_against_cap(job), *rate_and_eta(job)])}",
    ]
    if job.account is not None:
        lines.append(f"  {account_line(job.account)}")
    if job.drafts is not None:
        lines.append(f"  {_drafts_line(job, job.drafts)}")
    if job.finals:
        lines.append(f"  its finals: {', '.join(job.finals)}")
    lines += [f"  {line}" for line in _batch_lines(job.batches)]
    if job.pulse is not None and (words := holding(job.pulse)):
        lines.append(f"  {words}")
    if runner:
        lines.append(f"  being run by {runner}")
    if job.halted:
        lines.append(f"  stopped ({job.halted}): {job.reason}")
    return lines


def _batch_lines(batches: Sequence[BatchRecord]) -> list[str]:
    """The remote batches that are not over, the oldest first; of many the rest is counted."""
    lines = []
    for batch in batches[:MOST_BATCHES]:
        age = duration(time.time() - (batch.posted_at or batch.made_at))
        done = batch.stats.succeeded + batch.stats.failed
        state = batch.remote_state.lower() or batch.state.value
        lines.append(f"batch {batch.name or batch.token[:8]}: {state} for {age}, {done} of {batch.lines} done")
    if len(batches) > MOST_BATCHES:
        lines.append(f"and {len(batches) - MOST_BATCHES} more batches")
    return lines


def _drafts_line(job: JobStatus, drafts: Drafts) -> str:
    """What the drafts of a job cost, and both together."""
    if job.unpriced or drafts.unpriced:
        return f"finals of {drafts.job}; spend of both together unknown (no prices)"
    spent, both = drafts.spend.settled, drafts.spend.settled + job.spend.settled
    return f"finals of {drafts.job}: ${dollars(spent)} spent there, ${dollars(both)} together"


def models_table() -> RenderableType:
    """The catalog, a block a model."""
    catalog = builtin()
    head = f"catalog of {catalog.as_of}; dollars a million tokens. A cap is proven at these prices and no others."
    return Group(head, *(_model_block(model) for model in catalog.models.values()))


def _model_block(model: Model) -> RenderableType:
    end = f", shutdown {model.shutdown}" if model.shutdown else ""
    after = f", successor {model.successor}" if model.successor else ""
    lines = [
        "",
        f"[bold]{model.id}[/bold]  {model.name}: {model.status}{end}{after}",
        f"  aspects  {' '.join(model.aspects)}",
    ]
    if model.thinking:
        lines.append(f"  thinking {', '.join(model.thinking)} (default {model.thinking_default})")
    lines += [_prices_line(model, lane) for lane in LANES]
    if not model.prices.complete:
        lines.append(
            f"  a cap needs {', '.join(f'prices.{name}' for name in model.prices.missing)} in the manifest"
        )
    lines.append(escape(f"  source   {model.source}"))
    if model.note:
        lines.append(f"  note     {model.note}")
    return Group(*lines, _sizes(model))


def _prices_line(model: Model, lane: str) -> str:
    prices = model.prices_for(lane)
    named = (("input", prices.input), ("text", prices.text), ("image", prices.image))
    shown = (f"{name} {'unknown' if price is None else dollars(price * 1_000_000)}" for name, price in named)
    return f"  {lane:8} {', '.join(shown)}"


def _sizes(model: Model) -> Table:
    table = Table("  size", "tokens", "standard", "batch", "1:1 pixels", box=None, pad_edge=False)
    for size in model.sizes:
        costs = (model.prices_for(lane).image for lane in LANES)
        shown = ("unknown" if c is None else f"${dollars(c * model.image_tokens[size])}" for c in costs)
        width, height = model.pixels[size, "1:1"]
        table.add_row(f"  {size}", str(model.image_tokens[size]), *shown, f"{width}x{height}")
    return table
