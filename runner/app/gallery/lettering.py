"""A line of any script: in Pillow's own font, and for what that lacks in those of this machine."""

import os
import subprocess
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from shutil import which
from typing import cast

from PIL import Image, ImageDraw, ImageFont, features

Font = ImageFont.FreeTypeFont
Run = tuple["Face", str]

LONGEST = 200
"""Characters of a text that are looked at."""
SHAPED = features.check_feature("raqm")
"""Whether letters are joined and written from the right where their script wants it."""
PROBE = 16
"""The size in which is looked whether a font has a character."""
FIXED = (109, 160)
"""Pixels of fonts that have one size only: coloured pictures, of Noto and of Apple."""
FOLDERS = (
    *("~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts"),
    *("~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts"),
)
"""Where fonts are if there is no fontconfig to ask."""
LIKELY = (
    "notosanscjk",
    "arial unicode",
    "hiragino sans",
    "pingfang",
    "notosans-",
    "dejavusans.",
    "wqy",
    "droidsans",
)
"""Beginnings of names that are tried before others."""
UNFIT = ("lastresort", "adobeblank")
"""Fonts that have a box, or nothing, for every character."""


@dataclass(frozen=True, slots=True)
class Face:
    """A font, whatever its size; without a path Pillow's own."""

    path: str | None = None
    index: int = 0

    def font(self, size: int) -> Font:
        """In so many pixels, or in the only size that it has; OSError for a file that is no font."""
        return _font(self, size, None)

    def covers(self, character: str) -> bool:
        """Whether it has a picture of the character, and that may stand without the letters beside it."""
        return (SHAPED or not _from_the_right(character)) and _covers(self, character)


class Lettering:
    """Draws lines, and knows what it could not draw."""

    def __init__(self) -> None:
        self._faces = [Face(), *_installed()]
        self.undrawn: set[str] = set()

    def fitted(self, text: str, size: int, width: int) -> list[Run]:
        """What fits of a text into so many pixels of one line, without what no font can draw."""
        wanted = set(line := _line(text))
        if missing := {c for c in wanted if not any(face.covers(c) for face in self._faces)}:
            self.undrawn |= missing
            line = " ".join("".join(" " if c in missing else c for c in line).split())
        runs = self._runs(line)
        if width_of(runs, size) <= width:
            return runs
        ends = range(len(line))
        fits = bisect_right(ends, width, key=lambda end: ceil(width_of(self._runs(f"{line[:end]}…"), size)))
        return self._runs(f"{line[: max(0, fits - 1)].rstrip()}…")

    def _runs(self, line: str) -> list[Run]:
        """The line in as few fonts as draw all of it."""
        whole = next((face for face in self._faces if all(map(face.covers, line))), None)
        if whole is not None:
            self._prefer(whole)
            return [(whole, line)]
        runs: list[Run] = []
        for character in line:
            before = runs.pop() if runs else None
            face = before[0] if before and _stays(character, before) else self._first(character)
            if before and before[0] != face:
                runs.append(before)
            runs.append((face, before[1] + character if before and before[0] == face else character))
        return runs

    def _first(self, character: str) -> Face:
        face = next(one for one in self._faces if one.covers(character))
        self._prefer(face)
        return face

    def _prefer(self, face: Face) -> None:
        """Who writes a language in one caption does so in the next: asked second, after Pillow's own."""
        if (place := self._faces.index(face)) > 1:
            self._faces.insert(1, self._faces.pop(place))


def draw(sheet: Image.Image, place: tuple[float, float], runs: list[Run], size: int, ink: str) -> None:
    """Write a line with its left upper corner there."""
    pen, x, base = ImageDraw.Draw(sheet), place[0], place[1] + size
    for face, text in runs:
        font = face.font(size)
        if (scale := _scale(font, size)) == 1:
            pen.text((x, base), text, ink, font, anchor="ls")
        else:
            _paste_small(sheet, (x, base), text, font, scale)
        x += font.getlength(text) * scale


def width_of(runs: list[Run], size: int) -> float:
    """Pixels of a line."""
    return sum((font := face.font(size)).getlength(text) * _scale(font, size) for face, text in runs)


def _scale(font: Font, size: int) -> float:
    return size / font.size


def _paste_small(sheet: Image.Image, place: tuple[float, float], text: str, font: Font, scale: float) -> None:
    """Pictures that are larger than the line."""
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    large = Image.new("RGBA", (max(1, int(right - left)), max(1, int(bottom - top))))
    ImageDraw.Draw(large).text((-left, -top), text, font=font, anchor="ls", embedded_color=True)
    small = large.resize((max(1, round(large.width * scale)), max(1, round(large.height * scale))))
    sheet.paste(small, (round(place[0] + left * scale), round(place[1] + top * scale)), small)


def _line(text: str) -> str:
    """Without breaks, and without what has no shape of its own: controls, marks of direction, variants."""
    shaped = (c for c in text[:LONGEST] if (c.isprintable() or c.isspace()) and not "\ufe00" <= c <= "\ufe0f")
    return " ".join("".join(shaped).split())


def _stays(character: str, before: Run) -> bool:
    """Whether it needs the letters before it: a mark, or a space between words that are read from the right."""
    face, text = before
    if character == " ":
        return _from_the_right(text[-1])
    return unicodedata.category(character)[0] == "M" and face.covers(character)


def _from_the_right(character: str) -> bool:
    return unicodedata.bidirectional(character) in {"R", "AL"}


@lru_cache(maxsize=1024)
def _font(face: Face, size: int, layout: ImageFont.Layout | None) -> Font:
    if face.path is None:
        return cast("Font", ImageFont.load_default(size)).font_variant(layout_engine=layout)
    for one in (size, *FIXED):
        with suppress(OSError):
            return ImageFont.truetype(face.path, one, face.index, layout_engine=layout)
    raise OSError(f"{face.path}: no font")


@lru_cache(maxsize=1 << 17)
def _covers(face: Face, character: str) -> bool:
    try:
        glyph = _glyph(face, character)
        return character == " " or (any(glyph) and glyph != _glyph(face, "\uffff"))
    except OSError:
        return False


def _glyph(face: Face, character: str) -> bytes:
    """What it has for this one, before letters are joined: a mark would get a circle to stand on."""
    return bytes(_font(face, PROBE, ImageFont.Layout.BASIC).getmask(character))


def _installed() -> Iterator[Face]:
    """The fonts of this machine, plain ones first."""
    found = _asked() if which("fc-match") is not None else _found()
    return (face for face in found if not Path(face.path or "").name.lower().startswith(UNFIT))


def _asked() -> Iterator[Face]:
    """Those that fontconfig would fall back on, in its order."""
    words = ["fc-match", "--sort", "--format=%{file}\t%{index}\n", "sans-serif"]
    said = subprocess.run(  # noqa: S603 - nothing of a user is in it
        words, capture_output=True, text=True, check=False, errors="surrogateescape"
    )
    for line in said.stdout.splitlines():
        path, _, index = line.rpartition("\t")
        yield Face(path, int(index) & 0xFFFF)  # what is above names a variation of it


def _found() -> Iterator[Face]:
    found = [path for folder in FOLDERS for path in _fonts_below(Path(folder).expanduser())]
    return (Face(str(path)) for path in sorted(found, key=_rank))


def _fonts_below(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if name.lower().endswith((".ttf", ".otf", ".ttc", ".otc")))


def _rank(path: Path) -> tuple[bool, bool, str]:
    name = path.name.lower()
    return not name.startswith(LIKELY), any(word in name for word in ("bold", "italic", "mono", "serif")), name


def remedies(undrawn: Iterable[str]) -> list[str]:
    """Packages, as Debian calls them, with which these characters can be drawn."""
    return sorted({_remedy(character) for character in undrawn})


def _remedy(character: str) -> str:
    name = unicodedata.name(character, "")
    if name.startswith(
        ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH")
    ):
        return "fonts-noto-cjk"
    if not SHAPED and unicodedata.bidirectional(character) in {"R", "AL"}:
        return "libfribidi0"
    return "fonts-noto-color-emoji" if unicodedata.category(character) == "So" else "fonts-noto-core"
