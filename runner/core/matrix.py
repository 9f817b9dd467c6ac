"""A manifest becomes tasks: prompts x cells x variants, each with its key, its path and its place in the order.

Pure: the same manifest and catalog give the same tasks.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from itertools import count as counting
from math import prod

from runner.core.axes import Dimensions, Matrix, included_rows
from runner.core.catalog import Catalog, Model
from runner.core.errors import ManifestError, Problem
from runner.core.fields import Generation
from runner.core.keys import key
from runner.core.manifest import Manifest, Prompt
from runner.core.paths import Layout, compile_output, fold
from runner.core.task import Recipe, TaskSpec

MAX_TASKS = 10_000_000
MAX_CLASHES = 20
"""Clashing paths that one error lists."""

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Cell:
    """One combination of axis values, and what it means for a request."""

    values: Mapping[str, str]
    others: tuple[tuple[str, str], ...]
    """All but size and aspect."""
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class _Request:
    """A cell of a prompt: as many tasks as there are variants."""

    prompt: Prompt
    text: str
    cell: _Cell
    occurrence: int
    """Counts equal requests of the job, from 1, as written."""


def count(manifest: Manifest) -> int:
    """How many tasks the manifest has.

    Raises:
        ManifestError: over ten million, found by arithmetic before anything is expanded and before `exclude`
            takes any away; or over the manifest's own `limits.max_tasks`.
    """
    _check_bound(manifest)
    sizes = {id_: len(_rows(dimensions, manifest.matrix)) for id_, dimensions in _distinct(manifest).items()}
    total = manifest.variants * sum(sizes[id(prompt.dimensions)] for prompt in manifest.prompts)
    limit = manifest.limits.max_tasks
    if limit is not None and total > limit:
        raise _error(manifest, "limits.max_tasks", f"the manifest has {total:,} tasks, max_tasks allows {limit:,}")
    return total


def expand(manifest: Manifest, catalog: Catalog) -> tuple[TaskSpec, ...]:
    """All tasks, in the order of buying.

    Raises:
        ManifestError: too many tasks, none at all, or two tasks that would share a path.
    """
    if count(manifest) == 0:
        raise _error(manifest, "matrix", "exclude leaves nothing to render")
    requests = _requests(manifest, catalog)
    layout = compile_output(manifest.output, manifest.matrix.names)
    order = _spread if manifest.budget.order == "spread" else _as_written
    tasks = tuple(
        _task(request, variant, position, manifest.job, layout)
        for position, (request, variant) in enumerate(order(requests, manifest.variants))
    )
    _check_paths(manifest, tasks)
    return tasks


def duplicates(tasks: Iterable[TaskSpec]) -> int:
    """How many tasks share everything but the variant with another task, and so are pictures of one request."""
    requests = Counter((t.prompt, t.recipe, t.size, t.aspect, t.variant) for t in tasks)
    return sum(times for times in requests.values() if times > 1)


def _check_bound(manifest: Manifest) -> None:
    bounds = {id_: _bound(dimensions, manifest.matrix) for id_, dimensions in _distinct(manifest).items()}
    bound = manifest.variants * sum(bounds[id(prompt.dimensions)] for prompt in manifest.prompts)
    if bound > MAX_TASKS:
        place = "matrix" if "matrix" in manifest.places else "variants"
        raise _error(manifest, place, f"{bound:,} tasks before exclude: at most {MAX_TASKS:,} in one manifest")


def _bound(dimensions: Dimensions, matrix: Matrix) -> int:
    added = (prod(len(included_rows(d, rule.values)) for d in dimensions) for rule in matrix.include)
    return prod(len(d.rows) for d in dimensions) + sum(added)


def _distinct(manifest: Manifest) -> dict[int, Dimensions]:
    """Dimensions by identity: prompts without a matrix of their own share one value."""
    return {id(prompt.dimensions): prompt.dimensions for prompt in manifest.prompts}


def _rows(dimensions: Dimensions, matrix: Matrix) -> list[Row]:
    """The cells: the product without what is excluded, then what is included and not there yet."""
    names = [name for dimension in dimensions for name in dimension.names]
    excluded = _Index([rule.values for rule in matrix.exclude], names)
    rows = dict.fromkeys(row for row in _product(d.rows for d in dimensions) if not excluded.matches(row))
    for rule in matrix.include:
        rows.update(dict.fromkeys(_product(included_rows(d, rule.values) for d in dimensions)))
    return list(rows)


def _product(rows: Iterable[Iterable[Row]]) -> Iterator[Row]:
    return (tuple(chain.from_iterable(parts)) for parts in product(*rows))


class _Index:
    """Rules by the axes they name, so that a row is looked up once for each set of axes, not for each rule."""

    def __init__(self, rules: Sequence[Mapping[str, str]], names: Sequence[str]) -> None:
        self._rules: dict[tuple[int, ...], dict[Row, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, values in enumerate(rules):
            columns = tuple(i for i, name in enumerate(names) if name in values)
            self._rules[columns][tuple(values[names[i]] for i in columns)].append(number)

    def matches(self, row: Row) -> list[int]:
        """The rules that a row meets, as numbered."""
        met: list[int] = []
        for columns, rules in self._rules.items():
            met += rules.get(tuple(row[i] for i in columns), ())
        return sorted(met)


def _cells(dimensions: Dimensions, manifest: Manifest, model: Model | None) -> list[_Cell]:
    names = manifest.matrix.names
    settings = manifest.matrix.settings
    where = _Index([setting.where.values for setting in settings], names)
    recipes: dict[tuple[int, ...], Recipe] = {}
    cells = []
    for row in _rows(dimensions, manifest.matrix):
        met = tuple(where.matches(row))
        if met not in recipes:
            recipes[met] = _recipe(manifest, [settings[number].generation for number in met], model)
        others = tuple((n, v) for n, v in zip(names, row, strict=True) if n not in ("size", "aspect"))
        cells.append(_Cell(dict(zip(names, row, strict=True)), others, recipes[met]))
    return cells


def _recipe(manifest: Manifest, settings: Iterable[Generation], model: Model | None) -> Recipe:
    """The manifest's generation settings, with those of a cell over them in their order."""
    generation = manifest.generation
    for setting in settings:
        generation = setting.over(generation)
    return generation.recipe(manifest.model, model)


def _requests(manifest: Manifest, catalog: Catalog) -> list[list[_Request]]:
    """The requests of every prompt, as written."""
    model = catalog.find(manifest.model)
    grids = {id_: _cells(dimensions, manifest, model) for id_, dimensions in _distinct(manifest).items()}
    seen: Counter[tuple[Recipe, str, str, str]] = Counter()
    result = []
    for prompt in manifest.prompts:
        requests = []
        for cell in grids[id(prompt.dimensions)]:
            text = prompt.template.fill(cell.values)
            request = (cell.recipe, text, cell.values["size"], cell.values["aspect"])
            seen[request] += 1
            requests.append(_Request(prompt, text, cell, seen[request]))
        result.append(requests)
    return result


def _as_written(requests: Sequence[Sequence[_Request]], variants: int) -> Iterator[tuple[_Request, int]]:
    """Prompt by prompt; in each, all cells of one variant before the next."""
    for of_prompt in requests:
        for variant in range(1, variants + 1):
            yield from ((request, variant) for request in of_prompt)


def _spread(requests: Sequence[Sequence[_Request]], variants: int) -> Iterator[tuple[_Request, int]]:
    """The first task of every prompt before the second of any; in a prompt as `_as_written`."""
    for turn in counting():
        requests = [of_prompt for of_prompt in requests if turn < len(of_prompt) * variants]
        if not requests:
            return
        for of_prompt in requests:
            variant, cell = divmod(turn, len(of_prompt))
            yield of_prompt[cell], variant + 1


def _task(request: _Request, variant: int, position: int, job: str, layout: Layout) -> TaskSpec:
    cell = request.cell
    size, aspect = cell.values["size"], cell.values["aspect"]
    key_ = key(cell.recipe, request.text, size, aspect, variant=variant, occurrence=request.occurrence)
    named = {"job": job, "prompt": request.prompt.id, "variant": str(variant), "key": key_}
    return TaskSpec(
        key=key_,
        prompt_id=request.prompt.id,
        prompt=request.text,
        recipe=cell.recipe,
        size=size,
        aspect=aspect,
        axes=cell.others,
        variant=variant,
        stem=layout.stem({**cell.values, **named}),
        position=position,
    )


def _check_paths(manifest: Manifest, tasks: Iterable[TaskSpec]) -> None:
    """ManifestError where two tasks share a path, compared case-folded and without extension."""
    first: dict[str, TaskSpec] = {}
    problems: dict[tuple[int, int], Problem] = {}
    for task in tasks:
        other = first.setdefault(fold(task.stem), task)
        if other is not task and len(problems) < MAX_CLASHES:
            line, column = _clash_place(manifest, other, task)
            message = f"two tasks share the path {task.stem}: {_described(other)} and {_described(task)}"
            problems.setdefault((line, column), Problem(line, column, message + _advice(manifest, other, task)))
    if problems:
        raise ManifestError(manifest.file, list(problems.values()))


def _clash_place(manifest: Manifest, one: TaskSpec, other: TaskSpec) -> tuple[int, int]:
    if one.prompt_id == other.prompt_id:
        return manifest.places.get("output") or manifest.places.get("matrix") or (1, 1)
    late = {one.prompt_id, other.prompt_id}
    return max((p.line, p.column) for p in manifest.prompts if p.id in late)


def _described(task: TaskSpec) -> str:
    axes = (f"{name} {value!r}" for name, value in task.axes)
    return f"prompt {task.prompt_id!r} ({', '.join([task.size, task.aspect, *axes, f'variant {task.variant}'])})"


def _advice(manifest: Manifest, one: TaskSpec, other: TaskSpec) -> str:
    """The fields that tell the two apart and that the output does not use."""
    mine, theirs = ({**dict(t.axes), **_fields(t)} for t in (one, other))
    missing = [f"{{{n}}}" for n in mine if mine[n] != theirs[n] and f"{{{n}}}" not in manifest.output]
    return (
        f": the output needs {' and '.join(missing)}" if missing else ": names differ too little for a file system"
    )


def _fields(task: TaskSpec) -> dict[str, str]:
    return {"prompt": task.prompt_id, "size": task.size, "aspect": task.aspect, "variant": str(task.variant)}


def _error(manifest: Manifest, field: str, message: str) -> ManifestError:
    line, column = manifest.places.get(field, (1, 1))
    return ManifestError(manifest.file, [Problem(line, column, message)])
