"""Settings of all tests: a blocking call of the runner on an event loop is an error."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

WATCHED = ["runner.core", "runner.ledger", "runner.engine", "runner.adapters", "runner.app", "runner.cli"]
"""Not the sandbox: it writes its bill before it answers, on purpose."""

NOT_WHILE_REQUESTS_ARE_OUT = {
    "runner/core/catalog.py": {"builtin"},
    "runner/ledger/ledger.py": {"open", "close"},
    "runner/adapters/gemini.py": {"__init__"},
    "runner/adapters/uploads.py": {"__init__"},
    "runner/adapters/batches.py": {"__init__"},
    "runner/app/running.py": {"__init__", "prepare", "_go", "run_jobs"},
    "runner/app/clients.py": {"endpoint"},
    "runner/app/reconcile.py": {"_reconcile"},
    "runner/adapters/models.py": {"__init__"},
    "runner/adapters/webhook.py": {"_client"},
    "runner/app/child.py": {"sandbox_child"},
    "runner/cli/faces.py": {"announce"},
    "tests/engine/test_pool.py": {"_run"},
    "tests/engine/test_references.py": {"_run"},
    "tests/ledger/test_writer.py": {"main", "run", "work"},
    "tests/adapters/test_storage_refusing.py": {"grow"},
}
"""Nothing waits for the loop while a run starts or ends."""

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    # hundreds of processes would compile the same libraries, for a second and more each
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(sys.prefix) / "pycache"))


MEMORY_DISK = Path("/dev/shm")
ROOM = 4_000_000_000


def has_room(disk: Path) -> bool:
    return disk.is_dir() and os.access(disk, os.W_OK) and shutil.disk_usage(disk).free >= ROOM


if "TMPDIR" not in os.environ and has_room(MEMORY_DISK):
    # thousands of small ledgers wait for every commit to reach the disk; what a kill leaves is the same in memory
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY_DISK)


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """Whatever blocks belongs in a thread: a stalled loop is late for time-outs and pacing."""
    with blockbuster_ctx(WATCHED) as watching:
        for function in watching.functions.values():
            for file, names in NOT_WHILE_REQUESTS_ARE_OUT.items():
                function.can_block_in(file, names)
        yield watching
