"""Keeps the references of a job ready to be sent: files in memory as base64, or uploaded and not about to expire.

Which way a file goes is decided outside; here it is made ready before the claim, so that nothing is awaited
between the claim and the send. What is remembered of uploads over a restart is the ledger's.
"""

import hashlib
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import anyio
import pybase64
from anyio import to_thread

from runner.adapters.references import opened
from runner.adapters.seal import one_line
from runner.adapters.setback import (
    ChangedError,
    MissingFileError,
    NoFilesApiError,
    PassingError,
    UploadError,
)
from runner.adapters.uploads import LIFETIME_S
from runner.core.errors import RunnerError
from runner.core.reference import Part, Reference, Uploaded
from runner.engine.ports import Clock, Unsendable

MEMORY_BYTES = 256 * 1024 * 1024
"""Of base64 that is kept in case it is wanted again."""
MARGIN_S = 2 * 3600.0
"""An upload with less than this left is renewed: more than any attempt lasts, and than clocks differ."""
_SHORTEST_S = 60.0
INLINE_BYTES = 15_000_000
"""Of all references of a request together, in raw bytes; as base64 they fit in 20 MB (gemini-api.md §4.3)."""
AT_ONCE = 4
"""Uploads, and beside them files that are read."""


class Uploads(Protocol):
    """A client of the Files API; `FilesClient` is one."""

    def address(self, name: str) -> str:
        """The URI of a file by its name (`files/…`); any other URI as it is."""

    async def upload(
        self, path: Path, *, size: int, mimes: Sequence[str], display_name: str, sha256: str
    ) -> Uploaded:
        """Send a file and wait until the service can use it. Raises UploadError."""


@dataclass(slots=True)
class _Work:
    """A file being made ready, for all who want it."""

    done: anyio.Event = field(default_factory=anyio.Event)
    failed: Unsendable | None = None


@dataclass(slots=True)
class Holdings:
    """What the service holds. Of libraries that share it none sends what another has sent, or is sending."""

    files: dict[str, Uploaded]
    """By sha256 of the content; also what has expired since."""
    lost: set[str] = field(default_factory=set)
    """URIs of which the service said that they are gone."""
    under_way: dict[str, _Work] = field(default_factory=dict)


class Library:
    """References of one manifest, made ready by `prepare`, promised by `ready`, handed out by `parts`.

    `base` is the folder that names are relative to. `uploaded` holds the sha256 of the files that go through the
    Files API; all others go inline, or with `inline=False` that way too, or not at all. `remembered` is what
    earlier runs uploaded, by sha256, or what is shared with another library; `remember` makes a new upload durable
    before it is used. `files` is None where there is no Files API. An upload is used until `margin_s` before it
    expires.
    """

    def __init__(
        self,
        *,
        base: Path,
        files: Uploads | None,
        clock: Clock,
        uploaded: Collection[str],
        remembered: Mapping[str, Uploaded] | Holdings,
        remember: Callable[[str, Uploaded], Awaitable[None]],
        margin_s: float = MARGIN_S,
        memory_bytes: int = MEMORY_BYTES,
        inline: bool = True,
    ) -> None:
        self._base, self._files, self._clock = base, files, clock
        self._address = files.address if files else str
        self._uploaded, self._may_inline = frozenset(uploaded), inline
        self._remember, self._margin_s, self._memory = remember, margin_s, memory_bytes
        self._at_service = remembered if isinstance(remembered, Holdings) else Holdings(dict(remembered))
        self._renew_at = dict[str, float]()
        """Of what was uploaded here, by URI."""
        self._lock = threading.Lock()  # over the next two: the ledger's thread asks what is ready
        self._inline = OrderedDict[str, bytes]()  # the longest unused first
        self._pinned: set[str] = set()
        self._wanted = Counter[str]()
        self._admitted_bytes = 0
        self._door, self._left = anyio.Lock(), anyio.Event()
        self._uploading, self._reading = anyio.CapacityLimiter(AT_ONCE), anyio.CapacityLimiter(AT_ONCE)

    # --- asked around the claim ---

    def ready(self, wanted: Sequence[Reference]) -> bool:
        """Whether `parts` can be had at once. If so they stay at hand until `parts` or `release`.

        Thread-safe, quick, no I/O; asking twice promises once.
        """
        files = {ref.sha256 for ref in wanted if not ref.uri}
        with self._lock:
            if not all(map(self._at_hand, files)) or self._is_too_much(wanted):
                return False
            self._pinned |= files
            return True

    def parts(self, wanted: Sequence[Reference]) -> tuple[Part, ...]:
        """What is sent for references that `ready` promised, in their order; ends the promise."""
        with self._lock:
            parts = tuple(map(self._part, wanted))
            self._pinned -= {ref.sha256 for ref in wanted}
        return parts

    def release(self, wanted: Sequence[Reference]) -> None:
        """End a promise of `ready` that is not going to be redeemed. Thread-safe."""
        with self._lock:
            self._pinned -= {ref.sha256 for ref in wanted}

    def forget(self, sha256: str, uri: str | None = None) -> None:
        """The service says that it does not have an upload: the next `prepare` makes it anew. Thread-safe.

        With `uri`, only if that is still the one in use: of several answers about one lost file, one counts.
        """
        held = self._at_service.files.get(sha256)
        if held:
            self._at_service.lost.add(uri or held.uri)

    def _goes_up(self, sha256: str) -> bool:
        return not self._may_inline or sha256 in self._uploaded

    def _at_hand(self, sha256: str) -> bool:
        return sha256 in self._inline or self._is_fresh(sha256)

    def _is_fresh(self, sha256: str) -> bool:
        held = self._at_service.files.get(sha256)
        if held is None or held.uri in self._at_service.lost or not self._goes_up(sha256):
            return False
        return self._clock.utc() < self._renew_at.get(held.uri, held.expires_at_utc - self._margin_s)

    def _is_too_much(self, wanted: Sequence[Reference]) -> bool:
        """Whether they would go inline only for want of a Files API, and are more than one request carries."""
        inline = [ref for ref in wanted if not ref.uri and not self._is_fresh(ref.sha256)]
        if not self._may_inline:
            return bool(inline)
        return any(ref.sha256 in self._uploaded for ref in inline) and sum(r.bytes for r in inline) > INLINE_BYTES

    def _part(self, ref: Reference) -> Part:
        if ref.uri:
            return Part(ref.mime, uri=self._address(ref.uri))
        if ref.sha256 in self._inline:
            self._inline.move_to_end(ref.sha256)
            return Part(ref.mime, base64=self._inline[ref.sha256])
        held = self._at_service.files[ref.sha256]
        return Part(held.mime, uri=held.uri)

    # --- made ready beforehand ---

    async def prepare(self, wanted: Sequence[Reference]) -> None:
        """Make `ready` true of these: read or upload what is missing. Raises Unsendable.

        Any number may be prepared at once; what several want is read or uploaded once. It waits while those under
        way fill the memory.
        """
        files = {ref.sha256: ref for ref in wanted if not ref.uri}
        async with self._admitted(files.values()), anyio.create_task_group() as group:
            failures: list[Unsendable | RunnerError] = []
            for ref in files.values():
                group.start_soon(self._prepared, ref, wanted, failures)
        if failures:
            raise failures[0]
        self._check(wanted)

    def _check(self, wanted: Sequence[Reference]) -> None:
        """Raises Unsendable where only a Files API could carry them, and there is none."""
        with self._lock:
            too_much = self._files is None and self._is_too_much(wanted)
        if too_much and not self._may_inline:
            raise Unsendable(
                "upload_failed",
                "this endpoint has no Files API, and the references of a batch cannot go another way: use the"
                " standard lane, or another endpoint",
            )
        if too_much:
            total = sum(ref.bytes for ref in wanted) / 1e6
            raise Unsendable(
                "upload_failed",
                f"this endpoint has no Files API, and the references of this task have {total:.1f} MB together, of"
                f" {INLINE_BYTES / 1e6:.0f} MB that a request carries: scale them down, or use another endpoint",
            )

    @asynccontextmanager
    async def _admitted(self, files: Collection[Reference]) -> AsyncIterator[None]:
        """Holds the memory that these take, and them in it; more than all of it is admitted alone."""
        size = sum(_base64_bytes(ref.bytes) for ref in files if not self._goes_up(ref.sha256))
        async with self._door:  # in the order of asking: small sets do not overtake a large one for ever
            while self._admitted_bytes and self._admitted_bytes + size > self._memory:
                await self._left.wait()
            self._admitted_bytes += size
        self._wanted.update(ref.sha256 for ref in files)
        try:
            yield
        finally:
            self._wanted -= Counter(ref.sha256 for ref in files)
            self._admitted_bytes -= size
            self._left.set()
            self._left = anyio.Event()

    async def _prepared(
        self, ref: Reference, wanted: Sequence[Reference], failures: list[Unsendable | RunnerError]
    ) -> None:
        """One file, or why not: by whoever comes first, while all others who want it wait."""
        try:
            while not self._holds(ref.sha256):
                if work := self._at_service.under_way.get(ref.sha256):
                    await work.done.wait()
                    if work.failed:
                        raise work.failed
                else:
                    self._check(wanted)
                    await self._work(ref)
        except (Unsendable, RunnerError) as error:
            failures.append(error)

    def _holds(self, sha256: str) -> bool:
        with self._lock:
            return self._at_hand(sha256)

    async def _work(self, ref: Reference) -> None:
        work = self._at_service.under_way[ref.sha256] = _Work()
        try:
            if self._files and self._goes_up(ref.sha256):
                await self._upload(ref, self._files)
            else:
                await self._read(ref)
        except Unsendable as error:
            work.failed = error
            raise
        finally:
            del self._at_service.under_way[ref.sha256]
            work.done.set()

    # --- inline ---

    async def _read(self, ref: Reference) -> None:
        path = self._base / ref.name
        self._keep(ref.sha256, await to_thread.run_sync(_encoded, path, ref, limiter=self._reading))

    def _keep(self, sha256: str, encoded: bytes) -> None:
        with self._lock:
            self._inline[sha256] = encoded
            self._inline.move_to_end(sha256)
            spare = [held for held in self._inline if held not in self._pinned and held not in self._wanted]
            excess = sum(map(len, self._inline.values())) - self._memory
            for held in spare:
                if excess <= 0:
                    break
                excess -= len(self._inline.pop(held))

    # --- uploaded ---

    async def _upload(self, ref: Reference, files: Uploads) -> None:
        try:
            async with self._uploading:
                held = await files.upload(
                    self._base / ref.name,
                    size=ref.bytes,
                    mimes=(ref.mime,),
                    display_name=Path(ref.name).name,
                    sha256=ref.sha256,
                )
        except NoFilesApiError:
            self._files = None  # from now on inline, as much as a request carries
            return
        except UploadError as error:
            raise _unsendable(ref, error) from None
        await self._remember(ref.sha256, held)
        self._renew_at[held.uri] = self._renewal(held)
        self._at_service.lost.discard(held.uri)
        self._at_service.files[ref.sha256] = held

    def _renewal(self, held: Uploaded) -> float:
        """When a new upload is to be made anew.

        Where the clocks are so far apart that it seems to expire within the margin it is used all the same, for no
        longer than by a right clock: the service says when it is gone.
        """
        now = self._clock.utc()
        left_s = held.expires_at_utc - now
        usable_s = left_s - self._margin_s
        if usable_s < _SHORTEST_S:
            usable_s = max(min(left_s / 2, LIFETIME_S - self._margin_s), _SHORTEST_S)
        return now + usable_s


def _encoded(path: Path, ref: Reference) -> bytes:
    """A file as base64, if it is the one that was inspected. Blocks."""
    try:
        with opened(path) as file:
            same = os.fstat(file.fileno()).st_size == ref.bytes
            data = file.read(ref.bytes + 1) if same else b""
    except FileNotFoundError:
        raise Unsendable("reference_missing", f"{one_line(ref.name)} is not there any more") from None
    except (OSError, ValueError) as error:
        said = f"{one_line(ref.name)} cannot be read: {one_line(str(error))}"
        raise Unsendable("reference_missing", said) from None
    if not same or hashlib.sha256(data).hexdigest() != ref.sha256:
        raise _changed(ref)
    return pybase64.b64encode(data)


def _changed(ref: Reference) -> Unsendable:
    said = (
        f"{one_line(ref.name)} changed since it was planned: put it back, or run again to plan with what it is now"
    )
    return Unsendable("reference_changed", said)


def _unsendable(ref: Reference, error: UploadError) -> Unsendable:
    if isinstance(error, ChangedError):
        return _changed(ref)
    name = one_line(ref.name)
    if isinstance(error, MissingFileError):
        return Unsendable("reference_missing", f"{name}: {error}")
    passing = isinstance(error, PassingError)
    return Unsendable("upload_failed", f"{name} was not uploaded: {error}", passing=passing)


def _base64_bytes(size: int) -> int:
    return (size + 2) // 3 * 4
