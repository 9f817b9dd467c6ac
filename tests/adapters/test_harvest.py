"""Result files: every line says what the standard lane would say, however it is cut, and nothing comes twice."""

import asyncio
import base64
import io
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import unused_port
from blockbuster import BlockBuster
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.adapters import download
from runner.adapters.answer import read_answer
from runner.adapters.harvest import CODES, Line, ResultReader, harvest
from runner.adapters.rejection import Asked
from runner.adapters.scanner import LineScanner, Spool
from runner.adapters.setback import SetbackError, UploadError
from runner.core.catalog import builtin
from runner.core.errors import LocalFailureError
from runner.core.lifecycle import (
    Faulted,
    FileGone,
    Invalid,
    Lost,
    Parked,
    Pictured,
    Refused,
    Reply,
    Stopped,
    Throttled,
    Unusable,
)
from runner.core.remote import Place
from tests.adapters.files_server import ImpatientClock, files_client
from tests.adapters.test_answer import IMAGE, PNG, answer
from tests.adapters.test_answer_mangled import mangled
from tests.adapters.wire_server import KEY, MODEL, MemorySink, recorded

ASKED = Asked(MODEL, "jobs/x.yaml:2", builtin())
Taken = tuple[str | None, Reply, bytes]


def take(raw: bytes, cuts: list[int] = [], *, small_bytes: int = 0) -> list[Taken]:  # noqa: B006
    """The lines of a file that comes cut in pieces: key, reply, picture."""
    spool = Spool(io.BytesIO())
    reader = ResultReader(spool, ASKED, small_bytes=small_bytes)
    reader.opened(0)
    taken: list[Taken] = []
    for start, end in pairwise([0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]):
        at = 0
        while at < end - start:
            at, line = reader.take(raw[start:end], at)
            if line:
                taken.append(entry(line, spool))
    try:
        last = reader.finish()
    except SetbackError:  # its last line is cut off: read to the same end once more
        reader.opened(reader.resumes_at)
        rest, at = raw[reader.resumes_at :], 0
        while at < len(rest):
            at, _ = reader.take(rest, at)
        last = reader.finish()
    return [*taken, entry(last, spool)] if last else taken


def entry(line: Line, spool: Spool) -> Taken:
    return line.key, line.reply, b"".join(spool.read(line.picture)) if line.picture else b""


def line(response: Any = None, key: Any = "k", **more: Any) -> bytes:
    said = {"key": key, "response": response, **more}
    return json.dumps({name: value for name, value in said.items() if value is not None}).encode()


def alone(raw: bytes) -> Taken:
    (taken,) = take(raw)
    return taken


def expected(response: bytes) -> tuple[Reply, bytes]:
    sink = MemorySink()
    reply = read_answer(response, asked=MODEL, tier=None, sink=sink)
    return reply, sink.data if isinstance(reply, Pictured) else b""


# --- the same as the standard lane ---


def wrapped(data: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/png", "data": data}}


@st.composite
def base64_texts(draw: st.DrawFn) -> str:
    """A picture as base64 of either alphabet, padded or not, sometimes broken."""
    raw = draw(st.binary(max_size=90))
    text = (base64.urlsafe_b64encode if draw(st.booleans()) else base64.b64encode)(raw).decode()
    if draw(st.booleans()):
        text = text.rstrip("=")
    flaw = draw(st.sampled_from(["", "", "", "head", "blank", "break", "equal", "cut", "quote"]))
    at = draw(st.integers(0, len(text)))
    match flaw:
        case "head":
            return f"data:image/png;base64,{text}"
        case "blank":
            return f"{text[:at]}\n {text[at:]}\t"
        case "break":
            return f"{text[:at]}{draw(st.sampled_from('!é,:*'))}{text[at:]}"
        case "equal":
            return f"{text[:at]}={text[at:]}=="
        case "quote":
            return f'{text[:at]}"\\{text[at:]}'
        case "cut":
            return text[:at]
    return text


DECOYS = st.sampled_from(
    [
        '"data":"AAAA"',
        '\\"data\\": \\"',
        "data",
        "}]}\\",
        "![x](data:image/png;base64,iVBORw0KGgo=)",
        "\N{SNOWMAN}",
    ]
)
PARTS = st.one_of(
    st.fixed_dictionaries({"text": DECOYS | st.text(max_size=12)}, optional={"thought": st.booleans()}),
    st.fixed_dictionaries(
        {
            "inlineData": st.fixed_dictionaries(
                {"data": base64_texts() | st.none(), "mimeType": st.sampled_from(["image/png", "", "text/plain"])}
            )
        },
        optional={"thought": st.booleans(), "thoughtSignature": base64_texts()},
    ),
    st.none(),
    st.fixed_dictionaries({"fileData": st.just({"fileUri": "https://host/x"})}),
)
RESPONSES = st.builds(
    lambda parts, finish, usage, nothing: answer(*parts, finish=finish) | usage | nothing,
    st.lists(PARTS, max_size=5),
    st.sampled_from(["STOP", None, "NO_IMAGE", "IMAGE_SAFETY", "NEW_ONE"]),
    st.sampled_from([{}, {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 1200}}]),
    st.sampled_from([{}, {"promptFeedback": None}, {"modelVersion": None}]),
)


def snake(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            "".join(f"_{c.lower()}" if c.isupper() else c for c in name): snake(v) for name, v in value.items()
        }
    return [snake(v) for v in value] if isinstance(value, list) else value


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """JSON of the value: order, white space and escapes as chance has it."""
    blank = st.sampled_from(["", "", " ", "\t "])
    if isinstance(value, dict):
        names = draw(st.permutations(list(value)))
        members = [
            draw(blank) + draw(quoted(n)) + draw(blank) + ":" + draw(blank) + draw(written(value[n]))
            for n in names
        ]
        return "{" + ",".join(members) + draw(blank) + "}"
    if isinstance(value, list):
        return "[" + ",".join([draw(written(v)) + draw(blank) for v in value]) + "]"
    return draw(quoted(value)) if isinstance(value, str) else json.dumps(value)


@st.composite
def quoted(draw: st.DrawFn, text: str) -> str:
    said = json.dumps(text, ensure_ascii=draw(st.booleans()))
    style = draw(st.sampled_from(["plain", "plain", "slash", "equal", "all"]))
    match style:
        case "slash":
            return said.replace("/", "\\/")
        case "equal":
            return said.replace("=", "\\u003d").replace("+", "\\u002B")
        case "all" if text.isascii():
            return '"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"'
    return said


@settings(max_examples=200, deadline=None)
@given(st.data(), st.lists(RESPONSES, min_size=1, max_size=3), st.booleans(), st.lists(st.integers(0, 3000)))
def test_however_it_is_written_and_cut_a_line_says_what_the_standard_lane_would_say(
    data: st.DataObject, responses: list[Any], snaky: bool, cuts: list[int]
) -> None:
    lines, wanted = [], []
    for number, response in enumerate(responses):
        body = data.draw(written(snake(response) if snaky else response))
        members = [f'"key":"k{number}"', f'"response":{body}']
        lines.append("{" + ",".join(data.draw(st.permutations(members))) + "}")
        wanted.append((f"k{number}", *expected(body.encode())))
    raw = "\n".join(lines).encode()
    assert take(raw + data.draw(st.sampled_from([b"", b"\n", b"\r\n\n"])), cuts) == wanted
    assert take(raw, cuts, small_bytes=32) == wanted
    assert take(raw, small_bytes=1000) == wanted


@settings(max_examples=400, deadline=None)
@given(base64_texts(), st.data(), st.lists(st.integers(60, 260)))
def test_any_base64_is_decoded_or_refused_as_in_a_whole_answer(
    text: str, data: st.DataObject, cuts: list[int]
) -> None:
    body = json.dumps(answer(wrapped("PICTURE"))).replace('"PICTURE"', data.draw(quoted(text)))
    taken = take(b'{"key":"k","response":' + body.encode() + b"}", cuts)
    assert taken == [("k", *expected(body.encode()))]


@pytest.mark.parametrize(
    "text",
    [
        "QUJD=QUJD",
        "QUJD==\\n=",
        "QU=JD",
        "QUI=",
        "QUI",
        "Q",
        "QUJDRA-_",
        "QUJDA-_",
        "QUJDA-",
        "QUJD-",
        "====",
        "=",
    ],
)
def test_padding_and_alphabet_at_their_edges(text: str) -> None:
    body = json.dumps(answer(wrapped("PICTURE"))).replace("PICTURE", text)
    raw = b'{"key":"k","response":' + body.encode() + b"}"
    for cut in range(raw.index(text.encode()), len(raw)):
        assert take(raw, [cut]) == [("k", *expected(body.encode()))]


def test_an_escape_that_is_none_of_json_makes_a_line_malformed() -> None:
    raw = line(answer(wrapped("QUJD"))).replace(b"QUJD", b"QU\\xJD")
    key, reply, _ = alone(raw)
    assert (key, isinstance(reply, Lost)) == (None, True)


@settings(max_examples=200, deadline=None)
@given(mangled(), st.lists(st.integers(0, 900)))
def test_a_mangled_line_is_one_reply_and_hurts_no_other(body: Any, cuts: list[int]) -> None:
    good = line(answer(IMAGE), "good")
    first, second = take(line(body, "bad") + b"\n" + good, cuts)
    assert first[0] == "bad"
    assert second[0] == "good"
    assert second[2] == PNG


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_flipped_line_hurts_no_other(data: st.DataObject) -> None:
    raw = bytearray(line(answer({"text": "words"}, IMAGE)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    taken = take(bytes(raw) + b"\n" + line(answer(IMAGE), "good"), data.draw(st.lists(st.integers(0, 400))))
    assert [t for t in taken if t[0] == "good"] == [("good", *expected(json.dumps(answer(IMAGE)).encode()))]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_bytes_that_are_no_results_are_told_and_never_fatal(raw: bytes, cuts: list[int]) -> None:
    for key, reply, _ in take(raw, cuts):
        assert key is not None or isinstance(reply, Lost)


def test_every_cut_of_one_line_gives_the_same() -> None:
    part = {"thoughtSignature": "B" * 50, **wrapped(base64.b64encode(bytes(range(256))).decode())}
    raw = line(answer({"text": 'a "data":"AAAA" decoy\\'}, part)).replace(b"/", b"\\/").replace(b"=", b"\\u003d")
    whole = take(raw)
    assert whole[0][2] == bytes(range(256))
    for cut in range(len(raw)):
        assert take(raw, [cut]) == whole
    assert take(raw, list(range(len(raw)))) == whole


def test_a_signature_is_dropped_unread_and_large_words_are_kept() -> None:
    spool = Spool(io.BytesIO())
    scanner = LineScanner(spool)
    said = json.dumps(
        {"thought_signature": "A" * 1_000_000, "text": "w" * 100_000, "data": "QUJD" * 20_000}
    ).encode()
    for start in range(0, len(said), 65_536):
        scanner.feed(said[start : start + 65_536])
    rest = scanner.end().rest
    assert len(rest) < 100_200
    assert spool.end == 60_000
    assert json.loads(rest)["thought_signature"] == ""


def test_a_line_too_long_beside_its_pictures_is_told() -> None:
    scanner = LineScanner(Spool(io.BytesIO()), largest_rest=100)
    scanner.feed(b'{"text":"' + b"w" * 200)
    scanner.feed(b'"}')
    assert scanner.end().too_long


def test_the_recorded_answer_comes_through_as_a_line() -> None:
    body = recorded("responses/gemini-3.1-flash-image-preview.1x1-1K.json").read_bytes()
    response = json.loads(body)
    taken = take(line(response, "r"), list(range(0, 3_000_000, 65_536)), small_bytes=32_768)
    assert taken == [("r", *expected(json.dumps(response).encode()))]
    assert len(taken[0][2]) > 100_000


# --- keys and errors ---


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b'{"response":{"candidates":[]},"key":"late"}', "late"),
        (b'{"metadata":{"key":"m"},"response":{"candidates":[]}}', "m"),
        (b'{"key":7,"response":{"candidates":[]}}', "7"),
        (b'{"key":null,"metadata":{"key":"m"},"error":{"code":13}}', "m"),
        (b'{"response":{"candidates":[]}}', None),
        (b'{"key":{},"response":{"candidates":[]}}', None),
    ],
)
def test_the_key_may_stand_anywhere_the_field_has_seen_it(raw: bytes, key: str | None) -> None:
    assert alone(raw)[0] == key


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        ({"code": 13, "message": "internal"}, Faulted(500, "internal")),
        ({"code": "13", "message": "internal"}, Faulted(500, "internal")),
        ({"code": 13}, Faulted(500, "INTERNAL")),
        ({"status": "INTERNAL", "message": "x"}, Faulted(500, "x")),
        ({"code": 500, "message": "x"}, Faulted(500, "x")),
        ({"code": 4, "message": "late"}, Faulted(504, "late", billed_unknown=True)),
        ({"code": 1, "message": "stopped"}, Faulted(499, "stopped", billed_unknown=True)),
        ({"code": 3, "message": "bad size"}, Invalid(400, "bad size")),
        ({"code": 12, "message": "no"}, Invalid(400, "no")),
        ({"code": 14, "message": "overloaded"}, Throttled(503, "capacity", "overloaded")),
        ({"code": 10, "message": "conflict"}, Faulted(409, "conflict")),
        (
            {"code": 5, "message": "Requested entity was not found."},
            FileGone(404, "Requested entity was not found."),
        ),
        ({"code": 7, "message": "File x may not exist"}, FileGone(403, "File x may not exist")),
        ({"code": 77, "message": "new"}, Faulted(500, "new (code 77)", billed_unknown=True)),
        ({"message": "new"}, Faulted(500, "new (code none)", billed_unknown=True)),
        ("words", Faulted(500, "words (code none)", billed_unknown=True)),
    ],
)
def test_an_error_is_judged_by_its_grpc_code(error: Any, reply: Reply) -> None:
    assert alone(line(error=error)) == ("k", reply, b"")
    assert alone(line(status=error)) == ("k", reply, b"")


def test_limits_and_stops_of_an_item_are_those_of_a_request() -> None:
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}
    quota = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}
    day = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [quota]}
    short = alone(line(error={"code": 8, "message": "slow down", "details": [wait]}))[1]
    assert isinstance(short, Throttled)
    assert short.retry_after_s == 34
    assert isinstance(alone(line(error={"code": 8, "message": "quota", "details": [day]}))[1], Parked)
    assert isinstance(alone(line(error={"code": 5, "message": "models/x is not found"}))[1], Stopped)
    assert isinstance(alone(line(error={"code": 3, "message": "API key not valid."}))[1], Stopped)


def test_every_grpc_code_has_a_reply() -> None:
    assert set(CODES) == set(range(1, 17))
    for code in CODES:
        key, reply, _ = alone(line(error={"code": code, "message": "said"}))
        assert key == "k"
        assert not isinstance(reply, Lost | Pictured)


def test_a_refusal_is_an_answer_and_a_line_without_one_is_lost() -> None:
    assert isinstance(alone(line({"promptFeedback": {"blockReason": "SAFETY"}}))[1], Refused)
    assert isinstance(alone(line(answer(finish="NO_IMAGE")))[1], Unusable)
    for raw in (b'{"key":"k"}', b'{"key":"k","response":{}}', b'{"key":"k","error":{}}'):
        key, reply, _ = alone(raw)
        assert (key, isinstance(reply, Lost)) == ("k", True)
    for raw in (b"[]", b"7", b"<html>", b'{"key":"k","response":'):
        key, reply, _ = alone(raw)
        assert (key, isinstance(reply, Lost)) == (None, True)


# --- downloads that break ---


@dataclass
class Results:
    """Serves a result file and breaks as told: `breaks` are used up from the front."""

    body: bytes
    breaks: list[Any] = field(default_factory=list)
    ranged: bool = True
    asked: list[str] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        wanted = request.headers.get("range", "")
        self.asked.append(f"{request.path_qs} {wanted}".strip())
        self.keys.append(KEY in request.headers.values())
        instead = self.breaks.pop(0) if self.breaks else None
        if isinstance(instead, web.Response):
            return instead
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranged else 0
        if start > len(self.body):
            return web.Response(status=416)
        headers = {"Content-Range": f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"} if start else {}
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = len(self.body) - start
        await response.prepare(request)
        end = len(self.body) if instead is None else min(len(self.body), start + instead)
        await response.write(self.body[start:end])
        if instead is not None:
            assert request.transport
            await response.drain() if hasattr(response, "drain") else None
            request.transport.close()
        return response


@asynccontextmanager
async def serving(results: Results) -> AsyncIterator[Results]:
    results.port = unused_port()
    runner = web.ServerRunner(web.Server(results.handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", results.port).start()
    try:
        yield results
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def certificates_may_be_read(no_blocking_calls: BlockBuster) -> None:
    for function in no_blocking_calls.functions.values():
        function.can_block_in("runner/adapters/uploads.py", {"__init__"})


def gathered(
    results: Results, place: Place = Place(), until: Callable[[Line], bool] = lambda _: False
) -> tuple[list[tuple[int, Taken]], Place]:
    """What comes of a harvest: line numbers, keys, replies, pictures; and how far it got."""
    found: list[tuple[int, Taken]] = []

    async def main() -> Place:
        reached = place
        with tempfile.TemporaryFile() as spool:
            async with serving(results), files_client(results, clock=ImpatientClock()) as files:  # type: ignore[arg-type]
                lines = harvest(files, "files/batch-x", asked=ASKED, spool=spool, place=place)
                async with aclosing(lines):
                    async for each in lines:
                        sink = MemorySink()
                        await each.pour(sink)
                        found.append((each.number, (each.key, each.reply, sink.data)))
                        reached = each.after
                        if until(each):
                            break
        return reached

    return found, asyncio.run(main())


PICTURES = [bytes([n]) * (70_000 + n) for n in range(6)]
LINES = [line(answer(wrapped(base64.b64encode(p).decode())), f"k{n}") for n, p in enumerate(PICTURES)]
FILE = b"\n".join([*LINES[:3], b"", *LINES[3:]]) + b"\n"
NUMBERS = [1, 2, 3, 5, 6, 7]


def complete(found: list[tuple[int, Taken]]) -> bool:
    return [(number, taken[0], taken[2]) for number, taken in found] == [
        (number, f"k{n}", PICTURES[n]) for n, number in enumerate(NUMBERS)
    ]


def test_lines_come_with_their_pictures_and_the_place_to_go_on_from() -> None:
    results = Results(FILE)
    found, place = gathered(results)
    assert complete(found)
    assert results.asked == ["/v1beta/files/batch-x:download?alt=media"]
    assert (place.lines, place.offset) == (7, len(FILE))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 300_000), max_size=4), st.booleans())
def test_a_broken_download_goes_on_and_nothing_comes_twice(breaks: list[int], ranged: bool) -> None:
    assert complete(gathered(Results(FILE, list(breaks), ranged=ranged))[0])


def test_with_ranges_it_goes_on_inside_the_line_that_broke() -> None:
    results = Results(FILE, [50_000, 120_000])
    assert complete(gathered(results)[0])
    starts = [int(asked.partition("bytes=")[2].rstrip("-") or 0) for asked in results.asked]
    assert starts[0] == 0
    assert 0 < starts[1] < 50_001
    assert starts[1] < starts[2] < 170_001


@pytest.mark.parametrize("ranged", [True, False])
def test_after_a_crash_it_goes_on_from_the_remembered_place(ranged: bool) -> None:
    first, place = gathered(Results(FILE), until=lambda each: each.number == 3)
    results = Results(FILE, [70_000], ranged=ranged)
    second, _ = gathered(results, place)
    assert complete(first + second)
    assert "bytes=" in results.asked[0]


def test_another_file_than_before_is_read_from_its_first_line() -> None:
    _, place = gathered(Results(FILE), until=lambda each: each.number == 3)
    other = b"\n".join(reversed(LINES)) + b"\n"
    found, _ = gathered(Results(other), place)
    assert [(number, taken[0]) for number, taken in found] == [(n + 1, f"k{5 - n}") for n in range(6)]
    shorter = LINES[0] + b"\n"
    assert [taken[0] for _, taken in gathered(Results(shorter, ranged=False), place)[0]] == ["k0"]
    assert [taken[0] for _, taken in gathered(Results(shorter), place)[0]] == ["k0"]


def test_a_file_that_became_shorter_is_another() -> None:
    reader = ResultReader(Spool(io.BytesIO()), ASKED)
    reader.opened(0)
    at = 0
    while reader.place.lines < 3:
        at, _ = reader.take(FILE, at)
    reader.take(FILE[at : at + 500], 0)
    reader.opened(reader.resumes_at)
    reader.take(FILE[reader.resumes_at :][:10], 0)
    with pytest.raises(SetbackError, match="not the one it was"):
        reader.finish()
    assert reader.resumes_at == 0


def test_a_file_that_was_taken_whole_gives_nothing_more() -> None:
    for body in (FILE, FILE[:-1]):
        _, place = gathered(Results(body))
        for ranged in (True, False):
            assert gathered(Results(body, ranged=ranged), place)[0] == []


def test_a_last_line_without_its_end_is_asked_for_again_and_then_told() -> None:
    results = Results(FILE + LINES[0][:-40])
    found, _ = gathered(results)
    assert complete(found[:-1])
    assert found[-1][1][0] is None
    assert isinstance(found[-1][1][1], Lost)
    assert len(results.asked) == 2


def test_passing_errors_are_waited_out_and_final_ones_are_raised() -> None:
    passing = [web.Response(status=503), web.Response(status=429), 0]
    assert complete(gathered(Results(FILE, passing))[0])
    with pytest.raises(UploadError, match="HTTP 400"):
        gathered(Results(FILE, [web.Response(status=400, text="no such file")]))
    with pytest.raises(UploadError, match="without progress"):
        gathered(Results(FILE, [0] * 20))


def test_the_other_address_is_tried_and_redirects_are_followed_without_the_key() -> None:
    results = Results(FILE, [web.Response(status=404)])
    assert complete(gathered(results)[0])
    assert results.asked[1] == "/download/v1beta/files/batch-x:download?alt=media"
    results = Results(FILE)
    results.breaks = [web.Response(status=302, headers={"Location": "/elsewhere"})]
    assert complete(gathered(results)[0])
    assert results.keys == [True, True]
    other = Results(FILE)

    async def main() -> int:
        count = 0
        async with serving(other), serving(Results(b"")) as first:
            first.breaks = [web.Response(status=302, headers={"Location": f"{other.url}/signed?x=1"})]
            async with files_client(first) as files:  # type: ignore[arg-type]
                with tempfile.TemporaryFile() as spool:
                    async for _ in harvest(files, "files/batch-x", asked=ASKED, spool=spool):
                        count += 1
        return count

    assert asyncio.run(main()) == len(LINES)
    assert other.keys == [False]


def test_a_silent_download_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_GAP_S", 0.05)
    again = asyncio.Event()

    class Silent(Results):
        async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
            if self.asked:
                again.set()
                return await super().handle(request)
            self.asked.append("silent")
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(FILE[:100_000])
            await again.wait()
            return response

    assert complete(gathered(Silent(FILE))[0])


def test_a_spool_that_takes_nothing_ends_the_harvest() -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    reader = ResultReader(Spool(Full()), ASKED, small_bytes=0)
    reader.opened(0)
    with pytest.raises(LocalFailureError, match="No space left"):
        reader.take(LINES[0], 0)


def test_a_picture_is_gone_once_the_next_line_began() -> None:
    spool = Spool(io.BytesIO())
    reader = ResultReader(spool, ASKED, small_bytes=0)
    reader.opened(0)
    at, first = reader.take(FILE, 0)
    assert first
    assert first.picture
    reader.take(FILE, at)
    with pytest.raises(ValueError, match="another line"):
        list(spool.read(first.picture))


def test_the_key_of_the_api_is_in_no_reply() -> None:
    raw = line(error={"code": 13, "message": f"leaked {KEY}"})
    ((_, (_, reply, _)),) = gathered(Results(raw))[0]
    assert reply == Faulted(500, "leaked [key]")


def test_a_line_says_where_it_begins() -> None:
    spool = Spool(io.BytesIO())
    reader = ResultReader(spool, ASKED)
    reader.opened(0)
    _, second = reader.take(FILE, reader.take(FILE, 0)[0])
    assert second
    assert (second.number, second.offset) == (2, len(LINES[0]) + 1)
    assert second.after.offset == second.offset + len(LINES[1]) + 1
    assert replace(second, number=3) != second
