"""The JSON Schema: kept beside the examples, accepts them, and refuses what the parser refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.adapters.material import Material
from runner.core.catalog import builtin
from runner.core.manifest import parse
from runner.core.matrix import expand
from runner.core.schema import render, schema
from tests.core.manifests import manifest_text, problems

JOBS = Path(__file__).parents[2] / "jobs"
SCHEMA = JOBS / "bulkrender.schema.json"
EXAMPLES = sorted(JOBS.glob("*.yaml"))

BAD = [
    "verfy: full",
    "variants: 0",
    "variants: two",
    "lane: fast",
    "limits: {rps: 1}",
    "limits: {tpm: 0}",
    "limits: {ipm: many}",
    "limits: {rpd: 1.5}",
    "limits: {in_flight_mb: 0}",
    "limits: {tier: 0}",
    "limits: {tier: 4}",
    "limits: {tier: '1'}",
    "limits: {spend_usd_per_10min: 0}",
    "limits: {spend_usd_per_10min: '0.00'}",
    "limits: {spend_usd_per_month: 0.0}",
    "limits: {spent_usd_this_month: -1}",
    "batch: {poll: 1}",
    "batch: {poll_s: 0}",
    "batch: {lines: 0}",
    "batch: {lines: 10001}",
    "batch: {least: many}",
    "budget: {usd: -1}",
    "budget: {usd: much}",
    "budget: {account: ''}",
    "budget: {account: [a]}",
    "budget: {account: {usd: 1}}",
    "budget: {account: {name: ''}}",
    "budget: {account: {name: a, usd: -1}}",
    "budget: {account: {name: a, image_tokens: -1}}",
    "budget: {account: {name: a, order: spread}}",
    "generation: {modalities: [AUDIO]}",
    "generation: {safety: {HARASMENT: OFF}}",
    "matrix: {size: 1k}",
    "matrix: {aspect: [16x9]}",
    "matrix: {style: []}",
    "matrix: {model: []}",
    "keep: []",
    "keep: {a: b}",
    "drafts: ''",
    "drafts: [a]",
    "notify: []",
    "notify: {command: say}",
    "notify: {command: []}",
    "notify: {webhook: ftp://h/x}",
    "notify: {webhook: 'https://user:pw@h/x'}",
    "notify: {webhook: 'https://h/x', secret_env: GEMINI_API_KEY}",
    "notify: {webhook: 'https://h/x', secret_env: s3cret!}",
    "notify: {webhook: 'https://h/x', on: ended}",
    "notify: {webhook: 'https://h/x', secret: abc}",
    "matrix: {art style: a}",
    "matrix: {exclude: [{size: [1K]}]}",
    "matrix: {settings: [{where: {size: 1K}}]}",
    "matrix: {zip: [{a: [1]}]}",
]
GOOD = [
    "limits: {tier: 1, tpm: 1, ipm: 1, rpd: 1, in_flight_mb: 1}",
    "limits: {tier: 3, spend_usd_per_10min: 0.01, spend_usd_per_month: '10.50', spent_usd_this_month: 0}",
    "batch: {poll_s: 1.5, settle_s: 86400, lines: 10000, output_mb: 1, tokens: 1, jobs: 1, least: 1}",
    "budget: {account: acme, usd: 1}",
    "budget: {account: 2026}",
    "budget: {account: {name: acme}}",
    "budget: {usd: 1, account: {name: acme, usd: '200.00', image_tokens: 0}}",
    "keep: gemini-3.1-flash-image-preview",
    "keep: [gemini-3.1-flash-image-preview, vendor/model]",
    "drafts: another job",
    "notify: {command: [mail, -s, done, me]}",
    "notify: {webhook: 'https://h:8443/x?y=1', secret_env: HOOK_SECRET, on: [failing, halted]}",
    "notify: {webhook: 'http://127.0.0.1/', command: [beep], on: done}",
    "matrix: {reference: ['', a.png]}",
]
BAD_PROMPTS = [
    "prompts: []",
    "prompts: a",
    "prompts: [{id: a}]",
    "prompts: [{txt: a}]",
    "prompts: [{text: a, references: []}]",
    "prompts: [{text: a, limit: 1}]",
    "prompts: [{from: [a.csv]}]",
    "prompts: [{from: a.csv, id: b}]",
    "prompts: [{from: a.csv, limit: 0}]",
    "prompts: [{from: a.csv, sample: 0.01}]",
    "prompts: [{from: a.csv, sample: 1 %}]",
    "prompts: [{from: a.csv, seed: -1}]",
    "prompts: [{from: a.csv, template: maybe}]",
]
GOOD_PROMPTS = [
    "prompts: [{from: p.csv}]",
    "prompts: [{from: p.csv, limit: 2, sample: 100%, seed: 7, template: false, matrix: {size: 2K}}]",
    "prompts: [{from: v.csv, text: 'a {w}'}]",
    "prompts: [{text: a, references: a.png}, {text: b, references: [a.png, 'https://h/x.png']}]",
    "prompts: [{from: p.csv, references: a.png}]",
]
FILES = {"p.csv": "prompt\na\nb\n", "v.csv": "w\n1\n", "a.png": "1"}


def check(schema_file: Path, *files: Path) -> set[str]:
    """Names of the files that do not fit the schema."""
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--output-format",
        "json",
        "--schemafile",
        str(schema_file),
    ]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert not report.get("parse_errors")
    return {Path(error["filename"]).name for error in report.get("errors", [])}


def test_the_schema_in_the_repository_is_up_to_date():
    """If not: `bulkrender schema > jobs/bulkrender.schema.json`."""
    assert SCHEMA.read_text(encoding="utf-8") == render(builtin())


def test_every_example_is_accepted_by_schema_and_parser():
    assert len(EXAMPLES) >= 6
    assert check(SCHEMA, *EXAMPLES) == set()
    for example in EXAMPLES:
        assert expand(parse(example.read_bytes(), example.name, builtin()), builtin(), Material(JOBS))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_names_its_schema_in_the_first_line(example: Path):
    first = example.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=bulkrender.schema.json"


def test_the_first_job_is_small():
    example = JOBS / "banana-poster.yaml"
    manifest = parse(example.read_bytes(), example.name, builtin())
    assert (manifest.job, manifest.budget.cap_nanos) == ("banana-poster", 2_000_000_000)
    made = expand(manifest, builtin())
    assert len(made) == 8
    assert {task.size for task in made} <= {"512", "1K"}


def test_schema_and_parser_refuse_the_same(tmp_path: Path):
    texts = [manifest_text(line) for line in BAD] + [manifest_text(prompts=prompts) for prompts in BAD_PROMPTS]
    texts += [manifest_text(job="variants: 1"), "- a\n"]
    files = [tmp_path / f"{n}.yaml" for n in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
        assert problems(text), text
    assert {file.name for file in files} - check(SCHEMA, *files) == set()


def test_schema_and_parser_accept_the_same(tmp_path: Path):
    texts = [manifest_text(line) for line in GOOD] + [manifest_text(prompts=prompts) for prompts in GOOD_PROMPTS]
    texts.append(manifest_text("matrix: {model: [gemini-3-pro-image, vendor/model]}", model="variants: 1"))
    files = [tmp_path / f"{n}.yaml" for n in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
        assert not problems(text, FILES), text
    assert check(SCHEMA, *files) == set()


def test_the_schema_has_the_catalogs_words():
    properties = schema(builtin())["properties"]
    assert set(builtin().models) == set(properties["model"]["anyOf"][0]["enum"])
    sizes = properties["matrix"]["properties"]["size"]["anyOf"][0]["enum"]
    assert sizes == ["512", "1K", "2K", "4K", "0.5K", 512]
    assert properties["limits"]["properties"]["tier"]["enum"] == list(builtin().usage_tiers)
    assert properties["lane"]["enum"] == ["standard", "batch", "auto"]
    assert all("description" in field for field in properties.values())
