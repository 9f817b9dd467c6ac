"""What is ready to be sent: read once, uploaded once, kept while promised, renewed before it expires."""

import base64
import hashlib
import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.adapters.library import INLINE_BYTES, MARGIN_S, Holdings, Library
from runner.adapters.setback import (
    ChangedError,
    MissingFileError,
    NoFilesApiError,
    PassingError,
    UploadError,
)
from runner.core.errors import LocalFailureError
from runner.core.reference import Part, Reference, Uploaded
from runner.engine.ports import Unsendable
from tests.driven import DrivenClock

URI = Reference("files/abc", "image/png", "", 0, "files/abc")


class FakeUploads:
    """A Files API in memory; `trouble` is raised, `gate` is waited for."""

    def __init__(self, clock: DrivenClock) -> None:
        self.clock = clock
        self.lifetime_s = 48 * 3600.0
        self.trouble: list[UploadError] = []
        self.gate: Callable[[], Awaitable[Any]] = anyio.lowlevel.checkpoint
        self.sent: list[str] = []
        self.now = self.most = 0

    def address(self, name: str) -> str:
        return f"https://h/v1beta/{name}"

    async def upload(
        self, path: Path, *, size: int, mimes: Sequence[str], display_name: str, sha256: str
    ) -> Uploaded:
        self.sent.append(display_name)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate()
        finally:
            self.now -= 1
        if self.trouble:
            raise self.trouble.pop(0)
        number = len(self.sent)
        return Uploaded(f"files/{number}", f"https://h/{number}", mimes[0], self.clock.utc() + self.lifetime_s)


class Shelf:
    """Files in a folder, a library over them, and what it was told to remember."""

    def __init__(self, base: Path) -> None:
        self.base, self.clock = base, DrivenClock()
        self.files = FakeUploads(self.clock)
        self.remembered: dict[str, Uploaded] = {}

    def put(self, name: str, data: bytes = b"") -> Reference:
        data = data or name.encode()
        (self.base / name).write_bytes(data)
        return Reference(name, "image/png", hashlib.sha256(data).hexdigest(), len(data))

    def library(self, *uploaded: Reference, **options: Any) -> Library:
        settings: dict[str, Any] = {
            "base": self.base,
            "files": self.files,
            "clock": self.clock,
            "uploaded": [ref.sha256 for ref in uploaded],
            "remembered": dict(self.remembered),
            "remember": self.remember,
        }
        return Library(**(settings | options))

    async def remember(self, sha256: str, held: Uploaded) -> None:
        self.remembered[sha256] = held


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def inline(data: str) -> Part:
    return Part("image/png", base64=base64.b64encode(data.encode()))


def held(library: Library) -> set[str]:
    return {base64.b64decode(data).decode() for data in library._inline.values()}


async def failing(library: Library, *wanted: Reference) -> tuple[str, str, bool]:
    with pytest.raises(Unsendable) as caught:
        await library.prepare(wanted)
    assert not library.ready(wanted)
    return caught.value.reason, str(caught.value), caught.value.passing


def test_parts_come_in_the_order_that_was_asked(shelf: Shelf) -> None:
    a, b, c = (shelf.put(name) for name in "abc")
    library = shelf.library(b)
    wanted = (c, b, URI, a, c)

    async def main() -> None:
        assert not library.ready(wanted)
        await library.prepare(wanted)
        assert library.ready(wanted)
        sent = (Part("image/png", uri="https://h/1"), Part("image/png", uri="https://h/v1beta/files/abc"))
        assert library.parts(wanted) == (inline("c"), *sent, inline("a"), inline("c"))
        assert shelf.files.sent == ["b"]
        assert shelf.remembered[b.sha256].uri == "https://h/1"

    anyio.run(main)


def test_nothing_wanted_and_addresses_are_always_ready(shelf: Shelf) -> None:
    library = shelf.library()
    assert library.ready(())
    assert library.ready((URI,))
    assert library.parts((URI,)) == (Part("image/png", uri="https://h/v1beta/files/abc"),)


def test_several_that_want_one_file_share_one_upload(shelf: Shelf) -> None:
    a = shelf.put("a")
    library = shelf.library(a)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(library.prepare, (a,))
        assert shelf.files.sent == ["a"]

    anyio.run(main)


def test_one_that_leaves_while_it_uploads_leaves_it_to_the_next(shelf: Shelf) -> None:
    a = shelf.put("a")
    library = shelf.library(a)

    async def main() -> None:
        shelf.files.gate = anyio.sleep_forever
        async with anyio.create_task_group() as group, anyio.create_task_group() as first:
            first.start_soon(library.prepare, (a,))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(library.prepare, (a,))
            await anyio.wait_all_tasks_blocked()
            assert shelf.files.sent == ["a"]
            shelf.files.gate = anyio.lowlevel.checkpoint
            first.cancel_scope.cancel()
        assert library.ready((a,))
        assert shelf.files.sent == ["a", "a"]

    anyio.run(main)


def test_at_most_four_upload_at_once(shelf: Shelf) -> None:
    refs = [shelf.put(f"f{i}") for i in range(12)]
    library = shelf.library(*refs)

    async def main() -> None:
        shelf.files.gate = anyio.wait_all_tasks_blocked
        await library.prepare(refs)
        assert shelf.files.most == 4
        assert len(shelf.files.sent) == 12

    anyio.run(main)


def test_one_upload_that_fails_fails_for_all_who_wait_for_it(shelf: Shelf) -> None:
    a = shelf.put("a")
    library = shelf.library(a)
    said = []

    async def want() -> None:
        said.append(await failing(library, a))

    async def main() -> None:
        shelf.files.trouble = [PassingError("given up")]
        shelf.files.gate = anyio.wait_all_tasks_blocked
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(want)
        assert said == [("upload_failed", "a was not uploaded: given up", True)] * 3
        await library.prepare((a,))
        assert library.ready((a,))

    anyio.run(main)


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (UploadError("HTTP 403: no"), ("upload_failed", "a was not uploaded: HTTP 403: no", False)),
        (
            ChangedError("it changed"),
            (
                "reference_changed",
                "a changed since it was planned: put it back, or run again to plan with what it is now",
                False,
            ),
        ),
        (
            MissingFileError("it is not there any more"),
            ("reference_missing", "a: it is not there any more", False),
        ),
    ],
)
def test_why_an_upload_failed_is_said(shelf: Shelf, trouble: UploadError, expected: tuple[str, str, bool]) -> None:
    a = shelf.put("a")
    shelf.files.trouble = [trouble]
    assert anyio.run(failing, shelf.library(a), a) == expected


@pytest.mark.parametrize("now", [b"b", b"longer", b""])
def test_a_file_that_changed_is_not_sent(shelf: Shelf, now: bytes) -> None:
    a, b = shelf.put("a"), shelf.put("b")
    (shelf.base / "a").write_bytes(now)
    reason, message, _ = anyio.run(failing, shelf.library(), b, a)
    assert reason == "reference_changed"
    assert message == "a changed since it was planned: put it back, or run again to plan with what it is now"


def test_a_file_that_is_gone_is_not_sent(shelf: Shelf) -> None:
    a = shelf.put("a")
    (shelf.base / "a").unlink()
    assert anyio.run(failing, shelf.library(), a) == ("reference_missing", "a is not there any more", False)
    (shelf.base / "a").mkdir()
    said = ("reference_missing", "a cannot be read: it is a folder", False)
    assert anyio.run(failing, shelf.library(), a) == said


def test_a_ledger_that_fails_is_no_matter_of_the_task(shelf: Shelf) -> None:
    a = shelf.put("a")

    async def broken(_sha256: str, _held: Uploaded) -> None:
        raise LocalFailureError("the disk is full")

    with pytest.raises(LocalFailureError, match="the disk is full"):
        anyio.run(shelf.library(a, remember=broken).prepare, (a,))


# --- uploads grow old ---


def test_an_upload_is_used_over_a_restart_and_renewed_before_it_expires(shelf: Shelf) -> None:
    a = shelf.put("a")

    async def main() -> None:
        await shelf.library(a).prepare((a,))
        library = shelf.library(a)
        assert library.ready((a,))
        shelf.clock.epoch += 48 * 3600 - MARGIN_S - 5
        assert shelf.library(a).ready((a,))
        shelf.clock.epoch += 10
        assert not shelf.library(a).ready((a,))
        assert not library.ready((a,))
        await library.prepare((a,))
        assert library.ready((a,))
        assert library.parts((a,)) == (Part("image/png", uri="https://h/2"),)
        assert shelf.files.sent == ["a", "a"]

    anyio.run(main)


@pytest.mark.parametrize("lifetime_s", [3600.0, 10.0, -1e6])
def test_an_upload_that_seems_short_lived_is_used_all_the_same(shelf: Shelf, lifetime_s: float) -> None:
    a = shelf.put("a")
    library = shelf.library(a)

    async def main() -> None:
        shelf.files.lifetime_s = lifetime_s
        await library.prepare((a,))
        assert library.ready((a,))
        shelf.clock.epoch += max(61.0, lifetime_s / 2 + 1)
        assert not library.ready((a,))

    anyio.run(main)


def test_an_upload_that_the_service_lost_is_made_anew_once(shelf: Shelf) -> None:
    a = shelf.put("a")
    library = shelf.library(a)

    async def main() -> None:
        await library.prepare((a,))
        assert library.ready((a,))
        library.forget(a.sha256, "https://h/1")
        assert library.parts((a,)) == (Part("image/png", uri="https://h/1"),)
        assert not library.ready((a,))
        await library.prepare((a,))
        library.forget(a.sha256, "https://h/1")
        library.forget("unknown")
        assert library.ready((a,))
        assert library.parts((a,)) == (Part("image/png", uri="https://h/2"),)
        library.forget(a.sha256)
        assert not library.ready((a,))

    anyio.run(main)


# --- for a batch: files that outlive the job ---

LONG_S = 46 * 3600.0


def test_what_a_batch_needs_is_made_anew_once_it_is_two_hours_old(shelf: Shelf) -> None:
    a = shelf.put("a")

    async def main() -> None:
        library = shelf.library(a, margin_s=LONG_S)
        await library.prepare((a,))
        shelf.clock.epoch += 2 * 3600 - 5
        assert library.ready((a,))
        assert shelf.library(a, margin_s=LONG_S).ready((a,))
        shelf.clock.epoch += 10
        assert not library.ready((a,))
        assert not shelf.library(a, margin_s=LONG_S).ready((a,))
        assert shelf.library(a).ready((a,))
        await library.prepare((a,))
        assert library.parts((a,)) == (Part("image/png", uri="https://h/2"),)

    anyio.run(main)


@pytest.mark.parametrize(("lifetime_h", "usable_s"), [(47, 3600.0), (46, 7200.0), (3, 5400.0), (-9, 60.0)])
def test_clocks_that_differ_make_no_upload_last_longer(shelf: Shelf, lifetime_h: int, usable_s: float) -> None:
    a = shelf.put("a")
    library = shelf.library(a, margin_s=LONG_S)

    async def main() -> None:
        shelf.files.lifetime_s = lifetime_h * 3600.0
        await library.prepare((a,))
        shelf.clock.epoch += usable_s - 1
        assert library.ready((a,))
        shelf.clock.epoch += 2
        assert not library.ready((a,))

    anyio.run(main)


@pytest.mark.parametrize("known", [False, True])
def test_what_may_not_go_inline_is_uploaded_or_fails(shelf: Shelf, known: bool) -> None:
    a, b = shelf.put("a"), shelf.put("b")

    async def main() -> None:
        library = shelf.library(inline=False)
        await library.prepare((a, URI))
        assert library.ready((a, URI))
        assert library.parts((a,)) == (Part("image/png", uri="https://h/1"),)
        shelf.files.trouble = [NoFilesApiError("none")]
        library = shelf.library(inline=False, files=None if known else shelf.files)
        reason, message, passing = await failing(library, b)
        assert (reason, passing) == ("upload_failed", False)
        assert message == (
            "this endpoint has no Files API, and the references of a batch cannot go another way: use the "
            "standard lane, or another endpoint"
        )
        await library.prepare((a, URI))
        assert library.ready((a, URI))

    anyio.run(main)


def test_two_libraries_share_what_the_service_holds_each_with_its_own_margin(shelf: Shelf) -> None:
    a = shelf.put("a")
    shared = Holdings({})
    standard = shelf.library(a, remembered=shared)
    batch = shelf.library(remembered=shared, margin_s=LONG_S, inline=False)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(standard.prepare, (a,))
            group.start_soon(batch.prepare, (a,))
        assert shelf.files.sent == ["a"]
        assert standard.ready((a,))
        assert batch.ready((a,))
        shelf.clock.epoch += 3 * 3600
        assert not batch.ready((a,))
        await batch.prepare((a,))
        await standard.prepare((a,))
        assert shelf.files.sent == ["a", "a"]
        for library in (standard, batch):
            assert library.ready((a,))
            assert library.parts((a,)) == (Part("image/png", uri="https://h/2"),)
        batch.forget(a.sha256, "https://h/2")
        assert not standard.ready((a,))

    anyio.run(main)


def test_a_file_that_one_library_has_inline_is_uploaded_for_the_other(shelf: Shelf) -> None:
    a = shelf.put("a")
    shared = Holdings({})
    standard, batch = shelf.library(remembered=shared), shelf.library(remembered=shared, inline=False)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(standard.prepare, (a,))
            group.start_soon(batch.prepare, (a,))
        assert standard.ready((a,))
        assert standard.parts((a,)) == (inline("a"),)
        assert batch.ready((a,))
        assert batch.parts((a,)) == (Part("image/png", uri="https://h/1"),)

    anyio.run(main)


# --- no Files API ---


@pytest.mark.parametrize("known", [False, True])
def test_without_a_files_api_what_fits_goes_inline(shelf: Shelf, known: bool) -> None:
    size = INLINE_BYTES // 2 + 1
    a, b, c = (shelf.put(name, name.encode() * size) for name in "abc")
    shelf.files.trouble = [NoFilesApiError("none")] * 9
    library = shelf.library(a, b, files=None if known else shelf.files)

    async def main() -> None:
        await library.prepare((a,))
        await library.prepare((b,))
        assert library.ready((a,))
        assert library.ready((b,))
        assert library.parts((a,))[0].base64
        reason, message, passing = await failing(library, a, b)
        assert (reason, passing) == ("upload_failed", False)
        assert message == (
            "this endpoint has no Files API, and the references of this task have 15.0 MB together, of 15 MB that "
            "a request carries: scale them down, or use another endpoint"
        )
        assert (await failing(library, a, c))[0] == "upload_failed"
        assert len(shelf.files.sent) == (0 if known else 1)

    anyio.run(main)


# --- memory ---


def test_the_longest_unused_goes_first_and_the_promised_stays(shelf: Shelf) -> None:
    a, b, c, d = (shelf.put(name) for name in "abcd")
    library = shelf.library(memory_bytes=8)

    async def main() -> None:
        await library.prepare((a,))
        await library.prepare((b,))
        assert library.ready((a,))
        await library.prepare((c,))
        assert held(library) == {"a", "c"}
        await library.prepare((d,))
        assert held(library) == {"a", "d"}
        assert library.parts((a,)) == (inline("a"),)
        await library.prepare((b,))
        assert held(library) == {"a", "b"}
        library.release((a,))

    anyio.run(main)


def test_a_promise_that_is_given_back_frees_its_place(shelf: Shelf) -> None:
    a, b = shelf.put("a"), shelf.put("b")
    library = shelf.library(memory_bytes=4)

    async def main() -> None:
        await library.prepare((a,))
        assert library.ready((a,))
        await library.prepare((b,))
        assert held(library) == {"a", "b"}
        library.release((a,))
        await library.prepare((a, b))
        assert library.ready((b,))
        await library.prepare((shelf.put("c"),))
        assert held(library) == {"b", "c"}

    anyio.run(main)


def test_a_set_that_is_larger_than_the_memory_works_alone(shelf: Shelf) -> None:
    refs = [shelf.put(f"file {i}") for i in range(6)]
    library = shelf.library(memory_bytes=10)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(library.prepare, refs)
            group.start_soon(library.prepare, refs[:1])
        await library.prepare(refs)
        assert library.ready(refs)
        assert [part.base64 for part in library.parts(refs)] == [inline(ref.name).base64 for ref in refs]

    anyio.run(main)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sets=st.lists(st.lists(st.integers(0, 7), max_size=4), min_size=1, max_size=12),
    memory=st.sampled_from([1, 40, 120, math.inf]),
)
def test_what_is_promised_is_handed_out_whatever_else_is_prepared(
    shelf: Shelf, sets: list[list[int]], memory: float
) -> None:
    refs = [shelf.put(f"file {i}") for i in range(8)]
    library = shelf.library(*refs[:3], memory_bytes=memory)

    async def buy(wanted: list[Reference]) -> None:
        while not library.ready(wanted):
            await library.prepare(wanted)
        await anyio.lowlevel.checkpoint()
        if library.ready(wanted):  # another that shares one of them may have redeemed it
            for ref, part in zip(wanted, library.parts(wanted), strict=True):
                assert part.uri or part == inline(ref.name)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for wanted in sets:
                group.start_soon(buy, [refs[i] for i in wanted])
        assert library._admitted_bytes == 0
        assert not library._pinned - {ref.sha256 for ref in refs}

    anyio.run(main)
