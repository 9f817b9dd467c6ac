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


@cli.command(
    epilog=examples(
        "gallery summer-posters",
        "gallery summer-posters --watch",
        "gallery summer-posters --contact-sheet sheet.pdf",
    )
)
def gallery(
    job: Annotated[str, typer.Argument(help="The job; it may be half done.", autocompletion=job_names)],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder; else gallery/JOB below that of the pictures.")
    ] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="All pictures as one image as well: .png or .pdf.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Orphaned tasks as well.")] = False,
    again: Annotated[
        bool, typer.Option("--watch", help="Write it again as the job goes on, until that is done, or Ctrl-C.")
    ] = False,
    database: Database = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", metavar="DIR", help="Folder of the pictures, if it is not where the ledger has it."
        ),
    ] = None,
    sandbox: Sandbox = False,
    as_json: AsJson = False,
) -> None:
    """Write a page of all pictures that opens from disk: filters, tables of any two axes, prompts and costs."""
    from runner.app.gallery import Maker, Wanted, made_object, watch

    options = Options(database=database, output=output, sandbox=sandbox)
    with _progress() as told:
        maker = Maker(Wanted(job, to, everything, contact_sheet), options, os.environ, told)
        made = watch(maker, _say_where) if again else maker.make()
    if made.undrawn:
        _say(_undrawn(made.undrawn))
    emit(made_object(made), as_json=as_json, text=lambda: _lines(made))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """How far the thumbnails are, on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("thumbnails", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say(words: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, markup=False).print(words, soft_wrap=True)


def _say_where(made: "Made") -> None:
    _say(f"gallery: {made.index.as_uri()}; the open page follows the job, Ctrl-C ends this")


def _undrawn(characters: frozenset[str]) -> str:
    """What is left out of the contact sheet, and what to do."""
    from runner.app.gallery.lettering import remedies

    first = "".join(sorted(characters)[:MOST_NAMED])
    more = f" and {len(characters) - MOST_NAMED} more" if len(characters) > MOST_NAMED else ""
    return (
        f"contact sheet: no font of this machine has {first}{more}, left out of the captions; install one, "
        f"such as {', '.join(remedies(characters))}, and write it again"
    )


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
