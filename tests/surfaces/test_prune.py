"""`prune`: pictures of orphans step aside, with their sidecars; nothing is lost, whenever it is killed."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from runner.adapters.files import RealFiles
from runner.adapters.storage import FolderStore
from runner.app.prune import prune
from runner.app.settings import Options
from runner.cli.faces import ConsoleFace
from runner.ledger import Ledger


@pytest.fixture
def orphaned(live, manifest, home):
    """The picture of an orphan; another picture stays."""
    live("run", manifest("variants: 1"))
    picture = home / "renders/j/b/512-1x1-1.jpg"
    data = picture.read_bytes()
    assert live("run", manifest(prompts="[{id: a, text: a cat}]")).code == 0
    assert picture.read_bytes() == data
    return picture


def path_of(prompt):
    with sqlite3.connect("bulkrender.db") as connection:
        [[path]] = connection.execute("SELECT path FROM task WHERE prompt_id = ?", [prompt])
    return path


def aside(picture):
    [jpg] = (picture.parent / "superseded").glob("*.jpg")
    sidecar = json.loads(jpg.with_suffix(".json").read_text())
    assert sidecar["file"] == jpg.name
    assert sidecar["key"][-12:] in jpg.name
    return jpg


def test_an_orphans_picture_moves_aside_and_is_booked(live, orphaned, home):
    size, data = orphaned.stat().st_size, orphaned.read_bytes()
    result = live("prune", "j", "--json")
    assert result.code == 0
    assert json.loads(result.out) == {"job": "j", "orphaned": 1, "moved": 1, "bytes": size, "exit_code": 0}
    assert "1 pictures" in result.err
    assert "that the manifest of its last run did not name" in result.err
    assert aside(orphaned).read_bytes() == data
    assert not orphaned.exists()
    assert not orphaned.with_suffix(".json").exists()
    assert home / "renders" / path_of("b") == aside(orphaned)
    assert (home / "renders" / path_of("a")).exists()
    again = json.loads(live("prune", "j", "--json").out)
    assert (again["orphaned"], again["moved"]) == (1, 0)
    assert "no pictures of orphaned tasks to move" in live("prune", "j").out


def test_what_the_manifest_names_again_comes_back(live, orphaned, manifest):
    data = orphaned.read_bytes()
    live("prune", "j", "--yes")
    answer = json.loads(live("run", manifest("variants: 1"), "--json").out)
    assert (answer["exit_code"], answer["tasks"]["succeeded"]) == (0, 2)
    assert orphaned.read_bytes() == data


def test_who_says_no_keeps_everything(live, orphaned, monkeypatch):
    monkeypatch.setattr(ConsoleFace, "agree", lambda *_, **__: False)
    result = live("prune", "j")
    assert result.code == 2
    assert "not confirmed: nothing was moved" in result.err
    assert orphaned.exists()


def test_a_job_that_is_being_run_is_left_alone(live, orphaned, home):
    with Ledger.open(f"sqlite:///{home}/bulkrender.db", "live", now_utc=0.0) as ledger, ledger.lock_job("j"):
        result = live("prune", "j")
    assert result.code == 2
    assert "already being run" in result.err
    assert orphaned.exists()


def test_a_job_that_is_not_there(live, orphaned):
    assert "no job 'k' in this ledger; it has: j" in live("prune", "k").err


def test_a_picture_that_is_gone_is_told_and_stays_as_it_was_booked(live, orphaned):
    orphaned.unlink()
    result = live("prune", "j")
    assert "not there, so left as it is: j/b/512-1x1-1.jpg" in result.out
    assert path_of("b") == "j/b/512-1x1-1.jpg"
    assert orphaned.with_suffix(".json").exists()


class Killed(BaseException):
    """The process died here."""


CHANGES = ("create", "write", "sync", "rename", "unlink", "mkdir", "sync_folder")
"""What a prune does to files."""


def killed_at(patch, number):
    """Die before the `number`-th change of a file, or before what comes after all of them: the ledger's."""
    left = iter(range(number))

    def deadly(real):
        def step(*words):
            if next(left, None) is None:
                raise Killed
            return real(*words)

        return step

    async def die(*_):
        raise Killed

    for name in CHANGES:
        patch.setattr(RealFiles, name, deadly(getattr(RealFiles, name)))
    patch.setattr(Ledger, "relocate", die)


@pytest.mark.parametrize("heir", ["prune", "run"])
def test_a_kill_before_any_step_is_mended(live, orphaned, manifest, monkeypatch, tmp_path, heir):
    data, where = orphaned.read_bytes(), orphaned.relative_to(Path.cwd())
    home, steps = Path.cwd(), set()
    for number in range(30):
        shutil.copytree(home, tmp_path / str(number))
        monkeypatch.chdir(tmp_path / str(number))
        with monkeypatch.context() as patch:
            killed_at(patch, number)
            with pytest.raises(Killed):
                prune("j", Options(output="renders"), {}, lambda _: True)
        steps.add(tuple(sorted(map(str, Path("renders").rglob("*")))))
        if heir == "run":
            assert live("run", "j.yaml").code == 0
            [there] = [one for one in (where, *where.parent.rglob("superseded/*.jpg")) if one.exists()]
            assert there.read_bytes() == data
            assert Path("renders", path_of("b")) == there
        assert live("prune", "j", "--output", "renders").code == 0
        assert aside(where).read_bytes() == data
        assert Path("renders", path_of("b")) == aside(where)
        assert sorted(one.name for one in where.parent.iterdir()) == ["superseded"]
        assert len(list((where.parent / "superseded").iterdir())) == 2
        shutil.rmtree(tmp_path / str(number))
    assert len(steps) > 5


def test_the_picture_of_another_task_at_that_path_is_not_touched(live, orphaned, home):
    """The orphan's own picture was moved when the other one landed, and that was never booked."""
    other = home / "renders/j/a/512-1x1-1.jpg"
    key = json.loads(orphaned.with_suffix(".json").read_text())["key"]
    folder = FolderStore(home / "renders").folder
    folder.supersede(key, orphaned)
    orphaned.write_bytes(other.read_bytes())
    sidecar = json.loads(other.with_suffix(".json").read_text())
    orphaned.with_suffix(".json").write_text(json.dumps(sidecar))
    assert json.loads(live("prune", "j", "--json").out)["moved"] == 1
    assert orphaned.read_bytes() == other.read_bytes()
    assert home / "renders" / path_of("b") == aside(orphaned)
