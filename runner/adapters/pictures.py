"""Is a picture whole, and is it what was paid for? Bytes in, verdict out; nothing is written or altered here.

PNG and GIF and WebP must end where their structure ends. JPEG may carry bytes after its end: other pictures
(multi-picture format) and provenance marks are appended there.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from runner.core.task import Assignment

RATIO_TOLERANCE = 1.06
"""Recorded answers are up to 4 % off their ratio; the closest two ratios are 6.6 % apart (gemini-api.md §3.2)."""

AREA_BAND = 2.0
"""Area may differ by less than this factor either way: each size has four times the pixels of the one below."""

_LARGEST_PIXELS = 18_874_368
"""1536 x 12288, the largest picture of any model (gemini-api.md §3.2)."""

_DECODABLE_PIXELS = 4 * _LARGEST_PIXELS
"""More than this is not decoded. It stays below Pillow's own limit of 89 million, which would only warn."""

Size = tuple[int, int]


class BrokenPictureError(ValueError):
    """The bytes are not one whole picture; the message says where they stop being one."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format that pictures come in."""

    name: str
    mime: str
    extension: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a picture turned out to be. `reason` is empty, `broken_image` or `wrong_pixels`."""

    format: Format
    width: int = 0
    height: int = 0
    reason: str = ""
    detail: str = ""


PNG = Format("PNG", "image/png", "png")
JPEG = Format("JPEG", "image/jpeg", "jpg")
WEBP = Format("WEBP", "image/webp", "webp")
GIF = Format("GIF", "image/gif", "gif")
UNKNOWN = Format("", "application/octet-stream", "bin")
EXTENSIONS = tuple(known.extension for known in (PNG, JPEG, WEBP, GIF, UNKNOWN))


def judge(data: bytearray, task: Assignment, *, decode: bool) -> Verdict:
    """Walk the structure to its end, compare the pixels with what was asked, and decode them if told to."""
    kind = sniff(data)
    try:
        width, height = walk(data)
    except BrokenPictureError as error:
        return Verdict(kind, reason="broken_image", detail=str(error))
    if not as_asked(task, width, height):
        expected = "" if task.pixels is None else " ({}x{})".format(*task.pixels)
        detail = f"asked {task.size} {task.aspect}{expected}, got {width}x{height}"
        return Verdict(kind, width, height, "wrong_pixels", detail)
    try:
        if decode:
            _decode(data, kind, width * height)
    except BrokenPictureError as error:
        return Verdict(kind, width, height, "broken_image", str(error))
    return Verdict(kind, width, height)


def sniff(data: bytearray) -> Format:
    """The format by its first bytes, whatever anyone calls it."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GIF
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WEBP
    return UNKNOWN


def walk(data: bytearray) -> Size:
    """Width and height of a picture that is whole; BrokenPictureError for any other."""
    walker = _WALKERS.get(sniff(data))
    if walker is None:
        begins = f"begins with {data[:8].hex(' ')}" if data else "it is empty"
        raise BrokenPictureError(f"not a PNG, JPEG, WebP or GIF: {begins}")
    try:
        width, height = walker(data)
    except (struct.error, IndexError) as error:
        raise BrokenPictureError(f"cut off at byte {len(data)}") from error
    if not width or not height:
        raise BrokenPictureError(f"it says that it is {width}x{height}")
    return width, height


def as_asked(task: Assignment, width: int, height: int) -> bool:
    """Whether the pixels fit size and aspect; what a task does not say is not judged."""
    ratio, area = _expected(task)
    return _within(ratio, width / height, RATIO_TOLERANCE, closed=True) and _within(
        area, width * height, AREA_BAND, closed=False
    )


def pixels_of(size: str) -> int | None:
    """Pixels that a size label promises (`1K` is 1024 x 1024); None for a label without a number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(K?)", size, re.IGNORECASE)
    return round((float(match[1]) * (1024 if match[2] else 1)) ** 2) or None if match else None


def largest_bytes(pixels: Size | None, size: str) -> int:
    """A generous bound of what one picture takes on disk, its sidecar and block rounding included.

    Noise in an RGB PNG takes three bytes a pixel; recorded answers take less than one.
    """
    return _pixels(pixels, size) * 13 // 4 + 2**20


def usual_bytes(pixels: Size | None, size: str) -> int:
    """What one picture of those recorded takes on disk at most, its sidecar included."""
    return _pixels(pixels, size) + 2**13


def _pixels(pixels: Size | None, size: str) -> int:
    return pixels[0] * pixels[1] if pixels else (pixels_of(size) or _LARGEST_PIXELS) * 9 // 8


def _expected(task: Assignment) -> tuple[float | None, float | None]:
    """Ratio and area: of the catalog, else of the labels."""
    if task.pixels is not None:
        width, height = task.pixels
        return width / height, width * height
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", task.aspect)
    ratio = int(match[1]) / int(match[2]) if match else None
    return ratio, pixels_of(task.size) if task.send_size else None


def _within(wanted: float | None, got: float, factor: float, *, closed: bool) -> bool:
    if wanted is None:
        return True
    off = max(got / wanted, wanted / got)
    return off <= factor if closed else off < factor


def _png(data: bytearray) -> Size:
    """PNG third edition §5: chunks of length, type, data, CRC; IHDR first, IEND last."""
    at, name, pixels = 8, b"", 0
    with memoryview(data) as view:
        while name != b"IEND":
            length, name = struct.unpack_from(">I4s", data, at)
            (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
            if zlib.crc32(view[at + 4 : at + 8 + length]) != checksum:
                raise BrokenPictureError(f"PNG chunk {name!r} at byte {at} does not fit its checksum")
            if (at == 8) != (name == b"IHDR"):
                raise BrokenPictureError(f"PNG chunk {name!r} at byte {at} is out of place")
            pixels += length if name == b"IDAT" else 0
            at += 12 + length
    if not pixels:
        raise BrokenPictureError("PNG without picture data")
    _ends(data, at)
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_RESTART = re.compile(rb"\xff([\xd0-\xd7])")


def _jpeg(data: bytearray) -> Size:
    """ITU-T T.81 annex B: segments with a length; after each SOS entropy-coded data up to the next marker."""
    at, size, scans = 2, (0, 0), 0
    while True:
        code, at = _jpeg_marker(data, at)
        if code == 0xD9:
            break
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2 or at + length > len(data):
            raise BrokenPictureError(f"JPEG segment {code:02x} at byte {at - 2} is cut off")
        if code in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            size = (width, height)
        at += length
        if code == 0xDA:
            at, scans = _jpeg_scan(data, at), scans + 1
    if not scans:
        raise BrokenPictureError("JPEG without picture data")
    return size


def _jpeg_marker(data: bytearray, at: int) -> tuple[int, int]:
    """The next marker and where it ends; any number of FF may fill the space before it."""
    if data[at] != 0xFF:
        raise BrokenPictureError(f"no JPEG marker at byte {at}")
    while data[at] == 0xFF:
        at += 1
    if data[at] < 0xC0 or 0xD0 <= data[at] <= 0xD8:
        raise BrokenPictureError(f"JPEG marker {data[at]:02x} at byte {at - 1} is out of place")
    return data[at], at + 1


def _jpeg_scan(data: bytearray, start: int) -> int:
    """Where the entropy-coded data ends; its restart markers count from 0 to 7, over and over."""
    end = _JPEG_MARKER.search(data, start)
    if end is None:
        raise BrokenPictureError("JPEG ends inside its picture data")
    if end.start() == start:
        raise BrokenPictureError("JPEG with an empty scan")
    for count, restart in enumerate(_JPEG_RESTART.finditer(data, start, end.start())):
        if restart[1][0] != 0xD0 + count % 8:
            raise BrokenPictureError(f"JPEG restart marker at byte {restart.start()} is out of order")
    return end.start()


def _webp(data: bytearray) -> Size:
    """RFC 9649: RIFF chunks padded to even lengths; VP8X carries the canvas, else the bitstream does."""
    (length,) = struct.unpack_from("<I", data, 4)
    _ends(data, 8 + length + length % 2)
    at, canvas, sizes = 12, None, []
    while at < len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        body, at = at + 8, at + 8 + length + length % 2
        if at > len(data):
            raise BrokenPictureError(f"WebP chunk {name!r} is cut off")
        if name == b"VP8X":
            canvas = (_u24(data, body + 4) + 1, _u24(data, body + 7) + 1)
        elif name in {b"VP8 ", b"VP8L", b"ANMF"}:
            sizes.append(_webp_size(data, name, body))
    if not sizes:
        raise BrokenPictureError("WebP without picture data")
    return canvas or sizes[0]


def _webp_size(data: bytearray, name: bytes, at: int) -> Size:
    if name == b"VP8 ":
        if data[at + 3 : at + 6] != b"\x9d\x01\x2a":
            raise BrokenPictureError("WebP bitstream without a key frame")
        width, height = struct.unpack_from("<HH", data, at + 6)
        return width & 0x3FFF, height & 0x3FFF
    if name == b"VP8L":
        if data[at] != 0x2F:
            raise BrokenPictureError("WebP bitstream without its signature")
        (packed,) = struct.unpack_from("<I", data, at + 1)
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    return _u24(data, at + 6) + 1, _u24(data, at + 9) + 1


def _gif(data: bytearray) -> Size:
    """GIF89a: screen, then extensions and images made of sub-blocks, then the trailer."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, images = 13 + _gif_table(flags), 0
    while data[at] != 0x3B:
        if data[at] == 0x2C:
            at, images = at + 11 + _gif_table(data[at + 9]), images + 1
        elif data[at] == 0x21:
            at += 2
        else:
            raise BrokenPictureError(f"GIF block {data[at]:02x} at byte {at} is unknown")
        while data[at]:
            at += 1 + data[at]
        at += 1
    _ends(data, at + 1)
    if not images:
        raise BrokenPictureError("GIF without picture data")
    return width, height


def _gif_table(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _u24(data: bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def _ends(data: bytearray, end: int) -> None:
    if end > len(data):
        raise BrokenPictureError(f"cut off at byte {len(data)} of {end}")
    if end < len(data):
        raise BrokenPictureError(f"{len(data) - end} bytes after the end of the picture")


_WALKERS: dict[Format, Callable[[bytearray], Size]] = {PNG: _png, JPEG: _jpeg, WEBP: _webp, GIF: _gif}


def _decode(data: bytearray, kind: Format, pixels: int) -> None:
    """Decode every pixel; about 12 ms a megapixel."""
    if pixels > _DECODABLE_PIXELS:
        raise BrokenPictureError(f"{pixels} pixels are too many to decode")
    try:
        with Image.open(io.BytesIO(data), formats=[kind.name]) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise BrokenPictureError(f"does not decode: {error}") from error
