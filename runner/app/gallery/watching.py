"""`--watch`: the gallery written again whenever its job has moved on."""

import time
from collections.abc import Callable
from contextlib import suppress
from time import sleep

from runner.app.gallery.make import Made, Maker

EVERY_S = 2.0
"""Between two looks at the ledger."""
REST = 4
"""Of the time that the last writing took: how long to wait after it at least."""


def watch(maker: Maker, written: Callable[[Made], None]) -> Made:
    """Write the gallery, and again when the job has moved on, until it is done, stopped or Ctrl-C.

    `written` hears of the first one. The contact sheet, if one is wanted, is written once, at the end. Raises what
    `Maker.make` does.
    """
    made = maker.make(sheet=False)
    written(made)
    with suppress(KeyboardInterrupt):
        wait_s = EVERY_S
        while not made.moment.over:
            sleep(wait_s)
            wait_s = EVERY_S
            if maker.moment() != made.moment:
                began = time.monotonic()
                made = maker.make(sheet=False)
                wait_s = max(EVERY_S, REST * (time.monotonic() - began))
    return made if maker.wanted.contact_sheet is None else maker.make()
