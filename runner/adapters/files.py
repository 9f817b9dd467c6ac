"""The file operations that storage is made of: a seam, so that a test can lose what was not synced.

One method is one thing the operating system does or does not do before a crash. No policy lives here.
"""

import errno
import fcntl
import os
import stat
from enum import Enum
from pathlib import Path
from typing import Protocol

Buffer = bytes | bytearray | memoryview

_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


class Kind(Enum):
    """What a name stands for; a symbolic link is itself, not what it points to."""

    FILE = "file"
    FOLDER = "folder"
    OTHER = "other"


class Files(Protocol):
    """File operations; every one may raise OSError."""

    def create(self, path: Path) -> int:
        """Open for writing, made or emptied; never through a symbolic link. Returns a handle."""

    def write(self, handle: int, data: Buffer) -> None:
        """Write all of `data`."""

    def sync(self, handle: int) -> None:
        """Make the contents durable; the name is not."""

    def close(self, handle: int) -> None:
        """Close a handle."""

    def read(self, path: Path) -> bytes:
        """Everything in a file."""

    def rename(self, old: Path, new: Path) -> None:
        """Rename at once, replacing what is at `new`; durable when the folder of `new` is synced."""

    def unlink(self, path: Path) -> None:
        """Remove a name."""

    def mkdir(self, path: Path) -> None:
        """Make one folder; fine if it is there, NotADirectoryError if something else is."""

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""

    def names(self, folder: Path | str) -> list[str]:
        """Names in a folder; none where it does not exist."""

    def kind(self, path: Path | str) -> Kind | None:
        """What is at a name; None for nothing, also below something that is not a folder."""

    def written(self, path: Path) -> tuple[int, float]:
        """Bytes of a file, and when it was last written, in seconds since 1970."""

    def real(self, path: Path) -> Path:
        """The path with symbolic links resolved as far as it exists."""

    def free(self, path: Path) -> int:
        """Bytes this user may still write; 0 where no inode is left."""


class RealFiles:
    """The operating system."""

    def create(self, path: Path) -> int:
        """See `Files`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, 0o666)

    def write(self, handle: int, data: Buffer) -> None:
        """See `Files`; the system may take less than it is given at a time."""
        with memoryview(data) as rest:
            done = 0
            while done < len(rest):
                done += os.write(handle, rest[done:])

    def sync(self, handle: int) -> None:
        """See `Files`; on macOS only F_FULLFSYNC reaches the platter, and not every file system has it."""
        if _FULL_SYNC is not None:
            try:
                fcntl.fcntl(handle, _FULL_SYNC)
            except OSError as error:
                if error.errno not in _NO_FOLDER_SYNC:
                    raise
            else:
                return
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """See `Files`."""
        os.close(handle)

    def read(self, path: Path) -> bytes:
        """See `Files`."""
        return path.read_bytes()

    def rename(self, old: Path, new: Path) -> None:
        """See `Files`."""
        old.replace(new)

    def unlink(self, path: Path) -> None:
        """See `Files`."""
        path.unlink()

    def mkdir(self, path: Path) -> None:
        """See `Files`."""
        try:
            path.mkdir()
        except FileExistsError as error:
            if not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path)) from error

    def sync_folder(self, path: Path) -> None:
        """See `Files`; some file systems cannot sync a folder, and then names are as durable as they get."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise
        finally:
            os.close(handle)

    def names(self, folder: Path | str) -> list[str]:
        """See `Files`."""
        try:
            return os.listdir(folder)  # noqa: PTH208 - thousands of folders at a resume: no Path for each name
        except FileNotFoundError:
            return []

    def kind(self, path: Path | str) -> Kind | None:
        """See `Files`."""
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISREG(mode):
            return Kind.FILE
        return Kind.FOLDER if stat.S_ISDIR(mode) else Kind.OTHER

    def written(self, path: Path) -> tuple[int, float]:
        """See `Files`."""
        facts = path.lstat()
        return facts.st_size, facts.st_mtime

    def real(self, path: Path) -> Path:
        """See `Files`."""
        return Path(os.path.realpath(path))

    def free(self, path: Path) -> int:
        """See `Files`."""
        disk = os.statvfs(path)
        out_of_inodes = disk.f_files > 0 and disk.f_favail == 0
        return 0 if out_of_inodes else disk.f_bavail * disk.f_frsize
