"""The log of a run, beside the ledger: for the person who comes in the morning, or one JSON object a line.

Every line has a kind, so that a night of requests can be left out: `grep -v ' request '`.
"""

import json
import logging
import logging.handlers
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger("bulkrender")

Format = Literal["text", "json"]

ENDS = {"text": ".log", "json": ".log.jsonl"}
"""Each format has a file of its own, or neither could be read."""
KINDS = {
    ("lane", "_run_one"): "request",
    ("lane", "_settle"): "request",
    ("lane", "_say"): "pace",
    ("lane", "_forgive"): "outage",
    ("lane", "_wait_out"): "outage",
    ("shared", "stop"): "stop",
    ("shared", "park"): "stop",
    ("shared", "blocked"): "wait",
    ("rescue", "_settle"): "request",
    ("running", "_interrupt"): "stop",
    ("batchlane", "_make_ready"): "wait",
    ("deadline", "keep"): "pace",
    ("harvest", "_settle"): "request",
    ("submission", "wait_out"): "wait",
    ("openbatches", "not_told"): "wait",
}
"""What the engine says, told apart by who says it."""
OF_BATCHES = frozenset({"submission", "openbatches", "watching", "harvest", "remotes"})
"""Modules whose other lines are about remote batches."""
OURS = ("kind", "job", "facts")


def path_of(ledger: Path, written: Format) -> Path:
    """Where the log of a ledger is."""
    return ledger.with_name(f"{ledger.name}{ENDS[written]}")


@contextmanager
def log_beside(ledger: Path, written: Format, job: Callable[[], str | None]) -> Iterator[None]:
    """Keep the log; a thread writes it, so that a slow disk never stalls the loop. `job`: whose turn it is."""
    file = logging.FileHandler(path_of(ledger, written), encoding="utf-8", errors="backslashreplace")
    file.setFormatter(_Json() if written == "json" else _Text())
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(lines)
    handler.addFilter(_Stamp(job))
    listener = logging.handlers.QueueListener(lines, file)
    log.setLevel(logging.INFO)
    log.propagate = False  # the terminal has its own lines
    log.addHandler(handler)
    listener.start()
    try:
        yield
    finally:
        log.removeHandler(handler)
        listener.stop()
        file.close()


def told(kind: str, message: str, *, warning: bool = False, **facts: Any) -> None:
    """Log a line of a kind; `facts` are what programs read of it."""
    log.log(logging.WARNING if warning else logging.INFO, "%s", message, extra={"kind": kind, "facts": facts})


class _Stamp(logging.Filter):
    """Kind and job of a record, while it is made."""

    def __init__(self, job: Callable[[], str | None]) -> None:
        super().__init__()
        self._job = job

    def filter(self, record: logging.LogRecord) -> bool:
        given = getattr(record, "kind", None) or KINDS.get((record.module, record.funcName))
        otherwise = "note" if record.levelno >= logging.WARNING else "run"
        record.kind = given or ("batch" if record.module in OF_BATCHES else otherwise)
        record.job = self._job()
        return True


class _Text(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(kind)-8s %(message)s", "%Y-%m-%dT%H:%M:%SZ")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        kind, job, facts = (getattr(record, name, None) for name in OURS)
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "at": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "kind": kind,
            "job": job,
            "message": record.getMessage(),
            **(facts or {}),
        }
        if record.exc_text:
            line["exception"] = record.exc_text
        return json.dumps(line, ensure_ascii=True)
