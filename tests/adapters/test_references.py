"""References as they lie on the disk: what is taken for a picture, what is refused and in which words."""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runner.adapters.references import BadReferenceError, by_uri, expand, inspect, is_uri
from runner.core.reference import Reference
from tests.adapters.storage_samples import picture


def box(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def heif(major: bytes = b"heic", *compatible: bytes, rest: bytes | None = None) -> bytes:
    head = box(b"ftyp", major + bytes(4) + b"".join(compatible))
    return head + (box(b"meta", bytes(40)) + box(b"mdat", b"picture") if rest is None else rest)


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:], duration=50)
    return stream.getvalue()


def huge_png() -> bytes:
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)), (b"IDAT", b"x"), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (picture("PNG"), "image/png"),
        (picture("JPEG"), "image/jpeg"),
        (picture("WEBP"), "image/webp"),
        (picture("PNG") + b"trailing", "image/png"),
        (heif(), "image/heic"),
        (heif(b"heix", b"mif1"), "image/heic"),
        (heif(b"mif1", b"heic"), "image/heif"),
        (
            heif(rest=struct.pack(">I4sQ", 1, b"meta", 20) + b"1234" + struct.pack(">I4s", 0, b"mdat")),
            "image/heic",
        ),
    ],
)
def test_a_picture_is_what_its_bytes_say_and_carries_their_hash(data: bytes, mime: str, tmp_path: Path) -> None:
    path = tmp_path / "logo.gif"
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    assert inspect(path, "brand/logo.gif") == Reference("brand/logo.gif", mime, sha256, len(data))


BAD: list[tuple[bytes, str]] = [
    (b"", "reference r is empty"),
    (picture("GIF"), "reference r is GIF, which the model does not take; convert it to PNG"),
    (picture("BMP"), "reference r is BMP, which the model does not take; convert it to PNG"),
    (picture("TIFF"), "reference r is TIFF, which the model does not take; convert it to PNG"),
    (picture("AVIF"), "reference r is AVIF, which the model does not take; convert it to PNG"),
    (heif(b"mif1", b"avif"), "reference r is AVIF, which the model does not take; convert it to PNG"),
    (b"<svg xmlns='x'/>", "reference r is SVG, which the model does not take; convert it to PNG"),
    (
        b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<svg>",
        "reference r is SVG, which the model does not take; convert it to PNG",
    ),
    (b"%PDF-1.7", "reference r is PDF, which the model does not take; convert it to PNG"),
    (b"hello world", "reference r is no PNG, JPEG, WebP, HEIC or HEIF: it begins with 68 65 6c 6c 6f 20 77 6f"),
    (heif(b"mp42"), "reference r is no PNG, JPEG, WebP, HEIC or HEIF: it begins with 00 00 00 10 66 74 79 70"),
    (heif(b"hevc"), "reference r is a sequence of pictures; save one of them as PNG"),
    (animated("PNG"), "reference r is animated; save one frame of it as PNG"),
    (animated("WEBP"), "reference r is animated; save one frame of it as PNG"),
    (huge_png(), "reference r has 10000x10000 pixels; at most 89 megapixels: scale it down"),
    (heif()[:-3], "reference r is cut off: box 'mdat' at byte 64 has 15 bytes of 12"),
    (heif() + b"abc", "reference r is cut off at byte 82"),
    (heif(rest=box(b"mdat")), "reference r does not decode: it holds no picture"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_what_is_no_picture_for_the_model_is_refused_with_advice(
    data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.png"
    path.write_bytes(data)
    with pytest.raises(BadReferenceError) as caught:
        inspect(path, "r")
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_picture_that_is_cut_does_not_decode(kind: str, share: float, tmp_path: Path) -> None:
    path, data = tmp_path / "r", picture(kind)
    path.write_bytes(data[: max(12, int(len(data) * share))])
    with pytest.raises(BadReferenceError, match="reference r does not decode: "):
        inspect(path, "r")


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", heif(), heif()[:24]]))
def test_whatever_lies_there_is_one_message(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "whatever"
    path.write_bytes(start + data)
    said = ""
    try:
        inspect(path, "r")
    except BadReferenceError as error:
        said = str(error)
    assert said.isprintable()


def test_what_is_no_file_is_said_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "secret").touch(mode=0)
    (tmp_path / "loop").symlink_to("loop")
    said = {}
    for name in ("missing", "~/a.png", "pipe", ".", "loop", "nul\0", "x" * 300):
        with pytest.raises(BadReferenceError) as caught:
            inspect(tmp_path / name, name)
        said[name] = str(caught.value).replace(name, "")
    assert said == {
        "missing": "reference  is not there",
        "~/a.png": "reference  is not there; ~ is not expanded",
        "pipe": "reference  cannot be read: it is not a regular file",
        ".": "reference  cannot be read: it is a folder",
        "loop": "reference  cannot be read: Too many levels of symbolic links",
        "nul\0": "reference nul cannot be read: embedded null byte",
        "x" * 300: f"reference {'x' * 199}… cannot be read: File name too long",
    }


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(BadReferenceError, match="has 200 MB; at most 105 MB: scale it down"):
        inspect(path, "big")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    base = tmp_path / "jobs"
    for name in ("brand/b.png", "brand/a.png", "brand/deep/c.png", "brand/.hidden.png", "brand/[x].png", "x.png"):
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (base / "brand/folder.png").mkdir()
    (tmp_path / "outside.png").touch()
    return base


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("brand/a.png", ["brand/a.png"]),
        ("./brand/a.png", ["./brand/a.png"]),
        ("brand/none.png", ["brand/none.png"]),
        ("brand/*.png", ["brand/[x].png", "brand/a.png", "brand/b.png"]),
        ("brand/?.png", ["brand/a.png", "brand/b.png"]),
        ("brand/[ab].png", ["brand/a.png", "brand/b.png"]),
        ("brand/[x].png", ["brand/[x].png"]),
        ("**/*.png", ["brand/[x].png", "brand/a.png", "brand/b.png", "brand/deep/c.png", "x.png"]),
        ("brand/**", ["brand/[x].png", "brand/a.png", "brand/b.png", "brand/deep/c.png"]),
        ("../*.png", ["../outside.png"]),
    ],
)
def test_a_pattern_names_files_in_order(folder: Path, pattern: str, names: list[str]) -> None:
    assert expand(pattern, folder) == [(name, folder / name) for name in names]


def test_an_absolute_pattern_keeps_absolute_names(folder: Path, tmp_path: Path) -> None:
    assert expand(f"{folder}/brand/?.png", tmp_path) == [
        (str(folder / name), folder / name) for name in ("brand/a.png", "brand/b.png")
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "a reference is empty; expected a path, a glob or an address"),
        ("brand/*.jpg", "no file matches brand/*.jpg"),
        ("brand/fold*", "no file matches brand/fold*"),
    ],
)
def test_a_glob_that_matches_nothing_is_an_error(folder: Path, pattern: str, message: str) -> None:
    with pytest.raises(BadReferenceError) as caught:
        expand(pattern, folder)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "mime"),
    [
        ("https://generativelanguage.googleapis.com/v1beta/files/k3x9q0a7b2cd", ""),
        ("https://cdn.example/a/LOGO.JPG?Expires=1&Signature=x", "image/jpeg"),
        ("files/k3x9q0a7b2cd", ""),
    ],
)
def test_an_address_is_kept_as_it_is(text: str, mime: str) -> None:
    assert is_uri(text)
    assert by_uri(text) == Reference(text, mime, "", 0, text)
    assert by_uri(text).identity == text


@pytest.mark.parametrize(
    "text", ["files/logo.png", "./files/abc", "files/ABC", "a.png", "C:/a.png", "files/a/b", "https"]
)
def test_a_path_is_no_address(text: str) -> None:
    assert not is_uri(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://h.example/a.png", "the service fetches no reference of the form http://…: write https://"),
        (
            "gs://bucket/s3cret.png",
            "the service fetches no reference of the form gs://…: name a file, or an https:// address",
        ),
        (
            "data:image/png;base64,s3cret",
            "the service fetches no reference of the form data:…: name a file, or an https:// address",
        ),
        (
            "https://u:s3cret@h.example/a.png",
            "the reference at h.example must not carry a user name, a key or a fragment: the ledger keeps it",
        ),
        (
            "https://h.example/a.png?key=s3cret",
            "the reference at h.example must not carry a user name, a key or a fragment: the ledger keeps it",
        ),
        ("https://[s3cret", "the address of a reference cannot be read; expected https://host/path"),
        ("https://h/a b", "the address of a reference cannot be read; expected https://host/path"),
    ],
)
def test_an_address_that_cannot_be_fetched_or_holds_a_secret_is_refused(text: str, message: str) -> None:
    assert is_uri(text)
    with pytest.raises(BadReferenceError) as caught:
        by_uri(text)
    assert str(caught.value) == message
