"""The output folder as a stranger finds it: which pictures are whole, and whose they are."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Identity = tuple[int, int, int]
"""Inode, size and time of the last change: a file of the same three has the same bytes."""


@dataclass(frozen=True, slots=True)
class Vouched:
    """What a sidecar says."""

    attempt: str
    file: str
    sha256: str


class Shelf:
    """Reads every file once, however often it is asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._digests: dict[Path, tuple[Identity, str]] = {}
        self._sidecars: dict[Path, tuple[Identity, Vouched]] = {}
        self.hashes: dict[str, str] = {}
        """Path below the root -> sha256 of everything that looks like a picture, temporary files included."""
        self.vouched: dict[str, Vouched] = {}
        """Path of the sidecar below the root -> what it says."""

    def look(self) -> None:
        """See what is there now."""
        self.hashes, self.vouched = {}, {}
        for path, identity in _files(self.root):
            name = path.relative_to(self.root).as_posix()
            if path.suffix == ".json":
                self.vouched[name] = self._sidecar(path, identity)
            elif not path.name.endswith(".json.part"):
                self.hashes[name] = self._digest(path, identity)

    def whole(self) -> set[str]:
        """Attempts whose picture is here in full, in place or in its temporary file, with a sidecar that fits."""
        parts = {name.rsplit(".", 2)[1]: digest for name, digest in self.hashes.items() if name.endswith(".part")}
        found = set()
        for name, vouched in self.vouched.items():
            placed = self.hashes.get(beside(name, vouched.file))
            if vouched.sha256 in (placed, parts.get(vouched.attempt)):
                found.add(vouched.attempt)
        return found

    def torn(self) -> Iterator[str]:
        """Files that look finished and are not what a sidecar beside them says."""
        fits = {beside(name, vouched.file): vouched.sha256 for name, vouched in self.vouched.items()}
        for name, digest in self.hashes.items():
            if not name.endswith(".part") and fits.get(name) != digest:
                yield name

    def temporary(self) -> list[str]:
        """What a run left unfinished; probes of the folder are nobody's picture."""
        names = (path.relative_to(self.root).as_posix() for path, _ in _files(self.root))
        return [name for name in names if name.endswith(".part") and ".writable-" not in name]

    def _digest(self, path: Path, identity: Identity) -> str:
        known = self._digests.get(path)
        if known is None or known[0] != identity:
            known = self._digests[path] = (identity, hashlib.sha256(path.read_bytes()).hexdigest())
        return known[1]

    def _sidecar(self, path: Path, identity: Identity) -> Vouched:
        known = self._sidecars.get(path)
        if known is None or known[0] != identity:
            known = self._sidecars[path] = (identity, _read(path))
        return known[1]


def beside(sidecar: str, file: str) -> str:
    """The path of a file in the folder of a sidecar."""
    return sidecar.rpartition("/")[0] + "/" + file


def _read(path: Path) -> Vouched:
    try:
        said = json.loads(path.read_bytes())
        return Vouched(said["attempt"], said["file"], said["sha256"])
    except (ValueError, KeyError):
        return Vouched("", "", "torn")


def _files(folder: Path) -> Iterator[tuple[Path, Identity]]:
    if not folder.exists():
        return
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _files(Path(entry.path))
        else:
            found = entry.stat()
            yield Path(entry.path), (found.st_ino, found.st_size, found.st_mtime_ns)
