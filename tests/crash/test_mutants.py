"""What the crash test is worth: each safeguard taken out is noticed, and with all of them in nothing is.

Every kill is at a point, one request is in flight at a time, the sandbox has no faults: nothing is left to chance.
"""

from pathlib import Path

import pytest

from tests.crash.child import POINTS
from tests.crash.rig import Rig, rig

PROMPTS = [f"Banana {number} in a basket" for number in range(12)]
POWER_CUT = "everything unsynced"

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    ("mutant", "point", "broken"),
    [
        ("no adoption", "before_settle", ("adopted",)),
        ("claim after send", "after_send", ("accounted", "bought once")),
    ],
    ids=str,
)
def test_without_adoption_or_without_the_transaction_round_the_claim_the_next_run_shows_it(
    tmp_path: Path, mutant, point, broken
):
    with rig(tmp_path, PROMPTS, concurrency=1, latency_s=0.01) as job:
        assert job.run(point=point, after=2, mutant=mutant).code == -9, job.said()
        job.audit.killed()
        job.run(mutant=mutant)
    assert set(broken) <= seen(job)


@pytest.mark.parametrize(
    ("mutant", "point", "loss"),
    [
        ("no sync", "after_settle", POWER_CUT),
        ("no folder sync", "after_settle", POWER_CUT),
        ("rename before sync", "after_rename", "contents"),
        ("settle before write", "after_settle", POWER_CUT),
    ],
)
def test_in_another_order_of_write_sync_rename_and_settle_a_power_cut_shows_it(
    tmp_path: Path, mutant, point, loss
):
    with rig(tmp_path, PROMPTS, concurrency=1, latency_s=0.01) as job:
        assert job.run(point=point, after=2, mutant=mutant, loss=loss).code == -9, job.said()
    assert "whole" in seen(job)


@pytest.mark.parametrize("loss", [POWER_CUT, "contents"])
def test_with_every_safeguard_in_its_place_the_same_kills_show_nothing(tmp_path: Path, loss):
    """One after another, at every point, on a disk that loses what was not synced."""
    with rig(tmp_path, PROMPTS, concurrency=1, latency_s=0.01) as job:
        for point in POINTS:
            assert job.run(point=point, loss=loss).code == -9, job.said()
            assert seen(job) == set(), point
        assert job.run(loss=loss).code == 0, job.said()
    assert seen(job) == set()


def test_a_sidecar_that_outlived_its_picture_does_not_stop_the_next_run(tmp_path: Path):
    """After a power cut a folder may know the later of two names and not the earlier."""
    with rig(tmp_path, PROMPTS[:2], concurrency=1, latency_s=0.01) as job:
        assert job.run(point="after_sidecar", loss="random 2").code == -9, job.said()
        assert seen(job) == set()
        assert job.audit.shelf.vouched
        assert not job.audit.shelf.hashes
        assert job.run().code == 0, job.said()
    assert seen(job) == set()
    assert job.audit.unfinished() == []


def seen(job: Rig) -> set[str]:
    """Names of the rules that are broken now."""
    job.audit.killed()
    return {violation.rule for violation in job.audit.violations()}
