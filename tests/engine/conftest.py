"""What thousands of commits in driven time need not do: wait for the disk, and tell people every second."""

import sqlite3
from typing import Any

import pytest

from runner.engine import lane
from runner.ledger import database


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch):
    """Nobody pulls the plug here; what a sync of the disk is worth, `tests/ledger` and `tests/crash` show."""
    connect = database._connect

    def unsynced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    monkeypatch.setattr(database, "_connect", unsynced)


@pytest.fixture
def rare_beats(monkeypatch):
    """For what is judged by its requests: a forecast a second costs more than all of these together."""
    monkeypatch.setattr(lane, "BEAT_S", 10.0)
