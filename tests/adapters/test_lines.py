"""The input file of a batch: one valid line for each request, or nothing."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.adapters import lines
from runner.adapters.files import RealFiles
from runner.adapters.lines import LineError, line, write_lines
from runner.adapters.request import content
from runner.core.reference import Part
from runner.core.task import Assignment, Recipe
from tests.adapters.wire_server import MODEL, assignment, recorded

URI = "https://host/v1beta/files/abc"
FILE = Part("image/png", uri=URI)


def written(tmp_path: Path, *items: tuple[str, Assignment]) -> bytes:
    path = tmp_path / "in.jsonl"
    told = write_lines(path, items)
    raw = path.read_bytes()
    assert (told.lines, told.bytes, told.sha256) == (len(items), len(raw), hashlib.sha256(raw).hexdigest())
    assert list(tmp_path.iterdir()) == [path]
    return raw


def test_each_request_is_a_line_under_its_key(tmp_path: Path) -> None:
    cat, fox = assignment("a cat"), assignment("a fox\nat night \N{FOX FACE}", references=(FILE,))
    raw = written(tmp_path, ("k-1", cat), ("k-2", fox))
    assert raw == written(tmp_path, ("k-1", cat), ("k-2", fox))
    assert raw.isascii()
    first, second = map(json.loads, raw.splitlines())
    assert first == {"key": "k-1", "request": content(cat)}
    assert second["request"]["contents"][0]["parts"][1] == {"fileData": {"mimeType": "image/png", "fileUri": URI}}


def test_a_line_has_the_fields_of_the_documented_ones() -> None:
    cells = recorded("batch/documented-notebook-cells.json").read_text()
    assert '\\"key\\": \\"request_1\\", \\"request\\": {\\"contents\\"' in cells
    assert list(json.loads(line("request_1", assignment()))) == ["key", "request"]


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1))
def test_whatever_the_words_a_line_is_one_line_and_means_the_request(prompt: str) -> None:
    task = assignment(prompt)
    try:
        raw = line("k", task)
    except LineError:
        assert not prompt.strip() or not prompt.isascii()
        return
    assert raw.count(b"\n") == 1
    assert json.loads(raw) == {"key": "k", "request": content(task)}


BAD: list[tuple[str, list[tuple[str, Assignment]]]] = [
    ("twice", [("k", assignment()), ("k", assignment("other"))]),
    ("a key is", [("", assignment())]),
    ("a key is", [("k" * 65, assignment())]),
    ("a key is", [("k\n", assignment())]),
    ("without words", [("k", assignment("  "))]),
    ("at the service", [("k", assignment(references=(Part("image/png", base64=b"QUJD"),)))]),
    ("at the service", [("k", assignment(references=(Part("image/png"),)))]),
    ("one model", [("k", assignment()), ("l", assignment(recipe=Recipe(model="gemini-3-pro-image")))]),
    ("a character that is none", [("k", assignment("half \ud83d"))]),
    ("without a line", []),
]


@pytest.mark.parametrize(("why", "items"), BAD)
def test_what_would_fail_the_whole_job_leaves_no_file(
    why: str, items: list[tuple[str, Assignment]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=why):
        write_lines(tmp_path / "in.jsonl", items)
    assert list(tmp_path.iterdir()) == []


def test_both_spellings_of_a_model_are_one(tmp_path: Path) -> None:
    written(tmp_path, ("k", assignment()), ("l", assignment(model=f"models/{MODEL}")))


def test_a_file_too_large_to_upload_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LARGEST_FILE", 500)
    with pytest.raises(ValueError, match="more than 500 bytes after 3 lines"):
        write_lines(tmp_path / "in.jsonl", ((f"k{n}", assignment()) for n in range(9)))


class Noting(RealFiles):
    def __init__(self) -> None:
        self.done: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in {"create", "sync", "rename", "sync_folder", "close"}:
            self.done.append(name)
        return found


def test_the_bytes_are_durable_before_the_name_and_the_name_before_the_return(tmp_path: Path) -> None:
    files = Noting()
    write_lines(tmp_path / "in.jsonl", [("k", assignment())], files)
    assert files.done == ["create", "sync", "close", "rename", "sync_folder"]


def test_a_disk_that_refuses_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"before")

    class Full(RealFiles):
        def sync(self, handle: int) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_lines(path, [("k", assignment())], Full())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_requests_are_taken_one_at_a_time(tmp_path: Path) -> None:
    seen: list[int] = []

    def items(before: Callable[[], None] = lambda: None) -> Any:
        for n in range(3):
            seen.append(n)
            yield f"k{n}", assignment()

    assert write_lines(tmp_path / "in.jsonl", items()).lines == 3
    assert seen == [0, 1, 2]
