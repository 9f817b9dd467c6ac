"""What a sandbox writes down: requests as they arrive, the bill, what the Files API was asked. Never a key."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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


class Books:
    """Appends to `requests.jsonl`, `bill.jsonl`, `files.jsonl`; a sandbox on the same folder counts on from there.

    Each line is one write to a file opened for appending: a killed sandbox leaves whole lines.
    """

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        """Open the files below `state_dir`. Raises OSError."""
        self._clock = clock
        self._requests, self._bill = _Log(state_dir / "requests.jsonl"), _Log(state_dir / "bill.jsonl")
        self._files = _Log(state_dir / "files.jsonl")
        self._seen: Counter[str] = Counter()
        self._turns = Counter(row["request"] for row in self._files.rows() if row["request"])
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
        self, sample: Sample, charge: Charge, *, arrival: int, outcome: str, answered: bool, sha256: str | None
    ) -> None:
        """Put a generation on the bill; call before any byte of its answer leaves."""
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
            "lane": "standard",
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

    def turn(self, request: str) -> int:
        """Count a request to the Files API; returns how often it came."""
        self._turns[request] += 1
        return self._turns[request]

    def filed(self, at: Instant, deed: Deed, status: str) -> None:
        """Note what became of a request to the Files API."""
        self._files.append({"at": at.wall, "clock": at.clock, **asdict(deed), "status": status})

    def close(self) -> None:
        """Close the files."""
        for log in (self._requests, self._bill, self._files):
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
