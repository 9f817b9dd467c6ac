"""Where pictures go: output templates, slugs, and when two paths are one.

Segments hold no character that Linux, macOS, Windows or a URL reserves, and cannot leave the output folder.
Values that differ only in such characters meet on one path, which is an error at plan time.
"""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

MAX_VALUE_BYTES = 100
MAX_SEGMENT_BYTES = 200
"""Of 255: what is left takes an extension, `.json`, a key in `superseded/` or an attempt's token."""
FIXED_FIELDS = ("job", "prompt", "variant", "key")
SUFFIX = ".{ext}"

_RESERVED = frozenset(
    ["con", "prn", "aux", "nul", "rejected", "superseded"]
    + [f"{device}{n}" for device in ("com", "lpt") for n in "0123456789¹²³"]
)
"""Devices of Windows, with any extension, and the folders that storage keeps beside the pictures."""
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@~-]*")
_BETWEEN_DIGITS = re.compile(r"(?<=\d):(?=\d)")
_RUN = re.compile(r"""[\s<>:"/\\|?*'`$!#%&;{}^-]+""")
_BLANK = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp", "Zs"])
"""Categories that no name should hold. Not `Cn`: what is unassigned differs from one Python to the next."""
_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Layout:
    """A compiled output template: for each segment its literals and fields in turn, as in `Template`."""

    segments: tuple[tuple[str, ...], ...]

    def stem(self, values: Mapping[str, str]) -> str:
        """The path of a task below the output root, without extension."""
        return "/".join(
            _segment("".join(_slug(values[part]) if i % 2 else part for i, part in enumerate(parts)))
            for parts in self.segments
        )


def default_output(axes: Collection[str]) -> str:
    """The output template of a manifest without one."""
    others = "".join(f"-{{{name}}}" for name in axes if name not in ("size", "aspect"))
    return f"{{job}}/{{prompt}}/{{size}}-{{aspect}}{others}-{{variant}}{SUFFIX}"


def compile_output(text: str, axes: Collection[str]) -> Layout:
    """The layout of an output template; ValueError says what is wrong with it."""
    if not text.endswith(SUFFIX):
        raise ValueError(f"the output must end with {SUFFIX}")
    segments = text.removesuffix(SUFFIX).split("/")
    return Layout(tuple(_parts(segment, (*FIXED_FIELDS, *axes)) for segment in segments))


def fold(stem: str) -> str:
    """What two paths that a file system may take for one have in common."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold())


def slug(value: str) -> str:
    """A value as a part of a path segment; `_` where nothing of it can be kept."""
    if len(value) <= MAX_VALUE_BYTES and _SAFE.fullmatch(value):
        return value
    text = _BETWEEN_DIGITS.sub("x", unicodedata.normalize("NFC", value))
    printable = "".join(" " if unicodedata.category(c) in _BLANK else c for c in text)
    return _cut(_RUN.sub(_dash, printable) or "_", MAX_VALUE_BYTES, text)


def _dash(run: re.Match[str]) -> str:
    """What a run of hyphens and unsafe characters becomes: hyphens alone stay, so that -1 is not 1."""
    if not run.group().strip("-"):
        return run.group()
    return "" if run.start() == 0 or run.end() == len(run.string) else "-"


_slug = lru_cache(maxsize=65_536)(slug)


def _parts(segment: str, known: Collection[str]) -> tuple[str, ...]:
    parts = _FIELD.split(segment)
    for name in parts[1::2]:
        if name == "ext":
            raise ValueError(f"{{ext}} may stand only at the end, as {SUFFIX}")
        if name not in known:
            names = ", ".join(f"{{{k}}}" for k in known)
            hint = "; the id of a prompt, or of its row, is {prompt}" if name == "id" else ""
            raise ValueError(f"unknown field {name!r} in the output: expected {names}{hint}")
    _check_literal(segment, parts[::2])
    return tuple(parts)


def _check_literal(segment: str, literals: list[str]) -> None:
    if segment in ("", ".", ".."):
        what = {"": "an empty segment or a leading /"}.get(segment, f"the segment {segment!r}")
        raise ValueError(f"{what} is not allowed: the output is a path below the output folder")
    for text in literals:
        for c in text:
            if c not in " -" and (_RUN.match(c) or unicodedata.category(c) in _BLANK):
                raise ValueError(f"the character {c!r} is not allowed in the output's file names")
    if segment.startswith((".", " ")) or segment.endswith((".", " ")):
        raise ValueError(f"the segment {segment!r} must not begin or end with a dot or a space")


def _segment(text: str) -> str:
    """A finished segment: no leading dot, no trailing dot or space, no reserved name, not too long."""
    whole = unicodedata.normalize("NFC", text)
    kept = _cut(whole, MAX_SEGMENT_BYTES - 1, whole).rstrip(". ")
    if not kept:
        return "_"
    if kept[0] == ".":
        kept = "_" + kept[1:]
    return "_" + kept if kept.partition(".")[0].rstrip().casefold() in _RESERVED else kept


def _cut(text: str, limit: int, origin: str) -> str:
    """Text of at most `limit` bytes; what is cut off is replaced by a hash of all of it."""
    data = text.encode()
    if len(data) <= limit:
        return text
    digest = hashlib.sha256(origin.encode()).hexdigest()[:12]
    return data[: limit - 13].decode("utf-8", "ignore").rstrip("-. ") + "-" + digest


def prompt_id(text: str, *, beside: Iterable[str] = ()) -> str:
    """An id for a prompt that has none: its first words, and a short hash of its text and what is beside it."""
    words = "-".join(re.findall(r"\w+", text[:200].lower())[:6])[:50]
    digest = hashlib.sha256("\0".join([text, *beside]).encode()).hexdigest()[:10]
    return f"{words}-{digest}" if words else digest
