import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlmodel import SQLModel

import runner
from runner.core.errors import LedgerError, WrongLedgerError
from runner.ledger import Ledger, schema
from runner.ledger.database import set_up_file, writing
from runner.ledger.schema import HEAD, check, configuration, identify, migrate
from tests.ledger.desk import Desk, specs

MIGRATIONS = Path(runner.__file__).parent.parent / "migrations"

NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("job", recreate="always") as job:
        job.add_column(sa.Column("note", sa.Text()))
    {more}
"""


def structure(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {
        name: "\n".join(sorted(line.strip(" ,\t").replace('"', "") for line in sql.splitlines()))
        for name, sql in rows
    }


def test_migrations_lead_to_exactly_the_models(tmp_path):
    """Also what Alembic does not compare: CHECKs, partial indexes, names."""
    check()
    Desk.at(tmp_path)
    migrated = structure(tmp_path / "ledger.db")
    migrated.pop("alembic_version")
    with writing(tmp_path / "models.db", create=True).begin() as connection:
        SQLModel.metadata.create_all(connection)
    assert migrated == structure(tmp_path / "models.db")


def test_head_is_the_newest_migration():
    assert ScriptDirectory.from_config(configuration()).get_current_head() == HEAD


def test_a_new_ledger_is_durable_wal_and_of_one_kind(desk):
    assert identify(desk.path) == schema.Identity(HEAD, "live")
    with desk.write() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


@pytest.fixture
def newer_program(tmp_path, monkeypatch):
    """This program, one migration later; call it with one more statement of that migration."""

    def release(more="pass"):
        package = tmp_path / "release%20"  # a per cent sign must not be read as interpolation
        shutil.copytree(MIGRATIONS, package / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
        (package / "migrations/versions/0005_next.py").write_text(NEXT.format(more=more))
        monkeypatch.setattr(schema, "_PACKAGE", package)
        monkeypatch.setattr(schema, "HEAD", "0005")

    return release


def test_an_older_ledger_is_upgraded_after_a_backup_copy(desk, newer_program):
    desk.enqueue(specs(3))
    before = desk.counters()
    newer_program()

    Ledger.open(desk.url, "live", now_utc=1_800_000_000.0).close()

    assert identify(desk.path).revision == "0005"
    assert desk.counters() == before
    copy = desk.path.with_name("ledger.db.backup-0004-20270115T080000Z")
    assert identify(copy) == schema.Identity("0004", "live")
    assert Desk(copy).counters() == before
    assert sorted(path.name for path in desk.path.parent.glob("*.backup-*")) == [copy.name]


def test_an_upgrade_to_the_batch_lane_keeps_every_attempt(tmp_path):
    """All that an older ledger knows was bought one by one."""
    path = tmp_path / "ledger.db"
    (tmp_path / "now").mkdir()
    with writing(path, create=True).connect() as connection:
        set_up_file(connection)
        with connection.begin():
            migrate(connection, "0003")
            connection.exec_driver_sql("INSERT INTO ledger (id, kind, created_at) VALUES (1, 'live', 0)")
    desk = Desk(path, tokens=100)
    fill_as_0003(path)

    Ledger.open(desk.url, "live", now_utc=0.0).close()

    assert identify(path).revision == HEAD
    kept = desk.counters()
    assert (kept.tasks["succeeded"], kept.tasks["running"], kept.tasks["queued"]) == (1, 1, 1)
    assert (kept.spend.settled, kept.spend.reserved) == (40, 50)
    assert [(one.lane, one.state) for one in desk.attempts()] == [("standard", "settled"), ("standard", "running")]
    (running,) = Ledger.read(desk.url).running("job")
    desk.settle(running)
    assert [one.lane for one in desk.submitted().attempts] == ["batch"]


def fill_as_0003(path: Path) -> None:
    """A picture, a request in flight, and a task that waits, as the third revision writes them."""
    now = Desk.at(path.parent / "now")
    now.enqueue(specs(3))
    now.settle(now.claimed())
    now.claimed()
    with sqlite3.connect(path) as connection:
        connection.execute("ATTACH ? AS now", (str(now.path),))
        for table in ("prompt", "recipe", "job", "task", "attempt"):
            names = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM now.{table}")
        connection.execute("UPDATE attempt SET cost_nanos = 40 WHERE state = 'settled'")
        connection.execute("UPDATE task SET cost_nanos = 40 WHERE state = 'succeeded'")
        connection.execute("UPDATE attempt SET reserved_nanos = 50 WHERE state = 'running'")
        connection.execute("UPDATE job SET settled_nanos = 40, reserved_nanos = 50")
    connection.close()


def test_an_upgrade_that_fails_leaves_the_ledger_as_it_was(desk, newer_program):
    desk.enqueue(specs(3))
    before = structure(desk.path)
    newer_program(more="raise RuntimeError('power cut')")

    with pytest.raises(RuntimeError, match="power cut"):
        Ledger.open(desk.url, "live", now_utc=0.0)

    assert structure(desk.path) == before
    assert identify(desk.path).revision == "0004"


def test_an_upgrade_that_would_break_references_is_taken_back(desk, newer_program):
    desk.enqueue(specs(3))
    newer_program(more="op.execute('DELETE FROM prompt')")

    with pytest.raises(LedgerError, match="break references"):
        Ledger.open(desk.url, "live", now_utc=0.0)

    assert identify(desk.path).revision == "0004"
    assert desk.counters().tasks["queued"] == 3


def test_no_migration_under_a_live_runner(desk, newer_program):
    with Ledger.open(desk.url, "live", now_utc=0.0):
        newer_program()
        with pytest.raises(LedgerError, match="another run is using it"):
            Ledger.open(desk.url, "live", now_utc=0.0, upgrade_patience_s=0.0)
        assert identify(desk.path).revision == "0004"
    Ledger.open(desk.url, "live", now_utc=0.0).close()
    assert identify(desk.path).revision == "0005"


def test_readers_of_an_older_ledger_say_what_to_do(desk, newer_program):
    newer_program()
    with pytest.raises(LedgerError, match="the next `bulkrender run` upgrades it"):
        Ledger.read(desk.url)
    assert identify(desk.path).revision == "0004"


def test_a_newer_ledger_is_refused_by_all(desk):
    with desk.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for opening in (lambda: Ledger.open(desk.url, "live", now_utc=0.0), lambda: Ledger.read(desk.url)):
        with pytest.raises(WrongLedgerError, match=r"newer release \(revision 9999\); upgrade bulkrender"):
            opening()


@pytest.mark.parametrize(("first", "second"), [("live", "sandbox"), ("sandbox", "live")])
def test_sandbox_and_real_money_never_mix(tmp_path, first, second):
    url = f"sqlite:///{tmp_path}/x.db"
    Ledger.open(url, first, now_utc=0.0).close()
    for opening in (lambda: Ledger.open(url, second, now_utc=0.0), lambda: Ledger.read(url, second)):
        with pytest.raises(WrongLedgerError, match=f"is a {first} ledger, and this is a {second} run"):
            opening()


def test_a_foreign_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.close()
    before = path.read_bytes()
    for opening in (
        lambda: Ledger.open(f"sqlite:///{path}", "live", now_utc=0.0),
        lambda: Ledger.read(f"sqlite:///{path}"),
    ):
        with pytest.raises(WrongLedgerError, match="another program's database"):
            opening()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["photos.db"]


def test_what_is_not_a_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("Dear diary, " * 100)
    with pytest.raises(WrongLedgerError, match="is not a database"):
        Ledger.open(f"sqlite:///{path}", "live", now_utc=0.0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.db"]


@pytest.mark.parametrize("left", ["nothing", "an empty file", "an empty database"])
def test_what_a_kill_in_the_middle_of_creating_left_is_no_ledger_and_can_become_one(tmp_path, left):
    path = tmp_path / "x.db"
    url = f"sqlite:///{path}"
    if left == "an empty file":
        path.touch()
    if left == "an empty database":
        with writing(path, create=True).connect() as connection:
            set_up_file(connection)
    assert not Ledger.exists(url)
    with pytest.raises(LedgerError, match="no ledger yet"):
        Ledger.read(url)
    assert path.exists() == (left != "nothing")

    Ledger.open(url, "live", now_utc=0.0).close()
    assert Ledger.exists(url)


def test_migrations_run_in_the_callers_transaction(tmp_path):
    with writing(tmp_path / "x.db", create=True).connect() as connection:
        transaction = connection.begin()
        migrate(connection)
        transaction.rollback()
    assert identify(tmp_path / "x.db") == schema.Identity(None, None)
