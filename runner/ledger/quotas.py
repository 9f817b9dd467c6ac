"""What limits have counted, read off the attempts, and what refusals have taught; for all runs on one ledger.

The log of an endpoint lives in the writer's thread. Before each claim it reads the attempts that changed since,
its own and those of other processes, inside the claim's transaction: nobody can send between look and claim.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    ScalarSelect,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from runner.core.calendar import day_start, month_start
from runner.core.learning import NAMED_FOR_S, Belief, full, named, refused, succeeded
from runner.core.lifecycle import AttemptState
from runner.core.limits import OF_THE_ENDPOINT, Dimension, Limits, Need
from runner.core.quota import KEPT_S, Calendar, Facts, Full, LineFacts, QuotaLog
from runner.ledger.facts import Closed, Closing, Lesson, Standing, Wish
from runner.ledger.models import attempt, pulse, quota

RENEWS_S = 0.7
"""Who stands in line says so anew so often: one that has died holds nobody up for longer."""
LATE_S = 0.25
"""Who has not come back for its turn after so long is not waited for."""
PRESENT_S = 3_600.0
"""A run that has said nothing for so long is not asked about."""

_OTHER = attempt.alias("other")


def _next_change(endpoint: ColumnElement[str]) -> ScalarSelect[int]:
    """For `attempt.changed`: what comes after the last change at the endpoint."""
    last = func.coalesce(func.max(_OTHER.c.changed), 0)
    return select(last + 1).where(_OTHER.c.endpoint == endpoint).scalar_subquery()


NEXT_CHANGE = _next_change(attempt.c.endpoint)
FIRST_CHANGE = _next_change(bindparam("first_at"))
"""Of a new attempt at endpoint `first_at`."""

_FACTS = (
    attempt.c.id,
    attempt.c.lane,
    attempt.c.model,
    attempt.c.state,
    attempt.c.status,
    attempt.c.sent_at,
    attempt.c.started_at,
    attempt.c.ended_at,
    attempt.c.reserved_input_tokens,
    attempt.c.input_tokens,
    attempt.c.pictures,
    attempt.c.reserved_nanos,
    attempt.c.cost_nanos,
    attempt.c.changed,
)
_AT = attempt.c.endpoint == bindparam("at")
_HERE = and_(_AT, attempt.c.lane == "standard")
_LINES = and_(_AT, attempt.c.lane == "batch")
"""They have limits of their own, but for the month's (gemini-api.md §7.5)."""
_CHANGED = select(*_FACTS).where(_AT, attempt.c.changed > bindparam("seen")).order_by(attempt.c.changed)
_COUNTING = select(*_FACTS).where(_HERE, attempt.c.sent_at > bindparam("since"))
_LEAVING = select(*_FACTS).where(_HERE, text("attempt.state = 'running'"), attempt.c.sent_at.is_(None))
_DAY = (
    select(attempt.c.model, func.count())
    .where(_HERE, attempt.c.sent_at >= bindparam("since"), attempt.c.sent_at <= bindparam("until"))
    .group_by(attempt.c.model)
)
_NANOS = select(func.coalesce(func.sum(func.coalesce(attempt.c.cost_nanos, attempt.c.reserved_nanos)), 0)).where(
    attempt.c.state != AttemptState.RELEASED
)
_MONTH = _NANOS.where(_HERE, attempt.c.sent_at >= bindparam("since"), attempt.c.sent_at <= bindparam("until"))
_MONTH_OF_LINES = _NANOS.where(_LINES, attempt.c.sent_at.is_(None), attempt.c.ended_at >= bindparam("since"))
"""A line has no instant of its own: to say so lets an index find them."""
_OPEN_LINES = select(attempt.c.id, attempt.c.reserved_nanos).where(_LINES, text("attempt.state = 'running'"))
_LAST = select(func.coalesce(func.max(attempt.c.changed), 0)).where(_AT)
_QUOTA = (
    select(quota)
    .where(quota.c.endpoint == bindparam("at"), or_(quota.c.model == bindparam("of"), quota.c.model == ""))
    .with_for_update()
)
_LEFT = (
    update(attempt)
    .where(attempt.c.token == bindparam("by_token"), attempt.c.sent_at.is_(None), text("state = 'running'"))
    .values(sent_at=bindparam("at"), changed=NEXT_CHANGE)
)
_LINE = select(
    pulse.c.job_id, pulse.c.model, pulse.c.waits_for, pulse.c.waiting_since, pulse.c.back_at, pulse.c.updated_at
).where(pulse.c.endpoint == bindparam("at"))
_WAIT = (
    update(pulse)
    .where(pulse.c.job_id == bindparam("me"), pulse.c.model == bindparam("of"))
    .values(
        waits_for=bindparam("what"),
        waiting_since=func.coalesce(pulse.c.waiting_since, bindparam("since")),
        back_at=bindparam("back"),
    )
)
_SERVED = (
    update(pulse)
    .where(pulse.c.job_id == bindparam("me"), pulse.c.model == bindparam("of"), pulse.c.waiting_since.is_not(None))
    .values(waits_for=None, waiting_since=None, back_at=None)
)


@dataclass(frozen=True, slots=True)
class Known:
    """What refusals have taught of one model at one endpoint."""

    closings: tuple[Closed, ...] = ()
    """The model's and the endpoint's, past ones too."""
    belief: Belief | None = None
    named: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Dimension -> (value, when)."""

    def closed(self, now: float) -> Closed | None:
        """What keeps it closed at `now`, the longest."""
        return max((one for one in self.closings if one.until > now), key=lambda one: one.until, default=None)

    def limits(self, configured: Limits, now: float) -> Limits:
        """The limits as they hold at `now`: what was configured, and what is believed where that is less."""
        rpm = None if self.belief is None else self.belief.allowed(now)
        fresh = {name: value for name, (value, at) in self.named.items() if now - at < NAMED_FOR_S}
        return replace(
            configured,
            rpm=_least(configured.rpm, rpm),
            tpm=_least(configured.tpm, fresh.get("tokens")),
            ipm=_least(configured.ipm, fresh.get("images")),
            rpd=_least(configured.rpd, fresh.get("day")),
        )


def _least(configured: int | None, believed: int | None) -> int | None:
    return min((value for value in (configured, believed) if value is not None), default=None)


class Quotas:
    """The logs of a ledger's endpoints. Only the writer's thread uses them."""

    def __init__(self) -> None:
        self._logs: dict[str, QuotaLog] = {}

    def forget(self) -> None:
        """What was read may have been taken back: read it again."""
        self._logs.clear()

    def log(self, connection: Connection, endpoint: str, now: float) -> QuotaLog:
        """The endpoint's log, up to date with the transaction of `connection`."""
        log = self._logs.get(endpoint)
        if log is not None and not log.stale:
            log.advance(now)
            for row in connection.execute(_CHANGED, {"at": endpoint, "seen": log.seen}).mappings():
                _show(log, row)
                log.seen = row["changed"]
        if log is None or log.stale:
            log = self._logs[endpoint] = _read(connection, endpoint, now)
        log.advance(now)  # what was shown late may count no longer
        return log


def _read(connection: Connection, endpoint: str, now: float) -> QuotaLog:
    """The log from the attempts alone: after a restart, and where it was left behind."""
    since = now - KEPT_S
    before_it = {"at": endpoint, "until": since}
    counted = connection.execute(_DAY, {**before_it, "since": day_start(now)})
    day: dict[str, int] = {model: count for model, count in counted}  # noqa: C416 - a row is no pair to mypy
    this_month = {**before_it, "since": month_start(now)}
    month = sum(connection.execute(part, this_month).scalar_one() for part in (_MONTH, _MONTH_OF_LINES))
    log = QuotaLog(now, Calendar(day, month))
    log.seen = connection.execute(_LAST, {"at": endpoint}).scalar_one()
    for statement in (_COUNTING, _LEAVING):
        for row in connection.execute(statement, {"at": endpoint, "since": since}).mappings():
            _show(log, row)
    for line, nanos in connection.execute(_OPEN_LINES, {"at": endpoint}):
        log.show_line(LineFacts(line, nanos or 0, None))
    return log


def _show(log: QuotaLog, row: RowMapping) -> None:
    state = AttemptState(row["state"])
    nanos = row["reserved_nanos"] if row["cost_nanos"] is None else row["cost_nanos"]
    nanos = 0 if state is AttemptState.RELEASED else nanos or 0
    if row["lane"] == "batch":
        return log.show_line(LineFacts(row["id"], nanos, row["ended_at"]))
    tokens = row["input_tokens"] if state is AttemptState.SETTLED else row["reserved_input_tokens"]
    need = Need(tokens or 0, max(1, row["pictures"] or 1), nanos)
    sent_at, running = row["sent_at"], state is AttemptState.RUNNING
    facts = Facts(row["id"], row["model"], row["started_at"], sent_at, running, need, row["status"] == 429)
    return log.show(facts)


def left(connection: Connection, token: str, at: float) -> None:
    """An attempt was written to the wire at `at`; nothing changes if it has already ended."""
    connection.execute(_LEFT, {"by_token": token, "at": at})


def known(connection: Connection, endpoint: str, model: str) -> Known:
    """What refusals have taught of a model at an endpoint."""
    rows = connection.execute(_QUOTA, {"at": endpoint, "of": model}).mappings().all()
    closings = tuple(
        Closed(row["closed_by"], row["closed_until"], row["said"])
        for row in rows
        if row["closed_until"] is not None
    )
    mine = next((row for row in rows if row["model"] == model), None)
    if mine is None:
        return Known(closings)
    belief = None if mine["belief"] is None else Belief(**mine["belief"])
    told: dict[str, list[Any]] = mine["named"] or {}
    return Known(closings, belief, {name: (value, at) for name, (value, at) in told.items()})


def judge(connection: Connection, log: QuotaLog, learnt: Known, wish: Wish, need: Need, now: float) -> Full | None:
    """The full limit, if any; where only a belief holds back and it has stood long enough, it is raised first."""
    found = log.judge(now, wish.model, learnt.limits(wish.limits, now), need)
    belief = learnt.belief
    if found is None or found.dimension != "requests" or belief is None:
        return found
    raised = full(belief, now, idle=not log.in_flight(wish.model))
    if raised == belief or (wish.limits.rpm is not None and belief.ceiling >= wish.limits.rpm):
        return found
    _record(connection, wish.endpoint, wish.model, now, belief=asdict(raised))
    return log.judge(now, wish.model, replace(learnt, belief=raised).limits(wish.limits, now), need)


def spread(log: QuotaLog, learnt: Known, wish: Wish, now: float) -> Full | None:
    """What several runs wait for so that they do not send all at once what each of them alone would spread."""
    limits = learnt.limits(wish.limits, now)
    rpm = _least(limits.rpm, limits.ipm)
    looking = wish.limits.rpm is None and learnt.belief is not None and not learnt.belief.found
    if rpm is None or looking:
        return None
    turn = log.next_turn(wish.model, rpm)
    return None if turn <= now else Full("requests", turn)


def believed(connection: Connection, wish: Wish, now: float) -> Known:
    """What is known of the model; where nobody configured a rate and none was believed, a first belief."""
    learnt = known(connection, wish.endpoint, wish.model)
    if learnt.belief is None and wish.limits.rpm is None:
        first = Belief(since=now)
        _record(connection, wish.endpoint, wish.model, now, belief=asdict(first))
        return replace(learnt, belief=first)
    return learnt


def learn(connection: Connection, quotas: Quotas, wish: Wish, lesson: Lesson, now: float) -> Belief | None:
    """Book what one ended attempt teaches of its model's limits; what is believed of its rate after it."""
    if lesson.closing is not None:
        close(connection, wish, lesson.closing, now)
    learnt = believed(connection, wish, now)
    if lesson.succeeded:
        if learnt.belief is None or learnt.belief.found:
            return learnt.belief
        sent = quotas.log(connection, wish.endpoint, now).sent_last_minute(wish.model)
        return _believe(connection, wish, learnt, succeeded(learnt.belief, sent), now)
    values: dict[Dimension, int] = {one.dimension: one.value for one in lesson.named if one.value}
    rest: dict[str, tuple[int, float]] = {name: (n, now) for name, n in values.items() if name != "requests"}
    if rest:
        kept: dict[str, tuple[int, float]] = {**learnt.named, **rest}
        _record(connection, wish.endpoint, wish.model, now, named={n: list(v) for n, v in kept.items()})
    if lesson.blames_the_rate:
        after = _after(connection, quotas, wish, lesson, learnt, values, now)
        return _believe(connection, wish, learnt, after, now)
    return learnt.belief


def _after(
    connection: Connection,
    quotas: Quotas,
    wish: Wish,
    lesson: Lesson,
    learnt: Known,
    values: Mapping[Dimension, int],
    now: float,
) -> Belief:
    """The belief after a refusal."""
    if "requests" in values:
        return named(values["requests"], now)
    log = quotas.log(connection, wish.endpoint, now)
    before = learnt.belief or Belief(ceiling=wish.limits.rpm or 1, found=True, since=now)
    admitted = log.admitted_before(wish.model, lesson.sent_at)
    return refused(before, sent_at=lesson.sent_at, admitted=admitted, now=now)


def _believe(connection: Connection, wish: Wish, learnt: Known, belief: Belief, now: float) -> Belief:
    if belief != learnt.belief:
        _record(connection, wish.endpoint, wish.model, now, belief=asdict(belief))
    return belief


def close(connection: Connection, wish: Wish, closing: Closing, now: float) -> None:
    """Let nobody send to a model, or to the whole endpoint, before an instant. A longer closing stays."""
    of = "" if closing.whole_endpoint else wish.model
    rows = connection.execute(_QUOTA, {"at": wish.endpoint, "of": of}).mappings()
    row = next((row for row in rows if row["model"] == of), None)
    if row is None or (row["closed_until"] or 0.0) < closing.until:
        facts = {"closed_until": closing.until, "closed_by": closing.reason, "said": closing.said}
        _record(connection, wish.endpoint, of, now, **facts)


def unlearn(connection: Connection, wish: Wish, now: float) -> None:
    """Forget what refusals have taught, closings included."""
    nothing = {"closed_until": None, "closed_by": None, "said": "", "belief": None, "named": None}
    for of in (wish.model, ""):
        _record(connection, wish.endpoint, of, now, **nothing)


def _record(connection: Connection, endpoint: str, model: str, now: float, **facts: Any) -> None:
    values = {**facts, "updated_at": now}
    here = (quota.c.endpoint == endpoint, quota.c.model == model)
    if not connection.execute(update(quota).where(*here).values(**values)).rowcount:
        first = {"said": "", "endpoint": endpoint, "model": model}
        connection.execute(insert(quota).values(**{**first, **values}))


# --- turns -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """Who else is there, and who has waited longer than this run for the same limit."""

    crowded: bool
    waiting: bool
    """Whether this run stands in it."""
    ahead_back_at: float | None
    """When somebody who has waited longer asks again; None where it is our turn."""


def line(connection: Connection, job_id: int, wish: Wish, now: float) -> Line:
    """The line as it stands. Who does not come back when it said is passed over."""
    rows = connection.execute(_LINE, {"at": wish.endpoint}).mappings().all()
    me = (job_id, wish.model)
    mine = next((row["waiting_since"] for row in rows if (row["job_id"], row["model"]) == me), None)
    others = [row for row in rows if (row["job_id"], row["model"]) != me and row["updated_at"] > now - PRESENT_S]
    ours = wish.limits.spend_nanos is not None or wish.limits.month_nanos is not None
    before = [
        row["back_at"]
        for row in others
        if row["waiting_since"] is not None
        and row["waiting_since"] < (now if mine is None else mine)
        and row["back_at"] > now - LATE_S
        and (row["model"] == wish.model or (ours and row["waits_for"] in OF_THE_ENDPOINT))
    ]
    return Line(bool(others), mine is not None, max(before, default=None))


def stand_in_line(
    connection: Connection, job_id: int, model: str, what: Dimension, now: float, back_at: float
) -> None:
    """Wait for room, before everybody who comes later."""
    connection.execute(_WAIT, {"me": job_id, "of": model, "what": what, "since": now, "back": back_at})


def served(connection: Connection, job_id: int, model: str) -> None:
    """Its turn has come: whoever waits is before it now."""
    connection.execute(_SERVED, {"me": job_id, "of": model})


def standing(connection: Connection, quotas: Quotas, wish: Wish, now: float) -> Standing:
    """What counts and what is believed, for whoever works out when a job will be done."""
    learnt = known(connection, wish.endpoint, wish.model)
    log = quotas.log(connection, wish.endpoint, now)
    return Standing(
        limits=learnt.limits(wish.limits, now),
        belief=learnt.belief,
        closed=learnt.closed(now),
        recent=tuple(log.recent()),
        today=log.today(wish.model),
        month_nanos=log.month_nanos,
        batches_nanos=log.batches_nanos,
    )
