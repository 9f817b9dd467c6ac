"""The exact request of one task, as the client would send it: address, headers without the key, body."""

import base64
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from runner.adapters.library import INLINE_BYTES, MARGIN_S
from runner.adapters.pictures import EXTENSIONS
from runner.adapters.request import address, content, file_address, prefix
from runner.adapters.session import headers_of
from runner.app.campaign import Campaign, load
from runner.app.plan import resolved
from runner.app.settings import Options, resolve
from runner.app.start import preview
from runner.core.errors import UsageError
from runner.core.reference import Part, Reference, Uploaded
from runner.core.task import Assignment, TaskSpec
from runner.ledger import Ledger, Reader

VERSION = "v1beta"
KEY_HEADER = "x-goog-api-key"
MASKED = "(from the environment)"
LATER = "(uploaded when sent)"
NEAR = 5
SEARCHED = 2_000
"""Tasks whose names are compared with one that is not found."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `body` has its references in full."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    references: tuple[Reference, ...]
    """What the parts after the prompt are."""

    def as_object(self) -> dict[str, Any]:
        """`plan --show --json`."""
        return {"method": self.method, "url": self.url, "headers": dict(self.headers), "body": dict(self.body)}

    def as_text(self) -> str:
        """For people: inline pictures by what is known of them."""
        contents, *rest = self.body.items()
        [message] = contents[1]
        prompt, *parts = message["parts"]
        shown = [_shown(part, one) for part, one in zip(parts, self.references, strict=True)]
        body = {contents[0]: [{**message, "parts": [prompt, *shown]}], **dict(rest)}
        head = [f"{self.method} {self.url}", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\n".join([*head, "", json.dumps(body, ensure_ascii=False, indent=2)])


def _shown(part: Mapping[str, Any], one: Reference) -> Mapping[str, Any]:
    if "inlineData" not in part:
        return part
    words = f"<{one.name}, {one.mime}, {one.bytes} bytes, sha256 {one.sha256}>"
    return {"inlineData": {**part["inlineData"], "data": words}}


def show(manifest: Path, word: str, options: Options, environment: Mapping[str, str]) -> Request:
    """The request of the task with this key, path, stem, start of one, or prompt id; UsageError if none has it."""
    settings = resolve(options, environment)
    campaign = load(manifest, settings)
    planned = preview(campaign, settings)
    reader = Ledger.read(settings.database, settings.kind) if Ledger.exists(settings.database) else None
    spec = _task(campaign, reader, word.removeprefix(f"{settings.output}/").removeprefix("./"))
    base = prefix(settings.base_url, VERSION)
    uploads = planned.uploads
    if sum(one.bytes for one in spec.references) > INLINE_BYTES:
        uploads |= {one.sha256 for one in spec.references}
    held = {} if reader is None else reader.uploads(settings.endpoint)
    parts = tuple(
        _uploaded(one, held.get(one.sha256)) if one.sha256 in uploads else _part(campaign.base, base, one)
        for one in spec.references
    )
    timeout_s = campaign.manifest.limits.request_timeout_s
    return Request(
        "POST",
        address(base, spec.recipe.model),
        {**headers_of(timeout_s), KEY_HEADER: MASKED},
        content(_assignment(campaign, spec, parts)),
        spec.references,
    )


def _assignment(campaign: Campaign, spec: TaskSpec, parts: tuple[Part, ...]) -> Assignment:
    model = campaign.models.get(spec.recipe.model)
    return Assignment(
        token="",
        job=campaign.job,
        key=spec.key,
        prompt=spec.prompt,
        recipe=spec.recipe,
        size=spec.size,
        send_size=model is None or model.size_parameter,
        aspect=spec.aspect,
        stem=spec.stem,
        pixels=None,
        image_tokens=None,
        references=parts,
    )


def _part(folder: Path, base: str, one: Reference) -> Part:
    if one.uri is not None:
        return Part(one.mime, uri=file_address(base, one.uri) if one.uri.startswith("files/") else one.uri)
    try:
        data = (folder / one.name).read_bytes()
    except OSError as error:
        raise UsageError(
            f"reference {one.name} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from None
    return Part(one.mime, base64=base64.b64encode(data))


def _uploaded(one: Reference, held: Uploaded | None) -> Part:
    """By the address of an upload that a request now would use, else without one."""
    if held is None or held.expires_at_utc - MARGIN_S <= time.time():
        return Part(one.mime, uri=LATER)
    return Part(held.mime, uri=held.uri)


# --- which task ---


def _task(campaign: Campaign, reader: Reader | None, word: str) -> TaskSpec:
    started: list[tuple[TaskSpec, str]] = []
    for spec, names in _named(campaign, reader):
        if word in names:
            return spec
        if len(started) <= NEAR:
            meant = next((name for name in names if name.startswith(word)), None)
            if meant is not None or word == spec.prompt_id:
                started.append((spec, meant or spec.stem))
    if len(started) == 1:
        return started[0][0]
    if started:
        all_of_them = ", ".join(name for _, name in started[:NEAR])
        raise UsageError(f"--show {word} is ambiguous: {all_of_them}{', …' if len(started) > NEAR else ''}")
    near = _near(campaign, word)
    hint = f"did you mean {' or '.join(near)}?" if near else "expected a task's key, the start of it, or its path"
    raise UsageError(f"--show {word}: job {campaign.job} has no such task: {hint}")


def _named(campaign: Campaign, reader: Reader | None) -> Iterator[tuple[TaskSpec, list[str]]]:
    """Each task with its names: the key it was bought under, that of the manifest, stem and path."""
    for spec, known, written in resolved(campaign, reader):
        path = [known.path] if known is not None and known.path else []
        yield spec, [spec.key, written.key, spec.stem, *path, *(f"{spec.stem}.{ext}" for ext in EXTENSIONS)]


def _near(campaign: Campaign, word: str) -> list[str]:
    names = [spec.stem for spec in islice(campaign.specs, SEARCHED)]
    holding = [name for name in names if word.casefold() in name.casefold()]
    return holding[:NEAR] or get_close_matches(word, names, n=NEAR, cutoff=0.5)
