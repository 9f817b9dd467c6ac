"""A contact sheet: all pictures of a job as one PNG, or as the pages of one PDF. Drawn from thumbnails."""

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from runner.app.gallery.lettering import Lettering, draw, width_of
from runner.core.errors import UsageError

Frame = tuple[str, Path]
"""Caption, and the picture as a file."""

PAPER, INK, PALE = "#ffffff", "#1c1c1c", "#777777"
MOST_PIXELS = 60_000_000
"""Of a PNG: 180 MB while it is drawn."""
LARGEST, SMALLEST = 320, 48
"""Pixels of a frame's side."""
PAGE = (1654, 2339)
"""A4 at 200 dots an inch."""
PAGE_DPI = 200
ACROSS, DOWN = 5, 7
"""Frames of a page."""
TITLE = 28
"""Size of the title in pixels."""
AHEAD = 64
"""Pictures that are read at a time."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where frames are: in `columns`, each picture in a square of `side`, with its caption below."""

    columns: int
    side: int
    margin: int
    head: int
    captioned: bool = True

    @property
    def gap(self) -> int:
        """Between frames."""
        return max(4, self.side // 16)

    @property
    def text(self) -> int:
        """Size of the captions in pixels."""
        return max(9, self.side // 18)

    @property
    def step(self) -> tuple[int, int]:
        """From one frame to the next, across and down."""
        return self.side + self.gap, self.side + self.gap + (self.text * 2 if self.captioned else 0)

    def size(self, frames: int) -> tuple[int, int]:
        """Pixels of a sheet of so many."""
        (across, down), rows = self.step, math.ceil(frames / self.columns)
        return 2 * self.margin + self.columns * across - self.gap, self.margin * 2 + self.head + rows * down

    def place(self, number: int) -> tuple[int, int]:
        """The left upper corner of a frame."""
        row, column = divmod(number, self.columns)
        return self.margin + column * self.step[0], self.margin + self.head + row * self.step[1]


PAGE_LAYOUT = Layout(ACROSS, side=284, margin=80, head=70)


def form_of(path: Path) -> str:
    """`PNG` or `PDF`, by the name; UsageError for any other."""
    form = path.suffix.lower()
    if form not in {".png", ".pdf"}:
        raise UsageError(f"--contact-sheet {path}: expected a name that ends in .png or .pdf")
    return form[1:].upper()


def write_sheet(path: Path, title: str, frames: Sequence[Frame]) -> frozenset[str]:
    """Write the sheet, in place at once; the characters that no font here draws.

    UsageError where there is nothing to show or `path` takes nothing.
    """
    if not frames:
        raise UsageError("--contact-sheet: the job has no pictures yet")
    part, lettering = path.with_name(f".{path.name}.part"), Lettering()
    try:
        if form_of(path) == "PNG":
            _drawn(frames, title, layout_of(len(frames)), lettering).save(part, "PNG", compress_level=3)
        else:
            for number, page in enumerate(_pages(frames, title, lettering)):
                page.save(part, "PDF", resolution=PAGE_DPI, title=title, append=number > 0)
        part.replace(path)
    except OSError as error:
        raise UsageError(f"--contact-sheet {path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        part.unlink(missing_ok=True)
    return frozenset(lettering.undrawn)


def layout_of(frames: int) -> Layout:
    """The largest frames with which all fit into one picture, about as high as it is wide."""
    columns = math.ceil(math.sqrt(frames))
    side = min(LARGEST, int(math.sqrt(MOST_PIXELS / (columns * columns * 1.25))))
    return Layout(columns, max(SMALLEST, side), margin=32, head=64, captioned=side >= 96)


def _pages(frames: Sequence[Frame], title: str, lettering: Lettering) -> Iterator[Image.Image]:
    """One after another: a page is 12 MB, and a job may have hundreds."""
    layout, full = PAGE_LAYOUT, ACROSS * DOWN
    count = math.ceil(len(frames) / full)
    for number in range(count):
        named = title if count == 1 else f"{title}  {number + 1}/{count}"
        yield _drawn(frames[number * full : (number + 1) * full], named, layout, lettering, PAGE)


def _drawn(
    frames: Sequence[Frame],
    title: str,
    layout: Layout,
    lettering: Lettering,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    sheet = Image.new("RGB", size or layout.size(len(frames)), PAPER)
    words = lettering.fitted(title, TITLE, sheet.width - 2 * layout.margin)
    draw(sheet, (layout.margin, layout.margin), words, TITLE, INK)
    for number, ((caption, _), shown) in enumerate(zip(frames, _loaded(frames, layout.side), strict=True)):
        x, y = layout.place(number)
        # at the foot of its square, where the caption is
        sheet.paste(shown, (x + (layout.side - shown.width) // 2, y + layout.side - shown.height), shown)
        if layout.captioned:
            words = lettering.fitted(caption, layout.text, layout.side)
            left = x + (layout.side - width_of(words, layout.text)) / 2
            draw(sheet, (left, y + layout.side + layout.text // 3), words, layout.text, PALE)
    return sheet


def _loaded(frames: Sequence[Frame], side: int) -> Iterator[Image.Image]:
    """The pictures in their order, by all cores, some ahead of what is drawn."""

    def load(frame: Frame) -> Image.Image:
        with Image.open(frame[1]) as image:
            image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=1.5)
            return image.convert("RGBA")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(frames), AHEAD):
            yield from pool.map(load, frames[first : first + AHEAD])
