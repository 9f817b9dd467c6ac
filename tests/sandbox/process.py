"""The sandbox as a process of its own, for tests that kill, resume or drive it from outside."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_CHILD = """
import json, pathlib, sys
from runner.sandbox import Options, fault_plan, parse_outage, serve
given = json.loads(sys.argv[1])
for name in {"state_dir", "uds"} & given.keys():
    given[name] = pathlib.Path(given[name])
if "faults" in given:
    given["faults"] = fault_plan(given["faults"])
given["outages"] = tuple(map(parse_outage, given.get("outages", ())))
serve(Options(**{**given, "retired": frozenset(given.get("retired", ()))}))
"""


def spawn(state_dir: Path, **options: Any) -> tuple[subprocess.Popen[str], str]:
    """Start a sandbox that ends with our end of its stdin; returns it and its base URL once it listens.

    `options` are those of `Options`; `faults` as text for `fault_plan`, `outages` as a list of texts for
    `parse_outage`, paths and sets as themselves. A Unix socket's path must be short (104 bytes on macOS). Whoever
    calls closes `stdin`, or kills it, and waits.
    """
    given = {"state_dir": state_dir, "until_stdin_closes": True, **options}
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, json.dumps(given, default=_plain)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    if not (base_url := child.stdout.readline().strip()):
        child.wait(10)
        raise RuntimeError(f"the sandbox ended with {child.returncode} before it listened")
    return child, base_url


def _plain(value: object) -> Any:
    return sorted(value) if isinstance(value, frozenset) else str(value)


@contextmanager
def sandbox_process(state_dir: Path, **options: Any) -> Iterator[str]:
    """The base URL of a sandbox that runs as long as the context."""
    child, base_url = spawn(state_dir, **options)
    with child:
        try:
            yield base_url
        finally:
            assert child.stdin is not None
            child.stdin.close()
            child.wait(10)
