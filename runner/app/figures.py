"""How people are told a length of time, a moment, a size."""

from datetime import datetime, timedelta
from math import ceil


def duration(seconds: float) -> str:
    """`2 d 3:04:05`, `0:00:12`."""
    days, rest = divmod(ceil(seconds), 86_400)
    clock = str(timedelta(seconds=rest))
    return f"{days} d {clock}" if days else clock


def local_time(utc: float) -> str:
    """To the second before, in this machine's time, with its offset."""
    return datetime.fromtimestamp(int(utc)).astimezone().isoformat(" ")


def size(size_bytes: int) -> str:
    """`64 MB`, `1.2 GB`."""
    if size_bytes < 10**9:
        return f"{size_bytes / 10**6:.0f} MB"
    return f"{size_bytes / 10**9:.1f} GB"
