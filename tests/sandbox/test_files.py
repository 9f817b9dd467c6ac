"""The Files API: resumable uploads, and files from their upload to their end."""

import base64
import hashlib
import socket
from datetime import datetime, timedelta

import httpx
import pytest
from google import genai
from google.genai import errors, types
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.sandbox import fault_plan
from runner.sandbox.faults import FILE_FAULTS, PRESETS
from tests.sandbox.filing import KEY, error, filing, talking
from tests.sandbox.process import sandbox_process, spawn
from tests.sandbox.test_requests import png
from tests.sandbox.wire import CALM, MODEL

WALL = 1.8e9
PNG = base64.b64decode(png(160, 90))
DAY = 24 * 3600


def sdk(base_url: str) -> genai.Client:
    return genai.Client(api_key="sandbox", http_options=types.HttpOptions(base_url=base_url))


# --- the official SDK --------------------------------------------------------------------------------------------


def test_sdk_uploads_uses_lists_and_deletes(tmp_path):
    """A picture as a file and one inline, in one request; then the file's whole life."""
    (tmp_path / "logo.png").write_bytes(PNG)
    with sandbox_process(tmp_path / "state", latency_s=0) as base_url, sdk(base_url) as client:
        file = client.files.upload(file=tmp_path / "logo.png", config={"display_name": "Logo", "name": "my-logo"})
        assert (file.name, file.display_name, file.mime_type) == ("files/my-logo", "Logo", "image/png")
        assert (file.size_bytes, file.state) == (len(PNG), types.FileState.ACTIVE)
        assert file.sha256_hash == base64.b64encode(hashlib.sha256(PNG).hexdigest().encode()).decode()
        assert file.expiration_time
        assert file.create_time
        assert file.expiration_time - file.create_time == timedelta(hours=48)
        assert file.uri in {f"{base_url}/{version}/files/my-logo" for version in ("v1", "v1beta")}
        assert client.files.get(name="my-logo") == file
        parts = [
            types.Part.from_text(text="a mug with this logo"),
            types.Part.from_uri(file_uri=file.uri or "", mime_type=file.mime_type),
            types.Part.from_bytes(data=PNG, mime_type="image/png"),
        ]
        answer = client.models.generate_content(model=MODEL, contents=types.Content(role="user", parts=parts))
        assert answer.usage_metadata
        details = {item.modality: item.token_count for item in answer.usage_metadata.prompt_tokens_details or ()}
        assert details[types.MediaModality.IMAGE] == 2 * 516
        assert [listed.name for listed in client.files.list()] == ["files/my-logo"]
        with pytest.raises(errors.ClientError, match="only generated files"):
            client.files.download(file="files/my-logo")
        client.files.delete(name="my-logo")
        with pytest.raises(errors.ClientError, match="403 PERMISSION_DENIED"):
            client.files.get(name="my-logo")
        assert list(client.files.list()) == []


def test_sdk_uploads_in_chunks(tmp_path):
    """More than the 8 MiB of its chunks; the last one is shorter."""
    data = bytes(range(256)) * (20 << 12)
    (tmp_path / "large").write_bytes(data + b"end")
    with sandbox_process(tmp_path / "state", latency_s=0) as base_url, sdk(base_url) as client:
        file = client.files.upload(file=tmp_path / "large", config={"mime_type": "application/jsonl"})
        with talking(base_url, tmp_path / "state") as api:
            deeds = api.deeds()
    assert file.size_bytes == len(data) + 3
    assert file.sha256_hash == base64.b64encode(hashlib.sha256(data + b"end").hexdigest().encode()).decode()
    assert [(deed["op"], deed["offset"], deed["kept"]) for deed in deeds] == [
        ("start", None, None),
        ("upload", 0, 8 << 20),
        ("upload", 8 << 20, 8 << 20),
        ("finalize", 16 << 20, (4 << 20) + 3),
    ]
    assert len(file.name or "") == len("files/") + 12


# --- the protocol ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_every_step_by_hand(tmp_path, version):
    """Keys for the start and not for the chunks, whose URL is a capability; each reply names its status."""
    with filing(tmp_path) as api:
        start = api.start(len(PNG), version=version, display_name="Ünï")
        assert start.headers["X-Goog-Upload-Status"] == "active"
        assert int(start.headers["X-Goog-Upload-Chunk-Granularity"]) == 256 * 1024
        url = start.headers["X-Goog-Upload-URL"]
        assert url.startswith(f"{api.http.base_url}/upload/{version}/files?")
        assert api.received(url) == ("active", 0)
        middle = api.send(url, "upload", PNG[:50], 0)
        assert (middle.status_code, middle.headers["X-Goog-Upload-Status"], middle.content) == (200, "active", b"")
        assert api.received(url) == ("active", 50)
        last = api.send(url, "upload, finalize", PNG[50:], 50)
        assert (last.status_code, last.headers["X-Goog-Upload-Status"]) == (200, "final")
        file = last.json()["file"]
        assert (file["displayName"], file["sizeBytes"], file["source"]) == ("Ünï", str(len(PNG)), "UPLOADED")
        assert file["uri"] == f"{api.http.base_url}/{version}/{file['name']}"
        assert datetime.fromisoformat(file["createTime"]).utcoffset() == timedelta(0)
        assert api.received(url) == ("final", len(PNG))
        assert error(api.send(url, "upload", b"x", len(PNG)))[:2] == (400, "INVALID_ARGUMENT")
        assert api.http.get(f"/{version}/{file['name']}", headers=KEY).json() == file
    assert not any(b"upload_id" in path.read_bytes() for path in tmp_path.glob("*.jsonl"))


def test_a_router_that_cuts_its_prefix_may_say_so(tmp_path):
    with filing(tmp_path) as api:
        api.http.headers["X-Forwarded-Prefix"] = "/gemini/"
        base = f"{api.http.base_url}/gemini"
        url = api.begin(len(PNG))
        assert url.startswith(f"{base}/upload/v1beta/files?")
        file = api.send(url.replace("/gemini", ""), "upload, finalize", PNG, 0).json()["file"]
    assert file["uri"] == f"{base}/v1beta/{file['name']}"


def test_whoever_is_refused_is_answered_whatever_it_sends(tmp_path):
    """A whole chunk of the SDK's size is taken off the wire, though nothing of it is kept."""
    with filing(tmp_path) as api:
        url = api.begin(16 << 20)
        for _ in range(3):
            assert error(api.send(url, "upload", bytes(8 << 20), 5))[0] == 400
        assert api.received(url) == ("active", 0)


@pytest.mark.parametrize("offset", [None, 0, 4, 6, 10])
def test_a_wrong_offset_is_refused_and_harms_nothing(tmp_path, offset):
    with filing(tmp_path) as api:
        url = api.begin(10)
        assert api.send(url, "upload", b"01234", 0).status_code == 200
        assert error(api.send(url, "upload, finalize", b"56789", offset))[:2] == (400, "INVALID_ARGUMENT")
        assert api.received(url) == ("active", 5)
        assert api.send(url, "upload, finalize", b"56789", 5).status_code == 200


def test_the_declared_size_holds(tmp_path):
    """Neither more bytes, with or without a length of the request, nor an end before its time."""
    with filing(tmp_path) as api:
        url = api.begin(10)
        assert error(api.send(url, "upload", b"x" * 11, 0))[0] == 400
        assert error(api.send(url, "upload", iter([b"x" * 6, b"x" * 6]), 0))[0] == 400
        assert api.received(url)[1] <= 10
        url = api.begin(10)
        assert "declared with 10 bytes and has 9" in error(api.send(url, "upload, finalize", b"x" * 9, 0))[2]
        assert api.received(url) == ("active", 9)
        assert api.send(url, "upload", b"x", 9).status_code == 200
        assert api.send(url, "finalize").status_code == 400
        assert api.send(url, "finalize", b"", 10).json()["file"]["sizeBytes"] == "10"
        undeclared = api.send(api.begin(None), "upload, finalize", iter([b"a", b"bc"]), 0)
        assert undeclared.json()["file"]["sizeBytes"] == "3"
        assert api.put(b"")["sizeBytes"] == "0"


def test_a_cancelled_upload_is_gone(tmp_path):
    with filing(tmp_path) as api:
        url = api.begin(10)
        api.send(url, "upload", b"01234", 0)
        assert api.send(url, "cancel").headers["X-Goog-Upload-Status"] == "cancelled"
        for command in ("query", "upload", "cancel"):
            assert error(api.send(url, command, b"", 0))[:2] == (404, "NOT_FOUND")
        assert not list((tmp_path / "files").iterdir())


def test_commands_nobody_knows(tmp_path):
    with filing(tmp_path) as api:
        url = api.begin(10)
        assert error(api.send(url, "start, upload"))[0] == 400
        assert error(api.http.post(url, content=b"x"))[0] == 400
        assert error(api.send(url, "upload", b"x", None))[0] == 400
        raw = api.http.post("/upload/v1beta/files", headers={**KEY, "X-Goog-Upload-Command": "start"})
        assert "resumable" in error(raw)[2]


def test_keys_are_checked_but_for_chunks(tmp_path):
    with filing(tmp_path, key="right-secret") as api:
        assert error(api.start(1))[2].startswith("API key not valid")
        assert error(api.http.get("/v1beta/files"))[:2] == (403, "PERMISSION_DENIED")
        api.http.headers["x-goog-api-key"] = "right-secret"
        assert api.http.get("/v1beta/files").json() == {}
    assert [(deed["op"], deed["status"]) for deed in api.deeds()] == [
        ("start", "400"),
        ("list", "403"),
        ("list", "200"),
    ]
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("id_", ["a", "0-9", "a" * 40, "logo-2"])
def test_ids_that_callers_may_choose(tmp_path, id_):
    with filing(tmp_path) as api:
        assert api.put(PNG, name=f"files/{id_}")["name"] == f"files/{id_}"


@pytest.mark.parametrize(
    "name", ["files/", "files/-a", "files/a-", "files/A", "files/a_b", "files/" + "a" * 41, "a"]
)
def test_ids_that_they_may_not(tmp_path, name):
    with filing(tmp_path) as api:
        assert "CreateFileRequest.file.name" in error(api.start(1, name=name))[2]


def test_an_id_is_taken_once(tmp_path):
    """At the start where there is a file, at the end where two uploads ran a race; free again once deleted."""
    with filing(tmp_path) as api:
        first, second = api.begin(1, name="files/logo"), api.begin(1, name="files/logo")
        assert api.send(first, "upload, finalize", b"1", 0).status_code == 200
        assert error(api.send(second, "upload, finalize", b"2", 0))[:2] == (409, "ALREADY_EXISTS")
        assert error(api.start(1, name="files/logo"))[:2] == (409, "ALREADY_EXISTS")
        assert api.delete("files/logo").json() == {}
        assert api.put(PNG, name="files/logo")["sizeBytes"] == str(len(PNG))


def test_starts_that_mean_nothing(tmp_path):
    with filing(tmp_path) as api:
        assert 'Unknown name "colour"' in error(api.start(1, colour="red"))[2]
        assert error(api.start(1, display_name="x" * 513))[0] == 400
        assert "Unsupported MIME type: jsonl" in error(api.start(1, "jsonl"))[2]
        bad = {**KEY, "X-Goog-Upload-Command": "start", "X-Goog-Upload-Protocol": "resumable"}
        length = {**bad, "X-Goog-Upload-Header-Content-Length": "many"}
        assert error(api.http.post("/upload/v1beta/files", headers=length))[0] == 400
        assert error(api.http.post("/upload/v1beta/files", headers=bad, content=b"{"))[0] == 400
        # Both cases of a field's name, and the size as the text that the File shows.
        assert api.start(None, displayName="x", sizeBytes="10", mimeType="image/png").status_code == 200


# --- what becomes of files ---------------------------------------------------------------------------------------


def test_unknown_files_are_forbidden(tmp_path):
    with filing(tmp_path) as api:
        message = "You do not have permission to access the File nobody or it may not exist."
        for answer in (api.get("files/nobody"), api.delete("files/nobody"), api.get("files/nobody:download")):
            assert error(answer) == (403, "PERMISSION_DENIED", message)


@pytest.mark.parametrize("path", ["/v1beta/files/logo:download", "/download/v1/files/logo:download"])
def test_uploaded_files_cannot_be_downloaded(tmp_path, path):
    with filing(tmp_path) as api:
        api.put(PNG, name="files/logo")
        assert error(api.http.get(path, params={"alt": "media"}, headers=KEY))[:2] == (400, "INVALID_ARGUMENT")


def test_lists_are_newest_first_and_stable(tmp_path):
    """What comes or goes between two pages shifts none of them."""
    with filing(tmp_path) as api:
        for number in range(14):
            api.put(b"x", name=f"files/f{number}")
        assert len(api.get("files").json()["files"]) == 10
        first = api.get("files", pageSize=4).json()
        api.put(b"x", name="files/late")
        api.delete("files/f8")
        names, token = [file["name"] for file in first["files"]], first["nextPageToken"]
        while token:
            page = api.get("files", pageSize=4, pageToken=token).json()
            names += [file["name"] for file in page["files"]]
            token = page.get("nextPageToken")
        assert names == [f"files/f{number}" for number in range(13, -1, -1) if number != 8]
        for wrong in ({"pageSize": "many"}, {"pageSize": -1}, {"pageToken": "x"}):
            assert error(api.get("files", **wrong))[0] == 400


def test_files_end_after_48_hours_of_the_clock(tmp_path):
    """At speed 60 after 48 minutes; the bytes are removed, and the id is free."""
    wall = [WALL]
    with filing(tmp_path, speed=60, now=lambda: wall[0]) as api:
        file = api.put(PNG, name="files/logo")
        ends = datetime.fromisoformat(file["expirationTime"]).timestamp()
        assert ends == WALL + 2 * DAY
        wall[0] = WALL + 2 * DAY / 60 - 1
        assert api.get("files/logo").json() == file
        assert api.generate({"fileData": {"fileUri": file["uri"]}}).status_code == 200
        wall[0] = WALL + 2 * DAY / 60
        assert error(api.get("files/logo"))[0] == 403
        assert error(api.generate({"fileData": {"fileUri": file["uri"]}}))[0] == 403
        assert api.get("files").json() == {}
        assert not list((tmp_path / "files").iterdir())
        api.put(PNG, name="files/logo")


def test_storage_is_limited(tmp_path):
    """Judged at the start and again at the end; what is deleted makes room."""
    with filing(tmp_path, file_bytes=60, storage_bytes=100) as api:
        assert "exceeds the limit: 60" in error(api.start(61))[2]
        first = api.put(b"x" * 60)
        second = api.begin(40)
        third = api.begin(None)
        answer = api.start(41)
        assert error(answer)[:2] == (429, "RESOURCE_EXHAUSTED")
        (violation,) = answer.json()["error"]["details"][1]["violations"]
        assert violation["quotaMetric"].endswith("/file_storage_bytes")
        assert api.send(second, "upload, finalize", b"x" * 40, 0).status_code == 200
        assert error(api.send(third, "upload, finalize", b"x", 0))[0] == 429
        assert api.delete(first["name"]).status_code == 200
        assert api.send(third, "finalize", b"", 1).status_code == 200
        assert error(api.send(api.begin(None), "upload", b"x" * 61, 0))[0] == 400


# --- broken connections, restarts, memory ------------------------------------------------------------------------


def cut_off(api, url: str, sent: bytes, length: int) -> None:
    """A chunk whose sender leaves after `sent`, when all of it has been kept."""
    port, path = httpx.URL(url).port, httpx.URL(url).raw_path.decode()
    _, before = api.received(url)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Goog-Upload-Command: upload, finalize\r\n"
    head += f"X-Goog-Upload-Offset: {before}\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port or 80)) as connection:
        connection.sendall(head.encode() + sent)
        while api.received(url) != ("active", before + len(sent)):
            pass


def test_a_broken_chunk_is_resumed_where_it_broke(tmp_path):
    with filing(tmp_path) as api:
        url = api.begin(len(PNG))
        cut_off(api, url, PNG[:33], len(PNG))
        status, received = api.received(url)
        assert (status, received) == ("active", 33)
        file = api.send(url, "upload, finalize", PNG[received:], received).json()["file"]
        assert base64.b64decode(file["sha256Hash"]).decode() == hashlib.sha256(PNG).hexdigest()


def test_a_request_that_hangs_is_overtaken(tmp_path):
    """The one that goes on takes the upload over; the old one's late bytes do no harm."""
    with filing(tmp_path) as api:
        url = api.begin(len(PNG))
        path = httpx.URL(url).raw_path.decode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Goog-Upload-Command: upload\r\nX-Goog-Upload-Offset: 0\r\n"
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 80)) as old:
            old.sendall(f"{head}Content-Length: {len(PNG)}\r\n\r\n".encode() + PNG[:20])
            while api.received(url)[1] < 20:
                pass
            assert api.send(url, "upload", PNG[20:40], 20).status_code == 200
            old.sendall(b"late")
            assert b" 400 " in old.recv(1000)
        file = api.send(url, "upload, finalize", PNG[40:], 40).json()["file"]
        assert base64.b64decode(file["sha256Hash"]).decode() == hashlib.sha256(PNG).hexdigest()


def test_a_killed_sandbox_goes_on_in_the_middle_of_an_upload(tmp_path):
    """Half-done uploads, files, their order and ids are there for the next one, which has another port."""
    child, base_url = spawn(tmp_path, latency_s=0)
    with child, talking(base_url, tmp_path) as api:
        kept = [api.put(PNG, name=f"files/f{number}") for number in range(3)]
        url = api.begin(10, "text/plain", name="files/half", display_name="Half")
        assert api.send(url, "upload", b"01234", 0).status_code == 200
        cut_off(api, url, b"56", 5)
        child.kill()
    (tmp_path / "files" / "orphan.bin").write_bytes(b"bytes without a record")
    (tmp_path / "files" / "torn.part").write_bytes(b"{")
    with sandbox_process(tmp_path, latency_s=0) as base_url, talking(base_url, tmp_path) as api:
        assert [file["name"] for file in api.get("files").json()["files"]] == ["files/f2", "files/f1", "files/f0"]
        assert api.get("files/f0").json()["createTime"] == kept[0]["createTime"]
        url = f"{base_url}{httpx.URL(url).raw_path.decode()}"
        assert api.received(url) == ("active", 7)
        file = api.send(url, "upload, finalize", b"789", 7).json()["file"]
        assert (file["name"], file["displayName"], file["mimeType"]) == ("files/half", "Half", "text/plain")
        assert base64.b64decode(file["sha256Hash"]).decode() == hashlib.sha256(b"0123456789").hexdigest()
        assert api.received(url) == ("final", 10)
        assert api.generate({"fileData": {"fileUri": kept[1]["uri"]}}).status_code == 200
    assert not (tmp_path / "files" / "orphan.bin").exists()


def test_large_files_do_not_go_through_memory(tmp_path):
    """64 MB in one chunk, and the process grows by no more than a tenth of it."""
    block = bytes(1 << 20)
    child, base_url = spawn(tmp_path, latency_s=0)
    with child, talking(base_url, tmp_path) as api:
        api.put(b"warm", "text/plain")
        before = peak_kb(child.pid)
        if before is None:
            child.kill()
            pytest.skip("the kernel tells no peak")
        url = api.begin(64 << 20, "text/plain")
        file = api.send(url, "upload, finalize", (block for _ in range(64)), 0).json()["file"]
        assert file["sizeBytes"] == str(64 << 20)
        grown = (peak_kb(child.pid) or 0) - before
        child.kill()
    assert grown < 8 * 1024


def peak_kb(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/status") as file:  # noqa: PTH123
            return next((int(line.split()[1]) for line in file if line.startswith("VmHWM:")), None)
    except OSError:
        return None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6), st.integers(0, 2**32))
def test_an_upload_under_every_fault_arrives_whole(tmp_path_factory, chunks, seed):
    """Whoever asks how much has arrived, and goes on there, loses and doubles no byte."""
    data = b"".join(chunks)
    plan = f"{CALM},upload_broken=0.3,upload_no_status=0.3,upload_503=0.2"
    with filing(tmp_path_factory.mktemp("state"), faults=plan, seed=seed) as api:
        while (started := api.start(len(data), "text/plain", name="files/x")).status_code == 503:
            pass
        url = started.headers["X-Goog-Upload-URL"]
        for _ in range(200):
            status, received = api.received(url)
            if status == "final":
                break
            size = len(chunks[received % len(chunks)])
            command = "upload, finalize" if received + size >= len(data) else "upload"
            try:
                api.send(url, command, data[received : received + size], received)
            except httpx.TransportError:
                continue
        file = api.get("files/x").json()
    assert base64.b64decode(file["sha256Hash"]).decode() == hashlib.sha256(data).hexdigest()


# --- faults ------------------------------------------------------------------------------------------------------


def test_fault_upload_start_lost(tmp_path):
    """The upload has begun; nobody knows its URL."""
    with filing(tmp_path, faults="upload_start_lost=1") as api:
        with pytest.raises(httpx.RemoteProtocolError):
            api.start(len(PNG), name="files/logo")
        with pytest.raises(httpx.RemoteProtocolError):
            api.start(len(PNG), name="files/logo")
    assert len(list((tmp_path / "files").glob("*.json"))) == 2
    assert [(deed["fault"], deed["status"]) for deed in api.deeds()] == [
        ("upload_start_lost", "close_after_read")
    ] * 2


def test_fault_upload_broken(tmp_path):
    """A part of the chunk is kept: at least its first byte, never its last."""
    with filing(tmp_path, faults="upload_broken=1") as api:
        url = api.begin(len(PNG))
        with pytest.raises(httpx.TransportError):
            api.send(url, "upload, finalize", PNG, 0)
        _, received = api.received(url)
        assert 0 < received < len(PNG)
        with pytest.raises(httpx.TransportError):
            api.send(url, "upload, finalize", PNG[received:], received)
        assert received < api.received(url)[1] < len(PNG)
    kept = sum(deed["kept"] or 0 for deed in api.deeds())
    assert next((tmp_path / "files").glob("*.bin")).read_bytes() == PNG[:kept]


def test_fault_upload_no_status(tmp_path):
    """200 without the header: some of these chunks were kept, some were not."""
    kept: set[object] = set()
    with filing(tmp_path, faults="upload_no_status=1") as api:
        for number in range(12):
            url = api.begin(10, name=f"files/f{number}")
            answer = api.send(url, "upload", b"01234", 0)
            assert (answer.status_code, "X-Goog-Upload-Status" in answer.headers) == (200, False)
            kept.add(api.received(url)[1])
            api.send(url, "upload, finalize", b"0123456789"[api.received(url)[1] :], api.received(url)[1])
            kept.add(api.received(url)[0])
    assert kept == {0, 5, "active", "final"}


def test_fault_upload_503(tmp_path):
    with filing(tmp_path, faults="upload_503=1") as api:
        assert error(api.start(1))[:2] == (503, "UNAVAILABLE")
    with filing(tmp_path, faults="none") as api:
        url = api.begin(10)
    with filing(tmp_path, faults="upload_503=1") as api:
        url = f"{api.http.base_url}{httpx.URL(url).raw_path.decode()}"
        assert error(api.send(url, "upload", b"01234", 0))[:2] == (503, "UNAVAILABLE")
        assert api.received(url) == ("active", 0)


@pytest.mark.parametrize(
    ("fault", "mime", "message"),
    [
        ("upload_mime", "image/png", "Unsupported MIME type: image/png"),
        ("upload_jsonl", "application/jsonl", "Unsupported MIME type: jsonl"),
        ("upload_jsonl", "text/plain", None),
    ],
)
def test_faults_of_the_mime_type(tmp_path, fault, mime, message):
    with filing(tmp_path, faults=f"{fault}=1") as api:
        if message:
            assert error(api.start(1, mime)) == (400, "INVALID_ARGUMENT", message)
        else:
            api.begin(1, mime)


def test_another_mime_type_is_another_draw(tmp_path):
    """So a caller who falls back has a chance; the same start again is drawn anew as well."""
    with filing(tmp_path, faults="upload_mime=0.5") as api:
        statuses = [
            [api.start(1, mime).status_code for _ in range(12)]
            for mime in ("image/png", "application/octet-stream")
        ]
    assert [set(drawn) for drawn in statuses] == [{200, 400}] * 2
    assert statuses[0] != statuses[1]


def test_fault_storage_full(tmp_path):
    with filing(tmp_path, faults="storage_full=1") as api:
        answer = api.start(1)
    assert error(answer)[:2] == (429, "RESOURCE_EXHAUSTED")
    assert "file_storage_bytes, limit: 21474836480" in error(answer)[2]


def test_fault_file_failed(tmp_path):
    with filing(tmp_path, faults="file_failed=1") as api:
        file = api.put(PNG)
        assert (file["state"], file["error"]["code"]) == ("FAILED", 13)
        assert error(api.generate({"fileData": {"fileUri": file["uri"]}}))[:2] == (400, "FAILED_PRECONDITION")


def test_fault_file_processing(tmp_path):
    """For 5 to 30 s of the clock; then it is a file like any other."""
    wall = [WALL]
    with filing(tmp_path, faults="file_processing=1", speed=10, now=lambda: wall[0]) as api:
        file = api.put(PNG)
        wall[0] += 0.4
        assert api.get(file["name"]).json()["state"] == file["state"] == "PROCESSING"
        code, status, message = error(api.generate({"fileData": {"fileUri": file["uri"]}}))
        assert (code, status) == (400, "FAILED_PRECONDITION")
        assert "is not in an ACTIVE state" in message
        wall[0] += 2.7
        assert api.get(file["name"]).json()["state"] == "ACTIVE"
        assert api.generate({"fileData": {"fileUri": file["uri"]}}).status_code == 200


def test_fault_file_gone(tmp_path):
    """It was there, and when it is used it is not, nor ever after."""
    with filing(tmp_path, faults="file_gone=1") as api:
        file = api.put(PNG)
        assert api.get(file["name"]).status_code == 200
        for answer in (api.generate({"fileData": {"fileUri": file["uri"]}}), api.get(file["name"])):
            assert error(answer)[:2] == (403, "PERMISSION_DENIED")
    assert [deed["fault"] for deed in api.deeds() if deed["op"] == "use"] == ["file_gone"]


def test_no_preset_has_faults_of_files():
    """Whoever counts requests under a preset counts the same with references."""
    names = {name for stage in FILE_FAULTS.values() for name in stage}
    assert not [preset for preset, rates in PRESETS.items() if names & rates.keys()]
    with pytest.raises(ValueError, match="did you mean 'upload_broken'"):
        fault_plan("upload_brokn=1")
    with pytest.raises(ValueError, match="at most 1"):
        fault_plan("upload_broken=0.6,upload_503=0.6")


def test_draws_replay_over_a_restart(tmp_path):
    """The same starts in the same order meet the same faults, in one run of the sandbox or in two."""

    def statuses(state, runs) -> list[int]:
        drawn = []
        for count in runs:
            with filing(state, faults="upload_503=0.3,upload_mime=0.3", seed=7) as api:
                drawn += [api.start(1).status_code for _ in range(count)]
        return drawn

    whole = statuses(tmp_path / "a", [12])
    assert statuses(tmp_path / "b", [5, 7]) == whole
    assert set(whole) == {200, 400, 503}
