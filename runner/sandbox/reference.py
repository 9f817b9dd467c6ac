"""Pictures that go with a prompt: inline, as a file of the Files API, or by URL (gemini-api.md §4)."""

import hashlib
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pybase64

from runner.core.catalog import Model
from runner.sandbox.errors import REPORT, invalid, no_file

KINDS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/heic": "HEIF",
    "image/heif": "HEIF",
}
"""Format of the bytes by the MIME types that are taken."""
TOKENS = {"gemini-2.5-flash-image": 258, "gemini-3-pro-image": 560, "gemini-3-pro-image-preview": 560}
"""Tokens of one picture by model (§5.4)."""
OTHER_TOKENS = 516
"""Of every other model: the single capture of 3.1 Flash Image, the only number that was measured."""
FILE_URI = re.compile(r"https?://[^?#]+/v1(?:beta)?/files/([^/:?#]+)")
HEAD_BYTES = 1 << 20
"""How far into a HEIF file its pixel sizes are looked for."""

Pixels = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Reference:
    """One picture of a request."""

    kind: Literal["inline", "file", "url"]
    mime: str
    sha256: str | None
    """Of its bytes, in hex; None for a URL, which is not fetched."""
    name: str | None = None
    """`files/ID`, or a URL without its query, which may sign it."""
    pixels: Pixels | None = None

    def row(self) -> dict[str, str | None]:
        """What the log of requests holds of it."""
        return {"kind": self.kind, "mime": self.mime, "sha256": self.sha256, "name": self.name}


@dataclass(frozen=True, slots=True)
class Held:
    """A file of the Files API that may be used."""

    name: str
    mime: str
    sha256: str
    path: Path


Find = Callable[[str], Held]
"""The file with this id; ApiError where it may not be used."""


def nothing_held(id_: str) -> Held:
    """The Find of a service without files."""
    raise no_file(id_)


def reference_tokens(model: Model, count: int) -> int:
    """Input tokens of so many pictures; ApiError 400 for more than the model takes (§1.1)."""
    if model.max_references is not None and count > model.max_references:
        raise invalid(f"Too many images in the request: {count}. The model accepts up to {model.max_references}.")
    return count * TOKENS.get(model.id, OTHER_TOKENS)


def referred(part: dict[str, Any], find: Find) -> Reference | None:
    """The picture of a normalised part, None where it has none; ApiError as the service would say it."""
    if "inlineData" in part:
        return _inline(part["inlineData"])
    return _linked(part["fileData"], find) if "fileData" in part else None


def _inline(blob: dict[str, str]) -> Reference:
    mime, data = blob.get("mimeType", ""), pybase64.b64decode(blob.get("data", ""))
    sha256 = hashlib.sha256(data).hexdigest()
    return Reference("inline", mime, sha256, pixels=_look(mime, sha256, lambda: data))


def _linked(given: dict[str, str], find: Find) -> Reference:
    uri = given.get("fileUri", "")
    if match := FILE_URI.fullmatch(uri):
        held = find(match[1])
        mime = given.get("mimeType") or held.mime
        return Reference("file", mime, held.sha256, held.name, _look(mime, held.sha256, held.path.read_bytes))
    url = _split(uri)
    return Reference("url", given.get("mimeType", ""), None, f"https://{url}")


def _split(uri: str) -> str:
    """Host and path of an https URL, without what may be secret in it."""
    try:
        url = urlsplit(uri)
        host = url.hostname if url.scheme == "https" else None
        port = f":{url.port}" if url.port else ""
    except ValueError:
        host = None
    if not host:
        raise invalid("Cannot fetch content from the provided URL.")
    return f"{host}{port}{url.path}"


# --- what the bytes are ------------------------------------------------------------------------------------------

_LOOKED_AT: dict[str, tuple[str, Pixels] | None] = {}
"""By sha256, so that a picture which goes with a thousand prompts is decoded once."""
_MOST_LOOKED_AT = 10_000


def _look(mime: str, sha256: str, read: Callable[[], bytes]) -> Pixels:
    """Width and height of a picture; ApiError 400 where the bytes are none of the declared kind."""
    if mime not in KINDS:
        raise invalid(f"Unsupported MIME type: {mime}")
    if sha256 not in _LOOKED_AT:
        if len(_LOOKED_AT) >= _MOST_LOOKED_AT:
            _LOOKED_AT.clear()
        _LOOKED_AT[sha256] = _decoded(read())
    found = _LOOKED_AT[sha256]
    if found is None or found[0] != KINDS[mime]:
        raise invalid(f"Unable to process input image. {REPORT}")
    return found[1]


def _decoded(data: bytes) -> tuple[str, Pixels] | None:
    """Format and pixels of a picture whose every pixel decodes, None for anything else."""
    if data[4:8] == b"ftyp":
        return _heif(data[:HEAD_BYTES])
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
                kind, pixels = "JPEG" if image.format == "MPO" else str(image.format), image.size
                image.load()
    # Broken files come out of Pillow's decoders as any of these.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return None
    return kind, pixels


def _heif(data: bytes) -> tuple[str, Pixels] | None:
    """The largest picture that a HEIF file names in its `ispe` properties (ISO 23008-12); it is not decoded."""
    brands = data[8 : int.from_bytes(data[:4])]
    if not any(brand in brands for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")):
        return None
    places = [match.end() + 4 for match in re.finditer(b"ispe", data)]
    sizes = [(int.from_bytes(data[i : i + 4]), int.from_bytes(data[i + 4 : i + 8])) for i in places]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    return ("HEIF", (width, height)) if width and height else None


def sent_as(part: dict[str, Any], reference: Reference | None) -> dict[str, Any]:
    """The part with its picture's content in place of its bytes or its address: what makes requests the same."""
    if reference is None or reference.sha256 is None:
        return part
    field = "inlineData" if reference.kind == "inline" else "fileData"
    return {**part, field: {"mimeType": reference.mime, "sha256": reference.sha256}}
