"""Where pictures of open attempts are to go."""

from sqlalchemy import Connection, select

from runner.ledger.models import IN_FLIGHT, attempt, job


def stems_in_flight(connection: Connection, name: str) -> dict[str, str]:
    """Token -> stem of the job's attempts that have not ended, of either lane; none for an unknown job."""
    job_row = select(job.c.id).where(job.c.name == name).scalar_subquery()
    rows = select(attempt.c.token, attempt.c.stem).where(attempt.c.job_id == job_row, IN_FLIGHT)
    return {row.token: row.stem for row in connection.execute(rows)}
