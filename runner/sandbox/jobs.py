"""Batch jobs on disk: a record, the input as it was created, and the results line by line as they are done.

A record is replaced as a whole, and a result is whole when its line ends: whatever the moment of a kill, the next
sandbox knows how far each job was. It knows no HTTP and no faults.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from shutil import copyfile

from runner.sandbox.job import Job, from_record
from runner.sandbox.line import rows

CHUNK = 1 << 18
"""Bytes that are read at once."""
Span = tuple[int, int]
"""Where a result begins and how long it is without its line's end."""


class Jobs:
    """All batch jobs of one sandbox, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Pick up what an earlier sandbox left there. Raises OSError."""
        self._folder = folder
        folder.mkdir(exist_ok=True)
        records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
        jobs = sorted((from_record(record) for record in records), key=lambda job: job.number)
        self._jobs = {job.id: job for job in jobs}
        for path in (*folder.glob("*.in"), *folder.glob("*.part")):
            if path.suffix == ".part" or path.stem not in self._jobs:
                path.unlink()

    def __iter__(self) -> Iterator[Job]:
        """All of them, oldest first, deleted ones as well."""
        return iter(list(self._jobs.values()))

    def __getitem__(self, id_: str) -> Job:
        """A job that is known to be there."""
        return self._jobs[id_]

    def find(self, id_: str) -> Job | None:
        """The job with this id that was not deleted."""
        job = self._jobs.get(id_)
        return None if job is None or job.deleted else job

    def unfinished(self) -> list[Job]:
        """Those that something will still become of."""
        return [job for job in self._jobs.values() if not job.finished]

    def next_number(self) -> int:
        """The number of the next job."""
        return 1 + max((job.number for job in self._jobs.values()), default=0)

    def begin(self, job: Job, source: Path) -> None:
        """Add a job whose input is the file `source`, which may vanish afterwards."""
        path = self.input(job)
        try:
            os.link(source, path)
        except OSError:
            copyfile(source, path)
        self.keep(job)

    def keep(self, job: Job) -> None:
        """Write a job down as it is now."""
        path = self._folder / f"{job.id}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(job)) + "\n", encoding="utf-8")
        part.replace(path)
        self._jobs[job.id] = job

    def delete(self, job: Job) -> None:
        """Hide a job; it goes on all the same."""
        self.keep(replace(job, deleted=True))

    def scratch(self, lines: Iterable[bytes]) -> Path:
        """A file with an input that came inline; the caller removes it."""
        path = self._folder / "inline.part"
        with path.open("wb") as file:
            file.writelines(lines)
        return path

    def input(self, job: Job) -> Path:
        """Where its requests lie."""
        return self._folder / f"{job.id}.in"

    def output(self, job: Job) -> Path:
        """Where its results lie, in the order of the requests."""
        return self._folder / f"{job.id}.out"


class Work:
    """The requests of a job that are not done yet, one after the other, and where their results go."""

    def __init__(self, jobs: Jobs, job: Job) -> None:
        """Go on behind the last whole result. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(jobs.output(job), flags, 0o600)
        self.done, whole = _whole(jobs.output(job))
        os.ftruncate(self._file, whole)
        self._rows = islice(rows(jobs.input(job)), self.done, None)

    def request(self) -> tuple[int, bytes]:
        """The next request, with its number in the input file."""
        return next(self._rows)

    def keep(self, result: bytes) -> None:
        """Append the result of that request."""
        rest = memoryview(result)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self.done += 1

    def close(self) -> None:
        """Let go of the files."""
        os.close(self._file)
        self._rows = islice((), 0)


def _whole(path: Path) -> tuple[int, int]:
    """How many lines of a file are whole, and how many bytes they are."""
    count, end, read = 0, 0, 0
    for chunk in _chunks(path, [(0, path.stat().st_size)]):
        count += chunk.count(b"\n")
        if (last := chunk.rfind(b"\n")) >= 0:
            end = read + last + 1
        read += len(chunk)
    return count, end


def spans(path: Path, order: Iterable[int] | None) -> list[Span]:
    """The results in their order, each line without its end."""
    found, start = [], 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                found.append((start, len(line) - 1))
                start += len(line)
    return found if order is None else [found[line] for line in order]


def size(results: list[Span]) -> int:
    """Their bytes, with one between each two of them or behind each."""
    return sum(length + 1 for _, length in results)


def separated(path: Path, results: list[Span], separator: bytes) -> Iterator[bytes]:
    """The results with a separator behind each."""
    for span in results:
        yield from _chunks(path, [span])
        yield separator


def _chunks(path: Path, parts: Iterable[Span]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for start, length in parts:
            file.seek(start)
            left = length
            while left and (chunk := file.read(min(left, CHUNK))):
                left -= len(chunk)
                yield chunk
