"""A right manifest is read exactly; defaults and notes are what the design says."""

import csv
from pathlib import Path

import pytest
import yaml

from runner.core.axes import Dimension
from runner.core.catalog import Prices, builtin
from runner.core.limits import Limits
from runner.core.manifest import (
    Account,
    BatchSettings,
    Budget,
    Generation,
    GivenLimits,
    PriceOverride,
    RetryPolicy,
    parse,
)
from runner.core.matrix import expand
from tests.core.manifests import MODEL, parsed, tasks

PARTI = Path(__file__).parents[3] / "shared/prompts/parti/PartiPrompts.tsv"


def test_the_shortest_manifest_has_all_defaults():
    manifest = parsed()
    assert (manifest.job, manifest.file, manifest.model, manifest.model_line) == ("j", "m.yaml", MODEL, 2)
    assert manifest.matrix.names == ("size", "aspect")
    assert manifest.limits == GivenLimits(None, None, 360.0, None)
    assert manifest.budget == Budget(None, None, "halt", "spread")
    assert manifest.retry == RetryPolicy(5, 2, "retry")
    assert manifest.prices == PriceOverride()
    assert (manifest.variants, manifest.lane, manifest.verify) == (1, "standard", "structure")
    assert manifest.output == "{job}/{prompt}/{size}-{aspect}-{variant}.{ext}"
    (task,) = tasks()
    assert (task.size, task.aspect, task.variant, task.axes) == ("1K", "1:1", 1, ())


def test_every_field_is_read():
    manifest = parsed(
        "variants: 2",
        "generation:",
        "  {modalities: [TEXT, Image], thinking: High, system: s, safety: {HARM_CATEGORY_HARASSMENT: OFF}}",
        "lane: batch",
        "limits: {rpm: 60, concurrency: 16, request_timeout_s: 1.5, max_tasks: 100, tier: 2, tpm: 7000,",
        "  ipm: 40, rpd: 900, in_flight_mb: 64, spend_usd_per_10min: 0.50, spend_usd_per_month: 99.5,",
        "  spent_usd_this_month: 12}",
        "budget: {usd: 25.10, image_tokens: 5000, on_exceed: refuse, order: manifest,",
        "  account: {name: acme spring, usd: 200, image_tokens: 90000}}",
        "retry: {attempts: 3, refused: 1, unknown: hold}",
        "prices: {input: 0.25, text: 1.50, image: 60, image_tokens: {0.5K: 700, 1K: 1000}}",
        "verify: full",
        'output: "{prompt}-{variant}.{ext}"',
        model=f"model: models/{MODEL}",
    )
    assert manifest.model == MODEL
    assert manifest.generation == Generation(("IMAGE", "TEXT"), "high", "s", {"HARASSMENT": "OFF"})
    assert manifest.limits == GivenLimits(
        rpm=60,
        concurrency=16,
        request_timeout_s=1.5,
        max_tasks=100,
        tier=2,
        tpm=7000,
        ipm=40,
        rpd=900,
        spend_nanos=500_000_000,
        month_nanos=99_500_000_000,
        month_elsewhere_nanos=12_000_000_000,
        bytes_in_flight=64_000_000,
    )
    account = Account("acme spring", 200 * 10**9, 90_000)
    assert manifest.budget == Budget(25_100_000_000, 5000, "refuse", "manifest", account)
    assert manifest.retry == RetryPolicy(3, 1, "hold")
    assert manifest.prices == PriceOverride(250, 1500, 60_000, {"512": 700, "1K": 1000})
    assert manifest.prices.prices == Prices(250, 1500, 60_000)
    assert (manifest.lane, manifest.verify, manifest.output) == ("batch", "full", "{prompt}-{variant}.{ext}")


@pytest.mark.parametrize(
    ("written", "nanos"),
    [
        ("25.00", 25_000_000_000),
        ("0", 0),
        ("0.000000001", 1),
        ("0.1", 100_000_000),
        ("'12.50'", 12_500_000_000),
        ("2.5e1", 25_000_000_000),
        ("123456789.987654321", 123_456_789_987_654_321),
        ("1000000000", 10**18),
    ],
)
def test_money_is_exact(written: str, nanos: int):
    assert parsed(f"budget: {{usd: {written}}}").budget.cap_nanos == nanos


@pytest.mark.parametrize(
    ("written", "limits"),
    [
        ("{}", Limits()),
        ("{rpm: 60, concurrency: 4}", Limits(rpm=60, concurrency=4)),
        ("{tpm: 1, ipm: 2, rpd: 3, in_flight_mb: 5}", Limits(tpm=1, ipm=2, rpd=3, bytes_in_flight=5_000_000)),
        ("{tier: 1}", Limits(spend_nanos=10 * 10**9, month_nanos=250 * 10**9)),
        ("{tier: 2}", Limits(spend_nanos=50 * 10**9, month_nanos=2_000 * 10**9)),
        ("{tier: 3}", Limits(spend_nanos=200 * 10**9)),
        ("{tier: 1, spend_usd_per_10min: 25}", Limits(spend_nanos=25 * 10**9, month_nanos=250 * 10**9)),
        ("{spend_usd_per_month: 5, tier: 3}", Limits(spend_nanos=200 * 10**9, month_nanos=5 * 10**9)),
        ("{spend_usd_per_10min: '0.000000001'}", Limits(spend_nanos=1)),
        (
            "{spend_usd_per_month: 5, spent_usd_this_month: 6}",
            Limits(month_nanos=5 * 10**9, month_elsewhere_nanos=6 * 10**9),
        ),
    ],
)
def test_what_is_given_goes_before_what_the_tier_documents(written: str, limits: Limits):
    assert parsed(f"limits: {written}").limits.resolved(builtin()) == limits


@pytest.mark.parametrize(
    ("limits", "noted"),
    [
        ("{spent_usd_this_month: 1}", True),
        ("{tier: 3, spent_usd_this_month: 1}", True),
        ("{spent_usd_this_month: 0}", False),
        ("{tier: 1, spent_usd_this_month: 1}", False),
        ("{spend_usd_per_month: 9, spent_usd_this_month: 1}", False),
    ],
)
def test_a_spend_that_counts_towards_nothing_is_noted(limits: str, noted: bool):
    note = "m.yaml:5: spent_usd_this_month counts towards nothing without spend_usd_per_month"
    assert (note in parsed("limits:", f"  {limits}").notes) == noted


@pytest.mark.parametrize(
    ("written", "budget"),
    [
        ("{account: acme}", Budget(account=Account("acme"))),
        ("{account: 5}", Budget(account=Account("5"))),
        ("{account: acme, usd: 2, image_tokens: 0}", Budget(2 * 10**9, 0, account=Account("acme", 2 * 10**9, 0))),
        ("{account: {name: acme}, usd: 2}", Budget(2 * 10**9, account=Account("acme"))),
        ("{account: {name: acme, usd: 9}}", Budget(account=Account("acme", 9 * 10**9))),
        ("{usd: 2, account: {name: a, image_tokens: 7}}", Budget(2 * 10**9, account=Account("a", None, 7))),
    ],
)
def test_an_account_named_alone_has_the_caps_beside_it(written: str, budget: Budget):
    assert parsed(f"budget: {written}").budget == budget


def test_512_in_every_spelling_is_one_size():
    for spelling in ("512", '"512"', "0.5K", "'0.5K'"):
        (task,) = tasks(f"matrix: {{size: [{spelling}]}}")
        assert task.size == "512"


def test_texts_that_look_like_something_else_stay_as_written():
    prompts = "prompts: [0, 007, 1.50, true, no, 12:30, 2026-11-22, 1e3, 0x10]"
    written = ["0", "007", "1.50", "true", "no", "12:30", "2026-11-22", "1e3", "0x10"]
    assert [task.prompt for task in tasks(prompts=prompts)] == written
    axis = tasks("matrix: {tone: [1.50, off, 007, null_]}", prompts="prompts: ['{tone}']")
    assert [task.prompt for task in axis] == ["1.50", "off", "007", "null_"]


def test_a_prompt_without_an_id_has_one_from_its_text():
    made = tasks(prompts="prompts: [A red fox!, A red fox!, {text: '🍌'}, 北京的早晨]")
    assert [task.prompt_id for task in made] == [
        "a-red-fox-3eff719911",
        "a-red-fox-3eff719911-2",
        "b3c411d456",
        "北京的早晨-31b87eb58b",
    ]


def test_an_explicit_id_is_never_given_to_another_prompt():
    taken = tasks(prompts="prompts: [A red fox!]")[0].prompt_id
    ids = [task.prompt_id for task in tasks(prompts=f"prompts: [A red fox!, {{id: {taken}, text: b}}]")]
    assert len(set(ids)) == 2
    assert ids[1] == taken


def test_a_prompts_own_matrix_replaces_the_axes_it_names():
    manifest = parsed(
        "matrix: {size: [1K, 2K], zip: [{a: [1, 2], b: [3, 4]}]}",
        prompts="prompts: [x, {text: y, matrix: {size: 4K}}, {text: z, matrix: {a: [5], b: [6]}}]",
    )
    first, second, third = (p.dimensions for p in manifest.prompts)
    aspect, size, both = manifest.matrix.dimensions
    assert first is manifest.matrix.dimensions
    assert second == (aspect, Dimension(("size",), (("4K",),)), both)
    assert third == (aspect, size, Dimension(("a", "b"), (("5", "6"),)))


@pytest.mark.parametrize(
    ("model", "note"),
    [
        ("gemini-3.1-flash-lite-image", None),
        (
            "gemini-3.1-flash-image-preview",
            (
                "model gemini-3.1-flash-image-preview is retired and may be gone since 2026-06-25; "
                "its successor is gemini-3.1-flash-image, and after that gemini-nano-banana-2.1"
            ),
        ),
        (
            "gemini-3.1-flash-image",
            "model gemini-3.1-flash-image is deprecated since 2026-10-06; its successor is gemini-nano-banana-2.1",
        ),
        (
            "vendor/some-model:free",
            (
                "model vendor/some-model:free is not in the catalog of 2026-11-22: "
                "its sizes and aspects go unchecked and its prices are not known"
            ),
        ),
        (
            "gemini-3.1-flash-imag",
            (
                "model gemini-3.1-flash-imag is not in the catalog of 2026-11-22 (did you mean "
                "'gemini-3.1-flash-image'?): its sizes and aspects go unchecked and its prices are not known"
            ),
        ),
    ],
)
def test_a_model_that_may_not_answer_is_noted_with_its_line(model: str, note: str | None):
    notes = parsed(model=f"model: {model}").notes
    assert notes == ((f"m.yaml:2: {note}",) if note else ())


def test_an_unknown_model_passes_what_has_a_sane_form():
    (task,) = tasks(
        "matrix: {size: 8K, aspect: 32:9}", "generation: {thinking: extreme}", model="model: vendor/some-model"
    )
    assert (task.size, task.aspect, task.recipe.thinking) == ("8K", "32:9", "extreme")


def test_rules_that_match_nothing_are_noted():
    manifest = parsed(
        "matrix:",
        "  style: [a, b]",
        "  zip: [{x: [1, 2], y: [3, 4]}]",
        "  exclude:",
        "    - {style: c}",
        "    - {style: a}",
        "    - {x: 1, y: 4}",
        "    - {x: 1, y: 3}",
        "    - {style: own}",
        "  include: [{size: 4K, style: z}]",
        "  settings:",
        "    - {where: {size: 4K}, generation: {thinking: high}}",
        "    - {where: {size: 4K, style: z}, generation: {thinking: high}}",
        "    - {where: {size: 4K, style: a}, generation: {thinking: high}}",
        prompts="prompts: [p, {text: q, matrix: {style: own}}]",
    )
    assert manifest.notes[1:] == (
        "m.yaml:8: this exclude matches nothing",
        "m.yaml:10: this exclude matches nothing",
        "m.yaml:17: this where matches nothing",
    )


def test_aliases_and_anchors_work_across_fields():
    made = tasks(
        "matrix: {size: [1K, 2K]}",
        prompts="prompts: [{text: one, matrix: {aspect: &a [16:9]}}, {text: &t two, matrix: {aspect: *a}}, *t]",
    )
    assert len(made) == 6


@pytest.mark.skipif(not PARTI.exists(), reason="the prompt collections are not beside this repository")
@pytest.mark.parametrize("style", ["'", '"', "|", None])
def test_real_prompts_come_back_byte_for_byte(style: str | None):
    with PARTI.open(encoding="utf-8", newline="") as file:
        prompts = [row["Prompt"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    assert len(prompts) == 1632
    listed = yaml.safe_dump({"prompts": prompts}, default_style=style, allow_unicode=True, width=80)
    manifest = parse(f"job: parti\nmodel: {MODEL}\nmatrix: {{aspect: [1:1, 16:9]}}\n{listed}", "m.yaml", builtin())
    made = expand(manifest, builtin())
    assert [task.prompt for task in made] == prompts * 2
    assert len({task.key for task in made}) == 2 * 1632


def test_batch_settings_have_the_documented_defaults():
    settings = parsed().batch
    assert settings == BatchSettings(30.0, 900.0, 500, 1_000_000_000, None, 100, 20)
    assert settings.slowest_poll_s == 300.0


def test_batch_settings_are_what_was_written():
    written = "batch: {poll_s: 1.5, settle_s: 60, lines: 10000, output_mb: 3, tokens: 7, jobs: 2, least: 1}"
    assert parsed(written).batch == BatchSettings(1.5, 60.0, 10_000, 3_000_000, 7, 2, 1)
    assert parsed("batch: {least: 5}").batch == BatchSettings(least=5)
