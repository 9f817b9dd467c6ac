"""`report`: the receipt for people, for programs and for a spreadsheet."""

import csv
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from runner.app.settings import Options
from runner.cli.base import AsJson, Database, OneJob, Sandbox, cli, emit, examples
from runner.core.errors import UsageError

if TYPE_CHECKING:
    from runner.app.report import Receipt
    from runner.ledger import BookedAttempt, BookedTask


@cli.command(epilog=examples("report summer-posters", "report summer-posters --by size,style --json"))
def report(
    job: OneJob,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS[,AXIS]",
            help="Money and outcome by size, aspect, model, prompt, variant, state, reason, an axis of your own, "
            "lane, tier, served_by, outcome, endpoint; several: every combination.",
        ),
    ] = None,
    database: Database = None,
    sandbox: Sandbox = False,
    as_json: AsJson = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="CSV on stdout: the groups of --by, or without it every send.")
    ] = False,
) -> None:
    """The receipt: tasks = sends = charges, money by any axis, and whether all adds up (exit 1 if it does not)."""
    if as_csv and as_json:
        raise UsageError("--csv and --json: choose one of them")
    from runner.app.report import axes_of

    axes, options = axes_of(by or ()), Options(database=database, sandbox=sandbox)
    if as_csv:
        found = _print_groups(job, axes, options) if axes else _print_sends(job, options)
        for problem in found.audit.problems:
            print(f"does not add up: {problem}", file=sys.stderr)
    else:
        found = _print(job, axes, options, as_json=as_json)
    raise typer.Exit(found.exit_code)


def _print(job: str, axes: Sequence[str], options: Options, *, as_json: bool) -> "Receipt":
    from runner.app.report import receipt
    from runner.app.report_views import report_object
    from runner.cli.receipt import receipt_table

    found = receipt(job, axes, options, os.environ)
    emit(report_object(found), as_json=as_json, text=lambda: receipt_table(found))
    return found


def _print_groups(job: str, axes: Sequence[str], options: Options) -> "Receipt":
    from runner.app.report import receipt
    from runner.app.report_views import LINE_COLUMNS, line_object

    found = receipt(job, axes, options, os.environ)
    writer = csv.DictWriter(sys.stdout, (*axes, *LINE_COLUMNS))
    writer.writeheader()
    for names, line in found.tally.groups.items():
        writer.writerow({**line_object(line), **dict(zip(axes, names, strict=True))})
    return found


def _print_sends(job: str, options: Options) -> "Receipt":
    """Row by row, as they are read."""
    from runner.app.report import receipt
    from runner.app.report_views import SEND_COLUMNS, send_object

    writer = csv.DictWriter(sys.stdout, SEND_COLUMNS)
    writer.writeheader()

    def each(task: "BookedTask", one: "BookedAttempt") -> None:
        writer.writerow({**send_object(task, one), "axes": json.dumps(dict(task.axes), ensure_ascii=False)})

    return receipt(job, (), options, os.environ, each)
