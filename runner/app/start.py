"""From manifests to a finished run: everything that can be refused is refused before it starts."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio

from runner.adapters.storage import FolderStore
from runner.app import notify
from runner.app.campaign import Campaign, load, refuse_shared_paths
from runner.app.journal import Journal, began
from runner.app.logfile import log_beside, told
from runner.app.plan import Plan, plan
from runner.app.running import Face, Unstarted, run_jobs
from runner.app.settings import Options, Settings, read_key, resolve
from runner.app.views import Json, job_object, jobs_object
from runner.core.errors import (
    DeclinedError,
    LocalFailureError,
    ManifestError,
    OutputError,
    RunnerError,
    UsageError,
)
from runner.ledger import JobStatus, Ledger

log = logging.getLogger("bulkrender")

Say = Callable[[str], None]


def run_manifests(
    paths: Sequence[Path], options: Options, environment: Mapping[str, str], face: Face, say: Say = lambda _: None
) -> Json:
    """Run the manifests; the JSON object of the run. Raises RunnerError where nothing was recorded.

    `say` is told what a person should hear after the end of a run.
    """
    settings = resolve(options, environment)
    campaigns = load_all(paths, settings)
    read_key(settings)
    notify.check(campaigns, environment)
    if not Ledger.exists(settings.database) or Ledger.is_current(settings.database):
        for campaign in campaigns:
            preview(campaign, settings)
    journal = Journal(face)
    with (
        Ledger.open(settings.database, settings.kind, now_utc=time.time()) as ledger,
        log_beside(ledger.path, options.log_format, lambda: journal.job),
    ):
        where = {"ledger": str(ledger.path), "pictures": str(settings.output), "endpoint": settings.endpoint}
        began(paths, where)
        try:
            ended = anyio.run(run_jobs, campaigns, settings, ledger, journal)
        except Exception as error:
            _tell_error(error, campaigns, journal.job or campaigns[0].job, settings, say)
            raise
        _tell(campaigns, [_object(one) for one in ended if not _declined(one)], environment, say)
    return jobs_object([_object(one) for one in ended], single=len(paths) == 1)


def _tell_error(error: Exception, campaigns: Sequence[Campaign], job: str, settings: Settings, say: Say) -> None:
    """Log an error that ends the run, and tell of it unless the run never began; a bug leaves its traceback."""
    code = error.exit_code if isinstance(error, RunnerError) else LocalFailureError.exit_code
    told("stop", str(error), warning=True, exit_code=code)
    if not isinstance(error, RunnerError):
        log.error("the run ended in an error nobody foresaw", exc_info=error)
    if code != UsageError.exit_code and not isinstance(error, DeclinedError):
        _tell(campaigns, [{"job": job, "error": str(error), "exit_code": code}], settings.environment, say)


def _tell(
    campaigns: Sequence[Campaign], answers: Sequence[Json], environment: Mapping[str, str], say: Say
) -> None:
    """Tell whoever wants to hear of each job. Ctrl-C leaves it at that: the run is accounted for."""
    wanted = {campaign.job: campaign.manifest.notify for campaign in campaigns}
    with suppress(KeyboardInterrupt):
        for answer in answers:
            for wrong in notify.tell(wanted[answer["job"]], answer, environment):
                say(wrong)


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


def _declined(one: JobStatus | Unstarted) -> bool:
    return isinstance(one, Unstarted) and isinstance(one.error, DeclinedError)


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
