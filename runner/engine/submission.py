"""A batch on its way to the service: its input uploaded, its job created, once."""

import logging
from dataclasses import dataclass

from runner.core.errors import RunnerError
from runner.core.lifecycle import BatchState, FileGone, Invalid, Stopped
from runner.core.remains import remains
from runner.core.remote import Creation, Declined, Failure, NotNow, Remote, Unsure
from runner.core.retry import backoff_s
from runner.engine.execute import assignment
from runner.engine.gate import PATIENCE_S
from runner.engine.openbatches import OpenBatches, cause, certain, put_back
from runner.engine.ports import Unsendable
from runner.ledger import BatchRecord, Claimed, Submitted

log = logging.getLogger("bulkrender")

FILE_LASTS_S = 24 * 3600.0
"""An input this old is not used any more: it, and the references it names, must outlive the job (§9.2)."""


@dataclass(slots=True)
class Trouble:
    """How long creates or uploads have been refused in a row, with nothing else out that goes on."""

    since: float = 0.0
    times: int = 0
    said: str = ""


class Submission:
    """Sends the batches of one job."""

    def __init__(self, batches: OpenBatches) -> None:
        self._open, self._pool, self._clock = batches, batches.pool, batches.clock
        self._trouble = Trouble()

    async def send(self, submitted: Submitted) -> bool:
        """Upload the input of a new batch and create its job.

        True once it exists, or may exist and has to be looked for; False where it is given up.
        """
        self._open.add(submitted.batch)
        record, attempts = submitted.batch, {one.token: one for one in submitted.attempts}
        log.info("batch %s: %d requests to %s", record.token[:8], record.lines, record.model)
        try:
            return await self._send(record, attempts)
        except RunnerError as error:
            self._pool.stop("local", str(error))
            return False

    async def _send(self, record: BatchRecord, attempts: dict[str, Claimed]) -> bool:
        file, began_at = "", self._clock.utc()
        while True:
            if not file:
                file = await self._upload(record, attempts) or ""
                if not file:
                    return False
            if self._pool.hurrying or self._clock.utc() - began_at > FILE_LASTS_S:
                await self._open.withdraw(record)
                return False
            creation = await self._post(record, file)
            match creation:
                case Remote() | Unsure() | None:
                    self._trouble = Trouble()
                    return True
                case NotNow():
                    said = cause(creation)
                case Declined(reply=FileGone() as reply):
                    file, said = "", reply.message
                case Declined(reply=Invalid() as reply):
                    await self._refused(record, attempts, reply.message)
                    return False
                case Declined(reply=Stopped() as reply):
                    await self._open.withdraw(record)
                    self._pool.stop("provider", reply.message)
                    return False
            if not await self._wait(record, said):
                return False

    async def _upload(self, record: BatchRecord, attempts: dict[str, Claimed]) -> str | None:
        """The uploaded input (`files/…`); None where the batch is given up."""
        books, pool = self._open.books, self._pool
        model = books.model_of(record.model)
        items = [
            (token, assignment(books.job, one, model, pool.batch_references.parts(one.references)))
            for token, one in attempts.items()
        ]
        while not pool.hurrying:
            try:
                return await self._open.batches.upload(record.token, items)
            except Unsendable as error:
                if error.passing:
                    if not await self._wait(record, error.message):
                        return None
                    continue
                spoilt = attempts.get(error.key or "")
                if spoilt is None:
                    await self._open.withdraw(record)
                    pool.stop("provider", f"the batch lane needs the Files API: {error.message}")
                    return None
                outcomes = {token: (one, put_back("withdrawn")) for token, one in attempts.items()}
                invalid = Invalid(400, error.message)
                await self._open.end(record, {**outcomes, spoilt.token: (spoilt, invalid)}, "withdrawn", "")
                return None
        await self._open.withdraw(record)
        return None

    async def _post(self, record: BatchRecord, file: str) -> Creation | None:
        """Ask for the job, and book what is certain; None where that could not be booked."""
        said: list[Creation] = []
        batches, ledger = self._open, self._open.ledger

        async def post() -> None:
            certain(await ledger.posting(record.token, file, now=self._clock.utc()), record)
            posted = {"state": BatchState.CREATING, "file": file, "posted_at": self._clock.utc()}
            batches.change(record, **posted, absent_at=None)
            creation = await batches.batches.create(record.model, record.display_name, file)
            match creation:
                case Remote():
                    await batches.created(record, creation)
                case Declined() | NotNow():
                    certain(await ledger.unposted(record.token, now=self._clock.utc()), record)
                    batches.change(record, state=BatchState.INTENT)
                case Unsure():
                    log.warning(
                        "batch %s: whether it was created is not known (%s): it is looked for",
                        *(record.token[:8], cause(creation)),
                    )
            said.append(creation)

        await batches.carry_through(post)
        return said[0] if said else None

    async def _refused(self, record: BatchRecord, attempts: dict[str, Claimed], message: str) -> None:
        """The service takes no job of this input: as if it had failed at once (gemini-api.md §8.4)."""
        failed = Remote("", state="FAILED", error=Failure(3, message))
        held = [(token, one.quote.nanos) for token, one in attempts.items()]
        outcomes = remains(failed, held, asked=len(held), answered=0)
        log.warning("batch %s was refused: %s", record.token[:8], message)
        ends = {token: (attempts[token], outcomes[token]) for token in attempts}
        await self._open.end(record, ends, "failed", message)

    async def _wait(self, record: BatchRecord, said: str) -> bool:
        """Wait before asking again; False where that was long enough, and the batch is given up."""
        if await self.wait_out(said):
            return True
        await self._open.withdraw(record)
        return False

    async def wait_out(self, said: str) -> bool:
        """Wait while nothing can be submitted (`said`); False where that was long enough: the run stops.

        While other batches or requests are out the run waits for these in any case, and is patient.
        """
        pool, trouble, now = self._pool, self._trouble, self._clock.now()
        if not trouble.times or self._open.at_service() or pool.in_flight:
            trouble.since = now
        trouble.times += 1
        if said != trouble.said:
            trouble.said = said
            log.warning("no batch can be submitted: %s", said)
        if now - trouble.since > PATIENCE_S:
            pool.stop("provider", f"half an hour without one batch submitted ({said})")
            return False
        poll_s = self._open.poll_s
        pause_s = max(poll_s, backoff_s(trouble.times, 0.5 + self._clock.jitter() / 2))
        await self._open.sleep(min(10 * poll_s, pause_s))
        return True
