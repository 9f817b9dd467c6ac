"""Eighteen kills: at random times, while mending, where it hurts. `python -m tests.crash` is the long form."""

from decimal import Decimal

import pytest

from tests.crash.rounds import BUSY, POINTS, Plan, besiege


@pytest.mark.timeout(600)
def test_killed_again_and_again_every_picture_is_bought_once_and_kept_under_the_cap(tmp_path):
    """After every round the audit of bill, ledger and folder finds nothing; `rounds` asserts it.

    A minute: every kill is a process that starts, mends and gets busy.
    """
    report, ended = besiege(tmp_path, Plan(kills=6, at_points=2, early=2))
    print(report.line())  # noqa: T201 - shown with -s, and after a failure
    assert ended.code in {0, 1}
    assert Decimal(ended.result["spend"]["usd"]) * 10**9 == report.totals.settled
    assert Decimal(ended.result["spend"]["unknown_usd"]) * 10**9 == report.totals.unknown
    assert [report.kills[kind] for kind in ("random", "early", *POINTS)] == [6, 2, *[2] * len(POINTS)]
    assert sum(report.in_flight) >= BUSY * (6 + 2 * len(POINTS))
    assert report.adopted > 0
    assert report.totals.duplicates <= report.exposed
    assert report.halts > 0
