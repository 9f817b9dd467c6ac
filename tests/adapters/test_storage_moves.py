"""Renamed, superseded and foreign files."""

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.adapters.files import RealFiles
from runner.adapters.sidecar import dump, load
from runner.adapters.storage import FolderStore
from runner.core.errors import LocalFailureError, OutputError
from tests.adapters.lossy_files import Crash, LossyFiles, TappedFiles, crash_at, fail_at, random_loss
from tests.adapters.storage_samples import sidecar

ROOT = Path("/out")


def put(disk: LossyFiles, path: str, *, key: str | None = None) -> None:
    """A picture of ours whose bytes are its first path."""
    target = ROOT / path
    data = path.encode()
    disk.put(target, data)
    disk.put(target.with_suffix(".json"), dump(sidecar(data, target.name, key=key or f"k-{path}")))


def shelf(*paths: str) -> tuple[LossyFiles, FolderStore]:
    disk = LossyFiles()
    disk.put(ROOT / ".keep", b"")
    for path in paths:
        put(disk, path)
    return disk, FolderStore(ROOT, files=disk)


def shown(disk: LossyFiles) -> dict[str, str]:
    """Where each picture is: path -> its first path; its sidecar must fit."""
    found = {}
    for path, data in disk.tree().items():
        if path.endswith(".png"):
            there = load(disk.tree()[path.removesuffix(".png") + ".json"])
            assert there is not None
            assert (there.key, there.file) == (f"k-{data.decode()}", Path(path).name)
            found[Path(path).relative_to(ROOT).as_posix()] = data.decode()
    return found


def moves(*pairs: tuple[str, str]) -> list[tuple[str, str, str]]:
    return [(f"k-{old}", old, new) for old, new in pairs]


@pytest.mark.parametrize(
    "pairs",
    [
        [("a.png", "b.png")],
        [("a.png", "x/y/a.png")],
        [("a.png", "b.png"), ("b.png", "c.png")],
        [("b.png", "c.png"), ("a.png", "b.png")],
        [("a.png", "b.png"), ("b.png", "a.png")],
        [("a.png", "b.png"), ("b.png", "c.png"), ("c.png", "a.png")],
        [("a.png", "A.png")],
        [("a.png", "a.b.png"), ("a.b.png", "a.png")],
    ],
    ids=["rename", "folder", "chain", "chain backwards", "swap", "ring", "case", "dots"],
)
def test_pictures_move_with_their_sidecars(pairs):
    disk, store = shelf(*(old for old, _ in pairs))
    assert store.relocate(moves(*pairs)) == [f"k-{old}" for old, _ in pairs]
    assert shown(disk) == {new: old for old, new in pairs}
    assert len(disk.tree()) == 1 + 2 * len(pairs)
    assert store.relocate(moves(*pairs[:1])) == [f"k-{pairs[0][0]}"]
    assert shown(disk) == {new: old for old, new in pairs}


@pytest.mark.parametrize("taken", ["b.png", "b.json"])
def test_a_destination_that_is_taken_is_an_error_and_nothing_moves(taken):
    disk, store = shelf("a.png", "c.png")
    disk.put(ROOT / taken, b"holiday")
    before = disk.tree()
    with pytest.raises(OutputError, match=r"in the way of a picture that moves: b\.png"):
        store.relocate(moves(("c.png", "d.png"), ("a.png", "b.png")))
    assert disk.tree() == before


def test_two_pictures_cannot_move_to_one_stem():
    disk, store = shelf("a.png", "b.png")
    with pytest.raises(OutputError, match="one path"):
        store.relocate(moves(("a.png", "c.png"), ("b.png", "C.jpg")))
    assert shown(disk) == {"a.png": "a.png", "b.png": "b.png"}


def test_a_picture_that_is_gone_or_not_provably_ours_stays_and_is_left_out():
    disk, store = shelf("a.png")
    disk.put(ROOT / "bare.png", b"no sidecar")
    put(disk, "theirs.png", key="k-other")
    before = disk.tree()
    named = moves(("gone.png", "x.png"), ("bare.png", "y.png"), ("theirs.png", "z.png"))
    assert store.relocate(named) == []
    assert disk.tree() == before


def test_a_move_onto_itself_puts_back_what_an_interrupted_relocation_left_aside():
    disk, store = shelf("a.png")
    crashing = FolderStore(ROOT, files=TappedFiles(disk, crash_at(9)))
    with pytest.raises(Crash):
        crashing.relocate(moves(("a.png", "b.png")))
    assert store.missing(["a.png"]) == ["a.png"]
    assert store.relocate(moves(("a.png", "a.png"))) == ["k-a.png"]
    assert shown(disk) == {"a.png": "a.png"}
    assert len(disk.tree()) == 3


NAMES = [f"{folder}{name}.png" for folder in ("", "x/", "x/y/") for name in "abc"]


@given(
    st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=6),
    st.permutations(NAMES),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 2**32)), max_size=3),
)
def test_any_moves_crashed_any_number_of_times_end_where_they_should(olds, news, crashes):
    """Whatever moves where and however often it dies with whatever loss, the last run sets it right."""
    pairs = list(zip(olds, news, strict=False))
    disk, _ = shelf(*olds)
    for number, seed in crashes:
        try:
            FolderStore(ROOT, files=TappedFiles(disk, crash_at(number))).relocate(moves(*pairs))
        except Crash:
            disk = disk.after(random_loss(seed))
    assert FolderStore(ROOT, files=disk).relocate(moves(*pairs)) == [f"k-{old}" for old in olds]
    assert shown(disk) == {new: old for old, new in pairs}
    assert not [path for path in disk.tree() if "moving" in path]


def test_a_failing_disk_while_moving_is_a_local_failure(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a.png")
    (tmp_path / "a.json").write_bytes(dump(sidecar(b"a.png", "a.png", key="k-a.png")))
    broken = FolderStore(tmp_path, files=TappedFiles(RealFiles(), fail_at(2, errno.EIO)))
    with pytest.raises(LocalFailureError, match="the disk says no"):
        broken.relocate(moves(("a.png", "b.png")))
    assert FolderStore(tmp_path).relocate(moves(("a.png", "b.png"))) == ["k-a.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"b.png", "b.json"}


# ---- superseded


def test_a_superseded_picture_has_its_key_in_its_name_and_says_so_again():
    disk, store = shelf("x/a.png")
    key = "k1-0123456789abcdef"
    put(disk, "x/a.png", key=key)
    for _ in range(2):
        assert store.supersede(key, "x/a.png") == "x/superseded/a.456789abcdef.png"
    files = disk.tree()
    assert files["/out/x/superseded/a.456789abcdef.png"] == b"x/a.png"
    there = load(files["/out/x/superseded/a.456789abcdef.json"])
    assert there is not None
    assert (there.key, there.file) == (key, "a.456789abcdef.png")
    assert len(files) == 3


def test_superseding_without_a_sidecar_moves_the_picture_alone():
    disk, store = shelf()
    disk.put(ROOT / "a.png", b"bare")
    assert store.supersede("k1-0123456789abcdef", "a.png") == "superseded/a.456789abcdef.png"
    assert disk.tree()["/out/superseded/a.456789abcdef.png"] == b"bare"
    assert "/out/a.png" not in disk.tree()


# ---- foreign


def foreign(stems: list[str], ours: set[str], *files: str) -> list[str]:
    disk, store = shelf()
    for file in files:
        disk.put(ROOT / file, b"")
    return store.foreign(stems, ours)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], []),
        (["a/poster.png"], ["a/poster.png"]),
        (["a/poster.txt", "a/poster.json", "a/poster"], ["a/poster", "a/poster.json", "a/poster.txt"]),
        (["a/POSTER.Png"], ["a/POSTER.Png"]),
        (["a/stra\u00dfe.png"], ["a/stra\u00dfe.png"]),
        (["a/cafe\u0301.png"], ["a/cafe\u0301.png"]),
        (["a/poster.final.png", "a/poster-2.png", "b/poster.png", "poster.png"], []),
        (["a"], ["a"]),
    ],
    ids=["empty", "picture", "any extension", "case", "folded", "decomposed", "other stems", "file for a folder"],
)
def test_foreign_files_are_found_in_any_case_and_with_any_extension(files, expected):
    assert foreign(["a/poster", "a/STRASSE", "a/caf\u00e9"], set(), *files) == expected


def test_known_pictures_and_their_sidecars_are_not_foreign():
    ours = {"a/poster.png", "a/b.v2.jpg"}
    files = ["a/poster.png", "a/poster.json", "a/b.v2.jpg", "a/b.v2.json", "a/poster.webp"]
    assert foreign(["a/poster", "a/b.v2"], ours, *files) == ["a/poster.webp"]


def test_what_a_sidecar_and_the_count_of_bytes_say_was_bought_is_told_from_strangers():
    disk, store = shelf("a/bought.png", "a/cut.png", "a/gone.png", "a/other.png")
    disk.put(ROOT / "a/cut.png", b"a/c")
    disk.unlink(ROOT / "a/gone.png")
    disk.put(ROOT / "a/other.webp", b"a/other.png")
    disk.put(ROOT / "a/bare.png", b"")
    files = ["a/bought.png", "a/bought.json", "a/cut.png", "a/gone.json", "a/other.webp", "a/bare.png", "a"]
    (found,) = store.bought(files)
    assert (found.path, found.beside, found.sidecar.key) == ("a/bought.png", "a/bought.json", "k-a/bought.png")


def test_folders_of_a_stem_are_no_obstacle(tmp_path):
    (tmp_path / "poster").mkdir()
    assert FolderStore(tmp_path).foreign(["poster", "poster/x"], ()) == []
    (tmp_path / "link").symlink_to("poster")
    assert FolderStore(tmp_path).foreign(["link/x"], ()) == []


def test_of_what_is_in_the_way_of_a_folder_the_nearest_is_told_once(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").symlink_to("../a")
    (tmp_path / "b" / "nowhere").symlink_to("absent")
    stems = ["a/x/1", "a/y/2", "b/c/d/3", "b/c/4", "b/nowhere/5", "b/absent/6"]
    assert FolderStore(tmp_path).foreign(stems, ()) == ["a", "b/c"]


def test_looking_changes_nothing(tmp_path):
    store = FolderStore(tmp_path / "absent")
    assert store.foreign(["a/b"], ()) == []
    assert store.missing(["a/b.png"]) == ["a/b.png"]
    assert not (tmp_path / "absent").exists()
