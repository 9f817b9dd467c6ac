"""A line of JSON taken apart while it arrives: the bytes of its pictures go to a spool, the rest stays as text.

What a picture is, is not judged here: every long string under a key `data` is decoded aside, and a short token
stands for it in what is left, which is then read like any other answer. A string that is not recognised stays
where it is: that costs memory and nothing else.
"""

import base64
import json
import os
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO

import pybase64

SMALL_BYTES = 32 * 1024
"""A string up to this length stays where it is."""
LARGEST_REST = 64 * 1024 * 1024
"""Of a line, beside its pictures; some routers put a picture into the words."""
STEP_BYTES = 64 * 1024
"""Of a piece that is scanned at a time: it stays in the processor's cache."""

_BLANK = b" \t\r\n"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_SPACE = b" \t\r\n\v\f"
_LONGEST_NAME = 102
"""`thought_signature` with every letter escaped."""
_LONGEST_HEAD = 200
"""Of a data URI, up to its comma."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Where a picture lies in the spool."""

    start: int
    size: int
    """In bytes."""
    line: int
    """Of which line, counted by the spool."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """A line without its pictures."""

    rest: bytes
    """JSON, with a token in place of each long picture and no thought signature; empty if it was too long."""
    too_long: bool


class Spool:
    """A file for the pictures of one line at a time, written over by the next. Blocks; raises OSError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._end, self._line = file, 0, 0

    def clear(self) -> None:
        """Forget what is there; the file keeps its length, so that no page of it is made twice."""
        self._file.seek(0)
        self._end = 0
        self._line += 1

    @property
    def end(self) -> int:
        """Where the next byte goes."""
        return self._end

    def since(self, start: int) -> Segment:
        """What was written from `start` on."""
        return Segment(start, self._end - start, self._line)

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self._file.write(data)
        self._end += len(data)

    def read(self, segment: Segment) -> Iterator[bytes]:
        """The bytes of a segment, in steps; the spool is written on only after the last.

        Raises ValueError for a picture that was written over.
        """
        if segment.line != self._line:
            raise ValueError("the spool holds another line by now")
        self._file.seek(segment.start)
        left = segment.size
        while left and (data := self._file.read(min(left, STEP_BYTES))):
            left -= len(data)
            yield data
        self._file.seek(self._end)


class Base64Stream:
    """Decodes as `embedded.decode` does, in pieces of any length: either alphabet, padded or not, white space.

    Takes the inside of a JSON string, escapes included, none of them cut in half.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._head: bytes | None = b""
        """What came while it may yet be the head of a data URI; None once that is decided."""
        self._carry = b""
        self._plain = True
        self._padded = False
        self.broken = False
        self.illegal = False
        """Whether an escape is none of JSON's."""

    def feed(self, raw: bytes) -> None:
        """The next bytes of the string."""
        if b"\\" in raw:
            raw = self._unescaped(raw)
        if self._head is not None:
            raw = self._without_head(raw)
        if raw and not self.broken:
            self._decode(raw)

    def close(self) -> bool:
        """The string is at its end; whether all of it was base64."""
        head, self._head = self._head, None
        if head and not self.broken:
            self._decode(head)
        carry = self._carry.translate(_URL_SAFE, _SPACE)
        if carry and not self.broken:
            self._plain = False
            self._take(carry + b"=" * (-len(carry) % 4))
        return not self.broken

    def _unescaped(self, raw: bytes) -> bytes:
        try:
            text: str = json.loads(f'"{raw.decode("utf-8", "replace")}"', strict=False)
        except ValueError:
            self.broken = self.illegal = True
            return b""
        return text.encode("ascii", "replace")

    def _without_head(self, raw: bytes) -> bytes:
        head = (self._head or b"") + raw
        comma = head.find(b",", 0, _LONGEST_HEAD)
        undecided = b"data:".startswith(head[:5]) and comma < 0 and len(head) < _LONGEST_HEAD
        self._head = head if undecided else None
        if undecided:
            return b""
        return head[comma + 1 :] if head.startswith(b"data:") else head

    def _decode(self, raw: bytes) -> None:
        if self._padded or b"=" in raw:
            raw, _, tail = raw.translate(_URL_SAFE, _SPACE).partition(b"=")
            if tail.strip(b"=") or (self._padded and raw):  # after padding only padding may come
                self.broken = True
                return
            self._padded = True
        elif not self._plain:
            raw = raw.translate(_URL_SAFE, _SPACE)
        self._take(self._carry + raw if self._carry else raw)

    def _take(self, block: bytes) -> None:
        whole = len(block) & ~3
        data = _decoded(block[:whole])
        if data is None and self._plain:
            self._plain = False
            block = block.translate(_URL_SAFE, _SPACE)
            whole = len(block) & ~3
            data = _decoded(block[:whole])
        if data is None:
            self.broken = True
            return
        self._carry = block[whole:]
        if data:
            self._write(data)


def _decoded(block: bytes) -> bytes | None:
    try:
        return pybase64.b64decode(block, validate=True)
    except (Base64Error, ValueError):
        return None


class _Kind(Enum):
    """What becomes of a string."""

    KEPT = "kept"
    SPOOLED = "spooled"
    DROPPED = "dropped"


_KINDS = {"data": _Kind.SPOOLED, "thoughtSignature": _Kind.DROPPED, "thought_signature": _Kind.DROPPED}


class LineScanner:
    """Takes one line after the other, each in pieces of any length, without its line break.

    Each picture goes into `spool`. Strings up to `small_bytes` stay in the rest.
    """

    def __init__(self, spool: Spool, *, small_bytes: int = SMALL_BYTES, largest_rest: int = LARGEST_REST) -> None:
        self._spool, self._small, self._largest = spool, small_bytes, largest_rest
        self._mark = os.urandom(16)
        self.begin()

    def begin(self) -> None:
        """Start a line; what came of another is forgotten."""
        self._spool.clear()
        self._rest = bytearray()
        self._segments: list[Segment] = []
        self._too_long = False
        self._held = b""
        """An escape that was cut in half."""
        self._kind: _Kind | None = None
        """Of the string that it is inside of."""
        self._opened = 0
        self._name = b""
        """The last string, if it may have been the name of a member."""
        self._gap = b""
        """What followed it, white space left out."""
        self._stream: Base64Stream | None = None
        self._stream_at = 0

    def feed(self, piece: bytes) -> None:
        """The next bytes of the line. Raises OSError if the spool does not take them."""
        data = self._held + piece if self._held else piece
        self._held = b""
        at = 0
        while at < len(data) and not self._too_long:
            at = self._between(data, at) if self._kind is None else self._inside(data, at)

    def end(self) -> Scanned:
        """The line is at its end."""
        self._rest += self._held
        if self._stream is not None:
            self._stream = None
            self._rest += b"..."
        return Scanned(bytes(self._rest), self._too_long)

    def segment(self, picture: bytes) -> Segment:
        """Where the picture is that an answer showed: behind its token, or written there now if it had none."""
        if picture.startswith(self._mark):
            return self._segments[int.from_bytes(picture[len(self._mark) :], "big")]
        start = self._spool.end
        self._spool.write(picture)
        return self._spool.since(start)

    def _between(self, data: bytes, at: int) -> int:
        quote = data.find(b'"', at)
        stop = len(data) if quote < 0 else quote
        self._gap = (self._gap + data[at:stop].strip(_BLANK))[:2]
        self._keep(data[at : stop + 1])
        if quote >= 0:
            self._kind = _kind(self._name) if self._gap == b":" else _Kind.KEPT
            self._opened, self._gap, self._name = len(self._rest), b"", b""
        return stop + 1

    def _inside(self, data: bytes, at: int) -> int:
        quote = _closing(data, at)
        stop = quote if quote >= 0 else _whole(data, at)
        self._string(data[at:stop])
        if quote < 0:
            self._held = data[stop:]
            return len(data)
        self._close()
        return quote + 1

    def _string(self, raw: bytes) -> None:
        if self._stream is not None:
            self._stream.feed(raw)
        elif self._kind is not _Kind.DROPPED:
            self._keep(raw)
            if self._kind is _Kind.SPOOLED and len(self._rest) - self._opened > self._small:
                self._stream, self._stream_at = Base64Stream(self._spool.write), self._spool.end
                self._stream.feed(bytes(self._rest[self._opened :]))
                del self._rest[self._opened :]

    def _close(self) -> None:
        if self._stream is not None:
            self._rest += self._token(self._stream)
        elif self._kind is _Kind.KEPT and len(self._rest) - self._opened <= _LONGEST_NAME:
            self._name = bytes(self._rest[self._opened :])
        self._rest += b'"'
        self._kind = self._stream = None

    def _token(self, stream: Base64Stream) -> bytes:
        """What stands for a picture: base64 too; nothing for a broken one, and no JSON for what was none."""
        whole = stream.close()
        if stream.illegal:
            return b"\\x"
        segment = self._spool.since(self._stream_at)
        if not whole or not segment.size:
            return b""
        self._segments.append(segment)
        return base64.b64encode(self._mark + (len(self._segments) - 1).to_bytes(8, "big"))

    def _keep(self, raw: bytes) -> None:
        self._rest += raw
        if len(self._rest) > self._largest:
            self._too_long, self._stream = True, None
            self._rest.clear()


def _kind(name: bytes) -> _Kind:
    text = name.decode("utf-8", "replace")
    if "\\" in text:
        try:
            text = str(json.loads(f'"{text}"'))
        except ValueError:
            return _Kind.KEPT
    return _KINDS.get(text, _Kind.KEPT)


def _closing(data: bytes, at: int) -> int:
    """The quotation mark that ends the string: the first with an even number of backslashes before it; else -1."""
    quote = data.find(b'"', at)
    while quote >= 0:
        if data[quote - 1 : quote] != b"\\" or _slashes(data, at, quote) % 2 == 0:
            break
        quote = data.find(b'"', quote + 1)
    return quote


def _slashes(data: bytes, at: int, end: int) -> int:
    """How many backslashes stand before `end`."""
    start = end
    while start > at and data[start - 1] == 0x5C:
        start -= 1
    return end - start


def _whole(data: bytes, at: int) -> int:
    """Where the last escape that is whole ends."""
    last = data.rfind(b"\\", max(at, len(data) - 5))
    if last < 0 or _slashes(data, at, last + 1) % 2 == 0:
        return len(data)
    length = 6 if data[last + 1 : last + 2] == b"u" else 2
    return len(data) if last + length <= len(data) else last
