"""`ledger backup`, through the command."""

import json
from pathlib import Path


def test_a_backup_is_told_and_read_like_the_ledger(live, manifest):
    assert live("run", manifest()).code == 0
    result = live("ledger", "backup", "copy.db")
    assert result.code == 0
    assert result.out.startswith("copy.db: a copy of the live ledger (1 jobs, 2 attempts, ")
    assert result.out.endswith(" MB), read through and whole\n")
    assert live("report", "j", "--database", "sqlite:///copy.db").code == 0
    again = live("ledger", "backup", "copy.db", "--json")
    assert (again.code, json.loads(again.out)["exit_code"]) == (2, 2)
    assert "copy.db: is there already, and is not overwritten" in again.err
    beside = json.loads(live("ledger", "backup", "--json").out)
    assert (beside["jobs"], beside["attempts"], beside["kind"]) == (1, 2, "live")
    assert Path(beside["backup"]).parent == Path.cwd()


def test_where_there_is_no_ledger(command, home):
    result = command("ledger", "backup")
    assert (result.code, "no ledger yet" in result.err) == (2, True)
    assert list(home.iterdir()) == []
