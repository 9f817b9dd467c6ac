"""What a request asks for, checked against the catalog as the service checks it (gemini-api.md §3, §4, §7)."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runner.core.catalog import SIZES, Model
from runner.sandbox.errors import invalid, invalid_payload
from runner.sandbox.reference import (
    OTHER_TOKENS,
    TOKENS,
    Find,
    Reference,
    nothing_held,
    reference_tokens,
    referred,
    sent_as,
)
from runner.sandbox.schema import normalise

SIZE_ALIASES = {"512P": "512", "512PX": "512"}
"""Upper-case spellings that the service's own message lists; `512px` and `1k` are errors."""
ASPECTS = ("1:1", "1:4", "1:8", "2:3", "3:2", "3:4", "4:1", "4:3", "4:5", "5:4", "8:1", "9:16", "16:9", "21:9")
PAYLOADS = ("text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode")


@dataclass(frozen=True, slots=True)
class Asked:
    """One valid request."""

    model: Model
    hash: str
    """Of model and normalised body: the same for every spelling of one request, wherever its files lie."""
    prompt: str
    size: str
    aspect: str
    modalities: frozenset[str]
    thinking: str | None
    """Level in lower case; None where the model does not think."""
    include_thoughts: bool
    text_tokens: int
    reference_tokens: int
    references: tuple[Reference, ...] = ()
    """In their order."""

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.model.pixels[self.size, self.aspect]

    @property
    def image_tokens(self) -> int:
        """Tokens of one picture."""
        return self.model.image_tokens[self.size]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the whole input."""
        return self.text_tokens + self.reference_tokens


def loads(raw: bytes) -> Any:
    """The JSON of a body; ApiError 400 where it is none."""
    try:
        return json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        text = f"Invalid JSON payload received. {error}"
        raise invalid_payload([("", text)]) from error


def _no_constant(name: str) -> float:
    raise ValueError(f"Unexpected token. {name}")


def understand(model: Model, raw: Any, find: Find = nothing_held) -> Asked:
    """Check the parsed JSON of a generateContent body; ApiError 400 or 403 as the service would say it.

    `find` knows the files of the Files API.
    """
    body = normalise(raw)
    config, contents = body.get("generationConfig", {}), body.get("contents", [])
    parts = _parts(model, contents)
    texts = [part["text"] for part in parts if "text" in part]
    system = [part.get("text", "") for part in body.get("systemInstruction", {}).get("parts", ())]
    if config.get("candidateCount", 1) != 1:
        raise invalid("Multiple candidates is not enabled for this model")
    tokens = reference_tokens(model, sum("inlineData" in part or "fileData" in part for part in parts))
    pictures = [referred(part, find) for part in parts]
    references = tuple(picture for picture in pictures if picture)
    size, aspect = _shape(model, config, references)
    thinking = config.get("thinkingConfig", {})
    return Asked(
        model=model,
        hash=_hash(model, {**body, "contents": _resolved(contents, iter(pictures))}),
        prompt="\n".join(texts),
        size=size,
        aspect=aspect,
        modalities=_modalities(model, config),
        thinking=_thinking(model, thinking),
        include_thoughts=thinking.get("includeThoughts", False),
        text_tokens=text_tokens([*texts, *system]),
        reference_tokens=tokens,
        references=references,
    )


def input_tokens(model: Model, body: dict[str, Any]) -> int:
    """Input tokens of a normalised body, whether it can be served or not; no picture is looked at."""
    contents = [*body.get("contents", ()), body.get("systemInstruction", {})]
    parts = [part for content in contents for part in content.get("parts", ())]
    pictures = sum("inlineData" in part or "fileData" in part for part in parts)
    return text_tokens(part.get("text", "") for part in parts) + pictures * TOKENS.get(model.id, OTHER_TOKENS)


def _resolved(contents: list[dict[str, Any]], pictures: Iterator[Reference | None]) -> list[dict[str, Any]]:
    return [
        {**content, "parts": [sent_as(part, next(pictures)) for part in content["parts"]]}
        if "parts" in content
        else content
        for content in contents
    ]


def _hash(model: Model, body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([model.id, body], sort_keys=True).encode()).hexdigest()[:32]


def text_tokens(texts: Iterable[str]) -> int:
    """About 1.3 tokens a word, a quarter of the letters where words are long; never more than UTF-8 bytes."""
    parts = list(texts)
    text = " ".join(parts)
    guess = max(math.ceil(len(text.split()) * 1.3), len(text) // 4, 1)
    return min(guess, sum(len(part.encode()) for part in parts))


def _parts(model: Model, contents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not contents:
        raise invalid("* GenerateContentRequest.contents: contents is not specified\n")
    for i, content in enumerate(contents):
        if content.get("role", "user") not in {"user", "model", "function"}:
            raise invalid("Please use a valid role: user, model.")
        for j, part in enumerate(content.get("parts", ())):
            _check_part(part, f"contents[{i}].parts[{j}]")
            if content.get("role") == "model" and "inlineData" in part and thinks(model):
                _check_signature(part, i, j)
    parts = [part for content in contents for part in content.get("parts", ())]
    if not any(part.get("text") or "text" not in part for part in parts):
        raise invalid("Request has empty input.")
    return parts


def thinks(model: Model) -> bool:
    """Whether the model thinks at all: every 3.x does, also where the level is not a parameter."""
    return bool(model.thinking) or model.size_parameter


def _check_part(part: dict[str, Any], path: str) -> None:
    payloads = [name for name in PAYLOADS if name in part]
    if not payloads:
        raise invalid(
            f"* GenerateContentRequest.{path}.data: required oneof field 'data' must have one initialized field\n"
        )
    if len(payloads) > 1:
        text = f"Invalid value at '{path}' (oneof), oneof field 'data' is already set. Cannot set '{payloads[1]}'"
        raise invalid_payload([(path, text)])


def _check_signature(part: dict[str, Any], content: int, position: int) -> None:
    if "thoughtSignature" not in part:
        raise invalid(
            f"Image part is missing a thought_signature in content position {content + 1}, part position "
            f"{position + 1}. Please refer to https://ai.google.dev/gemini-api/docs/thought-signatures "
            "for more details."
        )


def _shape(model: Model, config: dict[str, Any], references: Sequence[Reference]) -> tuple[str, str]:
    asked = _image_config(config)
    size, aspect = asked.get("imageSize"), asked.get("aspectRatio")
    if size is not None:
        size = _size(model, size)
    if aspect is None:
        aspect = _follow(model, references)
    elif aspect not in ASPECTS:
        listed = ", ".join(f"'{ratio}'" for ratio in ASPECTS[:-1])
        raise invalid(
            "* GenerateContentRequest.generation_config.image_config.aspect_ratio: aspect_ratio must be one of "
            f"{listed}, or '{ASPECTS[-1]}'.\n"
        )
    elif aspect not in model.aspects:
        raise invalid(f"Aspect ratio {aspect} is not supported for this model")
    return size or "1K", aspect


def _image_config(config: dict[str, Any]) -> dict[str, Any]:
    """`imageConfig`, or its newer spelling `responseFormat.image`; both only where they agree (§4.3)."""
    first = config.get("imageConfig", {})
    second = config.get("responseFormat", {}).get("image", {})
    if second.get("delivery") == "URI" or any(
        first[name] != second[name] for name in first.keys() & second.keys()
    ):
        raise invalid("Request contains an invalid argument.")
    return {**second, **first}


def _size(model: Model, size: str) -> str:
    size = SIZE_ALIASES.get(size, size)
    if size not in SIZES:
        raise invalid(f"Unsupported image_size '{size}'. Supported values are: 1K, 2K, 4K, 512, 512P, 512PX.")
    if not model.size_parameter or size not in model.sizes:
        raise invalid(f"Image size {size} is not supported for this model")
    return size


def _follow(model: Model, references: Sequence[Reference]) -> str:
    """Without an aspect the picture follows the last image of the input, else it is square (§3.1)."""
    if not references or (pixels := references[-1].pixels) is None:
        return "1:1"
    width, height = pixels
    return min(model.aspects, key=lambda aspect: abs(math.log(_ratio(aspect) * height / width)))


def _ratio(aspect: str) -> float:
    width, height = aspect.split(":")
    return int(width) / int(height)


def _modalities(model: Model, config: dict[str, Any]) -> frozenset[str]:
    asked = frozenset(config.get("responseModalities", ())) - {"MODALITY_UNSPECIFIED"}
    if not asked <= {"TEXT", "IMAGE"}:
        raise invalid(
            f"The requested combination of response modalities ({', '.join(sorted(asked))}) is not supported by "
            f"the model. models/{model.id} accepts the following combination of response modalities:\n"
            "* TEXT\n* IMAGE\n* IMAGE, TEXT\n"
        )
    return asked or frozenset({"TEXT", "IMAGE"})


def _thinking(model: Model, config: dict[str, Any]) -> str | None:
    level = config.get("thinkingLevel", "THINKING_LEVEL_UNSPECIFIED")
    if level == "THINKING_LEVEL_UNSPECIFIED":
        return model.thinking_default or ("high" if thinks(model) else None)
    if "thinkingBudget" in config:
        raise invalid("You can only set only one of thinking budget and thinking level.")
    if level.lower() not in model.thinking:
        raise invalid(
            f"Thinking level {level} is not supported for this model. Please retry with other thinking level."
        )
    return str(level).lower()
