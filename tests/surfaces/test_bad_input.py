"""Bad input: one clear line, the exit code of the design, nothing half-recorded, no traceback."""

import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from runner.ledger import Ledger


def only(folder, *names):
    """Whether the folder holds these and nothing else."""
    return {path.name for path in Path(folder).iterdir()} == set(names)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("varaints: 2", "did you mean 'variants'"),
        ("matrix: [", "j.yaml:"),
        ("budget: {usd: lots}", "j.yaml:5:"),
        ("lane: express", "j.yaml:5:"),
        ("lane: batch\nbatch: {line: 5}", "did you mean 'lines'"),
        ("lane: batch\nprices: {input: 0.001}", "j.yaml:6:9: the batch lane's part of these prices is not exact"),
        ("limits: {tmp: 5}", "did you mean 'tpm'"),
        ("limits: {tpm: 4}", "more than limits.tpm 4 lets through in a minute"),
        ("limits: {spend_usd_per_10min: 0.01}", "more than limits.spend_usd_per_10min $0.01"),
        ("output: '../{prompt}.{ext}'", "j.yaml:5:"),
        ("output: '{job}.{ext}'", "share"),
        ("verify: maybe", "structure"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_bad_manifest_is_refused_with_its_place(command, manifest, home, text, says, verb):
    result = command(verb, manifest(text))
    assert result.code == 2
    assert says in result.err
    assert result.err.startswith("error: ")
    assert only(home, "j.yaml")


def test_all_problems_of_all_manifests_come_at_once(command, manifest):
    one, two = manifest("sizes: 1\nvariants: 0", name="one.yaml"), manifest("lanes: x", name="two.yaml")
    result = command("run", one, two, "--sandbox")
    assert result.code == 2
    assert [line.split(":")[1].strip() for line in result.err.splitlines()] == ["one.yaml", "one.yaml", "two.yaml"]


def test_the_problem_of_a_json_call_is_one_json_object(command, manifest):
    result = command("run", manifest("wrong: 1"), "--json")
    answer = json.loads(result.out)
    assert answer["exit_code"] == result.code == 2
    assert "wrong" in answer["error"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["run", "j.yaml"], "no API key: set GEMINI_API_KEY"),
        (["run", "j.yaml", "--budget", "lots"], "--budget lots: expected dollars"),
        (["run", "j.yaml", "--sandbox", "--base-url", "http://x"], "leave out --base-url"),
        (["run", "j.yaml", "--base-url", "ftp://x"], "base URL"),
        (["run", "j.yaml", "--base-url", "https://user:secret@x"], "must not carry a user"),
        (["run", "j.yaml", "--base-url", "http://[x"], "cannot be read"),
        (["run", "j.yaml", "--base-url", "http://h:99999"], "cannot be read"),
        (["run", "j.yaml", "--budget", "10000000000"], "a billion at most"),
        (["run", "j.yaml", "--budget", "1e400"], "a billion at most"),
        (["run"], "missing argument"),
        (["render"], "no such command"),
        (["run", "j.yaml", "--output", "s3://bucket"], "only local folders"),
        (["run", "j.yaml", "j.yaml", "--sandbox"], "two manifests name the same job: j"),
        (["run", "j.yaml", "--lane", "express"], "--lane express: expected standard, batch or auto"),
        (["run", "j.yaml", "--sandbox", "--database", "mysql://x"], "mysql"),
        (["run", "j.yaml", "--sandbox", "--database", "postgresql://x"], "PostgreSQL"),
        (["run", "j.yaml", "--rpm", "0"], "greater than or equal to 1"),
        (["status"], "bulkrender.db"),
        (["export", "j"], "bulkrender.db"),
        (["sandbox"], "--port or --uds"),
        (["sandbox", "--port", "0", "--faults", "sunshine"], "sunshine"),
    ],
)
def test_wrong_options_are_told_in_one_line(command, manifest, home, arguments, says):
    manifest()
    result = command(*arguments)
    assert result.code == 2
    assert says.lower() in result.err.lower()
    assert only(home, "j.yaml")


@pytest.mark.parametrize("url", ["https://user:hunter2@x", "https://user:hunter2", "https://user:hunter2@x:y"])
def test_a_secret_in_a_base_url_is_not_repeated(command, manifest, url):
    result = command("run", manifest(), "--base-url", url)
    assert result.code == 2
    assert "hunter2" not in result.err


@pytest.mark.parametrize("content", ["", "two words", "line\nbreak"])
def test_a_key_file_that_holds_no_key(command, manifest, monkeypatch, home, content):
    (home / "key").write_text(content)
    monkeypatch.setenv("GEMINI_API_KEY_FILE", "key")
    result = command("run", manifest())
    assert result.code == 2
    assert "key" in result.err
    assert not (home / "bulkrender.db").exists()


def test_a_cap_without_prices_names_the_fields_to_fill_in(command, manifest):
    path = manifest("budget: {usd: 1}")
    path.write_text(path.read_text().replace("gemini-3.1-flash-image-preview", "acme-image-9"))
    result = command("plan", path)
    assert result.code == 2
    for field in ("prices.input", "prices.text", "prices.image", "prices.image_tokens (for 512)"):
        assert field in result.err


def test_the_output_is_a_file(command, manifest, home):
    (home / "renders-sandbox").write_text("")
    result = command("run", manifest(), "--sandbox")
    assert result.code == 2
    assert "renders-sandbox" in result.err


def test_a_database_that_is_none(command, manifest, home):
    (home / "bulkrender-sandbox.db").write_text("no database at all, but long enough to be looked at" * 50)
    result = command("run", manifest(), "--sandbox")
    assert result.code == 2
    assert "bulkrender-sandbox.db" in result.err
    assert only(home, "j.yaml", "bulkrender-sandbox.db")


def test_somebody_elses_database(command, manifest, home):
    with sqlite3.connect("bulkrender-sandbox.db") as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")
    connection.close()
    result = command("run", manifest(), "--sandbox")
    assert result.code == 2
    assert "bulkrender-sandbox.db" in result.err


def test_a_newer_ledger(command, manifest):
    assert command("run", manifest(), "--sandbox", "--sandbox-latency", 0).code == 0
    connection = sqlite3.connect("bulkrender-sandbox.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    for verb in (["run", "j.yaml"], ["plan", "j.yaml"], ["status"]):
        result = command(*verb, "--sandbox")
        assert result.code == 2
        assert "newer" in result.err


def test_sandbox_and_real_money_never_mix(live, manifest):
    path = manifest()
    assert live("run", path).code == 0
    result = live("run", path, "--sandbox", "--database", "sqlite:///bulkrender.db")
    assert result.code == 2
    assert "live" in result.err
    assert live("run", path, "--sandbox", "--sandbox-latency", 0).code == 0
    result = live("run", path, "--database", "sqlite:///bulkrender-sandbox.db")
    assert result.code == 2
    assert "sandbox" in result.err


def test_a_job_that_is_being_run(live, manifest):
    path = manifest()
    assert live("run", path).code == 0
    with Ledger.open("sqlite:///bulkrender.db", "live", now_utc=0.0) as ledger, ledger.lock_job("j"):
        result = live("run", path)
    assert result.code == 2
    assert "already being run by process" in result.err


def test_a_file_that_is_not_ours_is_never_overwritten(live, manifest, home):
    mine = home / "renders" / "j" / "a" / "512-1x1-1.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    for verb in ("plan", "run"):
        result = live(verb, manifest())
        assert result.code == 2
        assert "512-1x1-1.png" in result.err
    assert mine.read_text() == "precious"


def test_two_jobs_that_want_one_path(live, manifest):
    assert live("run", manifest("output: 'same/{prompt}.{ext}'")).code == 0
    other = manifest("output: 'same/{prompt}.{ext}'", name="k.yaml")
    other.write_text(other.read_text().replace("job: j", "job: k"))
    result = live("run", other)
    assert result.code == 2
    assert "job j" in result.err


def test_a_wrong_key_stops_the_run_before_it_costs_anything(live, manifest, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "wrong-key-123")
    result = live("run", manifest(), "--json")
    answer = json.loads(result.out)
    assert (result.code, answer["halted"]) == (4, "provider")
    assert "API key" in answer["reason"]
    assert answer["spend"]["usd"] == "0.00"
    assert "wrong-key-123" not in result.out + result.err + Path("bulkrender.db.log").read_text()


def test_a_gone_model_names_its_successor_and_the_line(command, manifest, tmp_path, monkeypatch):
    from tests.sandbox.process import sandbox_process

    retired = ["gemini-3.1-flash-image-preview"]
    with sandbox_process(tmp_path / "gone", port=0, latency_s=0.0, retired=retired) as base_url:
        monkeypatch.setenv("GEMINI_API_KEY", "sandbox")
        result = command("run", manifest(), "--base-url", base_url)
    assert result.code == 4
    assert "gemini-3.1-flash-image" in result.err
    assert "j.yaml:2" in result.err


def test_nobody_listens(command, manifest, monkeypatch, service):
    """A wrong path is not the API: told at once, not retried for half an hour."""
    monkeypatch.setenv("GEMINI_API_KEY", "sandbox")
    result = command("run", manifest(), "--base-url", service[1] + "/no/such/prefix")
    assert result.code == 4
    assert "base" in result.err.lower()


@pytest.fixture
def small_disk(tmp_path):
    """A real file system with hardly any room."""
    mount = tmp_path / "small"
    mount.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"may not mount here: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_stops_before_anything_is_bought(live, manifest, small_disk):
    result = live("run", manifest(), "--output", small_disk, "--json")
    answer = json.loads(result.out)
    assert (result.code, answer["halted"]) == (5, "local")
    assert "room" in answer["reason"]
    assert answer["spend"]["usd"] == "0.00"


def test_a_full_disk_under_the_ledger_is_told(live, manifest, small_disk):
    (small_disk / "ballast").write_bytes(bytes(1_000_000))
    result = live("run", manifest(), "--database", f"sqlite:///{small_disk}/ledger.db")
    assert result.code in {2, 5}
    assert result.err.startswith("error: ")


def test_faults_that_do_not_exist_are_refused_before_anything_is_recorded(command, manifest, home):
    result = command("run", manifest(), "--sandbox", "--sandbox-faults", "strom")
    assert (result.code, len(result.err.strip().splitlines())) == (2, 1)
    assert "--sandbox-faults strom" in result.err
    assert [path.name for path in home.iterdir()] == ["j.yaml"]
