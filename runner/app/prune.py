"""Pictures of orphaned tasks move to `superseded/` beside, with their sidecars. Nothing is deleted or bought.

A kill at any line is mended by the next prune or run: the picture's sidecar says whose it is wherever it lies.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import anyio

from runner.adapters.folder import SUPERSEDED, OutputFolder, json_of, stem_of
from runner.adapters.storage import FolderStore
from runner.app.settings import Options, output_folder, resolve
from runner.app.views import Json
from runner.core.errors import LocalFailureError, UsageError
from runner.ledger import Ledger, Reader


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was found, and what has moved."""

    job: str
    orphaned: int
    """Tasks that the manifest of the last run did not name."""
    pictures: int = 0
    """Of them, those to be moved."""
    bytes: int = 0
    moved: int = 0
    gone: tuple[str, ...] = ()
    """Pictures that are not where the ledger has them."""


Orphan = tuple[str, str, int]
"""Key, path and bytes."""


def prune(job: str, options: Options, environment: Mapping[str, str], agree: Callable[[Pruned], bool]) -> Pruned:
    """Move the pictures of the job's orphans away once `agree` has heard how many there are."""
    settings = resolve(options, environment)
    reader = Ledger.read(settings.database, settings.kind)
    names = reader.job_names()
    if job not in names:
        raise UsageError(f"no job {job!r} in this ledger; it has: {', '.join(names) or 'none'}")
    found = _found(reader, job)
    if not found.pictures:
        return found
    if not agree(found):
        raise UsageError("not confirmed: nothing was moved")
    with (
        Ledger.open(settings.database, settings.kind, now_utc=time.time()) as ledger,
        ledger.lock_job(job),
    ):
        recorded = reader.status(job, since_utc=0).output_root
        store = FolderStore(Path(recorded) if options.output is None else output_folder(options.output))
        return anyio.run(_move, ledger, store, _found(reader, job), list(_orphans(reader, job)))


def _found(reader: Reader, job: str) -> Pruned:
    sizes = [size for _, _, size in _orphans(reader, job)]
    return Pruned(job, reader.status(job, since_utc=0).orphaned, len(sizes), sum(sizes))


def _orphans(reader: Reader, job: str) -> Iterator[Orphan]:
    """Those whose pictures have not been moved away yet."""
    return (one for one in reader.orphans(job) if PurePosixPath(one[1]).parent.name != SUPERSEDED)


async def _move(ledger: Ledger, store: FolderStore, found: Pruned, orphans: Sequence[Orphan]) -> Pruned:
    """One after another: on disk, then in the ledger."""
    moved, size, gone = 0, 0, []
    for key, path, size_bytes in orphans:
        new = await anyio.to_thread.run_sync(partial(_supersede, store, key, path))
        if new is None:
            gone.append(path)
            continue
        await ledger.relocate(found.job, [(key, path, new)])
        moved, size = moved + 1, size + size_bytes
    return Pruned(found.job, found.orphaned, found.pictures, size, moved, tuple(gone))


def _supersede(store: FolderStore, key: str, path: str) -> str | None:
    """Move one picture; returns where it is, or None where it is not to be found. Another's is left alone."""
    try:
        picture = store.folder.locate(path)
        if _is_there(store.folder, key, picture):
            return store.supersede(key, path)
        aside = store.folder.aside(key, picture)  # moved by one that was killed before it could book that
        if aside is None:
            return None
        store.folder.drop_sidecar(key, picture)
        return store.folder.relative(aside)
    except OSError as error:
        raise LocalFailureError(f"output folder {store.root}: {(error.strerror or str(error)).lower()}") from error


def _is_there(folder: OutputFolder, key: str, picture: Path) -> bool:
    """Whether this task's picture is at its path, and not that of another one which took the place."""
    if folder.files.kind(picture) is None:
        return False
    sidecar = folder.read_sidecar(json_of(stem_of(picture)))
    return sidecar is None or (sidecar.key, sidecar.file) == (key, picture.name)


def pruned_object(pruned: Pruned) -> Json:
    """`prune --json`."""
    return {
        "job": pruned.job,
        "orphaned": pruned.orphaned,
        "moved": pruned.moved,
        "bytes": pruned.bytes if pruned.moved else 0,
        "exit_code": 0,
    }
