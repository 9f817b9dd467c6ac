"""Quotas over true sliding windows: no half-open window of a limit's length ever holds more than the limit."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

from runner.sandbox.errors import QUOTAS, ApiError, quota_exceeded


class Quotas:
    """Judges requests at their arrival, for each model. There is one key, so a window for each key is this one.

    Instants are wall-clock seconds, so that a window outlives a restart; `speed` shortens the windows instead.
    """

    def __init__(
        self,
        limits: Mapping[str, int],
        speed: float,
        *,
        count_rejected: bool,
        admitted: Iterable[tuple[str, float]],
    ) -> None:
        """`admitted`: (model, when) of earlier requests. ValueError for a limit with an unknown name."""
        if unknown := limits.keys() - QUOTAS.keys():
            raise ValueError(f"unknown quota {min(unknown)!r}: expected one of {', '.join(QUOTAS)}")
        self._limits, self._speed, self.count_rejected = limits, speed, count_rejected
        self._held: defaultdict[tuple[str, str], deque[float]] = defaultdict(deque)
        for model, at in admitted:
            self._count(model, at)

    def judge(self, model: str, at: float) -> ApiError | None:
        """Admit and count a request, or say which quota rejects it."""
        rejection = next(filter(None, (self._exceeded(name, model, at) for name in self._limits)), None)
        if rejection is None or self.count_rejected:
            self._count(model, at)
        return rejection

    def _exceeded(self, name: str, model: str, at: float) -> ApiError | None:
        held, window_s, limit = self._held[name, model], QUOTAS[name].window_s / self._speed, self._limits[name]
        while held and at - held[0] >= window_s:
            held.popleft()
        if len(held) < limit:
            return None
        # Room comes when all but limit - 1 of those held have left the window.
        wait_s = held[-limit] + window_s - at if limit else window_s
        return quota_exceeded(QUOTAS[name], limit, model, wait_s * self._speed)

    def _count(self, model: str, at: float) -> None:
        for name in self._limits:
            self._held[name, model].append(at)
