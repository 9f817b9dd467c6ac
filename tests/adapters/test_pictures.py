"""Whole pictures pass, everything else is caught, and the pixels are those that were paid for."""

import base64
import io
import json
import random
from pathlib import Path

import pytest
from PIL import Image

from runner.adapters import pictures
from runner.adapters.pictures import BrokenPictureError, as_asked, judge, walk
from runner.core.catalog import builtin
from tests.adapters.storage_samples import picture, task

RECORDED = Path(__file__).parents[3] / "shared" / "recorded" / "responses"

VARIANTS = {
    "png": picture("PNG", (40, 30)),
    "jpeg": picture("JPEG", (40, 30)),
    "progressive": picture("JPEG", (40, 30), progressive=True),
    "restarts": picture("JPEG", (200, 150), restart_marker_blocks=3),
    "webp": picture("WEBP", (40, 30)),
    "webp lossless": picture("WEBP", (40, 30), lossless=True),
    "webp extended": picture("WEBP", (40, 30), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    "gif": picture("GIF", (40, 30)),
}


def broken(data: bytes) -> str:
    with pytest.raises(BrokenPictureError) as caught:
        walk(bytearray(data))
    return str(caught.value)


def whole(data: bytes) -> bool:
    try:
        walk(bytearray(data))
    except BrokenPictureError:
        return False
    return True


def recorded() -> list[tuple[str, bytes]]:
    """Every real picture in the recorded answers."""
    return [
        (file.name, base64.b64decode(part["inlineData"]["data"]))
        for file in sorted(RECORDED.glob("*.json"))
        for candidate in json.loads(file.read_text("utf-8")).get("candidates", [])
        for part in candidate.get("content", {}).get("parts", [])
        if "inlineData" in part
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_whole_picture_has_the_size_its_header_says(name):
    size = (200, 150) if name == "restarts" else (40, 30)
    assert walk(bytearray(VARIANTS[name])) == size


@pytest.mark.parametrize("name", VARIANTS)
def test_every_single_truncation_is_caught(name):
    data = VARIANTS[name]
    assert [end for end in range(len(data)) if whole(data[:end])] == []


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded answers are not beside this repository")
def test_recorded_pictures_are_whole_and_what_was_asked():
    seen = recorded()
    assert len(seen) >= 2
    for name, data in seen:
        asked = task(pixels=(1024, 1024))
        verdict = judge(bytearray(data), asked, decode=True)
        assert (verdict.reason, verdict.width, verdict.height) == ("", 1024, 1024), name
        cuts = random.Random(1).sample(range(len(data)), 200)
        assert [cut for cut in cuts if whole(data[:cut])] == [], name


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_of_a_png_are_caught(seed):
    """Every byte of a PNG is in its signature, a length, or under a checksum."""
    dice, data = random.Random(seed), VARIANTS["png"]
    for _ in range(500):
        flipped = bytearray(data)
        flipped[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        assert not whole(bytes(flipped))


def test_a_hole_in_a_png_or_between_restart_markers_is_caught():
    data = VARIANTS["png"]
    assert not whole(data[:100] + data[164:])
    data = VARIANTS["restarts"]
    third = data.index(b"\xff\xd2")
    fourth = data.index(b"\xff\xd3", third)
    assert "out of order" in broken(data[:third] + data[fourth:])


def test_bytes_after_the_end_are_fine_for_jpeg_only():
    """Other pictures and provenance marks are appended to JPEG; two glued PNG are two answers."""
    for name, data in VARIANTS.items():
        assert whole(data + b"tail") == (name in {"jpeg", "progressive", "restarts"}), name


def test_provenance_segments_of_any_size_and_thumbnails_are_walked_over():
    """An APP11 segment may hold anything, markers of a picture's end included."""
    data = VARIANTS["jpeg"]
    blob = (b"\xff\xd9\xff\xd8\xff\xda" * 11_000)[:65_533]
    segment = b"\xff\xeb" + (len(blob) + 2).to_bytes(2, "big") + blob
    marked = data[:2] + segment * 3 + b"\xff\xff\xff" + data[2:]
    assert walk(bytearray(marked)) == (40, 30)
    assert not whole(marked[:100_000])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"<html>", "begins with 3c 68 74 6d 6c 3e"),
        (b"\xff\xd8\xff\xd9", "without picture data"),
        (b"\xff\xd8\xff\xd8\xff\xd9", "out of place"),
        (b"\xff\xd8\xff\xc0\x00\x01", "cut off"),
        (b"\xff\xd8\xff\xda\x00\x02\xff\xd9", "empty scan"),
        (b"\xff\xd8\xff\xda\x00\x02\x01\xff\xd9", "0x0"),
        (b"GIF89a" + bytes(7) + b"\x3b", "without picture data"),
        (b"GIF89a" + bytes(7) + b"\x00", "unknown"),
        (b"RIFF\x04\x00\x00\x00WEBP", "without picture data"),
        (VARIANTS["webp lossless"].replace(b"VP8L", b"VP8 "), "key frame"),
        (VARIANTS["webp"].replace(b"VP8 ", b"VP8L"), "signature"),
        (VARIANTS["png"][:8] + VARIANTS["png"][33:], "out of place"),
        (VARIANTS["png"][:33] + VARIANTS["png"][-12:], "without picture data"),
    ],
)
def test_what_is_no_picture_says_why(data, words):
    assert words in broken(data)


def test_a_walk_of_any_damage_ends_in_a_verdict():
    """Damage never raises anything but its own error."""
    dice = random.Random(7)
    for data in VARIANTS.values():
        for _ in range(300):
            damaged = bytearray(data)
            for _ in range(dice.randrange(1, 6)):
                damaged[dice.randrange(len(data))] = dice.randrange(256)
            whole(bytes(damaged))


# ---- pixels


def test_every_entry_of_the_catalog_is_itself_and_no_other():
    """Within a model no size and no aspect passes for another one."""
    for model in builtin().models.values():
        for (size, aspect), pixels in model.pixels.items():
            asked = task(size=size, aspect=aspect, pixels=pixels)
            fits = {cell for cell, got in model.pixels.items() if as_asked(asked, *got)}
            assert fits == {(size, aspect)}, model.id


def test_the_labels_alone_fit_every_entry_of_the_catalog():
    for model in builtin().models.values():
        for (size, aspect), pixels in model.pixels.items():
            assert as_asked(task(size=size, aspect=aspect, pixels=None), *pixels), (model.id, size, aspect)


@pytest.mark.parametrize(
    ("size", "aspect", "pixels", "got", "fits"),
    [
        ("1K", "16:9", (1376, 768), (1408, 768), True),  # recorded: 3 Pro
        ("1K", "1:8", (384, 3072), (352, 2928), True),  # recorded: 3.1 Flash Lite
        ("1K", "16:9", None, (1408, 768), True),
        ("1K", "1:8", None, (352, 2928), True),
        ("1K", "16:9", (1376, 768), (1024, 1024), False),
        ("4K", "16:9", (5504, 3072), (1376, 768), False),
        ("4K", "16:9", (5504, 3072), (2752, 1536), False),
        ("512", "1:1", (512, 512), (1024, 1024), False),
        ("512", "1:1", None, (1024, 1024), False),
        ("0.5K", "1:1", None, (512, 512), True),
        ("1K", "9:16", None, (1376, 768), False),
        ("1K", "16:9", (1376, 768), (768, 1376), False),
        ("huge", "free", None, (1, 1_000), True),
        ("huge", "16:9", None, (160, 90), True),
        ("1K", "auto", None, (100, 100), False),
        ("2K", "1:1", (2048, 2048), (1449, 1449), True),
        ("2K", "1:1", (2048, 2048), (1448, 1448), False),
        ("0", "0:0", None, (7, 5), True),
    ],
)
def test_pixels_are_judged_by_ratio_and_area(size, aspect, pixels, got, fits):
    assert as_asked(task(size=size, aspect=aspect, pixels=pixels), *got) is fits


def test_a_size_that_was_not_sent_is_not_judged():
    assert as_asked(task(size="1K", aspect="1:1", pixels=None, send_size=False), 64, 64)


def test_the_largest_picture_of_the_catalog_decodes_and_a_bomb_does_not():
    largest = max(width * height for model in builtin().models.values() for width, height in model.pixels.values())
    assert largest < pictures._DECODABLE_PIXELS < (Image.MAX_IMAGE_PIXELS or 0)
    stream = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(stream, "PNG")
    verdict = judge(bytearray(stream.getvalue()), task(size="huge", pixels=None), decode=True)
    assert (verdict.reason, verdict.detail) == ("broken_image", "81000000 pixels are too many to decode")
