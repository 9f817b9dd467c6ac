"""`retry`: which tasks, what they will cost, a yes, and back they go."""

import os
from typing import Annotated

import typer

from runner.app.settings import Options
from runner.cli.base import AsJson, Database, OneJob, Output, Sandbox, cli, emit, examples, face


@cli.command(
    epilog=examples(
        "retry summer-posters --state refused",
        "retry summer-posters --where size=4K --yes",
        "retry summer-posters --gone",
    )
)
def retry(
    job: OneJob,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="refused or failed; repeatable.")
    ] = None,
    reason: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REASON",
            help="image_safety, invalid, unknown_held, wrong_pixels or another that `report` has; repeatable.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=VALUE",
            help="Those with this size, aspect, model, prompt, variant or axis of your own; repeatable.",
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="One task: its key, the start of it, or its path; repeatable."),
    ] = None,
    gone: Annotated[
        bool,
        typer.Option("--gone", help="Instead: those that succeeded, and whose picture is no longer on disk."),
    ] = False,
    database: Database = None,
    output: Output = None,
    sandbox: Sandbox = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put refused and failed tasks back with fresh tries, all or those that fit; `run` then buys them."""
    from runner.app.retry import Selection, lines, retried_object
    from runner.app.retry import retry as put_back

    selection = Selection(tuple(state or ()), tuple(reason or ()), tuple(where or ()), tuple(key or ()), gone)
    found = put_back(
        job,
        selection,
        Options(database=database, sandbox=sandbox, output=output, yes=yes),
        os.environ,
        lambda found: face().consent(lines(found), "Put them back?", ask=not yes),
    )
    emit(retried_object(found), as_json=as_json, text=lambda: _words(found.job, found.tasks, found.command, gone))


def _words(job: str, tasks: int, command: str, gone: bool) -> str:
    from rich.markup import escape

    if not tasks:
        return escape(f"job {job}: {'no picture is lost' if gone else 'nothing was refused and nothing failed'}")
    return escape(f"{tasks} tasks put back; buy them with: {command or 'bulkrender run MANIFEST'}")
