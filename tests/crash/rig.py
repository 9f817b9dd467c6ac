"""A job, its sandbox and its runner, which can be started, killed and started again."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.audit import Audit
from tests.sandbox.process import ROOT, sandbox_process

BOUND_S = 600.0
"""No runner of these tests takes as long; one that does is killed, and the test fails."""
STDERR = "stderr.txt"
JOB, MODEL = "crash", "gemini-3.1-flash-image-preview"


@dataclass(frozen=True, slots=True)
class Ended:
    """How one process of the runner ended."""

    code: int
    """Exit code; -9 after a kill."""
    resume_s: float | None
    """From its start, interpreter included, to its first claim; None if it claimed nothing."""
    result: Mapping[str, Any]
    """Its JSON object; empty after a kill."""
    died_at: str | None = None
    """The point at which it killed itself."""


@dataclass(frozen=True, slots=True)
class Death:
    """Kill the runner so many seconds after it has said this: `started`, `claimed` or `busy`."""

    word: str
    delay_s: float


@dataclass
class Rig:
    """One job in one folder, against one sandbox."""

    folder: Path
    base_url: str
    concurrency: int
    audit: Audit = field(init=False)

    def __post_init__(self) -> None:
        self.audit = Audit(self.state, self.folder / "bulkrender.db", self.folder / "renders")

    @property
    def state(self) -> Path:
        """Where the sandbox keeps its bill."""
        return self.folder / "sandbox"

    def run(self, *, budget_nanos: int | None = None, death: Death | None = None, **script: Any) -> Ended:
        """Start the runner, wait for its end, or bring it about. `script` is that of `child.Script`."""
        command = [sys.executable, "-m", "tests.crash.child", json.dumps(script), *self._command(budget_nanos)]
        began = time.monotonic()
        with (self.folder / STDERR).open("ab") as log, _bounded(command, ROOT, stderr=log) as child:
            resume_s, died_at, last = None, None, ""
            for line in child.stdout or ():
                if line.startswith("claimed"):
                    resume_s = time.monotonic() - began
                elif line.startswith("dies at "):
                    died_at = line.split()[-1]
                if death is not None and line.strip() == death.word:
                    _kill_after(child, death.delay_s)
                last = line
            code = child.wait()
        assert time.monotonic() - began < BOUND_S, f"no end in {BOUND_S:g} s\n{self.said()}"
        return Ended(code, resume_s, json.loads(last) if last.startswith("{") else {}, died_at)

    def said(self) -> str:
        """The last lines that runners said to people."""
        return "\n".join((self.folder / STDERR).read_text(encoding="utf-8", errors="replace").splitlines()[-8:])

    def _command(self, budget_nanos: int | None) -> list[str]:
        command = ["run", str(self.folder / "job.yaml"), "--yes", "--json", "--base-url", self.base_url]
        command += ["--database", f"sqlite:///{self.audit.ledger}", "--output", str(self.audit.shelf.root)]
        command += ["--concurrency", str(self.concurrency)]
        return command if budget_nanos is None else [*command, "--budget", f"{budget_nanos / 10**9:.9f}"]


@contextmanager
def rig(
    folder: Path,
    prompts: Sequence[str],
    sizes: Sequence[str] = ("512",),
    aspects: Sequence[str] = ("1:1",),
    *,
    concurrency: int = 16,
    attempts: int = 5,
    **sandbox: Any,
) -> Iterator[Rig]:
    """A rig with a job of these prompts, sizes and aspects; the sandbox ends with the context."""
    write_manifest(folder / "job.yaml", prompts, sizes, aspects, attempts)
    with sandbox_process(folder / "sandbox", port=0, **sandbox) as base_url:
        yield Rig(folder, base_url, concurrency)


def write_manifest(
    path: Path,
    prompts: Sequence[str],
    sizes: Sequence[str] = ("512",),
    aspects: Sequence[str] = ("1:1",),
    attempts: int = 5,
) -> None:
    """A manifest that takes every prompt literally. JSON is YAML."""
    listed = [{"id": f"p{number:05}", "text": text, "template": False} for number, text in enumerate(prompts)]
    manifest = {
        "job": JOB,
        "model": MODEL,
        "prompts": listed,
        "matrix": {"size": sizes, "aspect": aspects},
        "retry": {"attempts": attempts},
        "limits": {"rpm": 100_000},  # what a rate that has to be found takes is judged elsewhere
    }
    path.write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without anything that speaks to the runner, and with the sandbox's key."""
    spoken = ("BULKRENDER_", "GOOGLE_", "GEMINI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(spoken)}
    return {**kept, "PYTHONPATH": str(ROOT), "GEMINI_API_KEY": "sandbox", **more}


@contextmanager
def _bounded(command: list[str], cwd: Path, stderr: Any) -> Iterator["subprocess.Popen[str]"]:
    """A child that does not outlive the context, nor `BOUND_S`."""
    child = subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True,
        env=clean_environment(), process_group=0,
    )  # fmt: skip
    bound = threading.Timer(BOUND_S, child.kill)
    bound.start()
    try:
        with child:
            try:
                yield child
            finally:
                child.kill()
    finally:
        bound.cancel()


def _kill_after(child: "subprocess.Popen[str]", delay_s: float) -> None:
    try:
        child.wait(delay_s)
    except subprocess.TimeoutExpired:
        child.kill()
