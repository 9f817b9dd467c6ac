"""The output folder: what lands where, what is never touched, and what a crash left."""

import errno
import hashlib
import zlib
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from blockbuster import blockbuster_ctx

from runner.adapters.sidecar import dump, load
from runner.adapters.storage import FolderStore
from runner.core.errors import LocalFailureError
from runner.core.lifecycle import Made, Unusable
from runner.engine.ports import ImageStore
from tests.adapters.lossy_files import fail_at
from tests.adapters.storage_samples import (
    ANSWER,
    KEY,
    OTHER_KEY,
    OTHER_TOKEN,
    TOKEN,
    Kept,
    keep,
    kept,
    picture,
    put_pair,
    sidecar,
    tapped,
    task,
    tree,
)

# ---- landing


def test_a_picture_lands_with_its_bytes_and_a_sidecar_that_says_everything(tmp_path):
    store: ImageStore = FolderStore(tmp_path)  # by structure
    assert isinstance(store, FolderStore)
    made = kept(store)
    assert isinstance(made, Made)
    assert made.answer == ANSWER
    assert made.picture.path == "banana/poster.png"
    assert (made.picture.width, made.picture.height, made.picture.mime) == (64, 64, "image/png")
    assert made.picture.sha256 == hashlib.sha256(picture()).hexdigest()
    files = tree(tmp_path)
    assert files.keys() == {"banana/poster.png", "banana/poster.json"}
    assert files["banana/poster.png"] == picture()
    assert load(files["banana/poster.json"]) == sidecar(picture(), "poster.png")


@pytest.mark.parametrize(
    ("kind", "extension"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif")]
)
def test_the_extension_is_what_the_bytes_are_whatever_the_answer_called_them(tmp_path, kind, extension):
    made = kept(FolderStore(tmp_path), picture(kind))
    assert isinstance(made, Made)
    assert made.picture.path == f"banana/poster.{extension}"
    assert tree(tmp_path)[made.picture.path] == picture(kind)


def test_the_last_picture_of_an_answer_wins_and_may_come_in_pieces(tmp_path):
    async def run() -> Kept:
        async with FolderStore(tmp_path).landing(task()) as landing:
            landing.restart("image/png")
            landing.write(picture(seed=5)[:100])
            landing.restart("image/png")
            for at in range(0, len(picture()), 1000):
                landing.write(picture()[at : at + 1000])
            return await landing.keep(ANSWER)

    assert isinstance(anyio.run(run), Made)
    assert tree(tmp_path)["banana/poster.png"] == picture()


def test_a_landing_that_is_left_without_keeping_leaves_nothing(tmp_path):
    async def run() -> None:
        async with FolderStore(tmp_path).landing(task()) as landing:
            landing.restart("image/png")
            landing.write(picture())

    anyio.run(run)
    assert tree(tmp_path) == {}


def test_wrong_pixels_are_an_outcome_and_the_picture_is_kept_apart(tmp_path):
    asked = task(size="4K", aspect="16:9", pixels=(5504, 3072))
    outcome = kept(FolderStore(tmp_path), picture(), asked)
    assert isinstance(outcome, Unusable)
    assert outcome.reason == "wrong_pixels"
    assert outcome.detail == "asked 4K 16:9 (5504x3072), got 64x64"
    assert outcome.picture is not None
    assert outcome.picture.path == f"banana/rejected/poster.{TOKEN[:12]}.png"
    assert tree(tmp_path)[outcome.picture.path] == picture()
    assert FolderStore(tmp_path).adopt(asked) == outcome


@pytest.mark.parametrize(("data", "extension"), [(picture()[:-1], "png"), (b"<html>", "bin"), (b"", "bin")])
def test_broken_bytes_are_an_outcome_and_kept_apart(tmp_path, data, extension):
    outcome = kept(FolderStore(tmp_path), data)
    assert isinstance(outcome, Unusable)
    assert (outcome.reason, outcome.answer) == ("broken_image", ANSWER)
    assert outcome.picture is not None
    assert outcome.picture.path == f"banana/rejected/poster.{TOKEN[:12]}.{extension}"
    assert (outcome.picture.width, outcome.picture.bytes) == (0, len(data))
    assert FolderStore(tmp_path).adopt(task()) == outcome


def test_only_full_verification_sees_pixels_that_do_not_decode(tmp_path):
    """Picture data with right checksums that is no zlib stream."""
    hollow = bytearray(picture("PNG"))
    at = hollow.index(b"IDAT")
    length = int.from_bytes(hollow[at - 4 : at], "big")
    hollow[at + 4 : at + 4 + length] = bytes(length)
    hollow[at + 4 + length : at + 8 + length] = zlib.crc32(hollow[at : at + 4 + length]).to_bytes(4, "big")
    assert isinstance(kept(FolderStore(tmp_path / "a"), bytes(hollow)), Made)
    outcome = kept(FolderStore(tmp_path / "b", verify="full"), bytes(hollow))
    assert isinstance(outcome, Unusable)
    assert outcome.reason == "broken_image"
    assert isinstance(kept(FolderStore(tmp_path / "c", verify="full")), Made)


def test_nothing_blocks_the_event_loop(tmp_path):
    store = FolderStore(tmp_path, verify="full")

    async def run() -> None:
        with blockbuster_ctx():
            assert await store.has_room(1, 1)
            assert isinstance(await keep(store), Made)

    anyio.run(run)


def test_many_pictures_land_in_one_folder_at_once(tmp_path):
    store = FolderStore(tmp_path)
    stems = [f"banana/deep/{number}" for number in range(40)]

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            for stem in stems:
                tasks.start_soon(keep, store, None, task(stem=stem, token=hashlib.md5(stem.encode()).hexdigest()))

    anyio.run(run)
    assert tree(tmp_path).keys() == {f"{stem}.{end}" for stem in stems for end in ("png", "json")}


# ---- what sits there already


def test_an_earlier_picture_of_ours_moves_aside_with_its_sidecar_and_is_told(tmp_path):
    put_pair(tmp_path, "banana/poster.png", picture(seed=1), key=OTHER_KEY, attempt=OTHER_TOKEN)
    made = kept(FolderStore(tmp_path))
    assert isinstance(made, Made)
    moved = f"banana/superseded/poster.{OTHER_KEY[-12:]}"
    assert made.answer.notices[-1] == f"an earlier picture at banana/poster.png moved to {moved}.png"
    files = tree(tmp_path)
    assert files.keys() == {"banana/poster.png", "banana/poster.json", f"{moved}.png", f"{moved}.json"}
    assert files[f"{moved}.png"] == picture(seed=1)
    old = load(files[f"{moved}.json"])
    assert old is not None
    assert (old.key, old.file) == (OTHER_KEY, Path(moved).name + ".png")
    assert FolderStore(tmp_path).adopt(task()) == made


def test_two_earlier_pictures_of_one_key_both_stay(tmp_path):
    put_pair(tmp_path, "banana/superseded/poster.aaaaaaaaaaaa.png", picture(seed=1), attempt="1" * 32)
    put_pair(tmp_path, "banana/poster.jpg", picture(seed=2), attempt=OTHER_TOKEN)
    kept(FolderStore(tmp_path))
    files = tree(tmp_path)
    assert files["banana/superseded/poster.aaaaaaaaaaaa.png"] == picture(seed=1)
    assert files["banana/superseded/poster.aaaaaaaaaaaa-2.jpg"] == picture(seed=2)
    vouchers = [load(data) for path, data in files.items() if path.endswith(".json")]
    assert sorted(each.attempt for each in vouchers if each) == sorted(["1" * 32, OTHER_TOKEN, TOKEN])


@pytest.mark.parametrize(
    "files",
    [
        {"poster.png": b"holiday"},
        {"poster.json": b'{"mine": 1}'},
        {"poster.json": b"\xff\xfe not json"},
        {"poster.png": b"edited by hand", "poster.json": dump(sidecar(picture(), "poster.png", key=OTHER_KEY))},
        {"poster.jpg": b"edited by hand", "poster.json": dump(sidecar(picture(), "poster.jpg", key=OTHER_KEY))},
    ],
    ids=["picture", "json", "binary", "edited", "edited of another format"],
)
def test_a_file_that_is_not_ours_is_never_touched_and_the_paid_picture_lands_beside_it(tmp_path, files):
    (tmp_path / "banana").mkdir()
    for name, data in files.items():
        (tmp_path / "banana" / name).write_bytes(data)
    made = kept(FolderStore(tmp_path))
    assert isinstance(made, Made)
    assert made.picture.path == f"banana/poster.{KEY[-12:]}.png"
    assert "a file that is not ours is at banana/poster" in made.answer.notices[-1]
    after = tree(tmp_path)
    assert all(after[f"banana/{name}"] == data for name, data in files.items())
    assert after[made.picture.path] == picture()
    assert FolderStore(tmp_path).adopt(task()) == made


def test_a_folder_or_a_dangling_link_under_the_name_is_in_the_way_too(tmp_path):
    (tmp_path / "banana" / "poster.png").mkdir(parents=True)
    made = kept(FolderStore(tmp_path))
    assert isinstance(made, Made)
    assert made.picture.path == f"banana/poster.{KEY[-12:]}.png"
    (tmp_path / "banana" / "link.png").symlink_to(tmp_path / "nowhere")
    made = kept(FolderStore(tmp_path), None, task(stem="banana/link", token=OTHER_TOKEN))
    assert isinstance(made, Made)
    assert made.picture.path == f"banana/link.{KEY[-12:]}.png"
    assert not (tmp_path / "nowhere").exists()


def test_a_sidecar_whose_picture_was_deleted_is_replaced(tmp_path):
    put_pair(tmp_path, "banana/poster.png", picture(seed=1), attempt=OTHER_TOKEN)
    (tmp_path / "banana/poster.png").unlink()
    made = kept(FolderStore(tmp_path))
    assert isinstance(made, Made)
    assert made.picture.path == "banana/poster.png"
    assert tree(tmp_path).keys() == {"banana/poster.png", "banana/poster.json"}


# ---- adoption


def test_nothing_is_adopted_for_another_attempt_or_another_key(tmp_path):
    kept(FolderStore(tmp_path))
    before = tree(tmp_path)
    assert FolderStore(tmp_path).adopt(task(token=OTHER_TOKEN)) is None
    assert FolderStore(tmp_path).adopt(task(key=OTHER_KEY)) is None
    assert tree(tmp_path) == before


def test_bytes_that_do_not_fit_their_sidecar_are_not_adopted(tmp_path):
    kept(FolderStore(tmp_path))
    (tmp_path / "banana/poster.png").write_bytes(picture()[:-1])
    assert FolderStore(tmp_path).adopt(task()) is None


def test_a_whole_temporary_file_is_adopted_beside_a_foreign_file_that_came_since(tmp_path):
    put_pair(tmp_path, "banana/poster.png", picture())
    part = tmp_path / f"banana/.poster.{TOKEN}.part"
    (tmp_path / "banana/poster.png").rename(part)
    (tmp_path / "banana/poster.png").write_bytes(b"holiday")
    made = FolderStore(tmp_path).adopt(task())
    assert isinstance(made, Made)
    assert made.picture.path == f"banana/poster.{KEY[-12:]}.png"
    assert (tmp_path / "banana/poster.png").read_bytes() == b"holiday"
    assert (tmp_path / made.picture.path).read_bytes() == picture()
    assert not part.exists()


def test_incomplete_temporaries_of_the_attempt_go_and_those_of_others_stay(tmp_path):
    home = tmp_path / "banana"
    home.mkdir()
    for name in (f".poster.{TOKEN}.part", f".{TOKEN}.json.part", f".poster.{OTHER_TOKEN}.part"):
        (home / name).write_bytes(b"half")
    assert FolderStore(tmp_path).adopt(task()) is None
    assert tree(tmp_path).keys() == {f"banana/.poster.{OTHER_TOKEN}.part"}


def test_a_disk_error_while_recovering_is_a_local_failure(tmp_path):
    kept(FolderStore(tmp_path))
    with pytest.raises(LocalFailureError, match="the disk says no"):
        tapped(tmp_path, fail_at(0, errno.EIO, 99)).adopt(task())


def test_a_sidecar_survives_half_a_surrogate_pair_and_ignores_what_it_does_not_know():
    said = replace(ANSWER, text="\ud83c broken", usage=None)
    there = sidecar(b"", "x.png", answer=said)
    assert load(dump(there)) == there
    assert load(dump(there).replace(b'"job"', b'"new": 1, "job"')) == there


@pytest.mark.parametrize(
    "change",
    [
        (b'"bulkrender": 1', b'"bulkrender": 2'),
        (b'"bytes": 0', b'"bytes": "0"'),
        (b'"key"', b'"kee"'),
        (b"}", b""),
    ],
)
def test_what_is_not_a_sidecar_is_not_read_as_one(change):
    assert load(dump(sidecar(b"", "x.png")).replace(*change)) is None
    assert load(b"[" * 100_000) is None
