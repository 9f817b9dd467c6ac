"""`plan --show`: the request of one task, just as the client sends it."""

import base64
import hashlib
import json
import os
import sqlite3
from pathlib import Path

import anyio
import httpx
import pytest
from PIL import Image
from pydantic import SecretStr

from runner.adapters.gemini import GeminiProvider
from runner.app.settings import Options, resolve
from runner.core.catalog import builtin

CAT = "j/a/512-1x1-1"


@pytest.fixture
def drawn(home):
    """A manifest with references of every kind."""
    Image.new("RGB", (64, 64), "red").save("logo.png")
    path = Path("r.yaml")
    path.write_text(
        "job: r\nmodel: gemini-3.1-flash-image-preview\n"
        "prompts: [{id: a, text: ein Käse, references: [logo.png, files/abc, 'https://example.com/b.jpg']}]\n"
        "generation: {thinking: high, system: No words., safety: {HARASSMENT: BLOCK_NONE}}\n"
        "limits: {request_timeout_s: 100}\n"
    )
    return path


def test_the_request_that_is_shown_is_one_that_the_service_answers(live, manifest, service):
    shown = json.loads(live("plan", manifest(), "--show", CAT, "--json").out)
    assert shown["url"] == f"{service[1]}/v1beta/models/gemini-3.1-flash-image-preview:generateContent"
    assert shown["headers"].pop("x-goog-api-key") == "(from the environment)"
    headers = {**shown["headers"], "x-goog-api-key": "sandbox"}
    answer = httpx.request(shown["method"], shown["url"], headers=headers, json=shown["body"])
    assert answer.status_code == 200
    assert answer.json()["candidates"]


def test_the_headers_are_those_of_the_client(command, manifest):
    shown = json.loads(command("plan", manifest("limits: {request_timeout_s: 100}"), "--show", CAT, "--json").out)
    sent = anyio.run(_headers)
    masked = shown["headers"].pop("x-goog-api-key")
    assert masked == "(from the environment)"
    assert shown["headers"].items() <= sent.items()


async def _headers():
    async with GeminiProvider(
        base_url="https://example.com", key=SecretStr("k"), request_timeout_s=100, connections=1, catalog=builtin()
    ) as client:
        return dict(client._http.headers)


def test_references_are_in_it_in_full_or_named(command, drawn):
    shown = json.loads(command("plan", drawn, "--show", "r/a/1K-1x1-1.png", "--json").out)
    data = Path("logo.png").read_bytes()
    assert shown["body"]["contents"][0]["parts"] == [
        {"text": "ein Käse"},
        {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(data).decode()}},
        {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.com/b.jpg"}},
    ]
    assert shown["body"]["generationConfig"]["thinkingConfig"] == {"thinkingLevel": "HIGH"}
    text = command("plan", drawn, "--show", "r/a/1K-1x1-1").out
    sha = hashlib.sha256(data).hexdigest()
    assert f'"data": "<logo.png, image/png, {len(data)} bytes, sha256 {sha}>"' in text
    assert "x-goog-api-key: (from the environment)\n" in text
    assert "x-server-timeout: 100\n" in text
    assert '"text": "ein Käse"' in text
    assert text.startswith("POST https://generativelanguage.googleapis.com/v1beta/models/")


def test_a_reference_of_many_tasks_is_uploaded(command, home):
    Image.effect_noise((1_500, 1_500), 90).save("noise.png")
    Path("r.yaml").write_text(
        "job: r\nmodel: gemini-3.1-flash-image-preview\nvariants: 20\n"
        "prompts: [{id: a, text: a cat, references: [noise.png]}]\n"
    )
    shown = json.loads(command("plan", "r.yaml", "--show", "r/a/1K-1x1-7", "--json").out)
    assert shown["body"]["contents"][0]["parts"][1] == {
        "fileData": {"mimeType": "image/png", "fileUri": "(uploaded when sent)"}
    }


def test_an_upload_that_is_remembered_is_named(live, home):
    Image.effect_noise((1_500, 1_500), 90).save("noise.png")
    Path("r.yaml").write_text(
        "job: r\nmodel: gemini-3.1-flash-image-preview\nvariants: 20\n"
        "prompts: [{id: a, text: a cat, references: [noise.png]}]\n"
    )
    live("run", "r.yaml", "--budget", "0.01", "--json")
    sha = hashlib.sha256(Path("noise.png").read_bytes()).hexdigest()
    with sqlite3.connect("bulkrender.db") as connection:
        [[endpoint]] = connection.execute("SELECT DISTINCT endpoint FROM upload").fetchall() or [[_endpoint()]]
        for uri, expires_at in (("https://x/files/new", 9e9), ("https://x/files/old", 1.0)):
            row = (endpoint, sha, "files/x", uri, "image/png", expires_at)
            connection.execute("INSERT OR REPLACE INTO upload VALUES (?, ?, ?, ?, ?, ?)", row)
            connection.commit()
            shown = live("plan", "r.yaml", "--show", "r/a/1K-1x1-7").out
            assert ('"fileUri": "https://x/files/new"' in shown) is (expires_at > 1)
            assert ('"fileUri": "(uploaded when sent)"' in shown) is (expires_at == 1)


def _endpoint():
    return resolve(Options(), os.environ).endpoint


def test_a_task_is_named_by_key_start_of_it_stem_or_path(live, manifest):
    path = manifest()
    live("run", path)
    row = json.loads(live("export", "j").out.splitlines()[0])
    wanted = live("plan", path, "--show", row["key"]).out
    assert '"text": "a cat"' in wanted
    for word in (row["key"][:14], row["path"], CAT, f"renders/{row['path']}"):
        assert live("plan", path, "--show", word).out == wanted


def test_an_unknown_task_is_an_error_with_what_is_near(command, manifest):
    path = manifest()
    assert command("plan", path, "--show", "j/a").out
    assert "job j has no such task: did you mean j/a/512-1x1-1" in command("plan", path, "--show", "a/512").err
    assert "did you mean j/a/512-1x1-1" in command("plan", path, "--show", "j/a/512-1x1-2").err
    assert "expected a task's key" in command("plan", path, "--show", "zzzzzzzzz").err
    assert command("plan", path, "--show", "k1-").code == 2
    assert command("plan", manifest("variants: 9"), "--show", "j/a/512").err.startswith(
        "error: --show j/a/512 is ambiguous: j/a/512-1x1-1, j/a/512-1x1-2, "
    )
    assert "--show a is ambiguous: j/a/512-1x1-1" in command("plan", manifest("variants: 9"), "--show", "a").err


def test_a_prompt_with_one_task_names_it(command, manifest):
    assert '"text": "a cat"' in command("plan", manifest(), "--show", "a").out


def test_a_size_that_the_model_cannot_be_told_is_not_sent(command, manifest):
    path = manifest(size="[1K]")
    path.write_text(path.read_text().replace("gemini-3.1-flash-image-preview", "gemini-2.5-flash-image"))
    shown = json.loads(command("plan", path, "--show", "j/a/1K-1x1-1", "--json").out)
    assert "imageSize" not in shown["body"]["generationConfig"]["imageConfig"]
