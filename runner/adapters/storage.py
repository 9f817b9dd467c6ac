"""The output folder of a run: pictures land here, verified and durable, and are found again after a crash.

What happens when a disk refuses is decided here; the durable steps themselves are in `delivery` and `folder`.
"""

import errno
import os
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

import anyio
import anyio.to_thread

from runner.adapters import delivery, relocation
from runner.adapters.delivery import Delivery
from runner.adapters.files import Files, RealFiles
from runner.adapters.folder import OutputFolder
from runner.adapters.obstacle import Bought, bought
from runner.adapters.pictures import largest_bytes
from runner.core.errors import LocalFailureError, OutputError
from runner.core.lifecycle import Answer, Made, Unstored, Unusable
from runner.core.task import Assignment

__all__ = ["RESERVE_BYTES", "FolderStore", "largest_bytes"]

RESERVE_BYTES = 64 * 2**20
"""Room kept free beside the pictures in flight: for the ledger, its log and whatever else shares the disk."""

THREADS = 8
"""Files written at once; eight keep a disk busy, and at most as many pictures are decoded at a time."""

Verify = Literal["structure", "full"]
T = TypeVar("T")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_HOPELESS = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})
"""Names this file system can never hold; anything else may pass, or a person may mend it while the run waits."""


class FolderStore:
    """A local folder as `engine.ports.ImageStore`. Methods that are not coroutines block."""

    def __init__(
        self,
        root: Path,
        *,
        files: Files | None = None,
        verify: Verify = "structure",
        on_blocked: Callable[[str | None], None] = lambda _: None,
        reserve_bytes: int = RESERVE_BYTES,
        retry_s: float = 1.0,
    ) -> None:
        self.root = root.absolute()
        self.verify = verify
        self.on_blocked = on_blocked
        self.retry_s = retry_s
        self._files = files or RealFiles()
        self.folder = OutputFolder(self.root, self._files)
        self._reserve_bytes = reserve_bytes
        self._threads = anyio.CapacityLimiter(THREADS)
        self._giving_up = anyio.Event()
        self._blocked: set[str] = set()

    def prepare(self) -> None:
        """Make the folder and prove that it takes files; OutputError with one line if it does not."""
        probe = self.root / f".writable-{os.getpid()}.part"
        try:
            self.folder.ensure(self.root)
            self.folder.write(probe, b"bulkrender")
            self._files.unlink(probe)
        except OSError as error:
            raise OutputError(f"output folder {self.root}: {_plainly(error)}") from error

    @asynccontextmanager
    async def landing(self, task: Assignment) -> AsyncGenerator["FolderLanding"]:
        """A sink for one attempt; OutputError if its stem could leave the folder. Nothing is awaited on entry."""
        self.folder.locate(task.stem)
        landing = FolderLanding(self, task)
        try:
            yield landing
        finally:
            landing.drop()

    async def has_room(self, pictures: int, largest_bytes: int) -> bool:
        """Whether that many more fit and the reserve stays free."""
        free = await self.in_thread(self._free)
        return free >= pictures * largest_bytes + self._reserve_bytes

    def room(self) -> int | None:
        """Bytes that pictures may take until the reserve is reached; None where that cannot be told. Blocks."""
        there = (one for one in (self.root, *self.root.parents) if self._files.kind(one) is not None)
        with suppress(OSError):
            return max(0, self._files.free(next(there)) - self._reserve_bytes)
        return None

    def _free(self) -> int:
        with suppress(OSError):
            return self._files.free(self.root)
        return 0

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run blocking work; it is always waited for, so that nothing writes behind the loop's back."""
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=False, limiter=self._threads)

    def stop_waiting(self) -> None:
        """From now on a picture that cannot be written is given up as `Unstored` instead of held in memory."""
        self._giving_up.set()

    async def may_retry(self) -> bool:
        """Wait before the next try; False once the run gives up."""
        with anyio.move_on_after(self.retry_s):
            await self._giving_up.wait()
        return not self._giving_up.is_set()

    def block(self, token: str, cause: str) -> None:
        """One attempt cannot be stored for now."""
        if token not in self._blocked:
            self._blocked.add(token)
            self.on_blocked(cause)

    def unblock(self, token: str) -> None:
        """One attempt waits no more; the last one opens the way."""
        if token in self._blocked:
            self._blocked.remove(token)
            if not self._blocked:
                self.on_blocked(None)

    def adopt(self, task: Assignment) -> Made | Unusable | None:
        """After a crash: the whole picture of this very attempt, made durable, if it reached the disk.

        Call it with the stem the attempt was sent with, before anything is relocated or superseded. Temporary
        files of the attempt that are not whole are removed.
        """
        with self._local():
            return delivery.adopt(self.folder, task)

    def foreign(self, stems: Iterable[str], ours: Container[str]) -> list[str]:
        """Files in the way of these stems, but for pictures in `ours` and their sidecars; changes nothing."""
        with self._local():
            return relocation.foreign(self.folder, stems, ours)

    def bought(self, paths: Iterable[str]) -> Iterator[Bought]:
        """Those of the files that a sidecar beside them says were paid for; changes nothing."""
        with self._local():
            yield from bought(self.folder, paths)

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Those of the paths where no file is; changes nothing."""
        with self._local():
            return relocation.missing(self.folder, paths)

    def relocate(self, moves: Sequence[tuple[str, str, str]]) -> list[str]:
        """Move pictures of (key, old path, new path); see `relocation.relocate`."""
        with self._local():
            return relocation.relocate(self.folder, moves)

    def supersede(self, key: str, path: str) -> str:
        """Move a picture and its sidecar to `superseded/` beside it; returns where it is now."""
        with self._local():
            return self.folder.relative(self.folder.supersede(key, self.folder.locate(path)))

    def restore(self, key: str, path: str) -> bool:
        """Bring a picture back from `superseded/` to a path that nothing else took; tells whether it is there."""
        with self._local():
            aside = self.folder.aside(key, self.folder.locate(path))
            if aside is None:
                return False
            with suppress(OutputError):  # another picture has its place by now
                return bool(relocation.relocate(self.folder, [(key, self.folder.relative(aside), path)]))
        return False

    @contextmanager
    def _local(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.folder.forget()
            raise LocalFailureError(f"output folder {self.root}: {_plainly(error)}") from error


class FolderLanding:
    """One attempt's bytes in memory, and their way to disk."""

    def __init__(self, store: FolderStore, task: Assignment) -> None:
        self._store, self._task = store, task
        self._data = bytearray()
        self._delivery: Delivery | None = None

    def restart(self, mime: str) -> None:  # noqa: ARG002 - the bytes say what they are
        """Begin a picture; the one before is dropped."""
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self._data += data

    def drop(self) -> None:
        """Free the memory."""
        self._data = bytearray()
        self._delivery = None

    async def keep(self, answer: Answer) -> Made | Unusable | Unstored:
        """Verify and make durable; while the disk refuses, hold the picture and try again."""
        try:
            while True:
                try:
                    return await self._store.in_thread(lambda: self._land(answer))
                except (OSError, OutputError) as error:
                    self._store.folder.forget()
                    cause = _cause(error, self._store.root)
                    if isinstance(error, OSError) and error.errno in _HOPELESS:
                        return Unstored(answer, cause)
                self._store.block(self._task.token, cause)
                if not await self._store.may_retry():
                    return Unstored(answer, cause)
        finally:
            self._store.unblock(self._task.token)

    def _land(self, answer: Answer) -> Made | Unusable:
        if self._delivery is None:
            folder, full = self._store.folder, self._store.verify == "full"
            sidecar = delivery.describe(self._task, answer, self._data, decode=full)
            self._delivery = Delivery(folder, self._task, sidecar, self._data)
        return self._delivery.land()


def _cause(error: OSError | OutputError, root: Path) -> str:
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"no space left on {root}"
    return _plainly(error)


def _plainly(error: OSError | OutputError) -> str:
    """An error as one line: what is wrong, and with which file."""
    if isinstance(error, OutputError) or error.strerror is None:
        return str(error)
    return error.strerror.lower() + (f": {error.filename}" if error.filename else "")
