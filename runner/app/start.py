"""From manifests to a finished run: everything that can be refused is refused before it starts."""

import logging
import logging.handlers
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio

from runner.adapters.storage import FolderStore
from runner.app.campaign import Campaign, load, refuse_shared_paths
from runner.app.plan import Plan, plan
from runner.app.running import Face, Unstarted, run_jobs
from runner.app.settings import Options, Settings, read_key, resolve
from runner.app.views import Json, job_object, jobs_object
from runner.core.errors import LocalFailureError, ManifestError, OutputError, RunnerError, UsageError
from runner.ledger import JobStatus, Ledger

log = logging.getLogger("bulkrender")

T = TypeVar("T")


def run_manifests(paths: Sequence[Path], options: Options, environment: Mapping[str, str], face: Face) -> Json:
    """Run the manifests; the JSON object of the run. Raises RunnerError where nothing was recorded."""
    settings = resolve(options, environment)
    campaigns = load_all(paths, settings)
    read_key(settings)
    if not Ledger.exists(settings.database) or Ledger.is_current(settings.database):
        for campaign in campaigns:
            preview(campaign, settings)
    with Ledger.open(settings.database, settings.kind, now_utc=time.time()) as ledger, log_beside(ledger.path):
        finished = _logged(partial(anyio.run, run_jobs, campaigns, settings, ledger, face))
    return jobs_object([_object(one) for one in finished], single=len(paths) == 1)


def preview(campaign: Campaign, settings: Settings) -> Plan:
    """Plan against the ledger and the folder as they are; creates neither. Raises what a run would refuse."""
    reader = Ledger.read(settings.database, settings.kind) if Ledger.exists(settings.database) else None
    if reader is not None:
        refuse_shared_paths(campaign, reader, str(settings.output.resolve()))
    try:
        store = FolderStore(settings.output)
        return plan(campaign, reader, store, settings, now_utc=time.time())
    except LocalFailureError as error:  # nothing was begun: it is a matter of what was asked for
        raise OutputError(str(error)) from None


def _object(one: JobStatus | Unstarted) -> Json:
    if isinstance(one, Unstarted):
        return {"job": one.job, "error": str(one.error), "exit_code": one.error.exit_code}
    return job_object(one)


def _logged(work: Callable[[], T]) -> T:
    """Do the work; a bug leaves its traceback in the log, where a report of it needs it."""
    try:
        return work()
    except RunnerError:
        raise
    except Exception:
        log.exception("the run ended in an error nobody foresaw")
        raise


def load_all(paths: Sequence[Path], settings: Settings) -> list[Campaign]:
    """Every manifest, or every problem of every manifest at once."""
    campaigns, problems = [], []
    for path in paths:
        try:
            campaigns.append(load(path, settings))
        except ManifestError as error:
            problems.append(str(error))
    if problems:
        raise RunnerError("\n".join(problems))
    names = [campaign.job for campaign in campaigns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two manifests name the same job: {', '.join(twice)}")
    return campaigns


@contextmanager
def log_beside(ledger: Path) -> Iterator[None]:
    """The run's log, in a file beside the ledger; a thread writes it: a slow disk never stalls the loop."""
    file = logging.FileHandler(ledger.with_name(f"{ledger.name}.log"), encoding="utf-8", errors="backslashreplace")
    file.setFormatter(_Utc("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ"))
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(lines)
    listener = logging.handlers.QueueListener(lines, file)
    log.setLevel(logging.INFO)
    log.propagate = False  # the terminal has its own lines
    log.addHandler(handler)
    listener.start()
    try:
        yield
    finally:
        log.removeHandler(handler)
        listener.stop()
        file.close()


class _Utc(logging.Formatter):
    converter = staticmethod(time.gmtime)
