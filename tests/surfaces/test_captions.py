"""The contact sheet's captions in scripts that Pillow's own font lacks."""

import json
import shutil
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from PIL import Image

from runner.app.gallery import lettering
from runner.app.gallery.lettering import Face, Lettering, draw, remedies, width_of

CAT = Path(__file__).parents[1] / "gallery" / "cat.ttf"
"""Seven shapes for 猫のポスター, and nothing else."""
POSTER = "猫のポスター"
PROMPTS = f"[{{id: {POSTER}, text: a cat}}, {{id: plain, text: a dog}}]"
WITH, WITHOUT = "fontconfig", "its own eyes"


@pytest.fixture(params=[WITH, WITHOUT])
def fonts(request, tmp_path, monkeypatch):
    """A machine whose only fonts are in a folder, found by fontconfig or without it."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    if request.param == WITH:
        if shutil.which("fc-match") is None:
            pytest.skip("no fc-match on the path: apt-get install fontconfig")
        places = f"<dir>{escape(str(folder))}</dir><cachedir>{escape(str(tmp_path / 'cache'))}</cachedir>"
        (tmp_path / "fonts.conf").write_text(f"<fontconfig>{places}</fontconfig>")
        monkeypatch.setenv("FONTCONFIG_FILE", str(tmp_path / "fonts.conf"))
    else:
        monkeypatch.setattr(lettering, "which", lambda _: None)
        monkeypatch.setattr(lettering, "FOLDERS", (str(folder),))
    return folder


@pytest.fixture
def sheet(live, manifest):
    """Write the contact sheet of a cat with that name; what was said, the answer, and the ink of its caption."""
    assert live("run", manifest(prompts=PROMPTS)).code == 0

    def write():
        said = live("gallery", "j", "--contact-sheet", "sheet.png", "--json")
        assert said.code == 0
        with Image.open("sheet.png") as image:
            below = image.convert("L").crop((32, 416 + 1, 32 + 320, 416 + 34))
        return said.err, json.loads(said.out), sum(below.histogram()[:200])

    return write


def test_an_installed_font_is_found(sheet, fonts):
    shutil.copy(CAT, fonts)
    err, answer, ink = sheet()
    assert (err, answer["undrawn"]) == ("", "")
    assert ink > 200


def test_what_no_font_has_is_said_with_a_remedy(sheet, fonts):
    err, answer, _ = sheet()
    assert answer["undrawn"] == "".join(sorted(set(POSTER)))
    [line] = err.splitlines()
    assert "no font of this machine has のスタポー猫, left out of the captions" in line
    assert "install one, such as fonts-noto-cjk, and write it again" in line


def test_fonts_that_are_none_or_have_a_box_for_everything_are_passed_over(sheet, fonts):
    (fonts / "Arial Unicode.ttf").write_bytes(b"no font")
    shutil.copy(CAT, fonts / "LastResort.otf")
    assert sheet()[1]["undrawn"]


def test_a_line_is_written_in_as_few_fonts_as_it_takes(fonts):
    shutil.copy(CAT, fonts)
    found = Lettering()
    cat = Face(str(fonts / "cat.ttf"))
    assert found.fitted("plain", 20, 500) == [(Face(), "plain")]
    assert found.fitted(POSTER, 20, 500) == [(cat, POSTER)]
    assert found.fitted(f"{POSTER}\n 1K\u200f", 20, 500) == [(cat, POSTER), (Face(), " 1K")]
    assert found.fitted("𓀀 1K", 20, 500) == [(Face(), "1K")]
    assert found.undrawn == {"𓀀"}


@pytest.mark.parametrize("text", ["w" * 300, POSTER * 9, "w猫" * 20, "", "…", "\u0301"])
def test_a_line_that_is_too_long_ends_in_dots(fonts, text):
    shutil.copy(CAT, fonts)
    runs = Lettering().fitted(text, 20, 100)
    assert width_of(runs, 20) <= 100
    assert (len(text) < 10) or "".join(words for _, words in runs).endswith("…")
    draw(Image.new("RGB", (100, 30)), (0, 0), runs, 20, "#000")


def test_letters_from_the_right_need_one_who_joins_them(fonts, monkeypatch):
    shutil.copy("/dev/null", fonts / "empty.ttf")
    monkeypatch.setattr(lettering, "SHAPED", False)
    assert not Face().covers("ع")
    assert remedies("ع") == ["libfribidi0"]
    assert remedies("猫한य😀𓀀") == ["fonts-noto-cjk", "fonts-noto-color-emoji", "fonts-noto-core"]
