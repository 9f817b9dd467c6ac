"""What is known of batches. Nothing here changes a row."""

from sqlalchemy import Connection, case, func, select

from runner.core.lifecycle import GONE, AttemptState
from runner.ledger.batch_facts import BatchRecord, BatchTally
from runner.ledger.batches import IS_OPEN, RECORDS, record_of
from runner.ledger.facts import Claimed
from runner.ledger.models import attempt, batch, job
from runner.ledger.queries import in_flight, job_id

_ANSWERED = ("made", GONE, "refused", "unusable", "unstored")
"""Outcomes with an answer of the provider."""


def open_batches(connection: Connection, name: str) -> list[BatchRecord]:
    """The job's batches that are not over, oldest first; LookupError for an unknown job."""
    rows = RECORDS.where(IS_OPEN, batch.c.job_id == job_id(connection, name))
    return [record_of(row) for row in connection.execute(rows).mappings()]


def batches(connection: Connection, name: str) -> list[BatchRecord]:
    """All batches the job has ever had, oldest first; LookupError for an unknown job."""
    rows = RECORDS.where(batch.c.job_id == job_id(connection, name))
    return [record_of(row) for row in connection.execute(rows).mappings()]


def batch_attempts(connection: Connection, token: str) -> list[Claimed]:
    """Attempts of a batch that have not ended, in the order of its lines."""
    mine = select(batch.c.id).where(batch.c.token == token).scalar_subquery()
    return in_flight(connection, attempt.c.batch_row == mine)


def batch_tally(connection: Connection, token: str) -> BatchTally:
    """How many attempts of a batch have ended, and how."""
    answered = func.count(case((attempt.c.outcome.in_(_ANSWERED), 1)))
    ended, of_them = connection.execute(
        select(func.count(), answered)
        .join(batch, batch.c.id == attempt.c.batch_row)
        .where(batch.c.token == token, attempt.c.state != AttemptState.RUNNING)
    ).one()
    return BatchTally(of_them, ended - of_them)


def display_names(connection: Connection, endpoint: str) -> dict[str, str]:
    """Display name -> job of every batch there ever was at an endpoint, of all jobs."""
    rows = connection.execute(
        select(batch.c.display_name, job.c.name)
        .join(job, job.c.id == batch.c.job_id)
        .where(batch.c.endpoint == endpoint)
    )
    return {name: owner for name, owner in rows}  # noqa: C416 - a row is no pair to mypy
