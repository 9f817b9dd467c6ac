"""Stand-ins for the outside world, with the same ports.

A scripted provider, a store in memory, and a ledger that tells a driven loop when its thread is at work.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import asynccontextmanager

import anyio

from runner.core.errors import LocalFailureError
from runner.core.lifecycle import Answer, Made, Picture, Pictured, Reply, Unstored, Usage
from runner.core.task import Assignment

USAGE = Usage(prompt=5, candidates=1_200, image=1_120, total=1_205)


def pictured(**usage) -> Pictured:
    return Pictured(
        Answer(finish_reason="STOP", pictures=1, usage=Usage(**usage) if usage else USAGE), "image/png"
    )


def made(task, answer) -> Made:
    return Made(answer, Picture(f"{task.stem}.png", "0" * 64, 7, "image/png", 1024, 1024))


class ScriptedProvider:
    """Answers after `latency_s` with what `script(task, times seen)` says; remembers when requests were sent."""

    def __init__(
        self, script: Callable[[Assignment, int], Reply] = lambda *_: pictured(), latency_s: float = 10.0
    ):
        self.script, self.latency_s = script, latency_s
        self.sent: list[tuple[float, Assignment]] = []
        self.seen: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0

    async def render(self, task, sink, left):
        left()
        self.sent.append((anyio.current_time(), task))
        self.seen[task.key] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await anyio.sleep(self.latency_s)
        finally:
            self.in_flight -= 1
        reply = self.script(task, self.seen[task.key])
        if isinstance(reply, Pictured):
            sink.restart(reply.mime)
            sink.write(b"picture")
        return reply


class MemoryStore:
    """Keeps facts; `room` and `unstored` can be set to make trouble."""

    def __init__(self) -> None:
        self.kept: dict[str, Assignment] = {}
        self.room = True
        self.unstored = self.adoptable = self.unreadable = False
        self.waiting = True

    @asynccontextmanager
    async def landing(self, task):
        yield _Landing(self, task)

    async def has_room(self, pictures, largest_bytes):
        return self.room

    def adopt(self, task):
        if self.unreadable:
            raise LocalFailureError("the disk says nothing at all")
        return made(task, Answer(pictures=1, usage=USAGE)) if self.adoptable else None

    def stop_waiting(self):
        self.waiting = False


class _Landing:
    def __init__(self, store, task) -> None:
        self.store, self.task = store, task

    def restart(self, mime):
        pass

    def write(self, data):
        pass

    async def keep(self, answer):
        if self.store.unstored:
            return Unstored(answer, "the disk said no")
        self.store.kept[self.task.token] = self.task
        return made(self.task, answer)


class DrivenLedger:
    """The real ledger; while its thread works, a driven loop's time stands still."""

    def __init__(self, ledger, loop) -> None:
        self.ledger, self.reader, self.left, self.working = ledger, ledger.reader, ledger.left, 0
        loop.busy = lambda: self.working > 0 or ledger.busy

    def __getattr__(self, verb):
        async def run(*args, **kwargs):
            self.working += 1
            try:
                return await getattr(self.ledger, verb)(*args, **kwargs)
            finally:
                self.working -= 1

        return run
