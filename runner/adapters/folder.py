"""The output folder as durable steps: parents, files, sidecars, moves, and who sits where.

Blocking throughout. What a picture is worth is judged in `pictures`; when to try again is up to `storage`.
A sidecar vouches for the file it names while size and sha256 fit; such a pair is ours, all else is foreign.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from errno import EEXIST
from pathlib import Path

from runner.adapters import sidecar as sidecars
from runner.adapters.files import Buffer, Files, Kind
from runner.adapters.sidecar import Sidecar
from runner.core.errors import OutputError

SUPERSEDED = "superseded"
REJECTED = "rejected"

_UP = frozenset({".", ".."})


def short(key: str) -> str:
    """What stands for a key in a file name: the end of it, for its start is a version prefix."""
    return key[-12:]


def stem_of(picture: Path) -> Path:
    """A picture's path without its extension."""
    return picture.with_name(picture.stem)


def json_of(stem: Path) -> Path:
    """Where the sidecar of a stem is."""
    return stem.with_name(f"{stem.name}.json")


def digest(data: Buffer) -> str:
    """The sha256 that sidecars carry."""
    return hashlib.sha256(data).hexdigest()


class OutputFolder:
    """Everything below one root. Its methods may be called from several threads, for different stems."""

    def __init__(self, root: Path, files: Files) -> None:
        self.root, self.files = root, files
        self._root = str(root).rstrip("/")
        self._durable: set[Path] = set()

    def locate(self, relative: str) -> Path:
        """The path of a picture or stem below the root; OutputError for one that could leave it."""
        return Path(self.address(relative))

    def address(self, relative: str) -> str:
        """`locate` for a mere look, without the cost of a Path: there may be thousands."""
        parts = relative.split("/")
        if not all(parts) or not _UP.isdisjoint(parts) or "\0" in relative:
            raise OutputError(f"{relative!r} is not a path below the output folder")
        return f"{self._root}/{relative}"

    def relative(self, path: Path) -> str:
        """A path as ledger and outcome have it."""
        return path.relative_to(self.root).as_posix()

    def guard(self, folder: Path) -> None:
        """OutputError if links lead `folder` out of the root."""
        if not self.files.real(folder).is_relative_to(self.files.real(self.root)):
            raise OutputError(f"{folder} leads out of the output folder {self.root}")

    def ensure(self, folder: Path) -> None:
        """Make `folder` and what is above it, every name durable in its parent.

        A folder that is already there may have been made by another thread a moment ago, or by a process that
        died before it could sync: so each is synced once.
        """
        if folder in self._durable:
            return
        if folder == self.root:
            self._ensure_root(self.files.real(folder))
        else:
            self.guard(folder)
            self.ensure(folder.parent)
            self.files.mkdir(folder)
            self.files.sync_folder(folder.parent)
        self._durable.add(folder)

    def forget(self) -> None:
        """Trust no folder any more: something failed, perhaps because one was removed."""
        self._durable.clear()

    def _ensure_root(self, real: Path) -> None:
        if self.files.kind(real.parent) is None:
            self._ensure_root(real.parent)
        self.files.mkdir(real)
        with suppress(PermissionError):  # the parent of an old root need not be ours to open
            self.files.sync_folder(real.parent)

    def write(self, path: Path, data: Buffer) -> None:
        """Write and sync a file; its name is durable only after its folder is synced."""
        handle = self.files.create(path)
        try:
            self.files.write(handle, data)
            self.files.sync(handle)
        except OSError:
            self.remove(path)  # a part of a file is no use, and the disk may be full
            raise
        finally:
            self.files.close(handle)

    def remove(self, path: Path) -> None:
        """Remove a file if that is possible."""
        with suppress(OSError):
            self.files.unlink(path)

    def describe(self, sidecar: Sidecar, stem: Path) -> None:
        """Put a sidecar at a stem, durably; with it every name made in that folder before."""
        temporary = self.sidecar_part(stem.parent, sidecar.attempt)
        self.write(temporary, sidecars.dump(sidecar))
        self.files.rename(temporary, json_of(stem))
        self.files.sync_folder(stem.parent)

    @staticmethod
    def sidecar_part(folder: Path, attempt: str) -> Path:
        """The temporary name of an attempt's sidecar."""
        return folder / f".{attempt}.json.part"

    def read_sidecar(self, path: Path) -> Sidecar | None:
        """The sidecar in a JSON file; None if there is none or it is not ours."""
        if self.files.kind(path) is not Kind.FILE:
            return None
        try:
            return sidecars.load(self.files.read(path))
        except PermissionError:  # what we may not read we did not write
            return None

    def fits(self, sidecar: Sidecar, picture: Path) -> bool:
        """Whether the bytes at `picture` are those that the sidecar vouches for."""
        if self.files.kind(picture) is not Kind.FILE:
            return False
        try:
            return digest(self.files.read(picture)) == sidecar.sha256
        except PermissionError:
            return False

    def free(self, picture: Path) -> bool:
        """Whether a picture and its sidecar may be put here; a sidecar whose picture is gone is no obstacle."""
        there = self.read_sidecar(json_of(stem_of(picture)))
        vouched = json_of(stem_of(picture)) if there is None else picture.with_name(there.file)
        return self.files.kind(vouched) is None and self.files.kind(picture) is None

    def place(self, sidecar: Sidecar, wanted: Path, extension: str, tell: Callable[[str], None]) -> Path:
        """A stem where a picture may land; `tell` takes what a person should hear about it.

        An older picture of ours that sits there moves to `superseded/`. A foreign file stays, and the picture
        goes beside it with its key in the name.
        """
        beside = f"{wanted.name}.{short(sidecar.key)}"
        for name in (wanted.name, beside, f"{beside}-{sidecar.attempt[:12]}"):
            stem = wanted.with_name(name)
            self._displace(sidecar, stem, tell)
            if self._vacant(sidecar, wanted.with_name(f"{name}.{extension}")):
                if stem != wanted:
                    taken = self.relative(wanted)
                    tell(f"a file that is not ours is at {taken}: the picture is beside it, as {name}")
                return stem
        raise FileExistsError(EEXIST, "files that are not ours are in the way", str(wanted))

    def _displace(self, sidecar: Sidecar, stem: Path, tell: Callable[[str], None]) -> None:
        there = self.read_sidecar(json_of(stem))
        if there is None or there.same_attempt(sidecar) or not self.fits(there, stem.with_name(there.file)):
            return
        old = stem.with_name(there.file)
        new, _ = self._superseded(there.key, old)
        tell(f"an earlier picture at {self.relative(old)} moved to {self.relative(new)}")
        self.move(old, new)

    def _vacant(self, sidecar: Sidecar, picture: Path) -> bool:
        there = self.read_sidecar(json_of(stem_of(picture)))
        if there is not None and there.same_attempt(sidecar):
            return self.files.kind(picture) is None or self.fits(sidecar, picture)
        return self.free(picture)

    def supersede(self, key: str, picture: Path) -> Path:
        """Move a picture to `superseded/` beside it, its key in the name; where it went already, say where."""
        new, last = self._superseded(key, picture)
        if self.files.kind(picture) is None:  # it went already, or somebody took it away
            self.drop_sidecar(key, picture)
            return last or new
        self.move(picture, new)
        return new

    def aside(self, key: str, picture: Path) -> Path | None:
        """Where a picture of this key that was superseded last is, if its sidecar says so."""
        _, last = self._superseded(key, picture)
        sidecar = None if last is None else self.read_sidecar(json_of(stem_of(last)))
        return last if sidecar is not None and sidecar.key == key else None

    def _superseded(self, key: str, picture: Path) -> tuple[Path, Path | None]:
        """The first free name for a picture of this key, and the last one that is taken."""
        folder, name = picture.parent / SUPERSEDED, f"{picture.stem}.{short(key)}"
        last, new, number = None, folder / f"{name}{picture.suffix}", 2
        while not self.free(new):
            last, new, number = new, folder / f"{name}-{number}{picture.suffix}", number + 1
        return new, last

    def move(self, old: Path, new: Path) -> None:
        """Move a picture and its sidecar. At every instant a sidecar that fits lies beside the picture."""
        self.ensure(new.parent)
        described = self.read_sidecar(json_of(stem_of(old)))
        if described is not None and described.file == old.name:
            self.describe(replace(described, file=new.name), stem_of(new))
        self.files.rename(old, new)
        self.files.sync_folder(new.parent)
        if new.parent != old.parent:
            self.files.sync_folder(old.parent)
        if described is not None:
            self.drop_sidecar(described.key, old)

    def drop_sidecar(self, key: str, picture: Path) -> None:
        """Remove the sidecar of a picture that has moved away."""
        there = self.read_sidecar(json_of(stem_of(picture)))
        gone = self.files.kind(picture) is None
        if gone and there is not None and (there.key, there.file) == (key, picture.name):
            self.files.unlink(json_of(stem_of(picture)))
            self.files.sync_folder(picture.parent)
