"""What the page knows of a job: plain values, each text once, and as a script that a page from disk may load.

The page is in `page/`; `model.js` there reads what is written here.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

from runner.app.choice import values_of
from runner.app.views import Json, cap_object, spend_object
from runner.core.budget import Spend
from runner.core.lifecycle import TERMINAL, State
from runner.core.task import Recipe
from runner.ledger import AttemptRecord, JobStatus, Reader, TaskRecord

STATES = (*sorted(TERMINAL, key=list(State).index), *(state for state in State if state not in TERMINAL))
"""What has ended first: that is what people come to see."""
Picture = tuple[str, str]
"""Path below the output root, and sha256."""
T = TypeVar("T")

_AS_THEY_ARE = (
    *("key", "reason", "error", "bytes", "mime", "width", "height", "image_tokens"),
    *("finish_reason", "text", "response_id", "model_version", "draft"),
)
_OF_AN_ATTEMPT = ("number", "lane", "state", "outcome", "reason", "error", "status", "latency_s", "ended_at")


@dataclass(frozen=True, slots=True)
class Shown:
    """A task on the page."""

    task: TaskRecord
    picture: Picture | None
    rejected: bool
    """Whether the picture is not what was ordered."""

    @property
    def words(self) -> str:
        """What a caption says of it: prompt, then whatever else is an axis."""
        values = values_of(self.task)
        return " · ".join([values.pop("prompt"), *(v for k, v in values.items() if k not in {"model", "variant"})])


def shown(reader: Reader, job: str, *, orphaned: bool) -> list[Shown]:
    """The job's tasks in the manifest's order, each with its picture; orphans after them if asked."""
    rejected = {key: (path, sha256) for key, path, sha256 in reader.rejected(job)}
    return [_shown(task, rejected) for task in reader.tasks(job, orphaned=orphaned)]


def _shown(task: TaskRecord, rejected: Mapping[str, Picture]) -> Shown:
    if task.path is not None and task.sha256 is not None:
        return Shown(task, (task.path, task.sha256), rejected=False)
    return Shown(task, rejected.get(task.key), rejected=task.key in rejected)


class _Once(Generic[T]):
    """A list that holds each value once."""

    def __init__(self) -> None:
        self.places: dict[T, int] = {}

    def place(self, value: T) -> int:
        """Where the value is."""
        return self.places.setdefault(value, len(self.places))


class Table:
    """The tasks of a page, and what many of them have in common."""

    def __init__(self, exhibits: Iterable[Shown], reader: Reader, job: str) -> None:
        self._exhibits = list(exhibits)
        keys = [one.task.key for one in self._exhibits]
        self._requests = {key: (recipe, refs) for key, recipe, refs in reader.requests(job, keys)}
        self._attempts: defaultdict[str, list[Json]] = defaultdict(list)
        for attempt in reader.attempts(job):
            self._attempts[attempt.key].append(_attempt(attempt))
        self._axes: dict[str, _Once[str]] = {}
        self._prompts, self._settings = _Once[str](), _Once[Recipe]()

    def as_object(self, thumbnails: Mapping[str, str], missing: frozenset[str]) -> Json:
        """Axes, prompts, settings and tasks.

        `thumbnails` has the file of each sha256 that has one, `missing` the paths where no picture is.
        """
        for one in self._exhibits:  # first all axes: a task says of each where its value is
            for name, value in values_of(one.task).items():
                self._axes.setdefault(name, _Once()).place(value)
        tasks = [self._task(one, thumbnails, missing) for one in self._exhibits]
        return {
            "axes": [{"name": name, "values": list(values.places)} for name, values in self._axes.items()],
            "prompts": list(self._prompts.places),
            "settings": [asdict(recipe) for recipe in self._settings.places],
            "tasks": tasks,
        }

    def _task(self, one: Shown, thumbnails: Mapping[str, str], missing: frozenset[str]) -> Json:
        task = one.task
        recipe, references = self._requests[task.key]
        values = values_of(task)
        facts = {name: getattr(task, name) for name in _AS_THEY_ARE}
        facts |= {
            "at": [axis.place(values[name]) if name in values else -1 for name, axis in self._axes.items()],
            "prompt": self._prompts.place(task.prompt),
            "settings": self._settings.place(recipe),
            "state": task.state.value if task.live else "orphaned",
            "references": [reference.name for reference in references] or None,
            "attempts": self._attempts.get(task.key),
            "rejected": one.rejected or None,
        }
        if one.picture is not None:
            path, sha256 = one.picture
            found = {"path": path, "sha256": sha256, "thumbnail": thumbnails.get(sha256)}
            facts |= {**found, "missing": (path in missing) or None}
        money = {"cost_nanos": task.cost_nanos, "unknown_nanos": task.unknown_nanos}
        return _told(facts) | money  # where money is not known the page must say so: null stays


def _attempt(attempt: AttemptRecord) -> Json:
    facts = {name: getattr(attempt, name) for name in _OF_AN_ATTEMPT}
    settled = attempt.state == "settled"
    return _told(facts) | {"cost_nanos": attempt.cost_nanos if settled else attempt.reserved_nanos}


def _told(facts: Json) -> Json:
    """Without what there is nothing to say of."""
    return {name: value for name, value in facts.items() if value is not None and value != ""}


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a job is: if this is the same, a page would be."""

    tasks: Mapping[State, int]
    spend: Spend
    halted: str | None
    orphaned: int
    live: bool
    """Whether it is being run."""

    @property
    def done(self) -> bool:
        """All has ended that the manifest names, and nobody is at it."""
        return not self.live and all(self.tasks[state] == 0 for state in State if state not in TERMINAL)

    @property
    def over(self) -> bool:
        """Nothing more will come of it unless somebody runs it again."""
        return self.done or (self.halted is not None and not self.live)


def job_facts(status: JobStatus, *, sandbox: bool, moment: Moment, made_at: float) -> Json:
    """The job as a whole."""
    return {
        "job": status.job,
        "sandbox": sandbox,
        "made_at": made_at,
        "spend": spend_object(status.spend, priced=not status.unpriced, counted=not status.uncounted),
        "cap": cap_object(status.cap),
        "running": moment.live,
        "done": moment.done,
        "halted": None if moment.live else status.halted,
        "reason": None if moment.live else status.reason,
        "states": [*(state.value for state in STATES), "orphaned"],
    }


def script(name: str, value: Json | float) -> str:
    """A variable of that name as a script in pure ASCII: no text in it can end a string, a line or an element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # in JSON only within strings, where they may be written so
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'"use strict";\nvar {name} = {text};\n'
