"""A job of the batch lane, its sandbox, which can be killed and put to sleep as well, and its runner."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.crash.batch_audit import BatchAudit
from tests.crash.rig import JOB, MODEL, Rig
from tests.sandbox.process import ROOT, spawn

LOGO = ROOT / "jobs/data/brand/logo.png"
SPEED = 60.0
"""A minute of the service's in a second."""
HIDDEN_S = 600.0
"""The list may omit a new job for so long, by the clock of the sandbox (gemini-api.md §12)."""
SECONDS_S = 3.0
"""HTTP dates are of whole seconds, and a look takes some of the wall's."""
POLL_S = 1.0
TWO_DAYS_S = 49 * 3600.0
"""Longer than any job lives."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """A manifest: every prompt in two aspects and with two levels of thinking, some with a reference picture."""

    prompts: int
    referring: int = 0
    """Prompts that have a reference."""
    lines: int = 64
    """Most in one batch."""
    jobs: int = 12
    """Most batches open at once."""
    attempts: int = 8
    """Tries of a task."""

    @property
    def tasks(self) -> int:
        """How many pictures that is."""
        return self.prompts * 4

    def write(self, folder: Path, settle_s: float) -> None:
        """Write the manifest and what it refers to. JSON is YAML."""
        shutil.copyfile(LOGO, folder / LOGO.name)
        listed: list[dict[str, Any]] = [
            {"id": f"p{number:04}", "text": f"Banana number {number:06} on a plate", "template": False}
            for number in range(self.prompts)
        ]
        for prompt in listed[: self.referring]:
            prompt["references"] = [LOGO.name]
        manifest = {
            "job": JOB,
            "model": MODEL,
            "lane": "batch",
            "prompts": listed,
            "matrix": {
                "size": ["512"],
                "aspect": ["1:1", "16:9"],
                "mind": ["quick", "slow"],
                "settings": [{"where": {"mind": "slow"}, "generation": {"thinking": "high"}}],
            },
            "retry": {"attempts": self.attempts, "refused": 3},
            "batch": {"poll_s": POLL_S, "settle_s": settle_s, "lines": self.lines, "jobs": self.jobs},
        }
        (folder / "job.yaml").write_text(json.dumps(manifest), encoding="utf-8")


@dataclass
class Service:
    """The sandbox as a process that dies and comes back at the same address."""

    state: Path
    options: Mapping[str, Any]
    base_url: str = ""
    deaths: int = 0
    _child: "subprocess.Popen[str] | None" = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Come up, at the port that it had before."""
        port = urlsplit(self.base_url).port if self.base_url else 0
        self._child, self.base_url = spawn(self.state, port=port, **self.options)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def restart(self, *, asleep_s: float = 0.0) -> None:
        """Kill it, let so much of its time pass, start it again."""
        with self._lock:
            self.kill()
            self.deaths += 1
            path = self.state / "clock.json"
            origin = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(origin | {"clock": origin["clock"] + asleep_s}), encoding="utf-8")
            self.start()


@dataclass
class BatchRig(Rig):
    """One job of the batch lane in one folder."""

    service: Service
    audit: BatchAudit = field(init=False)

    def __post_init__(self) -> None:
        self.audit = BatchAudit(self.state, self.folder / "bulkrender.db", self.folder / "renders")

    def cancel(self, name: str) -> None:
        """Somebody else stops a job (`batches/…`), as a person with the same key may (gemini-api.md §8.11)."""
        url = f"{self.base_url}/v1beta/{name}:cancel"
        answer = httpx.post(url, headers={"x-goog-api-key": "sandbox"})
        assert answer.status_code in {200, 400}, answer.text  # 400: it was over already

    @contextmanager
    def service_dies(self, after_s: float, asleep_s: float) -> Iterator[None]:
        """Inside, the sandbox is killed after so many seconds, and comes back."""
        timer = threading.Timer(after_s, self.service.restart, kwargs={"asleep_s": asleep_s})
        timer.start()
        try:
            yield
        finally:
            timer.join()

    @contextmanager
    def service_sleeps(self, every_s: float) -> Iterator[None]:
        """Inside, the sandbox is killed again and again, and two days of its time pass each time."""
        done = threading.Event()

        def lull() -> None:
            while not done.wait(every_s):
                self.service.restart(asleep_s=TWO_DAYS_S)

        thread = threading.Thread(target=lull)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@contextmanager
def batch_rig(folder: Path, campaign: Campaign, *, speed: float = SPEED, **sandbox: Any) -> Iterator[BatchRig]:
    """A rig with this campaign; the sandbox ends with the context."""
    campaign.write(folder, HIDDEN_S + SECONDS_S * speed)
    service = Service(folder / "sandbox", {"speed": speed, "batch_output_s": 90 * 86400.0, **sandbox})
    service.start()
    try:
        yield BatchRig(folder, service.base_url, 16, service)
    finally:
        service.kill()
