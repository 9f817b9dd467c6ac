"""Pictures whose stems changed: moved with their sidecars, through swaps and chains, never over anything.

Every picture first steps aside to `.moving-<name>` in its own folder, then goes to its new place. The sidecar says
whose picture it is at every instant, so running the same moves again mends a crash in the middle.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.adapters.files import Kind
from runner.adapters.folder import OutputFolder, json_of, stem_of
from runner.adapters.pictures import EXTENSIONS
from runner.core.errors import OutputError


@dataclass(frozen=True, slots=True)
class _Move:
    key: str
    old: Path
    new: Path

    @property
    def aside(self) -> Path:
        return self.old.with_name(f".moving-{self.old.name}")


def relocate(folder: OutputFolder, moves: Sequence[tuple[str, str, str]]) -> list[str]:
    """Carry out moves of (key, old path, new path); returns the keys whose picture is at its new path.

    A picture that is gone, or whose sidecar is gone or names another key, stays and is left out. A move onto
    itself puts back what an interrupted relocation left aside. OutputError, before anything moves, if a new path
    is taken.
    """
    pending = [_Move(key, folder.locate(old), folder.locate(new)) for key, old, new in moves]
    aside = {move: None for move in pending if _is_at(folder, move.key, move.aside)}
    at_old = [move for move in pending if move not in aside and _leaves(folder, move)]
    _check(folder, [*aside, *at_old], at_old)
    for move in at_old:
        folder.move(move.old, move.aside)
    for move in aside:
        folder.drop_sidecar(move.key, move.old)
    for move in [*aside, *at_old]:
        _require_free(folder, [move.new])
        folder.move(move.aside, move.new)
    for move in pending:
        folder.drop_sidecar(move.key, move.aside)
    return [move.key for move in pending if _is_at(folder, move.key, move.new)]


def _leaves(folder: OutputFolder, move: _Move) -> bool:
    return move.old != move.new and _is_at(folder, move.key, move.old)


def _is_at(folder: OutputFolder, key: str, picture: Path) -> bool:
    there = folder.read_sidecar(json_of(stem_of(picture)))
    return (
        there is not None
        and (there.key, there.file) == (key, picture.name)
        and folder.files.kind(picture) is Kind.FILE
    )


def _check(folder: OutputFolder, moves: Sequence[_Move], leaving: Sequence[_Move]) -> None:
    """OutputError if two moves meet, or a new path is taken by what will not move away."""
    if len({_folded_stem(move.new) for move in moves}) < len(moves):
        raise OutputError("two pictures cannot move to one path")
    for parent in {path.parent for move in moves for path in (move.old, move.new)}:
        folder.guard(parent)
    vacated = {_folded_stem(move.old) for move in leaving}
    _require_free(folder, [move.new for move in moves if _folded_stem(move.new) not in vacated])


def _require_free(folder: OutputFolder, pictures: Iterable[Path]) -> None:
    taken = [folder.relative(picture) for picture in pictures if not folder.free(picture)]
    if taken:
        raise OutputError(f"a file is in the way of a picture that moves: {', '.join(sorted(taken))}")


def foreign(folder: OutputFolder, stems: Iterable[str], ours: Container[str]) -> list[str]:
    """Files that occupy a task's stem, in any case and with any extension, and are not ours; sorted paths.

    `ours` holds the paths of known pictures; their sidecars are ours too. A file where a task needs a folder is
    in the way as well. OutputError for a stem that leaves the output folder.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for stem in stems:
        parent, _, name = stem.rpartition("/")
        if parent not in wanted or name in {"", ".", ".."} or "\0" in name:
            folder.address(stem)  # refuses what could leave the folder
        wanted[parent].add(_fold(name))
    found: set[str] = set()
    ways = _Ways(folder)
    for parent, names in wanted.items():
        blocker = ways.file_above(parent)
        found |= _strangers(folder, parent, names, ours) if blocker is None else {blocker}
    return sorted(found)


class _Ways:
    """What is on the way from the root to a folder. Each folder is looked at once: a job may have thousands."""

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self._known: dict[str, str | None] = {"": None}

    def file_above(self, relative: str) -> str | None:
        """The nearest of a folder and those above it that is no folder; links that stay inside are fine.

        OutputError if links lead out of the root.
        """
        if relative not in self._known:
            above = self.file_above(relative.rpartition("/")[0])
            self._known[relative] = relative if self._is_in_the_way(relative) else above
        return self._known[relative]

    def _is_in_the_way(self, relative: str) -> bool:
        kind = self._folder.files.kind(self._folder.address(relative))
        if kind is Kind.OTHER:  # perhaps a link
            path = self._folder.locate(relative)
            self._folder.guard(path)
            kind = self._folder.files.kind(self._folder.files.real(path))
        return kind not in {None, Kind.FOLDER}


def _strangers(folder: OutputFolder, parent: str, names: set[str], ours: Container[str]) -> set[str]:
    here = folder.address(parent) if parent else folder.root
    found = (name for name in folder.files.names(here) if _fold(name.rpartition(".")[0] or name) in names)
    paths = (f"{parent}/{name}" if parent else name for name in found)
    return {path for path in paths if not _known(path, ours) and not _is_folder(folder, path)}


def _is_folder(folder: OutputFolder, path: str) -> bool:
    return folder.files.kind(folder.address(path)) is Kind.FOLDER


def _known(path: str, ours: Container[str]) -> bool:
    stem, dot, extension = path.rpartition(".")
    return path in ours or (dot + extension == ".json" and any(f"{stem}.{known}" in ours for known in EXTENSIONS))


def missing(folder: OutputFolder, paths: Iterable[str]) -> list[str]:
    """Those of the paths where no file is."""
    return [path for path in paths if folder.files.kind(folder.address(path)) is not Kind.FILE]


def _fold(name: str) -> str:
    """A name as the least distinguishing file system sees it."""
    return unicodedata.normalize("NFC", name).casefold()


def _folded_stem(picture: Path) -> str:
    return _fold(str(stem_of(picture)))
