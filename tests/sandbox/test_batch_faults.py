"""Every fault of the Batch API has its shape on the wire."""

import json
from collections import Counter
from pathlib import Path

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runner.sandbox import FaultPlan, Options
from runner.sandbox.faults import BATCH_FAULTS, FAULTS, ITEM_FAULTS, PRESETS
from runner.sandbox.job import LIFETIME_S, Given, create, from_record
from runner.sandbox.line import MISSHAPEN_CODES, UNCONNECTED
from runner.sandbox.reply import ERRORS, LOST
from tests.sandbox.batching import HOUR, WALL, batching, line, lines
from tests.sandbox.filing import KEY, error
from tests.sandbox.test_recorded import RECORDED, fields
from tests.sandbox.wire import CALM


def keys(results) -> list[str]:
    return [result["key"] for result in results]


def test_no_preset_has_any_of_them():
    names = {*ITEM_FAULTS, *(name for group in BATCH_FAULTS.values() for name in group)}
    assert not any(names & rates.keys() for rates in PRESETS.values())


def test_a_create_whose_reply_is_lost_has_made_a_job(tmp_path):
    """The caller sees a broken connection or an error, never the job; each create is another job."""
    seen = []
    with batching(tmp_path, faults=f"{CALM},batch_create_lost=1") as client:
        file = client.upload(line("k"))
        for _ in range(12):
            try:
                seen.append(str(client.post({"fileName": file}, "token").status_code))
            except httpx.TransportError as broken:
                seen.append(type(broken).__name__)
        shown = client.get("batches", pageSize=100)["operations"]
    assert {"503", "504"} < {*seen}
    assert "200" not in seen
    assert len(shown) == 12
    assert {item["metadata"]["displayName"] for item in shown} == {"token"}
    assert {row["fault"] for row in client.book("batches") if row["op"] == "create"} == {"batch_create_lost"}


@pytest.mark.parametrize(("fault", "status"), [("batch_create_429", 429), ("batch_create_503", 503)])
def test_a_create_that_is_refused_has_made_none(tmp_path, fault, status):
    with batching(tmp_path, faults=f"{fault}=1") as client:
        answer = client.submit(line("k"))
        assert answer.status_code == status
        assert not client.listed()
    if status == 429:
        assert [item["@type"].rsplit(".", 1)[1] for item in answer.json()["error"]["details"]] == ["Help"]


@pytest.mark.parametrize(
    ("fault", "states", "code", "billed"),
    [
        ("batch_stuck", ["PENDING", "EXPIRED"], 4, (0, 0)),
        ("batch_expired", ["PENDING", "RUNNING", "EXPIRED"], 4, (1, 19)),
        ("batch_failed", ["PENDING", "RUNNING", "FAILED"], 13, (0, 0)),
        ("batch_unknown_state", ["PENDING", "UNDER_REVIEW", "SUCCEEDED"], None, (20, 20)),
        ("batch_partly", ["PENDING", "RUNNING", "PARTIALLY_SUCCEEDED"], None, (20, 20)),
    ],
)
def test_jobs_that_go_wrong_as_a_whole(tmp_path, fault, states, code, billed):
    seen = []
    with batching(tmp_path, faults=f"{CALM},{fault}=1") as client:
        name = client.create(*lines(20))
        for _ in range(12):
            seen.append(client.state(name))
            client.later(20)
        client.later(48 * HOUR)
        shown = client.get(name)
        seen.append(shown["metadata"]["state"].removeprefix("BATCH_STATE_"))
        if code is None:
            client.later(-48 * HOUR)
    assert list(dict.fromkeys(seen)) == states
    assert shown["done"]
    assert shown.get("error", {}).get("code") == code
    assert ("response" in shown) == (code is None)
    assert billed[0] <= len(client.book("bill")) <= billed[1]


def test_lines_are_dropped_shuffled_or_repeated_and_billed_once_each(tmp_path):
    with batching(tmp_path / "dropped", faults=f"{CALM},batch_lines_dropped=1") as client:
        name = client.create(*lines(20))
        client.later()
        kept = keys(client.results(name))
        bill = client.book("bill")
    assert len(kept) == 18
    assert kept == [f"k{n}" for n in range(20) if f"k{n}" in kept]
    assert sorted(row["key"] for row in bill) == sorted(f"k{n}" for n in range(20))
    assert {row["key"] for row in bill if row["answered"]} == {*kept}
    with batching(tmp_path / "shuffled", faults=f"{CALM},batch_lines_shuffled=1") as client:
        name = client.create(*lines(20))
        client.later()
        shuffled = keys(client.results(name))
        assert len(client.book("bill")) == 20
    assert shuffled != [f"k{n}" for n in range(20)] != sorted(shuffled)
    assert Counter(shuffled) == Counter(f"k{n}" for n in range(20))
    with batching(tmp_path / "repeated", faults=f"{CALM},batch_lines_repeated=1") as client:
        name = client.create(*lines(20))
        client.later()
        results = client.results(name)
        assert len(client.book("bill")) == 20
    assert sorted(Counter(keys(results)).values()) == [1] * 18 + [2] * 2
    assert len({json.dumps(result, sort_keys=True) for result in results}) == 20


def test_duplicate_keys_of_the_caller_are_two_results(tmp_path):
    with batching(tmp_path) as client:
        name = client.create(line("same", "a cat"), line("same", "a dog"))
        client.later()
        assert keys(client.results(name)) == ["same", "same"]
    assert [row["prompt"] for row in client.book("bill")] == ["a cat", "a dog"]


def test_the_key_in_metadata_and_status_for_error(tmp_path):
    faults = f"{CALM},batch_code_14=0.5"
    with batching(tmp_path / "a", faults=f"{faults},batch_key_in_metadata=1") as client:
        name = client.create(*lines(10))
        client.later()
        results = client.results(name)
    assert [result["metadata"] for result in results] == [{"key": f"k{n}"} for n in range(10)]
    assert not any("key" in result for result in results)
    with batching(tmp_path / "b", faults=f"{faults},batch_status_lines=1") as client:
        name = client.create(*lines(10))
        client.later()
        results = client.results(name)
    assert {tuple(sorted(result)) for result in results} == {("key", "response"), ("key", "status")}
    assert {result["status"]["code"] for result in results if "status" in result} == {14}


@pytest.mark.parametrize(("fault", "code"), ITEM_FAULTS.items())
def test_codes_of_single_lines(tmp_path, fault, code):
    """The job succeeds; what failed is not billed."""
    with batching(tmp_path, faults=f"{CALM},{fault}=1") as client:
        name = client.create(*lines(2))
        client.later()
        results = client.results(name)
        shown = client.get(name)
    assert [result["error"]["code"] for result in results] == [code] * 2
    assert all(result["error"]["message"] for result in results)
    assert shown["metadata"]["batchStats"] == {"requestCount": "2", "failedRequestCount": "2"}
    assert shown["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert not client.book("bill")


@pytest.mark.parametrize("fault", FAULTS)
def test_lines_meet_the_faults_of_single_requests(tmp_path, fault):
    """Statuses become gRPC codes, connections and tiers do not matter, all else is in the response."""
    with batching(tmp_path, faults=f"{CALM},{fault}=1") as client:
        name = client.create(line("k"))
        client.later()
        (result,) = client.results(name)
    bill = client.book("bill")
    fails = fault in {*ERRORS, *MISSHAPEN_CODES} or (fault in LOST and fault not in UNCONNECTED)
    assert set(result) == {"key", "error" if fails else "response"}
    assert len(bill) == (not fails)
    if fault == "unknown_finish":
        assert result["response"]["candidates"][0]["finishReason"] == "IMAGE_UNDER_REVIEW"


def test_downloads_that_are_cut_or_refused(tmp_path):
    """A cut is no end: the length says so. Asked again, the rest comes or does not."""
    with batching(tmp_path, faults=f"{CALM},batch_download_cut=0.5,batch_download_503=0.2") as client:
        name = client.create(*lines(3))
        client.later()
        seen, whole = [], set()
        for _ in range(30):
            try:
                answer = client.download(name)
            except httpx.RemoteProtocolError:
                seen.append("cut")
                continue
            seen.append(str(answer.status_code))
            if answer.status_code == 200:
                whole.add(answer.content)
    assert {*seen} == {"cut", "503", "200"}
    assert len(whole) == 1
    faults = [row["fault"] for row in client.book("files") if row["op"] == "download"]
    assert Counter(faults)["batch_download_cut"] == seen.count("cut")


def test_a_list_that_lacks_the_newest_for_a_while(tmp_path):
    """Ten minutes at most; the job itself can be had by its name."""
    with batching(tmp_path, faults=f"{CALM},batch_list_omits=1") as client:
        name = client.create(*lines(1))
        client.later(59)
        assert client.listed() == []
        assert client.get(name)["name"] == name
        client.later(542)
        assert client.listed() == [name]


def test_a_list_that_repeats_the_newest(tmp_path):
    with batching(tmp_path, faults=f"{CALM},batch_list_repeats=1") as client:
        names = [client.create(line("k"), name=f"job {n}") for n in range(4)][::-1]
        first = client.get("batches", pageSize=2)
        second = client.get("batches", pageSize=2, pageToken=first["nextPageToken"])
    shown = [[item["name"] for item in page["operations"]] for page in (first, second)]
    assert shown == [[names[0], *names[:2]], [names[0], *names[2:]]]


@pytest.mark.parametrize("call", ["list", "get"])
def test_reads_that_are_refused(tmp_path, call):
    with batching(tmp_path, faults=f"{CALM},batch_{call}_503=0.5") as client:
        name = client.create(line("k"))
        statuses = {client.api.get("batches" if call == "list" else name).status_code for _ in range(20)}
    assert statuses == {200, 503}


def test_a_cancel_that_takes_long(tmp_path):
    with batching(tmp_path, faults=f"{CALM},batch_cancel_slow=1", batch_pending_s=1e6) as client:
        name = client.create(line("k"))
        client.cancel(name)
        client.later(599)
        assert client.state(name) == "PENDING"
        client.later(1202)
        assert client.state(name) == "CANCELLED"


@pytest.mark.parametrize("given", [{"faults": f"{CALM},batch_inline_too_large=1"}, {"batch_inline_bytes": 1000}])
def test_results_inline_that_cannot_be_had(tmp_path, given):
    """The job itself can: without them, and in the list."""
    with batching(tmp_path, **given) as client:
        requests = [{"request": line("k")["request"], "metadata": {"key": "k"}}]
        name = client.post({"requests": {"requests": requests}}).json()["name"]
        client.later()
        statuses = {client.api.get(name).status_code for _ in range(12)}
        assert client.get(name, fields="done,metadata.state")["done"]
        assert client.listed() == [name]
    assert statuses == {503, 504}
    assert len(client.book("bill")) == 1


def test_all_of_them_at_once_replay(tmp_path):
    """The same creates meet the same fates in another sandbox of the same seed, to the byte."""
    faults = f"{CALM},batch_lines_shuffled=0.5,batch_status_lines=0.5,batch_code_13=0.3,batch_failed=0.4"
    fates = []
    for folder in ("a", "b"):
        with batching(tmp_path / folder, faults=faults) as client:
            names = [client.create(*lines(4), name=f"job {n}") for n in range(6)]
            client.later()
            fates.append([(name, client.state(name), client.download(name).content) for name in names])
    assert fates[0] == fates[1]
    assert {state for _, state, _ in fates[0]} == {"SUCCEEDED", "FAILED"}


def test_inline_operations_have_the_recorded_fields(tmp_path):
    """Every field of the recorded traffic from the create to the end is in ours."""
    path = Path(RECORDED / "batch" / "inline-two-text-requests.yml")
    if not path.exists():
        pytest.skip("the recorded answers are not beside this repository")
    traffic = yaml.safe_load(path.read_text())["http_interactions"]
    asked = json.loads(traffic[0]["request"]["body"]["string"])
    recorded = [json.loads(item["response"]["body"]["string"]) for item in traffic]
    for row in asked["batch"]["inputConfig"]["requests"]["requests"]:
        row["request"]["generationConfig"] = {"responseModalities": ["TEXT"]}
    model = "gemini-3.1-flash-image"
    url = f"/v1beta/models/{model}:batchGenerateContent"
    with batching(tmp_path, batch_running_s=1000) as client:
        created = client.http.post(url, json=asked, headers=KEY).json()
        client.later(100)
        running = client.get(created["name"])
        client.later()
        done = client.get(created["name"])
    ours = {item["metadata"]["state"]: item for item in (created, running, done)}
    seen = {item["metadata"]["state"]: item for item in recorded if "metadata" in item}
    assert seen.keys() == ours.keys()
    # A picture's model does not always think.
    beside = {"thoughtsTokenCount"}
    for state, item in seen.items():
        missing = fields(item) - fields(ours[state])
        assert {name.rsplit(".", 1)[-1] for name in missing} <= beside
    results = done["response"]["inlinedResponses"]["inlinedResponses"]
    assert [result["metadata"] for result in results] == [{"custom_id": "0"}, {"custom_id": "1"}]
    assert results == done["metadata"]["output"]["inlinedResponses"]["inlinedResponses"]


# --- the time line -----------------------------------------------------------------------------------------------

ONE_OF_EACH = st.fixed_dictionaries(
    {},
    optional={
        name: st.just(1.0)
        for name in ("batch_stuck", "batch_expired", "batch_failed", "batch_unknown_state", "batch_lines_dropped")
    },
).filter(lambda rates: sum(name in BATCH_FAULTS["run"] for name in rates) <= 1)


@given(
    rates=ONE_OF_EACH,
    total=st.integers(0, 50),
    means=st.tuples(*[st.floats(0, 2e5)] * 2),
    asks=st.lists(st.floats(-10, 3 * LIFETIME_S), max_size=20),
    cancel=st.none() | st.floats(0, 2 * LIFETIME_S),
)
def test_lines_are_done_in_their_time_and_never_undone(rates, total, means, asks, cancel):
    """Whenever it is looked at: never fewer lines than before, never more than there are, all of a success."""
    options = Options(Path(), faults=FaultPlan(rates), batch_pending_s=means[0], batch_running_s=means[1])
    problem = None if total else "nothing"
    job = create(options, Given("x", "m", "name", "files/x", total, 1, problem), 1, 1, WALL)
    if cancel is not None:
        before = job.due(WALL + cancel)
        job = job.cancel(WALL + cancel)
        assert job.due(1e12) >= before
        assert job.due(WALL + cancel) == before
    done = [job.due(WALL + ask) for ask in sorted(asks)]
    assert done == sorted(done)
    assert all(0 <= count <= total for count in done)
    assert job.created <= job.starts <= job.ends <= job.created + LIFETIME_S + 1e-3
    if job.end == "SUCCEEDED":
        assert job.due(job.ends) == total
    if job.end == "FAILED":
        assert job.due(1e12) == 0
    assert all(job.next_event(count) <= job.ends for count in range(total + 1))


def test_a_job_is_what_was_written_down(tmp_path):
    with batching(tmp_path, faults=f"{CALM},batch_lines_shuffled=1,batch_partly=1") as client:
        name = client.create(*lines(3))
        record = json.loads((tmp_path / "batches" / f"{name.removeprefix('batches/')}.json").read_text())
        job = from_record(record)
        assert (job.name, job.faults, len(job.order or ())) == (name, ("batch_partly", "batch_lines_shuffled"), 3)
        assert error(client.download(name))[0] == 403
