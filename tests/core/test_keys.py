"""Keys: frozen, and made of what shapes the picture and nothing else."""

import json
from dataclasses import replace

import pytest

from runner.core.keys import canonical, key
from runner.core.task import Recipe
from tests.core.manifests import tasks

PLAIN = Recipe("gemini-3.1-flash-image-preview", thinking="minimal")
FULL = Recipe(
    "gemini-3.1-flash-image-preview",
    ("IMAGE", "TEXT"),
    "high",
    "No lettering.",
    (("HARASSMENT", "BLOCK_ONLY_HIGH"), ("JAILBREAK", "OFF")),
)


@pytest.mark.parametrize(
    ("recipe", "prompt", "size", "aspect", "variant", "occurrence", "golden"),
    [
        (PLAIN, "a banana", "1K", "1:1", 1, 1, "k1-35df3282f17d7e73a52e15c447040971"),
        (PLAIN, "a banana", "1K", "1:1", 2, 1, "k1-25689b7235c56812803fca6708217177"),
        (PLAIN, "a banana", "1K", "1:1", 1, 2, "k1-7a876d9b02c2fd5ebf43d3affbbf49a0"),
        (FULL, "Ein Bananenplakat – größer 🍌\n", "4K", "21:9", 3, 1, "k1-3c171d504324570d432f2c684e908c63"),
        (Recipe("vendor/model"), '{"a": 1}', "512", "16:9", 1, 1, "k1-6e48f523d6aa131520a589f480f1dd46"),
    ],
)
def test_golden_keys_never_change(
    recipe: Recipe, prompt: str, size: str, aspect: str, variant: int, occurrence: int, golden: str
):
    """A key that changes buys its picture again: bump `PREFIX` and say so in the changelog."""
    assert key(recipe, prompt, size, aspect, variant=variant, occurrence=occurrence) == golden


LOGO = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@pytest.mark.parametrize(
    ("references", "golden"),
    [
        ([LOGO], "k1-d90694706bda571480280b0496f9dbec"),
        ([LOGO, LOGO], "k1-2485fd1a8498fa79b6c85143b878596f"),
        ([LOGO, "https://example.com/a.png"], "k1-02600ecd8a0926d37df4cb218ff39ae9"),
        (["https://example.com/a.png", LOGO], "k1-50ea90a459e4f666ae8be177fcc87f2b"),
        (["files/abc-123"], "k1-4a4b3ded1ca854b2e31e03a7af6db1ba"),
    ],
)
def test_golden_keys_of_tasks_with_references_never_change(references: list[str], golden: str):
    """By content or by URI, in their order."""
    assert key(PLAIN, "a banana", "1K", "1:1", variant=1, occurrence=1, references=references) == golden


def test_no_references_are_left_out_of_the_canonical_request():
    assert canonical(PLAIN, "a", "1K", "1:1", variant=1, occurrence=1, references=[]) == canonical(
        PLAIN, "a", "1K", "1:1", variant=1, occurrence=1
    )


def test_the_canonical_request_is_sorted_compact_and_without_what_is_absent():
    assert canonical(PLAIN, "é", "1K", "1:1", variant=1, occurrence=1) == (
        '{"aspect":"1:1","modalities":["IMAGE"],"model":"gemini-3.1-flash-image-preview","occurrence":1,'
        '"prompt":"é","size":"1K","thinking":"minimal","variant":1}'
    )
    full = json.loads(canonical(FULL, "x", "4K", "21:9", variant=2, occurrence=3))
    assert full["safety"] == {"HARASSMENT": "BLOCK_ONLY_HIGH", "JAILBREAK": "OFF"}
    assert full["system"] == "No lettering."


def test_everything_that_shapes_the_picture_changes_the_key():
    base = {"recipe": FULL, "prompt": "x", "size": "1K", "aspect": "1:1", "variant": 1, "occurrence": 1}
    changes: list[dict[str, object]] = [
        {"prompt": "x "},
        {"size": "2K"},
        {"aspect": "16:9"},
        {"variant": 2},
        {"occurrence": 2},
        {"recipe": replace(FULL, model="m")},
        {"recipe": replace(FULL, modalities=("IMAGE",))},
        {"recipe": replace(FULL, thinking=None)},
        {"recipe": replace(FULL, system=None)},
        {"recipe": replace(FULL, safety=())},
    ]
    keys = [key(**{**base, **change}) for change in [{}, *changes]]  # type: ignore[arg-type]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "line",
    [
        "lane: batch",
        "batch: {lines: 1, least: 1}",
        "limits: {rpm: 1, max_tasks: 9}",
        "limits: {tier: 1, tpm: 1, ipm: 1, rpd: 1, in_flight_mb: 1}",
        "limits: {spend_usd_per_10min: 1, spend_usd_per_month: 1, spent_usd_this_month: 1}",
        "budget: {account: acme}",
        "budget: {account: {name: acme, usd: 1, image_tokens: 1}}",
        "budget: {usd: 1, order: manifest}",
        "prices: {image: 1}",
        "retry: {attempts: 1}",
        "verify: full",
        'output: "x-{key}.{ext}"',
        "generation: {thinking: minimal, modalities: IMAGE}",
        "matrix: {size: 1K, unused: z}",
    ],
)
def test_what_does_not_shape_the_picture_is_not_in_the_key(line: str):
    assert [task.key for task in tasks(line)] == [task.key for task in tasks()]


def test_model_prefix_and_ids_are_not_in_the_key():
    renamed = tasks(
        prompts="prompts: [{id: other, text: a}]", job="job: k", model="model: models/gemini-3.1-flash-image"
    )
    assert [task.key for task in renamed] == [task.key for task in tasks()]


def test_a_whole_manifest_keeps_its_keys_and_paths():
    """Frozen like the golden keys: defaults of program and catalog, templates and slugs are in it."""
    made = tasks(
        "matrix: {size: [0.5K, 1K], aspect: 16:9, style: [very minimalist]}",
        prompts="prompts: ['A {style} banana']",
        model="model: gemini-3.1-flash-image-preview",
    )
    assert [(task.key, task.stem) for task in made] == [
        ("k1-66e86e52256d783c9ce442960ea38962", "j/a-style-banana-51f05499e9/512-16x9-very-minimalist-1"),
        ("k1-308e52927f882288166e90de3ec998e0", "j/a-style-banana-51f05499e9/1K-16x9-very-minimalist-1"),
    ]
