"""The forecast the slow way: every task by itself against every send before it."""

from runner.core.calendar import day_start, day_turns, month_start
from runner.core.forecast import Forecast
from runner.core.quota import WINDOW_MARGIN

MINUTE_S = 60 * WINDOW_MARGIN
SPEND_S = 600 * WINDOW_MARGIN


def forecast(batches, limits, past, *, now, latency_s, budget_nanos=None):
    """`Forecast` with `binds` left out unless nothing more can be sent."""
    return _Slow(limits, past, now, latency_s, budget_nanos).run([b.need for b in batches for _ in range(b.count)])


class _Slow:
    def __init__(self, limits, past, now, latency_s, budget_nanos):
        self.limits, self.now, self.latency_s, self.budget = limits, now, latency_s, budget_nanos
        self.floor = max(now, past.not_before or now)
        self.sent = list(past.sent)
        self.spend = list(past.spend)
        flying = self.sent[-past.in_flight :] if past.in_flight else []
        ends = [(max(now, at + latency_s), need.bytes) for at, need in flying]
        self.ends = sorted(ends + [(now + latency_s, 0)] * (past.in_flight - len(flying)))
        self.days = {day_start(now): past.day}
        self.months = {month_start(now): past.month_nanos + limits.month_elsewhere_nanos}

    def run(self, needs):
        bought, cost = 0, 0
        for need in needs:
            cost += need.nanos
            if self.budget is not None and cost > self.budget:
                return Forecast(None, "budget", bought, "budget")
            never = self.impossible(need)
            if never:
                return Forecast(None, never, bought, None)
            at = max(self.floor, self.earliest(need))
            while self.limits.rpd is not None and self.days.get(day_start(at), 0) >= self.limits.rpd:
                at = day_turns(at)
            month = self.months.get(month_start(at), 0) + need.nanos
            if self.limits.month_nanos is not None and month > self.limits.month_nanos:
                return Forecast(None, "month", bought, "month")
            self.months[month_start(at)] = month
            self.days[day_start(at)] = self.days.get(day_start(at), 0) + 1
            self.sent.append((at, need))
            self.spend.append((at, need.nanos))
            self.ends.append((at + self.latency_s, need.bytes))
            self.floor = at
            bought += 1
        return Forecast(max([self.now, *(end for end, _ in self.ends)]) - self.now, None, bought, None)

    def impossible(self, need):
        limits = self.limits
        if limits.rpd == 0:
            return "day"
        for binds, room, amount in (
            ("requests", limits.rpm, 1),
            ("tokens", limits.tpm, need.tokens),
            ("images", limits.ipm, need.images),
            ("spend_window", limits.spend_nanos, need.nanos),
            ("concurrency", limits.concurrency, 1),
        ):
            if room is not None and amount > room:
                return binds
        return None

    def earliest(self, need):
        limits = self.limits
        pace = min(limits.rpm or 10**9, limits.ipm or 10**9)
        burst = max(1, pace // 100)
        room = limits.bytes_in_flight
        return max(
            _fits(((at, 1) for at, _ in reversed(self.sent)), 1, limits.rpm, MINUTE_S),
            _fits(((at, n.tokens) for at, n in reversed(self.sent)), need.tokens, limits.tpm, MINUTE_S),
            _fits(((at, n.images) for at, n in reversed(self.sent)), need.images, limits.ipm, MINUTE_S),
            _fits(reversed(self.spend), need.nanos, limits.spend_nanos, SPEND_S),
            _fits(((at, 1) for at, _ in reversed(self.sent)), 1, burst, burst * 60 / pace),
            _fits(((end, 1) for end, _ in reversed(self.ends)), 1, limits.concurrency, 0),
            _fits(
                ((end, min(size, room or 0)) for end, size in reversed(self.ends)),
                min(need.bytes, room or 0),
                room,
                0,
            ),
        )


def _fits(newest_first, amount, room, span_s):
    """When `amount` more has room beside what counts for `span_s`."""
    if room is None or not amount:
        return 0.0
    for at, counted in newest_first:
        amount += counted
        if amount > room:
            return at + span_s
    return 0.0
