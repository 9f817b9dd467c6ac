"""What changes between two runs: prices, output, pictures, locks, several jobs. Nothing is lost or free."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.ledger import Ledger, Reader
from tests.surfaces.holding import ANSWER, holding_service

UNKNOWN = "acme-image-9"
PRICES = "prices: {input: 0.25, text: 1.5, image: 60, image_tokens: 747}"


@pytest.fixture
def held():
    with holding_service() as service:
        service.release()
        yield service


@pytest.fixture
def acme(command, held, monkeypatch, manifest):
    """Runs a manifest of a model that nobody knows."""
    monkeypatch.setenv("GEMINI_API_KEY", "k")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", held.base_url)

    def run(text="", verb="run"):
        path = manifest(text)
        path.write_text(path.read_text().replace("gemini-3.1-flash-image-preview", UNKNOWN))
        return command(verb, path, "--json")

    return run


def test_a_model_nobody_knows_runs_and_its_cost_is_null(acme, held):
    held.answer = ANSWER.replace('"candidatesTokensDetails"', '"someOtherDetails"')
    answer = json.loads(acme().out)
    assert (answer["exit_code"], answer["tasks"]["succeeded"]) == (0, 2)
    assert answer["spend"]["usd"] is None
    assert answer["spend"]["image_tokens"] is None


def test_a_cap_over_spend_that_nobody_knows_is_refused(acme, held):
    assert acme().code == 0
    for verb in ("plan", "run"):
        result = acme(f"variants: 3\nbudget: {{usd: 5}}\n{PRICES}", verb=verb)
        assert result.code == 2
        assert "cannot be proven" in result.err
    assert held.arrived == 2


def test_prices_of_the_manifest_prove_a_cap(acme):
    answer = json.loads(acme(f"budget: {{usd: 1}}\n{PRICES}").out)
    assert answer["exit_code"] == 0
    assert answer["spend"]["usd"] == "0.0896415"


def test_a_picture_taken_away_and_its_prompt_edited(live, manifest, home):
    live("run", manifest())
    (home / "renders/j/a/512-1x1-1.jpg").unlink()
    edited = manifest(prompts="[{id: a, text: a tiger}, {id: b, text: a dog}]")
    assert live("run", edited).code == 0
    assert live("run", edited).code == 0
    assert (home / "renders/j/a/512-1x1-1.jpg").exists()


def test_what_was_bought_after_a_copy_of_the_ledger_is_not_bought_again_silently(live, manifest, home):
    live("run", manifest(prompts="[{id: a, text: a cat}]"))
    live("ledger", "backup", "older.db")
    live("run", manifest())
    (home / "older.db").replace("bulkrender.db")
    (home / "renders/j/b/512-1x1-1.png").touch()
    picture = home / "renders/j/b/512-1x1-1.jpg"
    sidecar, before = json.loads(picture.with_suffix(".json").read_text()), picture.stat()
    for verb in ("plan", "run"):
        refused = live(verb, manifest())
        assert refused.code == 2
        assert f"j/b/512-1x1-1.jpg: job j, key {sidecar['key']}, attempt {sidecar['attempt']}, " in refused.err
        assert "go: 1, $0.04" in refused.err
        assert "are where pictures of job j go: j/b/512-1x1-1.png. Move them away" in refused.err
    assert picture.stat() == before
    kept = home / "kept"
    (home / "renders/j/b").rename(kept)
    assert live("run", manifest()).code == 0
    assert (kept / picture.name).stat().st_ino == before.st_ino


def test_a_picture_that_a_run_brings_while_a_plan_looks_is_not_in_its_way(live, manifest, monkeypatch):
    live("run", manifest())
    flight, paths = iter([{}, {"t": "j/a/512-1x1-1"}]), iter([{}, {"j/b/512-1x1-1.jpg": "k"}])
    monkeypatch.setattr(Reader, "stems_in_flight", lambda *_: next(flight))
    monkeypatch.setattr(Reader, "paths", lambda *_: next(paths))
    assert live("plan", manifest()).code == 0


def test_a_rename_that_a_crash_cut_off_between_disk_and_ledger_is_finished(live, manifest, home, monkeypatch):
    live("run", manifest())
    renamed = manifest(prompts="[{id: cat, text: a cat}, {id: b, text: a dog}]")

    async def killed(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as crash:
        crash.setattr(Ledger, "relocate", killed)
        assert live("run", renamed).code == 5
    assert (home / "renders/j/cat/512-1x1-1.jpg").exists()
    assert live("plan", renamed).code == 0
    assert live("run", renamed).code == 0
    paths = {json.loads(line)["path"] for line in live("export", "j").out.splitlines()}
    assert paths == {"j/cat/512-1x1-1.jpg", "j/b/512-1x1-1.jpg"}


@pytest.mark.parametrize("reverted", [False, True])
def test_superseding_that_a_crash_cut_off_loses_no_picture(live, manifest, home, monkeypatch, reverted):
    live("run", manifest())
    cat = (home / "renders/j/a/512-1x1-1.jpg").read_bytes()
    tiger = "[{id: a, text: a tiger}, {id: b, text: a dog}]"

    async def killed(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as crash:
        crash.setattr(Ledger, "relocate", killed)
        assert live("run", manifest(prompts=tiger)).code == 5
    assert not (home / "renders/j/a/512-1x1-1.jpg").exists()
    assert live("run", manifest() if reverted else manifest(prompts=tiger)).code == 0
    here = home / "renders/j/a" if reverted else home / "renders/j/a/superseded"
    assert cat in [path.read_bytes() for path in here.glob("*.jpg")]
    assert len(list((home / "renders").rglob("*.jpg"))) == (2 if reverted else 3)
    for line in live("export", "j", "--all").out.splitlines():
        path = json.loads(line)["path"]
        assert path is None or (home / "renders" / path).exists()


def test_another_output_after_a_kill_is_refused_while_pictures_may_have_landed_in_the_old(
    manifest, command, monkeypatch
):
    manifest("limits: {concurrency: 2}")
    monkeypatch.setenv("GEMINI_API_KEY", "k")
    with holding_service() as service:
        environment = {**os.environ, "GOOGLE_GEMINI_BASE_URL": service.base_url}
        arguments = [sys.executable, "-P", "-m", "runner", "run", "j.yaml"]
        with subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL) as run:
            service.wait_for(2)
            shown = command("status", "j")
            run.kill()
    assert shown.code == 0
    assert "being run by process" in shown.out
    dead = command("status", "j")
    assert dead.code == 130
    assert "2 requests were in flight when it died" in dead.out
    result = command("run", "j.yaml", "--output", "other", "--base-url", "http://127.0.0.1:9")
    assert result.code == 2
    assert "--output" in result.err


def test_a_key_of_the_environment_is_none_of_the_sandboxs_business(command, manifest, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "real-key-of-mine")
    assert command("run", manifest(), "--sandbox", "--sandbox-latency", 0).code == 0


def test_when_the_second_job_is_being_run_the_first_is_not_begun(live, manifest, home):
    one, two = manifest(name="one.yaml"), manifest(name="two.yaml")
    two.write_text(two.read_text().replace("job: j", "job: k"))
    assert live("run", two, "--json").code == 0
    with Ledger.open("sqlite:///bulkrender.db", "live", now_utc=0.0) as ledger, ledger.lock_job("k"):
        result = live("run", one, two, "--json")
    assert result.code == 2
    assert "'k' is already being run" in json.loads(result.out)["error"]
    assert not (home / "renders" / "j").exists()


def test_several_jobs_are_a_list_whatever_stops_the_first(live, manifest, monkeypatch):
    one, two = manifest(name="one.yaml"), manifest(name="two.yaml")
    two.write_text(two.read_text().replace("job: j", "job: k"))
    monkeypatch.setenv("GEMINI_API_KEY", "wrong")
    answer = json.loads(live("run", one, two, "--json").out)
    assert (answer["exit_code"], [job["job"] for job in answer["jobs"]]) == (4, ["j"])


@pytest.mark.parametrize("target", ["nodir/x.csv", "folder", "/dev/full"])
def test_an_export_that_cannot_be_written_says_so(live, manifest, target):
    live("run", manifest())
    Path("folder").mkdir()
    result = live("export", "j", "--to", target)
    assert result.code == 2
    assert result.err.startswith(f"error: --to {target}: ")


def test_a_cap_that_was_given_for_one_run_is_missed_in_the_next(live, manifest):
    path = manifest()
    live("run", path, "--budget", "3")
    assert "the last run of this job had a cap, this one has none" in live("run", path).err


def test_an_empty_ledger_has_no_jobs(command):
    Ledger.open("sqlite:///bulkrender.db", "live", now_utc=0.0).close()
    assert "no jobs in this ledger yet" in command("status").out
