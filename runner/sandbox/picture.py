"""Real pictures at next to no cost: a band with text on it, and flat rows that are encoded once and repeated.

In JPEG every row of blocks starts afresh behind a restart marker, in PNG a deflate block behind a full flush knows
nothing of what came before: so rows encoded apart can be joined, and a 4K picture costs little more than its band.
"""

import colorsys
import io
import math
import re
import struct
import textwrap
import zlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

TONES = 8
"""Shades of the background, from top to bottom."""
PAPER, INK = TONES, TONES + 1
"""Palette entries of the band."""
ROW = 16
"""Pixels in a row of JPEG blocks at 4:2:0."""
BAND_PIXELS = 1_000_000
"""Most that is drawn; with a third of the height it bounds what a picture costs."""
MARGIN = 8
LETTER, LINE = 0.58, 1.25
"""About how wide a letter and how high a line is, in sizes of the font."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """What to draw: `text` on a band, over shades of the colour that `hue` (0 to 1) names."""

    width: int
    height: int
    text: str
    hue: float
    note: str
    """Goes into the file beside the pixels, as printable ASCII; makes the bytes of each sample its own."""

    @property
    def rows(self) -> int:
        """Rows of blocks, the last one perhaps cut."""
        return -(-self.height // ROW)

    @property
    def band(self) -> range:
        """The rows of blocks that the text covers."""
        count = max(1, min(self.rows // 3, BAND_PIXELS // (self.width * ROW)))
        start = (self.rows - count) // 3
        return range(start, start + count)

    def tone(self, row: int) -> int:
        """Shade of a row of blocks."""
        return row * TONES // self.rows


def encode(drawing: Drawing, form: Literal["jpeg", "png"]) -> bytes:
    """A valid file of exactly the drawing's pixels."""
    return _jpeg(drawing) if form == "jpeg" else _png(drawing)


def _palette(hue: float) -> bytes:
    tones = [colorsys.hsv_to_rgb(hue, 0.35 + 0.05 * i, 0.95 - 0.07 * i) for i in range(TONES)]
    colours = [*tones, colorsys.hsv_to_rgb(hue, 0.08, 1.0), colorsys.hsv_to_rgb(hue, 0.9, 0.2)]
    return bytes(round(255 * channel) for colour in colours for channel in colour)


@cache
def _font(size: int) -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _band(drawing: Drawing) -> "Image":
    """The text, as large as it fits, in palette colours."""
    from PIL import Image, ImageDraw

    width, height = drawing.width, len(drawing.band) * ROW
    image = Image.new("P", (width, height), PAPER)
    size, lines = _fit(drawing.text, width - 2 * MARGIN, height - 2 * MARGIN)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "1"
    for i, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + i * LINE * size), line, fill=INK, font=_font(size))
    image.putpalette(_palette(drawing.hue))
    return image


def _fit(text: str, width: int, height: int) -> tuple[int, list[str]]:
    """The largest font in which the text fits, and its lines; what does not fit in the smallest is left out."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    largest = math.sqrt(width * height / (LETTER * LINE * max(len(text), 1)))
    size = max(10, min(int(largest), height // 2, width // 12))
    while True:
        lines = textwrap.wrap(text, max(1, int(width / (LETTER * size))))
        room = max(1, int(height / (LINE * size)))
        if len(lines) <= room or size <= 10:
            return size, lines[:room]
        size = max(10, size * 9 // 10)


def _jpeg(drawing: Drawing) -> bytes:
    from PIL import Image

    tones = Image.new("P", (1, TONES))
    tones.putdata(range(TONES))
    tones.putpalette(_palette(drawing.hue))
    _, flat = _scan(tones.resize((drawing.width, TONES * ROW), Image.Resampling.NEAREST))
    head, drawn = _scan(_band(drawing), drawing.note)
    rows = [flat[drawing.tone(row)] for row in range(drawing.rows)]
    rows[drawing.band.start : drawing.band.stop] = drawn
    scan = b"".join(row + bytes((0xFF, 0xD0 + i % 8)) for i, row in enumerate(rows))
    frame = head.index(b"\xff\xc0")
    height = struct.pack(">H", drawing.height)
    return head[: frame + 5] + height + head[frame + 7 :] + scan[:-2] + b"\xff\xd9"


def _scan(image: "Image", note: str = "") -> tuple[bytes, list[bytes]]:
    """All of a JPEG up to its scan, and the entropy-coded rows of blocks."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=80, subsampling="4:2:0", restart_marker_rows=1, comment=note)
    data = file.getvalue()
    start = data.index(b"\xff\xda")
    start += 2 + int.from_bytes(data[start + 2 : start + 4])
    # Inside a scan 0xFF is stuffed with a zero, so these two bytes can only be a restart marker.
    return data[:start], re.split(rb"\xff[\xd0-\xd7]", data[start:-2])


def _png(drawing: Drawing) -> bytes:
    body, checksum = [b"\x78\x01"], 1
    for data, packed in _png_rows(drawing):
        body.append(packed)
        checksum = zlib.adler32(data, checksum)
    body.append(b"\x03\x00" + struct.pack(">I", checksum))
    header = struct.pack(">IIBBBBB", drawing.width, drawing.height, 8, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", _palette(drawing.hue)),
        (b"tEXt", b"Comment\x00" + drawing.note.encode()),
        (b"IDAT", b"".join(body)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _png_rows(drawing: Drawing) -> "list[tuple[bytes, bytes]]":
    """(raw, deflated) of each row of blocks; a leading zero on each line of pixels means: not filtered."""
    pixels = _band(drawing).tobytes()
    lines = [b"\x00" + pixels[i : i + drawing.width] for i in range(0, len(pixels), drawing.width)]
    flat = [b"\x00" + bytes((tone,)) * drawing.width for tone in range(TONES)]
    packed = [(line * ROW, _deflate(line * ROW)) for line in flat]
    rows = [packed[drawing.tone(row)] for row in range(drawing.rows)]
    for i, row in enumerate(drawing.band):
        data = b"".join(lines[i * ROW : (i + 1) * ROW])
        rows[row] = data, _deflate(data)
    if rest := drawing.height % ROW:
        data = rows[-1][0][: rest * (drawing.width + 1)]
        rows[-1] = data, _deflate(data)
    return rows


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=-15)
    return packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def broken_inside(image: bytes) -> bytes:
    """Damage in the middle that a reader of the structure must notice.

    In a JPEG a flipped bit of the scan would be one more legal picture, so a reserved marker is put there.
    """
    middle = len(image) // 2
    harm = b"\xff\x02\x00\x00" if image.startswith(b"\xff\xd8") else bytes((image[middle] ^ 0x10,))
    return image[:middle] + harm + image[middle + len(harm) :]


def broken_off(image: bytes) -> bytes:
    """The picture without its last tenth."""
    return image[: len(image) * 9 // 10]
