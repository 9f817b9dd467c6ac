"""The sandbox as a child process on a Unix socket, ending with its parent.

It keeps its bill and request log in a folder beside the sandbox ledger, so that a killed run resumes against the
same history.
"""

import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import anyio

from runner.app.settings import Settings
from runner.core.errors import LocalFailureError

START_S = 30.0


@asynccontextmanager
async def sandbox_child(settings: Settings, state: Path) -> AsyncGenerator[str]:
    """Start the sandbox; yields the path of its socket. LocalFailureError if it does not come up."""
    folder = tempfile.mkdtemp(prefix="bulkrender-")  # socket paths are limited to about a hundred bytes
    try:
        socket = str(Path(folder) / "sandbox.sock")
        command = _command(settings, state, socket)
        # a session of its own: Ctrl-C is for us, its answers in flight must land
        async with await anyio.open_process(
            command, stdin=PIPE, stderr=None, start_new_session=True, env=_without_keys(settings)
        ) as process:
            try:
                await _up(process)
                yield socket
            finally:
                with anyio.CancelScope(shield=True):
                    process.terminate()
                    await process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(settings: Settings, state: Path, socket: str) -> list[str]:
    options = settings.options
    command = [sys.executable, "-P", "-m", "runner", "sandbox", "--uds", socket, "--state", str(state)]
    command += ["--until-stdin-closes"]
    if options.sandbox_faults is not None:
        command += ["--faults", options.sandbox_faults]
    if options.sandbox_latency_s is not None:
        command += ["--latency", str(options.sandbox_latency_s)]
    if options.sandbox_seed is not None:
        command += ["--seed", str(options.sandbox_seed)]
    if options.sandbox_speed is not None:
        command += ["--speed", str(options.sandbox_speed)]
    command += _quotas(options.sandbox_quotas)
    for outage in options.sandbox_outages:
        command += ["--outage", outage]
    return command


def _quotas(texts: Sequence[str]) -> list[str]:
    if not texts:
        return []
    from runner.app.serving import QUOTA_OPTIONS, read_quotas

    read = read_quotas("--sandbox-quota", texts)
    return [word for name, value in read.items() for word in (QUOTA_OPTIONS[name], value)]


def _without_keys(settings: Settings) -> dict[str, str]:
    """The child takes its own default key; a real one is none of its business."""
    keys = {"GOOGLE_API_KEY", "GEMINI_API_KEY", "GEMINI_API_KEY_FILE"}
    return {name: value for name, value in settings.environment.items() if name not in keys}


async def _up(process: anyio.abc.Process) -> None:
    assert process.stdout is not None  # noqa: S101 - asked for by open_process
    with anyio.move_on_after(START_S):
        received = b""
        while b"\n" not in received:
            try:
                received += await process.stdout.receive()
            except anyio.EndOfStream:
                break
        if b"\n" in received:
            return
    raise LocalFailureError("the sandbox did not start: run `bulkrender sandbox --port 0` to see why")
