"""Commands that settle what earlier runs left, and take back what waits at the service."""

import os
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

Speed = Annotated[
    float | None, typer.Option("--sandbox-speed", min=0.001, help="How fast the sandbox's clock runs.")
]


@cli.command(epilog=examples("reconcile", "reconcile summer-posters --json"))
def reconcile(
    job: Annotated[
        str | None, typer.Argument(help="A job; all that nobody runs without one.", autocompletion=job_names)
    ] = None,
    database: Database = None,
    output: Output = None,
    base_url: BaseUrl = None,
    sandbox: Sandbox = False,
    sandbox_speed: Speed = None,
    as_json: AsJson = False,
) -> None:
    """Settle what crashed: adopt batches, harvest what is done, list strangers, prove the books. Buys nothing."""
    from runner.app.reconcile import reconcile as settle
    from runner.cli.repair_tables import reconciled_text

    options = Options(
        database=database, output=output, base_url=base_url, sandbox=sandbox, sandbox_speed=sandbox_speed
    )
    found = settle(job, options, os.environ)
    emit(found.as_object(), as_json=as_json, text=lambda: reconciled_text(found))
    raise typer.Exit(found.exit_code)


@cli.command(epilog=examples("cancel summer-posters"))
def cancel(
    job: OneJob,
    database: Database = None,
    output: Output = None,
    base_url: BaseUrl = None,
    sandbox: Sandbox = False,
    sandbox_speed: Speed = None,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that SIGTERM lets a download land.")] = 25.0,
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
