"""Pictures that were paid for, among files that the ledger does not know. Adopts nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runner.adapters.files import Kind
from runner.adapters.folder import OutputFolder, json_of, stem_of
from runner.adapters.sidecar import Sidecar


@dataclass(frozen=True, slots=True)
class Bought:
    """A picture with the sidecar that was written when it was bought."""

    path: str
    """Below the output root."""
    beside: str
    """The same of its sidecar."""
    sidecar: Sidecar
    written_utc: float
    """When the picture was last written: no sidecar says when it was bought."""


def bought(folder: OutputFolder, paths: Iterable[str]) -> Iterator[Bought]:
    """Those of the files that have a sidecar which names them and their bytes.

    The bytes are counted and not hashed: there may be thousands, and nothing is paid on this word.
    """
    for path in paths:
        picture = folder.locate(path)
        beside = json_of(stem_of(picture))
        sidecar = folder.read_sidecar(beside)
        if sidecar is None or sidecar.file != picture.name or folder.files.kind(picture) is not Kind.FILE:
            continue
        size, written_utc = folder.files.written(picture)
        if size == sidecar.bytes:
            yield Bought(path, folder.relative(beside), sidecar, written_utc)
