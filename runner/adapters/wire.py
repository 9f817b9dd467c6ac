"""JSON as the service and the routers in front of it really send it: either case, nulls anywhere, odd wrapping.

Nothing here knows what an answer or an error means.
"""

import json
import re
from html import unescape
from typing import Any

_HUMP = re.compile(r"_+([A-Za-z0-9])")
_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^<>]*>", re.DOTALL | re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]{1,10}")
_HEAD_BYTES = 8_192
_LARGEST_COUNT = 2**31 - 1


def load(body: bytes | bytearray) -> Any:
    """Decode JSON: keys in camelCase at every depth, thought signatures dropped. ValueError if it is no JSON.

    A thought signature is a megabyte that nobody needs and often larger than the picture beside it.
    """
    try:
        return json.loads(body.decode("utf-8-sig", "replace"), object_pairs_hook=_normal)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _normal(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        name = _HUMP.sub(lambda m: m[1].upper(), key) if "_" in key else key
        if name != "thoughtSignature" and (value is not None or name not in result):
            result[name] = value
    return result


def mapping(value: object) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def listing(value: object) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def words(value: object) -> str:
    """The value if it is text or a number, else ''; without what databases refuse (lone surrogates, NUL)."""
    if isinstance(value, str):
        if value.isascii() and "\0" not in value:
            return value
        return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def count(value: object) -> int | None:
    """A number of tokens (int32 on the wire; some answers write it as text); None for anything else."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT:
        return value
    return None


def plain(text: str) -> str:
    """What a person would read of an HTML page or of plain text."""
    return " ".join(unescape(_MARKUP.sub(" ", text)).split())


def excerpt(body: bytes | bytearray) -> str:
    """What a person would read of the beginning of a body that is no JSON; empty if there is nothing.

    Only of the beginning: the markup of a hostile page takes time that grows with its square.
    """
    head = body[:_HEAD_BYTES].decode("utf-8", "replace")
    if len(body) > _HEAD_BYTES:
        head = head[: -_HEAD_BYTES // 4]  # a secret cut in half here could not be recognised and masked later
    return words(plain(head))
