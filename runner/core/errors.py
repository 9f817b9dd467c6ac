"""Errors that a person must act on. What can go wrong with one task is an Outcome, not an exception.

RunnerError
├── ManifestError          the manifest is wrong; carries every problem found
├── UsageError             options, key or environment are wrong
├── DeclinedError          whoever was asked before real money did not say yes
├── LedgerError            the ledger cannot be used as asked
│   ├── WrongLedgerError       of the other kind (live or sandbox), newer, foreign, not a database
│   └── JobLockedError         another runner holds the job
├── OutputError            the output folder cannot be used as asked
├── LocalFailureError      this machine failed in the middle of a run; resumable
└── InterruptedRunError    a signal came before the run could account for itself; resumable
"""

from collections.abc import Sequence
from dataclasses import dataclass


class RunnerError(Exception):
    """A message for a person, and the exit code it ends the program with (design: 2 unless said)."""

    exit_code = 2


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in a manifest or a file it names; line and column count from 1."""

    line: int
    column: int
    message: str
    file: str = ""
    """Where it is, if not in the manifest itself."""


class ManifestError(RunnerError):
    """The manifest is wrong: all problems at once, each as `file:line:column: message`."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p)))
        super().__init__("\n".join(f"{p.file or file}:{p.line}:{p.column}: {p.message}" for p in self.problems))


class UsageError(RunnerError):
    """Options, key or environment are wrong."""


class DeclinedError(RunnerError):
    """Whoever was asked before real money did not say yes: nothing ran, so there is nothing to tell anybody."""

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class LedgerError(RunnerError):
    """The ledger cannot be used as asked."""


class WrongLedgerError(LedgerError):
    """The ledger is of the other kind, newer than this program, or not a bulkrender ledger."""


class JobLockedError(LedgerError):
    """Another live runner holds the job."""


class OutputError(RunnerError):
    """The output folder cannot be used as asked."""


class LocalFailureError(RunnerError):
    """Disk, database or output failed in the middle of a run; running again resumes."""

    exit_code = 5


class InterruptedRunError(RunnerError):
    """A signal came before the run could account for itself; running again resumes."""

    exit_code = 130
