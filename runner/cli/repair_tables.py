"""What `reconcile` and `cancel` say to people."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from runner.app.reconcile import Reconciled, Reconciliation
from runner.app.views import held_in_words, instant
from runner.core.batching import PREFIX
from runner.core.budget import dollars
from runner.core.lifecycle import State
from runner.core.retry import cause
from runner.ledger import JobStatus

MOST_LINES = 20
"""Unknown requests that it lists of a job; `--json` has them all."""
HOW = "--write-off KEY --reason …, or --release KEY --reason …"
SHOWN = 12
"""Characters of a key: enough to tell it from any other."""


def reconciled_text(found: Reconciliation) -> Group:
    """Each job with its batches, then what is at the service beside them."""
    parts: list[Text] = []
    for job in found.jobs:
        parts += _job(job)
    parts += [Text(f"{name}: left alone, {who}") for name, who in found.skipped.items()]
    if found.trouble:
        parts.append(Text(f"the list of jobs at the service could not be read: {found.trouble}"))
    for one in found.strangers:
        whose = "of another ledger" if one.display_name.startswith(PREFIX) else "of another program"
        parts.append(Text(f"stranger {one.name} ({one.display_name!r}), {one.state.lower()}, {whose}"))
    return Group(*parts)


def _job(job: Reconciled) -> list[Text]:
    rescued = f"{job.rescued.adopted} pictures adopted, {job.rescued.unknown} requests held as unknown"
    lines: list[Text] = [Text(f"{job.job}: {rescued}")]
    if job.books:
        lines += _books(job)
    if job.unknowns:
        lines += _unknowns(job)
    if job.unresolved:
        lines.append(Text(f"  {job.unresolved} batches may exist and were not found yet: reconcile again later"))
    if job.reason:
        lines.append(Text(f"  stopped ({job.halted}): {job.reason}"))
    lines += [Text(f"  does not add up: {problem}") for problem in job.problems]
    if not job.problems:
        lines.append(
            Text("  adds up: a line of a batch is one attempt; costs and counters are what tokens and rows say")
        )
    return lines


def _books(job: Reconciled) -> list[Text]:
    rows: list[Sequence[str]] = [("state", "lines", "settled", "free", "unknown", "open", "cost", "held", "batch")]
    for book in job.books:
        record = book.record
        rows.append(
            (
                record.remote_state.lower() or record.reason or record.state.value,
                *map(str, (record.lines, book.settled, book.released, book.unknown, book.open)),
                f"${dollars(book.cost_nanos)}",
                f"${dollars(book.held_nanos)}",
                record.name or record.token[:8],
            )
        )
    return _columns(rows)


def _unknowns(job: Reconciled) -> list[Text]:
    """Those held longest, and the sum of all."""
    rows: list[Sequence[str]] = [("unknown since", "key", "holds", "task", "why", "picture")]
    for one in job.unknowns[:MOST_LINES]:
        held = "unknown" if one.held_nanos is None else f"${dollars(one.held_nanos)}"
        why = cause(one.reason, one.error)
        rows.append((instant(one.since) or "", one.key[:SHOWN], held, one.state.value, why, one.stem))
    more = len(job.unknowns) - MOST_LINES
    rest = f"  and {more} more: --json has them all; " if more > 0 else "  "
    whole = f"{len(job.unknowns)} requests that may have been bought hold {held_in_words(job.unknowns)}"
    return [*_columns(rows), Text(f"{rest}{whole}"), Text(f"  once you know: the same with {HOW}")]


def _columns(rows: Sequence[Sequence[str]]) -> list[Text]:
    """Each row a line, never folded: names are copied from it, and the longest are its last."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in lines]


def cancelled_text(status: JobStatus, taken: int) -> Text:
    """What became of the job's batches."""
    left = len(status.batches)
    rest = f"; {left} are still open: run it again to wait for them" if left else ""
    return Text(
        f"{status.job}: {taken} batches taken back{rest}; {status.tasks[State.SUCCEEDED]} pictures, "
        f"{status.tasks[State.QUEUED]} tasks queued, ${dollars(status.spend.settled)} spent, "
        f"${dollars(status.spend.unknown)} held as unknown"
    )
