"""What a sandbox writes down: requests as they arrive, the bill, files, batches. Never a key."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner.sandbox.clock import Clock, Instant
from runner.sandbox.quota import Counted, Weight
from runner.sandbox.request import Asked
from runner.sandbox.sample import Charge, Sample


@dataclass(slots=True)
class Deed:
    """One request to the Files API, as far as it is understood so far."""

    op: str
    """`start`, `upload`, `finalize`, `query`, `cancel`, `get`, `list`, `delete`, `download`; `use`: file_gone."""
    request: str | None = None
    """What it is the same as, for the draw of its fault."""
    file: str | None = None
    """`files/ID`."""
    mime: str | None = None
    offset: int | None = None
    """Where its bytes belong."""
    kept: int | None = None
    """How many of them were kept."""
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a batch job."""

    batch: str
    """`batches/ID`."""
    line: int
    """From 0."""
    key: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Begun:
    """A line that was begun, perhaps by a sandbox that was killed within it."""

    arrival: int
    """Its number in `lines.jsonl`."""
    seen: int | None
    failed: bool


@dataclass(slots=True)
class Act:
    """One request to the Batch API, or the end of a job."""

    op: str
    """`create`, `get`, `list`, `cancel`, `delete`; `finish`: the job has reached its last state."""
    batch: str | None = None
    """`batches/ID`."""
    display_name: str | None = None
    keys: int | None = None
    """How many requests the job has."""
    state: str | None = None
    request: str | None = None
    """What it is the same as, for the draw of its fault."""
    fields: str | None = None
    """The part of the answer that was asked for."""
    fault: str | None = None
    refused_by: str | None = None
    """`batch_jobs` or `batch_tokens`."""


class Books:
    """Appends to `requests.jsonl`, `lines.jsonl`, `bill.jsonl`, `files.jsonl`, `batches.jsonl`.

    A sandbox on the same folder counts on from there. `lines.jsonl` is for the requests of batches what
    `requests.jsonl` is for those that come alone; `arrival` on the bill is a number in the one or the other.

    Each line is one write to a file opened for appending: a killed sandbox leaves whole lines.
    """

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        """Open the files below `state_dir`. Raises OSError."""
        self._clock = clock
        self._requests, self._bill = _Log(state_dir / "requests.jsonl"), _Log(state_dir / "bill.jsonl")
        self._files, self._batches = _Log(state_dir / "files.jsonl"), _Log(state_dir / "batches.jsonl")
        self._lines = _Log(state_dir / "lines.jsonl")
        self._seen: Counter[str] = Counter()
        self._turns = Counter(row["request"] for row in self._files.rows() if row["request"])
        self._begun: dict[Place, Begun] = {}
        self._billed = {Place(row["batch"], row["line"]) for row in self._bill.rows() if row.get("batch")}
        self._noted: set[tuple[str, str]] = set()
        """What was noted of batch jobs: (op, name)."""
        self.counted: list[Counted] = []
        """The requests that earlier runs of this sandbox counted towards its quotas."""
        self._last_billed_at = 0.0
        for row in self._requests.rows():
            self._seen[row["request"]] += row["admitted"]
            # Rows of the first releases know the wall's clock only, at speed 1, and requests only.
            at = row.get("clock", row["at"])
            clock.not_before(at)
            if row["counted"]:
                weight = Weight(row.get("tokens", 0), row.get("images", 0), row.get("nanos", 0))
                self.counted.append(Counted(row["model"], at, weight))
        self._recall_batches()

    def _recall_batches(self) -> None:
        for row in self._lines.rows():
            if row["seen"]:
                self._seen[row["request"]] = max(self._seen[row["request"]], row["seen"])
            begun = Begun(row["n"], row["seen"], row["code"] is not None)
            self._begun[Place(row["batch"], row["line"])] = begun
            self._clock.not_before(row["clock"])
        for row in self._batches.rows():
            self._turns[row["request"]] += row["request"] is not None
            self._noted.add((row["op"], row["batch"]))
            self._clock.not_before(row["clock"])

    def seen(self, asked: Asked) -> int:
        """How often a request was admitted."""
        return self._seen[asked.hash]

    def arrived(
        self,
        at: Instant,
        model: str,
        asked: Asked | None,
        *,
        status: str,
        seen: int | None = None,
        weight: Weight | None = None,
        refused_by: str | None = None,
    ) -> int:
        """Note a request; returns its number.

        `seen` counts it among those admitted. `weight` is what the quotas count of it, None where they do not.
        """
        if asked and seen:
            self._seen[asked.hash] = seen
        facts = {
            "request": asked and asked.hash,
            "seen": seen,
            "model": model,
            "size": asked and asked.size,
            "aspect": asked and asked.aspect,
            "prompt": asked and asked.prompt,
            "references": asked and [reference.row() for reference in asked.references],
            "status": status,
            "refused_by": refused_by,
            "admitted": seen is not None,
            "counted": weight is not None,
            **asdict(weight or Weight(0)),
        }
        return self._requests.append({"at": at.wall, "clock": at.clock, **facts})

    def bill(
        self,
        sample: Sample,
        charge: Charge,
        *,
        arrival: int,
        outcome: str,
        answered: bool,
        sha256: str | None,
        place: Place | None = None,
    ) -> None:
        """Put a generation on the bill; call before any byte of its answer leaves.

        `place` is that of a line of a batch, which is on the bill once, however often it is put there.
        """
        if place in self._billed:
            return
        if place:
            self._billed.add(place)
        now, asked = self._clock.read(), sample.asked
        # The wall clock may step back; the order of the bill must not.
        self._last_billed_at = max(self._last_billed_at, now.wall)
        line = {
            "at": self._last_billed_at,
            "clock": now.clock,
            "arrival": arrival,
            "request": asked.hash,
            "seen": sample.chance.seen,
            "model": asked.model.id,
            "size": asked.size,
            "aspect": asked.aspect,
            "tier": sample.tier,
            "lane": "batch" if place else "standard",
            "batch": place and place.batch,
            "line": place and place.line,
            "key": place and place.key,
            "input": charge.input,
            "text": charge.text,
            "image": charge.image,
            "images": charge.images,
            "response_id": sample.response_id(),
            "outcome": outcome,
            "answered": answered,
            "sha256": sha256,
            "prompt": asked.prompt,
        }
        self._bill.append(line)

    def begun(self, place: Place) -> Begun | None:
        """What is known of a line of a batch, if it was begun."""
        return self._begun.get(place)

    def begin(
        self, place: Place, model: str, asked: Asked | None, *, status: str, seen: int | None, code: int | None
    ) -> Begun:
        """Note a line of a batch before it is done: what it will be. `code` is that of the error it ends in."""
        if asked and seen:
            self._seen[asked.hash] = seen
        now = self._clock.read()
        facts = {
            **asdict(place),
            "request": asked and asked.hash,
            "seen": seen,
            "model": model,
            "size": asked and asked.size,
            "aspect": asked and asked.aspect,
            "prompt": asked and asked.prompt,
            "references": asked and [reference.row() for reference in asked.references],
            "status": status,
            "code": code,
        }
        arrival = self._lines.append({"at": now.wall, "clock": now.clock, **facts})
        self._begun[place] = begun = Begun(arrival, seen, code is not None)
        return begun

    def failed(self, batch: str, done: int) -> int:
        """How many of the first lines of a batch job ended in an error."""
        lines = (self._begun.get(Place(batch, line)) for line in range(done))
        return sum(1 for begun in lines if begun and begun.failed)

    def noted(self, op: str, batch: str) -> bool:
        """Whether this was noted of a batch job."""
        return (op, batch) in self._noted

    def batched(self, at: Instant, act: Act, status: str) -> None:
        """Note what became of a request to the Batch API, or of a job."""
        if act.batch:
            self._noted.add((act.op, act.batch))
        self._batches.append({"at": at.wall, "clock": at.clock, **asdict(act), "status": status})

    def turn(self, request: str) -> int:
        """Count a request to the Files or the Batch API; returns how often it came."""
        self._turns[request] += 1
        return self._turns[request]

    def filed(self, at: Instant, deed: Deed, status: str) -> None:
        """Note what became of a request to the Files API."""
        self._files.append({"at": at.wall, "clock": at.clock, **asdict(deed), "status": status})

    def close(self) -> None:
        """Close the files."""
        for log in (self._requests, self._lines, self._bill, self._files, self._batches):
            log.close()


class _Log:
    """A file of JSON lines, numbered from 1 in `n`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lines = sum(1 for _ in self.rows())
        self._mend()

    def rows(self) -> Iterator[dict[str, Any]]:
        """What was written so far; a line torn by a full disk is passed over."""
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue

    def _mend(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def append(self, row: dict[str, Any]) -> int:
        self._lines += 1
        os.write(self._file, json.dumps({"n": self._lines, **row}).encode() + b"\n")
        return self._lines

    def close(self) -> None:
        os.close(self._file)
