"""From a ledger and a folder of pictures to a gallery, and a contact sheet if one is asked for."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.adapters.storage import FolderStore
from runner.app.gallery import folder as places
from runner.app.gallery.data import Moment, Shown, Table, job_facts, script, shown
from runner.app.gallery.sheet import form_of, write_sheet
from runner.app.gallery.thumbnails import Thumbnails, make_thumbnails
from runner.app.settings import Options, output_folder, resolve
from runner.app.views import Json
from runner.core.errors import UsageError
from runner.ledger import JobStatus, Ledger


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asked for."""

    job: str
    to: Path | None = None
    """Another folder than the default."""
    orphaned: bool = False
    contact_sheet: Path | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What was written."""

    job: str
    index: Path
    """The page to open."""
    tasks: int
    pictures: int
    """Tasks whose picture is shown."""
    thumbnails: Thumbnails
    missing: tuple[str, ...]
    """Pictures that are not where the ledger has them: paths below the output folder."""
    contact_sheet: Path | None
    undrawn: frozenset[str]
    """Characters of the contact sheet that no font of this machine has."""
    moment: Moment
    """Where the job was."""


class Maker:
    """Writes the gallery of one job; `told` hears of the thumbnails that are made.

    Raises UsageError for a job or a folder that cannot be meant, OSError where the folder takes no more files.
    """

    def __init__(
        self,
        wanted: Wanted,
        options: Options,
        environment: Mapping[str, str],
        told: Callable[[int, int], None],
    ) -> None:
        settings = resolve(options, environment)
        self._reader = Ledger.read(settings.database, settings.kind if settings.sandbox else None)
        if wanted.contact_sheet is not None:
            form_of(wanted.contact_sheet)
        if wanted.job not in (names := self._reader.job_names()):
            raise UsageError(f"no job {wanted.job!r} in this ledger; it has: {', '.join(names) or 'none'}")
        self.wanted, self._told, self._sandbox = wanted, told, settings.sandbox
        self._output = None if options.output is None else output_folder(options.output)

    def moment(self) -> Moment:
        """Where the job is now."""
        return self._state()[1]

    def _state(self) -> tuple[JobStatus, Moment]:
        live = self._reader.runner(self.wanted.job) is not None
        status = self._reader.status(self.wanted.job, since_utc=time.time())
        return status, Moment(status.tasks, status.spend, status.halted, status.orphaned, live)

    def make(self, *, sheet: bool = True) -> Made:
        """Write it as the job is now; with the contact sheet, if one is wanted."""
        wanted, made_at = self.wanted, time.time()
        status, moment = self._state()
        root = (self._output or Path(status.output_root)).resolve()
        target = (wanted.to or places.default_place(root, wanted.job)).resolve()
        exhibits = shown(self._reader, wanted.job, orphaned=wanted.orphaned)
        places.take(target, wanted.job)
        pictures = _located(exhibits, FolderStore(root))
        thumbnails = make_thumbnails(target / places.THUMBNAILS, pictures, self._told)
        missing = [one.picture[0] for one in exhibits if one.picture and not (root / one.picture[0]).is_file()]
        facts = job_facts(status, sandbox=self._sandbox, moment=moment, made_at=made_at)
        table = Table(exhibits, self._reader, wanted.job).as_object(thumbnails.files, frozenset(missing))
        places.write_page(target)
        places.write(target / "data.js", [script("GALLERY", {**facts, "root": _way(target, root), **table})])
        places.write(target / "newest.js", [script("NEWEST", made_at)])  # last: who sees it loads what is above
        places.sweep(target, set(thumbnails.files.values()))
        path = wanted.contact_sheet if sheet else None
        return Made(
            wanted.job,
            target / "index.html",
            len(exhibits),
            sum(one.picture is not None and not one.rejected for one in exhibits),
            thumbnails,
            tuple(missing),
            path,
            frozenset() if path is None else write_sheet(path, wanted.job, _framed(exhibits, target, thumbnails)),
            moment,
        )


def _located(exhibits: Sequence[Shown], store: FolderStore) -> dict[str, Path]:
    """Where each picture is, by its sha256. OutputError for a path that could leave the output folder."""
    found = [one.picture for one in exhibits if one.picture is not None]
    return {sha256: store.folder.locate(path) for path, sha256 in found}


def _way(target: Path, root: Path) -> str:
    """From the gallery to the pictures, as a link goes."""
    return Path(os.path.relpath(root, target)).as_posix()


def _framed(exhibits: Sequence[Shown], target: Path, thumbnails: Thumbnails) -> list[tuple[str, Path]]:
    """(caption, thumbnail) of every picture that is what was ordered, in the manifest's order."""
    folder, files = target / places.THUMBNAILS, thumbnails.files
    ordered = [(one, one.picture[1]) for one in exhibits if one.picture is not None and not one.rejected]
    return [(one.words, folder / files[sha256]) for one, sha256 in ordered if sha256 in files]


def made_object(made: Made) -> Json:
    """`gallery --json`."""
    return {
        "job": made.job,
        "gallery": str(made.index),
        "tasks": made.tasks,
        "pictures": made.pictures,
        "thumbnails": {
            "made": made.thumbnails.made,
            "kept": made.thumbnails.kept,
            "broken": [str(path) for path in made.thumbnails.broken],
        },
        "missing": list(made.missing),
        "contact_sheet": None if made.contact_sheet is None else str(made.contact_sheet),
        "undrawn": "".join(sorted(made.undrawn)),
        "exit_code": 0,
    }
