"""The client of the Files API: every way in which an upload can break, and what is left of it."""

import asyncio
import base64
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from blockbuster import BlockBuster
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.adapters import resumable
from runner.adapters.setback import (
    TRIES,
    ChangedError,
    MissingFileError,
    NoFilesApiError,
    PassingError,
    UploadError,
)
from runner.adapters.uploads import FilesClient
from runner.core.errors import UsageError
from runner.core.reference import Uploaded
from tests.adapters.files_server import (
    GRAIN,
    Break,
    FilesApi,
    ImpatientClock,
    cut,
    error,
    files_api,
    files_client,
    half_taken,
    says,
    taken_and_cut,
)
from tests.adapters.wire_server import KEY, Hidden

SMALL = b"a picture, believe it"
CHUNK_BYTES = 4 * GRAIN
LARGE = bytes(range(256)) * (2 * CHUNK_BYTES // 256) + SMALL
START, FIRST, SECOND, LAST = "start", "upload 0", "upload 1048576", "upload, finalize 2097152"


@pytest.fixture(autouse=True)
def small_chunks(no_blocking_calls: BlockBuster, monkeypatch: pytest.MonkeyPatch) -> None:
    """And certificates are read when a client is made, here on the loop."""
    monkeypatch.setattr(resumable, "CHUNK_BYTES", CHUNK_BYTES)
    for function in no_blocking_calls.functions.values():
        function.can_block_in("runner/adapters/uploads.py", {"__init__"})


async def send(client: FilesClient, path: Path, data: bytes, **changes: Any) -> Uploaded:
    wanted: dict[str, Any] = {
        "size": len(data),
        "mimes": ("image/png",),
        "display_name": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return await client.upload(path, **(wanted | changes))


def sent(
    folder: Path,
    data: bytes,
    *breaks: Break | None,
    then: Callable[[FilesApi], None] = lambda _: None,
    **changes: Any,
) -> tuple[FilesApi, Uploaded | UploadError, list[float]]:
    """One upload against a server that breaks as told: what it saw, what came of it, how long was waited."""
    path = folder / "ref.png"
    path.write_bytes(data)
    clock = ImpatientClock()

    async def main() -> tuple[FilesApi, Uploaded | UploadError, list[float]]:
        async with files_api(breaks=list(breaks)) as api, files_client(api, clock=clock) as client:
            then(api)
            try:
                return api, await send(client, path, data, **changes), clock.waited
            except UploadError as failure:
                return api, failure, clock.waited

    return asyncio.run(main())


def test_a_small_file_is_one_chunk_and_the_key_goes_with_the_start_alone(tmp_path: Path) -> None:
    api, result, waited = sent(tmp_path, SMALL)
    assert result == Uploaded("files/abc", f"{api.url}/v1beta/files/abc", "image/png", 1_800_087_400.123456)
    assert (api.lines, waited, bytes(api.received)) == ([START, "upload, finalize 0"], [], SMALL)
    start, chunk = api.seen
    assert start.path == "/upload/v1beta/files"
    assert start.headers["x-goog-api-key"] == KEY
    assert start.headers["x-goog-upload-protocol"] == "resumable"
    assert start.headers["x-goog-upload-header-content-length"] == str(len(SMALL))
    assert start.headers["x-goog-upload-header-content-type"] == "image/png"
    assert api.started == {"display_name": "ref.png", "mime_type": "image/png", "size_bytes": len(SMALL)}
    assert chunk.path == "/upload/v1beta/files?upload_id=1"
    assert KEY not in f"{chunk.headers} {chunk.path}"


def test_a_large_file_goes_in_chunks_with_their_length(tmp_path: Path) -> None:
    api, result, _ = sent(tmp_path, LARGE)
    assert isinstance(result, Uploaded)
    assert api.lines == [START, FIRST, SECOND, LAST]
    assert [chunk.headers["content-length"] for chunk in api.seen[1:]] == ["1048576", "1048576", str(len(SMALL))]
    assert bytes(api.received) == LARGE


@pytest.mark.parametrize(
    ("grain", "step"),
    [
        ("262144", 8_388_608),
        ("3000000", 6_000_000),
        ("10000000", 10_000_000),
        ("", 8_388_608),
        ("0", 8_388_608),
        ("x", 8_388_608),
        ("99999999999", 8_388_608),
    ],
)
def test_a_chunk_is_a_multiple_of_what_the_service_takes(
    grain: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert resumable._step(httpx.Headers({"x-goog-upload-chunk-granularity": grain})) == step


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    api, result, _ = sent(tmp_path, b"")
    assert isinstance(result, Uploaded)
    assert api.lines == [START, "upload, finalize 0"]


def resumed(at: int) -> str:
    return f"upload {at}"


BROKEN: list[tuple[list[Break | None], list[str]]] = [
    ([cut], [START, START, FIRST, SECOND, LAST]),
    ([says(503)], [START, START, FIRST, SECOND, LAST]),
    ([None, cut], [START, FIRST, "query", FIRST, SECOND, LAST]),
    ([None, None, cut], [START, FIRST, SECOND, "query", SECOND, LAST]),
    ([None, None, taken_and_cut], [START, FIRST, SECOND, "query", LAST]),
    ([None, None, cut, cut], [START, FIRST, SECOND, "query", "query", SECOND, LAST]),
    ([None, None, says(503)], [START, FIRST, SECOND, "query", SECOND, LAST]),
    (
        [None, None, says(400, "wrong offset"), lambda s, a: a.status("active", x_goog_upload_size_received="0")],
        [],
    ),
    ([None, None, None, taken_and_cut], [START, FIRST, SECOND, LAST, "query", START, FIRST, SECOND, LAST]),
    ([None, cut, says(404)], [START, FIRST, "query", START, FIRST, SECOND, LAST]),
    ([None, cut, lambda s, a: a.status("cancelled")], [START, FIRST, "query", START, FIRST, SECOND, LAST]),
    ([None, None, lambda s, a: a.status("")], [START, FIRST, SECOND, SECOND, LAST]),
    ([None, lambda s, a: a.status("final")], [START, FIRST, START, FIRST, SECOND, LAST]),
    (
        [None, None, half_taken],
        [
            START,
            FIRST,
            SECOND,
            "query",
            resumed(2**20 + GRAIN + 1),
            f"upload, finalize {2 * 2**20 + GRAIN + 1}",
        ],
    ),
]


@pytest.mark.parametrize(("breaks", "lines"), BROKEN)
def test_a_broken_upload_goes_on_where_the_service_stands(
    breaks: list[Break | None], lines: list[str], tmp_path: Path
) -> None:
    data = LARGE + bytes(GRAIN) * 2 if half_taken in breaks else LARGE
    api, result, _ = sent(tmp_path, data, *breaks)
    assert isinstance(result, Uploaded), result
    assert not lines or api.lines == lines
    assert bytes(api.received) == data
    assert [s.path for s in api.seen if s.command != START and KEY in str(s.headers)] == []


def test_a_finished_upload_whose_answer_was_lost_is_read_from_the_query(tmp_path: Path) -> None:
    def whole(_sent: Any, api: FilesApi) -> Any:
        answer = api.status("final")
        answer.body = b'{"file": {"name": "files/abc", "uri": "https://h/v1beta/files/abc"}}'
        return answer

    api, result, _ = sent(tmp_path, SMALL, None, taken_and_cut, whole)
    assert isinstance(result, Uploaded)
    assert (api.lines, result.uri) == ([START, "upload, finalize 0", "query"], "https://h/v1beta/files/abc")


def test_tries_are_counted_since_the_last_progress_only(tmp_path: Path) -> None:
    again: list[Break | None] = [cut, None]
    api, result, waited = sent(tmp_path, LARGE, None, *again * 2, *again * 2, *again * 2)
    assert isinstance(result, Uploaded), result
    api, result, waited = sent(tmp_path, LARGE, None, None, *[says(500)] * 50)
    assert isinstance(result, PassingError)
    assert str(result) == f"given up after {TRIES} tries without progress: HTTP 500: no"
    assert waited == [2, 4, 8, 16, 32]
    assert api.lines == [START, FIRST, SECOND, *["query"] * 5]


@pytest.mark.parametrize(
    ("answer", "waits"),
    [
        (says(429, "slow", {"@type": "RetryInfo", "retryDelay": "34s"}), [34]),
        (says(503, "slow", retry_after="7"), [7]),
        (says(429, "slow"), [2]),
    ],
)
def test_a_wait_that_is_asked_for_is_kept(answer: Break, waits: list[float], tmp_path: Path) -> None:
    _, result, waited = sent(tmp_path, SMALL, answer)
    assert isinstance(result, Uploaded)
    assert waited == waits


REFUSED: list[tuple[list[Break | None], type[UploadError], str]] = [
    ([says(404)], NoFilesApiError, "this endpoint has no Files API: HTTP 404: no"),
    ([says(501)], NoFilesApiError, "this endpoint has no Files API: HTTP 501: no"),
    (
        [lambda s, a: a.status("active")],
        NoFilesApiError,
        "this endpoint has no Files API: it names no address to send a file to",
    ),
    ([says(403, f"no rights for {KEY}")], UploadError, "HTTP 403: no rights for [key]"),
    ([says(302)], UploadError, "HTTP 302: no"),
    ([says(429, "later", retry_after="6776")], PassingError, "the service asks to wait 6776 s: HTTP 429: later"),
    (
        [says(429, "quota, metric: file_storage_bytes")],
        UploadError,
        "the storage for files is full until old ones expire: HTTP 429: quota, metric: file_storage_bytes",
    ),
    ([None, says(400, "too big")], UploadError, "HTTP 400: too big"),
    ([None, says(413, "too big")], UploadError, "HTTP 413: too big"),
    ([says(400, "Unsupported MIME type: image/png")], UploadError, "HTTP 400: Unsupported MIME type: image/png"),
]


@pytest.mark.parametrize(("breaks", "kind", "message"), REFUSED)
def test_what_no_try_can_mend_is_said_once(
    breaks: list[Break | None], kind: type[UploadError], message: str, tmp_path: Path
) -> None:
    _, result, waited = sent(tmp_path, SMALL, *breaks)
    assert (type(result), str(result)) == (kind, message)
    assert len(waited) <= 1


@pytest.mark.parametrize("early", [[], [None]])
def test_another_mime_type_is_tried_where_one_is_refused(early: list[None], tmp_path: Path) -> None:
    refusal = says(400, "Unsupported MIME type: application/jsonl")
    api, result, _ = sent(tmp_path, SMALL, *early, refusal, mimes=("application/jsonl", "text/plain"))
    assert isinstance(result, Uploaded)
    assert (api.started["mime_type"], result.mime) == ("text/plain", "text/plain")


def test_it_waits_while_the_service_processes(tmp_path: Path) -> None:
    states = ["PROCESSING", "PROCESSING", "ACTIVE"]

    def poll(_sent: Any, api: FilesApi) -> None:
        api.meta["state"] = states.pop(0)

    api, result, waited = sent(tmp_path, SMALL, None, *[poll] * 3)
    assert isinstance(result, Uploaded)
    assert api.lines == [START, "upload, finalize 0", "GET", "GET"]
    assert [s.path for s in api.seen[2:]] == ["/v1beta/files/abc"] * 2
    assert waited == [2, 2]


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"state": "FAILED", "error": {"message": "odd"}}, "the service cannot use it (FAILED): odd"),
        ({"state": "SLEEPING"}, "the service cannot use it (SLEEPING): it does not say why"),
        ({"sizeBytes": "20"}, "the service received 20 bytes of 21"),
        ({"sha256Hash": base64.b64encode(b"0" * 64).decode()}, "the service received other bytes than were sent"),
        ({"sha256Hash": "?"}, "the service received other bytes than were sent"),
        ({"state": "PROCESSING"}, "the service still processes it after 600 s"),
    ],
)
def test_what_the_service_cannot_use_is_deleted_and_said(
    meta: dict[str, Any], message: str, tmp_path: Path
) -> None:
    api, result, _ = sent(tmp_path, SMALL, then=lambda api: api.meta.update(meta))
    assert str(result) == message
    assert api.deleted == ([] if meta.get("state") == "PROCESSING" else ["/v1beta/files/abc"])


@pytest.mark.parametrize("form", ["hex text", "digest", "url-safe", "hex", "missing"])
def test_every_form_of_the_hash_is_understood(form: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(SMALL)
    forms = {
        "hex text": base64.b64encode(digest.hexdigest().encode()).decode(),
        "digest": base64.b64encode(digest.digest()).decode(),
        "url-safe": base64.urlsafe_b64encode(digest.digest()).decode().rstrip("="),
        "hex": digest.hexdigest().upper(),
        "missing": None,
    }
    _, result, _ = sent(tmp_path, SMALL, then=lambda api: api.meta.update(sha256Hash=forms[form]))
    assert isinstance(result, Uploaded), result


def test_what_a_router_leaves_out_is_filled_in(tmp_path: Path) -> None:
    bare = dict.fromkeys(("uri", "mimeType", "sizeBytes", "sha256Hash", "state", "expirationTime"))
    api, result, _ = sent(tmp_path, SMALL, then=lambda api: api.meta.update(bare))
    expires = ImpatientClock().epoch + 48 * 3600
    assert result == Uploaded("files/abc", f"{api.url}/v1beta/files/abc", "image/png", expires)


@pytest.mark.parametrize("now", [SMALL + b"!", SMALL[:-1], SMALL.upper(), b""])
def test_a_file_that_changed_is_given_up_before_it_is_whole(now: bytes, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(SMALL).hexdigest()
    api, result, _ = sent(tmp_path, now, size=len(SMALL), sha256=sha256)
    assert type(result) is ChangedError
    assert api.lines == [START]


def test_a_file_that_changes_while_it_is_sent_is_given_up(tmp_path: Path) -> None:
    def change(_sent: Any, _api: FilesApi) -> None:
        with (tmp_path / "ref.png").open("r+b") as file:
            file.seek(CHUNK_BYTES)
            file.write(b"?")

    api, result, _ = sent(tmp_path, LARGE, None, change)
    assert type(result) is ChangedError
    assert api.lines == [START, FIRST, SECOND]


def test_a_file_that_is_not_there_is_no_upload(tmp_path: Path) -> None:
    async def main() -> None:
        async with files_api() as api, files_client(api) as client:
            with pytest.raises(MissingFileError, match="it is not there any more"):
                await send(client, tmp_path / "gone", SMALL)
            with pytest.raises(MissingFileError, match="it cannot be read: it is a folder"):
                await send(client, tmp_path, SMALL)
            assert api.seen == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("base", "named", "taken"),
    [
        (
            "https://router.example/p",
            "https://upload.googleapis.com/x?id=1",
            "https://upload.googleapis.com/x?id=1",
        ),
        ("https://router.example/p", "/x?id=1", "https://router.example/x?id=1"),
        ("https://router.example", "http://127.0.0.1:1/x", "http://127.0.0.1:1/x"),
        ("http://sandbox:8080", "http://sandbox:8080/x", "http://sandbox:8080/x"),
        ("https://router.example", "http://router.example/x", None),
        ("https://router.example", "ftp://router.example/x", None),
        ("https://router.example", "file:///etc/passwd", None),
    ],
)
def test_the_address_for_the_bytes_is_taken_as_it_is_but_never_unencrypted(
    base: str, named: str, taken: str | None
) -> None:
    client = FilesClient(base_url=base, key=Hidden())
    if taken:
        assert client._exchange.reachable(named) == taken
    else:
        with pytest.raises(UploadError, match="not encrypted"):
            client._exchange.reachable(named)
    asyncio.run(client.aclose())


def test_over_a_unix_socket_all_of_it_goes_through_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "ref.png"
    path.write_bytes(SMALL)

    async def main() -> None:
        async with files_api(tmp_path / "s", upload_url="http://elsewhere/up") as api:
            async with files_client(api, base_url="http://sandbox", uds=str(tmp_path / "s")) as client:
                assert (await send(client, path, SMALL)).name == "files/abc"
            assert [s.headers["host"] for s in api.seen] == ["sandbox", "elsewhere"]

    asyncio.run(main())


def test_a_file_is_looked_up_and_deleted_by_name_with_the_key_and_nowhere_else() -> None:
    async def main() -> None:
        async with files_api() as api, files_client(api) as client:
            assert client.address("files/abc") == f"{api.url}/v1beta/files/abc"
            assert client.address("https://h/x") == "https://h/x"
            found = await client.get("files/abc")
            assert found
            assert (found.name, found.state, found.size) == ("files/abc", "ACTIVE", 0)
            await client.delete("files/abc")
            api.breaks = [says(403), says(404), says(500), None, says(403), says(400, "odd")]
            assert await client.get("files/abc") is None
            assert await client.get("https://evil.example/files") is None
            assert await client.get("files/abc")
            await client.delete("files/abc")
            with pytest.raises(UploadError, match="HTTP 400: odd"):
                await client.get("files/abc")
            assert {s.headers["x-goog-api-key"] for s in api.seen} == {KEY}
            assert api.deleted == ["/v1beta/files/abc"]

    asyncio.run(main())


def test_the_key_shows_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    lies: list[Break | None] = [
        lambda s, a: error(503, KEY, x=KEY),
        None,
        lambda s, a: error(400, f"{KEY} {'x' * 900}"),
    ]
    _, result, _ = sent(tmp_path, SMALL, *lies)
    assert "[key]" in str(result)
    assert len(str(result)) <= 400
    assert KEY not in caplog.text + repr(result)
    with pytest.raises(UsageError) as caught:
        FilesClient(base_url="https://h", key=Hidden("a\nb"))
    assert "a\nb" not in str(caught.value)


ANY_BREAK = st.sampled_from(
    [None, None, cut, says(500), says(429), says(400), says(404), lambda s, a: a.status("")]
)


@settings(deadline=None, max_examples=30)
@given(breaks=st.lists(ANY_BREAK, max_size=12))
def test_whatever_breaks_the_file_arrives_whole_or_an_error_says_why(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[Break | None]
) -> None:
    data = bytes(range(256)) * (CHUNK_BYTES // 256) + SMALL
    api, result, _ = sent(tmp_path_factory.getbasetemp(), data, *breaks)
    assert isinstance(result, UploadError) or bytes(api.received) == data
