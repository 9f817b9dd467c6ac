"""Campaigns from files, as people have them: every example rendered, and real collections byte for byte."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.adapters.material import Material
from runner.core.catalog import builtin
from runner.core.manifest import parse
from runner.core.matrix import expand
from runner.core.task import TaskSpec

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "jobs").glob("*.yaml"))
SHARED = ROOT.parent / "shared/prompts"
CALM = ("--sandbox", "--sandbox-faults", "none", "--sandbox-latency", "0")
CAPABILITIES = {
    "csv",
    "tsv",
    "jsonl",
    "sample",
    "models",
    "references",
    "keep",
    "drafts",
    "finals",
    "zip",
    "settings",
    "batch",
    "auto",
}

here = pytest.mark.skipif(not SHARED.exists(), reason="the prompt collections are not beside this repository")


def expanded(path: Path) -> tuple[TaskSpec, ...]:
    return expand(parse(path.read_bytes(), str(path), builtin()), builtin(), Material(path.parent))


def arrived(home: Path) -> Iterator[dict[str, Any]]:
    """What the sandbox was sent, by its own books."""
    lines = (home / "bulkrender-sandbox.db.sandbox/requests.jsonl").read_text(encoding="utf-8").splitlines()
    return map(json.loads, lines)


@pytest.fixture
def jobs(home):
    """A copy of the examples."""
    return shutil.copytree(ROOT / "jobs", home / "jobs")


def test_there_is_an_example_of_everything():
    assert {path.stem for path in EXAMPLES} > CAPABILITIES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_planned_within_its_cap(command, jobs, example):
    result = command("plan", jobs / example.name, "--sandbox", "--json")
    answer, total = json.loads(result.out), len(expanded(example))
    assert (result.code, answer["fits"]) == (0, True)
    assert answer["tasks"]["new"] == answer["tasks"]["total"] == total > 0


def test_every_example_is_rendered_and_arrives_as_it_was_expanded(command, jobs, home):
    paths = [jobs / example.name for example in EXAMPLES]
    result = command("run", *paths, *CALM, "--lane", "standard", "--rpm", "100000", "--json")
    answer = json.loads(result.out)
    wanted = {path: expanded(path) for path in paths}
    assert [one["tasks"]["succeeded"] for one in answer["jobs"]] == [len(wanted[path]) for path in paths], (
        result.err
    )
    tasks = [task for path in paths for task in wanted[path]]
    sent = list(arrived(home))
    assert Counter((row["prompt"], row["model"], row["size"], row["aspect"]) for row in sent) == Counter(
        (task.prompt, task.recipe.model, task.size, task.aspect) for task in tasks
    )
    assert Counter((row["prompt"], tuple(one["sha256"] for one in row["references"])) for row in sent) == Counter(
        (task.prompt, tuple(one.sha256 for one in task.references)) for task in tasks
    )
    for task in tasks:
        assert list((home / "renders-sandbox").glob(f"{task.stem}.*"))
    again = json.loads(command("run", *paths, *CALM, "--json").out)
    assert again["exit_code"] == 0
    assert len(list(arrived(home))) == len(sent)


def test_the_example_of_a_batch_is_rendered_at_half_the_price(command, jobs):
    path = jobs / "batch.yaml"
    path.write_text(path.read_text().replace("poll_s: 5", "poll_s: 1"))
    prices = json.loads(command("plan", path, "--sandbox", "--json").out)["lanes"]
    answer = json.loads(command("run", path, *CALM, "--sandbox-speed", "100", "--json").out)
    assert answer["tasks"]["succeeded"] == answer["tasks"]["total"] == 6
    assert 0 < float(answer["spend"]["usd"]) < float(prices["batch"]["max_usd"]) < float(prices["standard"]["usd"])


def test_pictures_of_the_kept_model_are_not_bought_again(command, jobs):
    path = jobs / "keep.yaml"
    text = path.read_text()
    path.write_text(text.replace("model: gemini-3.1-flash-image\n", "model: gemini-3.1-flash-image-preview\n", 1))
    assert command("run", path, *CALM).code == 0
    path.write_text(text.replace("[puffin, hoopoe]", "[puffin, hoopoe, wren]"))
    answer = json.loads(command("plan", path, "--sandbox", "--json").out)
    assert (answer["tasks"]["done"], answer["tasks"]["new"]) == (2, 1)


@pytest.mark.parametrize(
    ("prompts", "files", "says"),
    [
        ("[{from: none.csv}]", {}, "j.yaml:3:18: none.csv cannot be read: No such file or directory"),
        (
            "[{from: p.csv}]",
            {"p.csv": b"prompt,w\na\n"},
            "p.csv:2:1: row 1 (line 2) has 1 of 2 cells: a comma or a quotation mark is missing; it begins 'a'",
        ),
        ("[{from: p.txt}]", {"p.txt": b"a\xff\n"}, "p.txt:1:2: not UTF-8: byte 0xff at offset 1"),
        (
            "[{from: p.txt, sample: 0.000001%}]",
            {"p.txt": b"a\n"},
            "j.yaml:3:18: p.txt has no prompts in this sample",
        ),
        ("[{text: a, references: q.png}]", {}, "j.yaml:3:18: reference q.png is not there"),
        ("[{text: a, references: 'q*.png'}]", {}, "j.yaml:3:18: no file matches q*.png"),
        (
            "[{from: p.jsonl}]",
            {"p.jsonl": b'{"prompt": "x", "references": ["b.gif"]}\n', "b.gif": b"GIF89a"},
            "p.jsonl:1:1: reference b.gif is GIF, which the model does not take; convert it to PNG",
        ),
        (
            "[{text: a, references: 'http://h/a.png'}]",
            {},
            "j.yaml:3:18: the service fetches no reference of the form",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_wrong_files_are_named_with_their_place_and_nothing_is_recorded(
    command, manifest, home, prompts, files, says, verb
):
    for name, data in files.items():
        (home / name).write_bytes(data)
    result = command(verb, manifest(prompts=prompts), "--sandbox")
    assert result.code == 2
    assert result.err.startswith(f"error: {says}")
    assert {path.name for path in home.iterdir()} == {"j.yaml", *files}


# --- what people really render ---


def column(path: Path) -> list[str]:
    """The first cell of every line of a TSV file below its header."""
    return [line.split("\t")[0] for line in path.read_bytes().decode().split("\n")[1:] if line]


def lines(path: Path) -> list[str]:
    return [line.removesuffix("\r") for line in path.read_bytes().decode().split("\n") if line.strip()]


def objects(path: Path) -> list[str]:
    return [json.loads(line)["prompt"] for line in path.read_bytes().decode().split("\n") if line]


REAL = {
    "parti/PartiPrompts.tsv": (column, 1_632),
    "geneval/generation_prompts.txt": (lines, 553),
    "geneval/evaluation_metadata.jsonl": (objects, 553),
    "t2i-compbench/color.txt": (lines, 860),
    "t2i-compbench/complex.txt": (lines, 1_000),
    "dynamic-prompts/emoji.txt": (lines, 1_281),
}


@here
@pytest.mark.parametrize("name", REAL)
def test_a_real_collection_is_expanded_byte_for_byte(tmp_path, name):
    read, count = REAL[name]
    wanted = read(SHARED / name)
    path = tmp_path / "m.yaml"
    path.write_text(
        f"job: j\nmodel: gemini-3.1-flash-image\nprompts: [{{from: '{SHARED / name}', template: false}}]\n"
    )
    made = expanded(path)
    assert [task.prompt for task in made] == wanted
    assert len(wanted) == count
    assert len({task.key for task in made}) == len({task.stem.casefold() for task in made}) == count


@here
@pytest.mark.timeout(400)
def test_real_collections_are_rendered_and_every_prompt_arrives_byte_for_byte(command, home):
    """All of each, in one job of nearly six thousand, which takes a minute; they say some things twice."""
    entries = "".join(f"  - {{from: '{SHARED / name}', template: false}}\n" for name in REAL)
    path = home / "real.yaml"
    path.write_text(f"job: real\nmodel: gemini-3.1-flash-image\nmatrix: {{size: 512}}\nprompts:\n{entries}")
    result = command("run", path, *CALM, "--rpm", "100000", "--json")
    assert json.loads(result.out)["tasks"]["succeeded"] == sum(count for _, count in REAL.values()), result.err
    sent = Counter(row["prompt"].encode() for row in arrived(home))
    assert sent == Counter(prompt.encode() for name, (read, _) in REAL.items() for prompt in read(SHARED / name))
