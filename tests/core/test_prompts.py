"""Prompts of files: rows become tasks as if they stood in the manifest, and keep what is theirs."""

import csv
import io
import itertools
import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core import matrix, paths
from runner.core.catalog import builtin
from runner.core.errors import ManifestError
from runner.core.manifest import parse
from runner.core.matrix import Expansion, expand
from runner.core.paths import prompt_id
from runner.core.prompts import Files
from runner.core.task import TaskSpec
from tests.core.manifests import MODEL, Folder, expansion, parsed, quoted, tasks

FROM = "prompts: [{from: p.csv}]"


def texts(content: str, *lines: str, prompts: str = FROM, name: str = "p.csv") -> list[str]:
    """The prompts of a manifest whose file `p.csv` this is."""
    return [task.prompt for task in tasks(*lines, prompts=prompts, files={name: content})]


# --- text, variables, axes ---


def test_a_column_prompt_or_text_is_the_prompt():
    assert texts("prompt\na cat\na dog\n") == texts("TEXT\na cat\na dog\n") == ["a cat", "a dog"]


def test_the_entrys_text_is_the_prompt_of_every_row():
    prompts = "prompts: [{from: p.csv, text: 'A {colour} {animal}'}]"
    assert texts("animal,colour\ncat,red\ndog,blue\n", prompts=prompts) == ["A red cat", "A blue dog"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "a {w} cat\na dog\n"),
        ("p.csv", "Prompt,w\na {w} cat,big\na dog,old\n"),
        ("p.tsv", "text\na {w} cat\na dog\n"),
        ("p.jsonl", '{"prompt": "a {w} cat"}\n"a dog"\n'),
    ],
)
@pytest.mark.parametrize("own", ["prompt", "text"])
def test_in_the_entrys_text_the_rows_own_is_a_variable(name: str, content: str, own: str):
    prompts = f"prompts: [{{from: {name}, text: '{{{own}}} in {{style}}'}}]"
    made = texts(content, "matrix: {style: [ink]}", prompts=prompts, name=name)
    assert made == ["a {w} cat in ink", "a dog in ink"]


def test_an_axis_text_goes_before_the_rows_own():
    prompts = "prompts: [{from: p.txt, text: '{prompt} {text}'}]"
    assert texts("a cat\n", "matrix: {text: [ink]}", prompts=prompts, name="p.txt") == ["a cat ink"]


def test_words_round_a_prompt_that_add_nothing_keep_its_key():
    files = {"p.txt": "a cat\n"}
    (bare,) = tasks(prompts="prompts: [{from: p.txt}]", files=files)
    round_it = "prompts: [{from: p.txt, text: '{prompt}{style}'}]"
    kept, new = tasks("matrix: {style: ['', ' in ink']}", prompts=round_it, files=files)
    assert (kept.key, kept.prompt, new.prompt) == (bare.key, "a cat", "a cat in ink")


def test_columns_and_axes_stand_in_one_text():
    made = tasks(
        "matrix: {style: [etched, inked]}",
        prompts="prompts: [{from: p.csv, text: 'An {style} {animal}, {size}'}]",
        files={"p.csv": "animal\nox\nelk\n"},
    )
    assert [task.prompt for task in made] == [
        "An etched ox, 1K",
        "An etched elk, 1K",
        "An inked ox, 1K",
        "An inked elk, 1K",
    ]


def test_an_empty_cell_is_an_empty_variable():
    assert texts("prompt,w\na {w}cat,\na {w}cat,big \n") == ["a cat", "a big cat"]


def test_what_a_column_brings_is_not_a_template_again():
    assert texts("prompt,w\n{w} {{w}},{size} {w}\n") == ["{size} {w} {w}"]
    assert texts("w\n{size}\n", prompts="prompts: [{from: p.csv, text: '{w}-{size}'}]") == ["{size}-1K"]


def test_template_false_takes_a_whole_file_literally():
    content = 'prompt,w\n"{""a"": {w}, {nobody} {{w}} $ # {}",1\n'
    prompts = "prompts: [{from: p.csv, template: false}]"
    assert texts(content, prompts=prompts) == ['{"a": {w}, {nobody} {{w}} $ # {}']
    prompts = "prompts: [{from: p.csv, text: '{w} {}', template: false}]"
    assert texts("w\n1\n", prompts=prompts) == ["{w} {}"]


def test_braces_that_hold_no_name_need_no_care():
    assert texts('{"a": [{}]} $x #y {0} {a b}\n', prompts="prompts: [{from: p.txt}]", name="p.txt") == [
        '{"a": [{}]} $x #y {0} {a b}'
    ]


def cells(made: Sequence[TaskSpec]) -> list[str]:
    return [" ".join([t.prompt, t.size, t.aspect, *(value for _, value in t.axes)]) for t in made]


def test_a_column_named_like_an_axis_replaces_it_for_its_row():
    made = tasks(
        "matrix: {size: [1K, 2K], style: [a, b]}",
        prompts=FROM,
        files={"p.csv": "prompt,size,aspect,style\nx,0.5K,16:9,c\ny,,,\nz, ,,d\n"},
    )
    assert sorted(cells(made)) == [
        "x 512 16:9 c",
        *(f"y {size} 1:1 {style}" for size in ("1K", "2K") for style in "ab"),
        "z 1K 1:1 d",
        "z 2K 1:1 d",
    ]


def test_a_row_gives_all_columns_of_a_zip_group_or_none():
    lines = ("matrix: {zip: [{locale: [en, de], greeting: [Hello, Hallo]}]}",)
    made = tasks(
        *lines, prompts=FROM, files={"p.csv": "prompt,locale,greeting\n{greeting}!,fr,Salut\n{greeting}?,,\n"}
    )
    assert [task.prompt for task in made] == ["Salut!", "Hello?", "Hallo?"]


def test_the_entrys_own_matrix_holds_for_its_rows_and_a_column_goes_over_it():
    made = tasks(
        "matrix: {size: [1K, 2K]}",
        prompts="prompts: [plain, {from: p.csv, matrix: {size: 4K}}]",
        files={"p.csv": "prompt,size\nx,\ny,512\n"},
    )
    assert sorted(cells(made)) == ["plain 1K 1:1", "plain 2K 1:1", "x 4K 1:1", "y 512 1:1"]


def test_exclude_include_and_settings_meet_the_cells_of_a_row():
    made = tasks(
        "matrix:",
        "  style: [a, b]",
        "  exclude: [{style: b, size: 1K}]",
        "  include: [{size: 4K}]",
        "  settings: [{where: {style: c}, generation: {thinking: high}}]",
        prompts=FROM,
        files={"p.csv": "prompt,style\nx,c\ny,\n"},
    )
    assert sorted(cells(made)) == ["x 1K 1:1 c", "x 4K 1:1 c", "y 1K 1:1 a", "y 4K 1:1 a", "y 4K 1:1 b"]
    assert {task.recipe.thinking for task in made if task.prompt == "x"} == {"high"}
    assert {task.recipe.thinking for task in made if task.prompt == "y"} == {"minimal"}


def test_more_sets_of_axis_values_than_are_remembered_change_nothing():
    rows = "".join(f"x,s{n}\n" for n in range(5_000))
    made = tasks("matrix: {style: [a]}", prompts=FROM, files={"p.csv": f"prompt,style\n{rows}{rows}"})
    assert [task.axes[0][1] for task in made] == [f"s{n}" for n in range(5_000)] * 2
    assert len({task.key for task in made}) == 10_000


# --- ids ---


def ids(*contents: str, inline: str = "") -> list[str]:
    """The ids of files one after another, in the order of the manifest; `inline` stands before them."""
    entries = [inline] if inline else []
    entries += [f"{{from: {n}.csv}}" for n in range(len(contents))]
    files = {f"{n}.csv": content for n, content in enumerate(contents)}
    made = tasks("budget: {order: manifest}", prompts=f"prompts: [{', '.join(entries)}]", files=files)
    return [task.prompt_id for task in made]


FOX = prompt_id("a red fox")


def test_an_id_comes_from_its_column_or_from_the_text():
    assert ids("id,prompt\nfox,a red fox\n,a red fox\n  ,an owl\n") == ["fox", FOX, prompt_id("an owl")]


def test_identical_rows_are_numbered_and_nobody_else_is():
    assert ids("prompt\na red fox\nan owl\na red fox\na red fox\n") == [
        FOX,
        prompt_id("an owl"),
        f"{FOX}-2",
        f"{FOX}-3",
    ]
    assert ids("prompt\na red fox\n", "prompt\na red fox\n") == [FOX, f"{FOX}-2"]


def test_rows_before_and_between_do_not_change_the_ids_of_others():
    before = ids("prompt\na red fox\nan owl\n")
    after = ids("prompt\na bear\na red fox\na wolf\nan owl\n")
    assert [after[1], after[3]] == before


def test_a_row_with_the_text_of_an_inline_prompt_is_numbered():
    assert ids("prompt\na red fox\na red fox\n", inline="a red fox") == [FOX, f"{FOX}-2", f"{FOX}-3"]
    made = tasks(
        "budget: {order: manifest}",
        prompts="prompts: [{from: p.csv}, a red fox, a red fox]",
        files={"p.csv": "prompt\na red fox\n"},
    )
    numbered = [task.prompt_id for task in made]
    assert numbered[1:] == [FOX, f"{FOX}-2"]
    assert numbered[0] == f"{FOX}-3"


def test_rows_that_differ_in_axes_or_references_alone_have_ids_of_their_own():
    made = tasks(
        "matrix: {style: [a]}",
        prompts=FROM,
        files={"p.csv": "prompt,style,references\nx,b,\nx,c,\nx,,l.png\nx,,\n", "l.png": "1"},
    )
    assert len({task.prompt_id for task in made}) == 4
    assert not any(task.prompt_id.endswith(("-2", "-3", "-4")) for task in made)


def test_a_variable_that_the_text_does_not_use_is_not_in_the_id():
    assert ids("prompt,note\na red fox,x\n") == [FOX]


# --- limit and sample ---

ANIMALS = [f"animal {n}" for n in range(2_000)]


def sampled(rows: Sequence[str], options: str) -> list[str]:
    return texts("\n".join(rows), prompts=f"prompts: [{{from: p.txt, {options}}}]", name="p.txt")


def test_limit_takes_the_first_rows_and_more_than_there_are_is_all():
    assert sampled(ANIMALS, "limit: 3") == ANIMALS[:3]
    assert sampled(ANIMALS, "limit: 3000") == ANIMALS


def test_what_stands_behind_the_limit_is_not_judged():
    assert texts("prompt,w\nx,1\ny\n", prompts="prompts: [{from: p.csv, limit: 1}]") == ["x"]


@pytest.mark.parametrize(("part", "about"), [("1%", 20), ("25%", 500), ("99.5%", 1_990)])
def test_a_sample_is_about_its_share(part: str, about: int):
    taken = sampled(ANIMALS, f"sample: {part}")
    assert abs(len(taken) - about) < 5 * (about * (1 - about / 2_000)) ** 0.5 + 1
    assert taken == [row for row in ANIMALS if row in set(taken)]


def test_a_whole_sample_is_all():
    assert sampled(ANIMALS, "sample: 100%") == ANIMALS


def test_a_sample_is_the_same_however_the_file_is_ordered_and_whatever_is_added():
    taken = set(sampled(ANIMALS, "sample: 10%"))
    assert set(sampled(ANIMALS[::-1], "sample: 10%")) == taken
    assert set(sampled([*ANIMALS, "another"], "sample: 10%")) - {"another"} == taken


def test_a_larger_sample_holds_the_smaller_and_a_seed_takes_another():
    assert set(sampled(ANIMALS, "sample: 5%")) < set(sampled(ANIMALS, "sample: 10%"))
    assert set(sampled(ANIMALS, "sample: 10%, seed: 0")) == set(sampled(ANIMALS, "sample: 10%"))
    assert set(sampled(ANIMALS, "sample: 10%, seed: 1")) != set(sampled(ANIMALS, "sample: 10%"))


def test_limit_counts_the_rows_of_the_sample():
    assert sampled(ANIMALS, "sample: 10%, limit: 7") == sampled(ANIMALS, "sample: 10%")[:7]


# --- references ---

LOGOS = {"logo.png": "logo", "a/1.png": "one", "a/2.png": "two", "red.png": "red", "blue.png": "blue"}


def pictures(*lines: str, prompts: str, files: Mapping[str, str | bytes] | None = None) -> list[list[str]]:
    """The names of the references of each task."""
    made = tasks(*lines, prompts=prompts, files={**LOGOS, **(files or {})})
    return [[one.name for one in task.references] for task in made]


def test_paths_patterns_and_uris_are_taken_in_their_order():
    prompts = "prompts: [{text: x, references: [logo.png, 'a/*.png', 'https://h/x.png']}]"
    assert pictures(prompts=prompts) == [["logo.png", "a/1.png", "a/2.png", "https://h/x.png"]]
    assert pictures(prompts="prompts: [{text: x, references: logo.png}]") == [["logo.png"]]


def test_a_reference_may_hold_an_axis():
    prompts = "prompts: [{text: x, references: ['{colour}.png', logo.png]}]"
    assert pictures("matrix: {colour: [red, blue]}", prompts=prompts) == [
        ["red.png", "logo.png"],
        ["blue.png", "logo.png"],
    ]


def test_an_axis_reference_comes_last_and_may_be_empty():
    prompts = "prompts: [{text: x, references: logo.png}]"
    assert pictures("matrix: {reference: [red.png, '', 'a/*.png']}", prompts=prompts) == [
        ["logo.png", "red.png"],
        ["logo.png"],
        ["logo.png", "a/1.png", "a/2.png"],
    ]


def test_a_column_brings_references_of_its_row_after_those_of_the_entry():
    files = {"p.csv": "prompt,references,hue\nx,a/1.png | {hue}.png,red\ny,,red\n"}
    assert pictures(prompts="prompts: [{from: p.csv, references: logo.png}]", files=files) == [
        ["logo.png", "a/1.png", "red.png"],
        ["logo.png"],
    ]
    files = {"p.jsonl": '{"prompt": "x", "references": ["a/*.png", "{size}.png"]}\n', "1K.png": "k"}
    assert pictures(prompts="prompts: [{from: p.jsonl}]", files=files) == [["a/1.png", "a/2.png", "1K.png"]]


def keys_with(references: str, files: Mapping[str, str | bytes] = LOGOS) -> list[str]:
    return [t.key for t in tasks(prompts=f"prompts: [{{text: x, references: {references}}}]", files=files)]


def test_a_key_holds_the_content_of_a_reference_and_not_its_name():
    assert keys_with("[logo.png]") == keys_with("[other.png]", {"other.png": "logo"})
    assert keys_with("[logo.png]") != keys_with("[logo.png]", {"logo.png": "changed"})
    assert keys_with("[logo.png]") != [t.key for t in tasks(prompts="prompts: [x]")]


def test_a_key_holds_a_uri_by_its_text_and_the_order_of_references():
    assert keys_with("['https://h/a']") != keys_with("['https://h/b']")
    assert keys_with("[red.png, blue.png]") != keys_with("[blue.png, red.png]")
    assert keys_with("[red.png, red.png]") != keys_with("[red.png]")


def test_one_text_with_two_references_is_two_requests_and_no_repetition():
    made = expansion("matrix: {reference: [red.png, blue.png]}", files=LOGOS)
    assert (len(made), made.repeating) == (2, 0)
    again = expansion("matrix: {reference: [red.png, logo.png]}", files={**LOGOS, "logo.png": "red"})
    assert (again.repeating, again.idle_axes) == (1, ["reference"])


# --- models as an axis, kept models, drafts ---

NEW, OLD, PRO = MODEL, "gemini-3.1-flash-image-preview", "gemini-3-pro-image"


def test_a_model_axis_gives_each_cell_the_recipe_of_its_model():
    made = tasks(f"matrix: {{model: [{NEW}, {PRO}, x/y]}}", model="variants: 1")
    assert [task.recipe.model for task in made] == [NEW, PRO, "x/y"]
    assert [task.recipe.thinking for task in made] == ["minimal", None, None]
    assert [task.axes for task in made] == [(("model", m),) for m in (NEW, PRO, "x/y")]
    alone = [tasks(model=f"model: {m}")[0].key for m in (NEW, PRO, "x/y")]
    assert [task.key for task in made] == alone


def test_cells_that_a_model_lacks_are_excluded_by_hand():
    made = tasks(
        f"matrix: {{model: [{NEW}, {PRO}], size: [512, 1K], exclude: [{{model: {PRO}, size: 512}}]}}",
        model="variants: 1",
    )
    assert len(made) == 3


def test_the_first_model_of_the_axis_stands_for_the_manifest():
    manifest = parsed(f"matrix: {{model: [gemini-nano-banana-2.1, {OLD}]}}", model="variants: 1")
    assert manifest.model == "gemini-nano-banana-2.1"
    assert [note.partition(" is ")[0] for note in manifest.notes] == [f"m.yaml:4: model {OLD}"]


def test_kept_models_are_what_a_task_was_before():
    (task,) = tasks(f"keep: [{OLD}, {PRO}]", "generation: {system: s}", model=f"model: {NEW}")
    assert task.before == (replace(task.recipe, model=OLD), replace(task.recipe, model=PRO, thinking=None))
    assert task.key == tasks("generation: {system: s}", model=f"model: {NEW}")[0].key
    assert tasks(f"keep: {OLD}", model=f"model: {OLD}")[0].before == ()


def test_a_kept_model_meets_the_settings_of_its_cell():
    made = tasks(
        f"keep: {OLD}",
        "matrix: {size: [1K, 4K], settings: [{where: {size: 4K}, generation: {thinking: high}}]}",
        model=f"model: {NEW}",
    )
    assert [task.before[0].thinking for task in made] == ["minimal", "high"]


def test_a_column_draft_names_what_a_row_was_chosen_for_and_nothing_else():
    content = "prompt,draft\nx,k1-0\ny,\n"
    made = tasks("drafts: first", prompts=FROM, files={"p.csv": content})
    assert [task.draft for task in made] == ["k1-0", None]
    plain = tasks(prompts=FROM, files={"p.csv": content})
    assert [task.draft for task in plain] == [None, None]
    assert [task.key for task in made] == [task.key for task in plain]


def test_a_variable_draft_is_one_where_no_job_is_named():
    assert texts("prompt,draft\na {draft},sketch\n") == ["a sketch"]


# --- what is said of rows that may not be meant so ---


def blanks(
    content: str, *lines: str, text: str = "A {size} photo of {animal} at {hour}", more: str = ""
) -> list[str]:
    """What is said of empty cells, in a file with those columns."""
    prompts = f"prompts: [{{from: p.csv, text: '{text}'{more}}}]"
    return list(expansion(*lines, prompts=prompts, files={"p.csv": content}).blanks)


def test_a_cell_that_the_text_uses_and_that_is_empty_is_told_with_its_place():
    one = "p.csv:3: {animal} is empty in 'A {size} photo of  at dawn'"
    assert blanks("animal,hour\nox,dusk\n,dawn\n") == [one]
    assert blanks("animal,hour\nox,dusk\n,dawn\nelk, \n") == [f"{one}; as empty: {{hour}} in line 4"]


def test_of_many_empty_cells_a_few_are_named():
    lines = ", ".join(f"{{animal}} in line {n}" for n in range(3, 8))
    said = f"p.csv:2: {{animal}} is empty in 'A {{size}} photo of  at dusk'; as empty: {lines} and 1,494 more"
    assert blanks("animal,hour\n" + 1_500 * ",dusk\n", "variants: 2") == [said]


def test_empty_cells_that_nothing_uses_are_no_news():
    assert not blanks("animal,hour,note\nox,dusk,\n")
    assert not blanks("animal,hour,light\nox,dusk,\n", "matrix: {light: ['', x]}", text="{animal}{light}{hour}")
    assert not blanks("animal,hour\nox,dusk\n,dawn\n", more=", limit: 1")
    assert not blanks("animal,hour\nox,\n", more=", template: false")


def test_an_empty_cell_in_a_reference_is_told():
    (said,) = blanks("animal,hour,logo\nox,dusk,\n", more=", references: '{logo}'")
    assert said == "p.csv:2: {logo} in a reference is empty in 'A {size} photo of ox at dusk'"


def again(content: str, *lines: str, prompts: str = FROM) -> str:
    """What is said of prompts that repeat."""
    return str(expansion(*lines, prompts=prompts, files={"p.csv": content}).repeated_prompts)


def test_prompts_that_repeat_are_told_with_the_place_of_both():
    twice = "p.csv:4 asks for what p.csv:2 does"
    assert again("prompt\ncat\ndog\ncat\n", "matrix: {size: [1K, 2K]}", "variants: 2") == twice
    sizes = "prompt,size\ncat,1K\ncat,2K\ncat,\n"
    assert again(sizes, "matrix: {size: [1K, 2K]}") == twice
    assert not again("prompt,size\ncat,1K\ncat,2K\n", "matrix: {size: [1K, 2K]}")
    inline = "prompts: [dog, {from: p.csv}, cat]"
    assert again("prompt\ncat\n", prompts=inline) == "m.yaml:3 asks for what p.csv:2 does"


def test_of_many_that_repeat_a_few_are_named():
    shown = ", ".join(f"p.csv:{n} asks for what p.csv:2 does" for n in range(3, 8))
    assert again("prompt\n" + 2_000 * "cat\n") == f"{shown} and 1,994 more"


def test_an_axis_that_says_nothing_repeats_no_prompt_and_hides_none(monkeypatch):
    light = "matrix: {light: [day, night]}"
    assert not again("prompt\ncat\ndog\n", light)
    assert again("prompt\ncat\ncat\n", light) == "p.csv:3 asks for what p.csv:2 does"
    monkeypatch.setattr(matrix, "MAX_FIRSTS", 1)
    made = expansion(prompts=FROM, files={"p.csv": "prompt\ncat\ndog\ndog\ncat\n"}).repeated_prompts
    assert (made.count, made.first) == (2, ["p.csv:5 asks for what p.csv:2 does"])


# --- against the simplest implementation ---

row = st.fixed_dictionaries(
    {},
    optional={
        "id": st.uuids().map(str),
        "size": st.sampled_from(["", "512", "2K"]),
        "hue": st.sampled_from(["", "green", "{w}"]),
        "w": st.sampled_from(["", "old", "{hue}"]),
        "references": st.sampled_from(["", "logo.png", "red.png|blue.png"]),
    },
)
text = st.sampled_from(["plain", "a {hue} fox", '{"x": {size}}', "{{hue}} {hue}", "same"])
own_matrix = st.fixed_dictionaries(
    {}, optional={"size": st.sampled_from([["1K"], ["2K", "4K"]]), "hue": st.just(["pink", "red"])}
)


@st.composite
def campaigns(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, list[dict[str, str]]]]:
    """A manifest whose prompts come from files and from itself, and the rows of the files."""
    entries: list[dict[str, Any]] = []
    files: dict[str, list[dict[str, str]]] = {}
    for number in range(draw(st.integers(1, 3))):
        entry: dict[str, Any] = {"matrix": draw(own_matrix)} if draw(st.booleans()) else {}
        if draw(st.booleans()):
            entry["text"] = draw(text)
        else:
            entry["from"] = f"{number}.jsonl"
            rows = draw(st.lists(row, min_size=1, max_size=5))
            shared = draw(st.booleans())
            if shared:
                entry["text"] = draw(text)
            wrapped = shared and draw(st.booleans())
            if wrapped:
                entry["text"] = "{prompt}, " + entry["text"]
            files[entry["from"]] = [
                one if shared and not wrapped else {**one, "prompt": draw(text)} for one in rows
            ]
            if draw(st.booleans()):
                entry["limit"] = draw(st.integers(1, 4))
        entries.append(entry)
    matrix: dict[str, Any] = {"size": ["1K", "2K"], "hue": ["red", "blue"]}
    if draw(st.booleans()):
        matrix["exclude"] = [{"hue": "red", "size": "2K"}]
    if draw(st.booleans()):
        matrix["include"] = [{"size": "4K"}]
    budget = {"order": draw(st.sampled_from(["spread", "manifest"]))}
    manifest = {"job": "j", "model": MODEL, "prompts": entries, "matrix": matrix, "budget": budget}
    return {**manifest, "variants": draw(st.integers(1, 2))}, files


def folder(files: Mapping[str, Sequence[Mapping[str, str]]]) -> Folder:
    lines = {name: "".join(json.dumps(one) + "\n" for one in rows) for name, rows in files.items()}
    return Folder({**LOGOS, **lines})


def made_of(manifest: Mapping[str, Any], files: Files) -> tuple[TaskSpec, ...]:
    return expand(parse(quoted(manifest), "m.yaml", builtin()), builtin(), files)


def naive(manifest: dict[str, Any], files: dict[str, list[dict[str, str]]]) -> list[tuple[object, ...]]:
    """The tasks of a campaign, all lists made: (text, size, hue, references, variant) in the order of buying."""
    groups = [list(naive_group(manifest, *one)) for one in naive_prompts(manifest["prompts"], files)]
    if manifest["budget"]["order"] == "manifest":
        return [task for group in groups for task in group]
    turns = itertools.zip_longest(*groups)
    return [task for turn in turns for task in turn if task is not None]


def naive_prompts(entries, files) -> Iterator[tuple[str, str, dict[str, list[str]], list[str]]]:
    for entry in entries:
        matrix = entry.get("matrix", {})
        if "from" not in entry:
            yield "", entry["text"], matrix, []
            continue
        for one in files[entry["from"]][: entry.get("limit")]:
            own = {name: [one[name]] for name in ("size", "hue") if one.get(name)}
            references = [name for name in one.get("references", "").split("|") if name]
            before, written = "", one.get("prompt") or entry["text"]
            if "prompt" in one and "text" in entry:
                before, written = one["prompt"] + ", ", entry["text"].removeprefix("{prompt}, ")
            yield before, written, {**matrix, **own}, references


def naive_group(manifest, before, text, own, references) -> Iterator[tuple[object, ...]]:
    matrix = {**{name: manifest["matrix"][name] for name in ("size", "hue")}, **own}
    wanted = [
        (size, hue)
        for size in matrix["size"]
        for hue in matrix["hue"]
        if "exclude" not in manifest["matrix"] or (size, hue) != ("2K", "red")
    ]
    if "include" in manifest["matrix"]:
        wanted += [("4K", hue) for hue in matrix["hue"] if ("4K", hue) not in wanted]
    for variant in range(1, manifest["variants"] + 1):
        for size, hue in wanted:
            known = {"hue": hue, "size": size}
            yield before + naive_fill(text, known), size, hue, tuple(references), variant


def naive_fill(text: str, known: dict[str, str]) -> str:
    if text == "{{hue}} {hue}":
        return "{hue} " + known["hue"]
    return text.replace("{hue}", known["hue"]) if "{hue}" in text else text.replace("{size}", known["size"])


@given(campaigns())
@settings(deadline=None, max_examples=150)
def test_streamed_expansion_is_the_simplest_one(campaign):
    manifest, files = campaign
    wanted = naive(manifest, files)
    if not wanted:
        with pytest.raises(ManifestError, match="exclude leaves nothing"):
            made_of(manifest, folder(files))
        return
    made = made_of(manifest, folder(files))
    assert [
        (t.prompt, t.size, dict(t.axes)["hue"], tuple(r.name for r in t.references), t.variant) for t in made
    ] == wanted
    assert [t.position for t in made] == list(range(len(made)))
    assert len({t.key for t in made}) == len({t.stem.casefold() for t in made}) == len(made)
    equal = Counter((text, size, references, variant) for text, size, _, references, variant in wanted)
    read = parse(quoted(manifest), "m.yaml", builtin())
    repeating = Expansion(read, builtin(), folder(files)).repeating
    assert repeating == sum(equal.values()) - len(equal)


def keys_of(manifest: dict[str, Any], files: dict[str, list[dict[str, str]]]) -> set[str]:
    try:
        return {task.key for task in made_of(manifest, folder(files))}
    except ManifestError as error:
        if "exclude leaves nothing" not in str(error):
            raise
        return set()


@given(campaigns(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_reordering_rows_and_renaming_ids_keep_all_keys(campaign, random):
    manifest, files = campaign
    manifest = {**manifest, "prompts": [{**e, "limit": 99} if "from" in e else e for e in manifest["prompts"]]}
    turned = {
        name: [{**one, "id": f"row {name} {n}"} for n, one in enumerate(random.sample(rows, len(rows)))]
        for name, rows in files.items()
    }
    renamed = {**manifest, "job": "k", "prompts": random.sample(manifest["prompts"], len(manifest["prompts"]))}
    assert keys_of(renamed, turned) == keys_of(manifest, files) == keys_of(manifest, files)


@given(campaigns(), st.data())
@settings(deadline=None)
def test_another_text_in_one_row_changes_no_other_key(campaign, data):
    """Texts all differ: of equal requests the last one's key goes, whichever row was edited."""
    manifest, files = campaign
    files = {
        name: [{**one, "prompt": f"{name} {n} {{hue}}"} for n, one in enumerate(rows)]
        for name, rows in files.items()
    }
    entries = [
        {n: v for n, v in e.items() if n not in {"text", "limit"}} if "from" in e else {**e, "text": f"inline {n}"}
        for n, e in enumerate(manifest["prompts"])
    ]
    manifest = {**manifest, "prompts": entries}
    if not files:
        return
    name = data.draw(st.sampled_from(sorted(files)))
    place = data.draw(st.integers(0, len(files[name]) - 1))
    edited = {n: [dict(one) for one in rows] for n, rows in files.items()}
    edited[name][place]["prompt"] = "edited"
    without = {**edited, name: [one for n, one in enumerate(files[name]) if n != place] or [{"prompt": "none"}]}
    old, new, rest = keys_of(manifest, files), keys_of(manifest, edited), keys_of(manifest, without)
    if len(files[name]) > 1:
        assert old & new == rest
    assert len(old) == len(new)


@given(st.lists(st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=30)))
def test_any_lines_arrive_as_they_are(lines: list[str]):
    wanted = [line for line in lines if line.strip()]
    content = "\n".join(lines)
    if not wanted or content.startswith("\ufeff"):
        return
    assert texts(content, prompts="prompts: [{from: p.txt, template: false}]", name="p.txt") == wanted


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30))
)
def test_any_cells_arrive_as_they_are(cells: list[str]):
    wanted = [cell for cell in cells if cell.strip()]
    if not wanted:
        return
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([["prompt"], *([cell] for cell in wanted)])
    prompts = "prompts: [{from: p.csv, template: false}]"
    assert texts(stream.getvalue(), prompts=prompts) == wanted


# --- memory ---


class Endless:
    """A file of so many lines, none of which is ever held."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def blocks(self, _name: str) -> Iterator[bytes]:
        for start in range(0, self._rows, 1_000):
            yield b"".join(b"a fox with %d lanterns\n" % n for n in range(start, start + 1_000))

    def pictures(self, pattern: str):
        raise NotImplementedError


def peak(rows: int) -> int:
    """Bytes that expanding so many rows, and going through all tasks, takes at most."""
    manifest = parsed(prompts="prompts: [{from: rows.txt}]")
    tracemalloc.start()
    try:
        made = Expansion(manifest, builtin(), Endless(rows))
        assert sum(1 for _ in made) == len(made) == rows
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_task_more_costs_a_few_bytes(monkeypatch):
    """Without what is kept or remembered up to some fixed number."""
    monkeypatch.setattr(matrix, "KEPT", 0)
    monkeypatch.setattr(paths, "_slug", paths.slug)
    few, many = 10_000, 30_000
    assert (peak(many) - peak(few)) / (many - few) < 60
