"""The manifest: YAML text in, a frozen value or every problem at once out (design §3).

Reading files is not done here, nor is expansion: that is `matrix`. What the single fields hold is `grammar`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from runner.core.axes import Dimension, Dimensions, Matrix, Rule, replaced
from runner.core.catalog import Catalog, Model
from runner.core.errors import ManifestError, Problem
from runner.core.fields import Generation
from runner.core.grammar import (
    ROOT,
    Account,
    BatchSettings,
    Budget,
    Draft,
    GivenLimits,
    Lane,
    Notify,
    PriceOverride,
    SourceDraft,
)
from runner.core.limits import Limits
from runner.core.paths import compile_output, default_output, prompt_id
from runner.core.prompts import Prompt, Source
from runner.core.retry import RetryPolicy
from runner.core.shape import Located, Scope, WrongError, guess, listed, problem
from runner.core.sources import kind_of
from runner.core.template import Template, compile_template, literal
from runner.core.yaml12 import Fields, Node, Scalar, UnreadableError, read, shortened

__all__ = [
    "Account",
    "BatchSettings",
    "Budget",
    "Generation",
    "GivenLimits",
    "Manifest",
    "Notify",
    "PriceOverride",
    "Prompt",
    "RetryPolicy",
    "Source",
    "parse",
]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest in which nothing is wrong by itself; paths and numbers of tasks are judged by `matrix`."""

    job: str
    file: str
    model: str
    """The one that is given, or the first of the axis."""
    prompts: tuple[Prompt | Source, ...]
    matrix: Matrix
    variants: int
    generation: Generation
    lane: Lane
    batch: BatchSettings
    limits: GivenLimits
    budget: Budget
    retry: RetryPolicy
    prices: PriceOverride
    verify: Literal["structure", "full"]
    output: str
    keep: tuple[str, ...]
    """Models whose pictures count as done."""
    drafts: str | None
    """The job that its tasks were chosen from."""
    notify: Notify
    """Who is told how a run ended."""
    notes: tuple[str, ...]
    """What a person should hear of before a run, each with file and line."""
    places: Mapping[str, tuple[int, int]]
    """Line and column of the top-level fields that are given, and of those in `limits`."""

    @property
    def model_line(self) -> int:
        """The line to change when the model is gone."""
        return self.places.get("model", self.places.get("matrix", (1, 1)))[0]


def parse(text: bytes | str, file: str, catalog: Catalog) -> Manifest:
    """The manifest in a text; `file` is its name for messages.

    Raises:
        ManifestError: with everything that is wrong in it.
    """
    try:
        root, problems = read(text)
    except UnreadableError as error:
        raise ManifestError(file, [error.problem]) from None
    if not isinstance(root, Fields):
        raise ManifestError(file, [problem(root, f"expected a mapping with job, model and prompts, got {root}")])
    scope = Scope(catalog, _model(root, catalog))
    values, more = ROOT.partial(root, scope)
    drafts, of_prompts = values.pop("prompts", ((), ()))
    problems += [*more, *of_prompts]
    matrix = values.setdefault("matrix", Matrix()) if _readable(root, "matrix", values) else None
    prompts = tuple(_prompts(drafts, matrix, file, problems))
    if matrix is not None:
        problems += _model_problems(root, matrix)
    if matrix is not None and "output" in values:
        problems += _output_problems(values["output"], matrix)
    problems += [*_draft_problems(root, values), *_notify_problems(root, values)]
    if problems:
        raise ManifestError(file, list(dict.fromkeys(problems)))
    return _manifest(file, root, prompts, values, catalog)


def _manifest(
    file: str, root: Fields, prompts: tuple[Prompt | Source, ...], values: Mapping[str, Any], catalog: Catalog
) -> Manifest:
    """Everything put together, defaults filled in."""
    matrix: Matrix = values["matrix"]
    limits: GivenLimits = values.get("limits", GivenLimits())
    places = dict(_places(root))
    output: Located[str] | None = values.get("output")
    named: Located[str] | None = values.get("model")
    models = [named.value] if named else list(matrix.values("model"))
    line, _ = places.get("model", places.get("matrix", (1, 1)))
    return Manifest(
        job=values["job"],
        file=file,
        model=models[0],
        prompts=prompts,
        matrix=matrix,
        variants=values.get("variants", 1),
        generation=values.get("generation", Generation()),
        lane=values.get("lane", "standard"),
        batch=values.get("batch", BatchSettings()),
        limits=limits,
        budget=values.get("budget", Budget()),
        retry=values.get("retry", RetryPolicy()),
        prices=values.get("prices", PriceOverride()),
        verify=values.get("verify", "structure"),
        output=output.value if output else default_output(matrix.names),
        keep=values.get("keep", ()),
        drafts=values.get("drafts"),
        notify=values.get("notify", Notify()),
        notes=(
            *(
                note
                for model in models
                for note in _model_notes(model, f"{file}:{line}", catalog, priced="prices" in values)
            ),
            *_keep_notes(file, values.get("keep", ()), catalog, places),
            *_limit_notes(file, limits.resolved(catalog), places),
            *_rule_notes(file, matrix, prompts),
        ),
        places=places,
    )


def _model(root: Fields, catalog: Catalog) -> Model | None:
    """The catalog's entry of the manifest's model, read first: it judges the rest. None where it is an axis."""
    named = [value for key, value in root.entries if key.text == "model"]
    return catalog.find(named[0].text) if named and isinstance(named[0], Scalar) else None


def _model_problems(root: Fields, matrix: Matrix) -> Iterator[Problem]:
    """One model for all, or an axis of models."""
    named = [key for key, _ in root.entries if key.text == "model"]
    if "model" in matrix.names and named:
        yield problem(named[0], "the matrix has an axis 'model': leave this one out")
    elif "model" not in matrix.names and not named:
        yield problem(root, "missing field 'model'")


def _draft_problems(root: Fields, values: Mapping[str, Any]) -> Iterator[Problem]:
    """Drafts are another job's."""
    if values.get("drafts") is not None and values.get("drafts") == values.get("job"):
        place = next(value for key, value in root.entries if key.text == "drafts")
        yield problem(place, "this job cannot be its own drafts: name the job that they were chosen from")


def _notify_problems(root: Fields, values: Mapping[str, Any]) -> Iterator[Problem]:
    """Somebody to tell, and a secret only where there is something to sign."""
    notify: Notify | None = values.get("notify")
    if notify is None:
        return
    place = next(key for key, _ in root.entries if key.text == "notify")
    if not notify.command and notify.webhook is None:
        yield problem(place, "expected command or webhook: nobody would be told")
    if notify.secret_env is not None and notify.webhook is None:
        yield problem(place, "secret_env signs a webhook, and there is none")


def _readable(root: Fields, name: str, values: Mapping[str, Any]) -> bool:
    """Whether a field is right or simply not given."""
    return name in values or all(key.text != name for key, _ in root.entries)


def _places(root: Fields) -> Iterator[tuple[str, tuple[int, int]]]:
    for key, value in root.entries:
        yield key.text, (value.line, value.column)
        if key.text == "limits" and isinstance(value, Fields):
            yield from ((f"limits.{k.text}", (v.line, v.column)) for k, v in value.entries)


def _prompts(
    drafts: Sequence[Draft | SourceDraft], matrix: Matrix | None, file: str, problems: list[Problem]
) -> Iterator[Prompt | Source]:
    """The prompts with their ids and dimensions; what is wrong with them is added to `problems`."""
    ids = iter(_ids([draft for draft in drafts if isinstance(draft, Draft)], problems))
    for draft in drafts:
        references = tuple(compile_template(one.value) for one in draft.references)
        dimensions: Dimensions = ()
        if matrix is not None:
            dimensions = _own_dimensions(draft, matrix, problems)
        if isinstance(draft, SourceDraft):
            yield from _source(draft, dimensions, references, file, problems)
            continue
        template = _compiled(draft.text.value, draft)
        node = draft.text.node
        if matrix is not None:
            problems += _template_problems(template, matrix.names, node, "prompt", ", or template: false")
            for one, written in zip(references, draft.references, strict=True):
                problems += _template_problems(one, matrix.names, written.node, "reference")
        yield Prompt(
            next(ids),
            draft.text.value,
            template,
            dimensions,
            node.line,
            node.column,
            references,
            given_id=draft.id is not None,
        )


def _source(
    draft: SourceDraft,
    dimensions: Dimensions,
    references: tuple[Template, ...],
    file: str,
    problems: list[Problem],
) -> Iterator[Source]:
    name, node = draft.name.value, draft.name.node
    kind = kind_of(name)
    if kind is None:
        problems.append(problem(node, f"expected a .csv, .tsv, .jsonl or .txt file, got {shortened(name)!r}"))
        return
    yield Source(
        name,
        str(PurePath(file).parent / name),
        kind,
        dimensions,
        node.line,
        node.column,
        text=None if draft.text is None else draft.text.value,
        template=draft.template,
        references=references,
        limit=draft.limit,
        sample=draft.sample,
        seed=draft.seed,
    )


def _compiled(text: str, draft: Draft | SourceDraft) -> Template:
    return compile_template(text) if draft.template else literal(text)


def _own_dimensions(draft: Draft | SourceDraft, matrix: Matrix, problems: list[Problem]) -> Dimensions:
    if draft.matrix is None:
        return matrix.dimensions
    try:
        return replaced(matrix.dimensions, draft.matrix.value, draft.matrix.node)
    except WrongError as error:
        problems += error.problems
        return ()


def _template_problems(
    template: Template, axes: Sequence[str], node: Node, what: str, otherwise: str = ""
) -> Iterator[Problem]:
    for name in dict.fromkeys(template.names):
        if name not in axes:
            known = listed([f"{{{axis}}}" for axis in axes])
            message = f"unknown axis {{{shortened(name)}}} in the {what}: expected {known}"
            yield problem(node, f"{message}; write {{{{{shortened(name)}}}}} for the literal{otherwise}")


def _ids(drafts: Sequence[Draft], problems: list[Problem]) -> Iterator[str]:
    """The id of every prompt: its own, or one from its text, numbered where texts are the same."""
    first: dict[str, Node] = {}
    for draft in drafts:
        if draft.id is None:
            continue
        node, id_ = draft.id.node, draft.id.value
        if earlier := first.get(id_):
            message = f"id {shortened(id_)!r} is used twice: first at {earlier.line}:{earlier.column}"
            problems.append(problem(node, message))
        first.setdefault(id_, node)
    uses: Counter[str] = Counter()
    for draft in drafts:
        yield draft.id.value if draft.id else _fresh(prompt_id(draft.text.value), uses, first)


def _fresh(base: str, uses: Counter[str], taken: Mapping[str, Node]) -> str:
    while True:
        uses[base] += 1
        id_ = base if uses[base] == 1 else f"{base}-{uses[base]}"
        if id_ not in taken:
            return id_


def _output_problems(output: Located[str], matrix: Matrix) -> Iterator[Problem]:
    try:
        compile_output(output.value, matrix.names)
    except ValueError as error:
        yield problem(output.node, str(error))


def _model_notes(model: str, where: str, catalog: Catalog, *, priced: bool) -> Iterator[str]:
    """That the model is gone, going or not known, and what comes after it."""
    entry = catalog.find(model)
    if entry is None:
        near = guess(model, catalog.models) if "gemini" in model else ""
        hint = f" ({near.removeprefix(': ')})" if "did you mean" in near else ""
        yield (
            f"{where}: model {model} is not in the catalog of {catalog.as_of}{hint}: "
            "its sizes and aspects go unchecked and its prices are "
            + ("those of `prices:` alone, a batch at the same" if priced else "not known")
        )
    elif entry.status == "retired":
        since = f" since {entry.shutdown}" if entry.shutdown else ""
        yield f"{where}: model {model} is retired and may be gone{since}{_successors(entry, catalog)}"
    elif entry.status == "deprecated":
        yield f"{where}: model {model} is deprecated since {entry.deprecated}{_successors(entry, catalog)}"


def _keep_notes(
    file: str, keep: Sequence[str], catalog: Catalog, places: Mapping[str, tuple[int, int]]
) -> Iterator[str]:
    """Models to keep that may be misspelled: their pictures would be bought again."""
    for model in keep:
        if catalog.find(model) is None:
            line, _ = places["keep"]
            hint = guess(model, catalog.models).removeprefix(": ")
            near = f" ({hint})" if "did you mean" in hint else ""
            yield f"{file}:{line}: model {model} to keep is not in the catalog of {catalog.as_of}{near}"


def _successors(entry: Model, catalog: Catalog) -> str:
    last = catalog.last_successor(entry.id)
    if last is None or entry.successor is None:
        return ""
    beyond = "" if last.id == entry.successor else f", and after that {last.id}"
    return f"; its successor is {entry.successor}{beyond}"


def _limit_notes(file: str, limits: Limits, places: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """A spend that counts towards no limit."""
    if limits.month_elsewhere_nanos and limits.month_nanos is None:
        line, _ = places["limits.spent_usd_this_month"]
        yield f"{file}:{line}: spent_usd_this_month counts towards nothing without spend_usd_per_month"


def _rule_notes(file: str, matrix: Matrix, prompts: Sequence[Prompt | Source]) -> Iterator[str]:
    """Excludes and settings that match nothing; rows of files may bring values that only reading them shows."""
    if any(isinstance(one, Source) for one in prompts):
        return
    # by identity: prompts without a matrix of their own share one value, and hashing it takes as long as it is
    grids = [_Grid(dimensions) for dimensions in {id(p.dimensions): p.dimensions for p in prompts}.values()]
    for rule in matrix.exclude:
        if not any(grid.meets(rule.values) for grid in grids):
            yield f"{file}:{rule.line}: this exclude matches nothing"
    for setting in matrix.settings:
        wanted = setting.where.values
        rest = [_beyond(wanted, rule) for rule in matrix.include]
        if not any(grid.meets(r) for r in [wanted, *(r for r in rest if r is not None)] for grid in grids):
            yield f"{file}:{setting.where.line}: this where matches nothing"


def _beyond(wanted: Mapping[str, str], include: Rule) -> dict[str, str] | None:
    """What is left to match of `wanted` in the cells of an include; None where they differ."""
    if any(include.values.get(name, value) != value for name, value in wanted.items()):
        return None
    return {name: value for name, value in wanted.items() if name not in include.values}


class _Grid:
    """The product of some dimensions, asked whether any cell of it has some values."""

    def __init__(self, dimensions: Dimensions) -> None:
        self._dimensions = dimensions
        self._seen: dict[tuple[str, ...], frozenset[tuple[str, ...]]] = {}

    def meets(self, values: Mapping[str, str]) -> bool:
        return all(self._has(dimension, values) for dimension in self._dimensions)

    def _has(self, dimension: Dimension, values: Mapping[str, str]) -> bool:
        names = tuple(name for name in dimension.names if name in values)
        if not names:
            return True
        if names not in self._seen:
            columns = [dimension.names.index(name) for name in names]
            self._seen[names] = frozenset(tuple(row[i] for i in columns) for row in dimension.rows)
        return tuple(values[name] for name in names) in self._seen[names]
