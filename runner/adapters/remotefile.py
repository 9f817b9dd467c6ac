"""What the service says of a file that it holds (gemini-api.md §9.1)."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runner.adapters.wire import mapping, words


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What the service says of a file; empty where it does not."""

    name: str
    uri: str = ""
    mime: str = ""
    state: str = ""
    """`PROCESSING`, `ACTIVE`, `FAILED` and whatever else comes, as it is on the wire."""
    size: int | None = None
    """In bytes."""
    sha256: str = ""
    """As it is on the wire: base64 of the hex digits, or of the digest."""
    error: str = ""
    expires_at_utc: float | None = None


def read_file(data: Mapping[str, Any]) -> RemoteFile:
    """A File object, leniently."""
    size = words(data.get("sizeBytes"))
    return RemoteFile(
        name=words(data.get("name")),
        uri=words(data.get("uri")),
        mime=words(data.get("mimeType")),
        state=words(data.get("state")),
        size=int(size) if size.isascii() and size.isdigit() and len(size) < 19 else None,
        sha256=words(data.get("sha256Hash")),
        error=words(mapping(data.get("error")).get("message")),
        expires_at_utc=timestamp(words(data.get("expirationTime"))),
    )


def timestamp(text: str) -> float | None:
    """RFC 3339 as seconds since 1970; None for anything else. Nanoseconds are cut."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def digests(sent: str) -> set[str]:
    """What a `sha256Hash` may mean, in hex: base64 of the hex digits, or of the digest; in either alphabet."""
    plain = sent.replace("-", "+").replace("_", "/")
    try:
        raw = base64.b64decode(plain + "=" * (-len(plain) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    return {sent.lower(), raw.hex(), raw.decode("ascii", "replace").lower()}
