"""A contact sheet: all pictures of a job as one PNG, or as the pages of one PDF. Drawn from thumbnails."""

import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from runner.core.errors import UsageError

Frame = tuple[str, Path]
"""Caption, and the picture as a file."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

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
LONGEST = 200
"""Characters of a caption that are looked at."""


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


def write_sheet(path: Path, title: str, frames: Sequence[Frame]) -> None:
    """Write the sheet, in place at once; UsageError where there is nothing to show or `path` takes nothing."""
    if not frames:
        raise UsageError("--contact-sheet: the job has no pictures yet")
    part = path.with_name(f".{path.name}.part")
    try:
        if form_of(path) == "PNG":
            _drawn(frames, title, layout_of(len(frames))).save(part, "PNG", compress_level=3)
        else:
            for number, page in enumerate(_pages(frames, title)):
                page.save(part, "PDF", resolution=PAGE_DPI, title=title, append=number > 0)
        part.replace(path)
    except OSError as error:
        raise UsageError(f"--contact-sheet {path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        part.unlink(missing_ok=True)


def layout_of(frames: int) -> Layout:
    """The largest frames with which all fit into one picture, about as high as it is wide."""
    columns = math.ceil(math.sqrt(frames))
    side = min(LARGEST, int(math.sqrt(MOST_PIXELS / (columns * columns * 1.25))))
    return Layout(columns, max(SMALLEST, side), margin=32, head=64, captioned=side >= 96)


def _pages(frames: Sequence[Frame], title: str) -> Iterator[Image.Image]:
    """One after another: a page is 12 MB, and a job may have hundreds."""
    layout, full = PAGE_LAYOUT, ACROSS * DOWN
    count = math.ceil(len(frames) / full)
    for number in range(count):
        named = title if count == 1 else f"{title}  {number + 1}/{count}"
        yield _drawn(frames[number * full : (number + 1) * full], named, layout, PAGE)


def _drawn(
    frames: Sequence[Frame], title: str, layout: Layout, size: tuple[int, int] | None = None
) -> Image.Image:
    sheet = Image.new("RGB", size or layout.size(len(frames)), PAPER)
    draw = ImageDraw.Draw(sheet)
    words = _fitted(title, TITLE, sheet.width - 2 * layout.margin)
    draw.text((layout.margin, layout.margin), words, INK, _font(TITLE))
    for number, ((caption, _), shown) in enumerate(zip(frames, _loaded(frames, layout.side), strict=True)):
        x, y = layout.place(number)
        # at the foot of its square, where the caption is
        sheet.paste(shown, (x + (layout.side - shown.width) // 2, y + layout.side - shown.height), shown)
        if layout.captioned:
            words, middle = _fitted(caption, layout.text, layout.side), x + layout.side // 2
            place = (middle, y + layout.side + layout.text // 3)
            draw.text(place, words, PALE, _font(layout.text), anchor="ma")
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


@lru_cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _fitted(text: str, size: int, width: int) -> str:
    """What fits of a text in one line, without what the font cannot draw."""
    line = " ".join("".join(c if _width(c, size) else " " for c in text[:LONGEST]).split())
    ends = list(accumulate(_width(c, size) for c in line))
    if not ends or ends[-1] <= width:
        return line
    return line[: bisect_right(ends, width - _width("…", size))].rstrip() + "…"


@lru_cache(maxsize=4096)
def _width(character: str, size: int) -> float:
    """Pixels of a character; 0 for one that the font has no glyph for."""
    font = _font(size)
    there = character == " " or (character.isprintable() and _glyph(character, size) != _glyph("\uffff", size))
    return font.getlength(character) if there else 0.0


def _glyph(character: str, size: int) -> bytes:
    return bytes(_font(size).getmask(character))
