"""What can be said of a ledger before a run: where it is, whose, which revision. Opens it, changes nothing."""

import os
from dataclasses import dataclass
from pathlib import Path

from runner.ledger.database import file_system, locate
from runner.ledger.schema import HEAD, identify, refuse_newer


@dataclass(frozen=True, slots=True)
class Health:
    """A ledger that a run can use, or the place where it will be made."""

    path: Path
    revision: str | None
    """None: there is none yet."""
    kind: str | None
    """`live` or `sandbox`; None: there is none yet."""
    outdated: bool
    """An older release made it: the next run upgrades it, after a backup copy."""
    file_system: str | None
    """Type of the file system; None where the system does not say."""
    writable: bool
    """Whether the file, or the folder it will be made in, may be written, as far as permissions say."""
    free_bytes: int
    """What this user may still write beside it."""


def health(url: str) -> Health:
    """Look at a ledger. Raises LedgerError for what no run could use, a newer or a foreign one included."""
    path = locate(url)
    found = identify(path)
    refuse_newer(path, found.revision)
    return Health(
        path=path,
        revision=found.revision,
        kind=found.kind,
        outdated=found.revision not in {None, HEAD},
        file_system=file_system(path.parent),
        writable=os.access(path.parent, os.W_OK) and (found.revision is None or os.access(path, os.W_OK)),
        free_bytes=free_bytes(path.parent),
    )


def free_bytes(folder: Path) -> int:
    """What this user may still write in a folder."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
