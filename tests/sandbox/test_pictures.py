"""Pictures: the documented pixels, sound files, next to no cost."""

import base64
import io
import time

import pytest
from PIL import Image

from runner.core.catalog import builtin
from runner.sandbox.picture import Drawing, broken_inside, broken_off, encode
from tests.sandbox.wire import asking, pictures, serving, walk

PIXELS = sorted({pixels for model in builtin().models.values() for pixels in model.pixels.values()})
TEXT = "Generate a 1K banana-themed minimalist poster in bright yellow and white"


def drawing(width: int, height: int, text: str = TEXT, note: str = "first") -> Drawing:
    return Drawing(width, height, text, 0.15, note)


@pytest.mark.parametrize("form", ["jpeg", "png"])
@pytest.mark.parametrize("pixels", PIXELS, ids="{0[0]}x{0[1]}".format)
def test_every_shape_of_the_catalog(pixels, form):
    """Sound to the last byte and of exactly these pixels."""
    data = encode(drawing(*pixels), form)
    assert walk(data) == form
    with Image.open(io.BytesIO(data)) as image:
        assert (image.size, image.format) == (pixels, form.upper())


@pytest.mark.parametrize("form", ["jpeg", "png"])
@pytest.mark.parametrize("pixels", [(1024, 1024), (12288, 1536), (384, 688), (17, 33), (1, 1)])
def test_every_pixel_decodes(pixels, form):
    """Also where the last rows and columns of blocks are cut; the shades run from light above to dark below."""
    with Image.open(io.BytesIO(encode(drawing(*pixels), form))) as image:
        image.load()
        grey = image.convert("L").tobytes()
    if pixels[1] > 100:
        assert grey[0] > grey[-1] + 50


def test_both_forms_show_the_same_picture():
    first, second = (
        Image.open(io.BytesIO(encode(drawing(600, 448), form))).convert("L").resize((60, 45))
        for form in ("jpeg", "png")
    )
    assert max(abs(a - b) for a, b in zip(first.tobytes(), second.tobytes(), strict=True)) < 40


def test_the_prompt_is_drawn():
    """Other words are other pixels; a text far too long, or letters the font has not, do no harm."""
    shown = {
        text: Image.open(io.BytesIO(encode(drawing(512, 512, text), "png"))).convert("L").tobytes()
        for text in ("a cat", "a dog", "", "word " * 5000, "猫 🍌 \x00\n\t", "x" * 4000)
    }
    assert len(set(shown.values())) == len(shown)


def test_notes_make_the_bytes_differ():
    for form in ("jpeg", "png"):
        assert encode(drawing(64, 64), form) != encode(drawing(64, 64, note="second"), form)


@pytest.mark.parametrize("form", ["jpeg", "png"])
@pytest.mark.parametrize("harm", [broken_inside, broken_off])
def test_damage_shows_in_the_structure(form, harm):
    with pytest.raises((AssertionError, IndexError)):
        walk(harm(encode(drawing(512, 512), form)))


@pytest.mark.parametrize("form", ["jpeg", "png"])
@pytest.mark.parametrize("size", ["512", "1K", "2K", "4K"])
def test_what_was_asked_for_comes_over_the_wire(tmp_path, form, size):
    with serving(tmp_path, image=form) as sandbox:
        answer = sandbox.post(asking(TEXT, imageConfig={"imageSize": size, "aspectRatio": "21:9"})).json
    (blob,) = pictures(answer)
    assert blob["mimeType"] == f"image/{form}"
    expected = builtin().models["gemini-3.1-flash-image-preview"].pixels[size, "21:9"]
    assert Image.open(io.BytesIO(base64.b64decode(blob["data"]))).size == expected


def test_cost_of_the_largest(capsys):
    """Printed, not judged: CPU time of a machine under test says little."""
    with capsys.disabled():
        for width, height in ((1024, 1024), (4096, 4096), (8192, 2048), (1536, 12288)):
            for form in ("jpeg", "png"):
                start = time.process_time()
                size = len(encode(drawing(width, height), form))
                cost_ms = (time.process_time() - start) * 1000
                print(f"\n{form} {width}x{height}: {cost_ms:.1f} ms of CPU, {size:,} bytes", end="")  # noqa: T201
