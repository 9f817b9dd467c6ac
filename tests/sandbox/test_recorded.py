"""The sandbox against what the service really said."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.wire import MODEL, Json, asking, serving

RECORDED = Path(__file__).parents[3] / "shared" / "recorded"

REQUESTS: dict[str, tuple[Json, Json]] = {
    "400-aspect-proto": (asking(imageConfig={"aspectRatio": "7:1"}), {"model": "gemini-3.1-flash-image"}),
    "400-aspect-model": (asking(imageConfig={"aspectRatio": "1:4"}), {"model": "gemini-2.5-flash-image"}),
    "400-size-8k": (asking(imageConfig={"imageSize": "8K"}), {"model": "gemini-3-pro-image"}),
    "400-size-model": (asking(imageConfig={"imageSize": "2K"}), {"model": "gemini-3.1-flash-lite-image"}),
    "400-candidate-count": (asking(candidateCount=2), {}),
    "400-empty-parts": ({"contents": [{"parts": []}]}, {}),
    "400-no-contents": ({}, {}),
    "400-delivery-uri": (asking(responseFormat={"image": {"delivery": "URI"}}), {}),
    "400-unknown-field": (asking(negativePrompt="x"), {}),
    "400-api-key-invalid": (asking(), {"key": "wrong"}),
    "403-no-key": (asking(), {"key": None}),
    "404-model": (asking(), {"model": "gemini-nonexistent-rig-test"}),
    "429-image-free-tier-limit0-16s": (asking(), {"fault": "no_quota", "model": "gemini-2.5-flash-image"}),
    "429-image-rpm-500": (asking(), {"fault": "minute_quota", "model": "gemini-2.5-flash-image"}),
    "429-prepayment-depleted": (asking(), {"fault": "credits"}),
    "429-terse": (asking(), {"fault": "bare_429"}),
    "503-unavailable": (asking(), {"fault": "http_503"}),
    "503-high-demand": (asking(), {"fault": "http_503_demand"}),
}


def alike(recorded: Any, ours: Any) -> bool:
    """Same keys and wordings; the source's own ellipses, the model's alias and measured numbers aside."""
    if isinstance(recorded, dict):
        return isinstance(ours, dict) and all(
            name in ours and alike(recorded[name], ours[name]) for name in recorded
        )
    if isinstance(recorded, list):
        found = all(any(alike(item, other) for other in ours) for item in recorded)
        return isinstance(ours, list) and found
    if not isinstance(recorded, str):
        return bool(recorded == ours)
    recorded = recorded.replace("gemini-2.5-flash-preview-image", "gemini-2.5-flash-image")
    if "…" in recorded:
        return str(ours).startswith(recorded.partition("…")[0])
    return recorded == ours or (recorded.rstrip("s").isdigit() and str(ours).rstrip("s").isdigit())


@pytest.mark.parametrize("name", REQUESTS)
def test_errors_as_recorded(name, tmp_path):
    if not RECORDED.exists():
        pytest.skip("the recorded answers are not beside this repository")
    entries = {entry["id"]: entry for entry in json.loads((RECORDED / "errors.json").read_text())}
    body, given = REQUESTS[name]
    fault = given.pop("fault", None) if (given := dict(given)) else None
    with serving(tmp_path, faults=f"{fault}=1" if fault else "none") as sandbox:
        answer = sandbox.post(body, **given)
    assert answer.status == entries[name]["http_status"]
    assert alike(entries[name]["body"], answer.json), answer.json


@pytest.mark.parametrize(
    ("name", "model", "given"),
    [
        (f"{MODEL}.1x1-1K", MODEL, {}),
        ("gemini-2.5-flash-image.1x1", "gemini-2.5-flash-image", {"image": "png"}),
        ("no-image", MODEL, {"faults": "no_image=1"}),
        ("prompt-blocked", MODEL, {"faults": "prompt_blocked=1"}),
    ],
)
def test_answers_have_the_recorded_fields(name, model, given, tmp_path):
    """Every field of a recorded answer is in one of ours, and the other way round, but for thinking and words."""
    path = RECORDED / "responses" / f"{name}.json"
    if not path.exists():
        pytest.skip("the recorded answers are not beside this repository")
    with serving(tmp_path, **given) as sandbox:
        answers = [sandbox.post(asking(f"siamese cat {n}"), model=model).json for n in range(12)]
    ours = set().union(*(fields(answer) for answer in answers))
    recorded = fields(json.loads(path.read_text()))
    serving_tier = {"usageMetadata.serviceTier"}  # absent in the oldest of the recorded answers
    beside = {"usageMetadata.thoughtsTokenCount", "candidates.content.parts.text", "candidates.content.role"}
    assert recorded <= ours
    assert ours - recorded <= serving_tier | beside


def fields(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return set().union(*(fields(item, f"{path}.{name}".lstrip(".")) for name, item in value.items()), {path})
    return set().union(*(fields(item, path) for item in value)) if isinstance(value, list) else {path}
