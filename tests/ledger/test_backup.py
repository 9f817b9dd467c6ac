"""`ledger backup`: one committed state of a ledger in use, whole or not there."""

import sqlite3
import threading
from contextlib import closing

import pytest

from runner.core.errors import LedgerError, LocalFailureError, WrongLedgerError
from runner.ledger import Ledger, backup
from runner.ledger.schema import HEAD
from tests.ledger.desk import Desk, specs


@pytest.fixture
def busy(desk):
    """A ledger with two pictures, open for writing: much of it is in the -wal file."""
    desk.enqueue(specs(60))
    with Ledger.open(desk.url, "live", now_utc=0.0):
        for _ in range(2):
            desk.settle(desk.claimed())
        yield desk


def back_up(desk, to):
    return Ledger.backup(desk.url, to, now_utc=1_800_000_000.0)


def test_a_copy_has_all_that_was_committed(busy, tmp_path):
    copied = back_up(busy, tmp_path / "copy.db")
    assert (copied.path, copied.revision, copied.kind) == (tmp_path / "copy.db", HEAD, "live")
    assert (copied.jobs, copied.attempts) == (1, 2)
    assert copied.bytes == (tmp_path / "copy.db").stat().st_size
    assert not list(tmp_path.glob("copy.db?*"))
    assert Desk(tmp_path / "copy.db").counters() == busy.counters()


def test_a_copy_can_be_run_from_like_the_ledger(busy, tmp_path):
    back_up(busy, tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    restored = Desk(tmp_path / "copy.db", tokens=2)
    restored.settle(restored.claimed())
    assert restored.counters().tasks["succeeded"] == 3
    assert busy.counters().tasks["succeeded"] == 2


def test_without_a_name_it_lies_beside_by_date(busy):
    copied = back_up(busy, None)
    assert copied.path == busy.path.with_name(f"ledger.db.backup-{HEAD}-20270115T080000Z")
    with pytest.raises(LedgerError, match="is there already, and is not overwritten"):
        back_up(busy, None)


def test_a_copy_made_while_others_write_is_of_one_instant(busy, tmp_path):
    done = threading.Event()

    def buy():
        try:
            for _ in range(20):
                busy.settle(busy.claimed())
        finally:
            done.set()

    buyer = threading.Thread(target=buy)
    buyer.start()
    count = 0
    while not done.is_set() or not count:
        copied = back_up(busy, tmp_path / f"{count}.db")
        Desk(copied.path).counters()  # which recounts
        count += 1
    buyer.join()


@pytest.mark.parametrize("name", ["ledger.db", "dangling", "folder"])
def test_nothing_is_overwritten(busy, name):
    (busy.path.parent / "dangling").symlink_to("nowhere")
    (busy.path.parent / "folder").mkdir()
    before = busy.counters()
    with pytest.raises(LedgerError, match="is there already"):
        back_up(busy, busy.path.with_name(name))
    assert busy.counters() == before


def test_a_folder_that_is_not_there(busy, tmp_path):
    with pytest.raises(LedgerError, match=r"the folder .*/no does not exist"):
        back_up(busy, tmp_path / "no" / "x.db")


def test_no_ledger_and_a_foreign_database(tmp_path):
    with pytest.raises(LedgerError, match="no ledger yet"):
        Ledger.backup(f"sqlite:///{tmp_path}/none.db", tmp_path / "x.db", now_utc=0.0)
    with closing(sqlite3.connect(tmp_path / "photos.db")) as connection:
        connection.execute("CREATE TABLE photo (id)")
    with pytest.raises(WrongLedgerError, match="another program's database"):
        Ledger.backup(f"sqlite:///{tmp_path}/photos.db", tmp_path / "x.db", now_utc=0.0)
    assert not (tmp_path / "x.db").exists()


def test_a_copy_that_came_out_damaged_gets_no_name(busy, tmp_path, monkeypatch):
    write = backup._write

    def bad_disk(source, unfinished, to):
        write(source, unfinished, to)
        with unfinished.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 4096 * 8)

    monkeypatch.setattr(backup, "_write", bad_disk)
    with pytest.raises((LocalFailureError, WrongLedgerError), match="damaged"):
        back_up(busy, tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy.db*"))


def test_a_disk_that_takes_no_more(busy, tmp_path, monkeypatch):
    class Full:
        def __getattr__(self, name):
            return getattr(sqlite3, name)

        def connect(self, target, **choices):
            connection = sqlite3.connect(target, **choices)
            if str(target).endswith(".unfinished"):
                connection.execute("PRAGMA max_page_count = 3")
            return connection

    monkeypatch.setattr(backup, "sqlite3", Full())
    with pytest.raises(LocalFailureError, match=r"copy\.db: cannot be written: database or disk is full"):
        back_up(busy, tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy.db*"))


def test_a_folder_in_the_way_of_the_unfinished_copy(busy, tmp_path):
    (tmp_path / "copy.db.unfinished").mkdir()
    with pytest.raises(LocalFailureError, match="cannot be written"):
        back_up(busy, tmp_path / "copy.db")
