"""How people are told a length of time, a moment, a size."""

from datetime import datetime, timedelta
from math import ceil

from runner.app.views import instant


def duration(seconds: float) -> str:
    """`2 d 3:04:05`, `0:00:12`."""
    days, rest = divmod(ceil(seconds), 86_400)
    clock = str(timedelta(seconds=rest))
    return f"{days} d {clock}" if days else clock


def moment(utc: float) -> str:
    """To the second before; and what this machine's clock shows then, as `--by` was given by that."""
    here = datetime.fromtimestamp(int(utc)).astimezone()
    return f"{instant(int(utc))} ({here:%H:%M} here)" if here.utcoffset() else f"{instant(int(utc))}"


def size(size_bytes: int) -> str:
    """`64 MB`, `1.2 GB`."""
    if size_bytes < 10**9:
        return f"{size_bytes / 10**6:.0f} MB"
    return f"{size_bytes / 10**9:.1f} GB"
