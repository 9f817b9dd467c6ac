"""What the sandbox takes and what it rejects, in the service's own words."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from runner.core.catalog import builtin
from runner.sandbox.errors import ApiError
from runner.sandbox.request import Asked, understand
from runner.sandbox.schema import normalise
from tests.sandbox.wire import MODEL, Json, asking


def understood(body: Any, model: str = MODEL) -> Asked:
    return understand(builtin().models[model], body)


def rejection(body: Any, model: str = MODEL) -> ApiError:
    with pytest.raises(ApiError) as caught:
        understood(body, model)
    return caught.value


def shaped(model: str = MODEL, **image: Any) -> str:
    return rejection(asking(imageConfig=image), model).message


def png(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def with_parts(*parts: Json, role: str = "user", **config: Any) -> Json:
    return {"contents": [{"role": role, "parts": list(parts)}], "generationConfig": config}


@pytest.mark.parametrize(
    ("body", "name", "path"),
    [
        ({"contents": [], "prompt": "x"}, "prompt", ""),
        ({"generation_config": {"negativePrompt": "x"}}, "negativePrompt", "generation_config"),
        ({"generationConfig": {"aspectRatio": "1:1"}}, "aspectRatio", "generation_config"),
        ({"generationConfig": {"imageConfig": {"size": "1K"}}}, "size", "generation_config.image_config"),
        ({"generationConfig": {"imageConfig": {"personGeneration": "X"}}}, "personGeneration", None),
        ({"contents": [{"parts": [{}, {"txt": "x"}]}]}, "txt", "contents[0].parts[1]"),
        ({"tools": [{"googleSearch": {"a": 1}}]}, "a", "tools[0].google_search"),
    ],
)
def test_unknown_fields_are_named_with_their_path(body, name, path):
    found = rejection(body)
    at = f" at '{path}'" if path else ""
    if path is not None:
        assert found.message == f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.'
    assert found.code == 400
    assert found.details[0]["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert f'Unknown name "{name}"' in found.details[0]["fieldViolations"][0]["description"]


def test_all_unknown_fields_are_named_at_once():
    found = rejection({"a": 1, "b": {}, "contents": [{"c": 2}]})
    assert len(found.message.splitlines()) == len(found.details[0]["fieldViolations"]) == 3


CAMEL: Json = {
    "contents": [
        {
            "role": "user",
            "parts": [{"text": "a cat"}, {"inlineData": {"mimeType": "image/png", "data": png(4, 4)}}],
        }
    ],
    "systemInstruction": {"parts": [{"text": "No lettering."}]},
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}],
    "generationConfig": {
        "responseModalities": ["IMAGE", "TEXT"],
        "candidateCount": 1,
        "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
        "thinkingConfig": {"thinkingLevel": "HIGH", "includeThoughts": True},
    },
    "serviceTier": "STANDARD",
}
SNAKE: Json = {
    "contents": {
        "role": "user",
        "parts": [
            {"text": "a cat"},
            {
                "inline_data": {
                    "mime_type": "image/png",
                    "data": png(4, 4).translate({43: "-", 47: "_"}).rstrip("="),
                }
            },
        ],
    },
    "system_instruction": {"parts": {"text": "No lettering."}, "role": None},
    "safety_settings": [{"category": "harm_category_harassment", "threshold": "block_only_high"}],
    "generation_config": {
        "response_modalities": ["Image", "text"],
        "candidate_count": "1",
        "image_config": {"aspect_ratio": "16:9", "image_size": "2K"},
        "thinking_config": {"thinking_level": "High", "include_thoughts": True},
    },
    "service_tier": "standard",
}


def test_every_spelling_is_one_request():
    """Either case at every depth, either base64 alphabet, padded or not, enums in any case, nulls, bare lists."""
    assert normalise(SNAKE) == normalise(CAMEL)
    assert understood(SNAKE).hash == understood(CAMEL).hash
    assert understood(CAMEL).hash != understood({**CAMEL, "systemInstruction": {"parts": [{"text": "No."}]}}).hash


def test_the_same_request_to_another_model_is_another_request():
    assert understood(asking()).hash != understood(asking(), "gemini-3.1-flash-image").hash


@pytest.mark.parametrize(
    "body",
    [
        {"generationConfig": {}, "generation_config": {}},
        {"generationConfig": {"imageConfig": {"imageSize": "1K", "image_size": "1K"}}},
    ],
)
def test_both_spellings_at_once_are_an_error(body):
    assert "Field is already set" in rejection(body).message


def test_free_form_maps_keep_their_keys():
    body = {**asking(), "labels": {"myTeam": "a", "my_team": "b"}}
    assert normalise(body)["labels"] == {"myTeam": "a", "my_team": "b"}


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ([], "generativelanguage.v1beta.GenerateContentRequest), []"),
        ({"contents": "a cat"}, "Invalid value at 'contents[0]'"),
        (asking(imageConfig={"imageSize": 512}), "generation_config.image_config.image_size' (TYPE_STRING), 512"),
        (asking(candidateCount="two"), "generation_config.candidate_count' (TYPE_INT32)"),
        (asking(candidateCount=True), "(TYPE_INT32), true"),
        (asking(candidateCount=1.5), "(TYPE_INT32), 1.5"),
        (asking(temperature=[]), "generation_config.temperature"),
        (asking(thinkingConfig={"includeThoughts": "yes"}), '(TYPE_BOOL), "yes"'),
        (asking(thinkingConfig={"thinkingLevel": "HUGE"}), 'v1beta.ThinkingLevel), "HUGE"'),
        (asking(responseModalities=["PICTURE"]), "response_modalities[0]"),
        (with_parts({"inlineData": {"data": "!!!"}}), 'Base64 decoding failed for "!!!"'),
        (asking("\ud800"), "(TYPE_STRING)"),
    ],
)
def test_values_of_the_wrong_kind(body, fragment):
    assert fragment in rejection(body).message


ASPECTS = (
    "* GenerateContentRequest.generation_config.image_config.aspect_ratio: aspect_ratio must be one of "
    "'1:1', '1:4', '1:8', '2:3', '3:2', '3:4', '4:1', '4:3', '4:5', '5:4', '8:1', '9:16', '16:9', or '21:9'.\n"
)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            {"imageSize": size},
            f"Unsupported image_size '{size}'. Supported values are: 1K, 2K, 4K, 512, 512P, 512PX.",
        )
        for size in ("8K", "1k", "512px", "0.5K", "")
    ]
    + [({"aspectRatio": aspect}, ASPECTS) for aspect in ("5:1", "1:1 ", "16x9", "")],
)
def test_shapes_no_model_has(image, message):
    assert shaped(**image) == message


@pytest.mark.parametrize(
    ("model", "image", "message"),
    [
        ("gemini-2.5-flash-image", {"aspectRatio": "1:4"}, "Aspect ratio 1:4 is not supported for this model"),
        ("gemini-3-pro-image", {"imageSize": "512"}, "Image size 512 is not supported for this model"),
        ("gemini-3.1-flash-lite-image", {"imageSize": "2K"}, "Image size 2K is not supported for this model"),
        ("gemini-2.5-flash-image", {"imageSize": "1K"}, "Image size 1K is not supported for this model"),
    ],
)
def test_shapes_this_model_has_not(model, image, message):
    assert shaped(model, **image) == message


@pytest.mark.parametrize(
    ("model", "level"),
    [(MODEL, "MEDIUM"), (MODEL, "LOW"), ("gemini-2.5-flash-image", "HIGH"), ("gemini-3-pro-image", "MINIMAL")],
)
def test_thinking_levels_this_model_has_not(model, level):
    message = rejection(asking(thinkingConfig={"thinkingLevel": level}), model).message
    assert message.startswith(f"Thinking level {level} is not supported for this model.")


NO_PAYLOAD = (
    "* GenerateContentRequest.contents[0].parts[0].data: required oneof field 'data' must have one initialized "
    "field\n"
)
TWO_PAYLOADS = (
    "Invalid value at 'contents[0].parts[0]' (oneof), oneof field 'data' is already set. Cannot set 'inlineData'"
)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "* GenerateContentRequest.contents: contents is not specified\n"),
        ({"contents": []}, "* GenerateContentRequest.contents: contents is not specified\n"),
        ({"contents": [{"parts": []}]}, "Request has empty input."),
        ({"contents": [{"parts": None}]}, "Request has empty input."),
        (asking(""), "Request has empty input."),
        (asking(candidateCount=2), "Multiple candidates is not enabled for this model"),
        (with_parts({"text": "x"}, role="assistant"), "Please use a valid role: user, model."),
        (with_parts({"thought": False}), NO_PAYLOAD),
        (with_parts({"text": "x", "inlineData": {}}), TWO_PAYLOADS),
        (with_parts({"inlineData": {"mimeType": "text/csv", "data": "YQ=="}}), "Unsupported MIME type: text/csv"),
        (
            with_parts({"text": "x"}, thinkingConfig={"thinkingLevel": "HIGH", "thinkingBudget": 5}),
            "You can only set only one of thinking budget and thinking level.",
        ),
        (
            asking(
                imageConfig={"aspectRatio": "1:1"},
                responseFormat={"image": {"aspectRatio": "16:9"}},
            ),
            "Request contains an invalid argument.",
        ),
        (asking(responseFormat={"image": {"delivery": "URI"}}), "Request contains an invalid argument."),
    ],
)
def test_requests_that_make_no_sense(body, message):
    found = rejection(body)
    assert (found.code, found.message) == (400, message)


def test_reference_that_is_no_image():
    found = rejection(with_parts({"inlineData": {"mimeType": "image/png", "data": "YWJj"}}))
    assert found.message.startswith("Unable to process input image.")


def test_image_of_an_earlier_turn_needs_its_signature():
    blob = {"inlineData": {"mimeType": "image/png", "data": png(4, 4)}}
    assert (
        "missing a thought_signature in content position 1, part position 2"
        in rejection(with_parts({"text": "x"}, blob, role="model")).message
    )
    understood(with_parts({"text": "x"}, {**blob, "thoughtSignature": "YWJj"}, role="model"))


def test_files_that_are_not_there_are_forbidden():
    """A missing file is 403, not 404."""
    uri = "https://generativelanguage.googleapis.com/v1beta/files/k3x9q0a7b2cd"
    found = rejection(with_parts({"fileData": {"fileUri": uri}}))
    assert (found.code, "k3x9q0a7b2cd" in found.message) == (403, True)


def test_unsupported_modalities():
    assert "(AUDIO) is not supported by the model" in rejection(asking(responseModalities=["AUDIO"])).message


def test_newer_spelling_of_the_image_settings():
    new = understood(asking(responseFormat={"image": {"aspectRatio": "21:9", "imageSize": "4K"}}))
    assert (new.aspect, new.size, new.pixels) == ("21:9", "4K", (6336, 2688))
    both = asking(
        imageConfig={"imageSize": "4K"}, responseFormat={"image": {"aspectRatio": "21:9", "imageSize": "4K"}}
    )
    assert understood(both).pixels == (6336, 2688)


def test_defaults():
    asked = understood(asking())
    assert (asked.size, asked.aspect, asked.thinking) == ("1K", "1:1", "minimal")
    assert asked.modalities == {"TEXT", "IMAGE"}
    assert understood(asking(), "gemini-nano-banana-2.1").thinking == "medium"
    assert understood(asking(), "gemini-2.5-flash-image").thinking is None


@pytest.mark.parametrize(("pixels", "aspect"), [((160, 90), "16:9"), ((10, 10), "1:1"), ((10, 75), "1:8")])
def test_without_an_aspect_the_picture_follows_the_last_reference(pixels, aspect):
    blob = {"inlineData": {"mimeType": "image/png", "data": png(*pixels)}}
    assert understood(with_parts({"text": "x"}, blob)).aspect == aspect


@pytest.mark.parametrize("prompt", ["a", "a cat", "Ein Fuchs, groß wie ein Haus", "猫" * 50, "🍌", "x" * 400])
def test_prompt_tokens_never_pass_the_bytes(prompt):
    assert 1 <= understood(asking(prompt)).prompt_tokens <= len(prompt.encode())
