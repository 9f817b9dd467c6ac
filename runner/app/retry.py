"""Tasks go back into the queue, once somebody has heard what they will cost. Buys nothing.

Those that were refused or failed; or, if that is said, those whose pictures were paid for and are lost since.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio

from runner.adapters.storage import FolderStore
from runner.app.campaign import Cost, cost_of, plus
from runner.app.choice import MOST_VALUES, SHORTEST, Chosen, condition, hits, values_of
from runner.app.pricebook import PriceBook, price_book
from runner.app.promote import run_command
from runner.app.settings import Options, output_folder, resolve
from runner.app.views import Json, cap_object
from runner.core.budget import Cap, Spend, about, dollars, fits
from runner.core.errors import UsageError
from runner.core.lifecycle import GONE, State
from runner.core.pricing import Quote, Sight, seen_at
from runner.core.shape import guess, listed
from runner.ledger import JobStatus, Ledger, Reader, TaskRecord

AGAIN = (State.REFUSED, State.FAILED)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tasks are meant: those that fit all that is given. Nothing given: all refused and failed ones."""

    states: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    """`AXIS=VALUE`."""
    keys: tuple[str, ...] = ()
    """A key, the start of one, or a path."""
    gone: bool = False
    """Of those that succeeded the ones whose picture is no longer on disk, instead."""


@dataclass(frozen=True, slots=True)
class Retried:
    """What goes back, and what it will cost."""

    job: str
    tasks: int = 0
    kinds: Mapping[tuple[State, str], int] = field(default_factory=dict)
    """Tasks by state and reason."""
    likely_nanos: int | None = 0
    """At one try each; None at unknown prices."""
    worst_nanos: int | None = 0
    image_tokens: int | None = 0
    unknown_nanos: int | None = 0
    """What earlier attempts of them hold, and go on holding."""
    paid_nanos: int | None = 0
    """What pictures of them that are lost have cost."""
    cap: Cap = field(default_factory=Cap)
    over: tuple[str, ...] = ()
    """Whose cap they would pass at worst."""
    command: str = ""
    """The line that buys them; empty where nobody knows the manifest."""

    @property
    def fits(self) -> bool:
        """Whether the worst case fits every cap."""
        return not self.over


def retry(
    job: str,
    selection: Selection,
    options: Options,
    environment: Mapping[str, str],
    agree: Callable[[Retried], bool],
) -> Retried:
    """Put the chosen back, once `agree` has heard what they will cost. Holds the job's lock meanwhile.

    Raises UsageError for a choice that cannot be meant, or if it was not agreed to; JobLockedError if the job is
    being run.
    """
    settings = resolve(options, environment)
    if not Ledger.exists(settings.database):
        Ledger.read(settings.database)  # which says what to do
    with Ledger.open(settings.database, settings.kind, now_utc=time.time()) as ledger:
        _refuse_unknown_job(ledger.reader, job)
        with ledger.lock_job(job):
            tasks = choose(ledger.reader, job, selection, options)
            found = _priced(ledger.reader, job, tasks, options)
            if not tasks:
                return found
            if not agree(found):
                raise UsageError("not confirmed: nothing was put back")
            if selection.gone:
                _drop_sidecars(_store(ledger.reader, job, options), tasks)
            keys = [task.key for task in tasks]
            anyio.run(partial(ledger.retry, job, keys, now=time.time(), gone=selection.gone))
            return found


def _refuse_unknown_job(reader: Reader, job: str) -> None:
    names = reader.job_names()
    if job not in names:
        raise UsageError(f"no job {job!r} in this ledger; it has: {', '.join(names) or 'none'}")


# --- which ---


def choose(reader: Reader, job: str, selection: Selection, options: Options) -> list[TaskRecord]:
    """The tasks that are meant, in the manifest's order; none only if there is nothing of their kind at all."""
    if selection.gone and (selection.states or selection.reasons):
        raise UsageError("--gone is about tasks that succeeded: leave --state and --reason out")
    for state in selection.states:
        if state not in AGAIN:
            raise UsageError(f"--state {state}: only {listed(AGAIN)} tasks can be tried again")
    conditions = [condition(text) for text in selection.where]
    named = _named(reader, job, selection.keys, (State.SUCCEEDED,) if selection.gone else AGAIN)
    if selection.gone:
        ended = _gone(reader, job, options, narrowed=bool(named or conditions))
    else:
        ended = [task for task in reader.tasks(job) if task.state in AGAIN]
    if not ended:
        return []
    _refuse_unknown_values(ended, selection, conditions)
    chosen = [
        task
        for task in ended
        if (not named or task.key in named)
        and (not selection.states or task.state in selection.states)
        and (not selection.reasons or task.reason in selection.reasons)
        and all(values_of(task).get(name) == value for name, value in conditions)
    ]
    if not chosen:
        raise UsageError(f"no task fits all of that; {_what_there_is(ended)}")
    return chosen


def _gone(reader: Reader, job: str, options: Options, *, narrowed: bool) -> list[TaskRecord]:
    """Those that succeeded and whose pictures are not there.

    A disk that is not mounted must not look like 5,000 pictures to buy again: if all are missing, UsageError
    unless the choice is `narrowed`.
    """
    made = [task for task in reader.tasks(job) if task.state is State.SUCCEEDED]
    store = _store(reader, job, options)
    missing = set(store.missing([task.path for task in made if task.path]))
    if made and len(missing) == len(made) and not narrowed:
        raise UsageError(
            f"{store.root}: none of the {len(made)} pictures of job {job} is there. Mount the disk, or name the "
            "right folder with --output; if all are lost, say by --where or --key which to buy again"
        )
    return [task for task in made if task.path in missing]


def _store(reader: Reader, job: str, options: Options) -> FolderStore:
    recorded = reader.status(job, since_utc=0).output_root
    return FolderStore(Path(recorded) if options.output is None else output_folder(options.output))


def _drop_sidecars(store: FolderStore, tasks: Sequence[TaskRecord]) -> None:
    """Before the ledger forgets where they lie: what a lost picture has left would be in the new one's way."""
    for task in tasks:
        if task.path is not None:
            store.supersede(task.key, task.path)


def _named(reader: Reader, job: str, words: Sequence[str], states: Collection[State]) -> set[str]:
    """The keys that are meant; UsageError with everything that is wrong with them at once."""
    if not words:
        return set()
    found = hits(reader.tasks(job, orphaned=True), set(words))
    problems = [f"--key {word}: {why}" for word in words if (why := _why_not(job, found[word], states))]
    if problems:
        raise UsageError("\n".join(problems))
    return {found[word][0].key for word in words}


def _why_not(job: str, found: Sequence[TaskRecord], states: Collection[State]) -> str | None:
    if not found:
        return f"job {job} has no such task: expected its key, {SHORTEST} or more characters of it, or its path"
    if len(found) > 1:
        return f"is ambiguous: it may be {listed([task.key for task in found[:MOST_VALUES]], 'and')}"
    [task] = found
    if not task.live:
        return "the manifest no longer names it: put it back there, and run that"
    if task.state in states:
        return None
    lost = "; with --gone one that succeeded, and whose picture is lost" if task.state is State.SUCCEEDED else ""
    return f"is {task.state.value}: only {listed(states)} tasks can be tried again{lost}"


def _refuse_unknown_values(
    ended: Sequence[TaskRecord], selection: Selection, conditions: Sequence[tuple[str, str]]
) -> None:
    reasons = {task.reason for task in ended}
    for reason in selection.reasons:
        if reason not in reasons:
            raise UsageError(f"--reason {reason}: no task has it{guess(reason, reasons)}; {_what_there_is(ended)}")
    axes = {name: None for task in ended for name in values_of(task)}
    for name, value in conditions:
        if name not in axes:
            raise UsageError(f"--where {name}={value}: unknown axis {name!r}{guess(name, axes)}")


def _what_there_is(ended: Sequence[TaskRecord]) -> str:
    return f"there are {', '.join(_words(_kinds(ended)))}"


def _kinds(tasks: Sequence[TaskRecord]) -> Mapping[tuple[State, str], int]:
    return dict(Counter((task.state, _reason(task)) for task in tasks).most_common())


def _reason(task: TaskRecord) -> str:
    return GONE if task.state is State.SUCCEEDED else task.reason


def _words(kinds: Mapping[tuple[State, str], int]) -> Iterator[str]:
    return (f"{count} {state.value} ({reason})" for (state, reason), count in kinds.items())


# --- for how much ---


def _priced(reader: Reader, job: str, tasks: Sequence[TaskRecord], options: Options) -> Retried:
    status = reader.status(job, since_utc=0)
    book = price_book(status.config)
    likely: int | None = 0
    worst: int | None = 0
    image_tokens: int | None = 0
    unknown: int | None = 0
    paid: int | None = 0
    seen = reader.seen()
    for one in _chosen(reader, job, tasks):
        worth = _worth(one, book, seen)
        likely, worst = plus(likely, worth.likely), plus(worst, worth.quote.nanos)
        image_tokens = plus(image_tokens, worth.quote.image_tokens)
        unknown = plus(unknown, one.task.unknown_nanos)
        paid = plus(paid, one.task.cost_nanos if one.task.state is State.SUCCEEDED else 0)
    manifest = status.config.get("manifest")
    return Retried(
        job=job,
        tasks=len(tasks),
        kinds=_kinds(tasks),
        likely_nanos=likely,
        worst_nanos=worst,
        image_tokens=image_tokens,
        unknown_nanos=unknown,
        paid_nanos=paid,
        cap=status.cap,
        over=tuple(_over(status, Quote(worst, image_tokens, 0, 0))),
        command=run_command(Path(str(manifest)), options) if manifest else "",
    )


def _chosen(reader: Reader, job: str, tasks: Sequence[TaskRecord]) -> Iterator[Chosen]:
    known = {task.key: task for task in tasks}
    for key, recipe, references in reader.requests(job, known):
        yield Chosen(known[key], recipe, references)


def _worth(one: Chosen, book: PriceBook, seen: Mapping[Sight, int]) -> Cost:
    """What one try of it costs, as a plan reckons."""
    lane = "batch" if book.manifest is not None and book.manifest.lane == "batch" else "standard"
    recipe, size = one.recipe, one.task.size
    return cost_of(
        book.coming(recipe.model, lane).sheet,
        size,
        recipe.thinking,
        len(one.task.prompt.encode()) + len((recipe.system or "").encode()),
        len(one.references),
        seen_at(seen, recipe.model, size, recipe.thinking),
    )


def _over(status: JobStatus, whole: Quote) -> Iterator[str]:
    holders: list[tuple[str, Spend, Cap]] = [("the cap of the job", status.spend, status.cap)]
    if status.account is not None:
        holders.append((f"the cap of account {status.account.name}", status.account.spend, status.account.cap))
    return (f"{whose}, {cap.words()}" for whose, spend, cap in holders if not fits(spend, cap, whole))


def lines(found: Retried) -> Iterator[str]:
    """What is about to go back, for people."""
    yield f"job {found.job}: {found.tasks} tasks to try again: {', '.join(_words(found.kinds))}"
    if found.likely_nanos is None or found.worst_nanos is None:
        yield "  what they cost is not known: no prices"
    else:
        yield f"  at one try each likely ${about(found.likely_nanos)}, up to ${about(found.worst_nanos)}"
    if found.paid_nanos:
        paid = dollars(found.paid_nanos)
        yield f"  their pictures were paid for and are lost: ${paid} stays spent; to put back a copy is free"
    if found.unknown_nanos:
        held = dollars(found.unknown_nanos)
        yield f"  earlier requests for them may have been bought: ${held} stays held, and they may be bought twice"
    for whose in found.over:
        yield f"  at worst they do not fit {whose}: `run` stops there"


def retried_object(found: Retried) -> Json:
    """`retry --json`."""
    return {
        "job": found.job,
        "tasks": found.tasks,
        "by": [{"state": state.value, "reason": reason, "tasks": n} for (state, reason), n in found.kinds.items()],
        "projected": {
            "usd": _usd(found.likely_nanos),
            "max_usd": _usd(found.worst_nanos),
            "image_tokens": found.image_tokens,
        },
        "unknown_usd": _usd(found.unknown_nanos),
        "cap": cap_object(found.cap),
        "fits": found.fits,
        "command": found.command or None,
        "exit_code": 0,
    }


def _usd(nanos: int | None) -> str | None:
    return None if nanos is None else dollars(nanos)
