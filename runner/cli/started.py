"""What the commands of the first hour print."""

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from runner.app.doctor import Diagnosis
from runner.app.starter import Started
from runner.core.budget import about, dollars

STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def started_lines(started: Started) -> RenderableType:
    """What was written, what it would cost, and what to type next."""
    cost = started.cost
    price = "at a price nobody knows, so without a cap"
    if cost.likely_nanos is not None and cost.worst_nanos is not None and cost.cap_nanos is not None:
        price = f"likely ${about(cost.likely_nanos)}, up to ${about(cost.worst_nanos)}"
        price += f"; cap ${dollars(cost.cap_nanos)}"
    lines = [f"{started.manifest}: job {started.job}, {cost.tasks} pictures, {price}"]
    lines += [f"note: {note}" for note in started.notes]
    lines += ["nothing was bought; render it in the sandbox, without key and money:", f"  {started.command}"]
    return Group(*map(escape, lines))


def diagnosis_table(found: Diagnosis) -> RenderableType:
    """A line a check, and what to do below those that need it."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in found.findings:
        table.add_row(f"[{STYLES[one.state]}]{one.state}[/]", one.check, escape(one.says))
        if one.remedy:
            table.add_row("", "", f"[bold]->[/] {escape(one.remedy)}")
    wrong = sum(one.exit_code > 0 for one in found.findings)
    last = f"all is well; next: {escape(found.command)}"
    if wrong:
        checks = "1 check is" if wrong == 1 else f"{wrong} checks are"
        last = f"{checks} wrong; a run would end with exit code {found.exit_code}"
    return Group(table, last)
