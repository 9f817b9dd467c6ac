"""`doctor`: one distinct remedy for each thing that can be wrong, the exit code of a run, and nothing bought."""

import errno
import json
import os
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from runner.adapters.files import RealFiles
from runner.app.doctor import examine
from runner.app.settings import Options
from runner.ledger import database
from tests.surfaces.answering import receiver

MODEL = "gemini-3.1-flash-image-preview"
DESCRIBED = json.dumps({"name": f"models/{MODEL}", "supportedGenerationMethods": ["generateContent"]}).encode()
HTML = b"<html><title>404</title></html>"


def checks(result):
    told = json.loads(result.out)
    assert told["exit_code"] == result.code
    return {one["check"]: one for one in told["checks"]}


def answering(body=DESCRIBED, status=200, off_s=0.0):
    return status, {"date": formatdate(time.time() + off_s, usegmt=True)}, body


@pytest.fixture
def wrong(live, manifest):
    """The checks that are wrong, with a manifest that is right."""

    def run(*arguments):
        result = live("doctor", manifest(), *arguments, "--json")
        found = checks(result)
        return result.code, {name: one for name, one in found.items() if one["state"] == "wrong"}, found

    return run


def test_all_is_well_and_nothing_is_bought_or_left_behind(live, manifest, service, home):
    before = (service[0] / "requests.jsonl").read_text() if (service[0] / "requests.jsonl").exists() else ""
    path = manifest()
    result = live("doctor", path)
    assert result.code == 0, result.out
    assert f"next: bulkrender plan {path}" in result.out
    assert sorted(one.name for one in home.iterdir()) == ["j.yaml"]
    after = (service[0] / "requests.jsonl").read_text() if (service[0] / "requests.jsonl").exists() else ""
    assert after == before


def test_in_the_sandbox(command, home):
    result = command("doctor", "--sandbox", "--json")
    assert result.code == 0
    assert checks(result).keys() == {"key", "endpoint", "model", "clock", "output", "database"}
    assert list(home.iterdir()) == []


def test_no_key(wrong, monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY")
    code, found, all_ = wrong()
    assert code == 2
    assert "set GEMINI_API_KEY" in found["key"]["remedy"]
    assert all_["endpoint"]["state"] == "ok", "who answers can be seen without a key"
    assert all_["clock"]["state"] == "ok"


def test_both_keys(wrong, monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", "sandbox")
    code, _, found = wrong()
    assert (code, found["key"]["state"]) == (0, "ok")
    assert "GOOGLE_API_KEY wins" in found["key"]["says"]
    monkeypatch.setenv("GEMINI_API_KEY", "another")
    code, _, found = wrong()
    assert (code, found["key"]["state"]) == (0, "note")
    assert "GOOGLE_API_KEY wins" in found["key"]["says"]
    assert "unset" in found["key"]["remedy"]


def test_a_wrong_key(wrong, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "wrong-key-123")
    code, found, all_ = wrong()
    assert code == 4
    assert "put a valid key into GEMINI_API_KEY" in found["key"]["remedy"]
    assert "wrong-key-123" not in json.dumps(all_)


def test_a_model_that_is_gone(wrong, manifest):
    body = {"error": {"code": 404, "status": "NOT_FOUND", "message": f"models/{MODEL} is no longer available"}}
    with receiver(answering(json.dumps(body).encode(), 404)) as router:
        code, found, _ = wrong("--base-url", router.url)
    assert (code, found.keys()) == (4, {"model"})
    assert "gemini-nano-banana-2.1" in found["model"]["remedy"]
    assert "j.yaml:2" in found["model"]["remedy"]


def test_a_host_that_cannot_be_reached(wrong):
    code, found, _ = wrong("--base-url", "http://127.0.0.1:1")
    assert (code, found.keys()) == (4, {"endpoint"})
    assert "127.0.0.1 is spelled right" in found["endpoint"]["remedy"]


def test_a_router_with_a_path_prefix(wrong):
    with receiver(answering()) as router:
        code, _, found = wrong("--base-url", f"{router.url}/some/prefix/")
    assert (code, found["model"]["state"]) == (0, "note")
    assert [one.path for one in router.asked] == [f"/some/prefix/v1beta/models/{MODEL}"]
    assert router.asked[0].headers["x-goog-api-key"] == "sandbox"


def test_a_router_without_its_path_prefix(wrong):
    with receiver(answering(HTML, 404)) as router:
        code, found, _ = wrong("--base-url", router.url)
    assert (code, found.keys()) == (4, {"endpoint"})
    assert "path prefix" in found["endpoint"]["remedy"]


def test_a_router_that_lists_models_and_describes_none(wrong):
    with receiver(answering(HTML, 404), answering(b'{"data": [{"id": "a"}]}')) as router:
        code, _, found = wrong("--base-url", router.url)
    assert (code, found["endpoint"]["state"]) == (0, "note")
    assert router.asked[1].path.startswith("/v1beta/models?")


@pytest.mark.parametrize(("status", "said"), [(503, "wait"), (500, "wait")])
def test_a_service_in_trouble_is_worth_a_note(wrong, status, said):
    with receiver(answering(b'{"error": {"code": 5, "message": "busy"}}', status)) as router:
        code, _, found = wrong("--base-url", router.url)
    assert (code, found["endpoint"]["state"]) == (0, "note")
    assert said in found["endpoint"]["remedy"]


def test_a_model_that_makes_no_pictures_of_requests(wrong):
    body = {"name": f"models/{MODEL}", "supportedGenerationMethods": ["embedContent"]}
    with receiver(answering(json.dumps(body).encode())) as router:
        code, found, _ = wrong("--base-url", router.url)
    assert (code, found.keys()) == (4, {"model"})


@pytest.mark.parametrize(("off_s", "words"), [(600, "10 minutes behind"), (-600, "10 minutes ahead")])
def test_a_clock_that_is_ten_minutes_off(wrong, off_s, words):
    with receiver(answering(off_s=off_s)) as router:
        code, found, _ = wrong("--base-url", router.url)
    assert (code, found.keys()) == (5, {"clock"})
    assert words in found["clock"]["says"]
    assert "set it" in found["clock"]["remedy"]


class Refusing(RealFiles):
    """A folder that takes nothing."""

    def __init__(self, code):
        self.code = code

    def create(self, path):
        raise OSError(self.code, os.strerror(self.code))


class Full(RealFiles):
    """A disk with little room."""

    def __init__(self, free):
        self.free_bytes = free

    def free(self, path):
        return self.free_bytes


def examined(manifest, files):
    found = examine(manifest, Options(sandbox=True), dict(os.environ), files=files)
    return found.exit_code, {one.check: one for one in found.findings}["output"]


def test_an_output_that_cannot_be_written(manifest):
    code, output = examined(manifest(), Refusing(errno.EROFS))
    assert (code, output.state) == (2, "wrong")
    assert "read-only file system" in output.says
    assert "choose another folder with --output" in output.remedy


def test_an_output_that_is_a_file(wrong):
    Path("taken").write_text("")
    code, found, _ = wrong("--output", "taken")
    assert (code, found.keys()) == (2, {"output"})


@pytest.mark.parametrize("files", [Full(10 * 2**20), Refusing(errno.ENOSPC)])
def test_a_full_disk(manifest, files):
    code, output = examined(manifest(), files)
    assert (code, output.state) == (5, "wrong")
    assert "free some space" in output.remedy


def test_a_disk_with_room_for_some_of_the_pictures(manifest):
    code, output = examined(manifest("variants: 500"), Full(200 * 2**20))
    assert (code, output.state) == (0, "note")
    assert "of 1000 pictures" in output.says


def test_a_newer_ledger(wrong, command):
    _make_ledger(command, kind=())
    with database.writing(Path("bulkrender.db").resolve()).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    code, found, _ = wrong()
    assert (code, found.keys()) == (2, {"database"})
    assert found["database"]["remedy"] == "upgrade bulkrender"


def test_an_older_ledger_needs_nothing(wrong, command):
    _make_ledger(command, kind=())
    with database.writing(Path("bulkrender.db").resolve()).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    code, _, found = wrong()
    assert (code, found["database"]["state"]) == (0, "note")


def test_a_ledger_of_the_other_kind(wrong, command):
    _make_ledger(command, kind=("--sandbox", "--database", "sqlite:///bulkrender.db"))
    code, found, _ = wrong()
    assert (code, found.keys()) == (2, {"database"})
    assert "never mix" in found["database"]["says"]


def test_a_file_that_is_no_ledger(wrong):
    Path("bulkrender.db").write_text("hello" * 100)
    code, found, _ = wrong()
    assert (code, found.keys()) == (2, {"database"})


def test_a_network_file_system(wrong, monkeypatch):
    monkeypatch.setattr("runner.ledger.database.file_system", lambda *_: "nfs4")
    code, found, _ = wrong()
    assert (code, found.keys()) == (2, {"database"})
    assert "network file system (nfs4)" in found["database"]["says"]
    assert "local disk" in found["database"]["remedy"]


def test_a_disk_without_room_for_the_ledger(wrong, monkeypatch):
    monkeypatch.setattr("runner.ledger.health.free_bytes", lambda _: 1_000_000)
    code, found, _ = wrong()
    assert (code, found.keys()) == (5, {"database"})


def test_a_manifest_that_is_wrong(live, manifest):
    result = live("doctor", manifest("verfy: full"), "--json")
    found = checks(result)
    assert (result.code, found["manifest"]["state"]) == (2, "wrong")
    assert "did you mean 'verify'" in found["manifest"]["says"]
    assert "database" in found, "the rest is checked all the same"


def test_every_remedy_is_distinct_and_the_gravest_comes_first(live, home, monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY")
    Path("taken").write_text("")
    Path("bulkrender.db").write_text("hello" * 100)
    result = live("doctor", "--output", "taken", "--base-url", "http://127.0.0.1:1", "--json")
    remedies = [one["remedy"] for one in json.loads(result.out)["checks"] if one["remedy"]]
    assert result.code == 2
    assert len(set(remedies)) == len(remedies) == 4


def test_what_a_person_reads_fits_eighty_columns(live, manifest, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("GEMINI_API_KEY", "wrong-key-123")
    result = live("doctor", manifest())
    assert result.code == 4
    assert max(map(len, result.out.splitlines())) <= 80
    assert "1 check is wrong; a run would end with exit code 4" in result.out


def test_the_secret_of_a_webhook(live, manifest, monkeypatch):
    path = manifest("notify: {webhook: 'https://h.example/x', secret_env: HOOK}")
    result = live("doctor", path, "--json")
    assert (result.code, checks(result)["notify"]["state"]) == (2, "wrong")
    monkeypatch.setenv("HOOK", "s")
    assert checks(live("doctor", path, "--json"))["notify"]["state"] == "ok"


def _make_ledger(command, kind):
    Path("made.yaml").write_text(f"job: made\nmodel: {MODEL}\nprompts: [a cat]\n")
    assert command("run", "made.yaml", *kind).code == 0
