"""Every fault has its shape on the wire, and replays."""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from runner.core.catalog import builtin
from runner.sandbox import Options, fault_plan
from runner.sandbox.answer import answer as reply_to
from runner.sandbox.draw import draw
from runner.sandbox.faults import FAULTS, HABITS, TIERS
from runner.sandbox.request import understand
from tests.sandbox.wire import CALM, MODEL, Exchange, Json, asking, charged, pictures, serving, walk

STANDARD = asking(imageConfig={"aspectRatio": "16:9", "imageSize": "1K"}, responseModalities=["IMAGE"])


def error(answer: Exchange, code: int, status: str | None, fragment: str = "") -> Json:
    """The envelope of an error answer, checked."""
    found: Json = answer.json["error"]
    assert (answer.status, found["code"], found.get("status")) == (code, code, status)
    assert fragment in found["message"]
    return found


def details(found: Json) -> dict[str, Json]:
    return {item["@type"].rsplit(".", 1)[1]: item for item in found.get("details", ())}


def minute_quota(answer: Exchange) -> None:
    found = error(answer, 429, "RESOURCE_EXHAUSTED", "\nPlease retry in ")
    (violation,) = details(found)["QuotaFailure"]["violations"]
    assert violation["quotaId"] == "GenerateRequestsPerMinutePerProjectPerModel"
    assert violation["quotaDimensions"] == {"location": "global", "model": MODEL}
    assert violation["quotaValue"] == "1000000"
    assert details(found)["RetryInfo"]["retryDelay"].removesuffix("s").isdigit()
    assert "links" in details(found)["Help"]


def daily_quota(answer: Exchange) -> None:
    found = error(answer, 429, "RESOURCE_EXHAUSTED", "retry in 2h35m3.27s.")
    assert details(found)["RetryInfo"]["retryDelay"] == "9303s"
    assert "PerDay" in details(found)["QuotaFailure"]["violations"][0]["quotaId"]


def no_quota(answer: Exchange) -> None:
    found = error(answer, 429, "RESOURCE_EXHAUSTED", "limit: 0, model")
    assert len(details(found)["QuotaFailure"]["violations"]) == 3
    assert details(found)["RetryInfo"]["retryDelay"] == "16s"


def without_details(code: int, status: str | None, fragment: str) -> Callable[[Exchange], None]:
    return lambda answer: _no_details(error(answer, code, status, fragment))


def _no_details(found: Json) -> None:
    assert "details" not in found


def html(code: int) -> Callable[[Exchange], None]:
    def check(answer: Exchange) -> None:
        assert answer.status == code
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.body.startswith(b"<!DOCTYPE html>")

    return check


def empty_502(answer: Exchange) -> None:
    assert (answer.status, answer.body) == (502, b"")


def error_list(answer: Exchange) -> None:
    assert answer.status == 503
    assert answer.json[0]["error"]["status"] == "UNAVAILABLE"


def error_in_200(answer: Exchange) -> None:
    assert answer.status == 200
    assert answer.json["error"]["code"] == 500


def reset_before(answer: Exchange) -> None:
    assert answer == Exchange(b"", reset=True)


def close_after_read(answer: Exchange) -> None:
    assert answer == Exchange(b"", reset=False)


def reset_mid(answer: Exchange) -> None:
    assert answer.reset
    assert 0 < len(answer.body) < int(answer.headers["content-length"])


def cut(answer: Exchange) -> None:
    assert not answer.reset
    assert 0 < len(answer.body) < int(answer.headers["content-length"])


def trickle(answer: Exchange) -> None:
    assert len(answer.body) == int(answer.headers["content-length"])
    sound(answer)


def keepalive_whitespace(answer: Exchange) -> None:
    assert answer.body[:1].isspace()
    sound(answer)


def sound(answer: Exchange, count: int = 1) -> list[Json]:
    """An ordinary answer: `count` sound pictures of the pixels asked for, each signed."""
    shown = pictures(answer.json)
    assert len(shown) == count
    for blob in shown:
        assert blob["mimeType"] == "image/jpeg"
        data = base64.b64decode(blob["data"], validate=True)
        assert walk(data) == "jpeg"
        assert Image.open(io.BytesIO(data)).size == (1376, 768)
    return shown


def refusal(finish: str, *, spoken: bool = False) -> Callable[[Exchange], None]:
    def check(answer: Exchange) -> None:
        (candidate,) = answer.json["candidates"]
        assert (answer.status, candidate["finishReason"], candidate["index"]) == (200, finish, 0)
        assert bool(candidate.get("finishMessage")) == spoken
        assert not (candidate.get("content") or {}).get("parts")

    return check


def prompt_blocked(answer: Exchange) -> None:
    assert "candidates" not in answer.json
    assert answer.json["promptFeedback"]["blockReason"]
    usage = answer.json["usageMetadata"]
    assert usage["promptTokenCount"] == usage["totalTokenCount"]


def words(finish: str) -> Callable[[Exchange], None]:
    def check(answer: Exchange) -> None:
        (candidate,) = answer.json["candidates"]
        assert candidate["finishReason"] == finish
        assert [list(part) for part in candidate["content"]["parts"]] == [["text"]]

    return check


def parts_null(answer: Exchange) -> None:
    assert answer.json["candidates"][0]["content"]["parts"] is None


def refusal_total_shape(answer: Exchange) -> None:
    refusal("IMAGE_SAFETY", spoken=True)(answer)
    usage = answer.json["usageMetadata"]
    assert usage["candidatesTokenCount"] == usage["thoughtsTokenCount"] > 0
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["thoughtsTokenCount"]


def no_usage_refusal(answer: Exchange) -> None:
    refusal("NO_IMAGE")(answer)
    assert answer.json.get("usageMetadata", {}).keys() <= {"serviceTier"}


def several_images(answer: Exchange) -> None:
    shown = pictures(answer.json)
    assert len(shown) in {2, 3}
    assert len({blob["data"] for blob in sound(answer, len(shown))}) == len(shown)
    assert answer.json["usageMetadata"]["candidatesTokensDetails"][0]["tokenCount"] == 1120 * len(shown)


def thought_drafts(answer: Exchange) -> None:
    thoughts = [part for part in answer.json["candidates"][0]["content"]["parts"] if part.get("thought")]
    assert any("inlineData" in part for part in thoughts)
    assert not any("thoughtSignature" in part for part in thoughts)
    sound(answer)


def text_first(answer: Exchange) -> None:
    first, second = answer.json["candidates"][0]["content"]["parts"]
    assert "text" in first
    assert "inlineData" in second


def urlsafe_base64(answer: Exchange) -> None:
    (blob,) = pictures(answer.json)
    assert "+" not in blob["data"]
    assert "/" not in blob["data"]
    assert walk(base64.urlsafe_b64decode(blob["data"])) == "jpeg"


def unpadded_base64(answer: Exchange) -> None:
    (blob,) = pictures(answer.json)
    assert len(blob["data"]) % 4
    assert walk(base64.b64decode(blob["data"] + "==")) == "jpeg"


def wrong_pixels(answer: Exchange) -> None:
    (blob,) = pictures(answer.json)
    data = base64.b64decode(blob["data"])
    assert walk(data) == "jpeg"
    assert Image.open(io.BytesIO(data)).size in {(1024, 1024), (688, 384)}


def corrupt_image(answer: Exchange) -> None:
    (blob,) = pictures(answer.json)
    with pytest.raises((AssertionError, IndexError)):
        walk(base64.b64decode(blob["data"]))


def wrong_mime(answer: Exchange) -> None:
    (blob,) = pictures(answer.json)
    assert blob["mimeType"] == "image/jpeg"
    assert walk(base64.b64decode(blob["data"])) == "png"


def extra_fields(answer: Exchange) -> None:
    assert {"candidates", "usageMetadata"} < answer.json.keys()
    assert "energyMilliwattHours" in answer.json["usageMetadata"]
    assert '"inlineData"' in answer.json["candidates"][0]["content"]["parts"][0]["text"]
    sound(answer)


def snake_case(answer: Exchange) -> None:
    part = answer.json["candidates"][0]["content"]["parts"][0]
    assert part["inline_data"]["mime_type"] == "image/jpeg"
    assert answer.json["usage_metadata"]["prompt_token_count"]
    assert answer.json["candidates"][0]["finish_reason"] == "STOP"


def other_version(answer: Exchange) -> None:
    assert answer.json["modelVersion"] != MODEL
    sound(answer)


def usage_missing(answer: Exchange) -> None:
    assert "usageMetadata" not in answer.json
    sound(answer)


def details_missing(answer: Exchange) -> None:
    assert "candidatesTokensDetails" not in answer.json["usageMetadata"]
    assert answer.json["usageMetadata"]["candidatesTokenCount"] >= 1120
    sound(answer)


def overrun(answer: Exchange) -> None:
    assert 1600 <= charged(answer.json)[1] <= 2500
    sound(answer)


def served(tier: str) -> Callable[[Exchange], None]:
    """A plain picture that names its tier in both places."""

    def check(answer: Exchange) -> None:
        assert answer.headers["x-gemini-service-tier"] == tier
        assert answer.json["usageMetadata"]["serviceTier"] == tier
        assert [next(iter(part)) for part in answer.json["candidates"][0]["content"]["parts"]] == ["inlineData"]
        sound(answer)

    return check


SHAPES: dict[str, Callable[[Exchange], Any]] = {
    "minute_quota": minute_quota,
    "daily_quota": daily_quota,
    "bare_429": without_details(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted"),
    "no_quota": no_quota,
    "credits": without_details(429, "RESOURCE_EXHAUSTED", "prepayment credits are depleted"),
    "retired_404": without_details(404, "NOT_FOUND", "is no longer available"),
    "http_500": without_details(500, "INTERNAL", "nternal error"),
    "http_502_html": html(502),
    "empty_502": empty_502,
    "http_503": without_details(503, "UNAVAILABLE", "currently unavailable"),
    "http_503_demand": without_details(503, "UNAVAILABLE", "high demand"),
    "http_504": without_details(504, "DEADLINE_EXCEEDED", "Deadline expired"),
    "http_408": without_details(408, None, "Timeout"),
    "http_499": without_details(499, "CANCELLED", "cancelled"),
    "error_list": error_list,
    "html_200": html(200),
    "error_in_200": error_in_200,
    "reset_before": reset_before,
    "close_after_read": close_after_read,
    "reset_mid": reset_mid,
    "cut": cut,
    "trickle": trickle,
    "keepalive_whitespace": keepalive_whitespace,
    "image_safety": refusal("IMAGE_SAFETY", spoken=True),
    "image_other": refusal("IMAGE_OTHER", spoken=True),
    "no_image": refusal("NO_IMAGE"),
    "image_prohibited": refusal("IMAGE_PROHIBITED_CONTENT", spoken=True),
    "image_recitation": refusal("IMAGE_RECITATION"),
    "prompt_blocked": prompt_blocked,
    "words_only": words("STOP"),
    "empty_stop": refusal("STOP"),
    "parts_null": parts_null,
    "max_tokens": words("MAX_TOKENS"),
    "unknown_finish": refusal("IMAGE_UNDER_REVIEW", spoken=True),
    "refusal_total_shape": refusal_total_shape,
    "no_usage_refusal": no_usage_refusal,
    "several_images": several_images,
    "thought_drafts": thought_drafts,
    "text_first": text_first,
    "urlsafe_base64": urlsafe_base64,
    "unpadded_base64": unpadded_base64,
    "wrong_pixels": wrong_pixels,
    "corrupt_image": corrupt_image,
    "wrong_mime": wrong_mime,
    "extra_fields": extra_fields,
    "snake_case": snake_case,
    "other_version": other_version,
    "usage_missing": usage_missing,
    "served_flex": served("flex"),
    "served_priority": served("priority"),
    "details_missing": details_missing,
    "overrun": overrun,
}
UNBILLED = {
    *(
        "minute_quota",
        "daily_quota",
        "bare_429",
        "no_quota",
        "credits",
        "retired_404",
        "http_500",
        "http_502_html",
    ),
    *("empty_502", "http_503", "http_503_demand", "error_list", "error_in_200"),
}
HALF_BILLED = {"http_504", "http_408", "http_499", "html_200", "reset_before", "close_after_read"}
UNREPORTED = {"usage_missing", "no_usage_refusal", "snake_case", "reset_mid", "cut"}


def test_every_fault_has_a_row():
    """A fault without a row here is a fault nobody has looked at; `hang` has a test of its own."""
    assert {*SHAPES, "hang"} == {*FAULTS, *HABITS}


@pytest.mark.parametrize("name", SHAPES)
def test_fault_has_its_shape_and_its_place_on_the_bill(name, tmp_path):
    """Four samples of each: the shape holds for all, and the bill says what the answers reported."""
    with serving(tmp_path, faults=f"{CALM},{name}=1", speed=50) as sandbox:
        answers = [sandbox.post(STANDARD) for _ in range(4)]
    for answer in answers:
        SHAPES[name](answer)
    bill = sandbox.bill()
    assert [row["status"] for row in sandbox.requests()] == [name] * 4
    if name in UNBILLED:
        assert not bill
    elif name in HALF_BILLED:
        assert all(not row["answered"] for row in bill)
    else:
        assert [row["outcome"] for row in bill] == [name] * 4
        assert {row["answered"] for row in bill} == {name not in {"cut", "reset_mid"}}
    if name not in UNBILLED | HALF_BILLED | UNREPORTED:
        assert [(row["input"], row["text"], row["image"]) for row in bill] == [charged(a.json) for a in answers]


@pytest.mark.parametrize("plan", [CALM, "overrun=1", *(f"{CALM},{name}=1" for name in TIERS)])
def test_the_bill_names_the_tier_of_the_answer(plan, tmp_path):
    """Also where the answer has words only."""
    with serving(tmp_path, faults=plan) as sandbox:
        answers = [sandbox.post(body) for body in (STANDARD, asking(responseModalities=["TEXT"]))]
    tier = next((tier for name, tier in TIERS.items() if name in plan), "standard")
    assert [answer.headers["x-gemini-service-tier"] for answer in answers] == [tier] * 2
    assert [answer.json["usageMetadata"]["serviceTier"] for answer in answers] == [tier] * 2
    assert [row["tier"] for row in sandbox.bill()] == [tier] * 2


@pytest.mark.parametrize("name", SHAPES)
def test_the_price_is_known_before_the_answer(name, tmp_path):
    """Pictures are paid for where there are some, whatever the fault; other tests compare the amounts."""
    for modalities in (["IMAGE"], ["TEXT"]):
        asked = understand(builtin().models[MODEL], asking(name, responseModalities=modalities))
        options = Options(tmp_path, faults=fault_plan(f"{CALM},{name}=1"))
        for seen in range(1, 5):
            drawn = draw(asked, seen, options)
            reply = reply_to(drawn.sample, drawn.fault)
            assert drawn.outcome == name
            assert bool(drawn.charge and drawn.charge.images) == (reply.sha256 is not None)


def test_lost_answers_were_paid_for_half_of_the_time(tmp_path):
    """What the caller cannot know: some of these were generated and are on the bill, some were not."""
    with serving(tmp_path, faults=f"{CALM},reset_before=0.5,http_504=0.5") as sandbox:
        for number in range(60):
            sandbox.post(asking(f"prompt {number}"))
    assert 15 <= len(sandbox.bill()) <= 45
    assert all(row["image"] == 1120 and row["sha256"] for row in sandbox.bill())


def test_hang_never_answers(tmp_path):
    """No byte comes, the connection stays open, and the sandbox can still be ended."""
    with serving(tmp_path, faults="hang=1") as sandbox, sandbox.connect() as connection:
        path = f"/v1beta/models/{MODEL}:generateContent?key=sandbox"
        body = json.dumps(STANDARD).encode()
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert [row["status"] for row in sandbox.requests()] == ["hang"]


def test_overrun_at_high_passes_what_is_set_aside_there(tmp_path):
    """At high thinking a careful caller sets 4,000 tokens aside."""
    with serving(tmp_path, faults="overrun=1,details_missing=0") as sandbox:
        answer = sandbox.post(asking(thinkingConfig={"thinkingLevel": "High"})).json
    assert 4100 <= charged(answer)[1] <= 5000
