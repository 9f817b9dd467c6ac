"""Time and memory of expanding a long prompt file, by its rows.

Run: `python -m benchmarks.expansion`. Each file is expanded in a process of its own, as `plan` does: read, judged,
and every task made once more. Memory is what the process has at its peak above what its imports took.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runner.adapters.material import Material
from runner.core.catalog import builtin
from runner.core.manifest import parse
from runner.core.matrix import Expansion

ROWS = (200_000, 1_000_000)
MANIFEST = "job: long\nmodel: gemini-3.1-flash-image\nprompts: [{from: rows.txt}]\n"


def peak_mb() -> float:
    """The most memory that this process has had, in megabytes; Linux counts in KB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1_024) / 1e6


def measure(folder: Path) -> str:
    """Expand the file once."""
    before, start = peak_mb(), time.process_time()
    tasks = Expansion(parse(MANIFEST, str(folder / "long.yaml"), builtin()), builtin(), Material(folder))
    judged = time.process_time() - start
    count = sum(1 for _ in tasks)
    seconds = time.process_time() - start
    return f"{count:>9,} rows: {seconds:5.1f} s of CPU, {judged:.1f} of it to judge, {peak_mb() - before:5.1f} MB"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure(Path(sys.argv[1])))
        sys.exit()
    for rows in ROWS:
        with tempfile.TemporaryDirectory() as name:
            with (Path(name) / "rows.txt").open("w", encoding="utf-8") as file:
                file.writelines(f"a red fox with {n} lanterns in the snow at dusk\n" for n in range(rows))
            subprocess.run([sys.executable, "-m", "benchmarks.expansion", name], check=True)  # noqa: S603 - itself
