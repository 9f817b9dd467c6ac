"""What was answered has happened, whatever dies a moment later."""

import subprocess
import sys

from runner.core.lifecycle import Lost
from runner.ledger import Ledger
from tests.ledger.desk import specs

SPENDER = """
import asyncio, sys
from runner.core.budget import Cap
from runner.ledger import Claimed, Ledger
from tests.ledger.desk import SHEET, WISH
from tests.ledger.test_writer import settle

async def spend(ledger, lane):
    for n in range(1000):
        token = f"{int(sys.argv[2]) * 1_000_000 + lane * 1000 + n:032x}"
        claimed = await ledger.claim("job", now=0.0, sheet=SHEET, cap=Cap(), token=token, wish=WISH)
        if not isinstance(claimed, Claimed):
            return
        print("claimed", token, flush=True)
        await settle(ledger, claimed)
        print("settled", token, flush=True)

async def main():
    with Ledger.open(sys.argv[1], "live", now_utc=0.0) as ledger:
        await asyncio.gather(*(spend(ledger, lane) for lane in range(8)))

asyncio.run(main())
"""


def test_answers_survive_a_kill_and_the_counters_are_those_of_the_rows(desk):
    desk.enqueue(specs(2_000))
    told: list[tuple[str, str]] = []
    for round_ in range(3):
        told += killed_after(desk, round_, lines=40 + 7 * round_)

    kept = desk.counters()
    ended = {attempt.token: attempt.state for attempt in desk.attempts()}
    assert len(told) > 100
    assert all(token in ended for _, token in told)
    assert all(ended[token] == "settled" for verb, token in told if verb == "settled")
    left = Ledger.read(desk.url).running("job")
    assert len(left) == kept.tasks["running"] <= 24

    for claimed in left:
        desk.settle(claimed, Lost("crashed", "the runner died"))
    rescued = desk.counters()
    assert (rescued.tasks["running"], rescued.spend.reserved) == (0, 0)
    assert rescued.spend.unknown == kept.spend.reserved


def killed_after(desk, round_, lines) -> list[tuple[str, str]]:
    command = [sys.executable, "-c", SPENDER, desk.url, str(round_)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        told += process.stdout.readlines()
    return [tuple(line.split()) for line in told if line.endswith("\n")]  # type: ignore[misc]
