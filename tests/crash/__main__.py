"""The long form of the crash test: `python -m tests.crash --kills 200 --at-points 10`, or with `--lane batch`."""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.crash.batch_points import STAGES
from tests.crash.batch_rounds import OTHERS, BatchPlan, BatchReport, besiege_batches
from tests.crash.rounds import POINTS, Plan, Report, besiege

console = Console(highlight=False)


def main() -> None:
    """Kill as often as asked, then print a table. AssertionError: an invariant did not hold after a round."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--lane", choices=("standard", "batch"), default="standard")
    parser.add_argument("--kills", type=int, help="at random times; 200, and 12 of batches")
    parser.add_argument(
        "--at-points", type=int, help=f"10 at each of {', '.join(POINTS)}; 8 in each of {', '.join(STAGES)}"
    )
    parser.add_argument("--early", type=int, help="while a run mends what the one before has left; 20, and 3")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="an empty folder for ledger, pictures and bill, kept afterwards")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bulkrender-crash-") as scratch:
        folder = given.keep or Path(scratch)
        if given.lane == "batch":
            asked = {"kills": given.kills, "at_stages": given.at_points, "early": given.early, "seed": given.seed}
            plan = BatchPlan(**{name: count for name, count in asked.items() if count is not None})
            batched, _ = besiege_batches(folder, plan, console.print)
            console.print(batch_table(batched), f"seed {plan.seed}: {batched.line()}", soft_wrap=True)
            return
        counts = (given.kills, 200), (given.at_points, 10), (given.early, 20)
        kills, at_points, early = (default if count is None else count for count, default in counts)
        report, _ = besiege(folder, Plan(kills, at_points, early, given.seed), console.print)
    console.print(table(report))
    console.print(report.line(), soft_wrap=True)


def batch_table(report: BatchReport) -> Table:
    """Kills by step and point, then what came of them."""
    totals, made = report.totals, _table(report.elapsed_s)
    for stage, points in STAGES.items():
        said = ", ".join(f"{report.kills[point]} {point}" for point in points)
        made.add_row(f"kills in {stage} ({said})", str(report.stage(stage)))
    for kind in OTHERS:
        made.add_row(f"kills: {kind}", str(report.kills[kind]))
    for name, value in (
        ("deaths of the sandbox", report.service_deaths),
        ("lines out at kills", report.lines_out),
        *((f"batches open at kills: {state}", count) for state, count in report.out.items()),
        *((f"batches: {state.lower()}", count) for state, count in report.ended.most_common()),
        *((f"tasks: {state}", count) for state, count in report.tasks.items() if count),
        ("inputs uploaded", report.inputs),
        ("times the cap stopped the run", report.halts),
        ("lines billed", totals.purchases),
        ("billed", f"${totals.billed / 1e9:.9f}"),
        ("settled, to the nano-dollar", f"${totals.settled / 1e9:.9f}"),
        ("held as unknown", f"${totals.unknown / 1e9:.9f}"),
        ("pictures bought again", totals.duplicates),
        ("last run", f"{report.finish_s:.0f} s"),
    ):
        made.add_row(name, str(value))
    return made


def _table(elapsed_s: float) -> Table:
    made = Table(title=f"{elapsed_s:.0f} s")
    made.add_column("measured")
    made.add_column("", justify="right")
    return made


def table(report: Report) -> Table:
    """Kills by kind, then what came of them."""
    totals, made = report.totals, _table(report.elapsed_s)
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
