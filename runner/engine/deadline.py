"""When what is in batches must be taken back, so that the standard lane can still be done in time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio.to_thread

from runner.core.deadline import standard_from
from runner.core.errors import RunnerError
from runner.engine.ports import Clock
from runner.engine.remotes import Remotes
from runner.engine.shared import Shared

log = logging.getLogger("bulkrender")

LOOKS_S = 15.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time by which all is to be done."""

    by_utc: float
    clock: Clock
    standard_s: Callable[[], float | None]
    """Seconds that the standard lane would need for what has not ended, batches included, as much of it as it can
    buy in time; None: it can buy nothing, and batches are left to go on. Reads the ledger; blocks."""

    async def keep(self, pool: Shared, remotes: Remotes) -> None:
        """Watch the time; once it is short, cancel what is in batches and leave all the rest to the other lane."""
        while not await self.look(pool, remotes):
            await self.clock.sleep(LOOKS_S)

    async def look(self, pool: Shared, remotes: Remotes) -> bool:
        """Take the batches back if the time is short; whether it is."""
        if pool.hurrying or not await self._is_short():
            return pool.hurrying
        by = datetime.fromtimestamp(self.by_utc, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        log.warning(
            "the deadline of %s is near: batches are cancelled (%s), the rest goes to the standard lane",
            *(by, remotes.words()),
        )
        remotes.take_back()
        pool.wake()
        return True

    async def _is_short(self) -> bool:
        try:
            needed_s = await anyio.to_thread.run_sync(self.standard_s)
        except RunnerError as error:  # the next claim says it
            log.warning("%s", error)
            needed_s = 0.0
        return needed_s is not None and self.clock.utc() >= standard_from(self.by_utc, needed_s)
