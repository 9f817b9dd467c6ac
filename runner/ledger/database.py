"""A ledger's URL becomes engines. SQLite in a local file; the SQL above this module is PostgreSQL's too.

Which revision a ledger has and whose it is, is `schema.py`'s business.
"""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from runner.core.errors import LedgerError, WrongLedgerError

BUSY_TIMEOUT_S = 5.0

NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
        *(
            "orangefs",
            "pvfs2",
            "smb2",
            "smb3",
            "smbfs",
            "fuse.ceph",
            "fuse.davfs2",
            "fuse.gcsfuse",
            "fuse.glusterfs",
        ),
        *("fuse.goofys", "fuse.juicefs", "fuse.mountpoint-s3", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    }
)
"""Where locks or shared memory do not reach every host, so that SQLite's WAL corrupts."""

_MOUNTS = Path("/proc/self/mountinfo")


def locate(url: str) -> Path:
    """The database file of a URL, symbolic links resolved; LedgerError for what cannot be a ledger."""
    path = _file_of(_parsed(url))
    if not path.parent.is_dir():
        raise LedgerError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise LedgerError(f"{path}: is a folder; --database names a file in it")
    kind = file_system(path.parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise LedgerError(
            f"{path}: on a network file system ({kind}), where SQLite is not safe; "
            "keep the ledger on a local disk (PostgreSQL is the way to share one)"
        )
    return path


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise LedgerError("--database: not a URL; a ledger is named like sqlite:///bulkrender.db") from error


def _file_of(url: URL) -> Path:
    backend = url.get_backend_name()
    if backend in {"postgresql", "postgres"}:
        raise LedgerError("--database: PostgreSQL is not supported yet; name a file like sqlite:///bulkrender.db")
    if backend != "sqlite" or url.get_driver_name() not in {"", "pysqlite"}:
        raise LedgerError(f"--database: {url.drivername} is not supported; use sqlite:///bulkrender.db")
    if url.database in {None, "", ":memory:"} or str(url.database).startswith("file:") or url.query:
        raise LedgerError("--database: a ledger is a plain file: sqlite:///bulkrender.db")
    return Path(str(url.database)).expanduser().resolve()


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """Type of the file system that holds `folder`; None where the system does not say (macOS)."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    held: tuple[int, str | None] = (-1, None)
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4]))
        # of mounts on one point the last one is visible
        if folder.is_relative_to(point) and len(point.parts) >= held[0]:
            held = (len(point.parts), after.split()[0])
    return held[1]


def writing(path: Path, *, create: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Engine:
    """An engine whose every transaction is the one writer's from its first statement on."""
    return _engine(path, "rwc" if create else "rw", "BEGIN IMMEDIATE", busy_timeout_s)


def reading(path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Engine:
    """An engine that sees one consistent state for each transaction and cannot change it."""
    return _engine(path, "rw", "BEGIN", busy_timeout_s, query_only=True)


def _engine(path: Path, mode: str, begin: str, busy_timeout_s: float, *, query_only: bool = False) -> Engine:
    address = f"file:{quote(str(path))}?mode={mode}"
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _connect(address, busy_timeout_s, query_only=query_only),
        poolclass=NullPool,
        json_serializer=json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode,
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _connect(address: str, busy_timeout_s: float, *, query_only: bool) -> sqlite3.Connection:
    # isolation_level None: the driver opens no transactions of its own
    connection = sqlite3.connect(
        address, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA journal_size_limit = 67108864")  # shrinks again after a bulk load
        if query_only:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error:  # not a database, or one that is busy
        connection.close()
        raise
    return connection


def set_up_file(connection: Connection) -> None:
    """Before the transaction of a migration: WAL, which the file remembers, and no references enforced.

    Tables that others refer to may have to be rebuilt, and SQLite cannot defer that
    (sqlite.org/lang_altertable.html, section 7).
    """
    raw = connection.connection.driver_connection
    if not isinstance(raw, sqlite3.Connection):
        raise TypeError(f"not a SQLite connection: {raw!r}")
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA foreign_keys = OFF")


@contextmanager
def plainly(path: Path) -> Iterator[None]:
    """Turn what SQLite raises while a ledger is opened into one line that says what to do."""
    try:
        yield
    except DBAPIError as error:
        raise _opening_error(path, str(error.orig)) from error
    except sqlite3.Error as error:
        raise _opening_error(path, str(error)) from error


def _opening_error(path: Path, said: str) -> LedgerError:
    if "not a database" in said:
        return WrongLedgerError(f"{path}: is not a database; name another file with --database")
    if "malformed" in said:
        return WrongLedgerError(f"{path}: is damaged ({said}); restore a copy or name another file")
    if "locked" in said:
        return LedgerError(f"{path}: is locked by another program; close it and run again")
    if "readonly" in said:
        return LedgerError(f"{path}: may not be written; check its permissions and its folder's")
    return LedgerError(f"{path}: cannot be used: {said}")


def storable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Words of the outside world as both databases can keep them: no half characters, no NUL."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
        if type(value) is str
        else value
        for name, value in values.items()
    }
