"""The only place that speaks SQL.

`Ledger` and `Reader` are its face; `facts` are the values that go in and come out. Inside: `enqueue`, `claim`,
`batches` and `settle` are the writes, `reservation` what two of them share, `queries` the reads, `writer` the
thread that commits, `schema` and `locks` who may write.

Names are looked up when they are first used: SQLAlchemy takes a second to load, and Tab in a shell cannot wait.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.core.batching import Load
    from runner.ledger.backup import Copied
    from runner.ledger.batch_books import BatchBook
    from runner.ledger.batch_facts import BatchRecord, BatchTally
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
        Drafts,
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
        Place,
        Pulse,
        Room,
        Settled,
        Standing,
        Submission,
        Submitted,
        TaskRecord,
        TooFew,
        Unprepared,
        Unready,
        Waiting,
        Wish,
    )
    from runner.ledger.health import Health
    from runner.ledger.ledger import Ledger
    from runner.ledger.reader import Reader
    from runner.ledger.receipt import AccountBooks, BookedAttempt, BookedTask, Books
    from runner.ledger.resolve import Unknown

__all__ = [
    "AccountBooks",
    "AccountSpec",
    "AccountStatus",
    "AttemptRecord",
    "BatchBook",
    "BatchRecord",
    "BatchTally",
    "BookedAttempt",
    "BookedTask",
    "Books",
    "Claim",
    "Claimed",
    "Closed",
    "Closing",
    "Copied",
    "Counters",
    "Drafts",
    "Empty",
    "Enqueued",
    "Health",
    "Held",
    "InTheWay",
    "JobSpec",
    "JobStatus",
    "Known",
    "Ledger",
    "Lesson",
    "Load",
    "Misplaced",
    "OutcomeRow",
    "OverBudget",
    "Place",
    "Pulse",
    "Reader",
    "Room",
    "Settled",
    "Standing",
    "Submission",
    "Submitted",
    "TaskRecord",
    "TooFew",
    "Unknown",
    "Unprepared",
    "Unready",
    "Waiting",
    "Wish",
    "agreed_cap",
]


_MODULES = (
    *("facts", "batch_facts", "batch_books", "backup", "enqueue", "health", "receipt", "resolve"),
    *("reader", "ledger", "batches"),
)


def __getattr__(name: str) -> object:
    """One of the names above, from the module that has it."""
    for module in _MODULES if name in __all__ else ():
        found: object = getattr(import_module(f"{__name__}.{module}"), name, None)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
