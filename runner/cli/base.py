"""What all commands share: the application, the options that mean the same everywhere, printing."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from runner.cli.completion import job_names


def examples(*lines: str) -> str:
    """The end of a command's help: what a person would type. A test parses each of them."""
    shown = "\n\n".join(f"  bulkrender {line}" for line in lines)
    return f"Example{'s' if len(lines) > 1 else ''}:\n\n{shown}"


ORDER = (
    *("init", "doctor", "plan", "run", "status", "report", "gallery", "export", "retry", "promote", "prune"),
    *("cancel", "reconcile", "ledger", "models", "schema", "sandbox", "completion"),
)
"""Commands as a person comes to need them."""


class InOrder(TyperGroup):
    """The commands in the order of the first hour and the morning after."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


cli = typer.Typer(
    name="bulkrender",
    cls=InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Render a YAML manifest with the Gemini image API: every image bought once, never past the cap.",
    epilog=examples("init", "run jobs/first.yaml --sandbox", "doctor", "run jobs/first.yaml", "status --watch"),
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"bulkrender {version('bulkrender')}")
        raise typer.Exit


@cli.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Nothing but what every command has."""


Manifests = Annotated[list[Path], typer.Argument(help="Manifests, run one after another.")]
OneManifest = Annotated[Path, typer.Argument(help="The manifest.")]
Database = Annotated[
    str | None,
    typer.Option(
        "--database", metavar="URL", help="Ledger URL [BULKRENDER_DATABASE_URL; sqlite:///bulkrender.db]."
    ),
]
Output = Annotated[
    str | None,
    typer.Option("--output", metavar="DIR", help="Folder of the pictures [BULKRENDER_OUTPUT; renders/]."),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url", metavar="URL", help="API base URL, may carry a path prefix [GOOGLE_GEMINI_BASE_URL]."
    ),
]
Sandbox = Annotated[bool, typer.Option("--sandbox", help="A local stand-in for the service; no key, no money.")]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="USD", help="Cap in dollars; beats the manifest's.")
]
Rpm = Annotated[int | None, typer.Option("--rpm", metavar="N", min=1, help="Requests a minute.")]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", metavar="N", min=1, help="Requests in flight [64].")
]
Lane = Annotated[
    str | None,
    typer.Option("--lane", metavar="LANE", help="standard, batch (half the price, hours of patience) or auto."),
]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="TIME",
        help="When all is to be done, with lane auto: 07:00 or 2026-11-25T07:00, local time.",
    ),
]
Detach = Annotated[
    bool,
    typer.Option("--detach", help="Leave once as many batches as may be open are submitted; run again later."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before real money.")]
OneJob = Annotated[str, typer.Argument(help="The job.", autocompletion=job_names)]
AnyJob = Annotated[
    str | None, typer.Argument(help="A job; all of the ledger without one.", autocompletion=job_names)
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def face() -> Any:
    """Who talks to the person at the terminal."""
    from runner.cli.faces import ConsoleFace, Voice

    return ConsoleFace(Voice(stderr=True, highlight=False))


def emit(value: Any, *, as_json: bool, text: Any) -> None:
    """One JSON object, or what `text` makes for people."""
    if as_json:
        print(json.dumps(value))
        return
    from rich.console import Console

    Console(highlight=False).print(text(), soft_wrap=True)
