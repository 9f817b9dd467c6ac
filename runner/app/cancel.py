"""Takes the batches of a job back: cancelled, that confirmed, harvested; the rest is queued again."""

import time
from collections.abc import Mapping
from functools import partial

import anyio

from runner.adapters.storage import FolderStore
from runner.app.clients import service
from runner.app.logfile import log_beside
from runner.app.reconcile import known, pool_of
from runner.app.recorded import Recorded, recorded
from runner.app.running import Face, Watched, refuse_elsewhere
from runner.app.settings import Options, Settings, resolve
from runner.app.signals import heed_signals
from runner.engine.clock import LoopClock
from runner.engine.shared import Ending
from runner.ledger import JobStatus, Ledger


def cancel(job: str, options: Options, environment: Mapping[str, str], face: Face) -> tuple[JobStatus, int]:
    """The job as it stands afterwards, and how many batches were taken back. It buys nothing.

    Raises UsageError, JobLockedError where somebody runs the job.
    """
    settings = resolve(options, environment)
    known(Ledger.read(settings.database, settings.kind), job)
    with (
        Ledger.open(settings.database, settings.kind, now_utc=time.time()) as ledger,
        log_beside(ledger.path, options.log_format, lambda: job),
        ledger.lock_job(job),
    ):
        refuse_elsewhere(ledger.reader, job, settings.endpoint)
        before = len(ledger.reader.open_batches(job))
        if before:
            terms = recorded(ledger.reader, job)
            store = FolderStore(terms.output, verify=terms.verify)
            anyio.run(_cancel, ledger, settings, terms, store, face)
        status = ledger.reader.status(job, since_utc=time.time())
        return status, before - len(status.batches)


async def _cancel(ledger: Ledger, settings: Settings, terms: Recorded, store: FolderStore, face: Face) -> None:
    clock, job = LoopClock(), terms.job
    status = partial(ledger.reader.status, job, since_utc=clock.utc())
    await anyio.to_thread.run_sync(store.prepare)
    ending = Ending()
    async with service(settings, ledger.path, terms.output) as batches, anyio.create_task_group() as beside:
        pool = pool_of(ledger, settings, batches, terms, store, clock)

        def interrupt(_: object) -> None:
            face.interrupted(pool.in_flight, pool.remote.total())
            pool.interrupt()

        beside.start_soon(heed_signals, interrupt, pool.abandon, settings.options.grace_s)
        beside.start_soon(face.follow, Watched(pool, status, clock.utc()))
        if pool.remotes is not None:
            pool.remotes.take_back()
        ending = await pool.drain()
        beside.cancel_scope.cancel()
    if ending.halted is not None:
        await ledger.halt(job, ending.halted, ending.reason, now=clock.utc())
