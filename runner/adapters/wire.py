"""JSON as the service and the routers in front of it really send it: either case, nulls anywhere, odd wrapping.

Nothing here knows what an answer or an error means.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from html import unescape
from itertools import islice
from typing import Any

_HUMP = re.compile(r"_+([A-Za-z0-9])")
_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^<>]*>", re.DOTALL | re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]{1,10}")
_HEAD_BYTES = 8_192
_LARGE = 65_536
_MOST_LITERALS = 10_000
"""A real answer has some fifty; a hostile one is parsed as it is."""
_CUT = rb"\u001a\u001a"
_LARGEST_COUNT = 2**31 - 1


def load(body: bytes | bytearray) -> Any:
    """Decode JSON: keys in camelCase at every depth, thought signatures dropped. ValueError if it is no JSON.

    A thought signature is a megabyte that nobody needs and often larger than the picture beside it. A `data` of
    more than 64 KB stays a view of the body: parsing megabytes holds the interpreter, so the large literals are
    cut out first, with `find` alone.
    """
    skeleton, literals = _cut(body)
    try:
        return json.loads(skeleton.decode("utf-8-sig", "replace"), object_pairs_hook=partial(_normal, literals))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _cut(body: bytes | bytearray) -> tuple[bytes, list[memoryview]]:
    """The body with its large literals replaced by `_CUT` and a number, and those literals."""
    pieces: list[bytes | memoryview] = []
    literals: list[memoryview] = []
    done, whole = 0, memoryview(body)
    for start, end in islice(_literals(body), _MOST_LITERALS):
        if end - start > _LARGE and body.find(b"\\", start, end) < 0:
            pieces += [whole[done:start], _CUT, str(len(literals)).encode()]
            literals.append(whole[start:end])
            done = end
    return b"".join([*pieces, whole[done:]]), literals


def _literals(body: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where each string begins and ends, without its quotation marks."""
    at = 0
    while (start := body.find(b'"', at) + 1) and (end := _closing(body, start)) >= 0:
        yield start, end
        at = end + 1


def _closing(body: bytes | bytearray, start: int) -> int:
    """The quotation mark that ends the string: the first with an even number of backslashes before it."""
    end = body.find(b'"', start)
    while end >= 0:
        slash = end
        while slash > start and body[slash - 1] == 0x5C:
            slash -= 1
        if (end - slash) % 2 == 0:
            break
        end = body.find(b'"', end + 1)
    return end


def _normal(literals: list[memoryview], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        name = _HUMP.sub(lambda m: m[1].upper(), key) if "_" in key else key
        if name != "thoughtSignature" and (value is not None or name not in result):
            result[name] = _restored(name, value, literals)
    return result


def _restored(name: str, value: Any, literals: list[memoryview]) -> Any:
    mark, _, number = value.rpartition("\x1a") if isinstance(value, str) else ("", "", "")
    if mark != "\x1a" or not number.isdecimal() or int(number) >= len(literals):
        return value
    literal = literals[int(number)]
    return literal if name == "data" else str(literal, "utf-8", "replace")


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
