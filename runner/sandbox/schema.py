"""The request as the service's protobuf-JSON parser takes it (gemini-api.md §4.2 to §4.4).

Strict about fields it does not know, lenient about their spelling, the case of enums and the base64 alphabet.
What the values mean is decided in `request`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import pybase64

from runner.sandbox.errors import invalid_payload

ENUMS: Mapping[str, tuple[str, ...]] = {
    "Modality": ("MODALITY_UNSPECIFIED", "TEXT", "IMAGE", "AUDIO"),
    "ThinkingLevel": ("THINKING_LEVEL_UNSPECIFIED", "MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"),
    "ServiceTier": ("UNSPECIFIED", "STANDARD", "FLEX", "PRIORITY"),
    "HarmCategory": (
        *("HARM_CATEGORY_UNSPECIFIED", "HARM_CATEGORY_HARASSMENT", "HARM_CATEGORY_HATE_SPEECH"),
        *("HARM_CATEGORY_SEXUALLY_EXPLICIT", "HARM_CATEGORY_DANGEROUS_CONTENT"),
        *("HARM_CATEGORY_CIVIC_INTEGRITY", "HARM_CATEGORY_JAILBREAK"),
    ),
    "HarmBlockThreshold": (
        *("HARM_BLOCK_THRESHOLD_UNSPECIFIED", "BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH"),
        *("BLOCK_NONE", "OFF"),
    ),
    "MediaResolution": (
        *("MEDIA_RESOLUTION_UNSPECIFIED", "MEDIA_RESOLUTION_LOW", "MEDIA_RESOLUTION_MEDIUM"),
        *("MEDIA_RESOLUTION_HIGH", "MEDIA_RESOLUTION_ULTRA_HIGH"),
    ),
    "Delivery": ("DELIVERY_UNSPECIFIED", "INLINE", "URI"),
    "FunctionCallingMode": ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"),
}

MESSAGES: Mapping[str, Mapping[str, str]] = {
    "GenerateContentRequest": {
        "model": "string",
        "contents": "[]Content",
        "systemInstruction": "Content",
        "safetySettings": "[]SafetySetting",
        "tools": "[]Tool",
        "toolConfig": "ToolConfig",
        "labels": "free",
        "cachedContent": "string",
        "serviceTier": "ServiceTier",
        "store": "bool",
        "continuationToken": "bytes",
        "generationConfig": "GenerationConfig",
    },
    "Content": {"parts": "[]Part", "role": "string"},
    "Part": {
        "text": "string",
        "inlineData": "Blob",
        "fileData": "FileData",
        "functionCall": "FunctionCall",
        "functionResponse": "FunctionResponse",
        "executableCode": "free",
        "codeExecutionResult": "free",
        "thought": "bool",
        "thoughtSignature": "bytes",
        "videoMetadata": "free",
        "mediaResolution": "free",
        "partMetadata": "free",
    },
    "Blob": {"mimeType": "string", "data": "bytes", "displayName": "string"},
    "FileData": {"mimeType": "string", "fileUri": "string", "displayName": "string"},
    "FunctionCall": {"id": "string", "name": "string", "args": "free"},
    "FunctionResponse": {"id": "string", "name": "string", "response": "free"},
    "SafetySetting": {"category": "HarmCategory", "threshold": "HarmBlockThreshold"},
    "GenerationConfig": {
        "temperature": "float",
        "topP": "float",
        "topK": "float",
        "candidateCount": "int",
        "maxOutputTokens": "int",
        "stopSequences": "[]string",
        "seed": "int",
        "presencePenalty": "float",
        "frequencyPenalty": "float",
        "responseModalities": "[]Modality",
        "responseMimeType": "string",
        "responseSchema": "free",
        "responseJsonSchema": "free",
        "responseFormat": "ResponseFormat",
        "mediaResolution": "MediaResolution",
        "thinkingConfig": "ThinkingConfig",
        "imageConfig": "ImageConfig",
    },
    "ThinkingConfig": {"includeThoughts": "bool", "thinkingBudget": "int", "thinkingLevel": "ThinkingLevel"},
    "ImageConfig": {"aspectRatio": "string", "imageSize": "string"},
    "ResponseFormat": {"image": "ImageResponseFormat", "text": "free"},
    "ImageResponseFormat": {"aspectRatio": "string", "imageSize": "string", "delivery": "Delivery"},
    "Tool": {
        "googleSearch": "GoogleSearch",
        "urlContext": "Empty",
        "codeExecution": "Empty",
        "functionDeclarations": "[]FunctionDeclaration",
    },
    "GoogleSearch": {"searchTypes": "SearchTypes", "timeRangeFilter": "Interval"},
    "SearchTypes": {"webSearch": "Empty", "imageSearch": "Empty"},
    "Interval": {"startTime": "string", "endTime": "string"},
    "FunctionDeclaration": {
        **dict.fromkeys(("name", "description", "behavior"), "string"),
        **dict.fromkeys(("parameters", "parametersJsonSchema", "response", "responseJsonSchema"), "free"),
    },
    "ToolConfig": {"functionCallingConfig": "FunctionCallingConfig", "retrievalConfig": "free"},
    "FunctionCallingConfig": {"mode": "FunctionCallingMode", "allowedFunctionNames": "[]string"},
    "Empty": {},
    "CreateFileRequest": {"file": "File"},
    "File": {
        **dict.fromkeys(("name", "displayName", "mimeType", "sha256Hash", "uri", "downloadUri"), "string"),
        **dict.fromkeys(("createTime", "updateTime", "expirationTime", "state", "source"), "string"),
        "sizeBytes": "long",
        "error": "free",
        "videoMetadata": "free",
    },
    "CreateBatchRequest": {"batch": "GenerateContentBatch"},
    "GenerateContentBatch": {
        **dict.fromkeys(("name", "model", "displayName", "state"), "string"),
        **dict.fromkeys(("createTime", "endTime", "updateTime"), "string"),
        "inputConfig": "InputConfig",
        "priority": "long",
        **dict.fromkeys(("output", "batchStats", "webhookConfig"), "free"),
    },
    "InputConfig": {"fileName": "string", "requests": "InlinedRequests"},
    "InlinedRequests": {"requests": "[]InlinedRequest"},
    "InlinedRequest": {"request": "GenerateContentRequest", "metadata": "free"},
    "BatchLine": {"key": "string", "request": "GenerateContentRequest", "metadata": "free"},
}
"""Fields of each message; `[]` marks a repeated one, `free` a map whose keys are the caller's own."""

TYPE_NAMES = {
    "string": "TYPE_STRING",
    "bool": "TYPE_BOOL",
    "int": "TYPE_INT32",
    "long": "TYPE_INT64",
    "float": "TYPE_DOUBLE",
    "bytes": "TYPE_BYTES",
}


def snake(name: str) -> str:
    """`imageConfig` as `image_config`."""
    return re.sub(r"[A-Z]", lambda match: "_" + match[0].lower(), name)


_SPELLINGS = {
    message: {spelling: name for name in fields for spelling in (name, snake(name))}
    for message, fields in MESSAGES.items()
}


def normalise(body: Any, kind: str = "GenerateContentRequest") -> dict[str, Any]:
    """A message in one spelling: camelCase, enums in upper case, padded standard base64, nulls dropped.

    Raises ApiError 400 naming every field that is unknown, given twice or of the wrong kind.
    """
    reader = _Reader()
    result: dict[str, Any] = reader.value(kind, body, "")
    if reader.problems:
        raise invalid_payload(reader.problems)
    return result


class _Reader:
    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []

    def value(self, kind: str, raw: Any, path: str) -> Any:
        if kind.startswith("[]"):
            # A single value where a list belongs is taken as a list of one: the documents' own samples do it.
            items = raw if isinstance(raw, list) else [raw]
            return [self.value(kind[2:], item, f"{path}[{i}]") for i, item in enumerate(items)]
        if kind in MESSAGES:
            return self._message(kind, raw, path)
        if kind == "free":
            return raw
        try:
            return _enum(kind, raw) if kind in ENUMS else _SCALARS[kind](raw)
        except ValueError as error:
            self._wrong_value(kind, raw, path, str(error))
            return None

    def _message(self, kind: str, raw: Any, path: str) -> dict[str, Any]:
        if not isinstance(raw, dict):
            self._wrong_value(kind, raw, path)
            return {}
        result: dict[str, Any] = {}
        taken: set[str] = set()
        for spelling, item in raw.items():
            name = _SPELLINGS[kind].get(spelling)
            if name is None or name in taken:
                self._unknown(spelling, path, "Cannot find field" if name is None else "Field is already set")
                continue
            taken.add(name)
            if item is not None:
                result[name] = self.value(MESSAGES[kind][name], item, f"{path}.{snake(name)}".lstrip("."))
        return result

    def _unknown(self, spelling: str, path: str, why: str) -> None:
        at = f" at '{path}'" if path else ""
        self.problems.append((path, f'Invalid JSON payload received. Unknown name "{spelling}"{at}: {why}.'))

    def _wrong_value(self, kind: str, raw: Any, path: str, why: str = "") -> None:
        name = TYPE_NAMES.get(kind, f"type.googleapis.com/google.ai.generativelanguage.v1beta.{kind}")
        shown = why or json.dumps(raw)[:60]
        self.problems.append((path, f"Invalid value at '{path}' ({name}), {shown}"))


def _enum(kind: str, raw: Any) -> str:
    if isinstance(raw, str) and raw.upper() in ENUMS[kind]:
        return raw.upper()
    raise ValueError


def _string(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError  # noqa: TRY004
    raw.encode()  # half of a surrogate pair is no text: UnicodeEncodeError is a ValueError
    return raw


def _bool(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError  # noqa: TRY004
    return raw


def _float(raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise ValueError  # noqa: TRY004
    return float(raw)


def _int(raw: Any) -> int:
    return _whole(raw, 1 << 31)


def _long(raw: Any) -> int:
    return _whole(raw, 1 << 63)


def _whole(raw: Any, end: int) -> int:
    number = _float(raw)
    if not number.is_integer() or abs(number) >= end:
        raise ValueError
    return int(number)


def _bytes(raw: Any) -> str:
    text = _string(raw).translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
    padded = text + "=" * (-len(text) % 4)
    try:
        pybase64.b64decode(padded, validate=True)
    except ValueError:
        raise ValueError(f"Base64 decoding failed for {json.dumps(raw[:60])}") from None
    return padded


_SCALARS = {"string": _string, "bool": _bool, "float": _float, "int": _int, "long": _long, "bytes": _bytes}
