"""The files that a manifest names, on this machine: prompt files in blocks, reference pictures looked at once."""

import os
from collections.abc import Iterator
from pathlib import Path

from runner.adapters.references import by_uri, expand, inspect, is_uri, opened
from runner.core.errors import UsageError
from runner.core.reference import Reference

BLOCK = 256 * 1024


class Material:
    """`core.prompts.Files` of the folder that a manifest lies in.

    A prompt file is read several times; one that changed in between is no longer what was planned.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._read: dict[str, tuple[int, int, int]] = {}
        self._meant: dict[str, tuple[Reference, ...]] = {}
        self._seen: dict[Path, Reference] = {}

    def blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of a prompt file. Raises OSError, and UsageError if it is another file than before."""
        with opened(self._base / name) as file:
            facts = os.fstat(file.fileno())
            mark = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
            if self._read.setdefault(name, mark) != mark:
                raise UsageError(f"{self._base / name} was changed while it was being read: run again")
            while block := file.read(BLOCK):
                yield block

    def pictures(self, pattern: str) -> tuple[Reference, ...]:
        """What a path, a pattern or a URI stands for. Raises BadReferenceError, which is a ValueError."""
        if pattern not in self._meant:
            self._meant[pattern] = self._found(pattern)
        return self._meant[pattern]

    def _found(self, pattern: str) -> tuple[Reference, ...]:
        if is_uri(pattern):
            return (by_uri(pattern),)
        found = []
        for name, path in expand(pattern, self._base):
            if path not in self._seen:
                self._seen[path] = inspect(path, name)
            found.append(self._seen[path])
        return tuple(found)
