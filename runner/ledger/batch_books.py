"""The books of batches: what became of the lines of each. Reads only."""

from dataclasses import dataclass

from sqlalchemy import Connection, case, func, select

from runner.core.lifecycle import AttemptState
from runner.ledger.batch_facts import BatchRecord
from runner.ledger.batches import RECORDS, record_of
from runner.ledger.models import attempt, batch, job


@dataclass(frozen=True, slots=True)
class BatchBook:
    """A batch and its attempts, added up from their rows. Money in nano-dollars."""

    record: BatchRecord
    attempts: int
    settled: int
    released: int
    unknown: int
    open: int
    cost_nanos: int
    """Of the settled ones; those of no known price are not in it."""
    held_nanos: int
    """Of the unknown and the open ones."""

    @property
    def adds_up(self) -> bool:
        """Whether each line has its attempt, and none is open in a batch that is over."""
        ended = self.settled + self.released + self.unknown
        return self.record.lines == self.attempts == ended + self.open and (self.record.open or not self.open)


def books(connection: Connection, name: str) -> list[BatchBook]:
    """Every batch that the job has had, oldest first."""
    states = {state: attempt.c.state == state for state in AttemptState}
    counts = [func.coalesce(func.sum(case((is_it, 1), else_=0)), 0) for is_it in states.values()]
    held = case((attempt.c.state.in_((AttemptState.RUNNING, AttemptState.UNKNOWN)), attempt.c.reserved_nanos))
    rows = connection.execute(
        select(
            batch.c.token,
            func.count(),
            *counts,
            func.coalesce(func.sum(attempt.c.cost_nanos), 0),
            func.coalesce(func.sum(held), 0),
        )
        .join(job, job.c.id == batch.c.job_id)
        .join(attempt, attempt.c.batch_row == batch.c.id)
        .where(job.c.name == name)
        .group_by(batch.c.token)
    )
    of = {token: (total, dict(zip(states, rest[:-2], strict=True)), *rest[-2:]) for token, total, *rest in rows}
    found = []
    for row in connection.execute(RECORDS.where(job.c.name == name)).mappings():
        record = record_of(row)
        total, by_state, cost, held_nanos = of.get(record.token, (0, dict.fromkeys(states, 0), 0, 0))
        found.append(
            BatchBook(
                record=record,
                attempts=total,
                settled=by_state[AttemptState.SETTLED],
                released=by_state[AttemptState.RELEASED],
                unknown=by_state[AttemptState.UNKNOWN],
                open=by_state[AttemptState.RUNNING],
                cost_nanos=cost,
                held_nanos=held_nanos,
            )
        )
    return found
