"""What goes on between requests: the lines of batch jobs are answered one after the other as their time comes.

Each is noted, drawn, put on the bill and written down, in this order. A sandbox that is killed anywhere in between
finds the note, draws the same again, and neither bills nor writes it twice.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from runner.core.catalog import builtin
from runner.sandbox.answer import answer
from runner.sandbox.books import Act, Begun, Books, Place
from runner.sandbox.chance import Chance
from runner.sandbox.clock import Clock
from runner.sandbox.draw import draw_line
from runner.sandbox.errors import ApiError
from runner.sandbox.job import Job
from runner.sandbox.jobs import Jobs, Work
from runner.sandbox.line import read, refusal, result
from runner.sandbox.options import Options
from runner.sandbox.reference import Find
from runner.sandbox.request import Asked, understand

PATIENCE_S = 2
"""How long an answer waits for what should be done by now, in seconds of the wall."""
SHORTEST_S, LONGEST_S = 0.01, 1.0
"""Between two looks at the clock while a job goes on: nothing wakes a sandbox whose clock is driven by a test."""


class Renderer:
    """Carries out the jobs of one sandbox, in the background of its requests."""

    def __init__(self, options: Options, clock: Clock, books: Books, jobs: Jobs, find: Find) -> None:
        """`find` knows the files that requests name."""
        self._options, self._clock, self._books, self._jobs, self._find = options, clock, books, jobs, find
        self._work: dict[str, Work] = {}
        self._failed: dict[str, int] = {}
        self._wanted, self._idle = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; call on the event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop between two lines."""
        if self._task:
            self._task.cancel()
            # What broke the work was the answer to whoever asked for it.
            await asyncio.gather(self._task, return_exceptions=True)
        for work in self._work.values():
            work.close()

    async def catch_up(self) -> None:
        """Wait until all is done whose time has come, or for PATIENCE_S. Raises what broke the work, OSError."""
        self._idle.clear()
        self._wanted.set()
        if self._task and not self._task.done():
            idle = asyncio.create_task(self._idle.wait())
            await asyncio.wait({idle, self._task}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
        if self._task and self._task.done():
            self._task.result()

    def done(self, job: Job) -> tuple[int, int]:
        """Lines that are done: by success and failure."""
        if job.finished:
            return job.succeeded, job.failed
        work = self._work.get(job.id)
        failed = self._failed.get(job.id, 0)
        return (work.done - failed if work else 0), failed

    async def _run(self) -> None:
        while True:
            self._wanted.clear()
            await self._pass()
            if not self._wanted.is_set():
                self._idle.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._pause_s())

    def _pause_s(self) -> float | None:
        """Seconds of the wall until the next line or end; None where there is nothing to wait for."""
        now = self._clock.read().clock
        events = [job.next_event(sum(self.done(job))) for job in self._jobs.unfinished()]
        if not events:
            return None
        return min(max((min(events) - now) / self._options.speed, SHORTEST_S), LONGEST_S)

    async def _pass(self) -> None:
        """Do whatever is due, a line of each job in turn."""
        busy = True
        while busy:
            busy = False
            for job in self._jobs.unfinished():
                busy |= self._step(job)
                await asyncio.sleep(0)

    def _step(self, job: Job) -> bool:
        """One line or the end of a job, if that is due."""
        job, now = self._jobs[job.id], self._clock.read().clock
        work = self._opened(job)
        if work.done < job.due(now):
            self._render(job, work)
            return True
        if now >= job.ends and not job.finished:
            self._finish(job, work)
        return False

    def _opened(self, job: Job) -> Work:
        if job.id not in self._work:
            self._work[job.id] = work = Work(self._jobs, job)
            self._failed[job.id] = self._books.failed(job.name, work.done)
        return self._work[job.id]

    def _finish(self, job: Job, work: Work) -> None:
        failed = self._failed.pop(job.id)
        ended = replace(job, finished=True, succeeded=work.done - failed, failed=failed)
        # The log first: a kill in between is no reason to note it twice, but the log must not lack it.
        if not self._books.noted("finish", job.name):
            act = Act("finish", job.name, job.display_name, job.total, ended.state(job.ends))
            self._books.batched(self._clock.read(), act, "done")
        self._jobs.keep(ended)
        work.close()
        del self._work[job.id]

    # --- one line ------------------------------------------------------------------------------------------------

    def _render(self, job: Job, work: Work) -> None:
        number, raw = work.request()
        line = read(raw, number)
        place = Place(job.name, work.done, line.key)
        model = builtin().models[job.model]
        form = next(
            (fault for fault in job.faults if fault in {"batch_key_in_metadata", "batch_status_lines"}), None
        )
        chance = Chance(self._options.seed, job.id, place.line)
        begun = self._books.begun(place)
        try:
            asked = understand(model, line.request, self._find)
        except ApiError as error:
            code, message = refusal(error)
            begun = begun or self._books.begin(
                place, job.model, None, status=f"http_{error.code}", seen=None, code=code
            )
            self._keep(job, work, begun, result(line, (code, message), chance, form))
            return
        self._keep(
            job, work, *self._drawn(job, place, asked, begun, lambda body: result(line, body, chance, form))
        )

    def _keep(self, job: Job, work: Work, begun: Begun, found: bytes) -> None:
        work.keep(found)
        self._failed[job.id] += begun.failed

    def _drawn(
        self, job: Job, place: Place, asked: Asked, begun: Begun | None, shaped: Callable[..., bytes]
    ) -> tuple[Begun, bytes]:
        """Draw a line, put it on the bill; its result."""
        seen = (begun and begun.seen) or self._books.seen(asked) + 1
        drawn, error = draw_line(asked, seen, self._options)
        if begun is None:
            code = error[0] if error else None
            begun = self._books.begin(place, job.model, asked, status=drawn.outcome, seen=seen, code=code)
        if error:
            return begun, shaped(error)
        reply = answer(drawn.sample, drawn.fault)
        if drawn.charge:
            self._books.bill(
                drawn.sample, drawn.charge, arrival=begun.arrival, outcome=drawn.outcome,
                answered=not job.dropped(place.line), sha256=reply.sha256, place=place,
            )  # fmt: skip
        return begun, shaped(reply.body)
