"""The batch lane killed once at every step. `python -m tests.crash --lane batch` is the long form."""

from decimal import Decimal
from pathlib import Path

import pytest

from tests.crash.batch_points import STAGES
from tests.crash.batch_rig import Campaign, batch_rig
from tests.crash.batch_rounds import FAULTS, BatchPlan, besiege_batches

QUICK = 600.0
"""How much faster the sandbox's clock runs than the wall's, where nothing hangs on it."""
WAITING = "batch_stuck=0,batch_expired=0"
"""What waits for two days is for the long form."""

pytestmark = pytest.mark.timeout(240)


def test_killed_at_every_step_each_job_is_created_once_and_each_picture_bought_once(tmp_path):
    """After every round the audit of the sandbox's books, ledger and folder finds nothing; `rounds` asserts it."""
    plan = BatchPlan(
        Campaign(prompts=16, referring=2, lines=16),
        at_stages=1, kills=0, early=0, services=1, cancels=1, room=16, faults=f"{FAULTS},{WAITING}", speed=240.0,
    )  # fmt: skip
    report, ended = besiege_batches(tmp_path, plan)
    print(report.line())  # noqa: T201 - shown with -s, and after a failure
    assert ended.code in {0, 1}
    assert Decimal(ended.result["spend"]["usd"]) * 10**9 == report.totals.settled
    assert Decimal(ended.result["spend"]["unknown_usd"]) * 10**9 == report.totals.unknown
    assert all(report.stage(name) for name in STAGES)
    assert report.lines_out > 0
    assert sum(ended.result["tasks"][state] for state in ("succeeded", "refused", "failed")) == 64


@pytest.mark.parametrize(
    ("mutant", "faults", "lines", "broken"),
    [
        # a create that is always lost would go on for ever; that none of eight is has 3 chances in a million
        ("create again", "batch_create_lost=0.8", 1, {"one job a token", "one line a key"}),
        ("by order", "batch_lines_shuffled=1", 64, {"matched by key"}),
        ("settled twice", "batch_lines_repeated=1", 64, {"counters"}),
        ("missing is free", "batch_lines_dropped=1", 64, {"accounted"}),
    ],
    ids=["create again", "by order", "settled twice", "missing is free"],
)
def test_without_a_safeguard_a_fault_shows_it(tmp_path: Path, mutant, faults, lines, broken):
    assert broken <= after(tmp_path, faults, mutant=mutant, lines=lines)


def test_without_the_mark_before_a_create_the_run_after_a_kill_shows_it(tmp_path: Path):
    assert {"one job a token", "accounted"} <= after(tmp_path, "", mutant="unmarked", point="create_answered")


def test_with_every_safeguard_in_its_place_the_same_shows_nothing(tmp_path: Path):
    faults = "batch_create_lost=0.5,batch_lines_shuffled=0.3,batch_lines_repeated=0.3,batch_lines_dropped=0.4"
    assert after(tmp_path, faults, mutant=None, point="create_answered") == set()


def after(folder: Path, faults: str, *, mutant: str | None, point: str | None = None, lines: int = 64) -> set[str]:
    """Names of the rules broken after a run, at most `lines` a batch, and one before that died at `point`."""
    calm = f"overrun=0,{faults}".strip(",")
    times = {"batch_pending_s": 60.0, "batch_running_s": 60.0, "batch_line_s": 0.0}
    with batch_rig(
        folder, Campaign(prompts=2, lines=lines, attempts=2), speed=QUICK, faults=calm, seed=2, **times
    ) as job:
        if point is not None:
            assert job.run(busy=0, point=point, mutant=mutant).code == -9, job.said()
            job.audit.killed()
        assert job.run(busy=0, mutant=mutant).code in {0, 1}, job.said()
        return {violation.rule for violation in job.audit.violations()}
