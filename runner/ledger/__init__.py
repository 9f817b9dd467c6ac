"""The only place that speaks SQL.

`Ledger` and `Reader` are its face; `facts` are the values that go in and come out. Inside: `enqueue`, `claim` and
`settle` are the writes, `queries` the reads, `writer` the thread that commits, `schema` and `locks` who may write.
"""

from runner.ledger.enqueue import agreed_cap
from runner.ledger.facts import (
    AccountSpec,
    AccountStatus,
    AttemptRecord,
    Claim,
    Claimed,
    Closed,
    Closing,
    Counters,
    Empty,
    Enqueued,
    Held,
    InTheWay,
    JobSpec,
    JobStatus,
    Known,
    Lesson,
    Misplaced,
    OutcomeRow,
    OverBudget,
    Pulse,
    Room,
    Settled,
    Standing,
    TaskRecord,
    Waiting,
    Wish,
)
from runner.ledger.ledger import Ledger, Reader

__all__ = [
    "AccountSpec",
    "AccountStatus",
    "AttemptRecord",
    "Claim",
    "Claimed",
    "Closed",
    "Closing",
    "Counters",
    "Empty",
    "Enqueued",
    "Held",
    "InTheWay",
    "JobSpec",
    "JobStatus",
    "Known",
    "Ledger",
    "Lesson",
    "Misplaced",
    "OutcomeRow",
    "OverBudget",
    "Pulse",
    "Reader",
    "Room",
    "Settled",
    "Standing",
    "TaskRecord",
    "Waiting",
    "Wish",
    "agreed_cap",
]
