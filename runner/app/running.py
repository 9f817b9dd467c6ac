"""A run: lock, mend, record, arrange, render, account. One job after another, each with its own lock and cap."""

import logging
import secrets
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio

from runner.adapters.library import Holdings, Library
from runner.adapters.storage import FolderStore
from runner.app.campaign import Campaign, refuse_shared_paths
from runner.app.clients import Clients, batching, clients_of, endpoint, library
from runner.app.finish import Outlook
from runner.app.plan import Plan, plan, price_line, resolved
from runner.app.recorded import config_of
from runner.app.settings import Settings
from runner.app.signals import heed_signals
from runner.core.catalog import builtin
from runner.core.errors import (
    DeclinedError,
    InterruptedRunError,
    LocalFailureError,
    OutputError,
    RunnerError,
    UsageError,
)
from runner.core.forecast import Batch
from runner.core.lifecycle import State
from runner.core.task import Cell, TaskSpec
from runner.engine.clock import LoopClock
from runner.engine.deadline import Deadline
from runner.engine.pool import BatchTerms, Ending, Pool, Terms
from runner.engine.ports import References
from runner.engine.rescue import Rescue, Rescued
from runner.ledger import Enqueued, JobSpec, JobStatus, Ledger, OutcomeRow, Reader, Wish

log = logging.getLogger("bulkrender")

RECENT_S = 60.0
"""Window of the rate that progress shows."""


class Face(Protocol):
    """Who watches a run: prints, asks, shows progress. It never decides about money."""

    def announce(self, plan: Plan, *, ask: bool) -> bool:
        """Say what a run will buy and cost, and ask where there is somebody; False if they do not want it."""

    def mended(self, rescued: Rescued) -> None:
        """Say what a crash had left behind."""

    def interrupted(self, in_flight: int, batches: int) -> None:
        """Say that an interrupt was heard, what it waits for, and how many batches go on remotely."""

    async def follow(self, watched: "Watched") -> None:
        """Show progress until cancelled."""

    def finished(self, status: JobStatus, outcomes: list[OutcomeRow], output: Path) -> None:
        """Say how the job ended."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What progress is made of."""

    pool: Pool
    status: Callable[[], JobStatus]
    """Reads the ledger; blocks."""
    started_at: float
    """UTC; the rate is that of this run."""


def refuse_elsewhere(reader: Reader, job: str, endpoint: str) -> None:
    """A batch can be asked about only where it was made: UsageError for any other endpoint."""
    for one in reader.open_batches(job):
        if one.endpoint != endpoint:
            raise UsageError(
                f"job {job} has batches at {one.endpoint} that are not over, and this is {endpoint}: run with "
                "that --base-url until they are done, or take them back with `bulkrender cancel`"
            )


def folder_store(campaign: Campaign, settings: Settings, on_blocked: Callable[[str | None], None]) -> FolderStore:
    """The output folder of a job."""
    return FolderStore(settings.output, verify=campaign.manifest.verify, on_blocked=on_blocked)


@dataclass(frozen=True, slots=True)
class Unstarted:
    """A job that was refused after others had been run."""

    job: str
    error: RunnerError


async def run_jobs(
    campaigns: Sequence[Campaign], settings: Settings, ledger: Ledger, face: Face
) -> list[JobStatus | Unstarted]:
    """Run the jobs one after another; whatever stops the run as a whole leaves the rest for next time.

    All locks are taken and all clients built before the first job starts: what can be refused is refused then.
    """
    finished: list[JobStatus | Unstarted] = []
    async with endpoint(settings, ledger.path) as socket, AsyncExitStack() as held:
        runs = []
        for campaign in campaigns:
            held.enter_context(ledger.lock_job(campaign.job))
            clients = await held.enter_async_context(clients_of(campaign, settings, ledger.path, socket))
            runs.append(JobRun(campaign, settings, ledger, face, clients))
        for run in runs:
            try:
                finished.append(await run.go())
            except RunnerError as error:
                if not finished:
                    raise
                finished.append(Unstarted(run.campaign.job, error))
            last = finished[-1]
            if isinstance(last, Unstarted) or last.halted in {"interrupted", "local", "provider"}:
                break
    return finished


class JobRun:
    """One job from lock to account. The caller holds the job's lock."""

    def __init__(
        self, campaign: Campaign, settings: Settings, ledger: Ledger, face: Face, clients: Clients
    ) -> None:
        self.campaign, self.settings, self.ledger, self.face = campaign, settings, ledger, face
        self.clients = clients
        self.clock = LoopClock()
        self.pool: Pool | None = None
        self._preparing = anyio.CancelScope()
        self._asked = 0
        self._started = self.clock.utc()
        self._uploads: frozenset[str] = frozenset()
        self.store = folder_store(campaign, settings, self._blocked)

    async def go(self) -> JobStatus:
        """The whole job, under signals from the start."""
        async with anyio.create_task_group() as beside:
            beside.start_soon(heed_signals, self._interrupt, self._abandon, self.settings.options.grace_s)
            ended = await self._go()
            beside.cancel_scope.cancel()
        if isinstance(ended, RunnerError):
            raise ended
        return ended

    async def _go(self) -> JobStatus | RunnerError:
        """Errors come back as values: a task group would wrap what is raised in it."""
        wanted = False
        try:
            with self._preparing:
                self.store.prepare()
                wanted = await self.prepare()
            if self._preparing.cancelled_caught:
                return InterruptedRunError("interrupted before anything was sent; run again")
            return await self.render() if wanted else self._told(self.status())
        except RunnerError as error:
            return error
        except KeyboardInterrupt:
            return DeclinedError(
                "interrupted at the question; nothing was bought", exit_code=InterruptedRunError.exit_code
            )

    async def prepare(self) -> bool:
        """Mend, plan, ask, record, arrange. False: nothing is to be bought now, and the ledger says why."""
        job, reader = self.campaign.job, self.ledger.reader
        recorded = reader.recorded(job) > 0
        if recorded:
            self._same_output(reader)
            refuse_elsewhere(reader, job, self.settings.endpoint)
            self.face.mended(await self._rescue().mend(job))
            await anyio.to_thread.run_sync(self._put_back, reader)
            self.clients.batches.tidy(one.token for one in reader.open_batches(job))
        refuse_shared_paths(self.campaign, reader, self._root())
        if self.settings.options.forget_limits:
            for model in self.campaign.models:
                await self.ledger.unlearn(self._wish(model), now=self.clock.utc())
        planned = await anyio.to_thread.run_sync(
            partial(
                plan,
                self.campaign,
                reader,
                self.store,
                self.settings,
                now_utc=self.clock.utc(),
            )
        )
        for note in planned.notes:
            log.warning("%s", note)
        refused = not planned.fits and self.campaign.manifest.budget.on_exceed == "refuse"
        if not self.face.announce(
            planned, ask=not (self.settings.sandbox or self.settings.options.yes or refused)
        ):
            raise DeclinedError("not confirmed: nothing was recorded and nothing was bought")
        self._uploads = planned.uploads
        await self._arrange(await self._record())
        if refused:
            await self._halt(Ending("budget", f"{price_line(planned)}: on_exceed is refuse"))
            return False
        return True

    async def render(self) -> JobStatus:
        """Buy what is left, under signals and progress; then account."""
        self._started = self.clock.utc()
        job, options = self.campaign.job, self.settings.options
        pool = self.pool = self._pool(*await anyio.to_thread.run_sync(self._look))
        if self._asked:  # while the pool was being made
            pool.interrupt()
        async with anyio.create_task_group() as beside:
            beside.start_soon(self.face.follow, Watched(pool, self.status, self._started))
            ending = await pool.drain()
            beside.cancel_scope.cancel()
        await self._halt(ending)
        await self._quiet(job)
        status = replace(self.status(), halted=ending.halted, reason=ending.reason)
        if options.detach and ending.halted is None:
            status = replace(status, detached=status.tasks[State.SUBMITTED] > 0)
            status = replace(status, reason=_left_behind(status, pool) if status.detached else None)
        return self._told(status)

    def _told(self, status: JobStatus) -> JobStatus:
        self.face.finished(status, self.ledger.reader.outcomes(self.campaign.job), self.settings.output)
        return status

    def _look(self) -> tuple[Mapping[Cell, int], References | None, References | None]:
        """What the lanes have to know before: what is left, and the references of each. Blocks."""
        mix = self.ledger.reader.left_to_buy(self.campaign.job)
        if not self.campaign.has_references:
            return mix, None, None
        held = Holdings(self.ledger.reader.uploads(self.settings.endpoint))
        single, batched = (self._library(held, inline=inline) for inline in (True, False))
        return mix, single, batched

    def _pool(self, mix: Mapping[Cell, int], single: References | None, batched: References | None) -> Pool:
        """The lanes of the run."""
        campaign, options = self.campaign, self.settings.options
        lane, by_utc = campaign.lane, campaign.deadline_utc
        return Pool(
            [self._terms(model, mix) for model in campaign.models] if lane != "batch" else [],
            self.ledger,
            self.clients.provider,
            self.store,
            self.clock,
            new_token=_token,
            references=single,
            batching=batching(
                campaign.job,
                campaign.manifest.retry,
                partial(campaign.sheet, lane="batch"),
                campaign.manifest.batch,
                self.settings,
                self.clients.batches,
            ),
            batch_terms=[self._batch_terms(model) for model in campaign.models] if lane != "standard" else [],
            batch_references=batched,
            job=campaign.job,
            detach=options.detach,
            deadline=None if by_utc is None else Deadline(by_utc, self.clock, partial(self._standard_s, by_utc)),
        )

    def status(self) -> JobStatus:
        """The job as the ledger has it now."""
        since = max(self._started, self.clock.utc() - RECENT_S)
        return self.ledger.reader.status(self.campaign.job, since_utc=since)

    def _library(self, held: Holdings, *, inline: bool) -> Library:
        endpoint = self.settings.endpoint
        remember = partial(self.ledger.remember, endpoint)
        return library(self.campaign, self.clients.files, self.clock, self._uploads, held, remember, inline=inline)

    def _standard_s(self, by_utc: float) -> float | None:
        """Seconds that the standard lane would need for what has not ended, as much of it as can be in time."""
        campaign, reader = self.campaign, self.ledger.reader
        needs: dict[str, list[Batch]] = {model: [] for model in campaign.models}
        for cell, count in reader.left_to_buy(campaign.job, submitted=True).items():
            needs[cell[0]].append(Batch(count, campaign.usual({cell: count})))
        return Outlook(campaign, reader, self.settings, self.clock.utc()).needed_s(needs, by_utc)

    def _batch_terms(self, model: str) -> BatchTerms:
        campaign = self.campaign
        return BatchTerms(
            job=campaign.job,
            wish=self._wish(model),
            sheet=campaign.sheet(model, "batch"),
            cap=campaign.cap,
            retry=campaign.manifest.retry,
            picture_bytes=campaign.picture_bytes,
            load=campaign.batch_load(model),
            weigh=partial(campaign.answer_bytes, model),
        )

    def _terms(self, model: str, mix: Mapping[Cell, int]) -> Terms:
        campaign = self.campaign
        return Terms(
            job=campaign.job,
            model=campaign.models[model],
            wish=self._wish(model),
            sheet=campaign.sheet(model),
            cap=campaign.cap,
            retry=campaign.manifest.retry,
            picture_bytes=campaign.picture_bytes,
            likely=campaign.usual(mix),
            weigh=partial(campaign.answer_bytes, model),
            wait=self.settings.options.wait,
        )

    def _wish(self, model: str) -> Wish:
        alone = len(self.campaign.models) == 1
        return Wish(self.settings.endpoint, model, self.campaign.limits, only=not alone)

    def _rescue(self) -> Rescue:
        return Rescue(
            self.ledger, self.store, self.clock, builtin(), self.campaign.sheet, self.campaign.manifest.retry
        )

    async def _record(self) -> Enqueued:
        campaign, reader = self.campaign, self.ledger.reader
        before = reader.status(campaign.job, since_utc=0).config if reader.recorded(campaign.job) else {}
        spec = JobSpec(
            name=campaign.job,
            manifest_sha256=campaign.sha256,
            output_root=self._root(),
            cap=campaign.cap,
            config=config_of(campaign, before, now_utc=self.clock.utc()),
            account=campaign.account,
            drafts=campaign.manifest.drafts,
        )
        specs: Iterable[TaskSpec] = campaign.specs
        if campaign.manifest.keep:
            specs = (one for one, _, _ in resolved(campaign, self.ledger.reader))
        enqueued = await self.ledger.enqueue(spec, specs, now=self.clock.utc())
        await self.ledger.halt(campaign.job, None, None, now=self.clock.utc())
        return enqueued

    async def _arrange(self, enqueued: Enqueued) -> None:
        """Move pictures whose task was renamed, and those whose path a new task needs."""
        job = self.campaign.job
        for one in enqueued.in_the_way:
            moved = await anyio.to_thread.run_sync(self.store.supersede, one.key, one.path)
            await self.ledger.relocate(job, [(one.key, one.path, moved)])
        moves = [(one.key, one.path, one.stem + Path(one.path).suffix) for one in enqueued.misplaced]
        if moves:
            arrived = set(await anyio.to_thread.run_sync(self.store.relocate, moves))
            await self.ledger.relocate(job, [move for move in moves if move[0] in arrived])

    def _put_back(self, reader: Reader) -> None:
        """Finish moves of pictures that a crash cut off, so that nothing paid for seems gone."""
        paths = reader.paths(self.campaign.job)
        gone = self.store.missing(paths)
        put_back = set(self.store.relocate([(paths[path], path, path) for path in gone]))
        for path in gone:
            if paths[path] not in put_back:  # it may have been superseded on disk and not in the ledger
                self.store.restore(paths[path], path)

    def _same_output(self, reader: Reader) -> None:
        """Pictures live below one root; another root is fine only if they were moved there."""
        before = reader.status(self.campaign.job, since_utc=0).output_root
        if before == self._root():
            return
        if reader.running(self.campaign.job):
            raise OutputError(
                f"pictures of a run of job {self.campaign.job} that died may have landed below {before}: "
                f"run once with --output {before} before moving on"
            )
        paths = reader.paths(self.campaign.job)
        if paths and len(self.store.missing(paths)) == len(paths):
            raise OutputError(
                f"the pictures of job {self.campaign.job} are below {before}: use --output {before}, "
                f"or move them below {self._root()} first"
            )

    def _root(self) -> str:
        return str(self.settings.output.resolve())

    def _interrupt(self, number: signal.Signals) -> None:
        log.warning("%s: waiting for what is in flight; once more leaves at once", number.name)
        self._asked += 1
        if self.pool is None:
            self._preparing.cancel()
        else:
            self.face.interrupted(self.pool.in_flight, self.pool.remote.total())
            self.pool.interrupt()

    def _abandon(self) -> None:
        if self.pool is not None:
            self.pool.abandon()

    async def _halt(self, ending: Ending) -> None:
        try:
            await self.ledger.halt(self.campaign.job, ending.halted, ending.reason, now=self.clock.utc())
        except LocalFailureError as error:  # the exit code says it; the ledger could not
            log.warning("%s", error)

    async def _quiet(self, job: str) -> None:
        with suppress(LocalFailureError):  # others pass over who does not come back
            await self.ledger.quiet(job)

    def _blocked(self, cause: str | None) -> None:
        if self.pool is not None:
            self.pool.blocked(cause)


def _token() -> str:
    return secrets.token_hex(16)


def _left_behind(status: JobStatus, pool: Pool) -> str:
    """What a detached run leaves, and why not all of it is in batches."""
    said = f"{status.tasks[State.SUBMITTED]} tasks are in {len(status.batches)} remote batches"
    if queued := status.tasks[State.QUEUED]:
        why = "; ".join(dict.fromkeys(filter(None, (lane.left for lane in pool.batch_lanes))))
        said += f", {queued} are not submitted{f' ({why})' if why else ''}"
    return f"{said}; run it again to pick them up{' and to submit the rest' if queued else ''}"
