"""An assignment as the service wants to hear it: address and JSON body (gemini-api.md §2, §4). No I/O.

Nothing is sent that was not asked for: no candidate count, no sampling parameters.
"""

import json
import re
from typing import Any
from urllib.parse import quote

import httpx

from runner.core.errors import UsageError
from runner.core.reference import Part
from runner.core.task import Assignment, Recipe

_VERSION = re.compile(r"/v\d+(?:(?:alpha|beta)\d*)?$")


def prefix(base_url: str, version: str) -> str:
    """Where all resources hang: `{base}/{version}`, a path of the base kept, nothing doubled (gemini-api.md §11).

    A base that already ends in a version keeps its own: some routers mount only one. Raises UsageError for what is
    no HTTP address, and for one with a user name, a query or a fragment: that is where keys leak from. The message
    does not repeat the address.
    """
    try:
        url = httpx.URL(base_url.strip())
    except (httpx.InvalidURL, ValueError):
        raise UsageError("the base URL cannot be read; expected https://host[:port][/prefix]") from None
    if url.scheme not in {"http", "https"} or not url.host or "%" in url.host:
        raise UsageError("the base URL must be of the form https://host[:port][/prefix]")
    if url.userinfo or url.query or url.fragment or "?" in base_url or "#" in base_url:
        raise UsageError("the base URL must not carry a user name, a query or a fragment")
    base = str(url).rstrip("/")
    return base if _VERSION.search(url.path.rstrip("/")) else f"{base}/{version}"


def address(prefix: str, model: str, verb: str = "generateContent") -> str:
    """The URL that renders with `model`, which may be bare, `models/x` or `tunedModels/x` (gemini-api.md §2)."""
    named = model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"
    return f"{prefix}/{quote(named, safe='/@:')}:{verb}"


def upload_address(prefix: str) -> str:
    """The URL that starts an upload: `/upload` stands before the version (gemini-api.md §2)."""
    base, _, version = prefix.rpartition("/")
    return f"{base}/upload/{version}/files"


def file_address(prefix: str, name: str) -> str:
    """The URL of a file at the service; `name` is `files/…` (gemini-api.md §9.1)."""
    return f"{prefix}/{quote(name, safe='/')}"


def download_addresses(prefix: str, name: str) -> list[str]:
    """The URLs under which a file that the service made can be had, the SDK's first (gemini-api.md §2)."""
    base, _, version = prefix.rpartition("/")
    named = f"{quote(name, safe='/')}:download?alt=media"
    return [f"{prefix}/{named}", f"{base}/download/{version}/{named}"]


def batches_address(prefix: str, name: str = "batches") -> str:
    """The URL of a batch job by its name (`batches/…`, with a verb after a colon), or of their list (§2)."""
    return f"{prefix}/{quote(name, safe='/:')}"


def payload(task: Assignment) -> bytes:
    """The JSON body of a request, in ASCII: no prompt, however odd, fails to encode."""
    return b"".join(pieces(task))


def pieces(task: Assignment) -> list[bytes]:
    """The body in pieces, to be sent one after the other.

    Base64 needs no escaping, so a reference of megabytes is a piece as it is: to encode or copy it would hold the
    event loop for a tenth of a second.
    """
    parts = [b'{"contents":[{"role":"user","parts":[', _encoded({"text": task.prompt})]
    for part in task.references:
        parts += [b",", *_part(part)]
    return [*parts, b"]}],", _encoded(_settings(task))[1:]]


def content(task: Assignment) -> dict[str, Any]:
    """The body as an object; for the same input equal to the official SDK's but for case."""
    parts = [{"text": task.prompt}, *map(_part_object, task.references)]
    return {"contents": [{"role": "user", "parts": parts}], **_settings(task)}


def _encoded(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _part(part: Part) -> list[bytes]:
    if part.base64 is None:
        return [_encoded(_part_object(part))]
    return [b'{"inlineData":{"mimeType":', _encoded(part.mime), b',"data":"', part.base64, b'"}}']


def _part_object(part: Part) -> dict[str, Any]:
    """A reference as the service reads it (gemini-api.md §4.1); an unknown kind is left out: the service looks."""
    kind = {"mimeType": part.mime} if part.mime else {}
    if part.base64 is not None:
        return {"inlineData": {**kind, "data": part.base64.decode("ascii")}}
    return {"fileData": {**kind, "fileUri": part.uri}}


def _settings(task: Assignment) -> dict[str, Any]:
    """Everything but the contents."""
    recipe = task.recipe
    body: dict[str, Any] = {"generationConfig": _generation(task)}
    if recipe.system is not None:
        body["systemInstruction"] = {"role": "user", "parts": [{"text": recipe.system}]}
    if recipe.safety:
        body["safetySettings"] = _safety(recipe)
    return body


def _generation(task: Assignment) -> dict[str, Any]:
    image = {"aspectRatio": task.aspect}
    if task.send_size:
        image["imageSize"] = task.size
    config: dict[str, Any] = {"responseModalities": list(task.recipe.modalities), "imageConfig": image}
    if task.recipe.thinking is not None:
        config["thinkingConfig"] = {"thinkingLevel": task.recipe.thinking.upper()}
    return config


def _safety(recipe: Recipe) -> list[dict[str, str]]:
    return [{"category": f"HARM_CATEGORY_{name}", "threshold": threshold} for name, threshold in recipe.safety]
