"""One cap over many jobs: judged in each claim, moved by each settle, changed only where a person says so."""

import tempfile
import threading
from collections import Counter
from dataclasses import replace
from itertools import count
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from runner.core.budget import Cap, Spend, passed
from runner.core.catalog import Prices
from runner.core.errors import UsageError
from runner.core.lifecycle import AttemptState, Lost, Unreached
from runner.core.pricing import PriceSheet, settlement
from runner.core.quota import LANDED_S
from runner.core.retry import RetryPolicy, Tries, decide
from runner.ledger import (
    AccountSpec,
    AccountStatus,
    Claimed,
    Empty,
    Held,
    Ledger,
    OverBudget,
    agreed_cap,
    queries,
    reservation,
)
from runner.ledger.enqueue import enqueue
from runner.ledger.reservation import LOOK_S
from tests.ledger.desk import PICTURE_NANOS, SHEET, WISH, Desk, job, made, specs
from tests.ledger.test_claim import WORST, worst
from tests.ledger.test_machine import outcomes

NAME = "acme-spring"
UNPRICED = PriceSheet(Prices(None, None, None))
FREE = Cap()


class Firm:
    """Several jobs at one ledger."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._tokens = count(1)

    def at(self, name: str) -> Desk:
        """The desk of a job; all desks share clock and tokens."""
        one = replace(self.desk, name=name)
        one.tokens = next(self._tokens) * 1_000
        return one

    def join(
        self, name: str, cap: Cap = FREE, *, tasks=3, account: str | None = NAME, own: Cap = FREE, may_change=False
    ) -> Desk:
        """Record a job of so many tasks under an account, or under none."""
        spec = None if account is None else AccountSpec(account, cap, may_change)
        with self.desk.write() as connection:
            described = replace(job(name, own, output_root=f"/{name}"), account=spec)
            enqueue(connection, described, specs(tasks), requeue_failed=True, now=self.desk.now)
        return self.at(name)

    def account(self, name: str = NAME) -> AccountStatus:
        """The account as it is kept, which must be what its attempts add up to."""
        with self.desk.read() as connection:
            kept = queries.account(connection, name)
            assert kept is not None
            assert (kept.spend, kept.unpriced, kept.uncounted) == queries.account_recount(connection, name)
            return kept


@pytest.fixture
def firm(desk):
    return Firm(desk)


def test_jobs_reserve_at_their_own_and_at_the_account(firm):
    one, other = firm.join("one", Cap(10**9)), firm.join("other")
    first, second = one.claimed(), other.claimed()

    assert firm.account().spend == Spend(reserved=2 * worst(0), reserved_image_tokens=2 * 1_120)
    assert one.counters().spend.reserved == other.counters().spend.reserved == worst(0)

    one.settle(first)
    other.settle(second, Lost("timed_out", "late"))

    shared = firm.account()
    assert (shared.spend.settled, shared.spend.reserved, shared.spend.unknown) == (PICTURE_NANOS, 0, worst(0))
    assert one.counters().spend.plus(other.counters().spend) == shared.spend
    assert (shared.cap, shared.jobs) == (Cap(10**9), ("one", "other"))


@pytest.mark.parametrize("cap", [Cap(2 * worst(0)), Cap(image_tokens=2 * 1_120), Cap(10**12, 2 * 1_120)])
def test_the_cap_over_two_jobs_is_reached_exactly_and_never_passed(firm, cap):
    one, other = firm.join("one", cap), firm.join("other")
    one.settle(one.claimed(), Lost("timed_out", "late"))
    other.settle(other.claimed(), Lost("timed_out", "late"))
    before = one.counters(), other.counters(), firm.account()

    for desk in (one, other):
        over = desk.claim()
        assert isinstance(over, OverBudget)
        assert (over.account, over.cap, over.spend) == (NAME, cap, before[2].spend)
    assert (one.counters(), other.counters(), firm.account()) == before


def test_a_nano_dollar_short_does_not_fit(firm):
    desk = firm.join("one", Cap(worst(0) - 1))
    assert isinstance(desk.claim(), OverBudget)
    assert firm.account().spend == Spend()


def test_the_jobs_own_cap_is_named_first(firm):
    desk = firm.join("one", Cap(1), own=Cap(2))
    over = desk.claim(Cap(2))
    assert isinstance(over, OverBudget)
    assert (over.account, over.cap) == (None, Cap(2))


def test_the_update_itself_refuses_what_the_account_cannot_take(firm, monkeypatch):
    monkeypatch.setattr(reservation, "fits", lambda *_: True)
    desk = firm.join("one", Cap(worst(0) - 1))
    with pytest.raises(RuntimeError, match="0 rows changed where one had to"):
        desk.claim()
    assert firm.account().spend == desk.counters().spend == Spend()


def test_what_never_left_gives_its_room_back_to_the_other_job(firm):
    one, other = firm.join("one", Cap(worst(0))), firm.join("other")
    mine = one.claimed()
    assert isinstance(other.claim(), Held)
    one.settle(mine, Unreached("refused"))
    assert isinstance(other.claim(), Claimed)


def test_a_job_waits_while_the_other_has_in_flight_what_may_cost_less(firm):
    one, other = firm.join("one", Cap(worst(0) + 1)), firm.join("other")
    one.claimed()
    assert other.claim() == Held("budget", other.now + LOOK_S)
    other.now += LANDED_S  # whoever sent it has died
    assert isinstance(other.claim(), OverBudget)


def test_nobody_waits_for_room_that_could_not_be_enough(firm):
    one, other = firm.join("one", Cap(2 * worst(0))), firm.join("other")
    one.settle(one.claimed(), Lost("timed_out", "late"))
    one.claimed()
    firm.join("one", Cap(worst(0) * 2 - 1), may_change=True)
    assert isinstance(other.claim(), OverBudget)


def test_a_run_does_not_wait_for_itself(firm):
    desk = firm.join("one", Cap(worst(0)))
    desk.claimed()
    assert isinstance(desk.claim(), OverBudget)


def test_a_changed_cap_counts_from_the_next_claim_on_for_all(firm):
    one, other = firm.join("one", Cap(worst(0) - 1)), firm.join("other")
    assert isinstance(other.claim(), OverBudget)
    firm.join("one", Cap(2 * worst(0)), may_change=True)
    assert isinstance(other.claim(), Claimed)
    assert isinstance(one.claim(), Claimed)
    firm.join("one", Cap(1), may_change=True)
    other.now += LANDED_S
    over = other.claim()
    assert isinstance(over, OverBudget)
    assert over.cap == Cap(1)


def test_what_was_spent_before_joining_is_brought_along(firm):
    desk = firm.join("one", account=None)
    first, second, third = desk.claimed(), desk.claimed(), desk.claimed()
    desk.settle(first)
    desk.settle(second, Lost("timed_out", "late"))

    desk = firm.join("one", Cap(10**9))

    spend = firm.account().spend
    assert (spend.settled, spend.unknown, spend.reserved) == (PICTURE_NANOS, worst(1), worst(2))
    desk.settle(third)
    assert firm.account().spend == desk.counters().spend
    firm.join("one", Cap(10**9))  # again: it brings nothing twice
    assert firm.account().spend == desk.counters().spend


def test_spend_stays_with_the_account_it_was_made_under(firm):
    desk = firm.join("one", Cap(10**9))
    desk.settle(desk.claimed())
    in_flight = desk.claimed()

    desk = firm.join("one", Cap(10**9), account="other")
    desk.settle(in_flight)  # made under the first
    desk.settle(desk.claimed())

    assert firm.account().spend.settled == 2 * PICTURE_NANOS
    assert firm.account("other").spend.settled == PICTURE_NANOS
    assert (firm.account().jobs, firm.account("other").jobs) == ((), ("one",))
    desk = firm.join("one", account=None)
    assert isinstance(desk.claim(), Empty)
    assert desk.counters().spend.settled == 3 * PICTURE_NANOS


def test_a_joining_job_may_have_spent_too_much_already(firm):
    before = firm.join("one", account=None)
    before.settle(before.claimed())
    after = firm.join("one", Cap(PICTURE_NANOS - 1))
    assert isinstance(after.claim(), OverBudget)
    assert firm.account().spend.settled == PICTURE_NANOS


@pytest.mark.parametrize(
    ("told", "may_change", "recorded", "agreed"),
    [
        (Cap(5), False, None, Cap(5)),
        (Cap(5), True, None, Cap(5)),
        (Cap(), False, Cap(5), Cap(5)),
        (Cap(), True, Cap(5, 7), Cap(5, 7)),
        (Cap(5), False, Cap(5), Cap(5)),
        (Cap(6), True, Cap(5), Cap(6)),
        (Cap(6), True, Cap(5, 7), Cap(6, 7)),  # what --budget does not name stays
        (Cap(6, 8), True, Cap(5, 7), Cap(6, 8)),
    ],
)
def test_a_cap_is_agreed(told, may_change, recorded, agreed):
    assert agreed_cap(AccountSpec("a", told, may_change), recorded) == agreed


@pytest.mark.parametrize(
    ("told", "recorded", "words"),
    [
        (Cap(), None, "knows no such account yet: give it a cap"),
        (Cap(6 * 10**9), Cap(5 * 10**9), r"its cap is \$6.00 here and \$5.00 in the ledger"),
        (Cap(5), Cap(5, 7), "7 image tokens in the ledger"),
        (Cap(5, 7), Cap(5), "with --budget"),
    ],
)
def test_a_cap_that_is_not_agreed_says_what_to_do(told, recorded, words):
    with pytest.raises(UsageError, match=words):
        agreed_cap(AccountSpec("a", told), recorded)


def test_a_refused_cap_records_nothing(firm):
    desk = firm.join("one", Cap(10**9))
    with pytest.raises(UsageError, match="in the ledger for all"):
        firm.join("two", Cap(10**9 + 1))
    with firm.desk.read() as connection:
        assert queries.job_names(connection) == ["one"]
    with pytest.raises(UsageError, match="in the ledger for all"):
        firm.join("one", Cap(10**9 + 1), tasks=9)
    assert desk.counters().tasks["queued"] == 3
    assert firm.account().cap == Cap(10**9)


def test_requests_without_a_price_cannot_be_brought_under_a_cap(firm):
    desk = firm.join("one", account=None)
    desk.settle(desk.claimed(price=UNPRICED), price=UNPRICED)
    with pytest.raises(UsageError, match="1 of its requests have no known price"):
        firm.join("one", Cap(10**9))
    with firm.desk.read() as connection:
        assert queries.account(connection, NAME) is None

    desk = firm.join("one", Cap(image_tokens=10_000))  # tokens were counted
    shared = firm.account()
    assert (shared.unpriced, shared.uncounted, shared.spend.settled_image_tokens) == (1, 0, 1_120)
    with pytest.raises(UsageError, match="no known price"):  # nor can a cap in dollars come later
        firm.join("two", Cap(10**9), may_change=True)
    assert isinstance(desk.claim(price=replace(UNPRICED, image_tokens={"1K": 1_120})), Claimed)


def test_requests_without_a_price_never_fit_an_account_with_a_cap(firm):
    assert isinstance(firm.join("one", Cap(10**15)).claim(price=UNPRICED), OverBudget)


def test_status_has_both_caps_and_the_ledger_tells_the_account(firm):
    firm.join("one", Cap(10**9), own=Cap(5)).settle(firm.at("one").claimed())
    reader = Ledger.read(firm.desk.url)
    status = reader.status("one", since_utc=0)
    assert status.cap == Cap(5)
    assert status.account == reader.account(NAME) == firm.account()
    assert reader.under_no_account("one") == Spend()
    assert reader.account("nobody") is None


def test_a_refusal_in_the_writers_thread_reaches_whoever_waits(desk):
    async def run(ledger):
        described = replace(job(), account=AccountSpec(NAME, Cap()))
        await ledger.enqueue(described, specs(1), now=0.0)

    with (
        Ledger.open(desk.url, "live", now_utc=0.0) as ledger,
        pytest.raises(UsageError, match="no such account"),
    ):
        anyio.run(run, ledger)
    assert Ledger.read(desk.url).job_names() == []


def test_two_writers_of_one_ledger_never_pass_the_cap(desk):
    """Two connections, two threads, two jobs, many coroutines each: what the account holds stays under its cap."""
    most, seen = 20 * WORST, list[AccountStatus]()

    async def spend(ledger, name, lane):
        for number in count():
            token = f"{int(name == 'two'):02x}{lane:02x}{number:028x}"
            found = await ledger.claim(name, now=1.0 + number, sheet=SHEET, cap=Cap(), token=token, wish=WISH)
            if isinstance(found, Held):
                continue
            if not isinstance(found, Claimed):
                return
            outcome = made(found) if number % 2 else Lost("timed_out", "late")
            settled = settlement(outcome, found.quote, SHEET, found.size)
            move = decide(outcome, Tries(), RetryPolicy(), jitter=0.5, held=not number % 2)
            if shared := await anyio.to_thread.run_sync(ledger.reader.account, NAME):
                seen.append(shared)
            await ledger.settle(found, outcome, settled, move, now=2.0, latency_s=1.0)

    async def run(ledger, name):
        described = replace(job(name, output_root=f"/{name}"), account=AccountSpec(NAME, Cap(most)))
        await ledger.enqueue(described, specs(40), now=0.0)
        await anyio.to_thread.run_sync(started.wait, 10)
        async with anyio.create_task_group() as lanes:
            for lane in range(6):
                lanes.start_soon(spend, ledger, name, lane)

    def work(name):
        with Ledger.open(desk.url, "live", now_utc=0.0) as ledger:
            anyio.run(run, ledger, name)

    started = threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    shared = Firm(desk).account()
    assert max(one.spend.held for one in seen) <= most
    assert most - WORST - 10_000 < shared.spend.held <= most
    assert sum(Firm(desk).at(name).counters().spend.held for name in ("one", "two")) == shared.spend.held


JOBS = ("one", "two")
ACCOUNTS = ("acme", "other")
STEP = Cap(80_000_000, 1_200)
"""A little more than one reservation."""


class AccountMachine(RuleBasedStateMachine):
    """Jobs join, leave and spend in any order: accounts are what attempts say, and no claim passes a cap."""

    flying = Bundle("flying")

    @initialize(steps=st.integers(0, 6), under=st.sampled_from([*ACCOUNTS, None]))
    def open(self, steps, under):
        self.folder = tempfile.TemporaryDirectory()
        self.firm = Firm(Desk.at(Path(self.folder.name)))
        self.now = 1_000.0
        self.caps = {name: _times(STEP, steps) for name in ACCOUNTS}
        self.under = {JOBS[0]: ACCOUNTS[0], JOBS[1]: under}
        self.out: dict[str, tuple[str, str | None]] = {}
        """Of attempts in flight: job and account."""
        self.held: Counter[str] = Counter()
        self.free: Counter[str] = Counter()
        """Nano-dollars that a job holds under no account."""
        for name, account in self.under.items():
            self.firm.join(name, self.caps[ACCOUNTS[0]], account=account, tasks=6)

    def desk(self, name):
        desk = self.firm.at(name)
        desk.now, desk.policy = self.now, RetryPolicy(attempts=3, refused=2)
        return desk

    @rule(name=st.sampled_from(JOBS), account=st.sampled_from([*ACCOUNTS, None]), said=st.booleans())
    def move(self, name, account, said):
        """A job joins, changes or leaves; what it holds under none goes with it."""
        told = account is not None and (said or account not in self.seen())
        self.firm.join(name, self.caps[account] if told else FREE, account=account, tasks=6)
        self.under[name] = account
        if account is not None:
            self.held[account] += self.free.pop(name, 0)
            flying = {token: (job, account) for token, (job, of) in self.out.items() if job == name and of is None}
            self.out |= flying

    def seen(self):
        with self.firm.desk.read() as connection:
            return [one for one in ACCOUNTS if queries.account(connection, one) is not None]

    @rule(name=st.sampled_from(JOBS), steps=st.integers(0, 6))
    def change_cap(self, name, steps):
        account = self.under[name]
        if account is not None:
            self.caps[account] = _times(STEP, steps)
            self.firm.join(name, self.caps[account], account=account, tasks=6, may_change=True)

    @rule(name=st.sampled_from(JOBS), cap=st.integers(0, 6))
    def other_cap_is_refused(self, name, cap):
        account, wanted = self.under[name], _times(STEP, cap)
        if account is not None and wanted != self.caps[account]:
            with pytest.raises(UsageError):
                self.firm.join(name, wanted, account=account, tasks=9)

    @rule(seconds=st.sampled_from([1.0, 700.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(target=flying, name=st.sampled_from(JOBS), steps=st.integers(0, 6), capped=st.booleans())
    def claim(self, name, steps, capped):
        account, own = self.under[name], _times(STEP, steps) if capped else FREE
        before = self.spends()
        found = self.desk(name).claim(own)
        if not isinstance(found, Claimed):
            assert self.spends() == before
            assert not isinstance(found, OverBudget) or found.account in {None, account}
            return multiple()
        self.out[found.token] = (name, account)
        self.book(name, account, found.quote.nanos)
        if account is not None:
            spend = self.firm.account(account).spend
            assert not passed(spend, self.caps[account])
        return found

    def book(self, name, account, nanos):
        if account is None:
            self.free[name] += nanos
        else:
            self.held[account] += nanos

    @rule(claimed=consumes(flying), outcome=outcomes)
    def settle(self, claimed, outcome):
        name, account = self.out.pop(claimed.token)
        ended = outcome(claimed) if callable(outcome) else outcome
        desk = self.desk(name)
        assert desk.settle(claimed, ended).recorded
        paid = settlement(ended, claimed.quote, SHEET, claimed.size)
        left = {AttemptState.SETTLED: paid.nanos, AttemptState.UNKNOWN: claimed.quote.nanos}.get(paid.state, 0)
        self.book(name, account, left - claimed.quote.nanos)
        assert not desk.settle(claimed, ended).recorded

    def spends(self):
        return [self.firm.account(name).spend for name in self.seen()]

    @invariant()
    def accounts_are_their_recount_and_what_their_attempts_say(self):
        for name in self.seen():
            shared = self.firm.account(name)  # which compares the counters with a recount
            assert shared.cap == self.caps[name]
            assert shared.spend.held == self.held[name]
            assert shared.jobs == tuple(sorted(job for job in JOBS if self.under[job] == name))

    @invariant()
    def jobs_and_accounts_have_the_same_money(self):
        of_jobs = sum(self.desk(name).counters().spend.held for name in JOBS)
        assert of_jobs == self.held.total() + self.free.total()

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


def _times(cap: Cap, steps: int) -> Cap:
    return Cap((cap.nanos or 0) * steps, (cap.image_tokens or 0) * steps)


AccountMachine.TestCase.settings = settings(
    max_examples=10,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestAccountMachine = AccountMachine.TestCase
