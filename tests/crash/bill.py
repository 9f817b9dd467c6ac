"""The sandbox's bill, priced with literals: nothing here comes from the catalog or from the runner."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INPUT, TEXT, IMAGE = 250, 1_500, 60_000
"""Nano-dollars a token, from the owner's price list: $0.25, $1.50 and $60.00 a million."""
IMAGE_TOKENS = {"512": 747, "1K": 1_120, "2K": 1_680, "4K": 2_520}
"""Of one picture: about $0.045, $0.067, $0.101 and $0.151 at that price."""
TEXT_TOKENS = 1_500
"""Text and thinking that are set aside for an answer at minimal thinking."""
SPOILED = frozenset({"wrong_pixels", "corrupt_image"})
"""Outcomes with a picture that nobody can use: it is kept, and another is bought."""

Task = tuple[str, str, str]
"""Prompt, size, aspect: what the other side knows a task by. Every task of a test has its own."""


@dataclass(frozen=True, slots=True)
class Billed:
    """One line of the bill."""

    task: Task
    nanos: int
    images: int
    outcome: str
    answered: bool
    response_id: str
    sha256: str | None

    @property
    def good(self) -> bool:
        """Whether a picture that can be used went out whole."""
        return self.images > 0 and self.answered and self.outcome not in SPOILED

    @property
    def above_nanos(self) -> int:
        """What it cost above the worst case of its task; 0 for all but the overruns that the sandbox draws."""
        return max(0, self.nanos - worst_nanos(self.task))


def worst_nanos(task: Task) -> int:
    """The worst case of one try that stays within what is set aside: a token of input is at least a byte."""
    prompt, size, _ = task
    return IMAGE_TOKENS[size] * IMAGE + TEXT_TOKENS * TEXT + len(prompt.encode()) * INPUT


def read_bill(state: Path) -> list[Billed]:
    """Every line so far, in the order of the bill."""
    return [
        Billed(
            task=task_of(row),
            nanos=row["input"] * INPUT + row["text"] * TEXT + row["image"] * IMAGE,
            images=row["images"],
            outcome=row["outcome"],
            answered=row["answered"],
            response_id=row["response_id"],
            sha256=row["sha256"],
        )
        for row in rows(state / "bill.jsonl")
    ]


def read_requests(state: Path) -> list[Task]:
    """Every request that arrived, in order."""
    return [task_of(row) for row in rows(state / "requests.jsonl")]


def task_of(row: dict[str, Any]) -> Task:
    """What a line of either file is about."""
    return row["prompt"], row["size"], row["aspect"]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are whole: the sandbox may be writing one."""
    if path.exists():
        for line in path.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)
