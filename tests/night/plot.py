"""The night as a picture: what the last minute and ten minutes held, against their limits. SVG by hand."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from tests.night.judge import MINUTE_S, SPEND_S, Arrival
from tests.night.night import LIMITS, NANOS, Report

WIDTH, HEIGHT = 960, 470
LEFT, RIGHT = 60, 940
TITLE = 24
"""Pixels above its panel; the marks have theirs in between."""
STEP_S = 15.0
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 } .title { font-weight: 600 }
.end { text-anchor: end } .middle { text-anchor: middle }
.curve { fill: #2f6fb2; fill-opacity: .25; stroke: #2f6fb2; stroke-width: 1 }
.limit { stroke: #b3261e; stroke-width: 1.5; stroke-dasharray: 6 4 } .axis { stroke: #999 }
.outage { fill: #f2c14e; fill-opacity: .4 }
.kill { stroke: #b3261e; stroke-width: 1 }
"""


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    top: float
    bottom: float
    limit: float
    length_s: float
    weight: Callable[[Arrival], float]

    def y(self, value: float) -> float:
        """A tenth of the limit is left free above it."""
        return self.bottom - (self.bottom - self.top) * value / (1.1 * self.limit)


PANELS = (
    _Panel(
        "dollars in the last ten minutes", 50, 220, LIMITS.spend_nanos / NANOS, SPEND_S, lambda a: a.nanos / NANOS
    ),
    _Panel("requests in the last minute", 262, 425, LIMITS.rpm, MINUTE_S, lambda _: 1),
)


def svg(report: Report) -> str:
    """The whole picture."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{report.plan.tasks:,} pictures in a night</title>",
            f'<style>{STYLE}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            *_marks(report),
            *(line for panel in PANELS for line in _panel(report, panel)),
            *_hours(report),
            "</svg>\n",
        ]
    )


def _x(report: Report, at: float) -> float:
    return LEFT + (RIGHT - LEFT) * (at - report.sends[0].at) / report.night_s


def _marks(report: Report) -> Iterator[str]:
    """The outage, and every kill, across both panels."""
    top, bottom = PANELS[0].top, PANELS[-1].bottom
    begin, end = (_x(report, at) for at in report.outage)
    yield f'<rect class="outage" x="{begin:.1f}" y="{top}" width="{end - begin:.1f}" height="{bottom - top}"/>'
    yield f'<text class="middle" x="{(begin + end) / 2:.1f}" y="{top - 6}">outage</text>'
    for life in report.lives[:-1]:
        x = _x(report, life.ended)
        yield f'<path class="kill" d="M{x:.1f} {top}V{bottom}"/>'
        yield f'<text class="middle" x="{x:.1f}" y="{top - 6}">kill</text>'


def _panel(report: Report, panel: _Panel) -> Iterator[str]:
    limit = panel.y(panel.limit)
    points = " ".join(f"{_x(report, at):.1f},{panel.y(value):.1f}" for at, value in _held(report, panel))
    yield f'<polygon class="curve" points="{LEFT},{panel.bottom} {points} {RIGHT},{panel.bottom}"/>'
    yield f'<path class="axis" d="M{LEFT} {panel.top}V{panel.bottom}H{RIGHT}" fill="none"/>'
    yield f'<path class="limit" d="M{LEFT} {limit:.1f}H{RIGHT}"/>'
    yield f'<text class="end" x="{LEFT - 6}" y="{limit + 4:.1f}">{panel.limit:g}</text>'
    yield f'<text class="end" x="{LEFT - 6}" y="{panel.bottom}">0</text>'
    yield f'<text class="title" x="{LEFT}" y="{panel.top - TITLE}">{panel.title}</text>'


def _held(report: Report, panel: _Panel) -> Iterator[tuple[float, float]]:
    """(instant, what the half-open window that ends there holds)."""
    sends = report.sends
    instants = [one.at for one in sends]
    sums = [0.0, *accumulate(map(panel.weight, sends))]
    at = instants[0]
    while at <= instants[-1]:
        yield at, sums[bisect_right(instants, at)] - sums[bisect_right(instants, at - panel.length_s)]
        at += STEP_S


def _hours(report: Report) -> Iterator[str]:
    for hour in range(int(report.night_s // 3_600) + 1):
        x = _x(report, report.sends[0].at + 3_600 * hour)
        yield f'<path class="axis" d="M{x:.1f} {PANELS[-1].bottom}v5"/>'
        yield f'<text class="middle" x="{x:.1f}" y="{PANELS[-1].bottom + 20}">{hour} h</text>'
