"""Whose a ledger is and which revision it has; migrations, after a backup copy.

Alembic is loaded only where there is something to migrate: it doubles the start of every command.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, insert, inspect, select, text

import runner
from runner.core.errors import LedgerError, WrongLedgerError
from runner.ledger import models
from runner.ledger.backup import copy
from runner.ledger.database import plainly, reading, set_up_file, writing
from runner.ledger.locks import FileLock

if TYPE_CHECKING:
    from alembic.config import Config

Kind = Literal["live", "sandbox"]

HEAD = "0004"
"""The newest revision in `migrations/versions`; a test compares."""

_PACKAGE = Path(runner.__file__).parent
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Identity:
    """What a database file says of itself; both None where it holds nothing yet."""

    revision: str | None
    kind: str | None


def identify(path: Path) -> Identity:
    """Read a ledger's revision and kind; WrongLedgerError if the file is something else."""
    if not path.exists():
        return Identity(None, None)
    with plainly(path), reading(path).connect() as connection:
        tables = set(inspect(connection).get_table_names())
        if not tables:
            return Identity(None, None)
        if not {"alembic_version", "ledger", "job", "task"} <= tables:
            raise WrongLedgerError(f"{path}: is another program's database; name another file with --database")
        revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return Identity(revision, connection.scalar(select(models.ledger.c.kind)))


def no_ledger(path: Path) -> LedgerError:
    """Says so, and where that of `--sandbox` lies beside the default one, that it does."""
    beside = path.with_name("bulkrender-sandbox.db")
    if path.name == "bulkrender.db" and beside.is_file():
        return LedgerError(f"{path}: no ledger yet; there is {beside.name}: add --sandbox to read that")
    return LedgerError(f"{path}: no ledger yet; `bulkrender run MANIFEST` makes one")


def require(path: Path) -> Identity:
    """The identity of a ledger that must be there and at `HEAD`; LedgerError says what to do otherwise."""
    found = identify(path)
    if found.revision is None:
        raise no_ledger(path)
    if found.revision != HEAD:
        refuse_newer(path, found.revision)
        raise LedgerError(f"{path}: made by an older release; the next `bulkrender run` upgrades it")
    return found


def prepare(path: Path, kind: Kind, lock: FileLock, *, now_utc: float, patience_s: float) -> None:
    """Create or upgrade the ledger where needed. On return `lock` is held, shared, and it is at `HEAD`.

    Raises LedgerError if others use an older ledger for longer than `patience_s`.
    """
    deadline = time.monotonic() + patience_s
    while not (lock.take(shared=True) and _judged(path, kind).revision == HEAD):
        if lock.take():
            _upgrade(path, kind, _judged(path, kind).revision, now_utc)
        elif time.monotonic() >= deadline:
            raise LedgerError(
                f"{path}: must be upgraded, and another run is using it; run again when that has ended"
            )
        else:
            time.sleep(_POLL_S)


def _judged(path: Path, kind: Kind) -> Identity:
    found = identify(path)
    refuse_other_kind(path, found, kind)
    refuse_newer(path, found.revision)
    return found


def refuse_other_kind(path: Path, found: Identity, kind: Kind) -> None:
    """WrongLedgerError if a live run meets a sandbox ledger or the other way round."""
    if found.kind not in {None, kind}:
        raise WrongLedgerError(
            f"{path}: is a {found.kind} ledger, and this is a {kind} run; sandbox and real money never mix: "
            "name another file with --database"
        )


def refuse_newer(path: Path, revision: str | None) -> None:
    """WrongLedgerError for a revision that this release does not know."""
    if revision in {None, HEAD}:
        return
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}
    if revision not in known:
        raise WrongLedgerError(f"{path}: made by a newer release (revision {revision}); upgrade bulkrender")


def _upgrade(path: Path, kind: Kind, revision: str | None, now_utc: float) -> None:
    """All or nothing: SQLite takes back a table that was created in a transaction that did not commit."""
    if revision is not None:
        copy(path, beside(path, revision, now_utc))
    with plainly(path), writing(path, create=revision is None).connect() as connection:
        set_up_file(connection)
        with connection.begin():
            migrate(connection)
            if revision is None:
                connection.execute(insert(models.ledger).values(id=1, kind=kind, created_at=now_utc))


def migrate(connection: Connection, to: str = "head") -> None:
    """Run the migrations in the transaction that `connection` is in."""
    from alembic import command

    command.upgrade(configuration(connection), to)
    if broken := connection.execute(text("PRAGMA foreign_key_check")).first():
        raise LedgerError(f"the upgrade would break references: {tuple(broken)}; nothing was changed")


def beside(path: Path, revision: str, now_utc: float) -> Path:
    """What a copy of the ledger is called that lies beside it."""
    stamp = datetime.fromtimestamp(now_utc, UTC).strftime("%Y%m%dT%H%M%SZ")
    return path.with_name(f"{path.name}.backup-{revision}-{stamp}")


def configuration(connection: Connection | None = None) -> "Config":
    """Alembic's settings, without a file: the migrations of the wheel, or of the checkout."""
    from alembic.config import Config

    shipped = _PACKAGE / "migrations"
    folder = shipped if shipped.is_dir() else _PACKAGE.parent / "migrations"
    config = Config(stdout=sys.stdout)  # its default is whatever stdout was when alembic was first imported
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def check() -> None:
    """Raise alembic's AutogenerateDiffsDetected unless the migrations lead to exactly these models."""
    from alembic import command

    with (
        tempfile.TemporaryDirectory() as folder,
        writing(Path(folder) / "check.db", create=True).begin() as connection,
    ):
        migrate(connection)
        command.check(configuration(connection))
