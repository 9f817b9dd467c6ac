"""The only place that speaks SQL.

`Ledger` and `Reader` are its face; `facts` are the values that go in and come out. Inside: `enqueue`, `claim` and
`settle` are the writes, `queries` the reads, `writer` the thread that commits, `schema` and `locks` who may write.
"""

from runner.ledger.facts import (
    AttemptRecord,
    Claim,
    Claimed,
    Counters,
    Empty,
    Enqueued,
    InTheWay,
    JobSpec,
    JobStatus,
    Known,
    Misplaced,
    OutcomeRow,
    OverBudget,
    Settled,
    TaskRecord,
    Waiting,
)
from runner.ledger.ledger import Ledger, Reader

__all__ = [
    "AttemptRecord",
    "Claim",
    "Claimed",
    "Counters",
    "Empty",
    "Enqueued",
    "InTheWay",
    "JobSpec",
    "JobStatus",
    "Known",
    "Ledger",
    "Misplaced",
    "OutcomeRow",
    "OverBudget",
    "Reader",
    "Settled",
    "TaskRecord",
    "Waiting",
]
