"""The results of one remote batch: each line becomes the outcome of its attempt, settled while the rest arrives.

Lines are matched by key alone. What was settled once is settled: a line that comes again, after a broken download
or a crash, finds its attempt ended.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread

from runner.core.catalog import Model
from runner.core.lifecycle import (
    AttemptState,
    Faulted,
    FileGone,
    Outcome,
    Parked,
    Pictured,
    Reply,
    State,
    Stopped,
    Throttled,
    Unstored,
)
from runner.core.pricing import PriceSheet, settlement
from runner.core.remains import remains
from runner.core.remote import Remote
from runner.core.retry import RetryPolicy, Tries, backoff_s, decide
from runner.engine.execute import assignment
from runner.engine.gate import PATIENCE_S
from runner.engine.ports import Batches, Clock, ResultLine, Unreadable
from runner.engine.shared import Ended, Shared
from runner.ledger import BatchRecord, Claimed

log = logging.getLogger("bulkrender")

NOTED_EVERY_S = 5.0
"""How far the results were taken is written down so often at most: it only spares a part of a download."""


@dataclass(frozen=True, slots=True)
class Books:
    """What the attempts of a job's batches are held to, also those of models that the manifest no longer names."""

    job: str
    retry: RetryPolicy
    sheet_of: Callable[[str], PriceSheet]
    """Prices of the batch lane."""
    model_of: Callable[[str], Model | None]


class Unkept(Exception):  # noqa: N818 - the end of a harvest, no error of the program
    """A picture could not be stored: the rest stays at the service for the next run."""


class Harvest:
    """Settles the attempts of one batch that is over."""

    def __init__(
        self, pool: Shared, books: Books, batches: Batches, clock: Clock, record: BatchRecord, remote: Remote
    ) -> None:
        self._pool, self._books, self._batches, self._clock = pool, books, batches, clock
        self._record, self._remote = record, remote
        self._open: dict[str, Claimed] = {}
        self.place, self._noted_at = record.place, clock.now()
        self._strangers = self._again = 0

    async def gather(self) -> None:
        """Settle every attempt of the batch. Raises Unkept, Unreadable (passing), RunnerError."""
        reader, token = self._pool.ledger.reader, self._record.token
        for attempt in await anyio.to_thread.run_sync(reader.batch_attempts, token):
            self._open[attempt.token] = attempt
        gone = not await self._read()
        await self._settle_the_rest(gone=gone)
        said = "" if self._remote.error is None else self._remote.error.message
        await self._pool.ledger.over(token, self._remote.state.lower(), said, now=self._clock.utc())
        if self._strangers or self._again:
            log.warning(
                "batch %s: %d lines of its results have no request, %d came twice",
                *(self._record.name, self._strangers, self._again),
            )

    async def _read(self) -> bool:
        """Take all lines of the results. False where there should be some and there are none any more."""
        file = results_of(self._remote)
        if file is None or not self._open:
            return True
        tries, since = 0, self._clock.now()
        while True:
            before = self.place
            try:
                async with self._batches.results(file, self._record.model, self.place) as lines:
                    async for line in lines:
                        await self._take(line)
            except Unreadable as error:
                if not error.passing:
                    log.warning("results of batch %s: %s", self._record.name, error.message)
                    return False
                if self.place != before:
                    tries, since = 0, self._clock.now()
                if self._clock.now() - since > PATIENCE_S:
                    raise
                log.warning("results of batch %s: %s; trying again", self._record.name, error.message)
            else:
                return True
            tries += 1
            await self._clock.sleep(backoff_s(tries, 0.5 + self._clock.jitter() / 2))

    async def _take(self, line: ResultLine) -> None:
        attempt = self._open.get(line.key or "")
        if attempt is not None:
            with anyio.CancelScope(shield=True):  # it is paid for: it is not left between disk and ledger
                await self._settle(attempt, await self._land(attempt, line))
        elif line.key is None or not _is_token(line.key):
            self._strangers += 1
        else:
            self._again += 1
        self.place = line.after
        if self._clock.now() - self._noted_at > NOTED_EVERY_S:
            self._noted_at = self._clock.now()
            await self._pool.ledger.taken(self._record.token, self.place)

    async def _land(self, attempt: Claimed, line: ResultLine) -> Outcome:
        reply = line.reply
        if not isinstance(reply, Pictured):
            return as_item(reply)
        task = assignment(self._books.job, attempt, self._books.model_of(attempt.recipe.model))
        async with self._pool.store.landing(task) as landing:
            await line.pour(landing)
            kept = await landing.keep(reply.answer)
        if isinstance(kept, Unstored):
            raise Unkept(kept.cause)
        return kept

    async def _settle(self, attempt: Claimed, outcome: Outcome) -> None:
        pool, books, now = self._pool, self._books, self._clock.utc()
        settled = settlement(outcome, attempt.quote, books.sheet_of(attempt.recipe.model), attempt.size)
        used = Tries(attempt.tries, attempt.refused_tries)
        held = settled.state is AttemptState.UNKNOWN
        move = decide(outcome, used, books.retry, jitter=0.0, held=held)
        if move.state is State.QUEUED:
            move = replace(move, due_in_s=0.0)  # those that failed together go together into the next batch
        latency_s = max(0.0, now - (self._record.posted_at or attempt.started_at))
        await pool.ledger.settle(attempt, outcome, settled, move, now=now, latency_s=latency_s)
        del self._open[attempt.token]
        if isinstance(outcome, FileGone):  # the service does not say which: all are looked after anew
            for reference in attempt.references:
                pool.batch_references.forget(reference.sha256)
        log.info("< %s %s %s %s", attempt.stem, type(outcome).__name__.lower(), move.reason, move.error)
        pool.requeued += move.state is State.QUEUED
        pool.change()
        pool.watch(Ended(attempt, outcome, settled, move, latency_s))

    async def _settle_the_rest(self, *, gone: bool) -> None:
        """What no line answered: missing lines, and all of a job that ended otherwise."""
        if not self._open:
            return
        reader, record = self._pool.ledger.reader, self._record
        tally = await anyio.to_thread.run_sync(reader.batch_tally, record.token)
        outcomes = remains(
            self._remote,
            [(token, attempt.quote.nanos) for token, attempt in self._open.items()],
            asked=record.lines,
            answered=tally.answered,
            gone=gone,
            hold=self._books.retry.unknown == "hold",
        )
        log.warning(
            "batch %s: %s, %d of %d requests without an answer",
            *(record.name, self._remote.state, len(self._open), record.lines),
        )
        await self.end({token: (self._open[token], outcome) for token, outcome in outcomes.items()})

    async def end(self, outcomes: dict[str, tuple[Claimed, Outcome]]) -> None:
        """Settle attempts that nobody answers, together, so that they share a commit."""
        for attempt, _ in outcomes.values():
            self._open.setdefault(attempt.token, attempt)
        failed: list[Exception] = []

        async def settle(attempt: Claimed, outcome: Outcome) -> None:
            try:
                await self._settle(attempt, outcome)
            except Exception as error:  # noqa: BLE001 - as a value: a task group would wrap it
                failed.append(error)

        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as together:
                for attempt, outcome in outcomes.values():
                    together.start_soon(settle, attempt, outcome)
        for error in failed:
            raise error


def results_of(remote: Remote) -> str | None:
    """Where the results are, also where the service forgets to say it (gemini-api.md §8.5)."""
    if remote.responses_file is not None:
        return remote.responses_file
    if remote.state in {"SUCCEEDED", "PARTIALLY_SUCCEEDED"}:
        return f"files/batch-{remote.name.removeprefix('batches/')}"
    return None


def as_item(reply: Reply) -> Outcome:
    """What a line says of one request: no line closes a gate or stops a run, and each is a try."""
    match reply:
        case Throttled() | Parked() | Stopped():
            return Faulted(reply.status, reply.message)
        case Pictured():
            raise TypeError("a picture is landed, not judged")
        case _:
            return reply


def _is_token(key: str) -> bool:
    with suppress(ValueError):
        return len(key) == 32 and int(key, 16) >= 0
    return False
