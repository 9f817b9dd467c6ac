"""Commands that settle what earlier runs left, and take back what waits at the service."""

import os
from dataclasses import replace
from typing import Annotated

import typer

from runner.app.settings import Options
from runner.cli.base import (
    AsJson,
    BaseUrl,
    Database,
    OneJob,
    Output,
    Sandbox,
    cli,
    emit,
    examples,
    face,
)
from runner.cli.completion import job_names
from runner.core.errors import UsageError
from runner.core.lifecycle import Verdict

Speed = Annotated[
    float | None,
    typer.Option("--sandbox-speed", metavar="FACTOR", min=0.001, help="How fast the sandbox's clock runs."),
]

WHICH = "KEY: of a task, the start of it, a path, or all; repeatable."


@cli.command(
    epilog=examples(
        "reconcile",
        "reconcile summer-posters --json",
        "reconcile summer-posters --write-off k1-3f9ac2 --reason 'on the invoice of May'",
        "reconcile summer-posters --release all --reason 'support says: not billed'",
    )
)
def reconcile(
    job: Annotated[
        str | None, typer.Argument(help="A job; all that nobody runs without one.", autocompletion=job_names)
    ] = None,
    database: Database = None,
    output: Output = None,
    base_url: BaseUrl = None,
    sandbox: Sandbox = False,
    sandbox_speed: Speed = None,
    write_off: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help=f"Book unknown requests as spent. {WHICH}"),
    ] = None,
    release: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Book them as free: they were not billed.")
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(metavar="WHY", help="Why, for --write-off and --release; kept with each of them for ever."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --write-off and --release.")] = False,
    as_json: AsJson = False,
) -> None:
    """Settle what crashed: adopt batches, harvest what is done, list unknowns and strangers, prove the books.

    Buys nothing. With --write-off or --release it only books what you found out, and asks no service.
    """
    from runner.app.reconcile import reconcile as settle
    from runner.cli.repair_tables import reconciled_text

    options = Options(
        database=database, output=output, base_url=base_url, sandbox=sandbox, sandbox_speed=sandbox_speed
    )
    if write_off or release or reason is not None:
        _explain(job, write_off or [], release or [], reason or "", replace(options, yes=yes), as_json=as_json)
        return
    found = settle(job, options, os.environ)
    emit(found.as_object(), as_json=as_json, text=lambda: reconciled_text(found))
    raise typer.Exit(found.exit_code)


def _explain(
    job: str | None, write_off: list[str], release: list[str], reason: str, options: Options, *, as_json: bool
) -> None:
    """Book what a person says of unknown requests."""
    from rich.markup import escape

    from runner.app.resolve import done_in_words, explain, lines, resolved_object

    if bool(write_off) == bool(release):
        raise UsageError("--reason says why of --write-off or of --release: give one of the two")
    if job is None:
        raise UsageError("--write-off and --release are about one job: name it")
    found = explain(
        job,
        write_off or release,
        Verdict.WRITTEN_OFF if write_off else Verdict.RELEASED,
        reason,
        options,
        os.environ,
        lambda found: face().consent(lines(found), "Book it so?", ask=not options.yes),
    )
    emit(resolved_object(found), as_json=as_json, text=lambda: escape(done_in_words(found)))


@cli.command(epilog=examples("cancel summer-posters"))
def cancel(
    job: OneJob,
    database: Database = None,
    output: Output = None,
    base_url: BaseUrl = None,
    sandbox: Sandbox = False,
    sandbox_speed: Speed = None,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Seconds that SIGTERM lets a download land.")
    ] = 25.0,
    as_json: AsJson = False,
) -> None:
    """Take back the remote batches of a job: cancel, wait for that, harvest, queue the rest again."""
    from runner.app.cancel import cancel as take_back
    from runner.app.views import exit_code, job_object
    from runner.cli.repair_tables import cancelled_text

    options = Options(
        database=database,
        output=output,
        base_url=base_url,
        sandbox=sandbox,
        sandbox_speed=sandbox_speed,
        grace_s=grace,
    )
    status, taken = take_back(job, options, os.environ, face())
    code = exit_code(status) if status.halted or status.batches else 0
    told = {**job_object(status), "cancelled": taken, "exit_code": code}
    emit(told, as_json=as_json, text=lambda: cancelled_text(status, taken))
    raise typer.Exit(code)
