"""The Batch API by hand, on a clock that is driven."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.sandbox.filing import KEY, Api, filing, rows
from tests.sandbox.wire import MODEL, Json, asking

WALL = 1.8e9
HOUR = 3600.0


def line(key: str, prompt: str | None = None, **config: Any) -> Json:
    """A line of an input; small pictures, so that tests are quick."""
    size = {"imageConfig": {"imageSize": "512"}, "responseModalities": ["IMAGE"]}
    return {"key": key, "request": asking(prompt or f"a picture of {key}", **(size | config))}


def lines(count: int) -> list[Json]:
    return [line(f"k{n}") for n in range(count)]


def jsonl(*items: Json) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


@dataclass
class Batching:
    """A client that hides nothing, and the wall's clock of its sandbox."""

    api: Api
    wall: list[float] = field(default_factory=lambda: [WALL])

    @property
    def http(self) -> httpx.Client:
        return self.api.http

    def later(self, seconds: float = HOUR) -> None:
        self.wall[0] += seconds

    def upload(self, *items: Json) -> str:
        name: str = self.api.put(jsonl(*items), "application/jsonl")["name"]
        return name

    def post(self, source: Json, name: str = "a job", model: str = MODEL) -> httpx.Response:
        body = {"batch": {"displayName": name, "inputConfig": source}}
        return self.http.post(f"/v1beta/models/{model}:batchGenerateContent", json=body, headers=KEY)

    def submit(self, *items: Json, name: str = "a job", **given: Any) -> httpx.Response:
        return self.post({"fileName": self.upload(*items)}, name, **given)

    def create(self, *items: Json, name: str = "a job") -> str:
        """The name of a new job with a file of these lines."""
        answer = self.submit(*items, name=name)
        assert answer.status_code == 200, answer.text
        created: str = answer.json()["name"]
        return created

    def get(self, name: str, **params: Any) -> Json:
        answer = self.api.get(name, **params)
        assert answer.status_code == 200, answer.text
        shown: Json = answer.json()
        return shown

    def state(self, name: str) -> str:
        state: str = self.get(name)["metadata"]["state"]
        return state.removeprefix("BATCH_STATE_")

    def cancel(self, name: str) -> httpx.Response:
        return self.http.post(f"/v1beta/{name}:cancel", headers=KEY)

    def listed(self, **params: Any) -> list[str]:
        """Names of one page."""
        return [item["name"] for item in self.get("batches", **params).get("operations", ())]

    def download(self, name: str, form: str = "/v1beta") -> httpx.Response:
        return self.http.get(
            f"{form}/files/batch-{name.removeprefix('batches/')}:download", params={"alt": "media"}, headers=KEY
        )

    def results(self, name: str) -> list[Json]:
        answer = self.download(name)
        assert answer.status_code == 200, answer.text
        return [json.loads(found) for found in answer.content.splitlines()]

    def book(self, name: str) -> list[Json]:
        return rows(self.api.state_dir, f"{name}.jsonl")


@contextmanager
def batching(state_dir: Path, wall: list[float] | None = None, **options: Any) -> Iterator[Batching]:
    wall = wall or [WALL]
    with filing(state_dir, now=lambda: wall[0], **options) as api:
        yield Batching(api, wall)
