"""Expansion: cells, settings, order, and properties that hold for any manifest."""

import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core.catalog import builtin
from runner.core.errors import ManifestError
from runner.core.manifest import parse
from runner.core.matrix import Expansion, expand
from runner.core.task import TaskSpec
from tests.core.manifests import MODEL, manifest_text, parsed, problems, quoted, tasks


def cells(*matrix: str, prompts: str = "prompts: [p]") -> list[str]:
    """Each task's axis values, joined, in the manifest's order of cells."""
    made = tasks("matrix:", *(f"  {line}" for line in matrix), prompts=prompts)
    return [" ".join([t.size, t.aspect, *(value for _, value in t.axes)]) for t in made]


def test_the_first_axis_is_the_slowest():
    assert cells("size: [1K, 2K]", "tone: [a, b]") == ["1K 1:1 a", "1K 1:1 b", "2K 1:1 a", "2K 1:1 b"]
    assert cells("tone: [a, b]", "aspect: [1:1, 2:3]") == ["1K 1:1 a", "1K 2:3 a", "1K 1:1 b", "1K 2:3 b"]


def test_exclude_takes_every_cell_with_all_its_values():
    assert cells("size: [1K, 2K]", "tone: [a, b]", "exclude: [{size: 2K, tone: b}]") == [
        "1K 1:1 a",
        "1K 1:1 b",
        "2K 1:1 a",
    ]
    assert cells("size: [1K, 2K]", "tone: [a, b]", "exclude: [{tone: b}, {size: 1K}]") == ["2K 1:1 a"]


def test_include_adds_after_exclude_and_never_twice():
    assert cells("size: [1K, 2K]", "exclude: [{size: 2K}]", "include: [{size: 2K}, {size: 1K}, {size: 2K}]") == [
        "1K 1:1",
        "2K 1:1",
    ]


def test_an_axis_that_include_does_not_name_takes_all_its_values():
    assert cells("tone: [a, b]", "include: [{size: 4K}, {tone: c, aspect: 2:3}]") == [
        "1K 1:1 a",
        "1K 1:1 b",
        "4K 1:1 a",
        "4K 1:1 b",
        "1K 2:3 c",
    ]


def test_a_zip_group_moves_together():
    zipped = ("zip: [{a: [1, 2, 3], b: [x, y, x]}]",)
    assert cells(*zipped) == ["1K 1:1 1 x", "1K 1:1 2 y", "1K 1:1 3 x"]
    assert cells(*zipped, "exclude: [{b: x}]") == ["1K 1:1 2 y"]
    assert cells(*zipped, "include: [{size: 2K, b: x}]")[3:] == ["2K 1:1 1 x", "2K 1:1 3 x"]
    assert cells(*zipped, "include: [{a: 9, b: z}]")[3:] == ["1K 1:1 9 z"]


def test_size_and_aspect_may_be_zipped():
    assert cells("zip: [{size: [1K, 4K], aspect: [1:1, 21:9]}]") == ["1K 1:1", "4K 21:9"]


def test_rules_apply_to_a_prompts_own_axes():
    prompts = "prompts: [p, {text: q, matrix: {tone: [b, c]}}]"
    assert cells("tone: [a, b]", "exclude: [{tone: b}]", prompts=prompts) == ["1K 1:1 a", "1K 1:1 c"]


def test_settings_go_over_the_manifest_in_their_order():
    made = tasks(
        "generation: {system: all, safety: {HARASSMENT: OFF}}",
        "matrix:",
        "  size: [1K, 2K]",
        "  tone: [a, b]",
        "  settings:",
        "    - {where: {size: 2K}, generation: {thinking: high, system: big}}",
        "    - {where: {tone: b}, generation: {system: b, safety: {JAILBREAK: OFF}}}",
    )
    recipes = {(t.size, t.axes[0][1]): t.recipe for t in made}
    assert [r.thinking for r in recipes.values()] == ["minimal", "minimal", "high", "high"]
    assert [r.system for r in recipes.values()] == ["all", "b", "big", "b"]
    assert recipes["1K", "b"].safety == (("HARASSMENT", "OFF"), ("JAILBREAK", "OFF"))
    assert recipes["1K", "a"].safety == (("HARASSMENT", "OFF"),)


def order(kind: str) -> list[str]:
    made = tasks(
        f"budget: {{order: {kind}}}",
        "variants: 2",
        "matrix: {size: [1K, 2K]}",
        prompts="prompts: [{id: p, text: p}, {id: q, text: q, matrix: {size: 4K}}]",
    )
    assert [t.position for t in made] == list(range(6))
    return [f"{t.prompt_id} {t.size} {t.variant}" for t in made]


def test_spread_buys_the_first_of_every_prompt_before_a_second_of_any():
    assert order("spread") == ["p 1K 1", "q 4K 1", "p 2K 1", "q 4K 2", "p 1K 2", "p 2K 2"]


def test_manifest_order_is_as_written():
    assert order("manifest") == ["p 1K 1", "p 2K 1", "p 1K 2", "p 2K 2", "q 4K 1", "q 4K 2"]


def test_the_same_text_twice_is_two_pictures_and_counted_as_duplicates():
    made = Expansion(parsed("variants: 2", prompts="prompts: [same, same, other]"), builtin())
    assert len({t.key for t in made}) == len(made) == 6
    assert (made.repeating, made.idle_axes) == (2, [])
    assert Expansion(parsed("variants: 3"), builtin()).repeating == 0


def test_axes_that_change_no_request_are_named():
    lines = (
        "matrix: {light: [day, night], style: [ink], zip: [{locale: [en, us, de], greeting: [Hi, Hi, Hallo]}]}",
    )
    made = Expansion(parsed(*lines, prompts="prompts: ['{greeting} {style}']"), builtin())
    assert (len(made), made.repeating, made.idle_axes) == (6, 4, ["light", "locale"])
    assert not Expansion(parsed(*lines, prompts="prompts: ['{light} {locale}']"), builtin()).idle_axes


def test_duplicates_keep_their_keys_in_either_order_of_buying():
    prompts = "prompts: [{id: p, text: same}, {id: q, text: same}]"
    lines = ("matrix: {unused: [1, 2]}",)
    keys = [
        {t.stem: t.key for t in tasks(*lines, f"budget: {{order: {kind}}}", prompts=prompts)}
        for kind in ("spread", "manifest")
    ]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("lines", "prompts", "message"),
    [
        (
            ["output: '{job}/{prompt}.{ext}'", "variants: 2"],
            "prompts: [{id: x, text: a}]",
            (
                "4:9: two tasks share the path j/x: prompt 'x' (1K, 1:1, variant 1) and "
                "prompt 'x' (1K, 1:1, variant 2): the output needs {variant}"
            ),
        ),
        (
            ["output: '{job}/{prompt}.{ext}'", "matrix: {size: [1K, 2K], tone: [a]}"],
            "prompts: [{id: x, text: a}]",
            (
                "4:9: two tasks share the path j/x: prompt 'x' (1K, 1:1, tone 'a', variant 1) and "
                "prompt 'x' (2K, 1:1, tone 'a', variant 1): the output needs {size}"
            ),
        ),
        (
            ["output: '{job}/{size}.{ext}'"],
            "prompts: [{id: x, text: a}, {id: y, text: b}]",
            (
                "3:43: two tasks share the path j/1K: prompt 'x' (1K, 1:1, variant 1) and "
                "prompt 'y' (1K, 1:1, variant 1): the output needs {prompt}"
            ),
        ),
        (
            [],
            "prompts: [{id: Straße, text: a}, {id: STRASSE, text: b}]",
            (
                "3:54: two tasks share the path j/STRASSE/1K-1x1-1: prompt 'Straße' (1K, 1:1, variant 1) and "
                "prompt 'STRASSE' (1K, 1:1, variant 1): names differ too little for a file system"
            ),
        ),
        (
            ["matrix: {tone: [a/b, a?b]}"],
            "prompts: [{id: x, text: a}]",
            (
                "4:9: two tasks share the path j/x/1K-1x1-a-b-1: prompt 'x' (1K, 1:1, tone 'a/b', variant 1) and "
                "prompt 'x' (1K, 1:1, tone 'a?b', variant 1): names differ too little for a file system"
            ),
        ),
    ],
)
def test_two_tasks_on_one_path_are_an_error_that_names_both(lines: list[str], prompts: str, message: str):
    assert problems(manifest_text(*lines, prompts=prompts)) == [message]


def test_at_most_twenty_clashes_are_listed():
    prompts = "prompts: [" + ", ".join(f"{{id: 'p{'?' * n}', text: a}}" for n in range(40)) + "]"
    assert len(problems(manifest_text(prompts=prompts))) == 20


def test_too_many_tasks_are_found_before_anything_is_expanded():
    axes = [f"  a{n}: [{', '.join(map(str, range(100)))}]" for n in range(20)]
    start = time.perf_counter()
    assert problems(manifest_text("matrix:", *axes)) == [
        f"5:3: {100**20:,} tasks before exclude: at most 10,000,000 in one manifest"
    ]
    assert time.perf_counter() - start < 5


def test_a_thousand_excludes_and_a_hundred_thousand_tasks_take_seconds():
    numbers = ", ".join(map(str, range(100)))
    excludes = ", ".join(f"{{a: {n}, b: {m}}}" for n in range(100) for m in range(10))
    where = ", ".join(f"{{where: {{a: {n}}}, generation: {{thinking: high}}}}" for n in range(100))
    prompts = "prompts:\n" + "\n".join(f"  - {{id: p{n}, text: 'prompt {n} {{a}} {{b}}'}}" for n in range(11))
    text = manifest_text(
        f"matrix: {{a: [{numbers}], b: [{numbers}], exclude: [{excludes}], settings: [{where}]}}", prompts=prompts
    )
    start = time.perf_counter()
    made = expand(parse(text, "m.yaml", builtin()), builtin())
    assert len(made) == 11 * 9000
    assert len({t.key for t in made}) == len(made)
    assert time.perf_counter() - start < 60


values_of = {
    "size": st.sampled_from(["512", "1K", "2K", "4K"]),
    "aspect": st.sampled_from(["1:1", "16:9", "8:1"]),
    "tone": st.sampled_from(["a", "b", "c", "{hue}"]),
    "hue": st.sampled_from(["red", "blue"]),
}
some_values = {name: st.lists(of, min_size=1, max_size=3, unique=True) for name, of in values_of.items()}
optional_values = {name: some_values[name] for name in ("size", "aspect")}
axes = st.fixed_dictionaries(
    {"tone": some_values["tone"], "hue": some_values["hue"]}, optional=optional_values
).flatmap(lambda drawn: st.permutations(list(drawn.items())).map(dict))
rule = st.fixed_dictionaries({}, optional=values_of).filter(bool)
prompt = st.fixed_dictionaries(
    {"text": st.sampled_from(["plain", "a {tone}", "a {hue} {size}", '{"x": {aspect}}', "{{tone}} {hue}"])},
    optional={"matrix": st.fixed_dictionaries({}, optional=some_values), "template": st.booleans()},
)


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    rules = st.lists(rule, min_size=1, max_size=3)
    matrix: dict[str, object] = dict(draw(axes))
    for name in draw(st.sets(st.sampled_from(["exclude", "include"]))):
        matrix[name] = draw(rules)
    return {
        "job": "j",
        "model": MODEL,
        "prompts": draw(st.lists(prompt, min_size=1, max_size=4)),
        "matrix": matrix,
        "variants": draw(st.integers(1, 3)),
        "budget": {"order": draw(st.sampled_from(["spread", "manifest"]))},
    }


def expanded(manifest: dict[str, Any]) -> tuple[TaskSpec, ...] | None:
    """The tasks; None where exclude leaves nothing."""
    read = parse(quoted(manifest), "m.yaml", builtin())
    try:
        made = Expansion(read, builtin())
    except ManifestError as error:
        if "exclude leaves nothing to render" not in str(error):
            raise
        return None
    assert len(made) == len(tuple(made))
    return tuple(made)


@given(manifests())
@settings(deadline=None)
def test_expansion_is_pure_and_its_keys_and_paths_are_unique(manifest: dict[str, Any]):
    made = expanded(manifest)
    assert made == expanded(manifest)
    if made is not None:
        assert len({t.key for t in made}) == len(made)
        assert len({t.stem.casefold() for t in made}) == len(made)
        assert [t.position for t in made] == list(range(len(made)))


@given(manifests(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_renaming_reordering_and_another_order_of_buying_keep_all_keys(manifest: dict[str, Any], random):
    made = expanded(manifest)
    prompts = [{**p, "id": f"renamed {n}"} for n, p in enumerate(manifest["prompts"])]
    random.shuffle(prompts)
    turned = expanded({**manifest, "job": "k", "prompts": prompts, "budget": {"order": "manifest"}})
    assert {t.key for t in made or ()} == {t.key for t in turned or ()}


@given(manifests(), prompt)
@settings(deadline=None)
def test_another_prompt_leaves_all_keys_as_they_were(manifest: dict[str, Any], another: dict[str, object]):
    made = expanded(manifest)
    more = expanded({**manifest, "prompts": [*manifest["prompts"], another]})
    assert {t.key for t in made or ()} <= {t.key for t in more or ()}


@given(manifests())
@settings(deadline=None)
def test_spread_takes_turns(manifest: dict[str, Any]):
    made = expanded({**manifest, "budget": {"order": "spread"}}) or ()
    turns: Counter[str] = Counter()
    last = 0
    for task in made:
        turns[task.prompt_id] += 1
        assert turns[task.prompt_id] >= last
        last = turns[task.prompt_id]


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=5, unique=True))
def test_any_ids_give_distinct_paths_or_an_error(ids: list[str]):
    lines = ", ".join(f"{{id: {quoted(id_)}, text: x}}" for id_ in ids)
    text = manifest_text(prompts=f"prompts: [{lines}]")
    if not problems(text):
        made = expand(parse(text, "m.yaml", builtin()), builtin())
        assert [t.prompt_id for t in made] == ids
        assert len({t.stem.casefold() for t in made}) == len(ids)
        assert all(t.stem.count("/") == 2 and ".." not in t.stem.split("/") for t in made)


def test_max_tasks_itself_is_allowed():
    assert len(Expansion(parsed("variants: 7", "limits: {max_tasks: 7}"), builtin())) == 7
