"""The result file of a batch job, read while it is downloaded: a Reply for each line, its picture in a spool.

What an answer means is `answer`, what an error means is `rejection`: a line says exactly what the standard lane
would say of the same answer (gemini-api.md §8.6). Nothing here knows which keys were asked for; nothing is stored.
"""

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from anyio import to_thread

from runner.adapters.answer import read_answer
from runner.adapters.rejection import Asked, read_rejection
from runner.adapters.scanner import SMALL_BYTES, STEP_BYTES, LineScanner, Scanned, Segment, Spool
from runner.adapters.setback import SetbackError
from runner.adapters.uploads import FilesClient
from runner.adapters.wire import excerpt, load, mapping, words
from runner.core.errors import LocalFailureError
from runner.core.lifecycle import Faulted, FileGone, Lost, Pictured, Reply
from runner.core.remote import START, Place
from runner.engine.ports import Sink

BATCH_BYTES = 1024 * 1024
"""Scanned in a thread at a time."""
OVERLAP_BYTES = 64
"""Asked for again when a download goes on, to see that it is the same file."""
_BLANK = b" \t\r\n"

CODES = {
    1: ("CANCELLED", 499),
    2: ("UNKNOWN", 500),
    3: ("INVALID_ARGUMENT", 400),
    4: ("DEADLINE_EXCEEDED", 504),
    5: ("NOT_FOUND", 404),
    6: ("ALREADY_EXISTS", 409),
    7: ("PERMISSION_DENIED", 403),
    8: ("RESOURCE_EXHAUSTED", 429),
    9: ("FAILED_PRECONDITION", 400),
    10: ("ABORTED", 409),
    11: ("OUT_OF_RANGE", 400),
    12: ("UNIMPLEMENTED", 400),  # not 501: the same line again cannot help
    13: ("INTERNAL", 500),
    14: ("UNAVAILABLE", 503),
    15: ("DATA_LOSS", 500),
    16: ("UNAUTHENTICATED", 401),
}
"""gRPC code (google.rpc.Code; gemini-api.md §8.6) -> its name, and the HTTP status by which `rejection` judges it.

So an item is priced and retried as the same refusal of a single request: 1 and 4 are held as unknown, 8 and 14 are
no tries, 13 is a try and free.
"""

_NAMES = {name: code for code, (name, _) in CODES.items()}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a result file. Its picture is there until the next line is asked for."""

    number: int
    """From 1, empty lines counted."""
    offset: int
    """In bytes: where it begins."""
    after: Place
    """Where to go on once this line has been dealt with."""
    key: str | None
    """As it was sent; None where the line does not say, or is no JSON."""
    reply: Reply
    """Lost (`not_an_answer`) for a line that is malformed or holds neither an answer nor an error."""
    picture: Segment | None
    """Of `Pictured`."""
    _spool: Spool = field(repr=False, compare=False)

    async def pour(self, sink: Sink) -> None:
        """Write the picture to a sink, in a thread. Raises LocalFailureError if the spool cannot be read."""
        if isinstance(self.reply, Pictured) and self.picture is not None:
            await to_thread.run_sync(self._pour, sink, self.reply.mime, self.picture)

    def _pour(self, sink: Sink, mime: str, picture: Segment) -> None:
        sink.restart(mime)
        with _spooling():
            for data in self._spool.read(picture):
                sink.write(data)


async def harvest(
    files: FilesClient, name: str, *, asked: Asked, spool: BinaryIO, place: Place = START
) -> AsyncGenerator[Line]:
    """The lines of the result file `name` from `place` on, as they arrive; memory does not grow with their length.

    `spool` is a file for reading and writing, wherever pictures have room. A broken download goes on inside the
    line that it broke in, or at the first line not yet taken where the service gives no ranges. A file that turns
    out to be another than before is yielded from its first line, numbered from 1: who stores by key stores nothing
    twice. Close it with `aclosing`. Raises UploadError (PassingError where it may pass), LocalFailureError.
    """
    reader, patience = ResultReader(Spool(spool), asked, place), files.patience()
    while True:
        try:
            async with files.download(name, start=reader.resumes_at) as download:
                reader.opened(download.start)
                async with aclosing(_batches(download.pieces)) as batches:
                    async for batch in batches:
                        at = 0
                        while at < len(batch):
                            at, line = await to_thread.run_sync(reader.take, batch, at)
                            if line:
                                yield replace(line, reply=files.sealed(line.reply))
                        patience.reached(reader.position)
            line = await to_thread.run_sync(reader.finish)
        except SetbackError as setback:
            await patience.wait(setback)
        else:
            if line:
                yield replace(line, reply=files.sealed(line.reply))
            return


async def _batches(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The pieces, joined to a size worth a thread; what came before a break is not lost."""
    gathered = bytearray()
    try:
        async for piece in pieces:
            gathered += piece
            if len(gathered) >= BATCH_BYTES:
                yield bytes(gathered)
                gathered.clear()
    except SetbackError:
        if gathered:
            yield bytes(gathered)
        raise
    if gathered:
        yield bytes(gathered)


class ResultReader:
    """Bytes in, lines out, over any number of downloads of the same file. Blocks."""

    def __init__(
        self, spool: Spool, asked: Asked, place: Place = START, *, small_bytes: int = SMALL_BYTES
    ) -> None:
        self._spool, self._asked = spool, asked
        self._scanner = LineScanner(spool, small_bytes=small_bytes)
        self._known: Place | None = None
        """What was taken before, while a file is read again up to there."""
        self._ended_at = -1
        """Where the file ended inside a line; there again, it is no accident."""
        self._start_at(place, b"\n" if place.offset else b"")

    def _start_at(self, place: Place, tail: bytes) -> None:
        self.place, self.position = place, place.offset
        """How far lines were taken, and bytes."""
        self._tail = tail
        """The bytes before, as far as they are remembered."""
        self._expected = b""
        self._between = True
        """The next byte begins a line; until it comes, the spool holds the picture of the line before."""

    def _begin_line(self) -> None:
        if self._between:
            self._digest = hashlib.sha256()
            self._scanner.begin()
            self._between = False

    @property
    def resumes_at(self) -> int:
        """The byte of the file to ask for next: a little before the first that is missing."""
        return self.position - len(self._tail)

    def opened(self, start: int) -> None:
        """A download begins at byte `start`. Raises SetbackError if that is neither as asked nor the first."""
        if start == self.resumes_at:
            self._expected = self._tail
        elif start == 0:
            self._from_the_first()
        else:
            self._from_the_first()
            raise SetbackError(f"asked for a later part, the service sent byte {start} and on", "again")

    def _from_the_first(self) -> None:
        """Read again what was taken, and see that it is the same."""
        known = self._known or self.place
        self._start_at(Place(), b"")
        self._known = known if known.lines else None

    def take(self, data: bytes, at: int) -> tuple[int, Line | None]:
        """Read from `data[at:]` up to the end of the next line worth telling; where it stopped, and that line.

        Raises SetbackError for a file that is not the one it was, LocalFailureError if the spool takes nothing.
        """
        at = self._compare(data, at)
        while at < len(data):
            end = data.find(b"\n", at)
            stop = len(data) if end < 0 else end
            self._feed(data, at, stop)
            at = stop if end < 0 else stop + 1
            if end >= 0:
                self._remember(b"\n")
                if line := self._end():
                    return at, line
        return at, None

    def finish(self) -> Line | None:
        """The download is complete: the last line, where no line break ended it.

        Raises SetbackError if it may be cut off, and if the file ends before what was taken.
        """
        before, line = self.place, None
        if self.position > before.offset:
            line = self._end()
        if self._known is not None or self._expected:
            raise self._another()
        if line is not None and _is_malformed(line) and self._ended_at != self.position:
            self._ended_at = self.position
            self._start_at(before, b"\n" if before.offset else b"")
            raise SetbackError("the file ends inside a line", "again")
        return line

    def _compare(self, data: bytes, at: int) -> int:
        """Pass over what was asked for again."""
        count = min(len(self._expected), len(data) - at)
        if self._expected[:count] != data[at : at + count]:
            raise self._another()
        self._expected = self._expected[count:]
        return at + count

    def _another(self) -> SetbackError:
        """Begin again; the first time what was taken is compared line by line, then not any more."""
        if self._known is None and self.place.lines:
            self._from_the_first()
        else:
            self._known = None
            self._start_at(Place(), b"")
        return SetbackError("the file is not the one it was", "again")

    def _feed(self, data: bytes, at: int, stop: int) -> None:
        with _spooling():
            self._begin_line()
            for start in range(at, stop, STEP_BYTES):
                piece = data[start : min(start + STEP_BYTES, stop)]
                self._digest.update(piece)
                self._remember(piece)
                if self._known is None:
                    self._scanner.feed(piece)

    def _remember(self, piece: bytes) -> None:
        self.position += len(piece)
        self._tail = (self._tail + piece[-OVERLAP_BYTES:])[-OVERLAP_BYTES:]

    def _end(self) -> Line | None:
        """A line is whole."""
        begins, self._between = self.place.offset, True
        digest = hashlib.sha256(f"{self.place.digest} {self._digest.hexdigest()}".encode()).hexdigest()
        self.place = Place(self.place.lines + 1, self.position, digest)
        if self._known is not None:
            self._pass()
            return None
        scanned = self._scanner.end()
        if not scanned.rest.strip(_BLANK) and not scanned.too_long:
            return None
        sink = _Shown(self._scanner)
        with _spooling():
            key, reply = read_line(scanned, self._asked, sink)
        picture = sink.picture if isinstance(reply, Pictured) else None
        return Line(self.place.lines, begins, self.place, key, reply, picture, self._spool)

    def _pass(self) -> None:
        """Another line of those that were taken before."""
        known = self._known
        if known is not None and self.place.lines == known.lines:
            if self.place != known:
                raise self._another()
            self._known = None


class _Shown:
    """The sink of an answer whose pictures are spooled already: finds out which one it shows."""

    def __init__(self, scanner: LineScanner) -> None:
        self._scanner = scanner
        self.picture: Segment | None = None

    def restart(self, mime: str) -> None:  # noqa: ARG002 - the reply says it too
        self.picture = None

    def write(self, data: bytes) -> None:
        self.picture = self._scanner.segment(data)


@contextmanager
def _spooling() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalFailureError(f"results cannot be kept while they arrive: {error.strerror or error}") from error


def _is_malformed(line: Line) -> bool:
    return line.key is None and isinstance(line.reply, Lost)


# --- what a line says ---


def read_line(scanned: Scanned, asked: Asked, sink: Sink) -> tuple[str | None, Reply]:
    """Key and reply of a line (gemini-api.md §8.6); what was written to `sink` last is its picture."""
    if scanned.too_long:
        return None, Lost("not_an_answer", "the line is too long beside its pictures")
    try:
        raw = mapping(load(scanned.rest))
    except ValueError:
        return None, Lost("not_an_answer", f"the line is not JSON: {excerpt(scanned.rest)}")
    key = words(raw.get("key")) or words(mapping(raw.get("metadata")).get("key")) or None
    if response := raw.get("response"):
        body = json.dumps(response, default=_text).encode("ascii")
        return key, read_answer(body, asked=asked.model, tier=None, sink=sink)
    error = raw.get("error") or raw.get("status")
    if not error:
        return key, Lost("not_an_answer", "the line holds neither an answer nor an error")
    return key, read_failure(mapping(error) or {"message": words(error)}, asked)


def _text(literal: memoryview) -> str:
    return str(literal, "utf-8", "replace")


def read_failure(error: dict[str, Any], asked: Asked) -> Reply:
    """The reply of a status object, whose `code` is gRPC's, or HTTP's where a router wrote it."""
    number, said = _number(error), words(error.get("message"))
    name, status = CODES.get(number, ("", number))
    if not 400 <= status <= 599:
        # an error without a known name: nobody says that it was not billed
        code = words(error.get("code")) or "none"
        return Faulted(500, f"{said or 'an error without a word'} (code {code})", billed_unknown=True)
    if number == 5 and "model" not in said.lower():
        return FileGone(404, said or name)  # besides its model a line names nothing but files
    body = {**error, "code": status, "status": words(error.get("status")) or name, "message": said or name}
    return read_rejection(status, {}, json.dumps({"error": body}, default=_text).encode("ascii"), asked)


def _number(error: dict[str, Any]) -> int:
    """The code as a number; -1 where there is none."""
    code, name = words(error.get("code")), words(error.get("status"))
    if code.isascii() and code.isdigit() and len(code) < 10:
        return int(code)
    return _NAMES.get(code.upper(), _NAMES.get(name.upper(), -1))
