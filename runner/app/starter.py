"""`init`: a first manifest that plans cleanly, from nothing, a file of prompts or a folder of pictures."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runner.adapters.material import Material
from runner.app.campaign import Campaign, load
from runner.app.first import Cost, First, Source, cap_for, manifest_text
from runner.app.prompt_table import look
from runner.app.settings import Options, Settings, resolve
from runner.app.views import Json
from runner.core.budget import dollars
from runner.core.catalog import Model, builtin
from runner.core.errors import RunnerError, UsageError
from runner.core.paths import slug
from runner.core.sources import kind_of, rows

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif"})
"""What the service takes as a reference."""
MOST_REFERENCES = 1_000
SCHEMA = "bulkrender.schema.json"


@dataclass(frozen=True, slots=True)
class Start:
    """What a first manifest is to be made from; None is not given."""

    to: Path | None = None
    prompts: Path | None = None
    references: Path | None = None
    job: str | None = None
    model: str | None = None
    force: bool = False
    """A file that is there is overwritten."""


@dataclass(frozen=True, slots=True)
class Started:
    """The manifest as it was written."""

    manifest: Path
    job: str
    cost: Cost
    notes: tuple[str, ...]
    command: str
    """To type next: it renders the job without key and money."""

    def as_object(self) -> Json:
        """`init --json`."""
        cost = self.cost
        return {
            "job": self.job,
            "manifest": str(self.manifest),
            "tasks": cost.tasks,
            "projected": {"usd": _usd(cost.likely_nanos), "max_usd": _usd(cost.worst_nanos)},
            "cap": {"usd": _usd(cost.cap_nanos)},
            "notes": list(self.notes),
            "command": self.command,
            "exit_code": 0,
        }


def model_to_start_with() -> Model:
    """The newest model that is neither retired nor on its way out, and whose prices prove a cap."""
    fit = [one for one in builtin().models.values() if one.status == "stable" and one.prices.complete]
    return max(fit, key=lambda one: one.released or "")


def init(start: Start, environment: Mapping[str, str]) -> Started:
    """Write it, if a plan of it is clean. Raises RunnerError, and nothing has changed then."""
    settings = resolve(Options(sandbox=True), environment)
    job = start.job or _name(start)
    to = start.to or Path("jobs") / f"{slug(job).lstrip('.') or 'first'}.yaml"
    _check(to, force=start.force)
    made = _folders(to.parent)
    try:
        first = _first(start, job, to)
        campaign, cost = _written(first, to, settings)
    except BaseException as error:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise UsageError(f"{to}: cannot be written: {(error.strerror or str(error)).lower()}") from None
        raise
    command = shlex.join(["bulkrender", "run", f"./{to}" if str(to).startswith("-") else str(to), "--sandbox"])
    return Started(to, first.job, cost, campaign.notes, command)


def _name(start: Start) -> str:
    """Of the job, after what it is made from."""
    if start.to is not None:
        return start.to.stem
    given = start.prompts or start.references
    return "first" if given is None else given.resolve().stem or "first"


def _check(to: Path, *, force: bool) -> None:
    if to.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"{to}: expected a file that ends with .yaml")
    if os.path.lexists(to) and not force:
        raise UsageError(f"{to} is already there: name another file, or --force to overwrite it")
    if to.is_dir():
        raise UsageError(f"{to}: is a folder")


def _folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; which were made, the deepest first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {(error.strerror or str(error)).lower()}") from None
    return missing


def _first(start: Start, job: str, to: Path) -> First:
    entry = model_to_start_with() if start.model is None else builtin().find(start.model)
    return First(
        job=job,
        manifest=shlex.quote(str(to)),
        model=start.model or model_to_start_with().id,
        entry=entry,
        source=None if start.prompts is None else _source(start.prompts, to.parent),
        references=() if start.references is None else tuple(_pictures(start.references, to.parent)),
        folder="" if start.references is None else str(start.references),
        schema=SCHEMA if (to.parent / SCHEMA).is_file() else None,
    )


def _source(path: Path, folder: Path) -> Source:
    """A file of prompts, read once to the end."""
    kind = kind_of(path.name)
    if kind is None:
        raise UsageError(f"--from {path}: expected a .csv, .tsv, .jsonl or .txt file")
    try:
        table = look(rows(str(path), kind, Material(Path()).blocks(str(path))))
    except OSError as error:
        raise UsageError(f"--from {path}: {(error.strerror or str(error)).lower()}") from None
    return Source(_relative(path, folder), table)


def _pictures(folder: Path, base: Path) -> Iterator[str]:
    try:
        found = sorted(one for one in folder.iterdir() if one.suffix.lower() in PICTURES and one.is_file())
    except OSError as error:
        raise UsageError(f"--references {folder}: {(error.strerror or str(error)).lower()}") from None
    shown = [one for one in found if not one.name.startswith(".")]
    if not shown:
        raise UsageError(f"--references {folder}: no pictures in it (.png, .jpg, .webp, .heic)")
    if len(shown) > MOST_REFERENCES:
        raise UsageError(
            f"--references {folder}: {len(shown)} pictures, more than {MOST_REFERENCES}: list them in a CSV file "
            "with a column references, and use --from"
        )
    return (_relative(one, base) for one in shown)


def _relative(path: Path, folder: Path) -> str:
    """A path as a manifest in that folder names it."""
    if path.is_absolute():
        return str(path)
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _written(first: First, to: Path, settings: Settings) -> tuple[Campaign, Cost]:
    """Written beside first, and planned: a manifest that is not right never gets its name."""
    part = to.with_name(f".{to.name}.part")
    try:
        part.write_text(manifest_text(first, None), encoding="utf-8")
        cost = _cost(load(part, settings))
        part.write_text(manifest_text(first, cost), encoding="utf-8")
        load(part, settings)
        part.replace(to)
    except RunnerError as error:
        raise UsageError(f"nothing was written:\n{_named(str(error), part, to)}") from None
    finally:
        part.unlink(missing_ok=True)
    return load(to, settings), cost


def _named(message: str, part: Path, to: Path) -> str:
    return re.sub(rf"{re.escape(str(part))}(:\d+:\d+)?", str(to), message)


def _cost(campaign: Campaign) -> Cost:
    tasks, likely, worst, known = 0, 0, 0, True
    for spec in campaign.specs:
        probable, quote = campaign.likely(spec), campaign.at_worst(campaign.worth(spec))
        tasks += 1
        known = known and probable is not None and quote.nanos is not None
        likely += probable or 0
        worst += quote.nanos or 0
    return Cost(tasks, likely, worst, cap_for(worst)) if known else Cost(tasks, None, None, None)


def _usd(nanos: int | None) -> str | None:
    return None if nanos is None else dollars(nanos)
