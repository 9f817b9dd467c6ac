"""The ledger against a bill that is priced with literals, without any crash."""

from decimal import Decimal

from tests.crash.bill import read_bill
from tests.crash.rig import rig

PROMPTS = [f"A market stall with {number} bananas" for number in range(19)]
SIZES = ("512", "1K", "2K", "4K")
ASPECTS = ("1:1", "16:9")
FAULTS = (
    "storm,usage_missing=0,minute_quota=0.001,bare_429=0.001,http_503=0.001,http_503_demand=0.001,error_list=0"
)
"""All faults but one: a picture without usage is settled at an estimate by design, so its bill cannot be met.
Those that close the gate for seconds are rare: they cost nothing but time."""
MUTE = "no_usage_refusal"
"""An answer in full that says nothing of its cost: unknown, like those that were never answered."""


def test_what_was_answered_is_settled_at_the_bill_s_price_and_what_was_not_is_held(tmp_path):
    with rig(tmp_path, PROMPTS, SIZES, ASPECTS, attempts=3, faults=FAULTS, latency_s=0.1, seed=5) as job:
        ended = job.run()
        assert ended.code in {0, 1}, job.said()
    bill, attempts = read_bill(job.state), job.audit.attempts()
    assert job.audit.violations() + job.audit.unfinished() == []

    told = [line for line in bill if line.answered and line.outcome != MUTE]
    settled = [one for one in attempts if one.state == "settled"]
    assert len(told) == len(settled) > 150
    assert {line.response_id for line in told} == {one.response_id for one in settled}
    assert sum(line.nanos for line in told) == sum(one.cost_nanos or 0 for one in settled)
    assert Decimal(ended.result["spend"]["usd"]) * 10**9 == sum(line.nanos for line in told)

    untold = [line for line in bill if line not in told]
    held = [one for one in attempts if one.state == "unknown"]
    assert 0 < len(untold) <= len(held)
    assert Decimal(ended.result["spend"]["unknown_usd"]) * 10**9 == sum(one.reserved_nanos for one in held)
    assert ended.result["spend"]["reserved_usd"] == "0.00"

    differ = sum(one.cost_nanos != one.reserved_nanos for one in settled)
    assert differ >= 0.95 * len(settled)
