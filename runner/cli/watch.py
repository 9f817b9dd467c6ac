"""`status --watch`: one line a job, looked at again every second, in eighty columns."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.app.figures import duration
from runner.app.reports import StatusReport
from runner.app.running import RECENT_S
from runner.cli.faces import ended
from runner.cli.tables import status_table
from runner.core.budget import NANOS
from runner.core.lifecycle import State
from runner.core.limits import Binding
from runner.ledger import JobStatus

EVERY_S = 1.0
BAR = 10
LINES_BESIDE = 4
"""Of the screen: header, sum, and what a terminal keeps for itself."""
HOLDING: Mapping[Binding, str] = {
    "requests": "its rate",
    "tokens": "tokens a min",
    "images": "images a min",
    "day": "day's limit",
    "spend_window": "spend limit",
    "month": "month's limit",
    "concurrency": "concurrency",
    "bytes": "memory",
    "budget": "the budget",
    "outage": "an outage",
    "refused": "a refusal",
    "room": "a full disk",
    "retries": "retries",
    "references": "uploads",
}
"""What holds a job back, in a column."""
STOPPED = {"budget": "no budget", "provider": "by provider", "local": "by machine", "interrupted": "interrupted"}
"""Why a job stopped, in a column."""


def watch_status(read: Callable[[], StatusReport]) -> None:
    """Look every second until all jobs have ended, stopped, or Ctrl-C. Off a terminal only the end is printed."""
    console = Console(highlight=False)
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            report = read()
            if console.is_terminal:
                live.update(watched(report, console.size.height), refresh=True)
            if all(job.halted or ended(job) == job.total for job in report.jobs):
                return
            time.sleep(EVERY_S)


def watched(report: StatusReport, height: int) -> RenderableType:
    """One job in full; of many a line each, those under way first, and as many as the screen has lines."""
    if len(report.jobs) <= 1:
        return status_table(report)
    jobs = sorted(report.jobs, key=lambda job: _rank(job, report))
    shown = jobs[: max(1, height - LINES_BESIDE)]
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("job", ratio=1, no_wrap=True, overflow="ellipsis", min_width=8)
    table.add_column("", width=BAR)
    for name in ("done", "bad", "spent", "/min", "ETA"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("now", ratio=1, no_wrap=True, overflow="ellipsis", min_width=12)
    for job in shown:
        table.add_row(*_cells(job, report))
    return Group(table, Text(_sum(jobs, len(jobs) - len(shown)), overflow="ellipsis", no_wrap=True))


def _rank(job: JobStatus, report: StatusReport) -> tuple[int, str]:
    """Under way, stopped, done."""
    if job.job in report.runners:
        return (0 if job.tasks[State.RUNNING] + job.tasks[State.SUBMITTED] else 1), job.job
    return (3 if ended(job) == job.total else 2), job.job


def _cells(job: JobStatus, report: StatusReport) -> list[RenderableType]:
    bad = job.tasks[State.REFUSED] + job.tasks[State.FAILED]
    rate = round(job.recent_successes * 60 / RECENT_S)
    return [
        escape(job.job),
        ProgressBar(total=max(1, job.total), completed=ended(job), width=BAR),
        f"{ended(job)}/{job.total}",
        Text(str(bad) if bad else "", style="red"),
        _spent(job),
        str(rate) if rate else "",
        _eta(job),
        _now(job, report),
    ]


def _spent(job: JobStatus) -> str:
    """Dollars to the cent, of the cap where there is one: a column is no receipt."""
    if job.unpriced:
        return "?"
    spent = f"${job.spend.settled / NANOS:.2f}"
    return spent if job.cap.nanos is None else f"{spent}/{job.cap.nanos / NANOS:.0f}"


def _eta(job: JobStatus) -> str:
    if job.pulse is None or job.pulse.finish_at is None or ended(job) == job.total:
        return ""
    return duration(max(0.0, job.pulse.finish_at - time.time()))


def _now(job: JobStatus, report: StatusReport) -> Text:
    """What it does, or what keeps it from that."""
    if job.job not in report.runners:
        if job.halted:
            return Text(STOPPED.get(job.halted, job.halted), style="red")
        return Text("done", style="green")
    if job.pulse is not None and job.pulse.binds is not None:
        return Text(HOLDING[job.pulse.binds], style="yellow")
    out = job.tasks[State.RUNNING] + job.tasks[State.SUBMITTED]
    return Text(f"{out} in flight" if out else "in line")


def _sum(jobs: Sequence[JobStatus], hidden: int) -> str:
    """All of them together."""
    done, total = sum(map(ended, jobs)), sum(job.total for job in jobs)
    spent = sum(job.spend.settled for job in jobs)
    money = "" if any(job.unpriced for job in jobs) else f", ${spent / NANOS:.2f} spent"
    more = f"; {hidden} more jobs below" if hidden else ""
    return f"{len(jobs)} jobs: {done} of {total} done{money}{more}"
