"""Retry: tasks that have no picture, or none any more, wait again with fresh tries, with the job's counters."""

from collections import Counter
from collections.abc import Collection
from itertools import islice

from sqlalchemy import ColumnElement, Connection, func, select, update

from runner.core.lifecycle import GONE, AttemptState, State
from runner.ledger.enqueue import FRESH_TRIES
from runner.ledger.models import attempt, job, task
from runner.ledger.queries import job_id
from runner.ledger.quotas import NEXT_CHANGE

BATCH = 2_000
AGAIN = (State.REFUSED, State.FAILED)
"""States that `retry` takes a task out of, if its picture is not meant."""
_NO_PICTURE = dict.fromkeys(("path", "path_folded", "sha256", "bytes", "mime", "width", "height"))


def retry(connection: Connection, name: str, keys: Collection[str], *, now: float, gone: bool = False) -> int:
    """Put those tasks of the job back that are live, and refused or failed; returns how many were.

    With `gone` those that succeeded, and whose pictures are lost. What their attempts cost or hold stays as it is.
    LookupError for an unknown job.
    """
    mine, states = job_id(connection, name), (State.SUCCEEDED,) if gone else AGAIN
    moved: Counter[State] = Counter()
    source = iter(keys)
    while batch := list(islice(source, BATCH)):
        chosen = (task.c.job_id == mine, task.c.key.in_(batch), task.c.live, task.c.state.in_(states))
        moved.update(connection.scalars(select(task.c.state).where(*chosen)).all())
        if gone:
            _lose(connection, *chosen)
        connection.execute(update(task).where(*chosen).values(**FRESH_TRIES, **(_NO_PICTURE if gone else {})))
    total = moved.total()
    if total:
        counters = {state.value: job.c[state.value] - moved[state] for state in states}
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


def _lose(connection: Connection, *chosen: ColumnElement[bool]) -> None:
    """The attempts that brought the pictures of the chosen stay paid for, and no longer count as one that did."""
    connection.execute(
        update(attempt)
        .where(
            attempt.c.task_id.in_(select(task.c.id).where(*chosen)),
            attempt.c.state == AttemptState.SETTLED,
            attempt.c.outcome == "made",
        )
        .values(outcome=GONE, changed=NEXT_CHANGE)
    )
