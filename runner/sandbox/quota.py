"""Quotas as the service judges them: at the arrival, over true half-open windows (gemini-api.md §7.5).

No window of a limit's length, and no Pacific day or month, ever holds more than the limit.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from runner.core.catalog import Model
from runner.sandbox.errors import QUOTAS, ApiError, exhausted, quota_exceeded
from runner.sandbox.sample import Charge

PACIFIC = ZoneInfo("America/Los_Angeles")
"""Where days and months turn."""


@dataclass(frozen=True, slots=True)
class Weight:
    """What one request takes of the quotas."""

    tokens: int
    """Input tokens."""
    images: int = 0
    nanos: int = 0
    """Nano-dollars."""

    def rejected(self) -> "Weight":
        """What is left of it where nothing is generated: its input, no image and no money."""
        return Weight(self.tokens)


@dataclass(frozen=True, slots=True)
class Counted:
    """A request that the quotas count; `at` is in seconds of the sandbox's clock."""

    model: str
    at: float
    weight: Weight


def nanos(model: Model, charge: Charge | None, tier: str = "standard") -> int:
    """What a generation costs at the catalog's standard prices and the factor of the tier that served it."""
    if charge is None:
        return 0
    prices = model.prices
    # The service knows every price. Where the catalog does not, the dearest token stands in: never nothing.
    dearest = max(filter(None, (prices.input, prices.text, prices.image)), default=0)
    per_token = [dearest if price is None else price for price in (prices.input, prices.text, prices.image)]
    whole = sum(a * b for a, b in zip((charge.input, charge.text, charge.image), per_token, strict=True))
    return math.ceil(whole * model.service_tiers.get(tier, 1))


def _next_midnight(at: float) -> float:
    day = datetime.fromtimestamp(at, PACIFIC).toordinal() + 1
    return datetime.fromordinal(day).replace(tzinfo=PACIFIC).timestamp()


def _next_month(at: float) -> float:
    day = datetime.fromtimestamp(at, PACIFIC)
    return datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=PACIFIC).timestamp()


@dataclass(frozen=True, slots=True)
class _Kind:
    amount: Callable[[Weight], int]
    until: Callable[[float], float]
    """When what is counted now stops counting."""


_KINDS: Mapping[str, _Kind] = {
    "rpm": _Kind(lambda _: 1, lambda at: at + 60),
    "tpm": _Kind(lambda weight: weight.tokens, lambda at: at + 60),
    "ipm": _Kind(lambda weight: weight.images, lambda at: at + 60),
    "rpd": _Kind(lambda _: 1, _next_midnight),
    "spend": _Kind(lambda weight: weight.nanos, lambda at: at + 600),
    "month": _Kind(lambda weight: weight.nanos, _next_month),
}


class _Window:
    """What still counts towards one limit: amounts, each with the instant at which it stops."""

    def __init__(self) -> None:
        self._held: deque[tuple[float, int]] = deque()
        self._total = 0

    def count(self, amount: int, until: float) -> None:
        if not amount:
            return
        self._held.append((until, amount))
        self._total += amount

    def wait_s(self, amount: int, limit: int, at: float, until: float) -> float:
        """Seconds until so much more fits, 0 if it does; what is more than the limit waits a whole window."""
        while self._held and self._held[0][0] <= at:
            self._total -= self._held.popleft()[1]
        over = self._total + amount - limit
        if over <= 0:
            return 0
        for end, freed in self._held:
            over -= freed
            if over <= 0:
                return end - at
        return until - at


class Quotas:
    """Judges requests in the order of their arrival. There is one key, so a window for each key is this one."""

    def __init__(
        self,
        limits: Mapping[str, int],
        *,
        counted: Iterable[Counted] = (),
        spent: tuple[float, int] = (0, 0),
        count_rejected: bool = False,
        nameless: bool = False,
        values: bool = True,
    ) -> None:
        """`limits` by the names of QUOTAS; `counted`: earlier requests, in order.

        `spent`: an instant, and the nano-dollars that were spent elsewhere in its month. `nameless` refusals name
        no quota, those without `values` no limit. ValueError for a limit with an unknown name.
        """
        if unknown := limits.keys() - QUOTAS.keys():
            raise ValueError(f"unknown quota {min(unknown)!r}: expected one of {', '.join(QUOTAS)}")
        self._limits, self._nameless, self._values = limits, nameless, values
        self._windows: defaultdict[tuple[str, str], _Window] = defaultdict(_Window)
        self.count_rejected = count_rejected
        month, elsewhere = spent
        self._window("month", "").count(elsewhere, _next_month(month))
        for request in counted:
            self._count(request)

    def admit(self, request: Counted) -> None:
        """Count a request that fits every limit; else ApiError 429 of the one with the longest wait."""
        waits = {name: self._wait_s(name, request) for name in self._limits}
        worst = max(waits, key=waits.__getitem__, default=None)
        if worst is None or not waits[worst]:
            self._count(request)
            return
        if self.count_rejected:
            self._count(replace(request, weight=request.weight.rejected()))
        raise self._refusal(worst, request.model, waits[worst])

    def _refusal(self, name: str, model: str, wait_s: float) -> ApiError:
        if self._nameless:
            return exhausted(name)
        return quota_exceeded(name, self._limits[name], model, wait_s, value=self._values)

    def _wait_s(self, name: str, request: Counted) -> float:
        kind = _KINDS[name]
        amount, until = kind.amount(request.weight), kind.until(request.at)
        return self._window(name, request.model).wait_s(amount, self._limits[name], request.at, until)

    def _count(self, request: Counted) -> None:
        for name in self._limits:
            kind = _KINDS[name]
            self._window(name, request.model).count(kind.amount(request.weight), kind.until(request.at))

    def _window(self, name: str, model: str) -> _Window:
        return self._windows[name, model if QUOTAS[name].per_model else ""]
