"""A copy of the ledger under a new name, for the shelf."""

import time
from collections.abc import Mapping
from pathlib import Path

from runner.app.settings import Options, resolve
from runner.app.views import Json
from runner.ledger import Copied, Ledger


def back_up(to: Path | None, options: Options, environment: Mapping[str, str]) -> Copied:
    """Copy the ledger to a file that is not there yet, without one beside it by date.

    Raises LedgerError where there is no ledger or the file is there, LocalFailureError where it cannot be written.
    """
    return Ledger.backup(resolve(options, environment).database, to, now_utc=time.time())


def backup_object(copied: Copied) -> Json:
    """`ledger backup --json`."""
    names = ("bytes", "revision", "kind", "jobs", "attempts")
    return {"backup": str(copied.path), **{name: getattr(copied, name) for name in names}, "exit_code": 0}
