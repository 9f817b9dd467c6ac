"""A service with a Batch API, in driven time: a world of its own that outlives the runs which talk to it.

Its clock runs apart from ours, it keeps a bill of its own, and every fault is scripted by the test.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import anyio.lowlevel

from runner.core.lifecycle import Lost, Pictured, Refused, Reply, Unusable, Usage
from runner.core.remote import (
    START,
    Absent,
    Accepted,
    Creation,
    Declined,
    Failure,
    Found,
    NotNow,
    Place,
    Remote,
    Stats,
    Unsure,
)
from runner.core.task import Assignment
from runner.engine.ports import Sink, Unreadable
from tests.fakes import pictured

Row = tuple[str | None, Reply]
"""Key and answer of a line of the results."""
INPUT, TEXT, IMAGE = 125, 750, 30_000
"""Nano-dollars a token in a batch; the standard lane costs twice that."""


@dataclass
class End:
    """How a job ends by itself."""

    state: str = "SUCCEEDED"
    after_s: float = 600.0
    error: Failure | None = None
    does: int | None = None
    """How many of its requests are carried out, in their order; None: all."""
    shows: bool = True
    """Whether what was done can be read."""
    tells: bool = True
    """Whether it says how many that are."""
    away: Sequence[tuple[float, float]] = ()
    """From when to when the service does not know of the job."""


@dataclass
class Job:
    """A job as the service has it."""

    name: str
    display_name: str
    model: str
    items: Sequence[tuple[str, Assignment]]
    made_at: float
    end: End = field(default_factory=End)
    rows: list[Row] = field(default_factory=list)
    state: str = "PENDING"
    cancelled_at: float | None = None
    reads: int = 0

    @property
    def token(self) -> str:
        """What its display name ends with."""
        return self.display_name.rpartition("-")[2]

    @property
    def gone(self) -> bool:
        """Whether the service does not know of it now."""
        return any(begin <= anyio.current_time() < end for begin, end in self.end.away)

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state not in {"PENDING", "RUNNING", "CANCELLING"}


@dataclass
class Line:
    """`ResultLine`."""

    key: str | None
    reply: Reply
    after: Place

    async def pour(self, sink: Sink) -> None:
        """The picture."""
        sink.restart("image/png")
        sink.write(b"picture")


def cost(reply: Reply, factor: int = 1) -> int:
    """What an answer costs, reckoned here and not by the runner."""
    if not isinstance(reply, Pictured | Refused | Unusable):
        return 0
    usage = reply.answer.usage or Usage()
    image = usage.image or 0
    return factor * (usage.prompt * INPUT + (usage.candidates - image + usage.thoughts) * TEXT + image * IMAGE)


@dataclass
class BatchService:
    """`Batches`, and `Provider` beside it. Scripts are given the instant, in seconds of the loop's clock."""

    says: Callable[[Assignment, int], Reply] = lambda _task, _seen: pictured()
    """Task, how many times its key was answered -> answer."""
    ends: Callable[[Job], End] = lambda _job: End()
    shape: Callable[[Job, list[Row]], Iterable[Row]] = lambda _job, rows: rows
    """What the results look like in the end."""
    on_upload: Callable[[int, Sequence[str]], Exception | None] = lambda _n, _keys: None
    on_create: Callable[[int, float], Literal["lost", "never"] | NotNow | Declined | None] = lambda _n, _now: None
    """`lost`: the job is made, and the answer lost. `never`: it is not, and nobody can tell."""
    on_get: Callable[[Job, float], Remote | Absent | NotNow | Declined | None] = lambda _job, _now: None
    on_find: Callable[[int, float], NotNow | Declined | None] = lambda _n, _now: None
    on_cancel: Callable[[Job, float], NotNow | Declined | None] = lambda _job, _now: None
    breaks: Callable[[Job, int], tuple[int, bool] | None] = lambda _job, _n: None
    """Job, how many times its results were asked for -> after how many lines they break, whether that passes."""
    foreign: Callable[[float], bool] = lambda _now: False
    """Whether the key is of a project that did not make any of this."""
    listed_after_s: float = 0.0
    cancel_s: float | None = 60.0
    """Until a cancel takes effect; None: it never does."""
    latency_s: float = 1.0
    standard_s: float = 10.0
    line_s: float = 0.0
    rate: float = 1.0
    """How fast its clock runs."""
    before: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
    """Called when anything is asked or answered."""
    jobs: list[Job] = field(default_factory=list)
    files: dict[str, Sequence[tuple[str, Assignment]]] = field(default_factory=dict)
    asked: list[tuple[float, str]] = field(default_factory=list)
    """What was asked for, and when."""
    seen: Counter[str] = field(default_factory=Counter)
    """Tasks by key: how often they were carried out."""
    sent: list[Assignment] = field(default_factory=list)
    """In the standard lane."""
    billed: list[int] = field(default_factory=list)

    # --- what tests look at ---

    def count(self, kind: str) -> int:
        """How often something was asked for."""
        return sum(asked == kind for _, asked in self.asked)

    def times(self, kind: str) -> list[float]:
        """When."""
        return [at for at, asked in self.asked if asked == kind]

    def utc(self) -> float:
        """Its clock."""
        return 1_900_000_000.0 + self.rate * anyio.current_time()

    # --- the port ---

    @asynccontextmanager
    async def _call(self, kind: str) -> AsyncIterator[None]:
        """Time passes before and after anything takes effect."""
        await self.before()
        self.asked.append((anyio.current_time(), kind))
        await anyio.sleep(self.latency_s / 2)
        yield
        await anyio.sleep(self.latency_s / 2)
        await self.before()

    async def upload(self, _token: str, items: Sequence[tuple[str, Assignment]]) -> str:
        async with self._call("upload"):
            if (failure := self.on_upload(self.count("upload"), [key for key, _ in items])) is not None:
                raise failure
            name = f"files/{len(self.files) + 1}"
            self.files[name] = tuple(items)
        return name

    async def create(self, model: str, display_name: str, file: str) -> Creation:
        async with self._call("create"):
            told = self.on_create(self.count("create"), anyio.current_time())
            if isinstance(told, NotNow | Declined):
                return told
            if told != "never":
                job = Job(
                    f"batches/{len(self.jobs) + 1}", display_name, model, self.files[file], anyio.current_time()
                )
                job.end = self.ends(job)
                self.jobs.append(job)
        return Unsure(Lost("connection_broken", "the wire broke")) if told is not None else self._remote(job)

    async def get(self, name: str) -> Remote | Absent | Declined | NotNow:
        async with self._call("get"):
            job = self._job(name)
            if job is None or job.gone or self.foreign(anyio.current_time()):
                return Absent(f"{name} not found", self.utc())
            return self.on_get(job, anyio.current_time()) or self._remote(job)

    async def find(self, display_name: str) -> Found | Declined | NotNow:
        async with self._call("find"):
            seen_utc = self.utc()
            if (told := self.on_find(self.count("find"), anyio.current_time())) is not None:
                return told
            listed = [
                job
                for job in self.jobs
                if not (job.gone or self.foreign(anyio.current_time()))
                and job.made_at + self.listed_after_s <= anyio.current_time()
            ]
            found = tuple(self._remote(job) for job in listed if job.display_name == display_name)
        return Found(found, seen_utc, len(listed))

    async def shows(self, file: str) -> bool | None:
        async with self._call("file"):
            return None if file not in self.files else not self.foreign(anyio.current_time())

    async def listing(self) -> tuple[Remote, ...]:
        async with self._call("listing"):
            return tuple(self._remote(job) for job in self.jobs if not job.gone)

    async def cancel(self, name: str) -> Accepted | Absent | Declined | NotNow:
        async with self._call("cancel"):
            job = self._job(name)
            if job is None or job.gone:
                return Absent(f"{name} not found")
            if (told := self.on_cancel(job, anyio.current_time())) is not None:
                return told
            self._live(job)
            if not job.over and job.cancelled_at is None:
                job.cancelled_at, job.state = anyio.current_time(), "CANCELLING"
        return Accepted()

    @asynccontextmanager
    async def results(self, file: str, _model: str, place: Place = START) -> Any:
        async with self._call("results"):
            job = next(one for one in self.jobs if file == _results(one))
        job.reads += 1
        yield self._lines(job, place.lines, self.breaks(job, job.reads))

    async def _lines(self, job: Job, start: int, breaks: tuple[int, bool] | None) -> AsyncIterator[Line]:
        if not job.end.shows:
            raise Unreadable(f"{_results(job)} not found", passing=False)
        for number, (key, reply) in enumerate(job.rows[start:], start):
            if breaks is not None and number - start >= breaks[0]:
                raise Unreadable("the download broke", passing=breaks[1])
            await anyio.sleep(self.line_s)
            await self.before()
            yield Line(key, reply, Place(number + 1, 0, ""))
            await self.before()

    async def render(self, task: Assignment, sink: Sink, left: Callable[[], None]) -> Reply:
        """The standard lane."""
        await self.before()
        left()
        self.sent.append(task)
        await anyio.sleep(self.standard_s)
        reply = self._answer(task, 2)
        await self.before()
        if isinstance(reply, Pictured):
            sink.restart(reply.mime)
            sink.write(b"picture")
        return reply

    # --- the world ---

    def _job(self, name: str) -> Job | None:
        return next((one for one in self.jobs if one.name == name), None)

    def _live(self, job: Job) -> None:
        """Let happen what has happened by now."""
        now, end = anyio.current_time(), job.end
        if job.over:
            return
        if job.cancelled_at is not None and self.cancel_s is not None and now >= job.cancelled_at + self.cancel_s:
            ran_s = job.cancelled_at + self.cancel_s - job.made_at
            did = int(len(job.items) * min(1.0, ran_s / end.after_s)) if end.does is None else end.does
            self._finish(job, "CANCELLED", did)
        elif now >= job.made_at + end.after_s:
            self._finish(job, end.state, len(job.items) if end.does is None else end.does)
        elif now >= job.made_at + end.after_s / 4 and job.state == "PENDING":
            job.state = "RUNNING"

    def _finish(self, job: Job, state: str, did: int) -> None:
        rows: list[Row] = [(key, self._answer(task)) for key, task in job.items[:did]]
        job.state, job.rows = state, list(self.shape(job, rows)) if job.end.shows else rows

    def _answer(self, task: Assignment, factor: int = 1) -> Reply:
        self.seen[task.key] += 1
        reply = self.says(task, self.seen[task.key])
        self.billed.append(cost(reply, factor))
        return reply

    def _remote(self, job: Job) -> Remote:
        self._live(job)
        answered = sum(isinstance(reply, Pictured | Refused | Unusable) for _, reply in job.rows)
        asked = len(job.items)
        stats = Stats(asked, 0 if job.over else asked, answered, len(job.rows) - answered)
        began_utc = self.utc() - self.rate * (anyio.current_time() - job.made_at)
        return Remote(
            job.name,
            job.display_name,
            job.state,
            created_utc=began_utc,
            stats=stats if job.end.tells else Stats(),
            responses_file=_results(job) if job.over and job.rows and job.end.shows else None,
            error=job.end.error if job.over and job.state == job.end.state else None,
            model=job.model,
            seen_utc=self.utc(),
        )


def _results(job: Job) -> str:
    return f"files/batch-{job.name.removeprefix('batches/')}"
