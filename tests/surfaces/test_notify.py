"""`notify:`: whoever wants to hear of a run gets its final object, signed, and can never harm it."""

import hashlib
import hmac
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from runner.adapters import webhook
from runner.cli.faces import ConsoleFace
from tests.surfaces.answering import receiver

FAST = ("--sandbox", "--sandbox-latency", 0.01, "--sandbox-faults", "none,details_missing=0,overrun=0")
SECRET = "not-the-key"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(webhook, "PAUSES_S", (0.0, 0.0))


def story():
    return [line for line in Path("bulkrender-sandbox.db.log").read_text().splitlines() if "notify" in line]


def test_a_webhook_gets_the_final_object_signed_and_without_the_key(live, manifest, monkeypatch):
    monkeypatch.setenv("HOOK", SECRET)
    with receiver() as hook:
        path = manifest(f"notify: {{webhook: '{hook.url}/x?y=1', secret_env: HOOK}}")
        result = live("run", path, "--json")
    (asked,) = hook.asked
    assert result.code == 0
    assert json.loads(asked.body) == json.loads(result.out)
    assert (asked.method, asked.path) == ("POST", "/x?y=1")
    assert asked.headers["x-bulkrender-event"] == "done"
    stamped = asked.headers["x-bulkrender-timestamp"].encode() + b"." + asked.body
    expected = hmac.new(SECRET.encode(), stamped, hashlib.sha256).hexdigest()
    assert asked.headers["x-bulkrender-signature"] == f"sha256={expected}"
    assert "x-goog-api-key" not in asked.headers
    assert SECRET not in Path("bulkrender.db.log").read_text()


def test_a_command_gets_it_on_stdin_and_no_key(live, manifest, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "sandbox")
    script = "cat > told.json; echo $BULKRENDER_EVENT; env > environment"
    path = manifest(f"notify: {{command: [sh, -c, '{script}']}}")
    result = live("run", path, "--json")
    assert json.loads(Path("told.json").read_text()) == json.loads(result.out)
    told = Path("environment").read_text()
    assert "BULKRENDER_EVENT=done" in told
    assert "GEMINI_API_KEY" not in told


@pytest.mark.parametrize(
    ("more", "faults", "event", "code"),
    [
        ("", "none,image_safety=1", "failing", 1),
        ("budget: {usd: 0.06}", "none,details_missing=0,overrun=0", "halted", 3),
    ],
)
def test_failing_and_halted_are_told_apart(command, manifest, more, faults, event, code):
    with receiver() as hook:
        path = manifest(f"{more}\nnotify: {{webhook: '{hook.url}'}}")
        result = command("run", path, *FAST[:3], "--sandbox-faults", faults, "--json")
    assert result.code == code
    assert hook.asked[0].headers["x-bulkrender-event"] == event
    assert "x-bulkrender-signature" not in hook.asked[0].headers


def test_only_what_is_wished_for_is_told(command, manifest):
    with receiver() as hook:
        assert command("run", manifest(f"notify: {{webhook: '{hook.url}', on: halted}}"), *FAST).code == 0
    assert hook.asked == []


def test_what_may_pass_is_tried_again(command, manifest):
    with receiver((503, {}, b""), (429, {}, b""), (200, {}, b"")) as hook:
        result = command("run", manifest(f"notify: {{webhook: '{hook.url}'}}"), *FAST)
    assert (result.code, len(hook.asked)) == (0, 3)
    assert "told of j: done" in story()[-1]


@pytest.mark.parametrize(
    ("answer", "times", "said"),
    [
        ((500, {}, b""), 3, "answers HTTP 500"),
        ((410, {}, b""), 1, "answers HTTP 410"),
        ((302, {"location": "http://elsewhere.invalid"}, b""), 1, "answers HTTP 302"),
    ],
)
def test_a_webhook_that_refuses_changes_nothing_and_is_said(command, manifest, answer, times, said):
    with receiver(answer) as hook:
        result = command("run", manifest(f"notify: {{webhook: '{hook.url}/token-in-path'}}"), *FAST)
    assert (result.code, len(hook.asked)) == (0, times)
    assert f"notify: webhook at 127.0.0.1: {said}" in result.err
    assert said in story()[-1]
    assert "token-in-path" not in result.err + "".join(story()), "such addresses are secrets"


def test_nobody_there(command, manifest):
    result = command("run", manifest("notify: {webhook: 'http://127.0.0.1:1/x'}"), *FAST)
    assert result.code == 0
    assert "cannot be reached" in result.err


def test_a_webhook_that_never_answers_is_given_up(command, manifest, monkeypatch):
    monkeypatch.setattr(webhook, "ANSWERS_WITHIN_S", 0.2)
    from socket import create_server

    with create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        result = command("run", manifest(f"notify: {{webhook: 'http://127.0.0.1:{port}/'}}"), *FAST)
    assert result.code == 0
    assert "no answer within 0.2 s" in result.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("[no-such-program-here]", "no such file or directory"),
        ("[sh, -c, 'echo mail is down >&2; exit 7']", "exit code 7: mail is down"),
        ("[sh, -c, 'exec <&-; exit 0']", None),
    ],
)
def test_a_command_that_fails_changes_nothing_and_is_said(command, manifest, words, said):
    result = command("run", manifest(f"notify: {{command: {words}}}"), *FAST)
    assert result.code == 0
    assert (said or "") in result.err
    assert said is not None or "notify" not in result.err


def test_a_command_that_hangs_is_ended_with_all_it_started(command, manifest, monkeypatch):
    monkeypatch.setattr("runner.app.notify.COMMAND_S", 0.3)
    path = manifest("notify: {command: [sh, -c, 'sleep 600 & echo $! > pid; wait']}")
    result = command("run", path, *FAST)
    assert result.code == 0
    assert "ended after 0.3 s" in result.err
    pid = int(Path("pid").read_text())
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]


def test_a_missing_secret_is_said_before_anything_is_bought(command, manifest):
    path = manifest("notify: {webhook: 'https://h.example', secret_env: HOOK_SECRET}")
    result = command("run", path, *FAST)
    assert result.code == 2
    assert "j.yaml:5:9: notify.secret_env: the environment has no HOOK_SECRET" in result.err
    assert not Path("bulkrender-sandbox.db").exists()


@pytest.mark.parametrize(
    ("field", "said"),
    [("{on: done}", "nobody would be told"), ("{command: [a], secret_env: B}", "there is none")],
)
def test_what_cannot_be_meant_is_an_error_of_the_manifest(command, manifest, field, said):
    result = command("plan", manifest(f"notify: {field}"), "--sandbox")
    assert (result.code, said in result.err) == (2, True)


def test_a_disk_that_fails_in_the_middle_is_told_as_well(command, manifest, monkeypatch):
    from runner.core.errors import LocalFailureError

    async def broken(*_):
        raise LocalFailureError("the disk is gone")

    monkeypatch.setattr("runner.app.start.run_jobs", broken)
    with receiver() as hook:
        result = command("run", manifest(f"notify: {{webhook: '{hook.url}'}}"), *FAST, "--json")
    assert result.code == 5
    assert json.loads(hook.asked[0].body) == {"job": "j", "error": "the disk is gone", "exit_code": 5}
    assert hook.asked[0].headers["x-bulkrender-event"] == "halted"


@pytest.mark.parametrize("answer", [KeyboardInterrupt, None])
def test_a_no_to_the_second_job_is_told_to_nobody(live, manifest, monkeypatch, answer):
    first, announce = manifest("notify: {command: [sh, -c, 'cat >> told']}"), ConsoleFace.announce
    second = manifest(name="k.yaml")
    second.write_text(first.read_text().replace("job: j", "job: k"))

    def asked(self, plan, *, ask):
        if plan.campaign.job == "k" and answer:
            raise answer
        return plan.campaign.job == "j" and announce(self, plan, ask=ask)

    monkeypatch.setattr(ConsoleFace, "announce", asked)
    result = live("run", first, second)
    assert result.code == (130 if answer else 2)
    assert json.loads(Path("told").read_text())["job"] == "j"


def test_who_is_told_is_no_part_of_a_picture(command, manifest):
    path = manifest()
    command("run", path, *FAST)
    again = command("plan", manifest("notify: {command: [beep]}"), "--sandbox", "--json")
    assert json.loads(again.out)["tasks"]["done"] == 2
    assert os.path.exists("renders-sandbox")  # noqa: PTH110


def test_the_check_of_the_docs_takes_a_signature_and_nothing_else():
    page = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"hmac": hmac, "hashlib": hashlib, "time": time}
    exec(code, names)
    now, body = str(int(time.time())), b'{"job": "j"}'
    signed = webhook.signature(SECRET, now, body)
    assert names["is_ours"](SECRET.encode(), now, body, signed)
    assert not names["is_ours"](b"other", now, body, signed)
    assert not names["is_ours"](SECRET.encode(), now, body + b" ", signed)
    assert not names["is_ours"](SECRET.encode(), "1", body, webhook.signature(SECRET, "1", body))
