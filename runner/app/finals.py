"""The text of a follow-up job: a manifest and the file of its prompts, which read as they were meant. No I/O.

Every final is a row of the file: its prompt literally, its references, and the axes in which the finals differ.
What they have in common stands in the manifest, where a person can change it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from runner.core.budget import dollars
from runner.core.task import Recipe

MOST_CELLS = 10_000
"""Of the product of all axes: beyond it an axis lists one value only, which the rows replace."""
NONE = "(none)"
"""Value of an axis that a task does not have, or has blank: a blank column would not replace the axis."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*(?::[0-9]+)?")
_ESCAPED = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Final:
    """One row."""

    id: str
    prompt: str
    references: tuple[str, ...]
    recipe: Recipe
    axes: Mapping[str, str]
    """Size and aspect first."""
    draft: str


@dataclass(frozen=True, slots=True)
class Head:
    """What the follow-up job is, beside its rows."""

    job: str
    drafts: str
    prompts: str
    """Name of the file of its rows."""
    variants: int = 1
    account: str | None = None
    budget_nanos: int | None = None


@dataclass(frozen=True, slots=True)
class Sheet:
    """The rows, and what they have in common."""

    rows: tuple[tuple[Final, Mapping[str, str]], ...]
    """Each with the axes in which they differ."""
    axes: Mapping[str, tuple[str, ...]]
    """Every axis with its values."""
    models: tuple[str, ...]
    settings: Mapping[str, Recipe]
    """Generation settings by the value of the axis `recipe_axis`."""
    recipe_axis: str


def sheet_of(finals: Sequence[Final]) -> Sheet:
    """Models and settings in which the finals differ become axes as well."""
    models = tuple(dict.fromkeys(one.recipe.model for one in finals))
    recipes = {one: f"r{n}" for n, one in enumerate(dict.fromkeys(_bare(one.recipe) for one in finals), 1)}
    recipe_axis = "recipe"
    while any(recipe_axis in one.axes for one in finals):
        recipe_axis = f"{recipe_axis}_"
    cells = [{**one.axes, "model": one.recipe.model, recipe_axis: recipes[_bare(one.recipe)]} for one in finals]
    axes = {name: tuple(dict.fromkeys(cell[name] for cell in cells)) for name in cells[0]}
    for name, values in (("model", models), (recipe_axis, tuple(recipes))):
        if len(values) == 1:
            del axes[name]
    varied = [name for name, values in axes.items() if len(values) > 1]
    return Sheet(
        tuple(
            (one, {name: _shown(cell[name]) for name in varied}) for one, cell in zip(finals, cells, strict=True)
        ),
        {
            name: tuple(dict.fromkeys(map(_shown, values))) if name in varied else values
            for name, values in axes.items()
        },
        models,
        {label: recipe for recipe, label in recipes.items()},
        recipe_axis,
    )


def _shown(value: str) -> str:
    return value if value.strip() else NONE


def _bare(recipe: Recipe) -> Recipe:
    return replace(recipe, model="")


def rows_text(sheet: Sheet) -> str:
    """The file of prompts: a JSON object on each line."""
    return "".join(f"{_json(_row(one, columns))}\n" for one, columns in sheet.rows)


def _row(one: Final, columns: Mapping[str, str]) -> dict[str, object]:
    references = {"references": list(one.references)} if one.references else {}
    return {"id": one.id, "prompt": one.prompt, **references, **columns, "draft": one.draft}


def manifest_text(head: Head, sheet: Sheet) -> str:
    """The manifest, in YAML."""
    lines = [
        f"# {len(sheet.rows)} pictures chosen from job {_json(head.drafts)}; written by `bulkrender promote`.",
        "# Each row of the prompt file is one of them: delete those that are not wanted any more.",
        f"job: {scalar(head.job)}",
        f"drafts: {scalar(head.drafts)}",
    ]
    if len(sheet.models) == 1:
        lines.append(f"model: {scalar(sheet.models[0])}")
    lines += ["prompts:", f"  - from: {scalar(head.prompts)}", "    template: false  # every prompt as it is"]
    lines += ["matrix:  # an axis with several values is a column of the rows", *_axes_lines(sheet)]
    if head.variants > 1:
        lines.append(f"variants: {head.variants}")
    shared = next(iter(sheet.settings.values()))
    if len(sheet.settings) == 1 and (settings := _generation(shared)):
        lines += ["generation:", *(f"  {name}: {value}" for name, value in settings.items())]
    if budget := _budget(head):
        lines.append(f"budget: {budget}")
    return "".join(f"{line}\n" for line in lines)


def _axes_lines(sheet: Sheet) -> Iterator[str]:
    whole = prod(len(values) for values in sheet.axes.values()) <= MOST_CELLS
    for name, values in sheet.axes.items():
        yield f"  {scalar(name)}: {_list(values if whole else values[:1])}"
    if len(sheet.settings) == 1:
        return
    yield "  settings:"
    for label, recipe in sheet.settings.items():
        if settings := _generation(recipe):
            inner = ", ".join(f"{name}: {value}" for name, value in settings.items())
            yield f"    - {{where: {{{scalar(sheet.recipe_axis)}: {label}}}, generation: {{{inner}}}}}"


def _generation(recipe: Recipe) -> dict[str, str]:
    """Settings of a recipe in YAML, those left out that are the program's own."""
    given: dict[str, str] = {}
    if recipe.modalities != Recipe("").modalities:
        given["modalities"] = _list(recipe.modalities)
    if recipe.thinking is not None:
        given["thinking"] = scalar(recipe.thinking)
    if recipe.system is not None:
        given["system"] = scalar(recipe.system)
    if recipe.safety:
        given["safety"] = "{" + ", ".join(f"{category}: {level}" for category, level in recipe.safety) + "}"
    return given


def _budget(head: Head) -> str:
    """The account of the drafts, with a cap of its own beside it: named alone they would share one."""
    usd = "" if head.budget_nanos is None else f"usd: {dollars(head.budget_nanos)}"
    if head.account is None:
        return f"{{{usd}}}" if usd else ""
    account = scalar(head.account)
    return f"{{account: {{name: {account}}}, {usd}}}" if usd else f"{{account: {account}}}"


def _list(values: Iterable[str]) -> str:
    return f"[{', '.join(map(scalar, values))}]"


def scalar(text: str) -> str:
    """A text in YAML: plain where that cannot be misread."""
    return text if _PLAIN.fullmatch(text) and text.lower() != "null" else _json(text)


def _json(value: object) -> str:
    """JSON that is YAML too, and whose characters all survive an editor."""
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
