"""Small copies of the pictures, made by all cores and kept: a file's name is the sha256 of its picture."""

import io
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

SIDE = 384
"""Pixels of the longer side: a tile of 192 on a screen with two pixels to each."""
QUALITY = 78
METHOD = 2
"""Of WebP: half of JPEG's bytes in a little more time; higher ones take twice as long for 3 % less."""
MOST_THREADS = 8
"""Pillow lets other threads work while it decodes; a 4K picture takes 50 MB meanwhile."""


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """What is in the folder now."""

    files: Mapping[str, str]
    """sha256 -> file name."""
    made: int
    broken: tuple[Path, ...]
    """Files that nothing could be made of."""

    @property
    def kept(self) -> int:
        """Those that were there already."""
        return len(self.files) - self.made


def make_thumbnails(folder: Path, pictures: Mapping[str, Path], told: Callable[[int, int], None]) -> Thumbnails:
    """A thumbnail of every picture that is there, by sha256; of one that is gone, the one made before.

    `told` hears how many are done, and of how many. Raises OSError where one cannot be written. Who is
    interrupted keeps what is done.
    """
    there = {one.name for one in os.scandir(folder)}
    files = {sha256: f"{sha256}.webp" for sha256 in pictures}
    kept = {sha256 for sha256, name in files.items() if name in there}
    wanted = {sha256 for sha256, path in pictures.items() if sha256 not in kept and path.is_file()}
    made = set(_all_made({pictures[sha256]: folder / files[sha256] for sha256 in wanted}, told))
    shown = {sha256: files[sha256] for sha256, path in pictures.items() if sha256 in kept or path in made}
    return Thumbnails(shown, len(made), tuple(sorted({pictures[sha256] for sha256 in wanted} - made)))


def _all_made(targets: Mapping[Path, Path], told: Callable[[int, int], None]) -> Iterator[Path]:
    """The pictures of which a thumbnail could be made, as they are done."""
    told(0, len(targets))
    pool = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1))
    try:
        making = {pool.submit(_make, picture, target): picture for picture, target in targets.items()}
        for number, done in enumerate(as_completed(making), 1):
            if done.result():
                yield making[done]
            told(number, len(targets))
    finally:
        pool.shutdown(cancel_futures=True)


def _make(picture: Path, target: Path) -> bool:
    """One thumbnail, in place at once; False for a file that is no picture, or not a whole one."""
    try:
        data = shrink(picture)
    except Exception:  # noqa: BLE001 - there is no end to what a broken file does to a decoder
        return False
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(data)
    part.replace(target)
    return True


def shrink(picture: Path) -> bytes:
    """A picture as a small WebP in its own proportions. Raises whatever Pillow does."""
    out = io.BytesIO()
    with Image.open(picture) as image:
        profile = image.info.get("icc_profile") if image.mode in {"RGB", "RGBA"} else None
        image.draft("RGB", (SIDE, SIDE))
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
        upright = ImageOps.exif_transpose(image)
        mode = "RGBA" if upright.has_transparency_data else "RGB"
        upright.convert(mode).save(out, "WEBP", quality=QUALITY, method=METHOD, icc_profile=profile)
    return out.getvalue()
