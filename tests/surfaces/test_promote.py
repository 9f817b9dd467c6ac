"""`promote`: chosen drafts become a manifest of finals, which is planned at once and run like any other."""

import io
import json
import shlex
import sys
import tempfile
from decimal import Decimal
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from runner.app import choice, promote
from runner.app.campaign import load
from runner.app.finals import Final, Head, manifest_text, rows_text, sheet_of
from runner.app.promote import escaped
from runner.app.settings import Options, resolve
from runner.core.errors import UsageError
from runner.core.task import Recipe
from runner.core.template import compile_template
from runner.core.yaml12 import read

MODEL = "gemini-3.1-flash-image-preview"

MUGS = """
job: mugs
model: gemini-3.1-flash-image-preview
prompts:
  - {id: mug, text: 'A {finish} mug that says "{{hi}}"'}
  - {id: mat, text: 'A {finish} doormat, {"a": 1}'}
matrix: {size: [512], finish: [matte, glossy]}
variants: 2
generation: {modalities: [IMAGE, TEXT], thinking: minimal, system: 'No logos: none.', safety: {HARASSMENT: OFF}}
budget: {usd: 5, account: acme}
"""


@pytest.fixture
def mugs(live, home):
    """Eight drafts, bought."""
    Path("jobs").mkdir()
    Path("jobs/mugs.yaml").write_text(MUGS)
    assert live("run", "jobs/mugs.yaml").code == 0
    return [json.loads(line) for line in live("export", "mugs").out.splitlines()]


def rows(path="jobs/mugs-final.jsonl"):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def exported(live, job):
    return [json.loads(line) for line in live("export", job).out.splitlines()]


def test_chosen_drafts_become_finals_whose_money_is_added_up(live, mugs, home):
    chosen = [mugs[0], mugs[3]]
    Path("best.txt").write_text(f"# the best\n\n{chosen[0]['key']}\r\n{chosen[1]['path']}\n")
    made = live("promote", "mugs", "--pick", "best.txt", "--set", "size=1K", "--set", "thinking=high", "--json")
    answer = json.loads(made.out)
    assert made.code == 0
    assert answer["tasks"] == {"total": 2, "new": 2, "retry": 0, "done": 0, "submitted": 0, "orphaned": 0}
    assert (answer["job"], answer["drafts"], answer["fits"]) == ("mugs-final", "mugs", True)
    assert answer["account"]["name"] == "acme"
    assert answer["command"] == "bulkrender run jobs/mugs-final.yaml"
    assert [row["draft"] for row in rows()] == [one["key"] for one in chosen]
    assert [row["prompt"] for row in rows()] == [one["prompt"] for one in chosen]
    assert not any("unchecked" in note or "nothing" in note for note in answer["notes"])
    assert live(*shlex.split(answer["command"])[1:]).code == 0
    finals = exported(live, "mugs-final")
    assert {one["draft"] for one in finals} == {one["key"] for one in chosen}
    assert {one["draft"]: one["prompt"] for one in finals} == {one["key"]: one["prompt"] for one in chosen}
    assert [one["size"] for one in finals] == ["1K", "1K"]
    assert {one["axes"]["finish"] for one in finals} == {one["axes"]["finish"] for one in chosen}
    status = json.loads(live("status", "mugs-final", "--json").out)
    drafts = json.loads(live("status", "mugs", "--json").out)
    assert status["drafts"]["job"] == "mugs"
    assert status["drafts"]["spend"] == drafts["spend"]
    together = Decimal(status["spend"]["usd"]) + Decimal(drafts["spend"]["usd"])
    assert Decimal(status["drafts"]["together_usd"]) == together
    assert (drafts["drafts"], drafts["finals"], status["finals"]) == (None, ["mugs-final"], [])
    assert "its finals: mugs-final" in live("status", "mugs").out
    assert f"${status['drafts']['together_usd']} together" in live("status", "mugs-final").out


def test_the_settings_of_the_drafts_are_carried_over(live, mugs):
    assert live("promote", "mugs", "--where", "finish=matte", "--where", "variant=1", "--set", "size=2K").code == 0
    text = Path("jobs/mugs-final.yaml").read_text()
    assert text == (
        '# 2 pictures chosen from job "mugs"; written by `bulkrender promote`.\n'
        "# Each row of the prompt file is one of them: delete those that are not wanted any more.\n"
        "job: mugs-final\n"
        "drafts: mugs\n"
        "model: gemini-3.1-flash-image-preview\n"
        "prompts:\n"
        "  - from: mugs-final.jsonl\n"
        "    template: false  # every prompt as it is\n"
        "matrix:  # an axis with several values is a column of the rows\n"
        "  size: [2K]\n"
        "  aspect: [1:1]\n"
        "  finish: [matte]\n"
        "generation:\n"
        "  modalities: [IMAGE, TEXT]\n"
        "  thinking: minimal\n"
        '  system: "No logos: none."\n'
        "  safety: {HARASSMENT: OFF}\n"
        "budget: {account: acme}\n"
    )
    assert [row["id"] for row in rows()] == ["mug", "mat"]
    assert all(row.keys() == {"id", "prompt", "draft"} for row in rows())


def test_the_draft_goes_along_and_a_budget_is_of_the_new_job_alone(live, mugs, home):
    made = live(
        "promote", "mugs", "--where", "prompt=mug", "--with-draft", "--budget", "3.5", "--name", "über/1", "--json"
    )
    answer = json.loads(made.out)
    assert answer["manifest"] == "jobs/über-1.yaml"
    assert answer["cap"]["usd"] == "3.50"
    assert answer["account"]["cap"]["usd"] == "5.00"
    assert "budget: {account: {name: acme}, usd: 3.50}" in Path(answer["manifest"]).read_text()
    for row in rows(answer["prompts"]):
        [reference] = row["references"]
        path = next(one["path"] for one in mugs if one["key"] == row["draft"])
        assert (Path("jobs") / reference).resolve() == home / "renders" / path
    assert len({row["id"] for row in rows(answer["prompts"])}) == 4


def test_references_keep_their_meaning_elsewhere(live, home):
    Path("jobs/brand").mkdir(parents=True)
    Path("elsewhere").mkdir()
    Image.new("RGB", (64, 64), "red").save("jobs/brand/{logo}.png")
    Path("jobs/r.yaml").write_text(
        f"job: r\nmodel: {MODEL}\nmatrix: {{size: [512], reference: ['', 'brand/*.png']}}\n"
        "prompts: [{id: a, text: a cat, references: [mark.png]}]\noutput: '{job}/{prompt}-{reference}.{ext}'\n"
    )
    Image.new("RGB", (64, 64), "blue").save("jobs/mark.png")
    assert live("run", "jobs/r.yaml").code == 0
    words = ("promote", "r", "--where", "size=512", "--set", "size=1K")
    assert live(*words, "--to", "elsewhere/f.yaml").code == 0
    assert [row["references"] for row in rows("elsewhere/f.jsonl")] == [
        ["../jobs/mark.png"],
        ["../jobs/mark.png", "../jobs/brand/{{logo}}.png"],
    ]
    assert [row["axis_reference"] for row in rows("elsewhere/f.jsonl")] == ["(none)", "brand/*.png"]
    Image.new("RGB", (64, 64), "green").save("jobs/mark.png")
    made = live(*words)
    assert made.code == 0
    assert [row["references"] for row in rows("jobs/r-final.jsonl")][1] == ["mark.png", "brand/{{logo}}.png"]
    assert "reference mark.png is another file now than when the drafts were made" in made.out
    Path("jobs/mark.png").unlink()
    gone = live(*words, "--name", "again")
    assert gone.code == 2
    assert "nothing was written, for the follow-up job could not be run" in gone.err
    assert "reference mark.png is not there" in gone.err
    assert not Path("jobs/again.yaml").exists()


def test_pictures_of_drafts_that_are_gone_cannot_go_along(live, mugs, home):
    path = mugs[0]["path"]
    (home / "renders" / path).unlink()
    result = live("promote", "mugs", "--where", "prompt=mug", "--with-draft")
    assert f"--with-draft: no longer below {home}/renders: {path}" in result.err


def test_finals_with_their_drafts_as_references_are_rendered(live, mugs):
    assert live("promote", "mugs", "--where", "variant=1", "--with-draft", "--set", "size=1K").code == 0
    answer = json.loads(live("run", "jobs/mugs-final.yaml", "--json").out)
    assert (answer["exit_code"], answer["tasks"]["succeeded"]) == (0, 4)


def test_another_model_needs_a_thinking_level_that_it_has():
    drafted = Recipe("gemini-nano-banana-2.1", thinking="medium")
    with pytest.raises(
        UsageError, match=r"has no thinking level medium, which the drafts .* --set thinking=minimal"
    ):
        promote._recipe(drafted, promote.read_changes([f"model={MODEL}"]))
    high = promote._recipe(drafted, promote.read_changes([f"model={MODEL}", "thinking=HIGH"]))
    assert high == Recipe(MODEL, thinking="high")
    none_at_all = promote._recipe(drafted, promote.read_changes(["model=gemini-3-pro-image"]))
    assert none_at_all == Recipe("gemini-3-pro-image")


def test_models_and_settings_in_which_the_chosen_differ_are_axes(home):
    made = sheet_of(
        [
            Final(
                f"a{n}",
                "a cat",
                (),
                Recipe(model, ("IMAGE", "TEXT") if mood else ("IMAGE",), system="Grim." if mood else None),
                {"size": "1K", "aspect": "1:1", "mood": mood},
                f"k1-{n:032x}",
            )
            for n, (model, mood) in enumerate(product(("m1", "m2"), ("", "grim")))
        ]
    )
    text = manifest_text(Head("two-final", "two", "x.jsonl"), made)
    assert "  model: [m1, m2]\n" in text
    assert "\nmodel:" not in text
    assert '  mood: ["(none)", grim]\n' in text
    assert "    - {where: {recipe: r2}, generation: {modalities: [IMAGE, TEXT], system: " in text
    Path("x.yaml").write_text(text)
    Path("x.jsonl").write_text(rows_text(made))
    specs = load(Path("x.yaml"), resolve(Options(sandbox=True), {})).specs
    assert {(spec.recipe, dict(spec.axes)["mood"]) for spec in specs} == {
        (one.recipe, one.axes["mood"] or "(none)") for one, _ in made.rows
    }


def test_every_wrong_line_is_told_and_nothing_is_written(live, home, manifest):
    live("run", manifest("variants: 2"))
    Path("bad.txt").write_text("j/a/512-1x1-1.jpg\nnope\n\nj/a/512-1x1-1\nk1-ffffffffffff\n")
    result = live("promote", "j", "--pick", "bad.txt", "--set", "size=1K")
    assert result.code == 2
    assert result.err.splitlines() == [
        f"error: bad.txt:{line}: job j has no task {word!r}: expected its key, or its path below the output folder"
        for line, word in ((2, "nope"), (5, "k1-ffffffffffff"))
    ]
    assert not Path("j-final.yaml").exists()
    assert not Path("j-final.jsonl").exists()


def test_a_start_of_a_key_that_two_tasks_have_is_ambiguous():
    tasks: list[Any] = [
        SimpleNamespace(key=key, path=None) for key in ("k1-aaaaaaaa1", "k1-aaaaaaaa2", "k1-bbbbbb")
    ]
    hits = choice.hits(tasks, {"k1-aaaaaaaa", "k1-bbbbb"})
    why = choice._why_not("j", "k1-aaaaaaaa", hits["k1-aaaaaaaa"])
    assert why == "'k1-aaaaaaaa' is ambiguous: it may be k1-aaaaaaaa1 and k1-aaaaaaaa2"
    assert [one.key for one in hits["k1-bbbbb"]] == ["k1-bbbbbb"]


def test_the_chosen_come_from_stdin(live, manifest, monkeypatch):
    live("run", manifest())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfj/b/512-1x1-1\n")))
    assert live("promote", "j", "--pick", "-", "--set", "size=1K").code == 0
    assert [row["prompt"] for row in rows("j-final.jsonl")] == ["a dog"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say which pictures are meant: by --pick FILE, or by --where AXIS=VALUE"),
        (["--where", "sise=512"], "--where sise=512: unknown axis 'sise': did you mean 'size'?"),
        (["--where", "size"], "--where size: expected AXIS=VALUE such as size=512"),
        (["--where", "size=4K"], "--where size=4K: no task has it; size is 512"),
        (["--where", "size=512"], "nothing would differ from the drafts, so the same would be bought again"),
        (["--where", "size=512", "--set", "size=512"], "nothing would differ from the drafts"),
        (["--where", "size=512", "--set", "sise=4K"], "unknown setting 'sise': did you mean 'size'?"),
        (["--where", "size=512", "--set", "size=5K"], "size=5K: '5K' is not a size of gemini-3.1"),
        (["--where", "size=512", "--set", "thinking=deep"], "'deep' is not a thinking level of"),
        (["--where", "size=512", "--set", "variants=0"], "expected a whole number of at least 1, got 0"),
        (["--where", "size=512", "--set", "size=1K", "--set", "size=2K"], "--set size=2K: size is set twice"),
        (["--where", "size=512", "--set", "size=1K", "--name", "j"], "that is the job of the drafts itself"),
        (["--where", "size=512", "--set", "size=1K", "--to", "x.txt"], "expected a file that ends with .yaml"),
        (["--where", "size=512", "--set", "size=1K", "--to", "no/x.yaml"], "there is no folder no"),
        (["--where", "size=512", "--set", "size=1K", "--to", "j.yaml", "--force"], "manifest of the drafts"),
        (["--where", "size=512", "--set", "size=1K", "--budget", "much"], "--budget much: expected dollars"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_an_error(live, manifest, options, message):
    live("run", manifest())
    before = sorted(Path().iterdir())
    result = live("promote", "j", *options)
    assert result.code == 2
    assert message in result.err
    assert sorted(Path().iterdir()) == before


def test_a_job_that_is_not_there_or_has_no_pictures(live, manifest):
    live("run", manifest(), "--budget", "0.01")
    assert "no job 'k' in this ledger; it has: j" in live("promote", "k", "--where", "size=512").err
    assert "the job has no pictures yet" in live("promote", "j", "--where", "size=512", "--set", "size=1K").err


def test_files_are_overwritten_only_if_asked_and_come_back_if_it_cannot_be(live, manifest):
    live("run", manifest())
    words = ("promote", "j", "--where", "prompt=a")
    assert live(*words, "--set", "size=1K").code == 0
    first = Path("j-final.yaml").read_text()
    refused = live(*words, "--set", "size=2K")
    assert (refused.code, Path("j-final.yaml").read_text()) == (2, first)
    assert "already there: j-final.jsonl, j-final.yaml: say another --to or --name, or --force" in refused.err
    clash = live(*words, "--set", "size=2K", "--force", "--budget", "1", "--output", "j.yaml")
    assert (clash.code, Path("j-final.yaml").read_text()) == (2, first)
    assert live(*words, "--set", "size=2K", "--force").code == 0
    assert "size: [2K]" in Path("j-final.yaml").read_text()


def test_a_job_of_that_name_that_is_there_already_is_told(live, manifest):
    live("run", manifest())
    live("promote", "j", "--where", "prompt=a", "--set", "size=1K")
    live("run", "j-final.yaml")
    again = live("promote", "j", "--where", "prompt=b", "--set", "size=1K", "--to", "more.yaml")
    assert "this ledger has a job j-final already: 1 of its tasks would be orphaned" in again.out


def test_drafts_that_the_ledger_lacks_are_null(live, manifest):
    live("run", manifest("drafts: gone"))
    assert json.loads(live("status", "j", "--json").out)["drafts"] is None


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)
hostile = texts | st.sampled_from([
    "{style}", "{{style}}", '{"a": {b}}', "\ufeffx", "a\r\nb\n\n c", "# $x", "' \" ''", "שלום", "👩‍👩‍👧", "007",
    "null", "\u2028\u2029\x85\x7f\x1b", "- a: b", "k: |\n  x", "\\u0041\\n", "<<: *a", "|", "a|b",
])  # fmt: skip
labels = hostile.map(lambda text: "".join(c for c in text if c.isprintable())).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_prompt_id_and_axis_value_arrives_as_it_was(data):
    prompts = data.draw(st.lists(hostile.filter(str.strip), min_size=1, max_size=5))
    moods = data.draw(st.lists(hostile | st.just(""), min_size=len(prompts), max_size=len(prompts)))
    job, system = data.draw(labels), data.draw(hostile.filter(str.strip))
    drafts = f"{job}!"
    finals = [
        Final(f"{data.draw(labels)} {n}", prompt, (), Recipe(MODEL, thinking="minimal", system=system),
              {"size": "1K", "aspect": "1:1", "mood": mood}, f"k1-{n:032x}")
        for n, (prompt, mood) in enumerate(zip(prompts, moods, strict=True))
    ]  # fmt: skip
    sheet = sheet_of(finals)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.yaml"
        path.write_text(manifest_text(Head(job, drafts, "f.jsonl"), sheet), encoding="utf-8", newline="\n")
        path.with_suffix(".jsonl").write_text(rows_text(sheet), encoding="utf-8", newline="\n")
        campaign = load(path, resolve(Options(sandbox=True), {}))
    read_back = {spec.draft: (spec.prompt_id, spec.prompt, spec.recipe.system) for spec in campaign.specs}
    assert read_back == {one.draft: (one.id, one.prompt, system) for one in finals}
    assert (campaign.job, campaign.manifest.drafts) == (job, drafts)
    assert all("matches nothing" not in note for note in campaign.notes)


@pytest.mark.parametrize("moods", [["'", "", "\r"], ["", "\r"], [" ", "ink"]])
def test_a_row_whose_axis_is_blank_is_one_picture_all_the_same(tmp_path, moods):
    finals = [
        Final(f"p{n}", "a cat", (), Recipe(MODEL), {"size": "1K", "aspect": "1:1", "mood": mood}, f"k1-{n:032x}")
        for n, mood in enumerate(moods)
    ]
    sheet, path = sheet_of(finals), tmp_path / "f.yaml"
    path.write_text(manifest_text(Head("j", "d", "f.jsonl"), sheet), encoding="utf-8", newline="\n")
    path.with_suffix(".jsonl").write_text(rows_text(sheet), encoding="utf-8", newline="\n")
    specs = load(path, resolve(Options(sandbox=True), {})).specs
    assert [dict(spec.axes)["mood"] for spec in specs] == [mood.strip() or "(none)" for mood in moods]


@given(hostile)
def test_an_escaped_text_is_the_template_of_itself(text):
    assert compile_template(escaped(text)).parts == (text,)


def test_a_manifest_of_many_cells_lists_one_value_of_each_axis():
    finals = [
        Final(
            str(n),
            "a cat",
            (),
            Recipe(MODEL),
            {"size": "1K", "aspect": "1:1", "sku": str(n), "name": f"n{n}"},
            "k",
        )
        for n in range(200)
    ]
    root, problems = read(manifest_text(Head("j", "d", "f.jsonl"), sheet_of(finals)))
    assert not problems
    assert "  sku: [0]\n" in manifest_text(Head("j", "d", "f.jsonl"), sheet_of(finals))
    assert root
