"""The Batch API: the official SDK drives it, and each step by hand."""

import base64
import hashlib
import io
import json
import re
import time
from datetime import UTC, datetime

import pytest
from google import genai
from google.genai import errors, types
from PIL import Image

from runner.sandbox import Outage
from tests.sandbox.batching import HOUR, WALL, batching, jsonl, line, lines
from tests.sandbox.filing import KEY, error
from tests.sandbox.process import sandbox_process
from tests.sandbox.wire import CALM, MODEL, Json, asking, charged, pictures

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{3}|\.\d{6}|\.\d{9})?Z")


# --- the official SDK --------------------------------------------------------------------------------------------


def sdk(base_url: str) -> genai.Client:
    return genai.Client(api_key="sandbox", http_options=types.HttpOptions(base_url=base_url))


def finished(client: genai.Client, name: str | None) -> types.BatchJob:
    """Ask until it is done, as the documents do."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        job = client.batches.get(name=name or "")
        if job.done:
            return job
    raise AssertionError("the job is never done")


def test_sdk_runs_a_batch_from_a_file_and_its_whole_life(tmp_path):
    """Upload, create, poll, download, list, delete; then a stranger's and a finished job's cancel."""
    (tmp_path / "in.jsonl").write_bytes(jsonl(line("one"), line("two")))
    with (
        sandbox_process(tmp_path / "state", faults=CALM, speed=2000) as base_url,
        sdk(base_url) as client,
    ):
        config = types.UploadFileConfig(mime_type="application/jsonl", display_name="input")
        file = client.files.upload(file=tmp_path / "in.jsonl", config=config)
        job = client.batches.create(model=MODEL, src=file.name or "", config={"display_name": "posters"})
        assert (job.display_name, job.model, job.done) == ("posters", f"models/{MODEL}", False)
        assert job.create_time
        done = finished(client, job.name)
        assert done.state == types.JobState.JOB_STATE_SUCCEEDED
        assert done.dest
        assert done.end_time
        assert done.end_time > job.create_time
        results = [json.loads(text) for text in client.files.download(file=done.dest.file_name or "").splitlines()]
        assert [result["key"] for result in results] == ["one", "two"]
        data = base64.b64decode(pictures(results[0]["response"])[0]["data"])
        assert Image.open(io.BytesIO(data)).size == (512, 512)
        assert [listed.name for listed in client.batches.list()] == [job.name]
        with pytest.raises(errors.ClientError, match="400"):
            client.files.get(name=done.dest.file_name or "")
        with pytest.raises(errors.ClientError, match="FAILED_PRECONDITION"):
            client.batches.cancel(name=job.name or "")
        client.batches.delete(name=job.name or "")
        assert list(client.batches.list()) == []
        with pytest.raises(errors.ClientError, match="404 NOT_FOUND"):
            client.batches.get(name=job.name or "")


def test_sdk_runs_a_batch_inline(tmp_path):
    """Its results are in the job; one of its requests fails, and the job succeeds."""
    good = types.InlinedRequest(
        contents="a cat",
        metadata={"key": "one"},
        config=types.GenerateContentConfig(
            response_modalities=["IMAGE"], image_config=types.ImageConfig(aspect_ratio="16:9", image_size="512")
        ),
    )
    bad = types.InlinedRequest(
        contents="a dog",
        metadata={"key": "two"},
        config=types.GenerateContentConfig(image_config=types.ImageConfig(image_size="1k")),
    )
    with sandbox_process(tmp_path, faults=CALM, speed=2000) as base_url, sdk(base_url) as client:
        job = client.batches.create(model=MODEL, src=[good, bad], config={"display_name": "two pets"})
        done = finished(client, job.name)
        assert done.dest
        assert done.dest.inlined_responses
        first, second = done.dest.inlined_responses
        (listed,) = client.batches.list()
    assert first.response
    assert first.response.parts
    assert (first.metadata, second.metadata) == ({"key": "one"}, {"key": "two"})
    (image,) = [part.inline_data for part in first.response.parts if part.inline_data]
    assert Image.open(io.BytesIO(image.data or b"")).size == (688, 384)
    assert second.error
    assert second.error.code == 3
    assert listed.state == types.JobState.JOB_STATE_SUCCEEDED
    assert not (listed.dest and listed.dest.inlined_responses)


def test_sdk_cancels(tmp_path):
    """The reply comes at once, the state later."""
    requests = [types.InlinedRequest(contents="a cat", metadata={"key": "one"})]
    with (
        sandbox_process(tmp_path, faults=CALM, speed=100, batch_pending_s=1e6) as base_url,
        sdk(base_url) as client,
    ):
        job = client.batches.create(model=MODEL, src=requests, config={"display_name": "never"})
        assert job.state == types.JobState.JOB_STATE_PENDING
        client.batches.cancel(name=job.name or "")
        assert finished(client, job.name).state == types.JobState.JOB_STATE_CANCELLED


# --- shapes ------------------------------------------------------------------------------------------------------


def test_an_operation_from_its_first_to_its_last_state(tmp_path):
    """As recorded: `done` only at the end, counts as text without zeros, the results twice, times in RFC 3339."""
    with batching(tmp_path, batch_pending_s=100, batch_running_s=1000, batch_line_s=0) as client:
        created = client.submit(*lines(4), name="shapes").json()
        name = created["name"]
        assert re.fullmatch(r"batches/[a-z0-9]{36}", name)
        metadata = created["metadata"]
        assert created.keys() == {"name", "metadata"}
        assert metadata.keys() == {
            *("@type", "model", "displayName", "inputConfig", "createTime", "updateTime", "batchStats", "state"),
            "name",
        }
        assert metadata["@type"].endswith("v1main.GenerateContentBatch")
        assert (metadata["model"], metadata["displayName"]) == (f"models/{MODEL}", "shapes")
        assert metadata["batchStats"] == {"requestCount": "4", "pendingRequestCount": "4"}
        seen = []
        while not (shown := client.get(name)).get("done"):
            seen.append(
                (shown["metadata"]["state"], shown["metadata"]["batchStats"].get("successfulRequestCount"))
            )
            client.later(20)
    metadata = shown["metadata"]
    assert list(dict.fromkeys(seen)) == [
        ("BATCH_STATE_PENDING", None),
        *(("BATCH_STATE_RUNNING", count) for count in (None, "1", "2", "3")),
    ]
    assert metadata["state"] == "BATCH_STATE_SUCCEEDED"
    assert metadata["batchStats"] == {"requestCount": "4", "successfulRequestCount": "4"}
    assert metadata["output"] == {"responsesFile": f"files/batch-{name.removeprefix('batches/')}"}
    assert shown["response"] == {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatchOutput",
        **metadata["output"],
    }
    times = [metadata[f"{what}Time"] for what in ("create", "end", "update")]
    assert all(STAMP.fullmatch(text) for text in times)
    start = datetime.fromtimestamp(WALL, UTC)
    assert abs((datetime.fromisoformat(times[0]) - start).total_seconds()) <= 1
    assert 550 <= (datetime.fromisoformat(times[1]) - start).total_seconds() <= 1651


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("name", {"name": None}),
        ("name,metadata.state", {"name": None, "metadata": {"state": None}}),
        (
            "done,metadata(state,batchStats/requestCount)",
            {"done": None, "metadata": {"state": None, "batchStats": {"requestCount": None}}},
        ),
        ("nothing", {}),
    ],
)
def test_fields_keep_what_they_name(tmp_path, fields, expected):
    def shape(value):
        return {name: shape(item) for name, item in value.items()} if isinstance(value, dict) else None

    with batching(tmp_path) as client:
        name = client.create(*lines(1))
        client.later()
        assert shape(client.get(name, fields=fields)) == expected
        page = client.get("batches", fields="operations.name,nextPageToken")
        assert page == {"operations": [{"name": name}]}
        for wrong in ("name,", "metadata(state", "a..b", ")"):
            assert error(client.api.get(name, fields=wrong))[:2] == (400, "INVALID_ARGUMENT")


def test_both_spellings_of_a_create_and_of_a_line(tmp_path):
    snake = {"request": {"contents": [{"parts": [{"text": "a cat"}]}], "generation_config": {"image_config": {
        "image_size": "512"}, "response_modalities": ["IMAGE"]}}, "metadata": {"key": "m"}}  # fmt: skip
    with batching(tmp_path) as client:
        body = {"batch": {"display_name": "x", "input_config": {"file_name": client.upload(snake, line("k"))}}}
        answer = client.http.post(f"/v1/models/{MODEL}:batchGenerateContent", json=body, headers=KEY)
        client.later()
        first, second = client.results(answer.json()["name"])
    assert (first["metadata"], "key" in first) == ({"key": "m"}, False)
    assert (second["key"], "metadata" in second) == ("k", False)
    assert [row["key"] for row in client.book("bill")] == ["m", "k"]


@pytest.mark.parametrize("form", ["/v1beta", "/v1", "/download/v1beta"])
def test_results_can_be_downloaded_and_nothing_else(tmp_path, form):
    with batching(tmp_path) as client:
        name = client.create(*lines(3))
        assert error(client.download(name, form))[0] == 403
        client.later()
        answer = client.download(name, form)
        assert [json.loads(text)["key"] for text in answer.content.splitlines()] == ["k0", "k1", "k2"]
        assert int(answer.headers["content-length"]) == len(answer.content)
        results = f"files/batch-{name.removeprefix('batches/')}"
        assert error(client.api.get(results))[:2] == (400, "INVALID_ARGUMENT")
        assert error(client.api.delete(results))[:2] == (400, "INVALID_ARGUMENT")
        client.later(48 * HOUR)
        assert error(client.download(name, form))[0] == 403


def test_fields_of_a_result_have_no_fixed_order(tmp_path):
    with batching(tmp_path) as client:
        name = client.create(*lines(12))
        client.later()
        orders = {tuple(result) for result in client.results(name)}
    assert orders == {("response", "key"), ("key", "response")}


def test_every_result_is_on_the_bill_at_the_price_of_the_batch_lane(tmp_path):
    """Line for line, by batch and key; what `lines` says arrived is what was billed."""
    with batching(tmp_path, faults=f"{CALM},image_safety=0.2,several_images=0.2,batch_code_13=0.2") as client:
        name = client.create(*lines(20))
        client.later()
        results = {result["key"]: result for result in client.results(name)}
    answered = {key: result["response"] for key, result in results.items() if "response" in result}
    bill = client.book("bill")
    assert {row["key"]: (row["input"], row["text"], row["image"]) for row in bill} == {
        key: charged(answer) for key, answer in answered.items()
    }
    assert {(row["lane"], row["batch"], row["tier"]) for row in bill} == {("batch", name, "standard")}
    assert {row["key"]: row["response_id"] for row in bill} == {
        key: answer["responseId"] for key, answer in answered.items()
    }
    arrivals = {row["n"]: row for row in client.book("lines")}
    assert [arrivals[row["arrival"]]["key"] for row in bill] == [row["key"] for row in bill]
    assert {row["key"]: row["code"] for row in arrivals.values()} == {
        key: result.get("error", {}).get("code") for key, result in results.items()
    }
    for row in bill:
        if row["sha256"]:
            data = base64.b64decode(pictures(answered[row["key"]])[-1]["data"])
            assert hashlib.sha256(data).hexdigest() == row["sha256"]


def test_the_same_request_is_another_sample_each_time(tmp_path):
    """In a batch, in the next one, and alone: as often as it is bought."""
    with batching(tmp_path) as client:
        client.create(line("a", "a cat"), line("a", "a cat"), name="first")
        client.later()
        client.create(line("a", "a cat"), name="second")
        client.later()
        client.get("batches")
        body = line("a", "a cat")["request"]
        client.http.post(f"/v1beta/models/{MODEL}:generateContent", json=body, headers=KEY)
    bill = client.book("bill")
    assert [(row["lane"], row["seen"]) for row in bill] == [
        ("batch", 1),
        ("batch", 2),
        ("batch", 3),
        ("standard", 4),
    ]
    assert len({row["sha256"] for row in bill}) == 4


def test_the_log_tells_the_life_of_every_job(tmp_path):
    with batching(tmp_path) as client:
        name = client.create(*lines(2), name="posters")
        client.later()
        client.get(name, fields="done")
        other = client.create(*lines(3), name="mugs")
        client.cancel(other)
        client.later()
        client.get("batches")
    log = [
        (row["op"], row["batch"], row["display_name"], row["keys"], row["state"], row["fields"], row["status"])
        for row in client.book("batches")
    ]
    assert log == [
        ("create", name, "posters", 2, "PENDING", None, "200"),
        ("finish", name, "posters", 2, "SUCCEEDED", None, "done"),
        ("get", name, "posters", 2, "SUCCEEDED", "done", "200"),
        ("create", other, "mugs", 3, "PENDING", None, "200"),
        ("cancel", other, "mugs", 3, "PENDING", None, "200"),
        ("finish", other, "mugs", 3, "CANCELLED", None, "done"),
        ("list", None, None, None, None, None, "200"),
    ]


def test_pages_of_the_list_shift_by_nothing_that_comes_meanwhile(tmp_path):
    """Newest first; neither a new job nor one that is deleted makes a page repeat or lack another."""
    with batching(tmp_path) as client:
        names = [client.create(*lines(1), name=f"job {n}") for n in range(5)][::-1]
        first = client.get("batches", pageSize=2)
        client.create(*lines(1), name="late")
        assert client.api.delete(names[1]).json() == {}
        second = client.get("batches", pageSize=2, pageToken=first["nextPageToken"])
        third = client.get("batches", pageSize=2, pageToken=second["nextPageToken"])
        assert error(client.api.get("batches", pageToken="x"))[0] == 400
    shown = [[item["name"] for item in page["operations"]] for page in (first, second, third)]
    assert shown == [names[:2], names[2:4], names[4:]]
    assert "nextPageToken" not in third


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "fragment"),
    [
        (b'{"key": "x", "request": {"contents": }}\n', "line 2, column 38"),
        (b'{"key": "x", "request": {"contents": [{"parts": [{"text": "a"}]}], "config": {}}}\n', '"config" at'),
        (b'{"key": "x"}\n', "request is not specified"),
        (b'{"key": 5, "request": {}}\n', "line 2, column 1"),
        (b"\xff\n", "line 2, column 1"),
    ],
)
def test_one_malformed_line_fails_the_whole_job(tmp_path, bad, fragment):
    """Not at once: the create is accepted."""
    with batching(tmp_path) as client:
        file = client.api.put(jsonl(line("k")) + bad + jsonl(line("l")), "application/jsonl")["name"]
        name = client.post({"fileName": file}).json()["name"]
        assert client.state(name) == "PENDING"
        client.later()
        shown = client.get(name)
        assert error(client.download(name))[0] == 403
    assert shown["done"]
    assert shown["metadata"]["state"] == "BATCH_STATE_FAILED"
    assert shown["error"]["code"] == 3
    assert "Error on line 2" in shown["error"]["message"]
    assert fragment in shown["error"]["message"]
    assert not {"response"} & shown.keys()
    assert "output" not in shown["metadata"]
    assert not client.book("bill")


def test_a_request_that_cannot_be_served_fails_alone(tmp_path):
    gone = line("gone")
    gone["request"]["contents"][0]["parts"].append({"fileData": {"fileUri": "https://x/v1beta/files/gone"}})
    with batching(tmp_path) as client:
        name = client.create(line("k"), line("small", imageConfig={"imageSize": "1k"}), gone)
        client.later()
        results = client.results(name)
        stats = client.get(name)["metadata"]["batchStats"]
    assert [result.get("error", {}).get("code") for result in results] == [None, 3, 7]
    assert stats == {"requestCount": "3", "successfulRequestCount": "1", "failedRequestCount": "2"}
    assert len(client.book("bill")) == 1


def test_creates_that_are_refused(tmp_path):
    with batching(tmp_path, retired=frozenset({"gemini-2.5-flash-image"}), request_bytes=4000) as client:
        file = client.upload(line("k"))
        picture = client.api.put(b"x", "application/x-strange")["name"]
        url = f"/v1beta/models/{MODEL}:batchGenerateContent"

        def refused(body, path=url, headers=KEY):
            return error(client.http.post(path, json=body, headers=headers))[:2]

        source = {"batch": {"displayName": "x", "inputConfig": {"fileName": file}}}
        inline = {"requests": {"requests": [{"request": asking("x" * 5000)}]}}
        wrong: Json = {"requests": {"requests": [{"request": {"config": {}}}]}}
        assert refused(source, headers={}) == (403, "PERMISSION_DENIED")
        assert refused(source, url.replace(MODEL, "nobody")) == (404, "NOT_FOUND")
        assert refused(source, url.replace(MODEL, "gemini-2.5-flash-image")) == (404, "NOT_FOUND")
        assert refused({"batch": {"displayName": "x", "inputConfig": {"fileName": "files/nothing"}}})[0] == 403
        for body in (
            {},
            {"batch": {"inputConfig": {"fileName": file}}},
            {"batch": {"displayName": "x", "inputConfig": {}}},
            {"batch": {"displayName": "x", "inputConfig": {"fileName": picture}}},
            {"batch": {"displayName": "x", "inputConfig": inline}},
            {"batch": {"displayName": "x", "inputConfig": wrong}},
            {"batch": {"displayName": "x", "inputConfig": {"fileName": file}, "dead": 1}},
        ):
            assert refused(body) == (400, "INVALID_ARGUMENT")
        assert not client.listed()
        for method, path in (("GET", ""), ("POST", ":cancel"), ("DELETE", ""), ("POST", ":delete")):
            answer = client.http.request(method, f"/v1beta/batches/{'a' * 36}{path}", headers=KEY)
            assert error(answer)[:2] == (404, "NOT_FOUND")


def test_limits_on_jobs_and_on_their_tokens(tmp_path):
    """Neither names itself on the wire; the log does. What is done makes room."""
    with batching(tmp_path, batch_jobs=2, batch_tokens=20) as client:
        client.create(line("a", "one two three"), name="first")
        answer = client.submit(line("b", "word " * 40), name="large")
        assert error(answer) == (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).")
        (detail,) = answer.json()["error"]["details"]
        assert detail["@type"].endswith("google.rpc.Help")
        second = client.create(line("c", "one two three"), name="second")
        assert client.submit(line("d", "x"), name="third").status_code == 429
        client.cancel(second)
        client.later(60)
        client.create(line("d", "x"), name="third")
    assert [row["refused_by"] for row in client.book("batches") if row["status"] == "429"] == [
        "batch_tokens",
        "batch_jobs",
    ]


def test_a_deleted_job_goes_on_unseen(tmp_path):
    """Delete is not a cancel: it is billed all the same, and nobody gets the results."""
    with batching(tmp_path, batch_jobs=1) as client:
        name = client.create(*lines(2))
        assert client.api.delete(name).json() == {}
        assert not client.listed()
        assert client.submit(line("x"), name="next").status_code == 429
        client.later()
        assert error(client.download(name))[0] == 403
        assert client.submit(line("x"), name="next").status_code == 200
    assert len(client.book("bill")) == 2


@pytest.mark.parametrize("shown", [False, True])
def test_a_cancelled_job_bills_what_was_done(tmp_path, shown):
    """The state moves later, and the results of what was done are lost unless the switch says otherwise."""
    with batching(
        tmp_path, cancelled_output=shown, batch_pending_s=0, batch_running_s=1000, batch_line_s=0
    ) as client:
        name = client.create(*lines(10))
        client.later(300)
        assert client.state(name) == "RUNNING"
        assert client.cancel(name).json() == {}
        assert client.cancel(name).json() == {}
        assert client.state(name) == "RUNNING"
        client.later(60)
        ended = client.get(name)
        billed = len(client.book("bill"))
        assert error(client.cancel(name))[:2] == (400, "FAILED_PRECONDITION")
        client.later()
        assert client.get(name) == ended
        download = client.download(name)
    assert ended["metadata"]["state"] == "BATCH_STATE_CANCELLED"
    assert 0 < billed < 10
    assert len(client.book("bill")) == billed
    assert ended["metadata"]["batchStats"]["successfulRequestCount"] == str(billed)
    if shown:
        assert len(download.content.splitlines()) == billed
        assert ended["response"]["responsesFile"]
    else:
        assert error(download)[0] == 403
        assert ended["error"]["code"] == 1


def test_more_than_48_hours_expire_and_yield_nothing(tmp_path):
    with batching(tmp_path, batch_pending_s=1e9) as client:
        name = client.create(*lines(2))
        client.later(48 * HOUR - 1)
        assert client.state(name) == "PENDING"
        client.later(1)
        shown = client.get(name)
    assert shown["metadata"]["state"] == "BATCH_STATE_EXPIRED"
    assert (shown["done"], "response" in shown, "output" in shown["metadata"]) == (True, False, False)
    assert not client.book("bill")


def test_the_input_may_vanish_once_the_job_is_there(tmp_path):
    with batching(tmp_path) as client:
        file = client.upload(*lines(2))
        name = client.post({"fileName": file}).json()["name"]
        client.api.delete(file)
        client.later()
        assert len(client.results(name)) == 2


def test_an_outage_is_one_for_batches_too(tmp_path):
    with batching(tmp_path, outages=(Outage(0, 60),)) as client:
        assert client.submit(line("k")).status_code == 503
        assert client.api.get("batches").status_code == 503
        client.later(60)
        assert client.submit(line("k")).status_code == 200
    assert [row["status"] for row in client.book("batches")] == ["outage_503", "outage_503", "200"]


def test_what_it_does_takes_no_more_memory_than_a_line(tmp_path):
    """Forty lines of a megabyte and a half each: written, and read again, one by one."""
    import tracemalloc

    with batching(tmp_path, signature_bytes=1 << 20) as client:
        name = client.create(*lines(40))
        client.later()
        tracemalloc.start()
        while not client.get(name).get("done"):
            pass
        total = 0
        path = f"/v1beta/files/batch-{name.removeprefix('batches/')}:download"
        with client.http.stream("GET", path, headers=KEY) as answer:
            for chunk in answer.iter_raw(1 << 16):
                total += len(chunk)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert total > 50 << 20
    assert peak < 25 << 20
