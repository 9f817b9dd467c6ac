"""Disks that misbehave: one loses what was not synced; a tap stops any disk at a chosen operation."""

import copy
import errno
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runner.adapters.files import Buffer, Files, Kind


class Crash(BaseException):
    """The process is dead; nothing that runs after it touches the disk."""


@dataclass(eq=False)
class _Node:
    folder: bool = False
    data: bytes = b""
    synced: bytes = b""


@dataclass(eq=False)
class _Change:
    """A change of names that no folder sync has made durable; a rename is one change."""

    node: _Node
    removed: Path | None = None
    added: Path | None = None

    @property
    def names(self) -> set[Path]:
        return {name for name in (self.removed, self.added) if name is not None}

    @property
    def synced_with(self) -> Path:
        name = self.added or self.removed
        assert name is not None
        return name.parent

    def apply(self, names: dict[Path, _Node]) -> None:
        if self.removed is not None and names.get(self.removed) is self.node:
            del names[self.removed]
        if self.added is not None:
            names[self.added] = self.node


@dataclass(frozen=True)
class Loss:
    """What a crash does to each change of a name and to each content that was not synced."""

    name: str
    keeps_name: Callable[[], bool]
    content: Callable[[bytes, bytes], bytes]
    """From what was synced and what was written last."""


def _half(synced: bytes, written: bytes) -> bytes:
    return written if synced == written else written[: len(written) // 2]


def random_loss(seed: int) -> Loss:
    """Every name and every content survives by the toss of a coin."""
    dice = random.Random(seed)

    def content(synced: bytes, written: bytes) -> bytes:
        return dice.choice([synced, written, _half(synced, written)])

    return Loss(f"random {seed}", lambda: dice.random() < 0.5, content)


def losses() -> list[Loss]:
    """From a killed process, which loses nothing, to a power cut on a disk that reorders everything."""
    return [
        Loss("killed", lambda: True, lambda _, written: written),
        Loss("everything unsynced", lambda: False, lambda synced, _: synced),
        Loss("contents", lambda: True, lambda synced, _: synced),
        Loss("names", lambda: False, lambda _, written: written),
        Loss("half the contents", lambda: True, _half),
        *(random_loss(seed) for seed in range(6)),
    ]


@dataclass
class LossyFiles:
    """A disk in memory that knows which names and contents are durable."""

    live: dict[Path, _Node] = field(default_factory=lambda: {Path("/"): _Node(folder=True)})
    durable: dict[Path, _Node] = field(default_factory=dict)
    journal: list[_Change] = field(default_factory=list)
    handles: dict[int, tuple[Path, _Node]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.durable = dict(self.live)

    def after(self, loss: Loss) -> "LossyFiles":
        """The disk as it is found after a crash; this one stays as it is."""
        disk = copy.deepcopy(self)
        disk._commit([change for change in disk.journal if loss.keeps_name()])
        disk.journal.clear()
        disk.handles.clear()
        reachable = disk.durable
        disk.live = {path: node for path, node in reachable.items() if all(p in reachable for p in path.parents)}
        disk.durable = dict(disk.live)
        for node in disk.live.values():
            node.data = node.synced = loss.content(node.synced, node.data)
        return disk

    def put(self, path: Path, data: bytes) -> None:
        """A file that was there, durable, before the story begins."""
        for parent in reversed(path.parents):
            self.live.setdefault(parent, _Node(folder=True))
        self.live[path] = _Node(data=data, synced=data)
        self.durable |= self.live

    def tree(self) -> dict[str, bytes]:
        """Every file with its content."""
        return {str(path): node.data for path, node in self.live.items() if not node.folder}

    def create(self, path: Path) -> int:
        node = self.live.get(path)
        if node is None:
            self._need(path.parent)
            node = _Node()
            self._record(_Change(node, added=path))
        node.data = b""
        handle = next(i for i in itertools.count(3) if i not in self.handles)
        self.handles[handle] = (path, node)
        return handle

    def write(self, handle: int, data: Buffer) -> None:
        self.handles[handle][1].data += bytes(data)

    def sync(self, handle: int) -> None:
        node = self.handles[handle][1]
        node.synced = node.data

    def close(self, handle: int) -> None:
        self.handles.pop(handle, None)

    def read(self, path: Path) -> bytes:
        return self._need(path).data

    def rename(self, old: Path, new: Path) -> None:
        self._need(new.parent)
        self._record(_Change(self._need(old), removed=old, added=new))

    def unlink(self, path: Path) -> None:
        self._record(_Change(self._need(path), removed=path))

    def mkdir(self, path: Path) -> None:
        if path not in self.live:
            self._need(path.parent)
            self._record(_Change(_Node(folder=True), added=path))
        elif not self.live[path].folder:
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path))

    def sync_folder(self, path: Path) -> None:
        self._need(path)
        self._commit([change for change in self.journal if change.synced_with == path])

    def names(self, folder: Path | str) -> list[str]:
        here = Path(folder)
        return [path.name for path in self.live if path.parent == here and path != here]

    def kind(self, path: Path | str) -> Kind | None:
        node = self.live.get(Path(path))
        if node is None:
            return None
        return Kind.FOLDER if node.folder else Kind.FILE

    def written(self, path: Path) -> tuple[int, float]:
        return len(self._need(path).data), 0.0

    def real(self, path: Path) -> Path:
        return path

    def free(self, path: Path) -> int:
        return 2**40

    def _need(self, path: Path) -> _Node:
        if path not in self.live:
            raise FileNotFoundError(errno.ENOENT, "no such file or directory", str(path))
        return self.live[path]

    def _record(self, change: _Change) -> None:
        change.apply(self.live)
        self.journal.append(change)

    def _commit(self, chosen: list[_Change]) -> None:
        """Make changes durable, with the earlier ones of the same file or name that they build upon."""
        nodes: set[int] = set()
        names: set[Path] = set()
        due = []
        for change in reversed(self.journal):
            if change in chosen or id(change.node) in nodes or change.names & names:
                due.append(change)
                nodes.add(id(change.node))
                names |= change.names
        for change in reversed(due):
            change.apply(self.durable)
            self.journal.remove(change)


Tap = Callable[[str], None]
"""Called with the name of an operation before it is done; what it raises stops the operation."""


class TappedFiles:
    """Any disk behind a tap. A write that is stopped leaves half of its data."""

    def __init__(self, inner: Files, tap: Tap) -> None:
        self.inner, self.tap = inner, tap

    def create(self, path: Path) -> int:
        self.tap("create")
        return self.inner.create(path)

    def write(self, handle: int, data: Buffer) -> None:
        try:
            self.tap("write")
        except (OSError, Crash):
            self.inner.write(handle, bytes(data)[: len(data) // 2])
            raise
        self.inner.write(handle, data)

    def sync(self, handle: int) -> None:
        self.tap("sync")
        self.inner.sync(handle)

    def close(self, handle: int) -> None:
        self.inner.close(handle)

    def read(self, path: Path) -> bytes:
        return self.inner.read(path)

    def rename(self, old: Path, new: Path) -> None:
        self.tap("rename")
        self.inner.rename(old, new)

    def unlink(self, path: Path) -> None:
        self.tap("unlink")
        self.inner.unlink(path)

    def mkdir(self, path: Path) -> None:
        self.tap("mkdir")
        self.inner.mkdir(path)

    def sync_folder(self, path: Path) -> None:
        self.tap("sync_folder")
        self.inner.sync_folder(path)

    def names(self, folder: Path | str) -> list[str]:
        return self.inner.names(folder)

    def kind(self, path: Path | str) -> Kind | None:
        return self.inner.kind(path)

    def written(self, path: Path) -> tuple[int, float]:
        return self.inner.written(path)

    def real(self, path: Path) -> Path:
        return self.inner.real(path)

    def free(self, path: Path) -> int:
        return self.inner.free(path)


def crash_at(number: int) -> Tap:
    """Die at the operation of that number, counted from 0; nothing is done after it."""
    counter = itertools.count()

    def tap(operation: str) -> None:
        if next(counter) >= number:
            raise Crash

    return tap


def fail_at(number: int, code: int, times: int = 1) -> Tap:
    """Fail `times` operations from that number on, then work again."""
    counter = itertools.count()

    def tap(operation: str) -> None:
        if number <= next(counter) < number + times:
            raise OSError(code, "the disk says no", operation)

    return tap


class FullDisk:
    """A tap: writes fail until `freed`."""

    def __init__(self, code: int = errno.ENOSPC) -> None:
        self.code, self.freed, self.refused = code, False, 0

    def __call__(self, operation: str) -> None:
        if operation == "write" and not self.freed:
            self.refused += 1
            raise OSError(self.code, "no space left on device")
