"""Disks that refuse, room, the root of the output folder, and paths that would leave it."""

import asyncio
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from runner.adapters.storage import FolderStore, largest_bytes
from runner.core.errors import OutputError
from runner.core.lifecycle import Made, Unstored
from tests.adapters.lossy_files import FullDisk, LossyFiles, Tap, TappedFiles, fail_at
from tests.adapters.storage_samples import (
    ANSWER,
    KEY,
    OTHER_KEY,
    OTHER_TOKEN,
    Kept,
    keep,
    kept,
    picture,
    put_pair,
    tapped,
    task,
    tree,
)
from tests.driven import DrivenLoop, drive

# ---- disks that refuse


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
def test_a_picture_waits_in_memory_until_the_disk_takes_it(tmp_path, code):
    disk = FullDisk(code)
    told: list[str | None] = []

    def hear(cause: str | None) -> None:
        told.append(cause)
        disk.freed = True

    assert isinstance(kept(tapped(tmp_path, disk, on_blocked=hear)), Made)
    assert told[1:] == [None]
    assert told[0] is not None
    assert told[0].startswith("no space left on" if code in {errno.ENOSPC, errno.EDQUOT} else "no space left")
    assert tree(tmp_path).keys() == {"banana/poster.png", "banana/poster.json"}


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("data", [picture(), picture(size=(64, 32))], ids=["made", "rejected"])
def test_a_failure_at_any_operation_is_got_over(tmp_path, times, data):
    """The same outcome as on a good disk, no temporaries, and what was moved is told."""
    put = {"key": OTHER_KEY, "attempt": OTHER_TOKEN}
    put_pair(tmp_path / "good", "banana/poster.png", picture(seed=1), **put)
    expected = kept(FolderStore(tmp_path / "good"), data)
    for number in range(40):
        root = tmp_path / str(number)
        put_pair(root, "banana/poster.png", picture(seed=1), **put)
        assert kept(tapped(root, fail_at(number, errno.EIO, times)), data) == expected
        assert tree(root) == tree(tmp_path / "good")


def test_the_way_is_clear_only_when_the_last_waiting_picture_has_landed():
    disk = FullDisk()
    told: list[str | None] = []
    store = FolderStore(Path("/out"), files=TappedFiles(LossyFiles(), disk), on_blocked=told.append)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, DrivenLoop)
        loop.busy = lambda: store._threads.borrowed_tokens > 0
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(keep, store, None, task(stem=f"p{number}", token=f"{number}" * 32))
            await anyio.sleep(10.5)
            assert told == ["no space left on /out"] * 3
            disk.freed = True

    drive(run)
    assert told == ["no space left on /out"] * 3 + [None]
    assert disk.refused == 3 * 11  # at once, then every second


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root may mount a small disk")
def test_a_real_disk_that_is_full_takes_the_picture_when_it_has_grown(tmp_path):
    def mount(*arguments: str) -> bool:
        return (
            subprocess.run(["mount", *arguments, str(tmp_path)], capture_output=True, check=False).returncode == 0
        )

    told: list[str | None] = []

    def grow(cause: str | None) -> None:
        told.append(cause)
        if cause is not None:
            assert tree(tmp_path) == {}
            assert mount("-o", "remount,size=1m")

    if not mount("-t", "tmpfs", "-o", "size=8k", "tmpfs"):
        pytest.skip("may not mount here")
    try:
        assert isinstance(kept(FolderStore(tmp_path, retry_s=0, on_blocked=grow)), Made)
        assert told == [f"no space left on {tmp_path}", None]
        assert tree(tmp_path)["banana/poster.png"] == picture()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_run_that_leaves_gives_up_what_the_disk_refuses():
    disk = FullDisk()
    store = FolderStore(Path("/out"), files=TappedFiles(LossyFiles(), disk))
    store.on_blocked = lambda cause: store.stop_waiting() if cause else None
    assert kept(store) == Unstored(ANSWER, "no space left on /out")
    assert disk.refused == 1


def test_cancelling_ends_the_wait_and_clears_the_way():
    told: list[str | None] = []
    store = FolderStore(Path("/out"), files=TappedFiles(LossyFiles(), FullDisk()))

    async def run() -> None:
        with anyio.CancelScope() as scope:

            def hear(cause: str | None) -> None:
                told.append(cause)
                scope.cancel()

            store.on_blocked = hear
            await keep(store)
        assert scope.cancelled_caught

    anyio.run(run)
    assert told == ["no space left on /out", None]


def test_cancelling_while_a_thread_writes_waits_for_it_and_keeps_the_outcome(tmp_path):
    outcomes: list[Kept] = []

    async def run() -> None:
        with anyio.CancelScope() as scope:
            cancel = anyio.from_thread.run_sync
            store = tapped(tmp_path, lambda operation: cancel(scope.cancel) if operation == "sync" else None)
            outcomes.append(await keep(store))

    anyio.run(run)
    assert isinstance(outcomes[0], Made)
    assert tree(tmp_path).keys() == {"banana/poster.png", "banana/poster.json"}


def test_a_name_the_file_system_cannot_hold_is_unstored(tmp_path):
    outcome = kept(FolderStore(tmp_path), None, task(stem="x" * 300))
    assert isinstance(outcome, Unstored)
    assert "file name too long" in outcome.cause


def test_a_folder_that_vanishes_in_the_middle_is_made_again(tmp_path):
    store = FolderStore(tmp_path / "out", retry_s=0)
    assert isinstance(kept(store), Made)
    (tmp_path / "out").rename(tmp_path / "gone")
    assert isinstance(kept(store, None, task(token=OTHER_TOKEN)), Made)
    assert tree(tmp_path / "out").keys() == {"banana/poster.png", "banana/poster.json"}


# ---- room, root, paths


@pytest.mark.parametrize(("free", "fits"), [(1_000, False), (1_099, False), (1_100, True), (0, False)])
def test_there_is_room_for_pictures_and_a_reserve(free: int, fits: bool):
    class Disk(LossyFiles):
        def free(self, path: Path) -> int:
            return free

    store = FolderStore(Path("/out"), files=Disk(), reserve_bytes=100)
    assert anyio.run(store.has_room, 10, 100) is fits


def test_a_root_that_is_gone_has_no_room(tmp_path):
    assert not anyio.run(FolderStore(tmp_path / "gone").has_room, 1, 1)
    assert anyio.run(FolderStore(tmp_path, reserve_bytes=0).has_room, 1, 1)


def test_largest_bytes_is_above_noise_in_a_png_and_above_what_was_recorded():
    assert largest_bytes((1024, 1024), "1K") > 1024 * 1024 * 3
    assert largest_bytes((1024, 1024), "1K") < 6_000_000
    assert largest_bytes(None, "1K") >= largest_bytes((384, 3072), "1K")
    assert largest_bytes(None, "huge") >= largest_bytes((1536, 12288), "4K")


def test_a_file_system_that_cannot_sync_a_folder_is_used_as_it_is(tmp_path, monkeypatch):
    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    assert isinstance(kept(FolderStore(tmp_path)), Made)


def test_prepare_makes_the_root_and_leaves_it_empty(tmp_path):
    FolderStore(tmp_path / "a" / "b").prepare()
    assert (tmp_path / "a" / "b").is_dir()
    assert tree(tmp_path) == {}


def test_a_root_that_is_a_link_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = FolderStore(tmp_path / "link")
    store.prepare()
    assert isinstance(kept(store), Made)
    assert (tmp_path / "real/banana/poster.png").exists()


def test_prepare_says_in_one_line_what_is_wrong_with_the_root(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=r"not a (folder|directory)"):
            FolderStore(root).prepare()
    with pytest.raises(OutputError, match="read-only") as caught:
        tapped(tmp_path / "ro", _refuse(errno.EROFS, "Read-only file system")).prepare()
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match="permission denied"):
        tapped(tmp_path / "no", _refuse(errno.EACCES, "Permission denied")).prepare()


def _refuse(code: int, text: str) -> Tap:
    def tap(operation: str) -> None:
        if operation == "create":
            raise OSError(code, text)

    return tap


@pytest.mark.parametrize("stem", ["../out", "/etc/x", "a/../../x", "a//b", "", ".", "a/.", "a\0b"])
def test_a_stem_that_could_leave_the_root_is_refused(tmp_path, stem):
    store = FolderStore(tmp_path)
    with pytest.raises(OutputError, match="not a path below"):
        kept(store, None, task(stem=stem))
    with pytest.raises(OutputError, match="not a path below"):
        store.foreign([stem], ())


def test_a_link_that_leads_out_of_the_root_is_refused(tmp_path):
    root = tmp_path / "out"
    root.mkdir()
    (root / "banana").symlink_to(tmp_path)
    store = FolderStore(root)
    with pytest.raises(OutputError, match="leads out"):
        store.foreign(["banana/poster"], ())
    put_pair(root, "a.png", picture())
    with pytest.raises(OutputError, match="leads out"):
        store.relocate([(KEY, "a.png", "banana/a.png")])
    store.on_blocked = lambda cause: store.stop_waiting() if cause else None
    outcome = kept(store)
    assert isinstance(outcome, Unstored)
    assert "leads out" in outcome.cause
    assert not (tmp_path / "poster.png").exists()
