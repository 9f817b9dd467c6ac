"""`gallery`: a job as a folder that opens from disk."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.app.settings import Options
from runner.cli.base import AsJson, Database, Sandbox, cli, emit, examples
from runner.cli.completion import job_names

if TYPE_CHECKING:  # Pillow and the ledger are loaded by those who need them
    from runner.app.gallery import Made

MOST_NAMED = 10
"""Files that a message lists."""


@cli.command(epilog=examples("gallery summer-posters", "gallery summer-posters --contact-sheet sheet.pdf"))
def gallery(
    job: Annotated[str, typer.Argument(help="The job; it may be half done.", autocompletion=job_names)],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder; else gallery/JOB below that of the pictures.")
    ] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="All pictures as one image as well: .png or .pdf.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Orphaned tasks as well.")] = False,
    database: Database = None,
    output: Annotated[
        str | None, typer.Option("--output", help="Folder of the pictures, if it is not where the ledger has it.")
    ] = None,
    sandbox: Sandbox = False,
    as_json: AsJson = False,
) -> None:
    """Write a page of all pictures that opens from disk: filters, tables of any two axes, prompts and costs."""
    from runner.app.gallery import Wanted, made_object, make

    options = Options(database=database, output=output, sandbox=sandbox)
    with _progress() as told:
        made = make(Wanted(job, to, everything, contact_sheet), options, os.environ, told)
    emit(made_object(made), as_json=as_json, text=lambda: _lines(made))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """How far the thumbnails are, on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("thumbnails", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(made: "Made") -> str:
    """What was written, and what is not as the ledger has it."""
    from rich.markup import escape

    small = made.thumbnails
    counts = f"{made.pictures} pictures of {made.tasks} tasks; thumbnails: {small.made} made, {small.kept} kept"
    lines = [
        f"job {made.job}: {counts}",
        *(f"  not there: {path}" for path in made.missing[:MOST_NAMED]),
        *(f"  no whole picture: {path}" for path in small.broken[:MOST_NAMED]),
    ]
    if (more := max(0, len(made.missing) - MOST_NAMED) + max(0, len(small.broken) - MOST_NAMED)) > 0:
        lines.append(f"  and {more} more")
    if made.contact_sheet is not None:
        lines.append(f"contact sheet: {made.contact_sheet}")
    return escape("\n".join([*lines, f"gallery: {made.index.as_uri()}"]))
