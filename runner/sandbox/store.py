"""Files and half-done uploads on disk: what a killed sandbox had acknowledged is there for the next one.

Each is a record and its bytes, by its token. A record is replaced as a whole, so an upload becomes a file at once;
of an upload in progress as much has arrived as lies there. It knows no HTTP and no faults.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

LIFETIME_S = 48 * 3600
"""After which a file is gone (gemini-api.md §9.2)."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A resumable upload, from its start until it is a file."""

    token: str
    """The secret in its URL."""
    request: str
    """Of its start: what this upload's draws depend on."""
    id: str | None
    """Chosen by the caller."""
    display_name: str
    mime: str
    size: int | None
    """Declared, in bytes."""


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file. Times are seconds of the sandbox's clock."""

    token: str
    number: int
    """Counts the files, in the order in which they were finished."""
    id: str
    display_name: str
    mime: str
    size: int
    sha256: str
    """In hex."""
    created: float
    active_from: float
    failed: bool = False

    @property
    def name(self) -> str:
        """As requests call it."""
        return f"files/{self.id}"

    @property
    def expires(self) -> float:
        """When it is gone."""
        return self.created + LIFETIME_S

    def state(self, now: float) -> str:
        """`PROCESSING`, `ACTIVE` or `FAILED`."""
        if now < self.active_from:
            return "PROCESSING"
        return "FAILED" if self.failed else "ACTIVE"


class Store:
    """All uploads and files of one sandbox, in a folder of its own."""

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        """Pick up what an earlier sandbox left there; `now` is the sandbox's clock. Raises OSError."""
        self._folder, self._now = folder, now
        self._uploads: dict[str, Upload] = {}
        self._files: dict[str, File] = {}
        """By token, oldest first."""
        folder.mkdir(exist_ok=True)
        for path in folder.glob("*.json"):
            self._load(json.loads(path.read_text(encoding="utf-8")))
        self._files = dict(sorted(self._files.items(), key=lambda item: item[1].number))
        for path in folder.glob("*.bin"):
            if path.stem not in self._uploads and path.stem not in self._files:
                path.unlink()

    def _load(self, record: dict[str, dict[str, object]]) -> None:
        if "file" in record:
            file = File(**record["file"])  # type: ignore[arg-type]
            self._files[file.token] = file
        else:
            upload = Upload(**record["upload"])  # type: ignore[arg-type]
            self._uploads[upload.token] = upload

    def begin(self, upload: Upload) -> None:
        """Make room for an upload."""
        self._record(upload.token, {"upload": asdict(upload)})
        self._uploads[upload.token] = upload

    def upload(self, token: str) -> Upload | None:
        """An upload in progress."""
        return self._uploads.get(token)

    def finished(self, token: str) -> File | None:
        """The file that an upload became."""
        self._expire()
        return self._files.get(token)

    def received(self, token: str) -> int:
        """How many bytes of an upload are kept."""
        path = self.path(token)
        return path.stat().st_size if path.exists() else 0

    def path(self, token: str) -> Path:
        """Where the bytes of an upload or a file lie."""
        return self._folder / f"{token}.bin"

    def keep(self, token: str, data: bytes) -> None:
        """Append to an upload."""
        with self.path(token).open("ab", buffering=0) as file:
            file.write(data)

    def digest(self, token: str) -> str:
        """The sha256 of the bytes in hex; takes a second for a gigabyte."""
        if not self.path(token).exists():
            return hashlib.sha256().hexdigest()
        with self.path(token).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def finish(self, file: File) -> None:
        """Let an upload become a file."""
        if not file.size:
            self.keep(file.token, b"")
        self._record(file.token, {"file": asdict(file)})
        del self._uploads[file.token]
        self._files[file.token] = file

    def next_number(self) -> int:
        """The number of the next file."""
        return 1 + max((file.number for file in self._files.values()), default=0)

    def find(self, id_: str) -> File | None:
        """The file with this id, if it has not expired."""
        return next((file for file in self.files() if file.id == id_), None)

    def files(self) -> list[File]:
        """All that have not expired, newest first."""
        self._expire()
        return list(reversed(self._files.values()))

    def bytes(self) -> int:
        """What all files take."""
        return sum(file.size for file in self.files())

    def drop(self, token: str) -> None:
        """Forget an upload or a file. Bytes that a kill leaves behind are removed at the next start."""
        self._uploads.pop(token, None)
        self._files.pop(token, None)
        self._folder.joinpath(f"{token}.json").unlink(missing_ok=True)
        self.path(token).unlink(missing_ok=True)

    def _expire(self) -> None:
        now = self._now()
        for file in [file for file in self._files.values() if file.expires <= now]:
            self.drop(file.token)

    def _record(self, token: str, record: dict[str, object]) -> None:
        path = self._folder / f"{token}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(record) + "\n", encoding="utf-8")
        part.replace(path)
