"""A provider's limits by dimension, and what one request takes of each (gemini-api.md §7.5).

Who counts what was sent is `quota`; when a job will be done under them is `forecast`.
"""

from dataclasses import dataclass
from typing import Literal

MINUTE_S = 60.0
SPEND_WINDOW_S = 600.0

Dimension = Literal["requests", "tokens", "images", "day", "spend_window", "month"]
"""Requests, input tokens and images a minute; requests a day; dollars a rolling ten minutes and a calendar month.

Days and months turn at midnight Pacific. The first four are a model's at its endpoint, the last two the
endpoint's: all its models together."""

OF_THE_ENDPOINT: frozenset[Dimension] = frozenset({"spend_window", "month"})

Binding = Literal[
    "requests",
    "tokens",
    "images",
    "day",
    "spend_window",
    "month",
    "concurrency",
    "bytes",
    "budget",
    "outage",
    "refused",
    "room",
    "retries",
    "references",
    "remote",
    "batches",
]
"""What holds a run back: a dimension; requests or bytes in flight; the cap; the provider's troubles (`outage`) or
its refusals (`refused`); no room on the disk; nothing due before a retry; references being
read or uploaded; remote batch jobs that are not done (`remote`), or as many of them as may be (`batches`)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests are held to; None is no limit of that kind."""

    rpm: int | None = None
    """Requests in any sliding minute."""
    tpm: int | None = None
    """Input tokens in any sliding minute."""
    ipm: int | None = None
    """Images in any sliding minute."""
    rpd: int | None = None
    """Requests in a Pacific day."""
    spend_nanos: int | None = None
    """Nano-dollars in any sliding ten minutes."""
    month_nanos: int | None = None
    """Nano-dollars in a Pacific calendar month, whoever spends them."""
    month_elsewhere_nanos: int = 0
    """Nano-dollars of this month that were spent outside of this ledger."""
    concurrency: int | None = None
    """Requests in flight."""
    bytes_in_flight: int | None = None
    """Bytes that the answers in flight may have at most."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one request takes of every limit, at worst until it is answered."""

    tokens: int = 0
    images: int = 1
    nanos: int = 0
    bytes: int = 0
