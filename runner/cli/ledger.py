"""`ledger …`: care of the database itself."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.base import AsJson, Database, Sandbox, cli, emit, examples

if TYPE_CHECKING:
    from runner.ledger import Copied

ledger = typer.Typer(no_args_is_help=True, help="Care of the ledger itself.")
cli.add_typer(ledger, name="ledger", epilog=examples("ledger backup"))


@ledger.command(epilog=examples("ledger backup", "ledger backup before-the-big-one.db"))
def backup(
    to: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The copy, a new file; else beside the ledger, named by date."),
    ] = None,
    database: Database = None,
    sandbox: Sandbox = False,
    as_json: AsJson = False,
) -> None:
    """Copy a ledger, also while it is in use, and read the copy through. Overwrites nothing."""
    from runner.app.backup import back_up, backup_object
    from runner.app.settings import Options

    copied = back_up(to, Options(database=database, sandbox=sandbox), os.environ)
    emit(backup_object(copied), as_json=as_json, text=lambda: _words(copied))


def _words(copied: "Copied") -> str:
    from rich.markup import escape

    from runner.cli.faces import megabytes

    what = f"{copied.jobs} jobs, {copied.attempts} attempts, {megabytes(copied.bytes)}"
    return escape(f"{copied.path}: a copy of the {copied.kind} ledger ({what}), read through and whole")
