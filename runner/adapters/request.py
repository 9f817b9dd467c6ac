"""An assignment as the service wants to hear it: address and JSON body (gemini-api.md §2, §4). No I/O.

Nothing is sent that was not asked for: no candidate count, no sampling parameters.
"""

import json
import re
from typing import Any
from urllib.parse import quote

import httpx

from runner.core.errors import UsageError
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


def address(prefix: str, model: str) -> str:
    """The URL that renders with `model`, which may be bare, `models/x` or `tunedModels/x` (gemini-api.md §2)."""
    named = model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"
    return f"{prefix}/{quote(named, safe='/@:')}:generateContent"


def payload(task: Assignment) -> bytes:
    """The JSON body of a request, in ASCII: no prompt, however odd, fails to encode."""
    return json.dumps(content(task), separators=(",", ":")).encode("ascii")


def content(task: Assignment) -> dict[str, Any]:
    """The body as an object; for the same input equal to the official SDK's but for case."""
    recipe = task.recipe
    body: dict[str, Any] = {
        "contents": [{"role": "user", "parts": [{"text": task.prompt}]}],
        "generationConfig": _generation(task),
    }
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
