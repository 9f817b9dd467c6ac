"""Pictures that go with a prompt, as they lie on this machine: found, looked at and hashed. Nothing is sent here.

A file is what its first bytes say, whatever it is called. PNG, JPEG and WebP are decoded to the last pixel. Pillow
reads no HEIC, so of HEIC and HEIF only the structure is checked: brand, and boxes that end where the file ends.
"""

import glob
import hashlib
import os
import re
import stat
import struct
import zlib
from io import BufferedReader
from pathlib import Path, PurePosixPath

import httpx
from PIL import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from runner.adapters.seal import one_line, shortened
from runner.core.reference import Reference

LARGEST_BYTES = 100 * 1024 * 1024
"""Of one file. The Files API takes 2 GB, the model scales down whatever it gets."""

LARGEST_PIXELS = 89_478_485
"""Pillow's own limit against decompression bombs, held as an error where Pillow would warn."""

_HEAD_BYTES = 4_096
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "image/png": PngImageFile,
    "image/jpeg": JpegImageFile,
    "image/webp": WebPImageFile,
}
"""The classes themselves: `Image.open` would warn of large pictures, and look for pictures inside a JPEG."""

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
)
_SVG = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE[^>]*>|\s)*<svg[\s>]", re.DOTALL)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis"), "image/heic"),
    **dict.fromkeys((b"mif1", b"mif2"), "image/heif"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"), "sequence"),
}
"""ISO/IEC 23008-12: what a HEIF file says that it is, in its `ftyp` box."""

_MIMES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".heic": "image/heic",
    ".heif": "image/heif",
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://|data:", re.IGNORECASE)
_HOST = re.compile(rb"[\w.-]+|[\da-f:.]+", re.IGNORECASE)
_FILE_NAME = re.compile(r"files/[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
"""How the Files API names a file (gemini-api.md §9.2): no dot, so `files/logo.png` is a path."""


class BadReferenceError(ValueError):
    """A reference that cannot be sent; the message names it and says what to do."""


# --- what is meant ---


def is_uri(text: str) -> bool:
    """Whether a reference is an address, no path: `files/abc` is a file at the service, `./files/abc` one here."""
    return bool(_SCHEME.match(text) or _FILE_NAME.fullmatch(text))


def by_uri(text: str) -> Reference:
    """A reference that the service fetches itself: https, or a name of the Files API (gemini-api.md §4.3, §9).

    Raises BadReferenceError for other schemes, and where a secret may stand in the address: it would end in ledger
    and log. The message does not repeat the address then.
    """
    if _FILE_NAME.fullmatch(text):
        return Reference(text, "", "", 0, text)
    scheme = (_SCHEME.match(text) or [""])[0].lower()
    if scheme != "https://":
        advice = "write https://" if scheme == "http://" else "name a file, or an https:// address"
        raise BadReferenceError(f"the service fetches no reference of the form {scheme or 'that'}…: {advice}")
    url = _url(text)
    return Reference(text, _MIMES.get(PurePosixPath(url.path).suffix.lower(), ""), "", 0, text)


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise BadReferenceError("the address of a reference cannot be read; expected https://host/path") from None
    if not _HOST.fullmatch(url.raw_host) or not text.isprintable() or " " in text:
        raise BadReferenceError("the address of a reference cannot be read; expected https://host/path")
    if url.userinfo or "key" in url.params or url.fragment:
        raise BadReferenceError(
            f"the reference at {url.host} must not carry a user name, a key or a fragment: the ledger keeps it"
        )
    return url


def expand(pattern: str, base: Path) -> list[tuple[str, Path]]:
    """The files that a path or a glob (`*`, `?`, `[…]`, `**`) names, as (name, path), sorted by name.

    Relative to `base`; `~` is a letter like any other. What lies there under that very name is meant, whatever
    characters it holds. A path without a glob is returned whether or not anything is there. Raises
    BadReferenceError where a glob matches no file.
    """
    if not pattern:
        raise BadReferenceError("a reference is empty; expected a path, a glob or an address")
    path = base / pattern
    if not glob.has_magic(pattern) or "\0" in pattern or os.path.lexists(path):
        return [(pattern, path)]
    matches = glob.iglob(pattern, root_dir=base, recursive=True)  # noqa: PTH207 - pathlib's takes no absolute one
    names = sorted({PurePosixPath(name).as_posix() for name in matches})
    files = [(name, base / name) for name in names if (base / name).is_file()]
    if not files:
        raise BadReferenceError(f"no file matches {_shown(pattern)}")
    return files


# --- what is there ---


def inspect(path: Path, name: str) -> Reference:
    """Look at a file: kind, size, sha256, and whether it decodes. Blocks; some 15 ms a megapixel.

    Raises BadReferenceError for whatever cannot be sent as a picture; `name` is what its message calls the file.
    """
    try:
        with opened(path) as file:
            return _inspected(file, name)
    except FileNotFoundError:
        hint = "; ~ is not expanded" if name.startswith("~") else ""
        raise BadReferenceError(f"reference {_shown(name)} is not there{hint}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, BadReferenceError):
            raise
        said = getattr(error, "strerror", None) or str(error)
        raise BadReferenceError(f"reference {_shown(name)} cannot be read: {one_line(said)}") from None


def opened(path: Path) -> BufferedReader:
    """A regular file, open for reading; never waits for the other end of a pipe. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(  # noqa: TRY301 - the handle is closed below
                "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file"
            )
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _inspected(file: BufferedReader, name: str) -> Reference:
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise BadReferenceError(f"reference {_shown(name)} is empty")
    if size > LARGEST_BYTES:
        most = f"{LARGEST_BYTES / 1e6:.0f} MB"
        raise BadReferenceError(f"reference {_shown(name)} has {size / 1e6:.0f} MB; at most {most}: scale it down")
    mime = _mime(file.read(_HEAD_BYTES), name)
    flaw = _flaw(file, mime, size)
    if flaw:
        raise BadReferenceError(f"reference {_shown(name)} {flaw}")
    file.seek(0)
    return Reference(name, mime, hashlib.file_digest(file, "sha256").hexdigest(), size)


def _mime(head: bytes, name: str) -> str:
    kind = _kind(head)
    if kind.startswith("image/"):
        return kind
    if kind == "sequence":
        raise BadReferenceError(f"reference {_shown(name)} is a sequence of pictures; save one of them as PNG")
    if kind:
        raise BadReferenceError(
            f"reference {_shown(name)} is {kind}, which the model does not take; convert it to PNG"
        )
    raise BadReferenceError(
        f"reference {_shown(name)} is no PNG, JPEG, WebP, HEIC or HEIF: it begins with {head[:8].hex(' ')}"
    )


def _kind(head: bytes) -> str:
    """A MIME type that the model takes, the name of another format, or nothing."""
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp":
        return _heif(head)
    if _SVG.match(head):
        return "SVG"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")


def _heif(head: bytes) -> str:
    """By the main brand; one that stands for any coding, by the first compatible brand that says which."""
    (size,) = struct.unpack_from(">I", head)
    major, compatible = head[8:12], [head[at : at + 4] for at in range(16, min(size, len(head) - 3), 4)]
    kind = _BRANDS.get(major, "")
    if major in {b"mif1", b"mif2"}:
        known = [_BRANDS[brand] for brand in compatible if brand in _BRANDS]
        return "AVIF" if "AVIF" in known and "image/heic" not in known else kind
    return kind


def _flaw(file: BufferedReader, mime: str, size: int) -> str:
    """What is wrong with the picture; empty if nothing is."""
    file.seek(0)
    decoder = _DECODERS.get(mime)
    return _decoding_flaw(file, decoder) if decoder else _box_flaw(file, size)


def _decoding_flaw(file: BufferedReader, decoder: type[ImageFile.ImageFile]) -> str:
    try:
        with decoder(file) as picture:
            width, height = picture.size
            if width * height > LARGEST_PIXELS:
                return f"has {width}x{height} pixels; at most {LARGEST_PIXELS / 1e6:.0f} megapixels: scale it down"
            if getattr(picture, "is_animated", False):
                return "is animated; save one frame of it as PNG"
            picture.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error) as error:
        return f"does not decode: {shortened(one_line(str(error)), 200)}"
    return ""


def _box_flaw(file: BufferedReader, size: int) -> str:
    """ISO/IEC 14496-12 §4.2: boxes of length and type up to the end of the file; `meta` describes the picture."""
    at, names = 0, list[bytes]()
    while at < size:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return f"is cut off at byte {size}"
        length, kind = struct.unpack_from(">I4s", head)
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
        length = length or size - at  # zero: up to the end
        if length < 8 or at + length > size:
            return f"is cut off: box {kind.decode('latin-1')!r} at byte {at} has {length} bytes of {size - at}"
        names.append(kind)
        at += length
    return "" if b"meta" in names else "does not decode: it holds no picture"


def _shown(name: str) -> str:
    return shortened(one_line(name), 200)
