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
    wanted: dict[Path, set[str]] = defaultdict(set)
    for stem in stems:
        path = folder.locate(stem)
        wanted[path.parent].add(_fold(path.name))
    found: set[str] = set()
    for parent, names in wanted.items():
        blocker = _file_above(folder, parent)
        found |= {folder.relative(blocker)} if blocker else _strangers(folder, parent, names, ours)
    return sorted(found)


def _file_above(folder: OutputFolder, parent: Path) -> Path | None:
    """What is not a folder on the way from the root to `parent`; links that stay inside are fine."""
    folder.guard(parent)
    for each in (parent, *parent.parents):
        if each == folder.root:
            break
        if folder.files.kind(folder.files.real(each)) not in {None, Kind.FOLDER}:
            return each
    return None


def _strangers(folder: OutputFolder, parent: Path, names: set[str], ours: Container[str]) -> set[str]:
    found = (parent / name for name in folder.files.names(parent) if _fold(Path(name).stem) in names)
    return {
        folder.relative(path)
        for path in found
        if folder.files.kind(path) is not Kind.FOLDER and not _known(folder.relative(path), ours)
    }


def _known(path: str, ours: Container[str]) -> bool:
    stem, dot, extension = path.rpartition(".")
    return path in ours or (dot + extension == ".json" and any(f"{stem}.{known}" in ours for known in EXTENSIONS))


def missing(folder: OutputFolder, paths: Iterable[str]) -> list[str]:
    """Those of the paths where no file is."""
    return [path for path in paths if folder.files.kind(folder.locate(path)) is not Kind.FILE]


def _fold(name: str) -> str:
    """A name as the least distinguishing file system sees it."""
    return unicodedata.normalize("NFC", name).casefold()


def _folded_stem(picture: Path) -> str:
    return _fold(str(stem_of(picture)))
