"""Pictures that were paid for and are not what was ordered. Reads only."""

from collections.abc import Iterator

from sqlalchemy import Connection, func, select

from runner.ledger.models import attempt, task
from runner.ledger.queries import job_id


def rejected(connection: Connection, name: str) -> Iterator[tuple[str, str, str]]:
    """(key, path, sha256) of the last such picture of every task that has none; LookupError without the job."""
    last = (
        select(func.max(attempt.c.id))
        .join(task, task.c.id == attempt.c.task_id)
        .where(attempt.c.job_id == job_id(connection, name), attempt.c.path.is_not(None), task.c.path.is_(None))
        .group_by(attempt.c.task_id)
    )
    rows = connection.execute(
        select(task.c.key, attempt.c.path, attempt.c.sha256)
        .join(task, task.c.id == attempt.c.task_id)
        .where(attempt.c.id.in_(last), attempt.c.sha256.is_not(None))
    )
    return ((key, path, sha256) for key, path, sha256 in rows)
