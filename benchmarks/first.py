"""Seconds from nothing to a gallery: what a person types in the first minutes, in the sandbox.

Run: `python -m benchmarks.first [PROGRAM…]`; the program is the installed `bulkrender` of this environment, unless
another is given. Each line is a process of its own in an empty folder, as for a person. With `--clean` it begins
earlier: a fresh clone, a home without a cache, and the README's first command, which brings everything.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATH = (
    ("init", "jobs/first.yaml", "--job", "first"),
    ("doctor", "jobs/first.yaml", "--sandbox"),
    ("plan", "jobs/first.yaml", "--sandbox"),
    ("run", "jobs/first.yaml", "--sandbox"),
    ("report", "first", "--sandbox"),
    ("gallery", "first", "--sandbox"),
)


def timed(command: list[str], shown: str, folder: Path, environment: dict[str, str]) -> float:
    """Seconds that a command takes; one that fails ends the benchmark with what it said."""
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        sys.exit(f"{shown}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    seconds = time.monotonic() - started
    print(f"{seconds:6.1f} s  {shown}", flush=True)
    return seconds


def cloned(folder: Path, environment: dict[str, str]) -> float:
    """Clone the project into a folder and type the README's first command there; seconds of both."""
    seconds = timed(["git", "clone", "-q", str(ROOT), str(folder)], "git clone", folder.parent, environment)
    found = re.search(r"^```sh\n(.*)\n```$", (folder / "README.md").read_text(), re.MULTILINE)
    if found is None:
        sys.exit("README.md has no command")
    return seconds + timed(["bash", "-c", found[1]], "README's first command", folder, environment)


def main() -> None:
    """Print the seconds of each command and of all."""
    clean, program = "--clean" in sys.argv, [word for word in sys.argv[1:] if word != "--clean"]
    with tempfile.TemporaryDirectory() as home:
        folder, environment, whole = Path(home) / "work", dict(os.environ), 0.0
        if clean:
            kept = (part for part in environment["PATH"].split(":") if Path(part) != Path(sys.executable).parent)
            environment |= {"HOME": home, "PATH": ":".join(kept)}
            environment.pop("VIRTUAL_ENV", None)
            whole += cloned(Path(home) / "bulkrender", environment)
            program = program or [str(Path(home) / "bulkrender/.venv/bin/bulkrender")]
        folder.mkdir()
        for line in PATH:
            command = [*(program or [str(Path(sys.executable).with_name("bulkrender"))]), *line]
            whole += timed(command, f"bulkrender {' '.join(line)}", folder, environment)
        page = next(folder.rglob("index.html"))
        pictures = len(list((page.parents[2] / "first").rglob("*.json")))
        print(f"{whole:6.1f} s  from nothing to a gallery of {pictures} pictures")


if __name__ == "__main__":
    main()
