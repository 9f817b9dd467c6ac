"""What a sandbox can be told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runner.sandbox.faults import FaultPlan
from runner.sandbox.outage import Outage


@dataclass(frozen=True)
class Options:
    """How one sandbox behaves. Times are seconds of its own clock, `speed` times as fast as the wall's."""

    state_dir: Path
    """Keeps `bill.jsonl`, `requests.jsonl`, `files.jsonl`, `batches.jsonl`, `lines.jsonl`, `clock.json` and the
    folders `files` and `batches`; a sandbox on the same folder goes on from there."""
    port: int | None = None
    """TCP port, 0 for any free one; used when `uds` is None."""
    uds: Path | None = None
    """Unix socket to listen on instead; a file left there by a killed sandbox is replaced."""
    host: str = "127.0.0.1"
    key: str = field(default="sandbox", repr=False)
    seed: int = 0
    speed: float = 1.0
    latency_s: float = 0.4
    """Mean time of a generation; drawn from half of it to one and a half."""
    faults: FaultPlan = field(default_factory=FaultPlan)
    quotas: Mapping[str, int] = field(default_factory=dict)
    """`rpm`, `tpm`, `ipm`: requests, input tokens, images of a model in any sliding minute; `rpd`: its requests in
    a Pacific day. `spend`, `month`: nano-dollars of all models in any sliding ten minutes, in a Pacific month."""
    month_spent_nanos: int = 0
    """What else was spent in the month in which the sandbox first started."""
    count_rejected: bool = False
    """Whether requests rejected by a quota use it up as well: as requests and tokens."""
    nameless_quotas: bool = False
    """Whether a quota refuses without saying which one, how large it is or how long to wait."""
    quota_values: bool = True
    """Whether a refusal by a quota says how large it is, as `quotaValue` and in its prose."""
    outages: tuple[Outage, ...] = ()
    retired: frozenset[str] = frozenset()
    """Model ids that answer 404 `is no longer available`."""
    until_stdin_closes: bool = False
    image: Literal["jpeg", "png"] = "jpeg"
    signature_bytes: int = 2048
    """Size of a `thoughtSignature`; recorded ones are 0.95 to 2.9 MB."""
    request_bytes: int = 20_971_520
    """Most of one request's JSON. Documents say 100 MB since 2026-01, errors with this number are still reported
    (gemini-api.md §13.9): who stays within it is safe with both."""
    file_bytes: int = 2 << 30
    """Most of one file of the Files API (§9.2)."""
    storage_bytes: int = 20 << 30
    """Most of all of them."""
    batch_pending_s: float = 60
    """Mean time that a batch job is PENDING; drawn from 0.5 to 1.5 times of it, as the next two together."""
    batch_running_s: float = 120
    """Mean time that it is RUNNING besides what its lines take. Small jobs take 40 s to 10 min (§8.1)."""
    batch_line_s: float = 0.5
    """What each line adds to that."""
    batch_jobs: int = 100
    """Most jobs that are not done (§7.5)."""
    batch_tokens: int | None = None
    """Most input tokens in the jobs of a model that are not done; None: as documented for tier 1 (§7.5)."""
    batch_inline_bytes: int = 1 << 30
    """Most of an answer with results inline, which holds them twice (§8.8)."""
    batch_output_s: float = 48 * 3600
    """How long results can be had; the documents do not say (§13.13), this is the shortest that was heard of."""
    cancelled_output: bool = False
    """Whether a cancelled job gives the results of the lines that were done; they are billed anyway (§13.12)."""
