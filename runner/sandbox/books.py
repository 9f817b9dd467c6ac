"""The two files of a sandbox: every request as it arrives, and the bill. No key is ever written to either."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner.sandbox.chance import Chance
from runner.sandbox.request import Asked
from runner.sandbox.sample import Charge


class Books:
    """Appends to `requests.jsonl` and `bill.jsonl`; a sandbox on the same folder counts on from there.

    Each line is one write to a file opened for appending: a killed sandbox leaves whole lines.
    """

    def __init__(self, state_dir: Path, now: Callable[[], float]) -> None:
        """Open both files below `state_dir`; `now` is in seconds since 1970. Raises OSError."""
        state_dir.mkdir(parents=True, exist_ok=True)
        self._now = now
        self._requests, self._bill = _Log(state_dir / "requests.jsonl"), _Log(state_dir / "bill.jsonl")
        self._seen: Counter[str] = Counter()
        self.admitted: list[tuple[str, float]] = []
        """(model, when) of the requests that earlier runs of this sandbox counted towards its quotas."""
        self._last_billed_at = 0.0
        for row in self._requests.rows():
            self._seen[row["request"]] += row["admitted"]
            if row["counted"]:
                self.admitted.append((row["model"], row["at"]))

    def see(self, asked: Asked) -> int:
        """Count an admitted request; how often it has now been seen."""
        self._seen[asked.hash] += 1
        return self._seen[asked.hash]

    def arrived(
        self,
        at: float,
        model: str,
        asked: Asked | None,
        *,
        status: str,
        seen: int | None = None,
        counted: bool = False,
    ) -> int:
        """Note a request: `seen` if it was admitted, `counted` if a quota counts it. Returns its number."""
        facts = {
            "request": asked and asked.hash,
            "seen": seen,
            "model": model,
            "size": asked and asked.size,
            "aspect": asked and asked.aspect,
            "prompt": asked and asked.prompt,
            "status": status,
            "admitted": seen is not None,
            "counted": counted,
        }
        return self._requests.append({"at": at, **facts})

    def bill(
        self, asked: Asked, chance: Chance, charge: Charge, *, arrival: int, outcome: str, answered: bool,
        response_id: str, sha256: str | None,
    ) -> None:  # fmt: skip
        """Put a generation on the bill; call before any byte of its answer leaves."""
        # The wall clock may step back; the order of the bill must not.
        self._last_billed_at = max(self._last_billed_at, self._now())
        line = {
            "at": self._last_billed_at,
            "arrival": arrival,
            "request": asked.hash,
            "seen": chance.seen,
            "model": asked.model.id,
            "size": asked.size,
            "aspect": asked.aspect,
            "tier": "standard",
            "lane": "standard",
            "input": charge.input,
            "text": charge.text,
            "image": charge.image,
            "images": charge.images,
            "response_id": response_id,
            "outcome": outcome,
            "answered": answered,
            "sha256": sha256,
            "prompt": asked.prompt,
        }
        self._bill.append(line)

    def close(self) -> None:
        """Close both files."""
        self._requests.close()
        self._bill.close()


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
