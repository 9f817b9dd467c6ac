"""A 200 becomes exactly one reply: by finish reason, by shape, by usage; and so do the recorded ones."""

import base64
import hashlib
import json
import re
from typing import Any

import pytest
from google.genai.types import BlockedReason, FinishReason

from runner.adapters.answer import DECLINED, DELIVERED, FRUITLESS, read_answer
from runner.core.lifecycle import Answer, Lost, Pictured, Refused, Reply, Unusable, Usage
from tests.adapters.wire_server import MODEL, MemorySink, recorded

PNG = b"\x89PNG\r\n\x1a\n-not-really"
IMAGE = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}}

# gemini-api.md §6.1
FINISH_REASONS = re.findall(
    r"\w+",
    """FINISH_REASON_UNSPECIFIED STOP MAX_TOKENS SAFETY RECITATION LANGUAGE OTHER BLOCKLIST PROHIBITED_CONTENT
    SPII MALFORMED_FUNCTION_CALL IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT IMAGE_OTHER NO_IMAGE IMAGE_RECITATION
    UNEXPECTED_TOOL_CALL TOO_MANY_TOOL_CALLS MISSING_THOUGHT_SIGNATURE MALFORMED_RESPONSE ESCALATION
    PUP_LIMITED_DISABLED CONTINUATION MODEL_ARMOR""",
)
BLOCK_REASONS = re.findall(
    r"\w+",
    """BLOCKED_REASON_UNSPECIFIED SAFETY OTHER BLOCKLIST PROHIBITED_CONTENT IMAGE_SAFETY MODEL_ARMOR JAILBREAK""",
)


def answer(*parts: Any, finish: str | None = "STOP", **rest: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, "index": 0}
    return {"candidates": [candidate], "modelVersion": MODEL, "responseId": "r1", **rest}


def read(body: Any, sink: MemorySink | None = None, tier: str | None = None) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(bytearray(raw), asked=MODEL, tier=tier, sink=sink or MemorySink())


def said(reply: Reply) -> Answer:
    assert isinstance(reply, Pictured | Refused | Unusable)
    return reply.answer


def test_a_picture_is_written_to_the_sink_as_it_came() -> None:
    sink = MemorySink()
    reply = read(answer({"text": "Here it is."}, IMAGE), sink, tier="flex")
    assert (sink.mimes, sink.data) == (["image/png"], PNG)
    assert reply == Pictured(
        Answer("STOP", text="Here it is.", pictures=1, response_id="r1", model_version=MODEL, tier="flex"),
        "image/png",
    )


def test_the_last_picture_that_is_no_thought_wins() -> None:
    sink = MemorySink()
    other = {"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(b"draft").decode()}}
    parts = [other, {"text": "thinking", "thought": True}, IMAGE, {"text": "done"}, {**other, "thought": True}]
    reply = read(answer(*parts), sink)
    assert (sink.data, said(reply).pictures, said(reply).text) == (PNG, 2, "done")


def test_thought_drafts_are_never_the_picture() -> None:
    sink = MemorySink()
    reply = read(answer({**IMAGE, "thought": True}), sink)
    assert isinstance(reply, Unusable)
    assert (reply.reason, reply.answer.pictures, sink.mimes) == ("empty", 0, [])
    assert "drafts" in reply.detail


def test_snake_case_and_nulls_change_nothing() -> None:
    data = IMAGE["inlineData"]["data"]
    reply = read(
        {
            "candidates": [
                {
                    "content": {
                        "parts": [
                            None,
                            {
                                "text": None,
                                "inline_data": {"mime_type": "image/png", "data": data},
                                "thought": None,
                            },
                        ]
                    },
                    "finish_reason": "STOP",
                    "safety_ratings": None,
                }
            ],
            "prompt_feedback": None,
            "usage_metadata": {"prompt_token_count": 5, "candidates_tokens_details": None},
            "model_version": None,
            "response_id": "r2",
        }
    )
    assert isinstance(reply, Pictured)
    assert (reply.answer.usage, reply.answer.response_id) == (Usage(prompt=5), "r2")


def test_of_two_spellings_a_null_does_not_win() -> None:
    body = b'{"candidates":[{"finish_reason":"NO_IMAGE","finishReason":null}]}'
    assert said(read(body)).finish_reason == "NO_IMAGE"


@pytest.mark.parametrize("finish", FINISH_REASONS)
def test_every_finish_reason_of_the_service_is_mapped(finish: str) -> None:
    assert sum(finish in table for table in (DELIVERED, DECLINED, FRUITLESS)) == 1
    for parts in ([], [{"text": "words"}], [IMAGE]):
        reply = read(answer(*parts, finish=finish))
        assert said(reply).finish_reason == finish
        assert isinstance(reply, Refused) == (finish in DECLINED)
        assert isinstance(reply, Pictured) == (finish in DELIVERED and parts == [IMAGE])


def test_the_lists_of_reasons_are_not_shorter_than_the_sdks() -> None:
    assert {reason.value for reason in FinishReason} <= {*FINISH_REASONS, "NO_IMAGE"}
    assert {reason.value for reason in BlockedReason} <= set(BLOCK_REASONS)


@pytest.mark.parametrize(
    ("finish", "reason", "again"),
    [
        ("SAFETY", "safety", True),
        ("IMAGE_SAFETY", "image_safety", True),
        ("RECITATION", "recitation", True),
        ("IMAGE_RECITATION", "recitation", True),
        ("PROHIBITED_CONTENT", "prohibited_content", False),
        ("IMAGE_PROHIBITED_CONTENT", "prohibited_content", False),
        ("BLOCKLIST", "blocklist", False),
        ("SPII", "spii", False),
    ],
)
def test_a_refusal_says_whether_another_sample_may_pass(finish: str, reason: str, again: bool) -> None:
    body = answer(finish=finish)
    body["candidates"][0] |= {"content": {}, "finishMessage": "why"}
    reply = read(body)
    assert isinstance(reply, Refused)
    assert (reply.reason, reply.again, reply.answer.message) == (reason, again, "why")


@pytest.mark.parametrize("block", [*BLOCK_REASONS, "A_NEW_ONE"])
def test_a_blocked_prompt_is_refused_for_good(block: str) -> None:
    reply = read({"promptFeedback": {"blockReason": block, "blockReasonMessage": "no"}})
    assert reply == Refused(Answer(f"BLOCKED:{block}", "no"), "prompt_blocked", again=False)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (answer({"text": "I cannot."}), "words_only"),
        (answer({"text": "I cannot."}, finish=None), "words_only"),
        (answer({"text": "a long tho"}, finish="MAX_TOKENS"), "max_tokens"),
        (answer(), "empty"),
        (answer({"text": " \n"}), "empty"),
        (answer(finish="NO_IMAGE"), "no_image"),
        (answer(finish="IMAGE_OTHER"), "image_other"),
        (answer(finish="MALFORMED_RESPONSE"), "other"),
        (answer(IMAGE, finish="IMAGE_VANISHED"), "unknown_finish_reason"),
        (answer(finish="stop"), "empty"),
        ({"candidates": []}, "empty"),
        ({"candidates": [None]}, "empty"),
        ({"candidates": [{"finishReason": "STOP", "content": {"parts": None}}]}, "empty"),
        ({"candidates": [{"finishReason": "STOP", "content": None}]}, "empty"),
        ({"usageMetadata": {"promptTokenCount": 4}}, "empty"),
        (answer({"inlineData": {"mimeType": "image/png", "data": "%%%"}}), "broken_image"),
        (answer({"inlineData": {"mimeType": "image/png"}}), "broken_image"),
        (answer({"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}), "empty"),
        (answer({"fileData": {"fileUri": "https://cdn.example/x.png?sig=1"}}), "no_image"),
        (answer({"text": "![cat](https://cdn.example/x.png?sig=1)"}), "no_image"),
        (answer({"text": "https://cdn.example/x.png?sig=1\n"}), "no_image"),
    ],
)
def test_an_answer_without_a_usable_picture_is_named(body: Any, reason: str) -> None:
    reply = read(body)
    assert isinstance(reply, Unusable)
    assert reply.reason == reason


def test_an_unknown_finish_reason_is_kept_verbatim() -> None:
    reply = read(answer(finish="Image_Vanished"))
    assert isinstance(reply, Unusable)
    assert reply.answer.finish_reason == "Image_Vanished"
    assert "Image_Vanished" in reply.detail


def test_a_hosted_picture_is_named_by_its_form_and_not_fetched() -> None:
    reply = read(answer({"text": "![cat](https://cdn.example/x.png?sig=1)"}))
    assert isinstance(reply, Unusable)
    assert "Markdown link in the text to https://cdn.example," in reply.detail
    assert "sig=1" not in reply.detail


def test_one_answer_in_a_list_is_taken_out_of_it() -> None:
    assert isinstance(read([answer(IMAGE)]), Pictured)
    assert isinstance(read([None, answer(IMAGE), {}]), Pictured)
    assert isinstance(read([answer(IMAGE), answer(IMAGE)]), Lost)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><title>502</title>Bad gateway</html>",
        b"not json",
        b'"a string"',
        b"null",
        b"12",
        b"[]",
        b"{}",
        b'{"candidates": null}',
        b'{"error": {"code": 500, "message": "inside a 200"}}',
        b'{"error": "x", "candidates": []}',
        b'{"usageMetadata": {"serviceTier": "standard"}}',
        b"[" * 100_000,
        b'{"candidates": [{"finishReason": "STOP"',
        b"\xff\xfe\x00",
        b'{"n": ' + b"9" * 10_000 + b"}",
    ],
)
def test_a_200_that_is_no_answer_is_lost_with_its_first_words(body: bytes) -> None:
    reply = read(body)
    assert isinstance(reply, Lost)
    assert reply.reason == "not_an_answer"
    if b"Bad gateway" in body:
        assert "Bad gateway" in reply.cause
        assert "<" not in reply.cause


@pytest.mark.parametrize(
    ("metadata", "usage"),
    [
        (None, None),
        ({}, None),
        ({"serviceTier": "standard"}, None),
        ({"promptTokenCount": "x", "totalTokenCount": -1}, None),
        ({"promptTokenCount": 9, "totalTokenCount": 9}, Usage(9, 0, 0, None, 9)),
        ({"promptTokenCount": 9, "toolUsePromptTokenCount": 3}, Usage(12, 0, 0, None, None)),
        (
            {"promptTokenCount": 9, "thoughtsTokenCount": 20, "totalTokenCount": 1149},
            Usage(9, 1120, 20, None, 1149),
        ),
        ({"thoughtsTokenCount": 220}, Usage(0, 0, 220, None, None)),
        (
            # a refusal that counts its thinking twice
            {"promptTokenCount": 9, "candidatesTokenCount": 20, "thoughtsTokenCount": 20, "totalTokenCount": 29},
            Usage(9, 0, 20, None, 29),
        ),
        (
            {"candidatesTokenCount": 20, "thoughtsTokenCount": 20, "totalTokenCount": 40},
            Usage(0, 20, 20, None, 40),
        ),
        ({"candidatesTokenCount": "1573", "promptTokenCount": 5.0}, Usage(5, 1573, 0, None, None)),
        (
            {"candidatesTokenCount": 1573, "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}]},
            Usage(0, 1573, 0, 1120, None),
        ),
        (
            {
                "candidatesTokenCount": 2500,
                "candidatesTokensDetails": [
                    {"modality": "IMAGE", "tokenCount": 1120},
                    {"modality": "TEXT", "tokenCount": 10},
                    {"modality": "image", "tokenCount": 1120},
                ],
            },
            Usage(0, 2500, 0, 2240, None),
        ),
        (
            {"candidatesTokenCount": 30, "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 30}]},
            Usage(0, 30, 0, None, None),
        ),
        ({"candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}]}, Usage(0, 1120, 0, 1120, None)),
        ({"candidatesTokenCount": 30, "candidatesTokensDetails": [{"modality": "IMAGE"}]}, Usage(0, 30)),
        ({"promptTokenCount": 10**30, "candidatesTokenCount": 7}, Usage(0, 7)),
        ({"promptTokenCount": True}, None),
    ],
)
def test_usage_is_read_as_it_is_meant(metadata: Any, usage: Usage | None) -> None:
    assert said(read(answer(IMAGE, usageMetadata=metadata))).usage == usage


def test_what_a_person_should_hear_of_becomes_a_notice() -> None:
    status = {"modelStage": "DEPRECATED", "message": "moves on", "retirementTime": "2026-06-25T00:00:00Z"}
    body = answer(IMAGE, modelStatus=status, usageMetadata={"serviceTier": "priority"})
    body["modelVersion"] = "gemini-3.1-flash-image"
    found = said(read(body))
    assert found.tier == "priority"
    assert found.notices == (
        f"asked for {MODEL}, served by gemini-3.1-flash-image",
        "model status: DEPRECATED, moves on, retires 2026-06-25T00:00:00Z",
    )


def test_text_that_a_database_would_refuse_is_made_storable() -> None:
    body = b'{"candidates":[{"content":{"parts":[{"text":"a\\ud800b\\u0000c \\ud83c\\udf4c"}]}}]}'
    assert said(read(body)).text == "a?b\ufffdc \N{BANANA}"


@pytest.mark.parametrize(
    ("name", "usage", "mime"),
    [
        ("gemini-3.1-flash-image-preview.1x1-1K", Usage(5, 1573, 0, 1120, 1578), "image/jpeg"),
        ("gemini-2.5-flash-image.1x1", Usage(15, 1290, 0, 1290, 1305), "image/png"),
    ],
)
def test_recorded_pictures_arrive_byte_for_byte(name: str, usage: Usage, mime: str) -> None:
    body = recorded(f"responses/{name}.json").read_bytes()
    parts = json.loads(body)["candidates"][0]["content"]["parts"]
    expected = base64.b64decode(next(p["inlineData"]["data"] for p in parts if "inlineData" in p))
    sink = MemorySink()
    reply = read(body, sink)
    assert isinstance(reply, Pictured)
    assert (reply.mime, reply.answer.usage, reply.answer.pictures) == (mime, usage, 1)
    assert hashlib.sha256(sink.data).hexdigest() == hashlib.sha256(expected).hexdigest()


def test_recorded_answers_without_a_picture_keep_their_reason_and_usage() -> None:
    missing = read(recorded("responses/no-image.json").read_bytes())
    blocked = read(recorded("responses/prompt-blocked.json").read_bytes())
    assert isinstance(missing, Unusable)
    assert isinstance(blocked, Refused)
    assert (missing.reason, missing.answer.usage) == ("no_image", Usage(9, total=9))
    assert (blocked.reason, blocked.answer.finish_reason) == ("prompt_blocked", "BLOCKED:PROHIBITED_CONTENT")
    assert (blocked.answer.usage, blocked.answer.tier) == (Usage(9, total=9), "standard")
