"""What a person sees of a run: Rich progress on a terminal, plain lines elsewhere. All of it on stderr.

A terminal that vanished raises OSError at the next line; the run goes on, its log is in a file.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from runner.app.figures import duration
from runner.app.plan import Plan, binding_words, finish_line, held_words, price_line
from runner.app.prune import Pruned
from runner.app.running import RECENT_S, Watched
from runner.app.views import instant
from runner.core.budget import about, dollars
from runner.core.errors import RunnerError
from runner.core.lifecycle import TERMINAL, State
from runner.engine.rescue import Rescued
from runner.ledger import AccountStatus, JobStatus, OutcomeRow, Pulse

LIVE_EVERY_S = 0.5
PLAIN_EVERY_S = 10.0
MOST_NAMES = 5
"""Jobs of an account that are named; the rest are counted."""


class Voice(Console):
    """A console that falls silent where its reader has gone; Rich would end the program, and a run goes on."""

    def on_broken_pipe(self) -> None:
        """Say nothing from now on."""
        self.quiet = True


@contextmanager
def unheard() -> Iterator[None]:
    """Print, unless nobody is there any more."""
    with suppress(OSError, ValueError):
        yield


@contextmanager
def plain_interrupts() -> Iterator[None]:
    """Signals end the program at once: the event loop, which handles them otherwise, waits for an answer."""
    plain: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in plain.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ConsoleFace:
    """Prints to stderr; asks before real money where somebody can answer."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def announce(self, plan: Plan, *, ask: bool) -> bool:
        """Print the price line; on a terminal ask for a yes."""
        line = price_line(plan)
        self.notes(plan)
        with unheard():
            self.console.print(f"job {escape(plan.campaign.job)}: {line}", soft_wrap=True)
            if finish := finish_line(plan):
                self.console.print(f"job {escape(plan.campaign.job)}: {finish}", soft_wrap=True)
        if not ask or not plan.to_buy or not (sys.stdin.isatty() and self.console.is_terminal):
            return True
        with plain_interrupts(), suppress(EOFError, OSError):
            return self.console.input("Buy them? \\[y/N] ").strip().lower() in {"y", "yes"}
        return False

    def agree(self, found: Pruned, *, ask: bool) -> bool:
        """Say which pictures would move away; on a terminal ask for a yes."""
        line = (
            f"job {found.job}: {found.pictures} pictures ({megabytes(found.bytes)}) of tasks that the "
            "manifest of its last run did not name"
        )
        return self.consent([line], "Move them to superseded/?", ask=ask)

    def consent(self, lines: Iterable[str], question: str, *, ask: bool) -> bool:
        """Say what is about to be done; on a terminal ask for a yes."""
        with unheard():
            for line in lines:
                self.console.print(escape(line), soft_wrap=True)
        if not ask or not (sys.stdin.isatty() and self.console.is_terminal):
            return True
        with plain_interrupts(), suppress(EOFError, OSError):
            return self.console.input(f"{question} \\[y/N] ").strip().lower() in {"y", "yes"}
        return False

    def notes(self, plan: Plan) -> None:
        """Print what a person should hear of before a run."""
        with unheard():
            for note in plan.notes:
                self.console.print(f"note: {escape(note)}", style="yellow", soft_wrap=True)

    def interrupted(self, in_flight: int, batches: int) -> None:
        """Say that an interrupt was heard, what it waits for, and what goes on."""
        rest = f"; {batches} batches go on remotely" if batches else ""
        self.say(f"stopping: {in_flight} requests in flight will land first{rest}; once more leaves at once")

    def mended(self, rescued: Rescued) -> None:
        """Print what a crash left, if anything."""
        if rescued != Rescued():
            self.say(
                f"after a crash: {rescued.adopted} pictures adopted, {rescued.unknown} requests held as unknown"
            )

    async def follow(self, watched: Watched) -> None:
        """Progress until cancelled: live on a terminal; else a line every ten seconds, with its time in UTC."""
        if self.console.is_terminal:
            await self._follow_live(watched)
        while True:
            await anyio.sleep(PLAIN_EVERY_S)
            with suppress(RunnerError):  # a look that fails is no reason to stop a run
                line = progress_line(await anyio.to_thread.run_sync(watched.status), watched)
                self.say(f"{instant(time.time())} {line}")

    def finished(self, status: JobStatus, outcomes: list[OutcomeRow], output: Path) -> None:
        """Print the table by outcome and reason, and what was spent."""
        with unheard():
            self.console.print(outcome_table(outcomes))
            self.console.print(spent_line(status), soft_wrap=True)
            if status.account is not None:
                self.console.print(escape(account_line(status.account)), soft_wrap=True)
            if status.spend.unknown:
                self.say(
                    "held: requests that were never fully answered; they count against the cap; see `reconcile`"
                )
            self.console.print(f"pictures: {escape(str(output))}", soft_wrap=True)
            if status.detached:
                self.console.print(f"left: {escape(status.reason or '')}", soft_wrap=True)
            if status.halted:
                self.console.print(f"halted ({status.halted}): {escape(status.reason or '')}", soft_wrap=True)
            if status.halted == "budget":
                self.say(
                    "to go on, raise the cap (--budget: dollars) and run again; only what is missing is bought"
                )

    async def _follow_live(self, watched: Watched) -> None:
        bar = Progress(MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[line]}"), console=self.console)
        task = bar.add_task("", total=None, line="")
        live = Live(bar, console=self.console, auto_refresh=False, transient=True)
        with suppress(OSError, RunnerError), live:
            while True:
                status = await anyio.to_thread.run_sync(watched.status)
                bar.update(task, total=status.total, completed=ended(status), line=pace_line(status, watched))
                live.update(Group(bar, Text(money_line(status, watched))), refresh=True)
                await anyio.sleep(LIVE_EVERY_S)

    def say(self, line: str) -> None:
        """Print a line."""
        with unheard():
            self.console.print(escape(line), soft_wrap=True)


def megabytes(size_bytes: int) -> str:
    """`12.3 MB`."""
    return f"{size_bytes / 10**6:.1f} MB"


def ended(status: JobStatus) -> int:
    """Tasks that will not be sent again."""
    return sum(status.tasks[state] for state in TERMINAL)


def progress_line(status: JobStatus, watched: Watched) -> str:
    """One line of progress for a log."""
    return f"{status.job}: {ended(status)} of {status.total}, {details(status, watched)}"


def details(status: JobStatus, watched: Watched) -> str:
    """In flight, rate, spend against cap, ETA, and what holds it back."""
    return f"{pace_line(status, watched)}, {money_line(status, watched)}"


def pace_line(status: JobStatus, watched: Watched) -> str:
    """In flight, rate and ETA."""
    rate = rate_and_eta(status, time.time() - watched.started_at)
    submitted = status.tasks[State.SUBMITTED]
    batched = [f"{submitted} in batches"] if submitted else []
    return ", ".join([f"{watched.pool.in_flight} in flight", *batched, *rate])


def money_line(status: JobStatus, watched: Watched) -> str:
    """Spend against cap, and what holds it back."""
    pulse = watched.pool.pulse
    words = "" if pulse is None else holding(pulse)
    return ", ".join(filter(None, (spend_against_cap(status, shown=about), words)))


def holding(pulse: Pulse) -> str:
    """What holds a run back, and what it costs; empty where nothing but the time that answers take does."""
    if pulse.binds is None:
        return ""
    if pulse.binds == "remote":
        return pulse.said
    words = f"held back by {binding_words(pulse.binds, shortened(pulse.said))}"
    if pulse.belief:
        words += f", believes {pulse.belief}"
    if pulse.finish_without_at is not None and pulse.finish_without_at != pulse.finish_at:
        words += f", without it done in {duration(pulse.finish_without_at - pulse.at)}"
    return words


def shortened(words: str) -> str:
    """The words of a refusal as part of a line."""
    line = " ".join(words.split())
    return line if len(line) <= 100 else f"{line[:99]}…"


def rate_and_eta(status: JobStatus, window_s: float = RECENT_S) -> list[str]:
    """Pictures a minute over the last `window_s`, and when all is done: as the run says, else at that rate."""
    a_minute = status.recent_successes * 60 / min(RECENT_S, max(1.0, window_s))
    left = status.total - ended(status)
    if status.halted or not left:
        return []
    parts = [f"{a_minute:.0f} images/min"]
    pulse = status.pulse
    if pulse is not None and pulse.finish_at is not None:
        parts.append(f"ETA {duration(max(0.0, pulse.finish_at - time.time()))}")
    elif pulse is None and a_minute:
        parts.append(f"ETA {duration(left * 60 / a_minute)}")
    return parts


def account_line(account: AccountStatus) -> str:
    """What is spent and held under an account, against its cap, and whose it is."""
    shown = ", ".join(account.jobs[:MOST_NAMES])
    more = len(account.jobs) - MOST_NAMES
    return f"account {account.name}: {held_words(account)}; jobs: {shown}{f' and {more} more' if more > 0 else ''}"


def spend_against_cap(status: JobStatus, *, shown: Callable[[int], str] = dollars) -> str:
    """What is spent and held, against the caps: to the nano-dollar unless `shown` in another way."""
    spend, cap = status.spend, status.cap
    if status.unpriced:
        text = "spend unknown (no prices)"
    else:
        text = f"${shown(spend.settled)} spent"
        if spend.reserved or spend.unknown:
            text += f" + ${shown(spend.reserved + spend.unknown)} held"
    if cap.nanos is not None:
        text += f" of ${dollars(cap.nanos)}"
    if cap.image_tokens is not None:
        text += f", {spend.held_image_tokens} of {cap.image_tokens} image tokens"
    return text


def spent_line(status: JobStatus) -> str:
    """The last line of a run."""
    pictures = status.tasks[State.SUCCEEDED]
    return f"{status.job}: {pictures} of {status.total} pictures, {spend_against_cap(status)}"


def outcome_table(outcomes: list[OutcomeRow]) -> Table:
    """How the tasks stand, by outcome and reason."""
    table = Table("state", "reason", "tasks", "attempts", "cost", box=None, pad_edge=False, header_style="bold")
    for row in outcomes:
        cost = "unknown" if row.cost_nanos is None else f"${dollars(row.cost_nanos)}"
        table.add_row(row.state.value, escape(row.reason or "-"), str(row.tasks), str(row.attempts), cost)
    return table
