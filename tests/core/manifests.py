"""Manifests for tests: what is left out is the shortest that is right."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch

from runner.core.catalog import builtin
from runner.core.errors import ManifestError
from runner.core.manifest import Manifest, parse
from runner.core.matrix import Expansion, expand
from runner.core.reference import Reference
from runner.core.task import TaskSpec

MODEL = "gemini-3.1-flash-image"


class Folder:
    """`Files` out of a mapping of names to contents; every picture is one, whatever it holds."""

    def __init__(self, files: Mapping[str, str | bytes]) -> None:
        self._files = {n: c.encode() if isinstance(c, str) else c for n, c in files.items()}

    def blocks(self, name: str) -> Iterable[bytes]:
        """The content; FileNotFoundError where there is none."""
        if name not in self._files:
            raise FileNotFoundError(2, "No such file or directory", name)
        return [self._files[name]]

    def pictures(self, pattern: str) -> tuple[Reference, ...]:
        """The files that match; ValueError where none does."""
        if pattern.startswith("https://"):
            return (Reference(pattern, "", "", 0, pattern),)
        found = [name for name in sorted(self._files) if fnmatch(name, pattern)]
        if not found:
            raise ValueError(f"reference {pattern} is not there")
        return tuple(self._picture(name) for name in found)

    def _picture(self, name: str) -> Reference:
        data = self._files[name]
        return Reference(name, "image/png", hashlib.sha256(data).hexdigest(), len(data))


def manifest_text(
    *lines: str, job: str = "job: j", model: str = f"model: {MODEL}", prompts: str = "prompts: [a]"
) -> str:
    """A manifest with these top-level lines first replaced or added; each given part is one line or more."""
    return "\n".join((job, model, prompts, *lines)) + "\n"


def parsed(*lines: str, **parts: str) -> Manifest:
    """The manifest of `manifest_text`."""
    return parse(manifest_text(*lines, **parts), "m.yaml", builtin())


def expansion(*lines: str, files: Mapping[str, str | bytes], file: str = "m.yaml", **parts: str) -> Expansion:
    """What `manifest_text` expands into beside these files."""
    return Expansion(parse(manifest_text(*lines, **parts), file, builtin()), builtin(), Folder(files))


def tasks(*lines: str, files: Mapping[str, str | bytes] | None = None, **parts: str) -> tuple[TaskSpec, ...]:
    """The tasks of `manifest_text`."""
    return expand(parsed(*lines, **parts), builtin(), Folder(files or {}))


def problems(text: bytes | str, files: Mapping[str, str | bytes] | None = None) -> list[str]:
    """What is said of a manifest, one line a problem, without the file name; empty if it is right."""
    try:
        expand(parse(text, "m.yaml", builtin()), builtin(), Folder(files or {}))
    except ManifestError as error:
        return [line.removeprefix("m.yaml:") for line in str(error).splitlines()]
    return []


def quoted(value: object) -> str:
    """A value as JSON, which is YAML too, beyond ASCII escaped."""
    return json.dumps(value)
