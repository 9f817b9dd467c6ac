"""When it would be done on the standard lane, and until when that lane can be put off before a deadline."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from runner.app.campaign import Campaign
from runner.app.settings import Settings
from runner.core.calendar import day_turns, month_turns
from runner.core.deadline import CANCEL_S, standard_from
from runner.core.forecast import Batch, Forecast, Past, forecast
from runner.core.limits import SPEND_WINDOW_S, Limits
from runner.engine.outlook import past_of
from runner.ledger import Reader, Wish

NEAR_S = 60.0
"""The latest start is found to within so much, on the early side."""
ROUNDS = 20
"""Halvings at most: enough for a deadline two years away."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A time by which all is to be done, and what the standard lane has to do with it."""

    by_utc: float
    standard_from_utc: float | None
    """When batches have to be cancelled at the latest so that the standard lane can buy all of it in time; None
    where it could not even if it began now."""
    left_s: float
    """From now on."""
    needed_s: float
    """By the standard lane for all of it, begun now; infinity: it is never done."""

    @property
    def feasible(self) -> bool:
        """Whether the standard lane alone would be done in time."""
        return self.standard_from_utc is not None


@dataclass(frozen=True, slots=True)
class _Model:
    """What forecasts of one model are made of."""

    batches: Sequence[Batch]
    limits: Limits
    past: Past


class Outlook:
    """Forecasts of the standard lane, all limits, a usual answer's time and one try each."""

    def __init__(self, campaign: Campaign, reader: Reader | None, settings: Settings, now_utc: float) -> None:
        """As things stand at `now_utc`; reads what counts already."""
        self._now, self._latency_s = now_utc, settings.usual_latency_s
        self._held = 0
        """Nano-dollars of the month that open batches hold."""
        self._standing: Mapping[str, tuple[Limits, Past]] = {
            model: self._stands(campaign, reader, settings, model) for model in campaign.models
        }

    def finish(self, needs: Mapping[str, Sequence[Batch]], batched: Sequence[Batch]) -> Forecast | None:
        """The earliest finish of what each model has to buy, of the one done last; None where that is nothing.

        What goes as batches counts for the month beside it.
        """
        beside = sum(batch.count * batch.need.nanos for batch in batched)
        return self._from(self._models(needs, beside), self._now)

    def batches(self, batched: Sequence[Batch]) -> Forecast | None:
        """How much of what goes as batches the month's limit, the only one for it, lets through."""
        if not batched:
            return None
        limits, past = next(iter(self._standing.values()))
        month = Limits(month_nanos=limits.month_nanos, month_elsewhere_nanos=limits.month_elsewhere_nanos)
        return forecast(batched, month, Past(month_nanos=past.month_nanos), now=self._now, latency_s=0.0)

    def needed_s(self, needs: Mapping[str, Sequence[Batch]], by_utc: float) -> float | None:
        """Seconds that the standard lane takes for as much of `needs` as it can buy by `by_utc`.

        What is in batches counts as yet to buy. None: it can buy nothing by then, or soon after. A limit of the
        day or the month may leave it a few tasks only: no reason to take all batches back at once.
        """
        left_s = max(by_utc - self._now, CANCEL_S)
        takes = (self._in_time(model, left_s) for model in self._models(needs, -self._held))
        return max((one for one in takes if one is not None), default=None)

    def _in_time(self, model: _Model, left_s: float) -> float | None:
        """Seconds for as many of a model's tasks as are done in `left_s`; None: not one is."""

        def takes_s(count: int) -> float:
            return _seconds(self._from([replace(model, batches=_first(model.batches, count))], self._now))

        every = sum(batch.count for batch in model.batches)
        if (whole_s := takes_s(every)) <= left_s:
            return whole_s
        count = bisect_right(range(1, every), left_s, key=takes_s)
        return takes_s(count) if count else None

    def deadline(self, needs: Mapping[str, Sequence[Batch]], by_utc: float) -> Deadline:
        """Until when the standard lane can be put off if it may have to buy all of `needs`."""
        models, now = self._models(needs, -self._held), self._now

        def in_time(start: float) -> bool:
            return start <= standard_from(by_utc, _seconds(self._from(models, start)))

        needed_s = _seconds(self._from(models, now))
        begin = None
        if now + needed_s <= by_utc:
            begin = latest(in_time, now, by_utc) if in_time(now) else now
        return Deadline(by_utc, begin, by_utc - now, needed_s)

    def _models(self, needs: Mapping[str, Sequence[Batch]], more_nanos: int) -> list[_Model]:
        """With so much more, or less, counted in the month."""
        models = [_Model(batches, *self._standing[model]) for model, batches in needs.items() if batches]
        return [
            replace(one, past=replace(one.past, month_nanos=one.past.month_nanos + more_nanos)) for one in models
        ]

    def _from(self, models: Sequence[_Model], start: float) -> Forecast | None:
        forecasts = (
            forecast(one.batches, *self._at(one, start), now=start, latency_s=self._latency_s) for one in models
        )
        return max(forecasts, key=_lateness, default=None)

    def _at(self, model: _Model, start: float) -> tuple[Limits, Past]:
        """What will count at `start` if nothing is sent before."""
        limits, past = model.limits, model.past
        since = start - SPEND_WINDOW_S
        past = replace(
            past,
            sent=[(at, need) for at, need in past.sent if at > since],
            spend=[(at, nanos) for at, nanos in past.spend if at > since],
        )
        if start >= day_turns(self._now):
            past = replace(past, day=0)
        if start >= month_turns(self._now):
            limits, past = replace(limits, month_elsewhere_nanos=0), replace(past, month_nanos=0)
        return limits, past

    def _stands(
        self, campaign: Campaign, reader: Reader | None, settings: Settings, model: str
    ) -> tuple[Limits, Past]:
        if reader is None:
            return campaign.limits, Past()
        standing = reader.standing(Wish(settings.endpoint, model, campaign.limits), now=self._now)
        self._held = standing.batches_nanos
        growing = standing.belief is not None and not standing.belief.found
        limits = replace(standing.limits, rpm=campaign.limits.rpm) if growing else standing.limits
        return limits, past_of(standing, model)


def latest(in_time: Callable[[float], bool], now: float, by_utc: float) -> float:
    """The latest start in time: who starts later is never done earlier, so halving finds it."""
    early, late = now, by_utc
    for _ in range(ROUNDS):
        if late - early <= NEAR_S:
            break
        middle = (early + late) / 2
        early, late = (middle, late) if in_time(middle) else (early, middle)
    return early


def _first(batches: Sequence[Batch], count: int) -> list[Batch]:
    """So many of the tasks, in their order."""
    some = []
    for batch in batches:
        some.append(Batch(min(batch.count, count), batch.need))
        count -= some[-1].count
    return [batch for batch in some if batch.count]


def _seconds(finish: Forecast | None) -> float:
    if finish is None:
        return 0.0
    return float("inf") if finish.finish_s is None or finish.stopped_by is not None else finish.finish_s


def _lateness(one: Forecast) -> tuple[bool, float]:
    return (one.finish_s is None or one.stopped_by is not None, one.finish_s or 0.0)
