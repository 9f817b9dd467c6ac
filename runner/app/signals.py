"""What a signal means to a run: the first lets what is in flight land, the second leaves at once."""

import os
import signal
from collections.abc import Callable

import anyio

from runner.app.views import EXIT_BY_HALT


async def heed_signals(
    interrupt: Callable[[signal.Signals], None], abandon: Callable[[], None], grace_s: float
) -> None:
    """Call `interrupt` at the first signal; after SIGTERM call `abandon` too, `grace_s` later. Until cancelled.

    A vanished terminal may send SIGHUP twice, from the kernel and from the shell; that is one wish, not two.
    """
    asked = 0

    async def later() -> None:
        await anyio.sleep(grace_s)
        abandon()

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
        async with anyio.create_task_group() as beside:
            async for number in received:
                if asked and number != signal.SIGHUP:
                    os._exit(EXIT_BY_HALT["interrupted"])
                asked += 1
                interrupt(signal.Signals(number))
                if number == signal.SIGTERM:
                    beside.start_soon(later)
