import sqlite3
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy.exc import OperationalError

from runner.core.errors import LedgerError
from runner.ledger import Ledger
from runner.ledger import database as databases
from runner.ledger.database import file_system, locate
from tests.ledger.desk import specs


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("postgresql+psycopg://u:secret@h/db", "PostgreSQL is not supported yet"),
        ("mysql://u:secret@h/db", "mysql is not supported"),
        ("sqlite+aiosqlite:///x.db", "sqlite[+]aiosqlite is not supported"),
        ("sqlite://", "a ledger is a plain file"),
        ("sqlite:///:memory:", "a ledger is a plain file"),
        ("sqlite:///file:x?mode=memory&uri=true", "a ledger is a plain file"),
        ("bulkrender.db", "not a URL"),
        ("sqlite:////nowhere/at/all/x.db", "the folder /nowhere/at/all does not exist"),
        ("sqlite:////tmp", "is a folder"),
    ],
)
def test_what_cannot_be_a_ledger_is_one_clear_line_without_its_password(url, line):
    with pytest.raises(LedgerError, match=line) as raised:
        locate(url)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_relative_url_means_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("sqlite:///bulkrender.db") == tmp_path / "bulkrender.db"


def test_odd_characters_in_a_path_are_its_own(tmp_path):
    folder = tmp_path / "a b%20#?&é"
    folder.mkdir()
    Ledger.open(f"sqlite:///{quote(str(folder))}/x.db", "live", now_utc=0.0).close()
    assert (folder / "x.db").exists()


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/my\\040share rw,relatime - nfs4 server:/x rw
31 22 0:41 / /mnt/over rw - cifs //server/x rw
32 22 0:42 / /mnt/over rw - ext4 /dev/vdb rw
33 22 0:43 / /mnt/over2 rw master:1 - fuse.sshfs me@server: rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/me", "ext4"),
        ("/mnt/my share/deep", "nfs4"),
        ("/mnt/over/x", "ext4"),
        ("/mnt/over2", "fuse.sshfs"),
        ("/mnt/overlap", "ext4"),
    ],
)
def test_the_innermost_visible_mount_holds_a_folder(tmp_path, folder, kind):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert file_system(Path(folder), tmp_path / "mountinfo") == kind


def test_a_system_without_mountinfo_does_not_say(tmp_path):
    assert file_system(tmp_path, tmp_path / "missing") is None


def test_a_network_file_system_is_refused_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(databases, "file_system", lambda _: "nfs4")
    with pytest.raises(LedgerError, match=r"network file system \(nfs4\).*PostgreSQL"):
        Ledger.open(f"sqlite:///{tmp_path}/x.db", "live", now_utc=0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_may_not_be_written_is_told_before_anything_is_recorded(desk, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(LedgerError, match="may not be written"):
        Ledger.open(desk.url, "live", now_utc=0.0)


def test_readers_cannot_write(desk):
    desk.enqueue(specs(1))
    with desk.read() as connection, pytest.raises(OperationalError, match="readonly"):
        connection.exec_driver_sql("DELETE FROM task")


def test_readers_see_one_state_while_the_writer_goes_on(desk):
    desk.enqueue(specs(3))
    reader = Ledger.read(desk.url)
    rows = reader.tasks("job")
    first = next(rows)
    desk.settle(desk.claimed())
    assert [first.state, *(row.state for row in rows)] == ["queued"] * 3
    assert reader.counters("job").tasks["succeeded"] == 1


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("database is locked", "is locked by another program"),
        ("attempt to write a readonly database", "may not be written"),
        ("database disk image is malformed", "is damaged"),
        ("unable to open database file", "cannot be used: unable to open"),
    ],
)
def test_what_sqlite_says_while_opening_becomes_a_line_to_act_on(tmp_path, said, line):
    with pytest.raises(LedgerError, match=line), databases.plainly(tmp_path / "x.db"):
        raise sqlite3.OperationalError(said)
