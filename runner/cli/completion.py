"""Shell completion: the scripts, and the words that only the ledger knows."""

import os
import re
from typing import Any

PROGRAM = "bulkrender"
VARIABLE = "_BULKRENDER_COMPLETE"


def script(shell: str) -> str:
    """What a shell is to read once."""
    from typer._completion_shared import get_completion_script  # typer shows it only while it installs itself

    text = get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell)
    return text.removeprefix(f"#compdef {PROGRAM}").lstrip()  # read by eval, it is no file of $fpath


def prepare() -> None:
    """Teach the command line the instructions that the scripts give."""
    from typer._completion_classes import completion_init

    completion_init()


def job_names(ctx: Any, incomplete: str) -> list[str]:
    """Jobs of the ledger that is asked for, by the options typed so far."""
    from runner.ledger.names import quick_job_names

    given = ctx.params
    default = f"sqlite:///bulkrender{'-sandbox' if given.get('sandbox') else ''}.db"
    url = given.get("database") or os.environ.get("BULKRENDER_DATABASE_URL") or default
    names = [name for name in quick_job_names(url) if name.startswith(incomplete)]
    return names or _of_the_sandbox(given, incomplete)


def _of_the_sandbox(given: dict[str, Any], incomplete: str) -> list[str]:
    """--sandbox is often typed last: its jobs are offered where the live ledger has none."""
    from runner.ledger.names import quick_job_names

    if given.get("database") or re.match("-", incomplete):
        return []
    return [name for name in quick_job_names("sqlite:///bulkrender-sandbox.db") if name.startswith(incomplete)]
