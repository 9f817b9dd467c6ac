"""The request: its address, and a body equal to what the official SDK sends."""

import asyncio
import base64
import json
import timeit
from functools import partial
from typing import Any

import pytest
from google import genai
from google.genai import types

from runner.adapters.request import address, content, file_address, payload, pieces, prefix, upload_address
from runner.adapters.wire import load
from runner.core.errors import UsageError
from runner.core.reference import Part
from runner.core.task import Recipe
from tests.adapters.wire_server import KEY, MODEL, Conversation, assignment, response, serving

FULL = Recipe(
    model=MODEL,
    modalities=("IMAGE", "TEXT"),
    thinking="minimal",
    system="No lettering.",
    safety=(("DANGEROUS_CONTENT", "OFF"), ("HARASSMENT", "BLOCK_ONLY_HIGH")),
)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("https://h.example", "https://h.example/v1beta"),
        ("https://h.example/", "https://h.example/v1beta"),
        ("https://h.example/v1beta", "https://h.example/v1beta"),
        ("https://h.example/v1beta/", "https://h.example/v1beta"),
        ("https://h.example/v1", "https://h.example/v1"),
        ("https://h.example/some/prefix", "https://h.example/some/prefix/v1beta"),
        ("https://h.example/some/prefix//", "https://h.example/some/prefix/v1beta"),
        ("https://h.example/some/prefix/v1/", "https://h.example/some/prefix/v1"),
        ("https://h.example/v1betafish", "https://h.example/v1betafish/v1beta"),
        ("http://127.0.0.1:8080/a%2Fb", "http://127.0.0.1:8080/a%2Fb/v1beta"),
        (" https://h.example\n", "https://h.example/v1beta"),
    ],
)
def test_a_base_url_keeps_its_path_and_doubles_nothing(base: str, expected: str) -> None:
    assert prefix(base, "v1beta") == expected


@pytest.mark.parametrize(
    "base",
    [
        "",
        "h.example",
        "ftp://h.example",
        "https://",
        f"https://h.example?key={KEY}",
        f"https://u:{KEY}@h.example",
        f"https://h.example/#{KEY}",
        f"https://[{KEY}",
        "https://h.example/?",
    ],
)
def test_a_base_url_that_cannot_be_used_or_may_hold_a_key_is_refused_unseen(base: str) -> None:
    with pytest.raises(UsageError) as caught:
        prefix(base, "v1beta")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("m-1", "models/m-1"),
        ("models/m-1", "models/m-1"),
        ("tunedModels/m-1", "tunedModels/m-1"),
        ("google/m-1", "models/google/m-1"),
        ("m 1?x#y", "models/m%201%3Fx%23y"),
    ],
)
def test_a_model_is_named_as_the_sdk_names_it(model: str, path: str) -> None:
    assert address("https://h/v1beta", model) == f"https://h/v1beta/{path}:generateContent"


def test_nothing_is_sent_that_was_not_asked() -> None:
    assert content(assignment("a cat", send_size=False)) == {
        "contents": [{"role": "user", "parts": [{"text": "a cat"}]}],
        "generationConfig": {"responseModalities": ["IMAGE"], "imageConfig": {"aspectRatio": "1:1"}},
    }


@pytest.mark.parametrize("prompt", ["é 漢字 🍌", '"}\\\n\r\t\u2028', "\ud800 alone", "a" * 3_000_000])
def test_every_prompt_survives_the_encoding(prompt: str) -> None:
    assert json.loads(payload(assignment(prompt)))["contents"][0]["parts"][0]["text"] == prompt


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(model=MODEL),
        FULL,
        Recipe(model=MODEL, modalities=("IMAGE", "TEXT"), thinking="high"),
        Recipe(model=MODEL, system="Only cats."),
        Recipe(model=MODEL, safety=FULL.safety),
    ],
)
@pytest.mark.parametrize("send_size", [True, False])
def test_the_body_equals_the_sdks_but_for_case(recipe: Recipe, send_size: bool) -> None:
    task = assignment('Ein "Poster" 🍌\nin 漢字', recipe=recipe, send_size=send_size, aspect="16:9", size="2K")
    path, theirs = asyncio.run(_recorded_from_sdk([task.prompt], recipe, task.size if send_size else None))
    assert path == "/pre/v1beta/models/gemini-3.1-flash-image-preview:generateContent"
    assert _comparable(load(payload(task))) == _comparable(theirs)


PICTURES = (
    Part("image/png", base64=base64.b64encode(bytes(range(256)))),
    Part("image/jpeg", uri="https://h.example/v1beta/files/k3x9q0a7b2cd"),
    Part('image/"webp', base64=b""),
)


def test_references_follow_the_text_in_their_order_as_the_sdk_sends_them() -> None:
    task = assignment("a {cat}", recipe=FULL, aspect="16:9", size="2K", references=PICTURES)
    theirs = [
        types.Part.from_bytes(data=base64.b64decode(part.base64), mime_type=part.mime)
        if part.base64 is not None
        else types.Part.from_uri(file_uri=part.uri or "", mime_type=part.mime)
        for part in PICTURES
    ]
    _, body = asyncio.run(_recorded_from_sdk([task.prompt, *theirs], FULL, task.size))
    assert _comparable(load(payload(task))) == _comparable(body)


@pytest.mark.parametrize("prompt", ["a cat", '"}]},{"inlineData"', "\ud800"])
def test_the_body_and_its_object_say_the_same(prompt: str) -> None:
    task = assignment(prompt, recipe=FULL, references=PICTURES)
    assert json.loads(payload(task)) == content(task)
    assert list(content(task)) == ["contents", "generationConfig", "systemInstruction", "safetySettings"]


def test_an_address_of_unknown_kind_is_sent_without_one() -> None:
    (_, part) = content(assignment(references=(Part("", uri="files/x"),)))["contents"][0]["parts"]
    assert part == {"fileData": {"fileUri": "files/x"}}


def test_megabytes_of_base64_are_neither_encoded_nor_copied() -> None:
    data = b"A" * 20_000_000
    task = assignment(references=(Part("image/png", base64=data),))
    assert any(piece is data for piece in pieces(task))
    assert b"".join(pieces(task)) == payload(task)
    assert min(timeit.repeat(lambda: pieces(task), number=1, repeat=7)) < 0.005


@pytest.mark.parametrize(
    ("base", "start"),
    [
        ("https://h.example/v1beta", "https://h.example/upload/v1beta/files"),
        ("https://h.example/some/prefix/v1", "https://h.example/some/prefix/upload/v1/files"),
    ],
)
def test_an_upload_starts_beside_the_version(base: str, start: str) -> None:
    assert upload_address(base) == start
    assert file_address(base, "files/a-1") == f"{base}/files/a-1"


async def _recorded_from_sdk(contents: Any, recipe: Recipe, size: str | None) -> tuple[str, Any]:
    async def handle(conversation: Conversation) -> None:
        await conversation.send(response({"candidates": []}))

    thinking = recipe.thinking and types.ThinkingConfig(
        thinking_level=types.ThinkingLevel(recipe.thinking.upper())
    )
    config = types.GenerateContentConfig(
        response_modalities=list(recipe.modalities),
        image_config=types.ImageConfig(aspect_ratio="16:9", image_size=size),
        system_instruction=recipe.system,
        thinking_config=thinking or None,
        safety_settings=[_setting(name, threshold) for name, threshold in recipe.safety] or None,
    )
    async with serving(handle) as served:
        options = types.HttpOptions(base_url=f"{served.url}/pre", api_version="v1beta")
        sdk = genai.Client(api_key="k", http_options=options)
        call = partial(sdk.models.generate_content, model=recipe.model, contents=contents, config=config)
        await asyncio.to_thread(call)
        sdk.close()
        return served.seen[0].head.split(" ")[1], load(served.seen[0].body)


def _setting(name: str, threshold: str) -> types.SafetySetting:
    return types.SafetySetting(
        category=types.HarmCategory(f"HARM_CATEGORY_{name}"), threshold=types.HarmBlockThreshold(threshold)
    )


def _comparable(value: Any) -> Any:
    """Base64 in one alphabet; keys are normalised by `load` already."""
    if isinstance(value, dict):
        if isinstance(value.get("data"), str):
            value = {**value, "data": base64.b64decode(value["data"].replace("-", "+").replace("_", "/"))}
        return {name: _comparable(item) for name, item in value.items()}
    return [_comparable(item) for item in value] if isinstance(value, list) else value
