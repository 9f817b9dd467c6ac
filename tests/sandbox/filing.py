"""The Files API by hand: each step of a resumable upload as one request."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.sandbox.wire import MODEL, Json, asking, serving

KEY = {"x-goog-api-key": "sandbox"}


def rows(state_dir: Path, name: str) -> list[Json]:
    return [json.loads(line) for line in (state_dir / name).read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class Api:
    """A client that hides nothing."""

    http: httpx.Client
    state_dir: Path

    def start(
        self, size: int | None, mime: str = "image/png", version: str = "v1beta", **file: Any
    ) -> httpx.Response:
        headers = {
            **KEY,
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Type": mime,
        }
        if size is not None:
            headers["X-Goog-Upload-Header-Content-Length"] = str(size)
        return self.http.post(f"/upload/{version}/files", headers=headers, json={"file": file})

    def begin(self, size: int | None, mime: str = "image/png", **file: Any) -> str:
        """The URL of a new upload."""
        answer = self.start(size, mime, **file)
        assert answer.status_code == 200, answer.text
        return answer.headers["X-Goog-Upload-URL"]

    def send(self, url: str, command: str, content: Any = b"", offset: int | None = None) -> httpx.Response:
        headers = {"X-Goog-Upload-Command": command}
        if offset is not None:
            headers["X-Goog-Upload-Offset"] = str(offset)
        return self.http.post(url, headers=headers, content=content)

    def received(self, url: str) -> tuple[str, int]:
        answer = self.send(url, "query")
        assert answer.status_code == 200, answer.text
        return answer.headers["X-Goog-Upload-Status"], int(answer.headers["X-Goog-Upload-Size-Received"])

    def put(self, data: bytes, mime: str = "image/png", **file: Any) -> Json:
        """Upload at once; the File."""
        answer = self.send(self.begin(len(data), mime, **file), "upload, finalize", data, 0)
        assert (answer.status_code, answer.headers["X-Goog-Upload-Status"]) == (200, "final"), answer.text
        kept: Json = answer.json()["file"]
        return kept

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.http.get(f"/v1beta/{path}", params=params, headers=KEY)

    def delete(self, name: str) -> httpx.Response:
        return self.http.delete(f"/v1beta/{name}", headers=KEY)

    def generate(self, *parts: Json, model: str = MODEL, **config: Any) -> httpx.Response:
        body = asking(**config)
        body["contents"][0]["parts"] += parts
        return self.http.post(f"/v1beta/models/{model}:generateContent", json=body, headers=KEY)

    def deeds(self) -> list[Json]:
        return rows(self.state_dir, "files.jsonl")

    def requests(self) -> list[Json]:
        return rows(self.state_dir, "requests.jsonl")


@contextmanager
def filing(state_dir: Path, **options: Any) -> Iterator[Api]:
    """A sandbox in a thread, and a client of it."""
    with serving(state_dir, **options) as sandbox, talking(f"http://127.0.0.1:{sandbox.port}", state_dir) as api:
        yield api


@contextmanager
def talking(base_url: str, state_dir: Path) -> Iterator[Api]:
    with httpx.Client(base_url=base_url, timeout=30) as http:
        yield Api(http, state_dir)


def error(answer: httpx.Response) -> tuple[int, str, str]:
    """HTTP status, its name in the envelope, the message."""
    found = answer.json()["error"]
    assert found["code"] == answer.status_code
    return answer.status_code, found["status"], found["message"]
