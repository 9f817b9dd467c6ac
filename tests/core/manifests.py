"""Manifests for tests: what is left out is the shortest that is right."""

import json

from runner.core.catalog import builtin
from runner.core.errors import ManifestError
from runner.core.manifest import Manifest, parse
from runner.core.matrix import expand
from runner.core.task import TaskSpec

MODEL = "gemini-3.1-flash-image"


def manifest_text(
    *lines: str, job: str = "job: j", model: str = f"model: {MODEL}", prompts: str = "prompts: [a]"
) -> str:
    """A manifest with these top-level lines first replaced or added; each given part is one line or more."""
    return "\n".join((job, model, prompts, *lines)) + "\n"


def parsed(*lines: str, **parts: str) -> Manifest:
    """The manifest of `manifest_text`."""
    return parse(manifest_text(*lines, **parts), "m.yaml", builtin())


def tasks(*lines: str, **parts: str) -> tuple[TaskSpec, ...]:
    """The tasks of `manifest_text`."""
    return expand(parsed(*lines, **parts), builtin())


def problems(text: bytes | str) -> list[str]:
    """What is said of a manifest, one line a problem, without the file name; empty if it is right."""
    try:
        expand(parse(text, "m.yaml", builtin()), builtin())
    except ManifestError as error:
        return [line.removeprefix("m.yaml:") for line in str(error).splitlines()]
    return []


def quoted(value: object) -> str:
    """A value as JSON, which is YAML too, beyond ASCII escaped."""
    return json.dumps(value)
