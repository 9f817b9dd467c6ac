"""The real runner as a process that dies at a chosen point, or runs with one of its safeguards taken out.

`python -m tests.crash.child SCRIPT run MANIFEST …`: SCRIPT is the JSON of a `Script`, the rest is the command line
of `bulkrender`. Production code carries no hook: what is counted, killed or taken out is wrapped from here.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from runner import cli
from runner.adapters import storage, transport
from runner.adapters.files import Buffer, Files, RealFiles
from runner.adapters.gemini import GeminiProvider
from runner.adapters.storage import FolderStore
from runner.app import running
from runner.core.lifecycle import Made
from runner.ledger import Claimed, Ledger
from tests.adapters.lossy_files import LossyFiles, TappedFiles, losses
from tests.crash import mutants
from tests.crash.batch_points import watch_batches

POINTS = (
    *("before_send", "after_send", "after_write", "after_sidecar"),
    *("before_rename", "after_rename", "before_settle", "after_settle"),
)
"""Where a child may die: around the request, the picture's temporary file, the two names and the settlement."""


@dataclass(frozen=True, slots=True)
class Script:
    """What becomes of one child."""

    point: str | None = None
    after: int = 0
    """Die at the first arrival at the point from this one on…"""
    busy: int = 1
    """…with at least so many attempts in flight."""
    mutant: str | None = None
    """A safeguard to take out, see `mutants`."""
    loss: str | None = None
    """The output folder is a disk that loses this when its child dies: a name of `lossy_files.losses`."""


class Watch:
    """Counts what is in flight, tells the parent, and dies when the time has come."""

    def __init__(self, script: Script) -> None:
        self._script, self._lock = script, threading.Lock()
        self._arrivals = 0
        self._in_flight: set[str] = set()
        self._told: set[str] = set()
        self.last_words: Callable[[], None] = lambda: None

    def tell(self, word: str) -> None:
        """A line for the parent, once."""
        if word not in self._told:
            self._told.add(word)
            print(word, flush=True)  # noqa: T201 - how a child speaks

    def claimed(self, token: str) -> None:
        self._in_flight.add(token)
        self.tell("claimed")
        if len(self._in_flight) >= self._script.busy:
            self.tell("busy")

    def settled(self, token: str) -> None:
        self._in_flight.discard(token)  # attempts of a dead runner are settled too, and were never claimed here

    def at(self, point: str) -> None:
        """The child is at a point; it may be its last."""
        if point != self._script.point:
            return
        with self._lock:
            self._arrivals += 1
            if self._arrivals > self._script.after and len(self._in_flight) >= self._script.busy:
                self.last_words()
                self.tell(f"dies at {point}")
                os.kill(os.getpid(), signal.SIGKILL)


class WatchedFiles(TappedFiles):
    """Any disk; arrivals at the points of a picture's way are reported."""

    def __init__(self, inner: Files, watch: Watch) -> None:
        super().__init__(inner, lambda _: None)
        self._watch, self._paths = watch, dict[int, Path]()

    def create(self, path: Path) -> int:
        handle = super().create(path)
        self._paths[handle] = path
        return handle

    def write(self, handle: int, data: Buffer) -> None:
        super().write(handle, data)
        if _of_a_picture(self._paths[handle]):
            self._watch.at("after_write")

    def rename(self, old: Path, new: Path) -> None:
        picture = _of_a_picture(old)
        if picture:
            self._watch.at("before_rename")
        super().rename(old, new)
        self._watch.at("after_rename" if picture else "after_sidecar")


def _of_a_picture(path: Path) -> bool:
    return path.suffix == ".part" and not path.name.endswith(".json.part") and "writable" not in path.name


def watch_ledger(watch: Watch) -> None:
    """Count claims and settlements; report the points around a settlement that has a picture."""
    claim, settle = Ledger.claim, Ledger.settle

    async def watched_claim(ledger: Ledger, *args: Any, **kwargs: Any) -> Any:
        found = await claim(ledger, *args, **kwargs)
        if isinstance(found, Claimed):
            watch.claimed(found.token)
        return found

    async def watched_settle(ledger: Ledger, claimed: Any, outcome: Any, *args: Any, **kwargs: Any) -> Any:
        fresh = isinstance(outcome, Made) and not kwargs.get("adopted")
        if fresh:
            watch.at("before_settle")
        settled = await settle(ledger, claimed, outcome, *args, **kwargs)
        if fresh:
            watch.at("after_settle")
        watch.settled(claimed.token)
        return settled

    patch.object(Ledger, "claim", watched_claim).start()
    patch.object(Ledger, "settle", watched_settle).start()


def watch_sends(watch: Watch) -> None:
    """Report the points around the send: aiohttp announces a body and writes it before it lets go of the loop."""
    render, trace = GeminiProvider.render, transport._trace

    async def watched_render(provider: GeminiProvider, *args: Any) -> Any:
        watch.at("before_send")
        return await render(provider, *args)

    async def sent(*_: object) -> None:
        asyncio.get_running_loop().call_soon(watch.at, "after_send")

    def watched_trace() -> Any:
        config = trace()
        config.on_request_chunk_sent.append(sent)
        return config

    patch.object(GeminiProvider, "render", watched_render).start()
    patch.object(transport, "_trace", watched_trace).start()


class Disk:
    """The output folder held in memory, so that a death can lose what was not synced."""

    def __init__(self, root: Path, kind: type[LossyFiles]) -> None:
        self.root, self.files = root, kind()
        self.files.put(root.parent / "something else", b"")
        for path in root.rglob("*"):
            if path.is_file():
                self.files.put(path, path.read_bytes())

    def lose(self, name: str) -> None:
        """Leave in the real folder what a crash with this loss leaves."""
        self.write(next(self.files.after(loss) for loss in losses() if loss.name == name))

    def write(self, disk: LossyFiles) -> None:
        """Make the real folder what `disk` is."""
        for path in self.root.rglob("*"):
            if path.is_file():
                path.unlink()
        for path, node in disk.live.items():
            if path.is_relative_to(self.root) and not node.folder:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(node.data)


def main() -> None:
    """Wrap, run, and tell the parent how far it came."""
    script = Script(**json.loads(sys.argv[1]))
    sys.argv = ["bulkrender", *sys.argv[2:]]
    watch = Watch(script)
    mutants.take_out(script.mutant)
    watch_ledger(watch)
    watch_sends(watch)
    watch_batches(watch)
    disk = None
    files: Files = RealFiles()
    if script.loss is not None:
        disk = Disk(
            Path(sys.argv[sys.argv.index("--output") + 1]), mutants.DISKS.get(script.mutant or "", LossyFiles)
        )
        files = disk.files
        watch.last_words = lambda: disk.lose(script.loss or "")
        patch.object(storage, "THREADS", 1).start()  # the disk in memory is not made for several

    def folder_store(campaign: Any, chosen: Any, on_blocked: Any) -> FolderStore:
        return FolderStore(chosen.output, files=WatchedFiles(files, watch), on_blocked=on_blocked)

    patch.object(running, "folder_store", folder_store).start()
    watch.tell("started")
    try:
        cli.main()
    finally:
        if disk is not None:
            disk.write(disk.files)


if __name__ == "__main__":
    main()
