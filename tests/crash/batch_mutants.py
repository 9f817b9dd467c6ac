"""Safeguards of the batch lane, each taken out by itself: what its crash test must notice."""

from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, update

from runner.adapters.remote import BatchService
from runner.core.lifecycle import Undone
from runner.core.remote import Unsure
from runner.engine import harvest
from runner.engine.harvest import Harvest
from runner.ledger import Ledger
from runner.ledger.models import job as job_table


def _unmarked() -> None:
    """That a create may have left is written down once its answer is in."""
    posting, created = Ledger.posting, Ledger.created
    owed: list[tuple[Any, Any]] = []

    async def late(ledger: Ledger, *args: Any, **kwargs: Any) -> bool:
        owed.append((args, kwargs))
        return True

    async def booked(ledger: Ledger, *args: Any, **kwargs: Any) -> bool:
        while owed:
            late_args, late_kwargs = owed.pop()
            await posting(ledger, *late_args, **late_kwargs)
        return await created(ledger, *args, **kwargs)

    patch.object(Ledger, "posting", late).start()
    patch.object(Ledger, "created", booked).start()


def _create_again() -> None:
    """A create whose answer was lost is sent again at once."""
    create = BatchService.create

    async def sure(service: BatchService, *args: Any) -> Any:
        while isinstance(found := await create(service, *args), Unsure):
            pass
        return found

    patch.object(BatchService, "create", sure).start()


def _by_order() -> None:
    """The first line of the results is taken for that of the first request."""
    take = Harvest._take

    async def taken(self: Harvest, line: Any) -> None:
        attempt = next(iter(self._open.values()), None)
        if attempt is not None:
            with patch.object(self, "_open", {line.key: attempt, attempt.token: attempt}):
                await take(self, line)
            del self._open[attempt.token]

    patch.object(Harvest, "_take", taken).start()


def _settled_twice() -> None:
    """The money of an answer is booked once more."""
    settle = Ledger.settle

    async def twice(ledger: Ledger, claimed: Any, outcome: Any, settlement: Any, *args: Any, **kwargs: Any) -> Any:
        found = await settle(ledger, claimed, outcome, settlement, *args, **kwargs)

        def again(connection: Connection) -> None:
            more = job_table.c.settled_nanos + (settlement.nanos or 0)
            connection.execute(update(job_table).values(settled_nanos=more))

        if settlement.state == "settled":
            await ledger._writer.run(again)
        return found

    patch.object(Ledger, "settle", twice).start()


def _missing_is_free() -> None:
    """A line that is missing from the results costs nothing, whatever the service says that it has done."""

    def remains(_remote: Any, left: Any, **_: Any) -> Any:
        return {key: Undone("line_missing", "no line", tried=True) for key, _ in left}

    patch.object(harvest, "remains", remains).start()


BATCH_MUTANTS: Mapping[str, Callable[[], None]] = {
    "unmarked": _unmarked,
    "create again": _create_again,
    "by order": _by_order,
    "settled twice": _settled_twice,
    "missing is free": _missing_is_free,
}
