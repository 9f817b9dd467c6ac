"""The whole night: `python -m tests.night --svg docs/night.svg` passes it, judges it, and draws it."""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from tests.night.night import LIMITS, NANOS, Plan, Report, holds, pass_night
from tests.night.plot import svg

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Let it pass, print a table in Markdown, draw. AssertionError: it was not what it has to be."""
    usual = Plan()
    parser = argparse.ArgumentParser(prog="python -m tests.night", description=__doc__)
    parser.add_argument("--tasks", type=int, default=usual.tasks)
    parser.add_argument("--kills", type=int, default=usual.kills)
    parser.add_argument("--speed", type=float, default=usual.speed, help="of its clock, against the wall's")
    parser.add_argument(
        "--outage", type=float, default=usual.outage_at_s, help="seconds from the start of the sandbox"
    )
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--faults", default=usual.faults, help="as `bulkrender sandbox` takes them")
    parser.add_argument("--svg", type=Path, help="where to draw it")
    parser.add_argument("--keep", type=Path, help="an empty folder for ledger, pictures and bill, kept afterwards")
    given = parser.parse_args()
    plan = Plan(given.tasks, given.kills, given.speed, given.outage, given.seed, given.faults)
    with tempfile.TemporaryDirectory(prefix="bulkrender-night-") as scratch:
        report = pass_night(given.keep or Path(scratch), plan)
    if given.svg:
        given.svg.write_text(svg(report), encoding="utf-8")
    for row in ("measured", ""), ("---", "---"), *table(report):
        console.print("|", " | ".join(row), "|")
    holds(report)


def table(report: Report) -> list[tuple[str, str]]:
    """What was measured, in words."""
    held, resumed = sorted(report.held), report.lives[1:]
    took, allowed = report.took_s, report.allowed_s
    return [
        ("pictures", f"{report.succeeded:,} of {report.plan.tasks:,}"),
        ("the night", f"{_hours(report.night_s)}, at {report.plan.speed:g} times the wall's speed"),
        ("without the outage", f"{_hours(took)}; the limits allow {_hours(allowed)}"),
        ("took", f"{took / allowed:.3f} times what the limits allow"),
        ("requests", f"{len(report.sends):,}, and {len(report.arrivals) - len(report.sends)} into the outage"),
        ("refused by a quota", f"{len(report.refused)}, {len(report.unforeseen)} of them unforeseen"),
        ("most in any minute", f"{report.most_requests} requests of {LIMITS.rpm}"),
        ("most in any ten minutes", f"{_dollars(report.most_nanos)} of {_dollars(LIMITS.spend_nanos)}"),
        ("full ten minutes: median, least", f"{_dollars(held[len(held) // 2])}, {_dollars(held[0])}"),
        ("faults", str(report.faults)),
        ("in flight at the kills", " + ".join(str(one.in_flight) for one in report.lives[:-1]) or "0"),
        ("billed, and of no use", f"{report.wasted} of {report.totals.purchases:,}"),
        ("settled", f"{_dollars(report.totals.settled)} of a cap of {_dollars(report.cap_nanos)}"),
        ("held as unknown", _dollars(report.totals.unknown)),
        ("from a resumed job's lock to its first request", f"{_most(one.resume_s for one in resumed)} s at most"),
        ("from the start of its process", f"{_most(one.sends_s for one in resumed)} s at most"),
        ("of the wall", f"{report.elapsed_s:.0f} s"),
    ]


def _hours(seconds: float) -> str:
    return f"{seconds / 3_600:.2f} h"


def _dollars(nanos: int) -> str:
    return f"${nanos / NANOS:.2f}"


def _most(values: Iterable[float]) -> str:
    return f"{max(values, default=0.0):.2f}"


if __name__ == "__main__":
    main()
