"""Pictures that go with a prompt: inline, as files, by URL; what is taken, counted, followed and written down."""

import base64
import hashlib
import io
import json
import struct

import pytest
from PIL import Image

from runner.core.catalog import builtin
from tests.sandbox.filing import KEY, error, filing
from tests.sandbox.test_requests import rejection, understood, with_parts
from tests.sandbox.wire import MODEL, Json, asking, charged


def picture(form: str, width: int = 8, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, form)
    return file.getvalue()


def heif(width: int, height: int, brand: bytes = b"heic") -> bytes:
    """The head of a HEIF file: its brands, a tile and the whole."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body) + 8) + kind + body

    sizes = [box(b"ispe", struct.pack(">III", 0, *size)) for size in ((width // 2, height // 2), (width, height))]
    properties = box(b"iprp", box(b"ipco", b"".join(sizes)))
    return box(b"ftyp", brand + bytes(4) + b"mif1") + box(b"meta", bytes(4) + properties)


def inline(data: bytes, mime: str) -> Json:
    return {"inlineData": {"mimeType": mime, "data": base64.b64encode(data).decode()}}


TAKEN = [
    (picture("PNG"), "image/png"),
    (picture("JPEG"), "image/jpeg"),
    (picture("WEBP"), "image/webp"),
    (heif(8, 8), "image/heic"),
    (heif(8, 8, b"mif1"), "image/heif"),
]


@pytest.mark.parametrize(("data", "mime"), TAKEN, ids=[mime for _, mime in TAKEN])
def test_pictures_that_are_taken(data, mime):
    (reference,) = understood(with_parts({"text": "x"}, inline(data, mime))).references
    assert (reference.kind, reference.mime, reference.pixels) == ("inline", mime, (8, 8))
    assert reference.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (picture("PNG"), "image/jpeg"),
        (picture("GIF"), "image/png"),
        (picture("PNG", 50, 50)[:-30], "image/png"),
        (picture("JPEG", 500, 500)[:900], "image/jpeg"),
        (heif(0, 0), "image/heic"),
        (heif(8, 8, b"avif").replace(b"mif1", b"miaf"), "image/heic"),
        (b"", "image/png"),
        (b"RIFF\0\0\0\0WEBP", "image/webp"),
    ],
)
def test_pictures_that_are_not(data, mime):
    """Broken, cut short, or of another kind than was declared."""
    found = rejection(with_parts({"text": "x"}, inline(data, mime)))
    assert (found.code, found.message[:30]) == (400, "Unable to process input image.")


@pytest.mark.parametrize("mime", ["image/gif", "image/avif", "application/pdf", ""])
def test_kinds_that_are_not_taken(mime):
    assert rejection(with_parts(inline(picture("PNG"), mime))).message == f"Unsupported MIME type: {mime}"


@pytest.mark.parametrize(
    ("model", "most"),
    [
        (MODEL, 14),
        ("gemini-3.1-flash-image", 14),
        ("gemini-3-pro-image", 14),
        ("gemini-2.5-flash-image", 3),
        ("gemini-nano-banana-2.1", 17),
    ],
)
def test_no_model_takes_more_than_it_is_said_to(model, most):
    """Whatever their kind; a model of which nothing is said takes any number."""
    part, url = inline(picture("PNG"), "image/png"), {"fileData": {"fileUri": "https://example.org/a.png"}}
    assert len(understood(with_parts({"text": "x"}, *[part] * (most - 1), url), model).references) == most
    assert (
        f"{most + 1}. The model accepts up to {most}" in rejection(with_parts(*[part] * most, url), model).message
    )
    assert builtin().models["gemini-3.1-flash-lite-image"].max_references is None
    assert len(understood(with_parts({"text": "x"}, *[part] * 30), "gemini-3.1-flash-lite-image").references) == 30


@pytest.mark.parametrize(
    ("model", "tokens"), [(MODEL, 516), ("gemini-3-pro-image", 560), ("gemini-2.5-flash-image", 258)]
)
def test_usage_and_bill_count_them(tmp_path, model, tokens):
    """Itemised beside the text, and summed to what is charged."""
    with filing(tmp_path) as api:
        file = api.put(picture("PNG"))
        parts = [inline(picture("JPEG"), "image/jpeg"), {"fileData": {"fileUri": file["uri"]}}]
        answer = api.generate(*parts, model=model).json()
        bill = (tmp_path / "bill.jsonl").read_text()
    details = {item["modality"]: item["tokenCount"] for item in answer["usageMetadata"]["promptTokensDetails"]}
    assert details["IMAGE"] == 2 * tokens
    assert answer["usageMetadata"]["promptTokenCount"] == details["TEXT"] + 2 * tokens
    assert f'"input": {details["TEXT"] + 2 * tokens},' in bill
    if model == MODEL:
        assert charged(answer)[0] == details["TEXT"] + 2 * tokens


def test_the_log_holds_every_reference_in_its_order(tmp_path):
    """Kind, MIME type and content of each; no URL's query, which may be a signature."""
    data, other = picture("PNG"), picture("JPEG")
    with filing(tmp_path) as api:
        file = api.put(data, name="files/logo")
        signed = "https://user:pw@cdn.example.org:8443/a/files/b.webp?X-Signature=secret#x"
        answer = api.generate(
            {"fileData": {"fileUri": file["uri"], "mimeType": "image/png"}},
            inline(other, "image/jpeg"),
            {"fileData": {"fileUri": signed, "mimeType": "image/webp"}},
            {"fileData": {"fileUri": file["uri"]}},
        )
        assert answer.status_code == 200, answer.text
        api.generate()
        with_some, without = api.requests()
    stored = {
        "kind": "file",
        "mime": "image/png",
        "sha256": hashlib.sha256(data).hexdigest(),
        "name": "files/logo",
    }
    assert with_some["references"] == [
        stored,
        {"kind": "inline", "mime": "image/jpeg", "sha256": hashlib.sha256(other).hexdigest(), "name": None},
        {
            "kind": "url",
            "mime": "image/webp",
            "sha256": None,
            "name": "https://cdn.example.org:8443/a/files/b.webp",
        },
        stored,
    ]
    assert (with_some["prompt"], without["prompt"], without["references"]) == (*["a lighthouse at dusk"] * 2, [])
    assert b"secret" not in (tmp_path / "requests.jsonl").read_bytes()


def test_the_same_picture_is_the_same_request_wherever_it_lies(tmp_path):
    """Another upload, another host in the URI: the draws depend on its content alone."""
    with filing(tmp_path) as api:
        first, second = api.put(picture("PNG")), api.put(picture("PNG"))
        third = api.put(picture("PNG", 9, 9))
        elsewhere = f"https://generativelanguage.googleapis.com/v1beta/{first['name']}"
        for uri in (first["uri"], second["uri"], elsewhere, third["uri"]):
            assert api.generate({"fileData": {"fileUri": uri}}).status_code == 200
    assert [row["seen"] for row in api.requests()] == [1, 2, 3, 1]


def test_files_are_judged_by_their_content_too(tmp_path):
    """The MIME type of the request goes before that of the upload."""
    with filing(tmp_path) as api:
        words, blob = api.put(b"words", "text/plain"), api.put(picture("PNG"), "application/octet-stream")
        assert (
            "Unsupported MIME type: text/plain" in error(api.generate({"fileData": {"fileUri": words["uri"]}}))[2]
        )
        as_png = {"fileData": {"fileUri": words["uri"], "mimeType": "image/png"}}
        assert "Unable to process input image" in error(api.generate(as_png))[2]
        assert api.generate({"fileData": {"fileUri": blob["uri"], "mimeType": "image/png"}}).status_code == 200


@pytest.mark.parametrize(
    "uri", ["http://example.org/a.png", "gs://b/a.png", "files/abc", "https://", "https://[", ""]
)
def test_addresses_that_are_not_fetched(uri):
    assert rejection(with_parts({"fileData": {"fileUri": uri}})).message.startswith("Cannot fetch content")


def test_the_last_picture_gives_the_aspect_where_none_is_asked_for(tmp_path):
    """Files as well; a URL is not looked at."""
    wide, tall = inline(picture("PNG", 160, 90), "image/png"), picture("PNG", 10, 75)
    with filing(tmp_path) as api:
        file = {"fileData": {"fileUri": api.put(tall)["uri"]}}
        url = {"fileData": {"fileUri": "https://example.org/a.png"}}
        for parts in ([wide, file], [file, wide], [wide, url]):
            assert api.generate(*parts).status_code == 200
        assert api.generate(wide, file, imageConfig={"aspectRatio": "4:5"}).status_code == 200
    assert [row["aspect"] for row in api.requests()] == ["1:8", "16:9", "1:1", "4:5"]


def test_requests_are_limited_in_bytes(tmp_path):
    """At what is still reported unless told otherwise; the documents' hundred megabytes are an option."""
    path, body = f"/v1beta/models/{MODEL}:generateContent", json.dumps(asking()).encode()
    with filing(tmp_path) as api:
        assert api.http.post(path, content=body.ljust(20_971_520), headers=KEY).status_code == 200
        answer = api.http.post(path, content=body.ljust(20_971_521), headers=KEY)
        assert error(answer)[2] == "Request payload size exceeds the limit: 20971520 bytes."
    with filing(tmp_path, request_bytes=100 * 1024 * 1024) as api:
        assert api.http.post(path, content=body.ljust(20_971_521), headers=KEY).status_code == 200
