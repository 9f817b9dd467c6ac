"""A crash at every operation of keeping, adopting and moving, on a disk that loses what was not synced."""

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from runner.adapters.sidecar import Sidecar, dump, load
from runner.adapters.storage import FolderStore
from runner.core.lifecycle import Made, Unstored, Unusable
from runner.core.task import Assignment
from tests.adapters.lossy_files import Crash, LossyFiles, TappedFiles, crash_at, losses
from tests.adapters.storage_samples import ANSWER, OTHER_KEY, OTHER_TOKEN, TOKEN, picture, sidecar, task

ROOT = Path("/disk/renders")
HOME = ROOT / "banana"
NEVER = 10_000
OLD = picture(seed=1)


@dataclass(frozen=True)
class Story:
    """What lies on the disk before a picture arrives, and which picture arrives."""

    name: str
    files: dict[Path, bytes]
    data: bytes

    def disk(self, kind: type[LossyFiles]) -> LossyFiles:
        disk = kind()
        for path, data in {Path("/disk/other"): b"", **self.files}.items():
            disk.put(path, data)
        return disk


OLD_PAIR = {
    HOME / "poster.png": OLD,
    HOME / "poster.json": dump(sidecar(OLD, "poster.png", key=OTHER_KEY, attempt=OTHER_TOKEN)),
}
FOREIGN = {HOME / "poster.png": b"holiday", HOME / "poster.json": b"{}"}
STORIES = [
    Story("new folder", {}, picture()),
    Story("earlier picture", OLD_PAIR, picture()),
    Story("foreign file", FOREIGN, picture()),
    Story("wrong pixels", {}, picture(size=(64, 32))),
]


def keep(disk: LossyFiles, crash: int, data: bytes, assignment: Assignment) -> Made | Unusable | Unstored | None:
    """Keep a picture; None if it crashed."""
    store = FolderStore(ROOT, files=TappedFiles(disk, crash_at(crash)))

    async def run() -> Made | Unusable | Unstored:
        async with store.landing(assignment) as landing:
            landing.restart("image/png")
            landing.write(data)
            return await landing.keep(ANSWER)

    try:
        return anyio.run(run)
    except Crash:
        return None


def violations(kind: type[LossyFiles], story: Story) -> Iterator[str]:
    """Everything a next run could find wrong after a crash at any operation."""
    for number in range(NEVER):
        disk = story.disk(kind)
        kept = keep(disk, number, story.data, task())
        for loss in losses():
            found = disk.after(loss)
            adopted = FolderStore(ROOT, files=found).adopt(task())
            where = f"operation {number}, lost {loss.name}: "
            yield from (where + problem for problem in problems(found, story, adopted, kept=kept is not None))
            if kept is not None and adopted != kept:
                yield where + "what was kept is not what is adopted"
        if kept is not None:
            return


def problems(disk: LossyFiles, story: Story, adopted: Made | Unusable | None, *, kept: bool) -> Iterator[str]:
    """What is wrong with a disk after recovery."""
    tree = disk.tree()
    shown = {path for path, data in tree.items() if Path(path).suffix == ".png" and data not in {OLD, b"holiday"}}
    if adopted is None:
        yield from (f"{path} looks finished and is not" for path in shown)
        if kept:
            yield "it was kept and is gone"
    else:
        assert adopted.picture is not None
        path = str(ROOT / adopted.picture.path)
        if shown != {path} or tree[path] != story.data:
            yield f"adopted {path}, on disk {shown}"
        yield from _misdescribed(tree, path, adopted)
    if any(path.endswith(".part") and TOKEN in path for path in tree):
        yield "temporaries are left"
    yield from _disturbed(tree, story)


def _misdescribed(tree: dict[str, bytes], path: str, adopted: Made | Unusable) -> Iterator[str]:
    described = load(tree.get(path.removesuffix(".png") + ".json", b""))
    fits = described is not None and described.sha256 == hashlib.sha256(tree.get(path, b"")).hexdigest()
    if not fits or described is None or described.answer != adopted.answer:
        yield f"the sidecar does not fit {path}"
    if adopted.answer.usage != ANSWER.usage or adopted.answer.text != ANSWER.text:
        yield "the answer is not what was said"


def _disturbed(tree: dict[str, bytes], story: Story) -> Iterator[str]:
    if "earlier" in story.name:
        at = [path for path, data in tree.items() if data == OLD]
        pairs = [load(tree.get(path.removesuffix(".png") + ".json", b"")) for path in at]
        expected = [(OTHER_KEY, Path(path).name) for path in at]
        if [found and (found.key, found.file) for found in pairs] != expected or len(at) != 1:
            yield f"the older picture is at {at} without a sidecar that fits"
    if "foreign" in story.name and any(tree.get(str(path)) != data for path, data in FOREIGN.items()):
        yield "a foreign file was touched"


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_a_crash_at_any_operation_leaves_the_whole_picture_or_nothing_that_looks_like_one(story):
    assert list(violations(LossyFiles, story)) == []


class WithoutSync(LossyFiles):
    """Mutant: contents are never synced."""

    def sync(self, handle: int) -> None:
        pass


class WithoutFolderSync(LossyFiles):
    """Mutant: names are never synced."""

    def sync_folder(self, path: Path) -> None:
        pass


class WithoutSidecarSync(LossyFiles):
    """Mutant: the contents of sidecars are not synced."""

    def sync(self, handle: int) -> None:
        if not self.handles[handle][0].name.endswith(".json.part"):
            super().sync(handle)


class RenameBeforeSync(LossyFiles):
    """Mutant: the picture is synced only after it has its name."""

    def sync(self, handle: int) -> None:
        if self.handles[handle][0].name.endswith(".json.part"):
            super().sync(handle)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        for name, node in self.live.items():
            if name.suffix != ".part":
                node.synced = node.data


class SidecarAfterRename(LossyFiles):
    """Mutant: the sidecar gets its name after the picture has."""

    late: tuple[Path, Path] | None = None

    def rename(self, old: Path, new: Path) -> None:
        if new.suffix == ".json":
            self.late = (old, new)
            return
        super().rename(old, new)
        if self.late is not None:
            super().rename(*self.late)
            self.late = None


class SidecarNotDurableFirst(LossyFiles):
    """Mutant: no folder sync between the names of sidecar and picture."""

    named_sidecar = False

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.named_sidecar = new.suffix == ".json"

    def sync_folder(self, path: Path) -> None:
        if not self.named_sidecar:
            super().sync_folder(path)


@pytest.mark.parametrize("story", STORIES[:2], ids=lambda story: story.name)
@pytest.mark.parametrize(
    "mutant",
    [
        WithoutSync,
        WithoutFolderSync,
        WithoutSidecarSync,
        RenameBeforeSync,
        SidecarAfterRename,
        SidecarNotDurableFirst,
    ],
    ids=lambda mutant: mutant.__name__,
)
def test_without_the_right_order_of_write_sync_sidecar_and_rename_a_crash_is_seen(mutant, story):
    assert next(violations(mutant, story), None) is not None


def test_a_picture_is_adopted_from_the_moment_its_sidecar_is_durable():
    """Of the operations of keeping, only those before the sidecar's folder sync may lose the picture."""
    story, unlucky = STORIES[0], losses()[1]
    adopted = []
    for number in range(NEVER):
        disk = story.disk(LossyFiles)
        done = keep(disk, number, story.data, task())
        adopted.append(FolderStore(ROOT, files=disk.after(unlucky)).adopt(task()) is not None)
        if done is not None:
            break
    assert adopted[-3:] == [True, True, True]  # before the rename, before the last folder sync, after all
    assert adopted == sorted(adopted)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_adoption_may_crash_as_well(story):
    for first in range(NEVER):
        disk = story.disk(LossyFiles)
        done = keep(disk, first, story.data, task())
        expected = FolderStore(ROOT, files=disk.after(losses()[0])).adopt(task())
        for loss in losses():
            for second in range(NEVER):
                found = disk.after(losses()[0])
                crashed = _adopt(found, second)
                after = found.after(loss)
                adopted = FolderStore(ROOT, files=after).adopt(task())
                assert list(problems(after, story, adopted, kept=expected is not None)) == []
                if not crashed:
                    break
        if done is not None:
            break


def _adopt(disk: LossyFiles, crash: int) -> bool:
    try:
        FolderStore(ROOT, files=TappedFiles(disk, crash_at(crash))).adopt(task())
    except Crash:
        return True
    return False


MOVES = {
    "rename": ["a", "b"],
    "chain": ["a", "b", "c"],
    "swap": ["a", "b", "a"],
    "ring": ["a", "b", "c", "a"],
    "other folder": ["a", "deep/er/a"],
}


@functools.cache
def _pictures(names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: picture(seed=seed + 10) for seed, name in enumerate(names)}


@pytest.mark.parametrize("path", MOVES.values(), ids=MOVES)
def test_a_crash_while_pictures_move_is_mended_by_moving_again(path):
    """A crash at every operation, with every loss, then the same moves again."""
    moves = [(f"k-{old}", f"{old}.png", f"{new}.png") for old, new in itertools.pairwise(path)]
    pictures = _pictures(tuple(dict.fromkeys(path[:-1])))
    for number in range(NEVER):
        disk = _shelf(pictures)
        crashed = _relocate(disk, moves, number)
        for loss in losses():
            mended = disk.after(loss)
            store = FolderStore(ROOT, files=mended)
            assert set(store.relocate(moves)) == {key for key, _, _ in moves}
            assert _shown(mended) == {new: (key, pictures[old.removesuffix(".png")]) for key, old, new in moves}
        if not crashed:
            break


def _shelf(pictures: dict[str, bytes]) -> LossyFiles:
    disk = LossyFiles()
    for name, data in pictures.items():
        disk.put(ROOT / f"{name}.png", data)
        disk.put(ROOT / f"{name}.json", dump(sidecar(data, f"{name}.png", key=f"k-{name}")))
    return disk


def _relocate(disk: LossyFiles, moves: list[tuple[str, str, str]], crash: int) -> bool:
    try:
        FolderStore(ROOT, files=TappedFiles(disk, crash_at(crash))).relocate(moves)
    except Crash:
        return True
    return False


def _shown(disk: LossyFiles) -> dict[str, tuple[str, bytes]]:
    """Every picture with the key its sidecar names; fails on a sidecar that does not fit or has no picture."""
    tree = disk.tree()
    found = {}
    for path, data in tree.items():
        if path.endswith(".png"):
            described = load(tree[path.removesuffix(".png") + ".json"])
            assert isinstance(described, Sidecar)
            assert described.sha256 == hashlib.sha256(data).hexdigest()
            assert described.file == Path(path).name
            found[Path(path).relative_to(ROOT).as_posix()] = (described.key, data)
    assert len(tree) == 2 * len(found)
    return found


def test_a_crash_while_a_picture_is_superseded_is_mended_by_doing_it_again():
    for number in range(NEVER):
        disk = _shelf({"a": OLD})
        try:
            FolderStore(ROOT, files=TappedFiles(disk, crash_at(number))).supersede("k-a", "a.png")
            crashed = False
        except Crash:
            crashed = True
        for loss in losses():
            mended = disk.after(loss)
            where = FolderStore(ROOT, files=mended).supersede("k-a", "a.png")
            assert where == "superseded/a.k-a.png"
            assert _shown(mended) == {where: ("k-a", OLD)}
        if not crashed:
            break
