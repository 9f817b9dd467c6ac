"""When a run will be done as things are, and when without what binds.

Arithmetic for `status`, never for a claim.
"""

from dataclasses import dataclass, replace

from runner.core.forecast import Batch, Past, forecast
from runner.core.limits import Binding, Need
from runner.ledger import Standing

FIRST_LATENCY_S = 12.0
"""A usual answer at 1K (gemini-api.md §5.5), until one was measured."""
WEIGHT = 0.02
"""Of the newest answer in the running means: some fifty answers count."""
ENOUGH = 20
"""Answers from which on their means say more than the catalog."""


@dataclass(slots=True)
class Measured:
    """Running means of the answers of this run."""

    likely: Need
    """What one request was thought to take before any had been answered."""
    latency_s: float = FIRST_LATENCY_S
    ended: int = 0
    succeeded: int = 0
    nanos: float = 0.0

    def answered(self, latency_s: float, *, success: bool, nanos: int | None) -> None:
        """One more attempt has ended."""
        self.ended += 1
        self.succeeded += success
        if success:
            share = max(WEIGHT, 1 / self.succeeded)
            self.latency_s += share * (latency_s - self.latency_s)
            self.nanos += share * ((nanos or 0) - self.nanos)

    @property
    def tries(self) -> float:
        """Requests for one picture."""
        return self.ended / self.succeeded if self.succeeded >= ENOUGH else 1.0

    @property
    def need(self) -> Need:
        """What one request takes."""
        return replace(self.likely, nanos=round(self.nanos)) if self.succeeded >= ENOUGH else self.likely


def outlook(
    standing: Standing, measured: Measured, model: str, binds: Binding | None, *, in_flight: int, now: float
) -> tuple[float | None, float | None]:
    """(when it will be done as things are, when without `binds`), UTC; None: never, or nobody can say.

    How long an outage lasts nobody can say; what a cap stops is not done at all.
    """
    left = max(0, standing.left - in_flight)
    batches = [Batch(round(left * measured.tries) or left, measured.need)] if left else []
    past = replace(past_of(standing, model), in_flight=in_flight)

    def finish(without: Binding | None, past: Past) -> float | None:
        if not batches and not in_flight:
            return now
        budget = None if without == "budget" else standing.free_nanos
        seen = forecast(
            batches,
            standing.limits,
            past,
            now=now,
            latency_s=measured.latency_s,
            budget_nanos=budget,
            without=None if without == "budget" else without,
        )
        return None if seen.finish_s is None else now + seen.finish_s

    open_now = replace(past, not_before=None)
    if binds in {"outage", "refused"}:
        as_it_is = None if binds == "outage" else finish(None, past)
        return as_it_is, finish(None, open_now)
    as_it_is = finish(None, past)
    return as_it_is, as_it_is if binds is None else finish(binds, open_now if _parks(binds) else past)


def past_of(standing: Standing, model: str) -> Past:
    """What counts already, as a forecast takes it."""
    shut = standing.closed
    return Past(
        sent=[(at, need) for at, of, need in standing.recent if of == model],
        spend=[(at, need.nanos) for at, _, need in standing.recent],
        day=standing.today,
        month_nanos=standing.month_nanos,
        not_before=None if shut is None else shut.until,
        held_by="outage" if shut is None else "day" if shut.parked else "refused",
    )


def _parks(binds: Binding) -> bool:
    return binds in {"day", "month"}
