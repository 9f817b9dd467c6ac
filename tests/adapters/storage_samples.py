"""Assignments, answers, small real pictures and one-line ways to keep them, for tests of storage."""

import functools
import hashlib
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from PIL import Image

from runner.adapters.files import RealFiles
from runner.adapters.sidecar import MADE, Sidecar, dump
from runner.adapters.storage import FolderStore
from runner.core.lifecycle import Answer, Made, Unstored, Unusable, Usage
from runner.core.task import Assignment, Recipe
from tests.adapters.lossy_files import Tap, TappedFiles

Kept = Made | Unusable | Unstored

TOKEN = "0123456789abcdef0123456789abcdef"
OTHER_TOKEN = "fedcba9876543210fedcba9876543210"
KEY = "k1-aaaaaaaaaaaaaaaaaaaaaaaa"
OTHER_KEY = "k1-bbbbbbbbbbbbbbbbbbbbbbbb"
ANSWER = Answer(
    finish_reason="STOP",
    text='Hier ist dein "Bild": 🍌',
    usage=Usage(prompt=12, candidates=1573, thoughts=240, image=1120, total=1825),
    pictures=1,
    response_id="r-1",
    model_version="gemini-3.1-flash-image-preview",
    tier="standard",
    notices=("the model retires soon",),
)


def task(**changes: Any) -> Assignment:
    """An attempt to buy 64 x 64 pixels, small so that tests stay quick."""
    fields: dict[str, Any] = {
        "token": TOKEN,
        "job": "banana",
        "key": KEY,
        "prompt": "a banana",
        "recipe": Recipe("gemini-3.1-flash-image-preview"),
        "size": "1K",
        "send_size": True,
        "aspect": "1:1",
        "stem": "banana/poster",
        "pixels": (64, 64),
        "image_tokens": 1120,
    }
    return Assignment(**fields | changes)


@functools.cache
def picture(kind: str = "PNG", size: tuple[int, int] = (64, 64), seed: int = 0, **options: Any) -> bytes:
    """Noise as a real picture; another seed is another picture."""
    noise = random.Random(seed).randbytes(size[0] * size[1] * 3)
    stream = io.BytesIO()
    Image.frombytes("RGB", size, noise).save(stream, kind, **options)
    return stream.getvalue()


def sidecar(data: bytes, file: str, **changes: Any) -> Sidecar:
    """The sidecar that vouches for `data` under the name `file`."""
    fields: dict[str, Any] = {
        "key": KEY,
        "job": "banana",
        "attempt": TOKEN,
        "model": "gemini-3.1-flash-image-preview",
        "prompt": "a banana",
        "size": "1K",
        "aspect": "1:1",
        "verdict": MADE,
        "detail": "",
        "file": file,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "mime": "image/png",
        "width": 64,
        "height": 64,
        "answer": ANSWER,
    }
    return Sidecar(**fields | changes)


async def keep(store: FolderStore, data: bytes | None = None, assignment: Assignment | None = None) -> Kept:
    async with store.landing(assignment or task()) as landing:
        landing.restart("image/png")
        landing.write(picture() if data is None else data)
        return await landing.keep(ANSWER)


def kept(store: FolderStore, data: bytes | None = None, assignment: Assignment | None = None) -> Kept:
    return anyio.run(keep, store, data, assignment)


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def put_pair(root: Path, path: str, data: bytes, **changes: str) -> None:
    """A picture of ours with its sidecar."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    target.with_suffix(".json").write_bytes(dump(sidecar(data, target.name, **changes)))


def tapped(root: Path, tap: Tap, on_blocked: Callable[[str | None], None] = lambda _: None) -> FolderStore:
    return FolderStore(root, files=TappedFiles(RealFiles(), tap), retry_s=0, on_blocked=on_blocked)
