"""Keys, versions, routes and bodies, over HTTP."""

import json

import pytest

from runner.core.catalog import builtin
from tests.sandbox.wire import MODEL, asking, pictures, serving


def test_keys(tmp_path):
    """Without a key 403, with a wrong one 400; header or query; and none of them is ever written down."""
    with serving(tmp_path, key="right-secret") as sandbox:
        missing, wrong = sandbox.post(asking(), key=None), sandbox.post(asking(), key="wrong-secret")
        assert missing.status == 403
        assert missing.json["error"]["status"] == "PERMISSION_DENIED"
        assert wrong.status == 400
        assert wrong.json["error"]["details"][0]["reason"] == "API_KEY_INVALID"
        assert sandbox.post(asking(), key="right-secret").status == 200
        path = f"/v1beta/models/{MODEL}:generateContent?key=right-secret"
        assert sandbox.send("POST", path, json.dumps(asking()).encode(), key=None).status == 200
        assert sandbox.post(asking(), key="kö").status == 400
    assert [row["status"] for row in sandbox.requests()] == ["http_403", "http_400", "image", "image", "http_400"]
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_both_versions_are_mounted(tmp_path, version):
    with serving(tmp_path) as sandbox:
        answer = sandbox.post(asking(responseModalities=["IMAGE"]), version=version)
        assert answer.status == 200
        assert answer.headers["x-gemini-service-tier"] == "standard"
        assert answer.headers["content-type"] == "application/json; charset=UTF-8"
        unknown = sandbox.post(asking(), model="gemini-nonexistent", version=version)
    assert unknown.json["error"]["message"] == (
        f"models/gemini-nonexistent is not found for API version {version}, or is not supported for "
        "generateContent. Call ModelService.ListModels to see the list of available models and their supported "
        "methods."
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/v1alpha/models/{MODEL}:generateContent"),
        ("POST", f"/v1beta/models/{MODEL}:countTokens"),
        ("POST", f"/v1beta/models/{MODEL}"),
        ("GET", f"/v1beta/models/{MODEL}:generateContent"),
        ("POST", "/upload/v1alpha/files"),
        ("GET", "/upload/v1beta/files"),
        ("POST", "/v1beta/files"),
        ("GET", "/"),
    ],
)
def test_what_is_not_there_is_a_page(tmp_path, method, path):
    with serving(tmp_path) as sandbox:
        answer = sandbox.send(method, path, b"{}")
    assert answer.status == 404
    assert answer.headers["content-type"].startswith("text/html")


def test_models(tmp_path):
    """The list in pages and one by one, with the same names."""
    with serving(tmp_path) as sandbox:
        names, token = [], ""
        while True:
            page = sandbox.send("GET", f"/v1beta/models?pageSize=3&pageToken={token}").json
            names += [model["name"] for model in page["models"]]
            if not (token := page.get("nextPageToken", "")):
                break
        assert names == [f"models/{id_}" for id_ in builtin().models]
        assert sandbox.send("GET", f"/v1/{names[0]}").json["name"] == names[0]
        assert sandbox.send("GET", "/v1beta/models/nobody").status == 404
        assert sandbox.send("GET", "/v1beta/models?pageSize=many").status == 400
        assert sandbox.send("GET", "/v1beta/models", key=None).status == 403


def test_retired_models(tmp_path):
    with serving(tmp_path, retired=frozenset({MODEL})) as sandbox:
        gone, fine = sandbox.post(asking()), sandbox.post(asking(), model="gemini-3.1-flash-image")
    assert (gone.status, gone.json["error"]["status"]) == (404, "NOT_FOUND")
    assert "is no longer available" in gone.json["error"]["message"]
    assert fine.status == 200


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"contents": NaN}', b"[" * 100_000])
def test_bodies_that_are_no_json(tmp_path, content):
    with serving(tmp_path) as sandbox:
        answer = sandbox.send("POST", f"/v1beta/models/{MODEL}:generateContent", content)
    assert answer.status == 400
    assert answer.json["error"]["message"].startswith("Invalid JSON payload received.")


def test_rejected_requests_are_neither_seen_nor_billed(tmp_path):
    with serving(tmp_path) as sandbox:
        sandbox.post(asking(imageConfig={"imageSize": "1k"}))
        sandbox.post(asking())
    assert [(row["status"], row["seen"]) for row in sandbox.requests()] == [("http_400", None), ("image", 1)]
    assert [row["seen"] for row in sandbox.bill()] == [1]


def test_words_only_where_no_picture_was_asked_for(tmp_path):
    with serving(tmp_path) as sandbox:
        answer = sandbox.post(asking(responseModalities=["TEXT"])).json
    assert not pictures(answer)
    assert sandbox.bill()[0]["images"] == 0


def test_prompts_arrive_letter_by_letter(tmp_path):
    prompts = ['"quoted" \\ back', "新年快乐 🍌", "tab\tline\nend\x00", "a" * 5000, "  spaces  "]
    with serving(tmp_path) as sandbox:
        for prompt in prompts:
            assert sandbox.post(asking(prompt)).status == 200
    assert [row["prompt"] for row in sandbox.requests()] == prompts
    assert [row["prompt"] for row in sandbox.bill()] == prompts
