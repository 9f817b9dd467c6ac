"""Which tasks of a job are meant: by lines of a file, or by the values of their axes. Reads, writes nothing."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.core.errors import UsageError
from runner.core.lifecycle import State
from runner.core.reference import Reference
from runner.core.shape import guess, listed
from runner.core.task import Recipe
from runner.core.yaml12 import shortened
from runner.ledger import Reader, TaskRecord

SHORTEST = 8
"""Characters of a key that may stand for all of it."""
MOST_VALUES = 20
"""Values of an axis that a message lists."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A task with all that its request was made of."""

    task: TaskRecord
    recipe: Recipe
    references: tuple[Reference, ...]


def choose(reader: Reader, job: str, pick: Path | None, where: Sequence[str]) -> list[Chosen]:
    """The chosen tasks, in the order of the file or of the manifest; each has its picture.

    Raises UsageError, with every line that is wrong at once.
    """
    names = reader.job_names()
    if job not in names:
        raise UsageError(f"no job {job!r} in this ledger; it has: {', '.join(names) or 'none'}")
    if (pick is None) != bool(where):
        raise UsageError("say which pictures are meant: by --pick FILE, or by --where AXIS=VALUE")
    root = reader.status(job, since_utc=0).output_root
    tasks = _matching(reader.tasks(job), where) if pick is None else _picked(reader, job, root, pick)
    requests = {key: facts for key, *facts in reader.requests(job, [task.key for task in tasks])}
    return [Chosen(task, *requests[task.key]) for task in tasks]  # type: ignore[arg-type]


def values_of(task: TaskRecord) -> dict[str, str]:
    """What `--where` can ask of a task."""
    own = {"size": task.size, "aspect": task.aspect, "model": task.model}
    return {**own, "prompt": task.prompt_id, "variant": str(task.variant), **task.axes}


# --- by axis ---


def _matching(tasks: Iterable[TaskRecord], where: Sequence[str]) -> list[TaskRecord]:
    conditions = [condition(text) for text in where]
    values: defaultdict[str, dict[str, None]] = defaultdict(dict)
    found, pictures = [], 0
    for task in tasks:
        has = values_of(task)
        for name, value in has.items():
            if len(values[name]) <= MOST_VALUES:
                values[name].setdefault(value)
        pictures += task.state is State.SUCCEEDED
        if task.state is State.SUCCEEDED and all(has.get(name) == value for name, value in conditions):
            found.append(task)
    for name, value in conditions:
        if values and name not in values:
            raise UsageError(f"--where {name}={value}: unknown axis {name!r}{guess(name, values)}")
    if not found:
        raise UsageError(_nothing(conditions, values, pictures))
    return found


def condition(text: str) -> tuple[str, str]:
    """`--where AXIS=VALUE`, taken apart; UsageError if it is not that."""
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise UsageError(f"--where {text}: expected AXIS=VALUE such as size=512")
    return name, "512" if (name, value) == ("size", "0.5K") else value


def _nothing(
    conditions: Sequence[tuple[str, str]], values: Mapping[str, Mapping[str, None]], pictures: int
) -> str:
    if not pictures:
        return "the job has no pictures yet"
    for name, value in conditions:
        known = values[name]
        if value not in known and len(known) <= MOST_VALUES:
            return f"--where {name}={value}: no task has it; {name} is {listed(map(shortened, known))}"
    return f"no picture has {listed((f'{name}={value}' for name, value in conditions), 'and')}"


# --- by line ---


def _picked(reader: Reader, job: str, root: str, pick: Path) -> list[TaskRecord]:
    lines = list(_lines(pick, root))
    if not lines:
        raise UsageError(f"{_name(pick)}: names no picture: expected a key or a path on each line")
    found_by = hits(reader.tasks(job, orphaned=True), {word for _, word in lines})
    picked: dict[str, TaskRecord] = {}
    problems = []
    for number, word in lines:
        found = found_by[word]
        why = _why_not(job, word, found)
        if why:
            problems.append(f"{_name(pick)}:{number}: {why}")
        else:
            picked.setdefault(found[0].key, found[0])
    if problems:
        raise UsageError("\n".join(problems))
    return list(picked.values())


def _why_not(job: str, word: str, found: Sequence[TaskRecord]) -> str | None:
    shown = repr(shortened(word))
    if not found:
        return f"job {job} has no task {shown}: expected its key, or its path below the output folder"
    if len(found) > 1:
        keys = listed([task.key for task in found[:MOST_VALUES]], "and")
        return f"{shown} is ambiguous: it may be {keys}"
    if found[0].state is not State.SUCCEEDED:
        return f"{shown} is {found[0].state.value}, so it has no picture"
    return None


def hits(tasks: Iterable[TaskRecord], words: set[str]) -> dict[str, list[TaskRecord]]:
    """The tasks that each word may mean: by key or path, and where nothing has that name, by the start of a key.

    A picture that a task of the manifest and an orphan both claim is the former's, which comes first.
    """
    lengths = sorted({len(word) for word in words if len(word) >= SHORTEST})
    exact: dict[str, list[TaskRecord]] = {}
    started: dict[str, list[TaskRecord]] = {word: [] for word in words}
    for task in tasks:
        path = task.path or ""
        for name in {task.key, path, path.rpartition(".")[0]} & words:
            exact.setdefault(name, [task])
        for length in lengths:
            if (start := task.key[:length]) in words:
                started[start].append(task)
    return {**started, **exact}


def _lines(pick: Path, root: str) -> Iterator[tuple[int, str]]:
    """(number, word) of the lines that name something."""
    try:
        raw = sys.stdin.buffer.read() if pick == Path("-") else pick.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"--pick {pick}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"--pick {pick}: not UTF-8: byte 0x{raw[error.start]:02x} at {error.start}") from None
    for number, line in enumerate(text.split("\n"), 1):
        word = line.strip().removeprefix(f"{root}/").removeprefix("./")
        if word and not word.startswith("#"):
            yield number, word


def _name(pick: Path) -> str:
    return "stdin" if pick == Path("-") else str(pick)
