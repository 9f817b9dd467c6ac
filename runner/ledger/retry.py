"""Retry: tasks that ended without a picture wait again, with fresh tries, together with the job's counters."""

from collections import Counter
from collections.abc import Collection
from itertools import islice

from sqlalchemy import Connection, func, select, update

from runner.core.lifecycle import State
from runner.ledger.enqueue import FRESH_TRIES
from runner.ledger.models import job, task
from runner.ledger.queries import job_id

BATCH = 2_000
AGAIN = (State.REFUSED, State.FAILED)
"""States that `retry` takes a task out of."""


def retry(connection: Connection, name: str, keys: Collection[str], *, now: float) -> int:
    """Put those tasks of the job back that are live, and refused or failed; returns how many were.

    What their attempts cost or hold stays as it is. LookupError for an unknown job.
    """
    mine = job_id(connection, name)
    moved: Counter[State] = Counter()
    source = iter(keys)
    while batch := list(islice(source, BATCH)):
        chosen = (task.c.job_id == mine, task.c.key.in_(batch), task.c.live, task.c.state.in_(AGAIN))
        moved.update(connection.scalars(select(task.c.state).where(*chosen)).all())
        connection.execute(update(task).where(*chosen).values(**FRESH_TRIES))
    total = moved.total()
    if total:
        counters = {state.value: job.c[state.value] - moved[state] for state in AGAIN}
        connection.execute(
            update(job)
            .where(job.c.id == mine)
            .values(
                **counters,
                queued=job.c.queued + total,
                halted=func.coalesce(job.c.halted, "interrupted"),
                reason=func.coalesce(job.c.reason, f"{total} tasks were put back by `retry`; `run` buys them"),
                updated_at=now,
            )
        )
    return total
