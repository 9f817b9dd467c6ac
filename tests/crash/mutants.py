"""Safeguards of the runner, each taken out by itself: what the crash test must notice."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection

from runner.adapters import delivery
from runner.adapters.storage import FolderLanding, FolderStore
from runner.core.lifecycle import Made
from runner.ledger import Claimed, Ledger
from runner.ledger.claim import claim as claim_in
from tests.adapters.lossy_files import LossyFiles
from tests.crash.batch_mutants import BATCH_MUTANTS


class WithoutSync(LossyFiles):
    """Contents are never synced."""

    def sync(self, handle: int) -> None:
        pass


class WithoutFolderSync(LossyFiles):
    """Names are never synced."""

    def sync_folder(self, path: Path) -> None:
        pass


class RenameBeforeSync(LossyFiles):
    """A picture's contents are synced only after it has its name."""

    def sync(self, handle: int) -> None:
        if self.handles[handle][0].name.endswith(".json.part"):
            super().sync(handle)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        for name, node in self.live.items():
            if name.suffix != ".part":
                node.synced = node.data


DISKS: Mapping[str, type[LossyFiles]] = {
    "no sync": WithoutSync,
    "no folder sync": WithoutFolderSync,
    "rename before sync": RenameBeforeSync,
}
"""Mutants of the order on disk; they show on a disk that loses what was not synced."""


def take_out(mutant: str | None) -> None:
    """Put a mutant of the runner's code in its place."""
    if mutant is not None and mutant not in DISKS:
        MUTANTS[mutant]()


def _no_adoption() -> None:
    patch.object(FolderStore, "adopt", lambda *_: None).start()


def _settle_before_write() -> None:
    """The picture is judged and settled; its bytes would be written some time later."""

    async def keep(landing: FolderLanding, answer: Any) -> Any:
        task = landing._task
        sidecar = delivery.describe(task, answer, landing._data, decode=False)
        outcome = sidecar.outcome(f"{task.stem.rpartition('/')[0]}/{sidecar.file}")
        assert isinstance(outcome, Made)
        return outcome

    patch.object(FolderLanding, "keep", keep).start()


class _Undo(Exception):  # noqa: N818 - not an error: it takes a transaction back
    def __init__(self, found: Any) -> None:
        self.found = found


def _claim_after_send() -> None:
    """A claim is only looked up; task, attempt and reservation are committed once its request is on its way."""
    real_claim, real_settle = Ledger.claim, Ledger.settle
    owed: list[dict[str, Any]] = []

    async def commit(ledger: Ledger) -> None:
        while owed:
            await real_claim(ledger, **owed.pop())

    async def claim(ledger: Ledger, job: str, **wanted: Any) -> Any:
        await commit(ledger)

        def look(connection: Connection) -> Any:
            raise _Undo(claim_in(connection, job, quotas=ledger._quotas, **wanted))

        try:
            found = await ledger._writer.run(look)
        except _Undo as undo:
            found = undo.found
        if isinstance(found, Claimed):
            owed.append({"job": job, **wanted})
        return found

    async def settle(ledger: Ledger, *args: Any, **kwargs: Any) -> Any:
        await commit(ledger)
        return await real_settle(ledger, *args, **kwargs)

    patch.object(Ledger, "claim", claim).start()
    patch.object(Ledger, "settle", settle).start()


MUTANTS: Mapping[str, Callable[[], None]] = {
    "no adoption": _no_adoption,
    "settle before write": _settle_before_write,
    "claim after send": _claim_after_send,
    **BATCH_MUTANTS,
}
