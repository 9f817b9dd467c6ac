"""Batches: which tasks go together, what they hold, and every step of their submission, guarded."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from runner.core.batching import Load
from runner.core.budget import Cap, Spend
from runner.core.calendar import month_start, month_turns
from runner.core.catalog import Prices
from runner.core.lifecycle import BatchState, Faulted, Lost, State, Throttled, Unreached, Unusable
from runner.core.limits import Limits
from runner.core.pricing import PriceSheet
from runner.core.reference import Reference
from runner.core.remote import START, Place, Remote, Stats
from runner.core.retry import RetryPolicy
from runner.core.task import Recipe
from runner.ledger import (
    BatchTally,
    Claimed,
    Empty,
    Held,
    Ledger,
    OverBudget,
    Submitted,
    TooFew,
    Unprepared,
    Unready,
    Waiting,
    batch_queries,
    batches,
    queries,
    reservation,
)
from runner.ledger.claim import COMING_OF_MODEL
from runner.ledger.quotas import Quotas
from runner.ledger.reservation import LOOK_S
from runner.ledger.settle import forgive
from tests.ledger.desk import (
    BATCH_SHEET,
    PICTURE_NANOS,
    RECIPE,
    REMOTE,
    SHEET,
    WISH,
    Desk,
    answer,
    made,
    spec,
    specs,
)
from tests.ledger.test_accounts import NAME, Firm
from tests.ledger.test_claim import _plan, worst

HIGH = replace(RECIPE, thinking="high")
LOGO = Reference("brand/logo.png", "c" * 64, "image/png", 100)
DOTS = Reference("brand/dots.png", "d" * 64, "image/png", 100)


def half(number: int) -> int:
    """The reservation of task `number` at the batch price."""
    return worst(number) // 2


def keys(found: Submitted) -> list[str]:
    return [one.key for one in found.attempts]


def keys_of(*numbers: int) -> list[str]:
    return [spec(number).key for number in numbers]


# --- what a submit does ---


def test_a_submit_takes_tasks_in_order_and_holds_half_their_worst_price(desk):
    desk.enqueue([spec(n, position=5 - n) for n in range(3)])

    found = desk.submitted()

    assert keys(found) == keys_of(2, 1, 0)
    assert [one.quote.nanos for one in found.attempts] == [half(2), half(1), half(0)]
    assert {one.lane for one in found.attempts} == {"batch"}
    kept = desk.counters()
    held = half(0) + half(1) + half(2)
    assert kept.spend == Spend(reserved=held, reserved_image_tokens=3 * 1_120)
    assert (kept.tasks["queued"], kept.tasks["running"], kept.tasks["submitted"]) == (0, 0, 3)
    assert [task.lane for task in desk.tasks()] == ["batch"] * 3
    record = found.batch
    assert record == desk.batch(record.token)
    assert (record.state, record.lines, record.model, record.endpoint) == (
        BatchState.INTENT,
        3,
        RECIPE.model,
        WISH.endpoint,
    )
    assert record.input_tokens == sum(one.quote.input_tokens for one in found.attempts)
    assert record.display_name == f"bulkrender-job-{record.token}"
    assert (record.stats, record.place, record.name, record.posts, record.made_at) == (
        Stats(),
        START,
        None,
        0,
        desk.now,
    )


def test_lines_settle_like_requests_at_half_the_price(desk):
    desk.enqueue(specs(3))
    first, second, third = desk.submitted().attempts

    desk.settle(first, price=BATCH_SHEET)
    desk.settle(second, Lost("crashed", "gone"), price=BATCH_SHEET)
    desk.settle(third, Throttled(429, "minute", "slow"), price=BATCH_SHEET)

    kept = desk.counters()
    assert (kept.spend.settled, kept.spend.reserved, kept.spend.unknown) == (PICTURE_NANOS // 2, 0, half(1))
    assert (kept.tasks["succeeded"], kept.tasks["queued"], kept.tasks["submitted"]) == (1, 2, 0)
    assert [one.lane for one in desk.attempts()] == ["batch"] * 3
    again = desk.claimed()
    assert (again.key, again.number, again.lane) == (spec(1).key, 2, "standard")
    assert desk.tasks()[1].lane == "standard"


def test_a_second_settle_of_a_line_changes_nothing(desk):
    desk.enqueue(specs(1))
    (line,) = desk.submitted().attempts
    desk.settle(line, price=BATCH_SHEET)
    before = desk.counters()
    assert not desk.settle(line, price=BATCH_SHEET).recorded
    assert desk.counters() == before


def test_a_task_orphaned_in_a_batch_settles_outside_of_the_live_counts(desk):
    desk.enqueue(specs(1))
    (line,) = desk.submitted().attempts
    desk.enqueue([])
    desk.settle(line, price=BATCH_SHEET)

    kept = desk.counters()
    assert (sum(kept.tasks.values()), kept.orphaned, kept.spend.settled) == (0, 1, PICTURE_NANOS // 2)


def test_an_outage_gives_tries_back_to_tasks_in_batches_too(desk):
    desk.enqueue(specs(1))
    first = desk.claimed()
    desk.settle(first, Faulted(500, "oops"))
    desk.now += 1_000
    (line,) = desk.submitted().attempts
    with desk.write() as connection:
        assert forgive(connection, "job", [first], now=desk.now) == 1
    desk.settle(line, Unreached("x"), price=BATCH_SHEET)
    assert desk.submitted().attempts[0].tries == 0


# --- which tasks go together ---


def test_tasks_go_with_their_likes_and_the_first_group_goes_first(desk):
    desk.enqueue([spec(n, recipe=HIGH if n % 2 else RECIPE) for n in range(4)])
    assert keys(desk.submitted()) == keys_of(0, 2)
    assert keys(desk.submitted()) == keys_of(1, 3)
    assert desk.submit() == Waiting(None)


def test_a_group_that_is_too_small_is_passed_over(desk):
    desk.enqueue([spec(0, recipe=HIGH), spec(1), spec(2)])
    load = Load(least=2)
    assert keys(desk.submitted(load=load)) == keys_of(1, 2)
    before = desk.counters()
    assert desk.submit(load=load) == TooFew()
    assert desk.counters() == before


def test_only_tasks_of_the_wish_are_taken(desk):
    desk.enqueue([spec(0, recipe=Recipe("another")), spec(1)])
    assert keys(desk.submitted()) == keys_of(1)
    assert desk.claimed().key == spec(0).key


@pytest.mark.parametrize(
    ("load", "lines"),
    [
        (Load(lines=2), 2),
        (Load(bytes=39), 3),
        (Load(bytes=5), 1),
        (Load(tokens=sum(len(spec(n).prompt) for n in range(4))), 4),
        (Load(tokens=1), 1),
    ],
)
def test_a_batch_is_cut_and_one_line_always_fits(desk, load, lines):
    desk.enqueue(specs(6))
    found = desk.submitted(load=load, weigh=lambda *_: 13)
    assert keys(found) == keys_of(*range(lines))
    assert desk.counters().tasks["submitted"] == lines


def test_tokens_and_jobs_of_open_batches_hold_the_next_one_back(desk):
    desk.enqueue(specs(6))
    each = len(spec(0).prompt)
    first = desk.submitted(load=Load(lines=3))
    before = desk.counters()

    assert desk.submit(load=Load(jobs=1)) == Held("batches", None)
    assert desk.submit(load=Load(tokens=3 * each)) == Held("batches", None)
    assert desk.counters() == before
    assert keys(desk.submitted(load=Load(tokens=4 * each))) == keys_of(3)

    for line in first.attempts:
        desk.settle(line, price=BATCH_SHEET)
    assert desk.over(first.batch.token)
    assert isinstance(desk.submit(load=Load(tokens=3 * each, jobs=2)), Submitted)


def test_batches_of_another_endpoint_do_not_count(desk):
    desk.enqueue(specs(2))
    desk.submitted(load=Load(lines=1))
    desk.wish = replace(desk.wish, endpoint="https://elsewhere.test")
    assert isinstance(desk.submit(load=Load(jobs=1, tokens=1)), Submitted)


def test_what_a_whole_batch_may_have_failed_for_goes_in_smaller_ones(desk):
    desk.policy = RetryPolicy(attempts=3)
    desk.enqueue(specs(16))
    sizes = []
    for _ in range(3):
        found = desk.submitted(load=Load(lines=16))
        sizes.append(len(found.attempts))
        for line in found.attempts:
            desk.settle(line, Faulted(400, "bad line"), price=BATCH_SHEET)
        desk.now += 1_000
    assert sizes == [16, 2, 1]


def test_references_are_made_ready_together_and_each_set_once(desk):
    pictures = [(LOGO,), (), (LOGO,), (DOTS, LOGO), (DOTS,)]
    desk.enqueue([spec(n, references=refs) for n, refs in enumerate(pictures)])
    before = desk.counters()

    found = desk.submit(ready=lambda wanted: wanted in {(), (DOTS,)})

    assert found == Unprepared(
        (Unready(1, "job/P0", (LOGO,)), Unready(4, "job/P3", (DOTS, LOGO))),
    )
    assert desk.counters() == before
    assert [one.references for one in desk.submitted(ready=lambda _: True).attempts] == pictures


def test_nothing_due_says_when_or_that_all_is_done(desk):
    desk.enqueue(specs(1))
    (line,) = desk.submitted().attempts
    assert desk.submit() == desk.claim() == Waiting(None)
    desk.settle(line, Unusable(answer(pictures=0), "no_image"), price=BATCH_SHEET)
    waiting = desk.submit()
    assert isinstance(waiting, Waiting)
    assert waiting.next_due is not None
    assert waiting.next_due > desk.now
    desk.now = waiting.next_due
    desk.settle(desk.submitted().attempts[0], price=BATCH_SHEET)
    assert desk.submit() == Empty()


def test_an_unknown_job_is_an_error(desk):
    with pytest.raises(LookupError, match="no job 'job'"):
        desk.submit()


# --- the cap ---


@pytest.mark.parametrize("cap", [Cap(nanos=half(0) + half(1)), Cap(image_tokens=2 * 1_120)])
def test_the_cap_is_reached_exactly_and_never_passed(desk, cap):
    desk.enqueue(specs(4))
    assert keys(desk.submitted(cap=cap)) == keys_of(0, 1)
    before = desk.counters()
    over = desk.submit(cap)
    assert isinstance(over, OverBudget)
    assert (over.key, over.quote.nanos, over.account) == (spec(2).key, half(2), None)
    assert desk.counters() == before


def test_a_nano_dollar_short_leaves_the_last_line_out(desk):
    desk.enqueue(specs(2))
    assert keys(desk.submitted(cap=Cap(half(0) + half(1) - 1))) == keys_of(0)


def test_money_goes_in_the_order_of_tasks_whatever_their_group(desk):
    """The first group would fit whole, but not beside what is before its last task."""
    desk.enqueue([spec(0), spec(1, recipe=HIGH), spec(2)])
    cap = Cap(image_tokens=2 * 1_120)
    assert keys(desk.submitted(cap=cap, load=Load(least=2))) == keys_of(0)  # the budget ends the walk: any size
    assert keys(desk.submitted(cap=cap)) == keys_of(1)


def test_the_update_itself_refuses_what_does_not_fit(desk, monkeypatch):
    monkeypatch.setattr(reservation, "fits", lambda *_: True)
    desk.enqueue(specs(2))
    for cap in (Cap(nanos=half(0) + half(1) - 1), Cap(image_tokens=2 * 1_120 - 1)):
        with pytest.raises(RuntimeError, match="0 rows changed where one had to"):
            desk.submit(cap)
    assert desk.counters().spend == Spend()
    with desk.read() as connection:
        assert batch_queries.batches(connection, "job") == []


def test_unknown_prices_are_counted_line_by_line(desk):
    unpriced = PriceSheet(Prices(None, None, None))
    desk.enqueue(specs(2))
    assert isinstance(desk.submit(Cap(10**18), price=unpriced), OverBudget)
    found = desk.submitted(price=unpriced)
    kept = desk.counters()
    assert (kept.spend.reserved, kept.unpriced, kept.uncounted) == (0, 2, 2)
    for line in found.attempts:
        desk.settle(line, price=unpriced)
    assert (desk.counters().unpriced, desk.counters().uncounted) == (2, 0)


@given(
    st.lists(st.tuples(st.sampled_from(["claim", "submit"]), st.integers(1, 5)), max_size=12),
    st.integers(0, 9 * half(0)),
    st.integers(0, 9 * 1_120),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
@settings(max_examples=25, deadline=None)
def test_no_mix_of_lanes_passes_the_cap(tmp_path_factory, verbs, nanos, tokens, settles):
    desk, cap = Desk.at(tmp_path_factory.mktemp("mix")), Cap(nanos, tokens)
    desk.enqueue([spec(n, recipe=HIGH if n % 3 == 2 else RECIPE) for n in range(12)])
    out: list[Claimed] = []
    for (verb, lines), lands in zip(verbs, settles, strict=False):
        found = desk.claim(cap) if verb == "claim" else desk.submit(cap, load=Load(lines=lines))
        out += [found] if isinstance(found, Claimed) else found.attempts if isinstance(found, Submitted) else []
        if lands and out:
            line = out.pop()
            desk.settle(line, price=BATCH_SHEET if line.lane == "batch" else SHEET)
        spend = desk.counters().spend
        assert spend.held <= nanos
        assert spend.held_image_tokens <= tokens


def test_a_batch_holds_at_the_account_and_stays_under_its_cap(desk):
    firm = Firm(desk)
    one, other = firm.join("one", Cap(half(0) + half(1) + worst(0))), firm.join("other")
    landing = other.claimed()

    found = one.submitted()

    assert keys(found) == keys_of(0, 1)
    assert firm.account().spend.reserved == half(0) + half(1) + worst(0)
    assert one.submit() == Held("budget", one.now + LOOK_S)  # the other may leave room
    other.settle(landing, Lost("timed_out", "late"))
    over = one.submit()
    assert isinstance(over, OverBudget)
    assert (over.account, over.key) == (NAME, spec(2).key)
    for line in found.attempts:
        one.settle(line, price=BATCH_SHEET)
    assert firm.account().spend.settled == 2 * (PICTURE_NANOS // 2)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.booleans()), max_size=14),
    st.integers(0, 9 * half(0)),
)
@settings(max_examples=25, deadline=None)
def test_no_mix_of_jobs_and_lanes_passes_the_accounts_cap(tmp_path_factory, verbs, nanos):
    firm = Firm(Desk.at(tmp_path_factory.mktemp("firm")))
    jobs = [firm.join("one", Cap(nanos), tasks=8), firm.join("other", tasks=8)]
    out: list[tuple[Desk, Claimed]] = []
    for who, lines, lands in verbs:
        found = jobs[who].submit(load=Load(lines=lines)) if lines else jobs[who].claim()
        taken = (found,) if isinstance(found, Claimed) else getattr(found, "attempts", ())
        out += [(jobs[who], line) for line in taken]
        if lands and out:
            desk, line = out.pop(0)
            desk.settle(line, price=BATCH_SHEET if line.lane == "batch" else SHEET)
        assert firm.account().spend.held <= nanos
        assert all(one.counters().spend.held <= nanos for one in jobs)


# --- the month ---


def monthly(desk: Desk, nanos: int, elsewhere: int = 0) -> Held:
    """Hold the desk to a month's limit; what it says once that is full."""
    desk.wish = replace(desk.wish, limits=Limits(month_nanos=nanos, month_elsewhere_nanos=elsewhere))
    return Held("month", month_turns(desk.now), nanos)


def test_the_months_limit_is_reached_exactly_and_never_passed(desk):
    desk.enqueue(specs(4))
    full = monthly(desk, half(0) + half(1) + 7, elsewhere=7)
    assert keys(desk.submitted()) == keys_of(0, 1)
    before = desk.counters()
    assert desk.submit() == full
    assert desk.counters() == before


def test_a_nano_dollar_short_of_the_month_leaves_the_last_line_out(desk):
    desk.enqueue(specs(2))
    monthly(desk, half(0) + half(1) - 1)
    assert keys(desk.submitted(load=Load(least=2))) == keys_of(0)  # the month ends the walk: any size


def test_a_cap_that_ends_before_the_month_is_the_one_that_is_named(desk):
    desk.enqueue(specs(2))
    full = monthly(desk, half(0) - 1)
    assert isinstance(desk.submit(Cap(half(0) - 1)), OverBudget)
    assert desk.submit() == full


def test_what_is_held_and_not_priced_any_more_counts_as_it_was_held(desk):
    desk.enqueue(specs(2))
    (line, _) = desk.submitted().attempts
    desk.settle(line, price=PriceSheet(Prices(None, None, None)))
    with desk.read() as connection:
        for quotas in (desk.quotas, Quotas()):
            assert quotas.log(connection, WISH.endpoint, desk.now).month_nanos == half(0) + half(1)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1), st.integers(0, 4), st.booleans(), st.sampled_from([0.0, 1.0, 700.0, 9e4, 27e5])
        ),
        max_size=14,
    ),
    st.integers(0, 9 * half(0)),
)
@settings(max_examples=40, deadline=None)
def test_no_mix_of_processes_and_lanes_passes_the_month(tmp_path_factory, verbs, nanos):
    first = Desk.at(tmp_path_factory.mktemp("month"))
    first.now = 1_793_516_400.0  # an hour before a month's turn
    desks = [replace(first, name=f"job{n}", tokens=n * 10**6, quotas=Quotas()) for n in range(2)]
    for desk in desks:
        desk.enqueue(specs(12))
        monthly(desk, nanos)
    out: list[tuple[Desk, Claimed]] = []
    for who, lines, lands, later_s in verbs:
        for desk in desks:
            desk.now += later_s
        found = desks[who].submit(load=Load(lines=lines)) if lines else desks[who].claim()
        taken = (found,) if isinstance(found, Claimed) else getattr(found, "attempts", ())
        out += [(desks[who], line) for line in taken]
        if lands and out:
            desk, line = out.pop(0)
            outcome = Lost("timed_out", "late") if later_s == 1.0 else None
            desk.settle(line, outcome, price=BATCH_SHEET if line.lane == "batch" else SHEET)
        assert sum(counted(desk) for desk in desks) <= nanos


def counted(desk: Desk) -> int:
    """What the desk's job has spent and holds of the month, at the least: a request counts from its claim."""
    month = month_start(desk.now)
    return sum(
        one.cost_nanos if one.cost_nanos is not None else one.reserved_nanos or 0
        for one in desk.attempts()
        if one.state != "released"
        and (one.ended_at is None or one.ended_at >= month if one.lane == "batch" else one.started_at >= month)
    )


# --- how far it is ---


@pytest.fixture
def token(desk):
    desk.enqueue(specs(2))
    return desk.submitted().batch.token


def test_a_batch_goes_from_intent_to_over(desk, token):
    assert desk.posting(token)
    posted = desk.batch(token)
    assert (posted.state, posted.file, posted.posts, posted.posted_at) == (
        BatchState.CREATING,
        "files/in",
        1,
        desk.now,
    )
    desk.now += 5
    assert desk.created(token)
    known = desk.batch(token)
    assert (known.state, known.name, known.remote_state, known.created_at, known.looked_at) == (
        BatchState.CREATED,
        "batches/b1",
        "PENDING",
        1_005.0,
        desk.now,
    )
    done = replace(REMOTE, state="SUCCEEDED", stats=Stats(2, 0, 1, 1), responses_file="files/out")
    with desk.write() as connection:
        assert batches.looked(connection, token, done, now=2_000.0)
        assert batches.looked(connection, token, replace(done, responses_file=None), now=2_001.0)
        assert batches.taken(connection, token, Place(1, 100, "ab"))
    seen = desk.batch(token)
    assert (seen.stats, seen.results, seen.place, seen.looked_at) == (
        done.stats,
        "files/out",
        Place(1, 100, "ab"),
        2_001.0,
    )

    with pytest.raises(RuntimeError, match="not all its attempts have ended"):
        desk.over(token)
    for line in left(desk, token):
        desk.settle(line, price=BATCH_SHEET)
    assert desk.over(token, "succeeded", "a\ud800")
    ended = desk.batch(token)
    assert (ended.state, ended.open, ended.reason, ended.error, ended.ended_at) == (
        BatchState.OVER,
        False,
        "succeeded",
        "a\\ud800",
        desk.now,
    )


def left(desk, token):
    with desk.read() as connection:
        return batch_queries.batch_attempts(connection, token)


STEPS = {
    "posting": lambda connection, token: batches.posting(connection, token, "files/x", now=9.0),
    "unposted": lambda connection, token: batches.unposted(connection, token, now=9.0),
    "created": lambda connection, token: batches.created(connection, token, REMOTE, now=9.0),
    "looked": lambda connection, token: batches.looked(connection, token, REMOTE, now=9.0),
    "present": batches.present,
    "cancelling": lambda connection, token: batches.cancelling(connection, token, now=9.0),
    "taken": lambda connection, token: batches.taken(connection, token, Place(1, 2, "x")),
    "over": lambda connection, token: batches.over(connection, token, "r", "e", now=9.0),
}
ALLOWED = {
    BatchState.INTENT: {"posting", "over"},
    BatchState.CREATING: {"unposted", "created", "present", "over"},
    BatchState.CREATED: {"looked", "present", "cancelling", "taken", "over"},
    BatchState.OVER: set(),
}


@pytest.mark.parametrize("state", BatchState)
def test_a_step_out_of_place_changes_nothing_and_says_so(desk, token, state):
    for line in left(desk, token):
        desk.settle(line, Unreached("x"), price=BATCH_SHEET)
    for into in {"intent": [], "creating": [desk.posting], "created": [desk.posting, desk.created]}.get(
        state, [desk.over]
    ):
        assert into(token)
    before = desk.batch(token)
    done = set()
    for step, verb in STEPS.items():
        with taken_back(desk) as connection:
            assert not verb(connection, "f" * 32)
            if verb(connection, token):
                done.add(step)
            else:
                assert batch_queries.batches(connection, "job") == [before]
    assert done == ALLOWED[state]


@contextmanager
def taken_back(desk):
    with desk.write() as connection:
        yield connection
        connection.rollback()


def test_the_first_list_that_lacked_it_is_remembered_until_it_is_posted_again(desk, token):
    with desk.write() as connection, pytest.raises(LookupError, match="is looked for"):
        batches.absent(connection, token, 500.0)
    desk.posting(token)
    with desk.write() as connection:
        assert batches.absent(connection, token, 500.0) == 500.0
        assert batches.absent(connection, token, 1_500.0) == 500.0
        assert batches.present(connection, token)
        assert batches.absent(connection, token, 1_600.0) == 1_600.0
    assert desk.batch(token).absent_at == 1_600.0
    with desk.write() as connection:
        assert batches.unposted(connection, token, now=desk.now)
    again = desk.batch(token)
    assert (again.state, again.absent_at, again.file, again.posts) == (BatchState.INTENT, None, "files/in", 1)
    desk.posting(token)
    assert (desk.batch(token).posts, desk.batch(token).absent_at) == (2, None)


def test_when_a_cancel_was_first_asked_for_is_kept(desk, token):
    desk.posting(token)
    desk.created(token)
    with desk.write() as connection:
        assert batches.cancelling(connection, token, now=5.0)
        assert batches.cancelling(connection, token, now=6.0)
    assert desk.batch(token).cancelled_at == 5.0


def test_one_remote_job_is_one_batch(desk):
    desk.enqueue(specs(2))
    one, other = (desk.submitted(load=Load(lines=1)).batch.token for _ in range(2))
    for token in (one, other):
        desk.posting(token)
    desk.created(one)
    with pytest.raises(IntegrityError):
        desk.created(other)
    assert desk.created(other, Remote("batches/b2"))
    assert desk.batch(other).created_at == desk.now  # the service did not say when


WRONG = (
    "UPDATE attempt SET lane = 'standard'",
    "UPDATE attempt SET batch_row = NULL",
    "UPDATE attempt SET lane = 'fast', batch_row = NULL",
    "UPDATE batch SET state = 'created'",
    "UPDATE batch SET state = 'over'",
    "UPDATE batch SET ended_at = 1",
    "UPDATE batch SET token = 'short'",
)


def test_what_may_never_be_true_of_a_row_is_refused_by_the_database(desk, token):
    assert desk.batch(token).open
    for wrong in WRONG:
        with pytest.raises(IntegrityError, match="CHECK"), desk.write() as connection:
            connection.exec_driver_sql(wrong)


# --- what is known of them ---


def test_open_attempts_of_a_batch_are_what_was_submitted_in_the_order_of_lines(desk):
    desk.enqueue([spec(n, position=9 - n) for n in range(3)])
    found = desk.submitted()
    standard = desk.enqueue([spec(n, position=9 - n, stem=f"renamed/{n}") for n in range(4)])
    assert standard.new == 1
    running = desk.claimed()

    assert left(desk, found.batch.token) == list(found.attempts)  # stems as sent
    with desk.read() as connection:
        assert queries.running(connection, "job") == [running]

    desk.settle(found.attempts[1], price=BATCH_SHEET)
    assert left(desk, found.batch.token) == [found.attempts[0], found.attempts[2]]


def test_a_tally_tells_answers_from_failures(desk):
    desk.enqueue(specs(5))
    found = desk.submitted()
    endings = [
        made(found.attempts[0]),
        Unusable(answer(pictures=0), "no_image"),
        Faulted(500, "x"),
        Lost("x", "y"),
    ]
    for line, outcome in zip(found.attempts, endings, strict=False):
        desk.settle(line, outcome, price=BATCH_SHEET)
    with desk.read() as connection:
        assert batch_queries.batch_tally(connection, found.batch.token) == BatchTally(answered=2, failed=2)


def test_readers_see_open_batches_and_all_of_them(desk):
    desk.enqueue(specs(3))
    first = desk.submitted(load=Load(lines=1))
    second = desk.submitted(load=Load(lines=1))
    desk.settle(first.attempts[0], price=BATCH_SHEET)
    desk.over(first.batch.token)
    reader = Ledger.read(desk.url)

    assert reader.open_batches("job") == [second.batch]
    assert [one.token for one in reader.batches("job")] == [first.batch.token, second.batch.token]
    assert reader.status("job", since_utc=0.0).batches == (second.batch,)
    assert reader.display_names(WISH.endpoint) == {
        f"bulkrender-job-{one.batch.token}": "job" for one in (first, second)
    }
    assert reader.display_names("https://elsewhere.test") == {}
    assert reader.left_to_buy("job") == {(RECIPE.model, "1K", "1:1"): 1}
    assert reader.left_to_buy("job", submitted=True) == {(RECIPE.model, "1K", "1:1"): 2}
    assert reader.stems_in_flight("job") == {second.attempts[0].token: "job/P1"}
    with pytest.raises(LookupError, match="no job 'x'"):
        reader.open_batches("x")


@pytest.mark.parametrize("state", [State.SUBMITTED, State.SUCCEEDED])
def test_quotas_of_single_requests_but_the_months_do_not_count_lines(desk, state):
    desk.enqueue(specs(3))
    desk.wish = replace(desk.wish, limits=replace(desk.wish.limits, rpm=1, rpd=1, spend_nanos=10**9))
    found = desk.submitted(load=Load(lines=2))
    if state is State.SUCCEEDED:
        for line in found.attempts:
            desk.settle(line, price=BATCH_SHEET)
    with desk.read() as connection:
        log = desk.quotas.log(connection, WISH.endpoint, desk.now)
        assert (log.sent_last_minute(RECIPE.model), log.today(RECIPE.model), log.recent()) == (0, 0, [])
        assert log.month_nanos == (PICTURE_NANOS if state is State.SUCCEEDED else half(0) + half(1))
    assert isinstance(desk.claim(), Claimed)


def test_a_submit_reads_only_the_rows_that_wait_and_the_batches_that_are_open(desk):
    desk.enqueue(specs(400))
    with desk.write() as connection:
        connection.execute(
            text("UPDATE task SET state = 'succeeded', path = 'x', path_folded = 'x' WHERE id < 380")
        )
    with desk.read() as connection:
        plan = _plan(connection, COMING_OF_MODEL, job_id=1, now=0.0)
        assert "ix_task_waiting (job_id=?)" in plan
        assert "TEMP B-TREE" not in plan
        assert "ix_batch_open" in _plan(connection, batches._ROOM)
