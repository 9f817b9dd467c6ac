"""A follow-up job from chosen pictures, written and planned. Nothing is bought.

Which pictures is `choice`, how the files are spelled `finals`; here the drafts become finals and find their place.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from runner.adapters.references import is_uri
from runner.app.campaign import Campaign, load
from runner.app.choice import Chosen, choose
from runner.app.finals import Final, Head, manifest_text, rows_text, sheet_of
from runner.app.plan import Plan
from runner.app.reports import plan_object
from runner.app.settings import Options, budget_nanos, command_line, resolve
from runner.app.start import preview
from runner.app.views import Json
from runner.core.catalog import builtin
from runner.core.errors import RunnerError, UsageError
from runner.core.fields import Aspect, ModelId, Size, Thinking
from runner.core.paths import fold, slug
from runner.core.reference import Reference
from runner.core.shape import Kind, Scope, Whole, WrongError, guess
from runner.core.task import Recipe, TaskSpec
from runner.core.yaml12 import Scalar
from runner.ledger import JobStatus, Ledger

T = TypeVar("T")

_SETTINGS = ("size", "aspect", "model", "thinking", "variants")
_COLUMNS = frozenset({"id", "prompt", "text", "reference", "references", "draft"})
"""Columns that mean something else than an axis, in any case."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a follow-up job is to be made of."""

    job: str
    pick: Path | None = None
    """A file with a key or a path on each line; `-` is stdin."""
    where: tuple[str, ...] = ()
    """`AXIS=VALUE`, all of which must hold."""
    changes: tuple[str, ...] = ()
    """`SETTING=VALUE`."""
    with_draft: bool = False
    """The draft's picture is the last reference."""
    name: str | None = None
    to: Path | None = None
    force: bool = False
    """Files in the way are overwritten."""


@dataclass(frozen=True, slots=True)
class Promoted:
    """The follow-up job as it was written, and what a run of it would do."""

    plan: Plan
    manifest: Path
    prompts: Path
    command: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the drafts; None stays as it is."""

    size: str | None = None
    aspect: str | None = None
    model: str | None = None
    thinking: str | None = None
    variants: int = 1


def promote(wanted: Wanted, options: Options, environment: Mapping[str, str]) -> Promoted:
    """Write the manifest of a follow-up job, and plan it. Raises RunnerError, and nothing is written then."""
    settings = resolve(options, environment)
    reader = Ledger.read(settings.database, settings.kind)
    changes = read_changes(wanted.changes)
    chosen = choose(reader, wanted.job, wanted.pick, wanted.where)
    status = reader.status(wanted.job, since_utc=0)
    name = wanted.name or f"{wanted.job}-final"
    if name == wanted.job:
        raise UsageError(f"--name {name}: that is the job of the drafts itself")
    base = _base(status)
    manifest = _destination(wanted, name, base)
    prompts = manifest.with_suffix(".jsonl")
    place = _Place(base, manifest.parent, Path(status.output_root) if wanted.with_draft else None)
    finals = _finals(chosen, changes, place)
    same = _unchanged(chosen, finals) if changes.variants == 1 and not wanted.with_draft else 0
    if same == len(finals):
        raise UsageError(
            "nothing would differ from the drafts, so the same would be bought again: "
            "give --set (size=4K, thinking=high, …) or --with-draft"
        )
    head = Head(
        name,
        wanted.job,
        prompts.name,
        changes.variants,
        None if status.account is None else status.account.name,
        None if options.budget is None else budget_nanos(options.budget),
    )
    sheet = sheet_of(finals)
    texts = {prompts: rows_text(sheet), manifest: manifest_text(head, sheet)}
    with _written(texts, force=wanted.force, never=_manifest_of(status)):
        plain = replace(settings, options=replace(options, budget=None))  # the manifest has it
        campaign = load(manifest, plain)
        _verify(campaign, finals)
        planned = preview(campaign, plain)
        notes = tuple(_notes(campaign, planned, chosen, same))
    return Promoted(planned, manifest, prompts, run_command(manifest, options), notes)


def read_changes(texts: Sequence[str]) -> Changes:
    """`--set`; UsageError for what cannot be set."""
    given: dict[str, str] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or not value:
            raise UsageError(f"--set {text}: expected NAME=VALUE such as size=4K")
        if name not in _SETTINGS:
            raise UsageError(f"--set {text}: unknown setting {name!r}{guess(name, _SETTINGS)}")
        if name in given:
            raise UsageError(f"--set {text}: {name} is set twice")
        given[name] = value
    model = None if "model" not in given else _read("model", given["model"], ModelId(), None)
    variants = _read("variants", given["variants"], Whole(), None) if "variants" in given else 1
    return Changes(given.get("size"), given.get("aspect"), model, given.get("thinking"), variants)


def _read(name: str, value: str, kind: Kind[T], model: str | None) -> T:
    catalog = builtin()
    entry = None if model is None else catalog.find(model)
    try:
        return kind.read(Scalar(1, 1, value, plain=name == "variants"), Scope(catalog, entry))
    except WrongError as error:
        raise UsageError(f"{name}={value}: {error.problems[0].message}") from None


# --- where it goes ---


def _manifest_of(status: JobStatus) -> Path:
    return Path(str(status.config["manifest"]))


def _base(status: JobStatus) -> Path:
    """The folder of the drafts' manifest: what their references are relative to."""
    return _manifest_of(status).parent


def _destination(wanted: Wanted, name: str, base: Path) -> Path:
    to = wanted.to
    if to is None:
        if not base.is_dir():
            raise UsageError(
                f"the manifest of job {wanted.job} lay in {base}, which is not there: "
                "start in the folder where it was run, or say --to FILE.yaml"
            )
        to = base / f"{slug(name).lstrip('.') or 'final'}.yaml"
    if to.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"--to {to}: expected a file that ends with .yaml")
    if not to.parent.is_dir():
        raise UsageError(f"--to {to}: there is no folder {to.parent}")
    return to


@dataclass(frozen=True, slots=True)
class _Place:
    """Two folders: names that are relative to one are rewritten for the other."""

    base: Path
    """Of the drafts' manifest."""
    folder: Path
    """Of the new one."""
    pictures: Path | None
    """Output root of the drafts, if they go along as references."""

    def names(self, one: Chosen) -> tuple[str, ...]:
        """The references of a row, as a prompt file spells them: they are templates."""
        names = [reference.name if reference.uri else self._moved(reference.name) for reference in one.references]
        if self.pictures is not None:
            names.append(_relative(self.pictures / str(one.task.path), self.folder))
        return tuple(map(escaped, names))

    def _moved(self, name: str) -> str:
        if self.base.resolve() == self.folder.resolve():
            return _path(name)
        return _path(name) if Path(name).is_absolute() else _relative(self.base / name, self.folder)


def _relative(path: Path, folder: Path) -> str:
    real = path.parent.resolve() / path.name  # a link in between would lead `..` elsewhere
    return _path(Path(os.path.relpath(real, folder.resolve())).as_posix())


def _path(name: str) -> str:
    """A path that is not taken for an address."""
    return f"./{name}" if is_uri(name) else name


def escaped(text: str) -> str:
    """The template of exactly this text."""

    def doubled(match: re.Match[str]) -> str:
        pairs = min(len(match[1]), len(match[3]))
        return "{" * pairs + match[0] + "}" * pairs

    return re.sub(r"(\{+)([^\W\d]\w*)(\}+)", doubled, text)


@contextmanager
def _written(texts: Mapping[Path, str], *, force: bool, never: Path) -> Iterator[None]:
    """Files that are there inside the context, and stay if nothing is raised in it."""
    if any(path.resolve() == never.resolve() for path in texts):
        raise UsageError(f"{never} is the manifest of the drafts itself: say another --to")
    if there := [str(path) for path in texts if os.path.lexists(path) and not force]:
        raise UsageError(f"already there: {', '.join(there)}: say another --to or --name, or --force to overwrite")
    before: dict[Path, bytes | None] = {}
    try:
        for path, text in texts.items():
            before[path] = path.read_bytes() if os.path.lexists(path) else None
            path.write_text(text, encoding="utf-8", newline="\n")
        yield
    except BaseException as error:
        for path, data in before.items():
            path.unlink(missing_ok=True) if data is None else path.write_bytes(data)
        if isinstance(error, OSError):
            raise UsageError(f"cannot write {error.filename}: {error.strerror}") from None
        if isinstance(error, RunnerError):
            raise UsageError(f"nothing was written, for the follow-up job could not be run:\n{error}") from None
        raise


# --- what it says ---


def _finals(chosen: Sequence[Chosen], changes: Changes, place: _Place) -> list[Final]:
    """The rows. UsageError where the model lacks a size, an aspect or a thinking level, or a draft is gone."""
    names = _axis_names(chosen)
    ids = _ids([one.task.prompt_id for one in chosen], [one.task.key for one in chosen])
    finals = []
    for id_, one in zip(ids, chosen, strict=True):
        task, recipe = one.task, _recipe(one.recipe, changes)
        size, aspect = changes.size or task.size, changes.aspect or task.aspect
        axes = {
            "size": _read("size", size, Size(), recipe.model),
            "aspect": _read("aspect", aspect, Aspect(), recipe.model),
            **{name: task.axes.get(old, "") for old, name in names.items()},
        }
        finals.append(Final(id_, task.prompt, place.names(one), recipe, axes, task.key))
    if place.pictures is not None:
        gone = [str(one.task.path) for one in chosen if not (place.pictures / str(one.task.path)).is_file()]
        if gone:
            raise UsageError(f"--with-draft: no longer below {place.pictures}: {', '.join(gone)}")
    return finals


def _axis_names(chosen: Iterable[Chosen]) -> dict[str, str]:
    """Axes of the drafts' own -> what they are called here: some names mean another column."""
    names = dict.fromkeys(name for one in chosen for name in one.task.axes if name != "model")
    result: dict[str, str] = {}
    for name in names:
        new = name
        while new in result.values() or new.lower() in _COLUMNS or (new != name and new in names):
            new = f"axis_{new}"
        result[name] = new
    return result


def _recipe(recipe: Recipe, changes: Changes) -> Recipe:
    model = changes.model or recipe.model
    entry = builtin().find(model)
    if changes.thinking is not None:
        return replace(recipe, model=model, thinking=_read("thinking", changes.thinking, Thinking(), model))
    if entry is None or recipe.thinking is None or recipe.thinking in entry.thinking:
        return replace(recipe, model=model)
    if entry.thinking:
        raise UsageError(
            f"{model} has no thinking level {recipe.thinking}, which the drafts were made with: "
            f"add --set thinking={entry.thinking_default or entry.thinking[0]}"
        )
    return replace(recipe, model=model, thinking=None)


def _ids(prompts: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The prompt's id where it is the only one, else with the end of the draft's key; never two on one path."""
    folded = [fold(slug(prompt)) for prompt in prompts]
    uses = Counter(folded)
    used = {name for name in folded if uses[name] == 1}
    ids = []
    for prompt, name, key in zip(prompts, folded, keys, strict=True):
        id_ = prompt
        if uses[name] > 1:
            short = f"{prompt}-{key[-8:]}"
            id_ = f"{prompt}-{key}" if fold(slug(short)) in used else short
            used.add(fold(slug(id_)))
        ids.append(id_)
    return ids


# --- what comes of it ---


def _verify(campaign: Campaign, finals: Sequence[Final]) -> None:
    """What was written is read as it was meant."""
    meant = {(one.id, one.draft, one.prompt, one.recipe, one.axes["size"], one.axes["aspect"]) for one in finals}
    read = {(one.prompt_id, one.draft, one.prompt, one.recipe, one.size, one.aspect) for one in campaign.specs}
    if meant != read or len(campaign.specs) != len(finals) * campaign.manifest.variants:
        raise UsageError("the names of these axes cannot be columns of a prompt file: rename them in the drafts")


def _unchanged(chosen: Sequence[Chosen], finals: Sequence[Final]) -> int:
    """How many finals ask for just what their drafts are."""
    return sum(
        (one.task.size, one.task.aspect, one.recipe) == (final.axes["size"], final.axes["aspect"], final.recipe)
        for one, final in zip(chosen, finals, strict=True)
    )


def _notes(campaign: Campaign, planned: Plan, chosen: Sequence[Chosen], same: int) -> Iterator[str]:
    """What a person should hear of, beside what the plan says itself."""
    if same:
        yield f"{same} of them differ in nothing from their drafts: the same would be bought again"
    before = {one.task.key: one.references for one in chosen}
    pairs = [(old, new) for spec in campaign.specs for old, new in _pairs(before, spec)]
    for name in sorted({old.name for old, new in pairs if old.identity != new.identity}):
        yield f"reference {name} is another file now than when the drafts were made"
    if planned.recorded:
        yield f"this ledger has a job {campaign.job} already: {planned.orphaned} of its tasks would be orphaned"


def _pairs(before: Mapping[str, tuple[Reference, ...]], spec: TaskSpec) -> Iterator[tuple[Reference, Reference]]:
    return zip(before[str(spec.draft)], spec.references, strict=False)


def run_command(manifest: Path, options: Options) -> str:
    """The line that runs it, on the same ledger."""
    named = f"./{manifest}" if str(manifest).startswith("-") else str(manifest)
    return command_line("run", named, options, "database", "output", "base_url")


def promoted_object(made: Promoted) -> Json:
    """`promote --json`."""
    planned = plan_object(made.plan)
    return {
        "job": made.plan.campaign.job,
        "drafts": made.plan.campaign.manifest.drafts,
        "manifest": str(made.manifest),
        "prompts": str(made.prompts),
        **{name: planned[name] for name in ("tasks", "projected", "cap", "fits", "account")},
        "notes": [*made.notes, *made.plan.notes],
        "command": made.command,
        "exit_code": 0,
    }
