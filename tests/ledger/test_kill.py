"""What was answered has happened, whatever dies a moment later."""

import subprocess
import sys

from runner.core.lifecycle import Lost
from runner.ledger import Ledger
from tests.ledger.desk import specs

SPENDER = """
import asyncio, sys
from itertools import count
from runner.core.budget import Cap
from runner.ledger import Claimed, Ledger, Load
from tests.ledger.desk import BATCH_SHEET, SHEET, WISH
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

async def send_off(ledger):
    tokens = count(int(sys.argv[2]) * 1_000_000 + 100_000)
    for _ in range(20):
        found = await ledger.submit(
            "job", now=0.0, sheet=BATCH_SHEET, cap=Cap(), wish=WISH, load=Load(lines=5), weigh=lambda *_: 0,
            ready=lambda _: True, policy_attempts=5, new_token=lambda: f"{next(tokens):032x}",
        )
        for one in found.attempts:
            print("submitted", one.token, flush=True)

async def main():
    with Ledger.open(sys.argv[1], "live", now_utc=0.0) as ledger:
        await asyncio.gather(send_off(ledger), *(spend(ledger, lane) for lane in range(8)))

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
    assert all(ended[token] == "running" for verb, token in told if verb == "submitted")
    sent_off = Ledger.read(desk.url).open_batches("job")
    lines = [len(Ledger.read(desk.url).batch_attempts(batch.token)) for batch in sent_off]
    assert lines == [batch.lines for batch in sent_off]
    assert sum(lines) == kept.tasks["submitted"] > 0
    left = Ledger.read(desk.url).running("job")
    assert len(left) == kept.tasks["running"] <= 24

    for claimed in left:
        desk.settle(claimed, Lost("crashed", "the runner died"))
    rescued = desk.counters()
    assert rescued.tasks["running"] == 0
    assert rescued.spend.unknown == sum(claimed.quote.nanos or 0 for claimed in left)
    assert rescued.spend.unknown + rescued.spend.reserved == kept.spend.reserved


def killed_after(desk, round_, lines) -> list[tuple[str, str]]:
    command = [sys.executable, "-c", SPENDER, desk.url, str(round_)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        told += process.stdout.readlines()
    return [tuple(line.split()) for line in told if line.endswith("\n")]  # type: ignore[misc]
