"""Prompts that people really wrote, through faults and two kills."""

from decimal import Decimal
from typing import Any

import pytest

from tests.crash.bill import read_bill, read_requests
from tests.crash.rig import rig
from tests.sandbox.process import ROOT

SOURCE = ROOT.parent / "shared/prompts/parti/PartiPrompts.tsv"
FAULTS = "mild,minute_quota=0.0003,bare_429=0.0003,http_503=0.0003,http_503_demand=0.0003"
"""With those faults rare that close the gate for seconds and cost nothing. In a storm five come in a row now and
then, which is an outage: what met them stands aside for minutes."""

pytestmark = pytest.mark.skipif(not SOURCE.exists(), reason=f"{SOURCE} is not here")


def parti() -> list[str]:
    """The 1,632 prompts, as they are."""
    lines = SOURCE.read_bytes().decode().split("\n")[1:]
    return [line.split("\t")[0] for line in lines if line]


def test_the_source_is_complete_and_every_prompt_its_own():
    assert len(parti()) == len(set(parti())) == 1_632


@pytest.mark.timeout(400)
def test_every_real_prompt_arrives_byte_for_byte_and_is_accounted_for(tmp_path):
    """Dying after a third and after two thirds of the settlements. A minute: every prompt has to be sent."""
    prompts = parti()
    third = len(prompts) // 3
    sandbox: dict[str, Any] = {"faults": FAULTS, "latency_s": 0.5, "seed": 1}
    with rig(tmp_path, prompts, concurrency=64, attempts=3, **sandbox) as job:
        for _ in range(2):
            assert job.run(point="before_settle", after=third, busy=16).code == -9, job.said()
            assert job.audit.killed() >= 16
            assert job.audit.violations() == []
        ended = job.run()
        assert ended.code in {0, 1}, job.said()
    assert job.audit.violations() + job.audit.unfinished() == []
    expected = {(prompt, "512", "1:1") for prompt in prompts}
    assert set(read_requests(job.state)) == expected
    assert {line.task for line in read_bill(job.state)} <= expected
    assert ended.result["tasks"]["total"] == len(expected)
    assert sum(ended.result["tasks"][state] for state in ("succeeded", "refused", "failed")) == len(expected)
    assert Decimal(ended.result["spend"]["usd"]) * 10**9 == job.audit.totals().settled
