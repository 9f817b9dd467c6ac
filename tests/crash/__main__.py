"""The long form of the crash test: `python -m tests.crash --kills 200 --at-points 10`."""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.crash.rounds import POINTS, Plan, Report, besiege

console = Console(highlight=False)


def main() -> None:
    """Kill as often as asked, then print a table. AssertionError: an invariant did not hold after a round."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="at random times, 16 requests or more in flight")
    parser.add_argument("--at-points", type=int, default=10, help=f"at each of {', '.join(POINTS)}")
    parser.add_argument("--early", type=int, default=20, help="while a run mends what the one before has left")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="an empty folder for ledger, pictures and bill, kept afterwards")
    given = parser.parse_args()
    plan = Plan(given.kills, given.at_points, given.early, given.seed)
    with tempfile.TemporaryDirectory(prefix="bulkrender-crash-") as scratch:
        report, _ = besiege(given.keep or Path(scratch), plan, console.print)
    console.print(table(report))
    console.print(report.line(), soft_wrap=True)


def table(report: Report) -> Table:
    """Kills by kind, then what came of them."""
    totals, made = report.totals, Table(title=f"{report.elapsed_s:.0f} s")
    made.add_column("measured")
    made.add_column("", justify="right")
    for kind, count in report.kills.most_common():
        made.add_row(f"kills: {kind.replace('_', ' ')}", str(count))
    for name, value in (
        ("requests in flight at kills", sum(report.in_flight)),
        ("of them adopted from disk", report.adopted),
        ("of the others bought twice", totals.duplicates),
        ("purchases", totals.purchases),
        ("cap passed by", f"${report.excess_nanos / 1e9:.9f}"),
        ("times the cap stopped the run", report.halts),
        ("billed", f"${totals.billed / 1e9:.9f}"),
        ("settled, to the nano-dollar", f"${totals.settled / 1e9:.9f}"),
        ("held as unknown", f"${totals.unknown / 1e9:.9f}"),
    ):
        made.add_row(name, str(value))
    return made


if __name__ == "__main__":
    main()
