"""The sandbox's own time line: it starts with the wall's and runs `speed` times as fast, over restarts as well."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Instant(NamedTuple):
    """One moment by both clocks, in seconds since 1970."""

    wall: float
    clock: float


class Clock:
    """Quotas, calendar and outages go by it. While the sandbox is down it runs on at the speed it last had."""

    def __init__(self, state_dir: Path, speed: float, wall: Callable[[], float]) -> None:
        """Go on from `clock.json` below `state_dir`, or start now. OSError; ValueError for a broken file."""
        self._wall, self._speed = wall, speed
        state_dir.mkdir(parents=True, exist_ok=True)
        now, path = wall(), state_dir / "clock.json"
        origin = _read(path) or {"started": now, "wall": now, "clock": now, "speed": speed}
        self.started: float = origin["started"]
        """When the sandbox first started, on its own clock."""
        self._from = Instant(now, origin["clock"] + (now - origin["wall"]) * origin["speed"])
        self._latest = self._from.clock
        if origin["speed"] == speed:
            # The first origin and no other, so that restarts add no rounding to the time line.
            self._from = Instant(origin["wall"], origin["clock"])
        else:
            origin |= {"wall": now, "clock": self._from.clock, "speed": speed}
        _write(path, origin)

    def read(self) -> Instant:
        """Now. The wall may step back; the sandbox's own clock stands still until it is past."""
        wall = self._wall()
        self.not_before(self._from.clock + (wall - self._from.wall) * self._speed)
        return Instant(wall, self._latest)

    def not_before(self, clock: float) -> None:
        """Never tell a time before this one."""
        self._latest = max(self._latest, clock)


def _read(path: Path) -> dict[str, float] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    origin: dict[str, float] = json.loads(text)
    if not isinstance(origin, dict) or not {"started", "wall", "clock", "speed"} <= origin.keys():
        raise ValueError(f"{path} is no origin of a sandbox's clock")
    return origin


def _write(path: Path, origin: dict[str, float]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(origin) + "\n", encoding="utf-8")
    part.replace(path)
