"""Where pictures of open attempts are to go."""

from sqlalchemy import Connection, select

from runner.ledger.models import IN_FLIGHT, attempt, job


def stems_in_flight(connection: Connection, name: str) -> frozenset[str]:
    """Stems of the job's attempts that have not ended, of either lane; none for a job that is not known."""
    job_row = select(job.c.id).where(job.c.name == name).scalar_subquery()
    return frozenset(connection.scalars(select(attempt.c.stem).where(attempt.c.job_id == job_row, IN_FLIGHT)))
