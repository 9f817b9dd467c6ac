"""Seconds from nothing to a gallery: what a person types in the first minutes, in the sandbox.

Run: `python -m benchmarks.first [PROGRAM…]`; the program is the installed `bulkrender` of this environment, unless
another is given. Each line is a process of its own in an empty folder, as for a person.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATH = (
    ("init", "jobs/first.yaml", "--job", "first"),
    ("doctor", "jobs/first.yaml", "--sandbox"),
    ("plan", "jobs/first.yaml", "--sandbox"),
    ("run", "jobs/first.yaml", "--sandbox"),
    ("report", "first", "--sandbox"),
    ("gallery", "first", "--sandbox"),
)


def timed(program: list[str], line: tuple[str, ...], home: Path) -> float:
    """Seconds that a command takes; one that fails ends the benchmark with what it said."""
    started = time.monotonic()
    done = subprocess.run([*program, *line], cwd=home, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        sys.exit(f"bulkrender {' '.join(line)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


def main() -> None:
    """Print the seconds of each command and of all."""
    program = sys.argv[1:] or [str(Path(sys.executable).with_name("bulkrender"))]
    whole = 0.0
    with tempfile.TemporaryDirectory() as home:
        for line in PATH:
            seconds = timed(program, line, Path(home))
            whole += seconds
            print(f"{seconds:6.1f} s  bulkrender {' '.join(line)}", flush=True)
        page = next(Path(home).rglob("index.html"))
        pictures = len(list((page.parents[2] / "first").rglob("*.json")))
        print(f"{whole:6.1f} s  from nothing to a gallery of {pictures} pictures")


if __name__ == "__main__":
    main()
