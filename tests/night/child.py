"""The real runner as a process whose time runs faster: that of its event loop, and what `time.time` says.

`python -m tests.night.child SCRIPT run MANIFEST …`: SCRIPT is the JSON of a `Script`, the rest is the command line
of `bulkrender`. Production code carries no hook: what is scaled, timed or killed is wrapped from here.
"""

import asyncio
import json
import os
import selectors
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio

from runner import cli
from runner.adapters.files import RealFiles
from runner.adapters.gemini import GeminiProvider
from runner.engine import lane
from runner.ledger import Claimed, Ledger, database
from tests.crash.child import Script as Death
from tests.crash.child import Watch, watch_ledger, watch_sends
from tests.night.clock import NightClock

BEAT_S = 1.0
"""Of the wall: a run tells people how it stands, and people are not scaled."""

NICE = 2
"""The sandbox goes first: an arrival that waits for a processor is late by many seconds of its clock."""


@dataclass(frozen=True, slots=True)
class Script:
    """What becomes of one child."""

    clock: str
    """The file of the night's clock."""
    origin: str
    """`clock.json` of the sandbox: both go by one time line."""
    after: int | None = None
    """Die at the first send from this one on…"""
    busy: int = 1
    """…with at least so many attempts in flight; None: live."""


class _Hasty(selectors.SelectSelector):
    """Waits a fraction of what it is asked to. select(2) knows microseconds, epoll rounds up to milliseconds."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout and timeout / self._speed)


class ScaledLoop(asyncio.SelectorEventLoop):
    """An event loop whose seconds are `speed` times as short as the wall's."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        super().__init__(_Hasty(speed))

    def time(self) -> float:
        return super().time() * self._speed


def scale_time(clock: NightClock, origin: Path) -> None:
    """From now on time is that of the sandbox whose `clock.json` this is."""
    told = json.loads(origin.read_bytes())
    speed: float = told["speed"]

    def scaled() -> float:
        return float(told["clock"] + (clock.wall() - told["wall"]) * speed)

    patch.object(time, "time", scaled).start()
    hasty = partial(anyio.run, backend_options={"loop_factory": partial(ScaledLoop, speed)})
    patch.object(anyio, "run", hasty).start()
    patch.object(lane, "BEAT_S", BEAT_S * speed).start()
    leave_out_syncs()


def leave_out_syncs() -> None:
    """A disk cannot be made faster, and a process that is killed loses nothing of what it has written."""
    connect = database._connect

    def unsynced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    patch.object(database, "_connect", unsynced).start()
    patch.object(RealFiles, "sync", lambda *_: None).start()
    patch.object(RealFiles, "sync_folder", lambda *_: None).start()


def begin_with_the_first_claim(clock: NightClock) -> None:
    """Let the clock go on, and say once each, by the monotonic clock: lock held, claim asked, answered, sent."""
    told: set[str] = set()

    def tell(word: str) -> None:
        if word not in told:
            told.add(word)
            print(word, time.monotonic(), flush=True)  # noqa: T201 - how a child speaks

    def begin() -> None:
        if "asks" not in told:
            clock.go_on()
            os.nice(NICE)
            tell("asks")

    lock_job, claim, render = Ledger.lock_job, Ledger.claim, GeminiProvider.render

    @contextmanager
    def told_lock(ledger: Ledger, job: str) -> Iterator[Any]:
        with lock_job(ledger, job) as lock:
            tell("locked")
            yield lock

    async def told_claim(ledger: Ledger, *args: Any, **kwargs: Any) -> Any:
        begin()
        found = await claim(ledger, *args, **kwargs)
        tell("claims" if isinstance(found, Claimed) else "waits")
        return found

    async def told_render(
        provider: GeminiProvider, task: Any, sink: Any, left: Callable[[], None] = lambda: None
    ) -> Any:
        def leaves() -> None:
            tell("sends")
            left()

        return await render(provider, task, sink, leaves)

    patch.object(Ledger, "lock_job", told_lock).start()
    patch.object(Ledger, "claim", told_claim).start()
    patch.object(GeminiProvider, "render", told_render).start()


def main() -> None:
    """Wrap, then run."""
    script = Script(**json.loads(sys.argv[1]))
    sys.argv = ["bulkrender", *sys.argv[2:]]
    clock = NightClock(Path(script.clock))
    scale_time(clock, Path(script.origin))
    begin_with_the_first_claim(clock)
    if script.after is not None:
        watch = Watch(Death(point="after_send", after=script.after, busy=script.busy))
        watch.last_words = clock.stop
        watch_ledger(watch)
        watch_sends(watch)
    cli.main()


if __name__ == "__main__":
    main()
