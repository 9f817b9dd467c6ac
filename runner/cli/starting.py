"""Commands of the first hour: `init`, `doctor`, `completion`."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from runner.app.settings import Options
from runner.cli.base import AsJson, BaseUrl, Database, Output, Sandbox, cli, emit, examples


class Shell(StrEnum):
    """Shells that can complete words."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@cli.command(
    epilog=examples(
        "init",
        "init --from prompts.csv",
        "init jobs/shoes.yaml --references photos/ --model gemini-3-pro-image",
    )
)
def init(
    to: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The manifest to write; else jobs/NAME.yaml.")
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="Prompts: .csv, .tsv, .jsonl or .txt; columns become {variables}."
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of pictures: each goes along with every prompt in turn."),
    ] = None,
    job: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the job; else that of the file.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model id; else the newest of the catalog.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a first manifest: from nothing, from a file of prompts, from a folder of pictures. Buys nothing."""
    from runner.app.starter import Start
    from runner.app.starter import init as write
    from runner.cli.started import started_lines

    started = write(Start(to, from_, references, job, model, force), os.environ)
    emit(started.as_object(), as_json=as_json, text=lambda: started_lines(started))


@cli.command(
    epilog=examples("doctor", "doctor jobs/banana-poster.yaml", "doctor --base-url https://router.example/gemini")
)
def doctor(
    manifest: Annotated[Path | None, typer.Argument(help="A manifest whose model and sizes are checked.")] = None,
    database: Database = None,
    output: Output = None,
    base_url: BaseUrl = None,
    sandbox: Sandbox = False,
    as_json: AsJson = False,
) -> None:
    """Check key, endpoint, model, clock, output and database; say what to do about each. Buys nothing.

    Exit code 0: all is well, notes included. Else that of a run:
    2: manifest, key, output or database cannot be used;
    5: a disk has no room, or this machine's clock is wrong;
    4: the service does not answer, or not for this key or model.
    """
    from runner.app.doctor import examine
    from runner.cli.started import diagnosis_table

    options = Options(database=database, output=output, base_url=base_url, sandbox=sandbox)
    found = examine(manifest, options, os.environ)
    emit(found.as_object(), as_json=as_json, text=lambda: diagnosis_table(found))
    raise typer.Exit(found.exit_code)


@cli.command(epilog=examples("completion bash", "completion zsh", "completion fish"))
def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print what makes a shell complete commands, options and job names at Tab.

    bash, in ~/.bashrc: eval "$(bulkrender completion bash)"
    zsh, in ~/.zshrc below compinit: eval "$(bulkrender completion zsh)"
    fish, in ~/.config/fish/config.fish: bulkrender completion fish | source
    """
    from runner.cli.completion import script

    print(script(shell.value))
