"""The client of the Batch API: what a create tells for certain, whole lists, lenient reading."""

import asyncio
import json
import typing
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from blockbuster import BlockBuster
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.adapters import batches
from runner.adapters.batches import BatchesClient, IncompleteListError
from runner.core.catalog import builtin
from runner.core.errors import UsageError
from runner.core.lifecycle import FileGone, Invalid, Lost, Parked, Stopped, Throttled, Unreached
from runner.core.remote import (
    ACTIVE,
    TERMINAL,
    Absent,
    Accepted,
    Creation,
    Declined,
    Failure,
    Found,
    NotNow,
    Remote,
    Stats,
    Unsure,
)
from tests.adapters.wire_server import (
    KEY,
    MODEL,
    Conversation,
    Handler,
    Hidden,
    recorded,
    response,
    says,
    serving,
)

DATE = "Sun, 22 Nov 2026 10:00:00 GMT"
AT = 1_795_341_600.0
JOB = "batches/5q1n8c0d4t7yk2m6w9xz3b5v7r1p0s4h6j8g"


@pytest.fixture(autouse=True)
def certificates_may_be_read(no_blocking_calls: BlockBuster) -> None:
    for function in no_blocking_calls.functions.values():
        function.can_block_in("runner/adapters/batches.py", {"__init__"})


def operation(name: str = JOB, state: str = "BATCH_STATE_RUNNING", **more: Any) -> dict[str, Any]:
    """§8.5, with fields of the metadata laid over."""
    done = more.pop("done", None)
    said = {"name": name, "metadata": {"model": f"models/{MODEL}", "displayName": "run-1", "state": state, **more}}
    return {**said, **({"done": done} if done is not None else {})}


def client(base_url: str, **options: Any) -> BatchesClient:
    return BatchesClient(**{"base_url": base_url, "key": Hidden(), "catalog": builtin(), **options})


Call = Callable[[BatchesClient], Awaitable[Any]]


def told(handle: Handler, call: Call, **options: Any) -> tuple[Any, list[Conversation]]:
    async def main() -> tuple[Any, list[Conversation]]:
        async with serving(handle) as served, client(served.url, **options) as jobs:
            return await call(jobs), served.seen

    return asyncio.run(main())


def create(handle: Handler, **options: Any) -> Creation:
    result, _ = told(handle, lambda jobs: jobs.create(MODEL, "run-1", "files/abc"), **options)
    assert isinstance(result, typing.get_args(Creation))
    return typing.cast("Creation", result)


def created(body: Any) -> Creation:
    return create(says(response(body, date=DATE)))


def error(status: int, message: str = "said", *details: dict[str, Any], name: str = "X") -> bytes:
    said = {"error": {"code": status, "message": message, "status": name, "details": list(details)}}
    return response(said, status, date=DATE)


WAIT = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}


# --- create ---


def test_a_create_names_file_and_display_name_and_the_key_in_one_header() -> None:
    result, seen = told(
        says(response(operation(), date=DATE)), lambda jobs: jobs.create(MODEL, "run-1", "files/abc")
    )
    assert result == Remote(JOB, "run-1", "RUNNING", model=MODEL, seen_utc=AT)
    (request,) = seen
    assert request.head.startswith(f"POST /v1beta/models/{MODEL}:batchGenerateContent HTTP/1.1")
    assert json.loads(request.body) == {
        "batch": {"displayName": "run-1", "inputConfig": {"fileName": "files/abc"}}
    }
    assert request.headers()["x-goog-api-key"] == KEY
    assert KEY not in request.head.split("\r\n")[0]


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "Unsupported MIME type: jsonl", Invalid),
        (400, "API key not valid.", Stopped),
        (400, "File files/abc is not in an ACTIVE state", FileGone),
        (403, "You do not have permission to access the File abc or it may not exist.", FileGone),
        (403, "no rights", Stopped),
        (404, "models/x is not found", Stopped),
        (413, "too large", Invalid),
        (302, "elsewhere", Stopped),
    ],
)
def test_refused_for_good_means_that_no_job_was_made(status: int, message: str, kind: type) -> None:
    result = create(says(error(status, message)))
    assert isinstance(result, Declined)
    assert isinstance(result.reply, kind)
    assert message in result.reply.message
    assert result.seen_utc == AT


def test_not_now_means_that_no_job_was_made_and_when_to_come_again() -> None:
    bare = create(says(error(429, "quota exceeded")))
    assert isinstance(bare, NotNow)
    assert isinstance(bare.reply, Throttled)
    assert bare.reply.retry_after_s is None
    for status in (429, 503):
        result = create(says(error(status, "said", WAIT)))
        assert isinstance(result, NotNow)
        assert isinstance(result.reply, Throttled)
        assert result.reply.retry_after_s == 34
    day = create(says(error(429, "quota exceeded: requests per day")))
    assert isinstance(day, NotNow)
    assert isinstance(day.reply, Parked)


@pytest.mark.parametrize("status", [408, 409, 499, 500, 502, 503, 504, 524, 599])
def test_any_other_trouble_of_the_service_may_hide_a_job(status: int) -> None:
    for body in (error(status), response(b"<html>oops</html>", status), response(b"", status)):
        assert isinstance(create(says(body)), Unsure)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"name":""}', b'{"name":"operations/1"}', b'{"error":{"code":13}}']
)
def test_an_answer_without_a_job_may_hide_one(body: bytes) -> None:
    assert isinstance(created(body), Unsure)


async def closes(conversation: Conversation) -> None:
    conversation.writer.close()


async def resets(conversation: Conversation) -> None:
    conversation.reset()


async def is_cut(conversation: Conversation) -> None:
    await conversation.send(response(operation())[:-20])


async def hangs(conversation: Conversation) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("handle", [closes, resets, is_cut, says(b"garbage\r\n\r\n")])
def test_a_lost_answer_may_hide_a_job(handle: Handler) -> None:
    result = create(handle)
    assert isinstance(result, Unsure)
    assert isinstance(result.reply, Lost)


def test_an_answer_that_does_not_come_in_time_may_hide_a_job() -> None:
    assert create(hangs, request_timeout_s=0.05) == Unsure(Lost("timed_out", "no answer within 0.05 s"))


def test_a_request_that_never_left_made_no_job() -> None:
    async def main() -> Creation:
        async with client("http://127.0.0.1:1") as jobs:
            return await jobs.create(MODEL, "run-1", "files/abc")

    result = asyncio.run(main())
    assert isinstance(result, NotNow)
    assert isinstance(result.reply, Unreached)


def test_a_create_is_sent_once_whatever_happens() -> None:
    for handle in (closes, says(error(503)), says(error(500)), says(response(b"", 307, location="/elsewhere"))):
        _, seen = told(handle, lambda jobs: jobs.create(MODEL, "run-1", "files/abc"))
        assert len(seen) == 1


def test_a_display_name_that_could_not_be_found_again_is_not_sent() -> None:
    with pytest.raises(ValueError, match="201 characters"):
        told(closes, lambda jobs: jobs.create(MODEL, "n" * 201, "files/abc"))


# --- get ---


def got(body: Any) -> Any:
    return told(says(response(body, date=DATE)), lambda jobs: jobs.get(JOB))[0]


def test_a_finished_job_is_read_in_full() -> None:
    times = {
        "createTime": "2026-11-22T10:00:00.123456789Z",
        "updateTime": "2026-11-22T10:06:40Z",
        "endTime": "2026-11-22T10:06:40.000000001Z",
    }
    stats = {"requestCount": "3", "successfulRequestCount": "2", "failedRequestCount": "1"}
    body = operation(state="BATCH_STATE_SUCCEEDED", done=True, batchStats=stats, **times)
    results = {"responsesFile": "files/batch-1"}
    for said in ({**body, "response": results}, {**body, "metadata": {**body["metadata"], "output": results}}):
        assert got(said) == Remote(
            JOB,
            "run-1",
            "SUCCEEDED",
            1_795_341_600.123456,
            1_795_342_000.0,
            1_795_342_000.0,
            Stats(3, 0, 2, 1),
            "files/batch-1",
            None,
            MODEL,
            done=True,
            seen_utc=AT,
        )


def test_asking_for_a_job_leaves_its_results_out() -> None:
    _, seen = told(says(response(operation())), lambda jobs: jobs.get(JOB))
    line = seen[0].head.split("\r\n")[0]
    assert line.startswith(f"GET /v1beta/{JOB}?fields=name,done,error,response.responsesFile,metadata.name")
    assert "inlinedResponses" not in line


def test_a_router_without_partial_answers_is_asked_plainly() -> None:
    async def handle(conversation: Conversation) -> None:
        asked = "fields=" in conversation.head
        await conversation.send(error(400, "Unknown name fields") if asked else response(operation()))

    result, seen = told(handle, lambda jobs: jobs.get(JOB))
    assert (result.state, len(seen)) == ("RUNNING", 2)


@pytest.mark.parametrize(
    ("state", "done", "read", "terminal", "known"),
    [
        ("BATCH_STATE_PENDING", None, "PENDING", False, True),
        ("JOB_STATE_SUCCEEDED", None, "SUCCEEDED", True, True),
        ("JOB_STATE_PARTIALLY_SUCCEEDED", None, "PARTIALLY_SUCCEEDED", True, True),
        ("batch_state_expired", None, "EXPIRED", True, True),
        ("FAILED", None, "FAILED", True, True),
        ("BATCH_STATE_UNSPECIFIED", None, "UNSPECIFIED", False, True),
        ("BATCH_STATE_DREAMING", None, "BATCH_STATE_DREAMING", False, False),
        ("BATCH_STATE_DREAMING", True, "BATCH_STATE_DREAMING", True, False),
        ("", None, "", False, False),
        ("", True, "", True, False),
        ("BATCH_STATE_RUNNING", False, "RUNNING", False, True),
    ],
)
def test_states_lose_their_prefix_and_unknown_ones_are_kept(
    state: str, done: bool | None, read: str, terminal: bool, known: bool
) -> None:
    remote = got(operation(state=state, done=done))
    assert (remote.state, remote.terminal, remote.known) == (read, terminal, known)
    assert not TERMINAL & ACTIVE


def test_a_failed_job_says_why_in_either_case_of_its_fields() -> None:
    said = {"code": 3, "message": "Error on line 1"}
    failed = {**operation(state="BATCH_STATE_FAILED", done=True), "error": said}
    assert got(failed).error == Failure(3, "Error on line 1")
    snake = {"name": JOB, "metadata": {"display_name": "d", "batch_stats": {"request_count": 4}, "output": None}}
    remote = got(snake)
    assert (remote.display_name, remote.stats, remote.responses_file) == ("d", Stats(4), None)


def test_what_is_not_there_and_what_is_not_served_are_told_apart() -> None:
    def ask(body: bytes) -> Any:
        return told(says(body), lambda jobs: jobs.get(JOB))[0]

    assert ask(error(404, "gone", name="NOT_FOUND")) == Absent("gone", AT)
    endpoint = ask(response(b"<html>404</html>", 404))
    assert isinstance(endpoint, Declined)
    assert isinstance(endpoint.reply, Stopped)
    assert isinstance(ask(error(503)), NotNow)
    assert isinstance(ask(response(b"<html>", 200)), NotNow)
    assert isinstance(told(closes, lambda jobs: jobs.get(JOB))[0], NotNow)
    assert isinstance(told(closes, lambda jobs: jobs.get("models/x"))[0], Declined)
    assert isinstance(told(closes, lambda jobs: jobs.cancel("batches/../files/x"))[0], Declined)


# --- list ---


def pages(*bodies: Any) -> Handler:
    left = list(bodies)

    async def handle(conversation: Conversation) -> None:
        body = left.pop(0) if len(left) > 1 else left[0]
        await conversation.send(body if isinstance(body, bytes) else response(body, date=DATE))

    return handle


def page(*names: str, token: str = "") -> dict[str, Any]:
    held: dict[str, Any] = {"operations": [operation(f"batches/{n}", displayName=f"d-{n}") for n in names]}
    return held | ({"nextPageToken": token} if token else {})


async def listed(jobs: BatchesClient) -> list[str]:
    return [remote.name async for remote in jobs.list()]


def test_all_pages_are_read_and_each_job_comes_once() -> None:
    result, seen = told(pages(page("a", "b", token="t+1="), page(token="t2"), page("b", "c")), listed)
    assert result == ["batches/a", "batches/b", "batches/c"]
    lines = [request.head.split(" ")[1] for request in seen]
    assert lines == [
        "/v1beta/batches?pageSize=100",
        "/v1beta/batches?pageSize=100&pageToken=t%2B1%3D",
        "/v1beta/batches?pageSize=100&pageToken=t2",
    ]


def test_a_job_is_found_by_its_display_name_and_absence_is_told_with_the_providers_clock() -> None:
    both = (page("a", "b", token="t"), page("c"))
    found, _ = told(pages(*both), lambda jobs: jobs.find("d-c"))
    assert isinstance(found, Found)
    assert [remote.name for remote in found.remotes] == ["batches/c"]
    assert told(pages(*both), lambda jobs: jobs.find("other"))[0] == Found((), AT, 3)
    for nothing in (b"{}", b'{"operations":[]}', b"{\n}\n"):
        body = response(nothing, date=DATE)
        assert told(says(body), lambda jobs: jobs.find("other"))[0] == Found((), AT, 0)


@pytest.mark.parametrize(
    "bodies",
    [
        (page("a", token="t"), error(503)),
        (page("a", token="t"), response(b"<html>")),
        (page("a", token="t"), response({"error": {"code": 13}})),
        (page("a", token="t"), response({"operations": [{"metadata": {}}]})),
        (page("a", token="t"), page("b", token="t")),
        (page("a", token="t"), page("b", token="u"), page("c", token="t")),
    ],
)
def test_a_list_that_was_not_read_to_its_end_proves_nothing(bodies: tuple[Any, ...]) -> None:
    assert isinstance(told(pages(*bodies), lambda jobs: jobs.find("other"))[0], NotNow)


@pytest.mark.parametrize(("fresh", "most"), [(True, 30), (False, batches.MOST_STALE_PAGES + 1)])
def test_lists_without_an_end_are_given_up(fresh: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_PAGES", 30)
    count = 0

    async def endless(conversation: Conversation) -> None:
        nonlocal count
        count += 1
        await conversation.send(response(page(f"j{count}" if fresh else "same", token=f"t{count}")))

    assert isinstance(told(endless, lambda jobs: jobs.find("other"))[0], NotNow)
    assert count == most


def test_an_endpoint_without_batches_is_told_as_such() -> None:
    for body in (error(404, "not here", name="NOT_FOUND"), response(b"", 404)):
        result, _ = told(says(body), lambda jobs: jobs.find("other"))
        assert isinstance(result, Declined)
        assert isinstance(result.reply, Stopped)
        assert result.reply.reason == "endpoint"
    with pytest.raises(IncompleteListError):
        told(says(error(500)), listed)


# --- cancel, delete ---


def test_cancel_and_delete_are_one_small_request_each() -> None:
    result, (request,) = told(says(response({}, date=DATE)), lambda jobs: jobs.cancel(JOB))
    assert result == Accepted(AT)
    assert request.head.startswith(f"POST /v1beta/{JOB}:cancel HTTP/1.1")
    assert (request.headers()["content-length"], request.body) == ("0", b"")
    result, (request,) = told(says(response(b"", 204)), lambda jobs: jobs.delete(JOB))
    assert result == Accepted()
    assert request.head.startswith(f"DELETE /v1beta/{JOB} HTTP/1.1")


def test_what_cannot_be_cancelled_is_told() -> None:
    over = told(says(error(400, "it is over", name="FAILED_PRECONDITION")), lambda jobs: jobs.cancel(JOB))[0]
    assert over == Declined(Invalid(400, "it is over"), AT)
    assert isinstance(told(says(error(404)), lambda jobs: jobs.cancel(JOB))[0], Absent)
    assert isinstance(told(says(error(500)), lambda jobs: jobs.cancel(JOB))[0], NotNow)
    assert isinstance(told(closes, lambda jobs: jobs.delete(JOB))[0], NotNow)


# --- whatever comes ---


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([200, 200, 400, 403, 404, 418, 429, 500, 503]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["name", "metadata", "operations", "error", "state", "batchStats", "done", "code"]
                ),
                inner,
            )
        ),
        max_leaves=8,
    ),
)
def test_whatever_comes_every_call_tells_one_of_its_answers(status: int, body: Any) -> None:
    handle = says(response(json.dumps(body), status))
    assert isinstance(create(handle), typing.get_args(Creation))
    for call in (lambda jobs: jobs.get(JOB), lambda jobs: jobs.find("x"), lambda jobs: jobs.cancel(JOB)):
        assert isinstance(told(handle, call)[0], Remote | Absent | Declined | NotNow | Found | Accepted)


def test_the_key_is_in_no_answer() -> None:
    for body in (error(500, f"leaked {KEY}"), response(operation(displayName=KEY)), error(400, KEY)):
        assert KEY not in repr(create(says(body)))
        assert KEY not in repr(told(says(body), lambda jobs: jobs.get(JOB))[0])


def test_a_date_that_is_none_is_no_clock() -> None:
    assert got(operation()).seen_utc == AT
    for wrong in ("", "yesterday", "Sun, 99 Nov 2026 10:00:00 GMT"):
        assert create(says(response(operation(), date=wrong))).seen_utc is None


def test_a_unix_socket_and_a_prefix_are_kept(tmp_path: Path) -> None:
    async def main() -> tuple[Any, str]:
        async with (
            serving(says(response(operation())), tmp_path / "s") as served,
            client("http://router/some/prefix", uds=served.uds) as jobs,
        ):
            return await jobs.get(JOB), served.seen[0].head

    remote, head = asyncio.run(main())
    assert remote.name == JOB
    assert head.startswith(f"GET /some/prefix/v1beta/{JOB}?")


def test_a_key_or_base_that_cannot_be_used_is_said_at_once() -> None:
    with pytest.raises(UsageError):
        client("ftp://x")
    with pytest.raises(UsageError):
        client("http://x", key=Hidden("ünlaut"))


def test_the_recorded_job_is_read_from_its_creation_to_its_end() -> None:
    cassette = yaml.safe_load(recorded("batch/inline-two-text-requests.yml").read_text())["http_interactions"]
    seen: list[Any] = []
    for interaction in cassette:
        said = interaction["response"]
        handle = says(response(said["body"]["string"], date=said["headers"]["Date"][0]))
        seen.append(
            create(handle)
            if interaction["request"]["method"] == "post"
            else told(handle, lambda jobs: jobs.get(JOB))[0]
        )
    assert all(isinstance(remote, Remote) for remote in seen)
    states = [remote.state for remote in seen]
    assert (states[0], states[-1], seen[-1].terminal) == ("PENDING", "SUCCEEDED", True)
    assert {remote.display_name for remote in seen} == {"ruby_llm_bf7406835d85c375"}
    assert all(remote.seen_utc and remote.created_utc and remote.seen_utc > remote.created_utc for remote in seen)
    assert seen[0].stats == Stats(2, 2)
