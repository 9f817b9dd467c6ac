"""One picture on its way to disk, in the order of invariant 3. Blocking; safe to try again after any failure."""

from dataclasses import replace
from pathlib import Path

from runner.adapters import pictures
from runner.adapters.files import Kind
from runner.adapters.folder import REJECTED, OutputFolder, digest, json_of, short
from runner.adapters.sidecar import MADE, Sidecar
from runner.core.lifecycle import Answer, Made, Unusable
from runner.core.task import Assignment


def describe(task: Assignment, answer: Answer, data: bytearray, *, decode: bool) -> Sidecar:
    """Judge a picture and write down what it is, as if nothing foreign were in its way."""
    verdict = pictures.judge(data, task, decode=decode)
    return Sidecar(
        key=task.key,
        job=task.job,
        attempt=task.token,
        model=task.recipe.model,
        prompt=task.prompt,
        size=task.size,
        aspect=task.aspect,
        verdict=verdict.reason or MADE,
        detail=verdict.detail,
        file=f"{wanted_name(task, verdict.reason or MADE)}.{verdict.format.extension}",
        sha256=digest(data),
        bytes=len(data),
        mime=verdict.format.mime,
        width=verdict.width,
        height=verdict.height,
        answer=answer,
    )


def wanted_name(task: Assignment, verdict: str) -> str:
    """The name a picture lands under if nothing foreign is in the way, without extension."""
    name = task.stem.rpartition("/")[2]
    return name if verdict == MADE else f"{name}.{task.token[:12]}"


class Delivery:
    """Brings one judged picture to its place. `data` is None where it is whole in its temporary file."""

    def __init__(self, folder: OutputFolder, task: Assignment, sidecar: Sidecar, data: bytearray | None) -> None:
        self._folder, self._files = folder, folder.files
        self._sidecar, self._data = sidecar, data
        self._home = home(folder, task, sidecar.verdict)
        self._part = part_of(self._home, task)
        self._whole = data is None
        self._published = False
        self._notices: dict[str, None] = {}

    def land(self) -> Made | Unusable:
        """Temporary file, sidecar, rename, folder: each durable before the next. Raises OSError, OutputError."""
        self._folder.ensure(self._home)
        if not self._published:
            self._write()
        wanted, extension = self._home / Path(self._sidecar.file).stem, self._sidecar.file.rpartition(".")[2]
        stem = self._folder.place(self._sidecar, wanted, extension, self._tell)
        picture = stem.with_name(f"{stem.name}.{extension}")
        answer = self._sidecar.answer
        answer = replace(answer, notices=(*answer.notices, *self._notices))
        landed = replace(self._sidecar, file=picture.name, answer=answer)
        self._folder.describe(landed, stem)
        if not self._published:
            self._files.rename(self._part, picture)
            self._published = True
        self._files.sync_folder(self._home)
        return landed.outcome(self._folder.relative(picture))

    def _tell(self, notice: str) -> None:
        self._notices[notice] = None  # a second try may say it again

    def _write(self) -> None:
        """A temporary file that is whole stays: it is what a crash would be mended from."""
        if self._data is not None and not (self._whole and self._files.kind(self._part) is Kind.FILE):
            self._folder.write(self._part, self._data)
            self._whole = True


def home(folder: OutputFolder, task: Assignment, verdict: str) -> Path:
    """The folder a picture belongs in."""
    parent = folder.locate(task.stem).parent
    return parent if verdict == MADE else parent / REJECTED


def part_of(home: Path, task: Assignment) -> Path:
    """The temporary file of an attempt's picture."""
    return home / f".{wanted_name(task, MADE)}.{task.token}.part"


def adopt(folder: OutputFolder, task: Assignment) -> Made | Unusable | None:
    """What a crash left of this very attempt: its picture, made durable under its name, or nothing.

    Only bytes that fit a sidecar of this key and attempt count. What else the attempt left is removed.
    """
    homes = [home(folder, task, verdict) for verdict in (MADE, REJECTED)]
    found = _recover(folder, task, homes[0]) or _recover(folder, task, homes[1])
    for each in homes:
        for temporary in (part_of(each, task), folder.sidecar_part(each, task.token)):
            if folder.files.kind(temporary) is not None:
                folder.remove(temporary)
    return found


def _recover(folder: OutputFolder, task: Assignment, place: Path) -> Made | Unusable | None:
    for path in _sidecars(task, place):
        sidecar = folder.read_sidecar(path)
        if sidecar is None or (sidecar.key, sidecar.attempt) != (task.key, task.token):
            continue
        if folder.fits(sidecar, place / sidecar.file):
            folder.ensure(place)
            folder.files.sync_folder(place)
            return sidecar.outcome(folder.relative(place / sidecar.file))
        if folder.fits(sidecar, part_of(place, task)):
            return Delivery(folder, task, sidecar, None).land()
        if folder.files.kind(place / sidecar.file) is None:
            folder.remove(path)  # it describes a picture that never arrived
    return None


def _sidecars(task: Assignment, place: Path) -> list[Path]:
    """Every place where the sidecar of an attempt may be."""
    name = wanted_name(task, MADE)
    beside = f"{name}.{short(task.key)}"
    names = (name, beside, f"{beside}-{task.token[:12]}", wanted_name(task, REJECTED))
    return [json_of(place / each) for each in names]
