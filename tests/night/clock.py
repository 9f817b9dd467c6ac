"""The wall clock of a night: it stands still while a runner starts, which no speed can make faster."""

import mmap
import struct
import time
from pathlib import Path

_TOTAL, _SINCE = 0, 8
_wall = time.time


class NightClock:
    """One file, one time line for all processes that open it. It is stopped and let go by the runners alone."""

    def __init__(self, path: Path) -> None:
        """Open it; where there is none it starts, and stands still."""
        if not path.exists():
            path.write_bytes(struct.pack("dd", 0.0, _wall()))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 16)

    def wall(self) -> float:
        """Seconds since 1970, less all the time for which it has stood still."""
        return (self._read(_SINCE) or _wall()) - self._read(_TOTAL)

    def stop(self) -> None:
        """Stand still from now on."""
        self._write(_SINCE, _wall())

    def go_on(self) -> None:
        """Go on where it stopped. In this order others may see an earlier time for an instant, no later one."""
        since = self._read(_SINCE)
        if since:
            self._write(_TOTAL, self._read(_TOTAL) + _wall() - since)
            self._write(_SINCE, 0.0)

    def _read(self, place: int) -> float:
        return float(struct.unpack_from("d", self._shared, place)[0])

    def _write(self, place: int, value: float) -> None:
        struct.pack_into("d", self._shared, place, value)
