"""What a dead run left in flight is settled before anything is claimed, all of it together."""

import asyncio
import threading

import pytest

from runner.core.budget import Cap
from runner.core.catalog import builtin
from runner.core.errors import LocalFailureError
from runner.core.lifecycle import Answer
from runner.core.limits import Limits
from runner.core.retry import RetryPolicy
from runner.engine.rescue import READERS, Rescue, Rescued
from runner.ledger import Claimed, JobSpec, Ledger, Wish
from tests.driven import DrivenClock
from tests.engine.bench import MODEL, SHEET, specs
from tests.fakes import USAGE, MemoryStore, made

COUNT = 2 * READERS
WISH = Wish("test", MODEL.id, Limits(rpm=10**9))


class Shelf(MemoryStore):
    """Has every other picture; looks for as many at once as it may, and cannot read the one that is `broken`."""

    def __init__(self, broken=None):
        super().__init__()
        self.broken = broken
        self.together = threading.Barrier(READERS)

    def adopt(self, task):
        self.together.wait(10)
        number = int(task.stem.rpartition("/")[2])
        if number == self.broken:
            raise LocalFailureError("the disk says nothing at all")
        return None if number % 2 else made(task, Answer(pictures=1, usage=USAGE))


@pytest.fixture
def dead(tmp_path):
    """A ledger whose last run died with all its requests in flight."""

    async def run(ledger):
        await ledger.enqueue(JobSpec("j", "0" * 64, "/", Cap(), {}), specs("j", COUNT), now=0.0)
        for number in range(COUNT):
            token = f"{number:032x}"
            claimed = await ledger.claim("j", now=1.0, sheet=SHEET, cap=Cap(), token=token, wish=WISH)
            assert isinstance(claimed, Claimed)

    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}", "live", now_utc=0.0) as opened:
        asyncio.run(run(opened))
        yield opened


def mend(ledger, store):
    rescue = Rescue(ledger, store, DrivenClock(), builtin(), lambda _: SHEET, RetryPolicy())
    return asyncio.run(rescue.mend("j"))


def test_whole_pictures_are_adopted_and_the_rest_is_unknown(dead):
    assert mend(dead, Shelf()) == Rescued(adopted=READERS, unknown=READERS)
    assert [one.state for one in dead.reader.attempts("j")] == ["settled", "unknown"] * READERS
    assert dead.reader.counters("j") == dead.reader.recount("j")
    assert mend(dead, Shelf()) == Rescued()


def test_a_disk_that_cannot_be_read_stops_the_run_and_leaves_only_that_attempt_to_the_next(dead):
    with pytest.raises(LocalFailureError, match="says nothing"):
        mend(dead, Shelf(broken=3))
    assert [one.stem for one in dead.reader.running("j")] == ["j/3"]
    assert dead.reader.counters("j") == dead.reader.recount("j")
