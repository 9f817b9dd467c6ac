"""`gallery`: what is written, what is kept, what is refused. How it looks is in `tests.gallery`."""

import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PdfParser import PdfParser

from tests.gallery.hostile import JOB, TEXTS, write_hostile

PAGE = Path(__file__).parents[2] / "runner" / "app" / "gallery" / "page"
FAST = ("--rpm", 100_000)
FAULTY = "image_safety=0.3,wrong_pixels=0.3,overrun=0,details_missing=0"


def data_of(folder: Path) -> dict[str, Any]:
    """What the page loads, read as the JSON that it is."""
    text = (folder / "data.js").read_text(encoding="ascii")
    found = re.fullmatch(r'"use strict";\nvar GALLERY = (.*);\n', text)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def gallery(command, *words):
    """The answer of `gallery`, and the folder that it wrote."""
    answer = json.loads(command("gallery", *words, "--json").out)
    assert answer["exit_code"] == 0
    return answer, Path(answer["gallery"]).parent


def by_state(data):
    states: dict[str, list[dict[str, Any]]] = {}
    for task in data["tasks"]:
        states.setdefault(task["state"], []).append(task)
    return states


@pytest.fixture
def finished(live, manifest, home):
    """A job of two pictures."""
    assert live("run", manifest()).code == 0
    return home


def test_a_folder_that_needs_nothing_else(live, finished):
    answer, folder = gallery(live, "j")
    assert folder == finished / "renders" / "gallery" / "j"
    assert answer["thumbnails"] == {"made": 2, "kept": 0, "broken": []}
    assert (answer["tasks"], answer["pictures"], answer["missing"]) == (2, 2, [])
    data = data_of(folder)
    for task in data["tasks"]:
        assert (folder / data["root"] / task["path"]).is_file()
        with Image.open(folder / "thumbnails" / task["thumbnail"]) as small:
            assert (small.format, max(small.size)) == ("WEBP", 384)
    written = {one.name for one in folder.iterdir()}
    assert written == {one.name for one in PAGE.iterdir()} | {
        "data.js",
        "newest.js",
        "thumbnails",
        ".bulkrender-gallery",
    }


def test_what_is_known_of_a_picture_is_in_it(live, finished):
    _, folder = gallery(live, "j")
    data = data_of(folder)
    rows = [json.loads(line) for line in live("export", "j").out.splitlines()]
    for task, row in zip(data["tasks"], rows, strict=True):
        assert data["prompts"][task["prompt"]] == row["prompt"]
        assert f"{task['cost_nanos'] / 10**9:.9f}".rstrip("0") == row["cost_usd"]
        assert {name: task[name] for name in ("key", "path", "sha256", "width", "height", "response_id")} == {
            name: row[name] for name in ("key", "path", "sha256", "width", "height", "response_id")
        }
        values = {
            axis["name"]: axis["values"][at] for axis, at in zip(data["axes"], task["at"], strict=True) if at >= 0
        }
        assert values["prompt"] == row["prompt_id"]
        assert values["size"] == "512"
        [attempt] = task["attempts"]
        assert attempt["cost_nanos"] == task["cost_nanos"]
        assert data["settings"][task["settings"]]["thinking"] == "minimal"


def test_thumbnails_are_made_once_and_anew_for_another_picture(live, finished, manifest):
    _, folder = gallery(live, "j")
    before = {one.name: one.stat().st_mtime_ns for one in (folder / "thumbnails").iterdir()}
    (folder / "thumbnails" / f".{'0' * 64}.webp.part").write_bytes(b"cut off")
    assert live("run", manifest(prompts="[{id: a, text: a cat}, {id: b, text: a bird}]")).code == 0
    answer, _ = gallery(live, "j")
    assert answer["thumbnails"] == {"made": 1, "kept": 1, "broken": []}
    after = {one.name: one.stat().st_mtime_ns for one in (folder / "thumbnails").iterdir()}
    assert len(after) == 2
    assert len(before.items() & after.items()) == 1


def test_later_runs_do_not_stumble_over_it(live, finished, manifest):
    gallery(live, "j")
    answer = json.loads(live("run", manifest("variants: 2"), "--json").out)
    assert (answer["exit_code"], answer["tasks"]["succeeded"]) == (0, 4)
    assert live("prune", "j", "--yes").code == 0
    assert "4 done" in live("plan", manifest("variants: 2")).out


def test_a_job_that_is_called_gallery_has_one_too(live, finished, home):
    gallery(live, "j")
    Path("g.yaml").write_text(
        "job: gallery\nmodel: gemini-3.1-flash-image-preview\n"
        "prompts: [{id: j, text: a fish}]\nmatrix: {size: 512}\noutput: '{job}/{prompt}/index.{ext}'\n"
    )
    refused = live("run", "g.yaml")
    assert refused.code == 2
    assert "pictures of job gallery go: gallery/j/index.html" in refused.err
    Path("g.yaml").write_text(Path("g.yaml").read_text().replace("/index.", "/{size}."))
    assert live("run", "g.yaml").code == 0
    assert gallery(live, "gallery")[0]["pictures"] == 1
    assert gallery(live, "j")[0]["pictures"] == 2
    assert live("run", "g.yaml").code == 0


def test_another_folder_and_the_way_back_from_it(live, finished, tmp_path):
    _, folder = gallery(live, "j", "--to", tmp_path / "deep" / "er")
    data = data_of(folder)
    assert not Path(data["root"]).is_absolute()
    assert all((folder / data["root"] / task["path"]).is_file() for task in data["tasks"])
    assert not (finished / "renders" / "gallery").exists()


def test_a_folder_of_pictures_that_was_moved(live, finished):
    Path("renders").rename("elsewhere")
    answer, folder = gallery(live, "j", "--output", "elsewhere")
    assert folder == finished / "elsewhere" / "gallery" / "j"
    assert answer["missing"] == []


def test_nothing_of_others_is_overwritten(live, finished, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    refused = live("gallery", "j", "--to", tmp_path)
    assert refused.code == 2
    assert "holds files that are no gallery's; name an empty folder with --to DIR" in refused.err
    assert (tmp_path / "index.html").read_text() == "mine"
    file = live("gallery", "j", "--to", tmp_path / "index.html")
    assert (file.code, "is a file" in file.err) == (2, True)
    _, folder = gallery(live, "j")
    (folder / ".bulkrender-gallery").write_text("k")
    assert "is the gallery of job k; name another folder" in live("gallery", "j").err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(live, finished, tmp_path):
    (tmp_path / "shut").mkdir(mode=0o555)
    refused = live("gallery", "j", "--to", tmp_path / "shut" / "g")
    assert (refused.code, "permission denied" in refused.err) == (2, True)


def test_a_disk_that_is_full(live, finished, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    ended = live("gallery", "j")
    assert (ended.code, "no space left" in ended.err.lower()) == (5, True)


def test_a_job_that_is_not_there(live, finished):
    refused = live("gallery", "k")
    assert (refused.code, "no job 'k' in this ledger; it has: j" in refused.err) == (2, True)
    assert not (finished / "renders" / "gallery").exists()


def test_a_job_that_has_only_begun(live, manifest, home):
    assert live("run", manifest("variants: 20\nbudget: {usd: 0.10}"), *FAST).code == 3
    answer, folder = gallery(live, "j")
    data = data_of(folder)
    states = by_state(data)
    assert len(states["queued"]) + len(states["succeeded"]) == answer["tasks"] == 40
    assert answer["pictures"] == len(states["succeeded"]) > 0
    assert data["halted"] == "budget"
    assert data["cap"]["usd"] == "0.10"


def test_what_was_refused_or_is_not_what_was_ordered_says_why(command, manifest, home):
    text = "variants: 15\nretry: {attempts: 1, refused: 1}"
    assert (
        command("run", manifest(text), "--sandbox", "--sandbox-faults", FAULTY, "--sandbox-latency", 0, *FAST).code
        == 1
    )
    _, folder = gallery(command, "j", "--sandbox")
    states = by_state(data_of(folder))
    assert {task["reason"] for task in states["refused"]} == {"image_safety"}
    assert all("path" not in task for task in states["refused"])
    for task in states["failed"]:
        assert (task["reason"], task["rejected"]) == ("wrong_pixels", True)
        assert "/rejected/" in task["path"]
        assert (folder / "thumbnails" / task["thumbnail"]).is_file()
        assert task["error"]


def test_pictures_that_are_gone_or_broken_are_told(live, finished):
    gone, broken = finished / "renders/j/a/512-1x1-1.jpg", finished / "renders/j/b/512-1x1-1.jpg"
    gone.unlink(missing_ok=False)
    broken.write_bytes(broken.read_bytes()[:100])
    said = live("gallery", "j")
    assert said.code == 0
    assert "not there: j/a/512-1x1-1.jpg" in said.out
    assert f"no whole picture: {broken}" in said.out
    answer, folder = gallery(live, "j")
    assert answer["missing"] == ["j/a/512-1x1-1.jpg"]
    first, second = data_of(folder)["tasks"]
    assert (first["missing"], "thumbnail" in first) == (True, False)
    assert ("missing" in second, "thumbnail" in second) == (False, False)


def test_a_picture_that_is_gone_keeps_its_thumbnail(live, finished):
    gallery(live, "j")
    (finished / "renders/j/a/512-1x1-1.jpg").unlink()
    _, folder = gallery(live, "j")
    task = data_of(folder)["tasks"][0]
    assert task["missing"]
    assert (folder / "thumbnails" / task["thumbnail"]).is_file()


def test_a_path_that_leads_out_of_the_folder_is_not_followed(live, finished):
    with sqlite3.connect("bulkrender.db") as connection:
        connection.execute("UPDATE task SET path = '../../secret.jpg' WHERE prompt_id = 'a'")
    refused = live("gallery", "j")
    assert (refused.code, "is not a path below the output folder" in refused.err) == (2, True)


def test_orphans_are_shown_if_asked(live, finished, manifest):
    assert live("run", manifest(prompts="[{id: a, text: a cat}]")).code == 0
    assert gallery(live, "j")[0]["tasks"] == 1
    answer, folder = gallery(live, "j", "--all")
    assert answer["tasks"] == 2
    assert [task["state"] for task in data_of(folder)["tasks"]] == ["succeeded", "orphaned"]


def test_hostile_texts_are_data_and_stay_what_they_are(command, home):
    assert command("run", write_hostile(home), "--sandbox", "--sandbox-latency", 0, *FAST).code == 0
    _, folder = gallery(command, JOB, "--sandbox")
    raw = (folder / "data.js").read_bytes()
    assert raw.isascii()
    assert not set(b"<>&") & set(raw)
    assert len(raw.splitlines()) == 2
    data = data_of(folder)
    assert data["job"] == JOB
    assert data["prompts"] == list(TEXTS.values())
    assert (folder / "index.html").read_bytes() == (PAGE / "index.html").read_bytes()
    assert folder.parent == home / "renders-sandbox" / "gallery"
    said = command("gallery", JOB, "--sandbox", "--contact-sheet", "h.png")
    assert said.code == 0
    assert JOB in said.out


@pytest.fixture
def going_on(live, manifest, home):
    """A job that has nothing yet, as one that is being run."""
    assert live("run", manifest("budget: {usd: 0.001}")).code == 3
    with sqlite3.connect("bulkrender.db") as connection:
        connection.execute("UPDATE job SET halted = NULL")
    return home


def watched(live, monkeypatch, *turns, words=()):
    """The answer of `gallery --watch`, while each pause does one of these; what the page had at each of them."""
    left, seen = list(turns), []

    def pause(_):
        seen.append(data_of(Path("renders/gallery/j")))
        left.pop(0)()

    monkeypatch.setattr("runner.app.gallery.watching.sleep", pause)
    done = live("gallery", "j", "--watch", "--json", *words)
    assert (done.code, left) == (0, [])
    return json.loads(done.out), seen


def test_a_watched_gallery_is_written_again_until_its_job_is_done(live, manifest, going_on, monkeypatch):
    answer, seen = watched(
        live,
        monkeypatch,
        lambda: None,
        lambda: live("run", manifest("budget: {usd: 1}"), *FAST),
        words=("--contact-sheet", "sheet.png"),
    )
    assert seen[0] == seen[1]  # even when it was made: where nothing moves nothing is written
    assert [one["done"] for one in seen] == [False, False]
    assert (answer["pictures"], answer["contact_sheet"]) == (2, "sheet.png")
    assert answer["thumbnails"] == {"made": 0, "kept": 2, "broken": []}
    last = data_of(Path("renders/gallery/j"))
    assert last["done"]
    assert Path("renders/gallery/j/newest.js").read_text() == f'"use strict";\nvar NEWEST = {last["made_at"]};\n'
    assert Path("sheet.png").is_file()


def test_a_watched_gallery_ends_with_ctrl_c(live, going_on, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    answer, _ = watched(live, monkeypatch, lambda: None, interrupt)
    assert (answer["tasks"], answer["pictures"]) == (2, 0)


def test_a_job_that_has_stopped_or_is_done_is_not_waited_for(live, going_on, manifest, monkeypatch):
    assert live("run", manifest("budget: {usd: 0.001}")).code == 3
    watched(live, monkeypatch)
    assert live("run", manifest("budget: {usd: 1}")).code == 0
    watched(live, monkeypatch)


@pytest.mark.parametrize(("pictures", "pages"), [(2, 1), (40, 2)])
def test_a_contact_sheet(live, manifest, home, pictures, pages):
    assert live("run", manifest(f"variants: {pictures // 2}"), *FAST).code == 0
    answer, _ = gallery(live, "j", "--contact-sheet", "sheet.png")
    assert answer["contact_sheet"] == "sheet.png"
    with Image.open("sheet.png") as sheet:
        assert sheet.format == "PNG"
        colours = sheet.convert("RGB").getcolors(10**6)
        assert colours
        assert len(colours) > 50
    assert live("gallery", "j", "--contact-sheet", "sheet.PDF").code == 0
    with PdfParser("sheet.PDF") as book:
        assert len(book.pages) == pages
    assert not list(Path().glob(".sheet*"))


def test_a_contact_sheet_that_cannot_be(live, manifest, home):
    assert live("run", manifest("budget: {usd: 0.001}")).code == 3
    assert "expected a name that ends in .png or .pdf" in live("gallery", "j", "--contact-sheet", "s.jpg").err
    assert not (home / "renders" / "gallery").exists()
    empty = live("gallery", "j", "--contact-sheet", "s.png")
    assert (empty.code, "the job has no pictures yet" in empty.err) == (2, True)
    assert live("gallery", "j").code == 0


@pytest.mark.parametrize("file", sorted(PAGE.iterdir()), ids=lambda file: file.name)
def test_the_page_makes_no_markup_of_texts_and_names_no_other_place(file):
    text = file.read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|setTimeout\(\"", text
    )
    assert not re.search(r"https?://|//[a-z]+\.[a-z]", text)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon)\b", text)


def test_the_page_loads_what_is_there_and_says_what_it_may():
    text = (PAGE / "index.html").read_text()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert set(loaded) - {"data.js"} == {one.name for one in PAGE.iterdir()} - {"index.html"}
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "style=" not in text
    assert not re.search(r"\son\w+=", text)
