"""A manifest becomes tasks: prompts x cells x variants, each with its key, its path and its place in the order.

Pure: the same manifest, files and catalog give the same tasks. Of a large manifest no list of tasks is ever made:
they are expanded anew whenever they are read, and what must be known of all of them together (which requests,
ids and paths repeat) is kept as a few bytes for each.
"""

from array import array
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise, product
from math import prod

from runner.core.axes import Dimensions, Matrix, included_rows
from runner.core.catalog import Catalog, Model
from runner.core.errors import ManifestError, Problem
from runner.core.fields import Generation
from runner.core.keys import key
from runner.core.manifest import Manifest
from runner.core.paths import compile_output, fold
from runner.core.places import Places
from runner.core.prompts import Files, NoFiles, Prompt, Reading, Source, stream
from runner.core.reference import Reference
from runner.core.shape import Scope, listed
from runner.core.task import Recipe, TaskSpec
from runner.core.yaml12 import shortened

MAX_TASKS = 10_000_000
MAX_CLASHES = 20
"""Clashing paths that one error lists."""
KEPT = 50_000
"""So many tasks are kept once they are expanded."""
MAX_GRIDS = 4_096
"""Sets of axis values whose cells are kept."""
MAX_FIRSTS = 10_000
"""Requests whose first place is kept, in case that another prompt asks for the same."""

SORTED = 16_384
"""So many hashes are made a list, on average: it takes six times the room of their array."""

Row = tuple[str, ...]
Request = tuple[Recipe, str, str, str, tuple[str, ...]]
"""What makes two requests the same: recipe, text, size, aspect, references."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """One combination of axis values, and what it means for a request."""

    values: Mapping[str, str]
    others: tuple[tuple[str, str], ...]
    """All but size and aspect."""
    recipe: Recipe
    most: int | None
    """Reference pictures that its model takes."""
    before: tuple[Recipe, ...]
    """The same recipe with each model of `keep`."""


@dataclass(slots=True)
class _Segment:
    """A prompt of the manifest, or a file of prompts, with what the first reading found."""

    item: Prompt | Source
    first_prompt: int = 0
    first_request: int = 0
    longest: int = 0
    """Most cells of one prompt."""


@dataclass(frozen=True, slots=True)
class _Repeats:
    """What repeats, by place as written; None where nothing does."""

    occurrence: "array[int] | None" = None
    """Of each request: which one it is among its equals, from 1."""
    number: "array[int] | None" = None
    """Of each prompt: which one it is among those that would have one id, from 1."""
    tasks: int = 0
    """Tasks that repeat the request of another, the first of those not counted."""
    idle: frozenset[str] = frozenset()
    """Axes in which tasks of one prompt and one request differ."""
    prompts: Places = field(default_factory=Places)
    """Prompts that ask for what one before them does."""


class Expansion:
    """All tasks of a manifest, in the order of buying; iterated as often as wanted."""

    def __init__(self, manifest: Manifest, catalog: Catalog, files: Files | None = None) -> None:
        """Reads the files, more than once.

        Raises ManifestError: something in them is wrong, there are too many tasks, none, or two on one path.
        """
        self._manifest, self._files = manifest, files or NoFiles()
        matrix = manifest.matrix
        judge = None if "model" in matrix.names else catalog.find(manifest.model)
        self._reading = Reading(
            manifest.file, matrix.names, self._files, Scope(catalog, judge), drafts=manifest.drafts is not None
        )
        self._grids = _Grids(manifest, catalog)
        self._layout = compile_output(manifest.output, matrix.names)
        _check_bound(manifest)
        self._segments = [_Segment(item) for item in manifest.prompts]
        self._cells: dict[tuple[Recipe, str, str], None] = {}
        self._repeats = _Repeats()
        self._kept: tuple[TaskSpec, ...] | None = None
        self._has_references = False
        self._blanks: list[str] = []
        self._find_repeats(*self._scan())
        self._check_paths()

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[TaskSpec]:
        return self._tasks() if self._kept is None else iter(self._kept)

    @property
    def repeating(self) -> int:
        """Tasks that share everything but the variant with one before, and so are more pictures of one request."""
        return self._repeats.tasks

    @property
    def idle_axes(self) -> Sequence[str]:
        """Axes whose values change nothing in the request of some prompt."""
        names = (name for prompt in self._manifest.prompts for one in prompt.dimensions for name in one.names)
        return [name for name in dict.fromkeys(names) if name in self._repeats.idle]

    @property
    def repeated_prompts(self) -> Places:
        """Prompts that ask for what another asks for, each with the place of both."""
        return self._repeats.prompts

    @property
    def blanks(self) -> Sequence[str]:
        """For each file of prompts, where a row has nothing for a place of its text."""
        return self._blanks

    @property
    def has_references(self) -> bool:
        """Whether pictures go with any prompt."""
        return self._has_references

    @property
    def cells(self) -> Sequence[tuple[Recipe, str, str]]:
        """Each recipe, size and aspect that occurs, as first met."""
        return list(self._cells)

    def _scan(self) -> tuple["array[int]", "array[int]"]:
        """Read everything once: a hash for each prompt's id and each request, as written."""
        ids, requests = array("q"), array("q")
        manifest, problems = self._manifest, list[Problem]()
        for segment in self._segments:
            segment.first_prompt, segment.first_request = len(ids), len(requests)
            try:
                self._scan_segment(segment, ids, requests, problems)
            except ManifestError as error:
                problems += [replace(one, file=one.file or error.file) for one in error.problems]
            if len(requests) * manifest.variants > MAX_TASKS:
                raise _too_many(manifest, len(requests) * manifest.variants, "or more")
        if problems:
            own = [replace(one, file="") if one.file == manifest.file else one for one in problems]
            raise ManifestError(manifest.file, list(dict.fromkeys(own)))
        self._total = manifest.variants * len(requests)
        limit = manifest.limits.max_tasks
        if limit is not None and self._total > limit:
            message = f"the manifest has {self._total:,} tasks, max_tasks allows {limit:,}"
            raise _error(manifest, "limits.max_tasks", message)
        if not self._total:
            raise _error(manifest, "matrix", "exclude leaves nothing to render")
        return ids, requests

    def _scan_segment(
        self, segment: _Segment, ids: "array[int]", requests: "array[int]", problems: list[Problem]
    ) -> None:
        """Up to its end, too many tasks or too many problems, each said once; those of its file are raised."""
        seen, said, wrong = set[int](), set[str](), 0
        blank, rest = None, Places()
        for prompt in stream([segment.item], self._reading):
            try:
                cells = self._grids.of(prompt.dimensions)
                if id(cells) not in seen:
                    seen.add(id(cells))
                    self._cells.update({(c.recipe, c.values["size"], c.values["aspect"]): None for c in cells})
                requests.extend([hash(self._request(prompt, cell)) for cell in cells])
            except ManifestError as error:
                problems += [one for one in error.problems if one.message not in said]
                said.update(one.message for one in error.problems)
                wrong += 1
                if wrong == MAX_CLASHES:
                    return
                continue
            if prompt.blank:
                blank = blank or prompt
                names = prompt.blank[1:] if blank is prompt else prompt.blank
                rest.add(*(f"{name} in line {prompt.line}" for name in names))
            ids.append(hash(prompt.id))
            segment.longest = max(segment.longest, len(cells))
            if len(requests) * self._manifest.variants > MAX_TASKS:
                return
        if blank is not None:
            again = f"; as empty: {rest}" if rest.count else ""
            filled = f"{blank.blank[0]} is empty in {shortened(blank.text, 60)!r}"
            self._blanks.append(f"{blank.file}:{blank.line}: {filled}{again}")

    def _find_repeats(self, ids: "array[int]", requests: "array[int]") -> None:
        """Number what repeats. Hashes only choose what is looked at: what counts is compared itself."""
        same_ids, same_requests = _repeated(ids), _repeated(requests)
        if not same_ids and not same_requests:
            return
        occurrence, number = array("L", [1]) * len(requests), array("L", [1]) * len(ids)
        counted: Counter[Request] = Counter()
        idle, firsts, prompts = set[str](), dict[Request, str](), Places()
        names = _Names(self._manifest)
        request = 0
        for place, prompt in enumerate(stream(self._manifest.prompts, self._reading)):
            if ids[place] in same_ids:
                number[place] = names.number(prompt)
            asked: dict[Request, _Cell] = {}
            here, there = f"{prompt.file or self._manifest.file}:{prompt.line}", None
            for cell in self._grids.of(prompt.dimensions):
                if requests[request] in same_requests:
                    counted[one := self._request(prompt, cell)] += 1
                    occurrence[request] = counted[one]
                    if counted[one] == 1 and len(firsts) < MAX_FIRSTS:
                        firsts[one] = here
                    elif counted[one] > 1 and one not in asked and there is None:
                        there = firsts.get(one, "")
                    first = asked.setdefault(one, cell).values
                    idle.update(name for name, value in cell.values.items() if first[name] != value)
                request += 1
            if there is not None:
                prompts.add(f"{here} asks for what {there} does" if there else "")
        if names.problems:
            raise ManifestError(self._manifest.file, names.problems)
        tasks = self._manifest.variants * (counted.total() - len(counted))
        self._repeats = _Repeats(
            occurrence if tasks else None, number if same_ids else None, tasks, frozenset(idle), prompts
        )

    def _request(self, prompt: Prompt, cell: _Cell) -> Request:
        values = cell.values
        identities = tuple(one.identity for one in self._references(prompt, cell))
        return (cell.recipe, prompt.template.fill(values), values["size"], values["aspect"], identities)

    def _references(self, prompt: Prompt, cell: _Cell) -> tuple[Reference, ...]:
        """The pictures that go with a cell of a prompt: its own, then that of an axis `reference`."""
        axis = cell.values.get("reference", "")
        if not axis and not prompt.references:
            return ()
        wanted = [*(template.fill(cell.values) for template in prompt.references), axis]
        found, wrong = list[Reference](), list[str]()
        for one in wanted:
            try:
                found += self._files.pictures(one) if one else ()
            except ValueError as error:
                wrong.append(str(error))
        self._has_references = self._has_references or bool(found)
        if cell.most is not None and len(found) > cell.most:
            message = f"{len(found)} references, of which {cell.recipe.model} takes {cell.most}"
            wrong.append(f"{message}: leave out {len(found) - cell.most}, such as {found[-1].name}")
        if wrong:
            problems = [Problem(prompt.line, prompt.column, message, prompt.file) for message in wrong]
            raise ManifestError(self._manifest.file, problems)
        return tuple(found)

    def _tasks(self) -> Iterator[TaskSpec]:
        """One task after another, never many at once."""
        return (self._task(position, *one) for position, one in enumerate(self._pictures()))

    def _pictures(self) -> Iterator[tuple[Prompt, _Cell, int, int]]:
        """(prompt, cell, variant, place of its request) of each task, in the order of buying."""
        for prompt, first_request, place in self._in_order():
            cells = self._grids.of(prompt.dimensions)
            variant, cell = divmod(place, len(cells))
            yield prompt, cells[cell], variant + 1, first_request + cell

    def _in_order(self) -> Iterator[tuple[Prompt, int, int]]:
        """(prompt, its first request, which of its tasks) in the order of buying.

        `spread`: the first task of every prompt before the second of any. In a prompt all cells of one variant
        come before the next.
        """
        variants, segments = self._manifest.variants, self._segments
        if self._manifest.budget.order == "manifest":
            for prompt, first_request, cells in self._numbered(segments):
                yield from ((prompt, first_request, place) for place in range(cells * variants))
            return
        for turn in range(variants * max(segment.longest for segment in segments)):
            segments = [segment for segment in segments if turn < segment.longest * variants]
            for prompt, first_request, cells in self._numbered(segments):
                if turn < cells * variants:
                    yield prompt, first_request, turn

    def _numbered(self, segments: Iterable[_Segment]) -> Iterator[tuple[Prompt, int, int]]:
        """(prompt with its final id, its first request, how many cells it has)."""
        number = self._repeats.number
        for segment in segments:
            request = segment.first_request
            for place, prompt in enumerate(stream([segment.item], self._reading), segment.first_prompt):
                cells = len(self._grids.of(prompt.dimensions))
                nth = 1 if number is None else number[place]
                yield (prompt if nth == 1 else replace(prompt, id=f"{prompt.id}-{nth}")), request, cells
                request += cells

    def _task(self, position: int, prompt: Prompt, cell: _Cell, variant: int, request: int) -> TaskSpec:
        size, aspect = cell.values["size"], cell.values["aspect"]
        text, references = prompt.template.fill(cell.values), self._references(prompt, cell)
        occurrence = 1 if self._repeats.occurrence is None else self._repeats.occurrence[request]
        identities = [one.identity for one in references]
        key_ = key(cell.recipe, text, size, aspect, variant=variant, occurrence=occurrence, references=identities)
        return TaskSpec(
            key=key_,
            prompt_id=prompt.id,
            prompt=text,
            recipe=cell.recipe,
            size=size,
            aspect=aspect,
            axes=cell.others,
            variant=variant,
            stem=self._stem(prompt, cell, variant, key_),
            position=position,
            references=references,
            occurrence=occurrence,
            before=cell.before,
            draft=prompt.draft,
        )

    def _stem(self, prompt: Prompt, cell: _Cell, variant: int, key_: str) -> str:
        named = {"job": self._manifest.job, "prompt": prompt.id, "variant": str(variant), "key": key_}
        return self._layout.stem({**cell.values, **named})

    def _stems(self) -> Iterator[str]:
        """The path of each task; of many, whole tasks are made only where their keys are in it."""
        if self._kept is None and "{key}" not in self._manifest.output:
            return (self._stem(prompt, cell, variant, "") for prompt, cell, variant, _ in self._pictures())
        return (task.stem for task in self)

    def _check_paths(self) -> None:
        """ManifestError where two tasks share a path, compared case-folded and without extension."""
        if self._total <= KEPT:
            self._kept = tuple(self._tasks())
        if same := _repeated(array("q", (hash(fold(stem)) for stem in self._stems()))):
            prompts = (prompt for prompt, _, _ in self._numbered(self._segments))
            _refuse_clashes(self._manifest, self, same, prompts)


def expand(manifest: Manifest, catalog: Catalog, files: Files | None = None) -> tuple[TaskSpec, ...]:
    """All tasks, in the order of buying. Raises ManifestError as `Expansion` does."""
    return tuple(Expansion(manifest, catalog, files))


class _Names:
    """Numbers prompts whose generated ids are the same; a given id that is used twice is a problem."""

    def __init__(self, manifest: Manifest) -> None:
        self.problems: list[Problem] = []
        self._taken = frozenset(one.id for one in manifest.prompts if isinstance(one, Prompt))
        self._uses: Counter[str] = Counter()
        self._first: dict[str, Prompt] = {}

    def number(self, prompt: Prompt) -> int:
        """From 1, which is the prompt that keeps the id as it is."""
        id_ = prompt.id
        if prompt.given_id:
            first = self._first.setdefault(id_, prompt)
            if first is not prompt and len(self.problems) < MAX_CLASHES:
                where = f"{first.file}:{first.line}" if first.file else f"{first.line}:{first.column}"
                message = f"id {id_!r} is used twice: first at {where}"
                self.problems.append(Problem(prompt.line, prompt.column, message, prompt.file))
            return 1
        self._uses[id_] += 1
        if not prompt.file:  # the manifest's own are numbered as it is read
            return 1
        if id_ not in self._taken and self._first.setdefault(id_, prompt) is prompt:
            return 1
        self._uses[id_] = max(2, self._uses[id_])
        while f"{id_}-{self._uses[id_]}" in self._taken:
            self._uses[id_] += 1
        return self._uses[id_]


def _repeated(hashes: "array[int]") -> frozenset[int]:
    """The values that occur more than once; sorted a part at a time, so that no list of all is ever made."""
    parts = [array("q") for _ in range(len(hashes) // SORTED + 1)]
    for value in hashes:
        parts[value % len(parts)].append(value)
    return frozenset(one for part in parts for one, other in pairwise(sorted(part)) if one == other)


def _check_bound(manifest: Manifest) -> None:
    """ManifestError for what arithmetic alone shows to be too much; a file counts as one prompt."""
    distinct = {id(prompt.dimensions): prompt.dimensions for prompt in manifest.prompts}
    bounds = {id_: _bound(dimensions, manifest.matrix) for id_, dimensions in distinct.items()}
    bound = manifest.variants * sum(bounds[id(prompt.dimensions)] for prompt in manifest.prompts)
    if bound > MAX_TASKS:
        raise _too_many(manifest, bound, "before exclude")


def _too_many(manifest: Manifest, count: int, how: str) -> ManifestError:
    place = next((name for name in ("matrix", "variants") if name in manifest.places), "prompts")
    return _error(manifest, place, f"{count:,} tasks {how}: at most {MAX_TASKS:,} in one manifest")


def _bound(dimensions: Dimensions, matrix: Matrix) -> int:
    added = (prod(len(included_rows(d, rule.values)) for d in dimensions) for rule in matrix.include)
    return prod(len(d.rows) for d in dimensions) + sum(added)


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


class _Grids:
    """The cells of sets of dimensions, by identity: prompts without axes of their own share one value."""

    def __init__(self, manifest: Manifest, catalog: Catalog) -> None:
        self._manifest, self._catalog = manifest, catalog
        self._known: OrderedDict[int, tuple[Dimensions, list[_Cell]]] = OrderedDict()
        self._recipes: dict[tuple[str, tuple[int, ...]], Recipe] = {}

    def of(self, dimensions: Dimensions) -> list[_Cell]:
        """The cells; the dimensions are held, so that their identity stays theirs."""
        known = self._known.get(id(dimensions))
        if known is None:
            known = self._known[id(dimensions)] = (dimensions, self._cells(dimensions))
            if len(self._known) > MAX_GRIDS:
                self._known.popitem(last=False)
        return known[1]

    def _cells(self, dimensions: Dimensions) -> list[_Cell]:
        matrix = self._manifest.matrix
        names = matrix.names
        where = _Index([setting.where.values for setting in matrix.settings], names)
        cells = []
        lacking: dict[str, None] = {}
        for row in _rows(dimensions, matrix):
            values = dict(zip(names, row, strict=True))
            model = values.get("model", self._manifest.model)
            met = tuple(where.matches(row))
            recipe = self._recipe(model, met)
            entry = self._catalog.find(model)
            if "model" in values and entry is not None:
                lacking.update(dict.fromkeys(_lacks(entry, recipe, values)))
            others = tuple((n, v) for n, v in values.items() if n not in ("size", "aspect"))
            most = None if entry is None else entry.max_references
            before = tuple(self._recipe(one, met) for one in self._manifest.keep if one != model)
            cells.append(_Cell(values, others, recipe, most, before))
        if lacking:
            line, column = self._manifest.places.get("matrix", (1, 1))
            raise ManifestError(self._manifest.file, [Problem(line, column, message) for message in lacking])
        return cells

    def _recipe(self, model: str, met: tuple[int, ...]) -> Recipe:
        """The manifest's generation settings, with those of a cell over them in their order."""
        if (model, met) not in self._recipes:
            generation: Generation = self._manifest.generation
            for number in met:
                generation = self._manifest.matrix.settings[number].generation.over(generation)
            self._recipes[model, met] = generation.recipe(model, self._catalog.find(model))
        return self._recipes[model, met]


def _lacks(entry: Model, recipe: Recipe, values: Mapping[str, str]) -> Iterator[str]:
    """What a cell asks of its model in vain: where models are an axis, no single one judged the manifest."""
    if values["size"] not in entry.sizes:
        yield _lack(entry, f"size {values['size']}", entry.sizes)
    if values["aspect"] not in entry.aspects:
        yield _lack(entry, f"aspect {values['aspect']}", entry.aspects)
    if recipe.thinking is not None and recipe.thinking not in entry.thinking:
        yield _lack(entry, f"thinking level {recipe.thinking}", entry.thinking)


def _lack(entry: Model, what: str, offered: Sequence[str]) -> str:
    has = f" (it has {listed(offered, 'and')})" if offered else ""
    return f"{entry.id} does not have the {what}{has}: exclude the cells of that model and value"


def _refuse_clashes(
    manifest: Manifest, tasks: Iterable[TaskSpec], same: frozenset[int], prompts: Iterable[Prompt]
) -> None:
    """ManifestError where two tasks share a path, compared case-folded and without extension."""
    first: dict[str, TaskSpec] = {}
    clashes: list[tuple[TaskSpec, TaskSpec]] = []
    for task in tasks:
        folded = fold(task.stem)
        if hash(folded) in same and (other := first.setdefault(folded, task)) is not task:
            clashes.append((other, task))
            if len(clashes) == MAX_CLASHES:
                break
    if not clashes:
        return
    met = {one.prompt_id for pair in clashes for one in pair}
    stands = {prompt.id: (prompt.file, prompt.line, prompt.column) for prompt in prompts if prompt.id in met}
    problems: dict[tuple[str, int, int], Problem] = {}
    for one, other in clashes:
        file, line, column = _clash_place(manifest, stands, one, other)
        message = f"two tasks share the path {other.stem}: {_described(one)} and {_described(other)}"
        problem = Problem(line, column, message + _advice(manifest, one, other), file)
        problems.setdefault((file, line, column), problem)
    raise ManifestError(manifest.file, list(problems.values()))


def _clash_place(
    manifest: Manifest, stands: Mapping[str, tuple[str, int, int]], one: TaskSpec, other: TaskSpec
) -> tuple[str, int, int]:
    if one.prompt_id == other.prompt_id:
        line, column = manifest.places.get("output") or manifest.places.get("matrix") or (1, 1)
        return "", line, column
    return max(stands[one.prompt_id], stands[other.prompt_id])


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
