"""The folder of a gallery: ours or nobody's, and every file in it whole."""

import os
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from runner.core.errors import UsageError
from runner.core.paths import compile_output

MARKER = ".bulkrender-gallery"
"""Holds the name of the job, and is the first file to be written."""
THUMBNAILS = "thumbnails"
_THUMBNAIL = re.compile(r"\.?[0-9a-f]{64}\.webp(\.part)?")
_PLACE = compile_output("gallery/{job}.{ext}", ())


def default_place(output: Path, job: str) -> Path:
    """Below the output folder, so that pictures and gallery move together."""
    return output / _PLACE.stem({"job": job})


def take(folder: Path, job: str) -> None:
    """Make the folder, or find that it is this job's gallery or empty; UsageError for any other."""
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: is a file; say where the gallery is to go with --to DIR")
        folder.mkdir(parents=True, exist_ok=True)
        owner = _owner(folder)
        if owner is None and any(not one.name.startswith(".") for one in folder.iterdir()):
            raise UsageError(f"{folder}: holds files that are no gallery's; name an empty folder with --to DIR")
        if owner not in {None, job}:
            raise UsageError(f"{folder}: is the gallery of job {owner}; name another folder with --to DIR")
        write(folder / MARKER, [job])
        (folder / THUMBNAILS).mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: {(error.strerror or str(error)).lower()}") from None


def _owner(folder: Path) -> str | None:
    with suppress(FileNotFoundError):
        return (folder / MARKER).read_text(encoding="utf-8", errors="surrogatepass")
    return None


def write(path: Path, pieces: Iterable[str]) -> None:
    """Put a text in place at once: who opens the gallery meanwhile sees the one before."""
    part = path.with_name(f".{path.name.lstrip('.')}.part")
    try:
        with part.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            file.writelines(pieces)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_page(folder: Path) -> None:
    """The page itself, which is the same for every job."""
    for source in files("runner.app.gallery").joinpath("page").iterdir():
        if source.is_file():
            write(folder / source.name, [source.read_text(encoding="utf-8")])


def sweep(folder: Path, keep: Collection[str]) -> None:
    """Remove thumbnails of pictures that are no longer shown, and what was cut off in the middle."""
    for one in os.scandir(folder / THUMBNAILS):
        if one.name not in keep and _THUMBNAIL.fullmatch(one.name):
            with suppress(OSError):
                Path(one.path).unlink()
