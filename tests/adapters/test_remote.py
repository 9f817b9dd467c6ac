"""The batch lane's edge as one port: against the sandbox, against servers that break as told, as recorded."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
import yaml
from blockbuster import BlockBuster

from runner.adapters import remote as module
from runner.adapters.batches import BatchesClient
from runner.adapters.lines import MIMES, write_lines
from runner.adapters.remote import BatchService
from runner.adapters.uploads import FilesClient
from runner.core.catalog import builtin
from runner.core.errors import LocalFailureError
from runner.core.lifecycle import Faulted, Lost, Pictured, Reply, Stopped, Unusable
from runner.core.reference import Part
from runner.core.remote import START, Absent, Accepted, Declined, Found, NotNow, Place, Remote, Unsure
from runner.core.task import Assignment
from runner.engine.ports import Batches, Unreadable, Unsendable
from tests.adapters.files_server import FilesApi, ImpatientClock, files_api, files_client, says
from tests.adapters.wire_server import (
    KEY,
    MODEL,
    Conversation,
    Handler,
    Hidden,
    MemorySink,
    assignment,
    pictured,
    recorded,
    response,
    serving,
)
from tests.adapters.wire_server import says as answers
from tests.sandbox.process import sandbox_process

TOKEN = "ab" * 16
RESULTS = "files/batch-5q1n8c0d4t7yk2m6w9xz3b5v7r1p0s4h6j8g"
T = TypeVar("T")


@pytest.fixture(autouse=True)
def certificates_may_be_read(no_blocking_calls: BlockBuster) -> None:
    for function in no_blocking_calls.functions.values():
        for file in ("uploads", "batches"):
            function.can_block_in(f"runner/adapters/{file}.py", {"__init__"})


def key(number: int) -> str:
    return f"{number:032x}"


def items(count: int, **changes: Any) -> list[tuple[str, Assignment]]:
    return [(key(n), assignment(f"a picture of {n}", size="512", **changes)) for n in range(count)]


@asynccontextmanager
async def service(
    base_url: str, folder: Path, secret: str = KEY, *, files: FilesClient | None = None
) -> AsyncIterator[Batches]:
    """A service whose clients wait for nothing; inputs go to `in`, pictures to `spool`."""
    hidden = Hidden(secret)
    async with AsyncExitStack() as stack:
        held = files or FilesClient(base_url=base_url, key=hidden, clock=ImpatientClock())
        jobs = BatchesClient(base_url=base_url, key=hidden, catalog=builtin())
        yield BatchService(
            await stack.enter_async_context(held),
            await stack.enter_async_context(jobs),
            catalog=builtin(),
            model_line="jobs/x.yaml:2",
            folder=folder / "in",
            spool=folder / "spool",
        )


Taken = tuple[str | None, Reply, bytes]


async def taken(
    batches: Batches, file: str, place: Place = START, most: int = -1, found: list[Taken] | None = None
) -> tuple[list[Taken], Place]:
    """What the lines say, added to `found`, and how far they were read."""
    found = [] if found is None else found
    async with batches.results(file, MODEL, place) as lines:
        async for line in lines:
            sink = MemorySink()
            await line.pour(sink)
            found.append((line.key, line.reply, sink.data))
            place = line.after
            if len(found) == most:
                break
    return found, place


async def finished(batches: Batches, name: str) -> Remote:
    while True:
        remote = await batches.get(name)
        assert isinstance(remote, Remote)
        if remote.terminal:
            return remote


def left_in(folder: Path) -> list[str]:
    """Files, at any depth."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


# --- against the sandbox ---


def in_sandbox(tmp_path: Path, story: Callable[[Batches], Awaitable[T]], **options: Any) -> T:
    """A story that a service lives in a sandbox of a thousand seconds a second."""
    settings = {"port": 0, "speed": 1_000.0, "faults": "details_missing=0", **options}

    async def main(base_url: str) -> T:
        async with service(base_url, tmp_path / "here", "sandbox") as batches:
            return await story(batches)

    with sandbox_process(tmp_path / "there", **settings) as base_url:
        return asyncio.run(main(base_url))


def test_a_batch_from_its_upload_to_its_pictures(tmp_path: Path) -> None:
    async def story(batches: Batches) -> tuple[list[Taken], list[Taken]]:
        file = await batches.upload(TOKEN, items(4))
        created = await batches.create(MODEL, "bulkrender-banana-1", file)
        assert isinstance(created, Remote)
        assert created.display_name == "bulkrender-banana-1"
        remote = await finished(batches, created.name)
        assert (remote.state, remote.stats.succeeded) == ("SUCCEEDED", 4)
        assert remote.responses_file
        found = await batches.find("bulkrender-banana-1")
        assert isinstance(found, Found)
        assert [one.name for one in found.remotes] == [created.name]
        listing = await batches.listing()
        assert isinstance(listing, tuple)
        assert [one.name for one in listing] == [created.name]
        first, place = await taken(batches, remote.responses_file, most=1)
        rest, _ = await taken(batches, remote.responses_file, place)
        return first, rest

    first, rest = in_sandbox(tmp_path, story)
    assert (len(first), len(rest)) == (1, 3)
    assert sorted(str(found) for found, _, _ in first + rest) == [key(n) for n in range(4)]
    billed = {row["sha256"] for row in map(json.loads, (tmp_path / "there/bill.jsonl").read_text().splitlines())}
    assert {hashlib.sha256(data).hexdigest() for _, _, data in first + rest} == billed
    assert all(isinstance(reply, Pictured) for _, reply, _ in first + rest)
    assert left_in(tmp_path / "here") == []


def test_a_front_end_that_knows_no_json_lines_gets_them_as_text(tmp_path: Path) -> None:
    async def story(batches: Batches) -> str:
        return await batches.upload(TOKEN, items(1))

    assert in_sandbox(tmp_path, story, faults="upload_jsonl=1").startswith("files/")


def test_a_create_whose_reply_is_lost_is_found_by_its_name(tmp_path: Path) -> None:
    async def story(batches: Batches) -> tuple[Any, Any]:
        file = await batches.upload(TOKEN, items(1))
        created = await batches.create(MODEL, "bulkrender-banana-2", file)
        return created, await batches.find("bulkrender-banana-2")

    created, found = in_sandbox(tmp_path, story, faults="batch_create_lost=1")
    assert isinstance(created, Unsure)
    assert isinstance(found, Found)
    assert len(found.remotes) == 1


def test_an_input_is_shown_to_its_own_project_and_a_service_that_is_not_there_tells_nothing(
    tmp_path: Path,
) -> None:
    async def story(batches: Batches) -> tuple[bool | None, ...]:
        mine = await batches.upload(TOKEN, items(1))
        return await batches.shows(mine), await batches.shows("files/somebody-elses")

    assert in_sandbox(tmp_path, story) == (True, False)

    async def nobody() -> bool | None:
        async with service("http://127.0.0.1:9", tmp_path / "here") as batches:
            return await batches.shows("files/x")

    assert asyncio.run(nobody()) is None


def test_a_cancelled_job_says_so_and_what_it_gives_can_be_read_or_is_gone(tmp_path: Path) -> None:
    async def story(batches: Batches) -> Remote:
        created = await batches.create(MODEL, "n", await batches.upload(TOKEN, items(2)))
        assert isinstance(created, Remote)
        assert isinstance(await batches.cancel(created.name), Accepted)
        remote = await finished(batches, created.name)
        with pytest.raises(Unreadable, match="may not exist") as caught:
            await taken(batches, f"files/batch-{created.name.removeprefix('batches/')}")
        assert not caught.value.passing
        assert isinstance(await batches.get("batches/" + "0" * 36), Absent)
        assert isinstance(await batches.cancel("batches/" + "0" * 36), Absent)
        return remote

    assert in_sandbox(tmp_path, story, batch_pending_s=100_000).state == "CANCELLED"


def test_downloads_that_break_give_every_line_once(tmp_path: Path) -> None:
    async def story(batches: Batches) -> list[Taken]:
        created = await batches.create(MODEL, "n", await batches.upload(TOKEN, items(6)))
        assert isinstance(created, Remote)
        remote = await finished(batches, created.name)
        assert remote.responses_file
        return (await taken(batches, remote.responses_file))[0]

    found = in_sandbox(tmp_path, story, faults="batch_download_cut=0.4,batch_download_503=0.3,batch_code_13=0.3")
    assert sorted(str(one) for one, _, _ in found) == [key(n) for n in range(6)]
    assert all(isinstance(reply, Pictured | Faulted) for _, reply, _ in found)


# --- inputs that are not taken ---


def uploaded(
    tmp_path: Path, wanted: list[tuple[str, Assignment]], **state: Any
) -> tuple[str | Unsendable | LocalFailureError, FilesApi]:
    """What comes of an upload, at a Files API that breaks as told; nothing may be left of the input."""

    async def main() -> tuple[str | Unsendable | LocalFailureError, FilesApi]:
        async with files_api(**state) as api, service(api.url, tmp_path, files=files_client(api)) as batches:
            try:
                return await batches.upload(TOKEN, wanted), api
            except (Unsendable, LocalFailureError) as failure:
                return failure, api

    result = asyncio.run(main())
    assert left_in(tmp_path) == []
    return result


def test_an_input_is_uploaded_as_it_was_written_under_the_batchs_token(tmp_path: Path) -> None:
    name, api = uploaded(tmp_path, items(3))
    assert name == "files/abc"
    assert [json.loads(line)["key"] for line in api.received.splitlines()] == [key(n) for n in range(3)]
    assert (api.started["display_name"], api.started["mime_type"]) == (f"{TOKEN}.jsonl", MIMES[0])


@pytest.mark.parametrize("names", [1, 2])
def test_another_type_is_tried_where_one_is_refused(tmp_path: Path, names: int) -> None:
    name, api = uploaded(tmp_path, items(1), breaks=[says(400, "Unsupported MIME type: x")] * names)
    assert name == "files/abc"
    assert api.started["mime_type"] == MIMES[names]


@pytest.mark.parametrize(
    ("state", "said", "passing"),
    [
        ({"breaks": [says(503)] * 9}, "was not uploaded: given up after 6 tries", True),
        ({"breaks": [says(429, "slow", retry_after="9999")]}, "asks to wait 9999 s", True),
        ({"breaks": [says(404)]}, "has no Files API", False),
        ({"breaks": [says(403, "no")]}, "was not uploaded: HTTP 403: no", False),
        ({"breaks": [says(400, "MIME")] * 3}, "was not uploaded: HTTP 400: MIME", False),
        ({"meta": {"state": "FAILED"}}, "cannot use it", True),
    ],
)
def test_why_an_input_was_not_uploaded_is_said(
    tmp_path: Path, state: dict[str, Any], said: str, passing: bool
) -> None:
    failure, _ = uploaded(tmp_path, items(1), **state)
    assert isinstance(failure, Unsendable)
    assert (failure.reason, failure.passing, failure.key) == ("upload_failed", passing, None)
    assert said in failure.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": " "}, "a request without words"),
        ({"prompt": "\ud800"}, "a character that is none"),
        ({"references": (Part("image/png", base64=b"AAAA"),)}, "a reference must be at the service"),
    ],
)
def test_a_request_that_cannot_be_a_line_is_named_and_nothing_is_sent(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    failure, api = uploaded(tmp_path, [*items(2), ("bad", assignment(**changes))])
    assert isinstance(failure, Unsendable)
    assert (failure.reason, failure.key, failure.passing) == ("upload_failed", "bad", False)
    assert failure.message.startswith(f"this task cannot go into a batch: {said}")
    assert not api.seen


def test_an_input_that_is_too_large_blames_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.adapters.lines.LARGEST_FILE", 700)
    failure, api = uploaded(tmp_path, items(9))
    assert isinstance(failure, Unsendable)
    assert (failure.key, failure.passing) == (None, False)
    assert "more than 700 bytes" in failure.message
    assert not api.seen


def test_a_disk_that_refuses_is_no_matter_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_lines", full)
    failure, api = uploaded(tmp_path, items(1))
    assert isinstance(failure, LocalFailureError)
    assert "No space left on device" in str(failure)
    assert not api.seen


def test_an_input_that_someone_else_changes_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meddled(path: Path, *args: Any) -> Any:
        written = write_lines(path, *args)
        os.truncate(path, 7)
        return written

    monkeypatch.setattr(module, "write_lines", meddled)
    failure, _ = uploaded(tmp_path, items(1))
    assert isinstance(failure, LocalFailureError)
    assert "it changed since" in str(failure)


def test_whoever_leaves_during_an_upload_leaves_no_input(tmp_path: Path) -> None:
    async def main() -> None:
        async def hangs(_sent: Any, _api: FilesApi) -> None:
            assert left_in(tmp_path) == [f"in/{TOKEN}.jsonl"]
            scope.cancel()
            await anyio.sleep_forever()

        with anyio.CancelScope() as scope:
            async with files_api(breaks=[hangs]) as api, service(api.url, tmp_path) as batches:
                await batches.upload(TOKEN, items(1))
        assert scope.cancelled_caught

    asyncio.run(main())
    assert left_in(tmp_path) == []


# --- results that cannot be read ---


def read(tmp_path: Path, handle: Handler, place: Place = START) -> list[Taken] | Unreadable:
    async def main() -> list[Taken] | Unreadable:
        async with serving(handle) as served, service(served.url, tmp_path) as batches:
            try:
                return (await taken(batches, RESULTS, place))[0]
            except Unreadable as failure:
                return failure

    result = asyncio.run(main())
    assert left_in(tmp_path) == []
    return result


def line(body: Any, number: int = 0) -> bytes:
    return json.dumps({"key": key(number), **body}).encode() + b"\n"


def refusal(status: int, message: str, name: str = "X") -> bytes:
    return response({"error": {"code": status, "message": message, "status": name}}, status)


@pytest.mark.parametrize(
    ("answer", "passing"),
    [
        (refusal(403, "You do not have permission to access the File x or it may not exist."), False),
        (refusal(404, "Requested entity was not found.", "NOT_FOUND"), False),
        (refusal(410, "over"), False),
        (refusal(400, "File x is expired"), False),
        (response(b"<html>404</html>", 404), True),
        (response(b"", 410), True),
        (refusal(400, "API key not valid."), True),
        (refusal(403, "billing is disabled"), True),
        (refusal(401, f"who is {KEY}?"), True),
        (refusal(400, "The File x was uploaded: only generated files can be downloaded."), True),
        (refusal(503, "later"), True),
        (response(b"", 302, location="ftp://x/"), True),
    ],
)
def test_only_the_services_word_that_results_are_gone_gives_them_up(
    tmp_path: Path, answer: bytes, passing: bool
) -> None:
    failure = read(tmp_path, answers(answer))
    assert isinstance(failure, Unreadable)
    assert failure.passing == passing
    assert KEY not in failure.message


def test_a_refusal_of_where_a_download_was_redirected_to_says_nothing_about_the_file(tmp_path: Path) -> None:
    async def handle(conversation: Conversation) -> None:
        moved = "/signed" in conversation.head
        said = refusal(404, "the file is not found", "NOT_FOUND")
        await conversation.send(said if moved else response(b"", 302, location="/signed?x=1"))

    failure = read(tmp_path, handle)
    assert isinstance(failure, Unreadable)
    assert failure.passing


def test_lines_that_came_before_a_break_are_told(tmp_path: Path) -> None:
    body = line({"response": pictured(b"one")}) + line({"error": {"code": 13, "message": "m"}}, 1)

    async def handle(conversation: Conversation) -> None:
        if "range" in conversation.headers():
            await conversation.send(refusal(404, "gone", "NOT_FOUND"))
        else:
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(body) + 9)
            await conversation.send(head + body)

    async def main() -> list[Taken]:
        found: list[Taken] = []
        async with serving(handle) as served, service(served.url, tmp_path) as batches:
            with pytest.raises(Unreadable) as caught:
                await taken(batches, RESULTS, found=found)
            assert not caught.value.passing
        return found

    first, second = asyncio.run(main())
    assert (first[0], first[2]) == (key(0), b"one")
    assert second == (key(1), Faulted(500, "m"), b"")


def test_a_line_names_the_model_where_the_manifest_does(tmp_path: Path) -> None:
    said = {"code": 5, "message": "models/x is not found"}
    found = read(tmp_path, answers(response(line({"error": said}))))
    assert isinstance(found, list)
    ((_, reply, _),) = found
    assert isinstance(reply, Stopped)
    assert "jobs/x.yaml:2" in reply.message


def test_a_spool_that_cannot_be_made_is_this_machines_failure(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"")

    async def main() -> None:
        async with service("http://127.0.0.1:1", tmp_path) as batches:
            with pytest.raises(LocalFailureError, match="results cannot be kept"):
                await taken(batches, RESULTS)

    asyncio.run(main())


def test_a_spool_is_closed_whatever_the_reader_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    spool = module._spool

    def noted(folder: Path) -> Any:
        made.append(spool(folder))
        return made[-1]

    monkeypatch.setattr(module, "_spool", noted)
    body = b"".join(line({"response": pictured()}, n) for n in range(3))

    async def main() -> None:
        async with serving(answers(response(body))) as served, service(served.url, tmp_path) as batches:
            with suppress(KeyError):
                async with batches.results(RESULTS, MODEL) as lines:
                    async for _ in lines:
                        raise KeyError
            async with batches.results(RESULTS, MODEL):
                pass

    asyncio.run(main())
    assert [one.closed for one in made] == [True, True]


# --- a list that is not whole ---


@pytest.mark.parametrize(
    ("answer", "kind"), [(refusal(503, "later"), NotNow), (response(b"", 404), Declined), (b"", NotNow)]
)
def test_a_listing_that_is_not_whole_says_why(tmp_path: Path, answer: bytes, kind: type) -> None:
    async def main() -> Any:
        async with serving(answers(answer)) as served, service(served.url, tmp_path) as batches:
            return await batches.listing()

    assert isinstance(asyncio.run(main()), kind)


# --- as recorded ---


def cassette() -> list[Any]:
    said: list[Any] = yaml.safe_load(recorded("batch/inline-two-text-requests.yml").read_text())[
        "http_interactions"
    ]
    return said


def test_the_recorded_conversation_is_lived_through_from_create_to_the_end(tmp_path: Path) -> None:
    left = [
        (one["request"]["method"].upper(), one["request"]["uri"].split("/v1beta/")[1], one["response"])
        for one in cassette()
    ]

    async def handle(conversation: Conversation) -> None:
        method, path, said = left.pop(0)
        assert conversation.head.startswith(f"{method} /v1beta/{path}")
        date = said["headers"]["Date"][0]
        await conversation.send(response(said["body"]["string"], said["status"]["code"], date=date))

    async def main() -> list[Remote]:
        async with serving(handle) as served, service(served.url, tmp_path) as batches:
            created = await batches.create("gemini-2.5-flash", "ruby_llm_bf7406835d85c375", "files/x")
            assert isinstance(created, Remote)
            seen = [created]
            while not seen[-1].terminal:
                remote = await batches.get(created.name)
                assert isinstance(remote, Remote)
                seen.append(remote)
            return seen

    seen = asyncio.run(main())
    states = [remote.state for remote in seen]
    assert states == ["PENDING", *["RUNNING"] * (len(states) - 2), "SUCCEEDED"]
    assert (seen[-1].stats.requests, seen[-1].stats.succeeded) == (2, 2)
    assert seen[-1].responses_file is None  # its results are inline: nothing that this lane would have asked for
    times = [remote.seen_utc or 0 for remote in seen]
    assert times == sorted(times)


def test_recorded_answers_are_read_out_of_a_result_file(tmp_path: Path) -> None:
    done = json.loads(cassette()[-1]["response"]["body"]["string"])
    inline = done["response"]["inlinedResponses"]["inlinedResponses"]
    body = b"".join(
        json.dumps({**one, "metadata": {"key": one["metadata"]["custom_id"]}}).encode() + b"\n" for one in inline
    )
    found = read(tmp_path, answers(response(body)))
    assert isinstance(found, list)
    assert [one for one, _, _ in found] == ["0", "1"]
    for (_, reply, _), word in zip(found, ("4", "Jupiter"), strict=True):
        assert isinstance(reply, Unusable)
        assert reply.answer.text == word
        assert reply.answer.usage
        assert reply.answer.usage.prompt == 13


def test_recorded_result_lines_are_read_whole(tmp_path: Path) -> None:
    cells = {
        cell["cell"]: cell for cell in json.loads(recorded("batch/documented-notebook-cells.json").read_text())
    }
    shown = "".join(cells[25]["outputs"])
    said, decoder = list[Any](), json.JSONDecoder()
    at = shown.find("{")
    while at >= 0:
        value, end = decoder.raw_decode(shown, at)
        said.append(value)
        at = shown.find("{", end)
    body = b"".join(json.dumps(value).encode() + b"\n" for value in said)
    found = read(tmp_path, answers(response(body)))
    assert isinstance(found, list)
    assert [one for one, _, _ in found] == [value["key"] for value in said]
    assert len(found) == 2
    assert all(isinstance(reply, Unusable) and reply.answer.text for _, reply, _ in found)
    embeddings = read(tmp_path, answers(response("".join(cells[48]["outputs"]))))
    assert isinstance(embeddings, list)
    assert [one for one, _, _ in embeddings] == ["request_1", "request_2"]
    assert all(isinstance(reply, Lost) for _, reply, _ in embeddings)
