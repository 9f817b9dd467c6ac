"""Any order of verbs, any outcome, any crash: counters are their recount, spend its attempts, the cap holds."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from sqlalchemy import Connection

from runner.core.batching import Load
from runner.core.budget import Cap, Spend
from runner.core.lifecycle import (
    BatchState,
    Faulted,
    Interrupted,
    Invalid,
    Lost,
    Outcome,
    Refused,
    State,
    Stopped,
    Throttled,
    Unreached,
    Unstored,
    Unusable,
    Usage,
    Verdict,
)
from runner.core.remote import Place, Remote
from runner.core.retry import RetryPolicy
from runner.ledger import (
    Claimed,
    Empty,
    OverBudget,
    Submitted,
    TooFew,
    Waiting,
    batch_queries,
    batches,
    queries,
    resolve,
)
from runner.ledger.retry import retry
from tests.ledger.desk import BATCH_SHEET, SHEET, Desk, answer, made, spec

TASKS = 6
STEP_NANOS = 70_000_000
"""About one reservation."""

usages = st.none() | st.builds(
    Usage,
    prompt=st.integers(0, 60),
    candidates=st.integers(1_120, 4_000),
    thoughts=st.integers(0, 800),
    image=st.sampled_from([None, 1_120, 1_200]),
)
answers = st.builds(answer, usages, pictures=st.integers(0, 2))
outcomes: st.SearchStrategy[Outcome | Callable[[Claimed], Outcome]] = st.one_of(
    st.builds(lambda said: lambda claimed: made(claimed, said), st.builds(answer, usages)),
    st.builds(Refused, answers, st.just("image_safety"), again=st.booleans()),
    st.builds(Unusable, answers, st.just("no_image")),
    st.builds(Unstored, answers, st.just("disk full")),
    st.builds(Faulted, st.sampled_from([500, 504]), st.just("oops"), billed_unknown=st.booleans()),
    st.builds(Interrupted, left=st.booleans()),
    st.sampled_from(
        [
            Throttled(429, "minute", "slow down"),
            Invalid(400, "bad"),
            Unreached("refused"),
            Lost("timed_out", "late"),
            Stopped(403, "key", "denied"),
        ]
    ),
)


LANES = {State.RUNNING: "standard", State.SUBMITTED: "batch"}

STEPS: dict[str, tuple[BatchState | None, ...]] = {
    "post": (BatchState.CREATING, BatchState.INTENT),
    "unpost": (BatchState.INTENT, BatchState.CREATING),
    "create": (BatchState.CREATED, BatchState.CREATING),
    "look": (None, BatchState.CREATED),
    "cancel": (None, BatchState.CREATED),
    "take": (None, BatchState.CREATED),
    "end": (BatchState.OVER, BatchState.INTENT, BatchState.CREATING, BatchState.CREATED),
}
"""Where it leads, and from where."""
VERBS: dict[str, Callable[[Connection, str], bool]] = {
    "post": lambda connection, token: batches.posting(connection, token, "files/x", now=1.0),
    "unpost": lambda connection, token: batches.unposted(connection, token, now=1.0),
    "create": lambda connection, token: batches.created(connection, token, Remote(f"batches/{token}"), now=1.0),
    "look": lambda connection, token: batches.looked(connection, token, Remote(f"batches/{token}"), now=1.0),
    "cancel": lambda connection, token: batches.cancelling(connection, token, now=1.0),
    "take": lambda connection, token: batches.taken(connection, token, Place(1, 2, "x")),
    "end": lambda connection, token: batches.over(connection, token, "ended", "", now=1.0),
}


class LedgerMachine(RuleBasedStateMachine):
    flying = Bundle("flying")
    landed = Bundle("landed")

    @initialize(cap=st.integers(0, 8), capped=st.booleans())
    def open(self, cap, capped):
        self.folder = tempfile.TemporaryDirectory()
        self.desk = Desk.at(Path(self.folder.name))
        self.desk.policy = RetryPolicy(attempts=2, refused=2)
        self.cap = Cap(nanos=cap * STEP_NANOS, image_tokens=cap * 1_200) if capped else Cap()
        self.out: dict[str, Claimed] = {}
        self.batches: dict[str, BatchState] = {}
        self.settled = self.unknown = self.overrun = self.overrun_tokens = 0
        self.desk.enqueue([spec(n) for n in range(TASKS)])

    @rule(
        keys=st.lists(st.integers(0, TASKS + 2), unique=True),
        shift=st.integers(0, 3),
        requeue=st.booleans(),
    )
    def edit(self, keys, shift, requeue):
        tasks = [spec(n, position=place, stem=f"job/{n + shift}") for place, n in enumerate(keys)]
        before = {task.key: task for task in self.desk.tasks(orphaned=True)}
        recorded = self.desk.enqueue(tasks, requeue_failed=requeue)
        after = {task.key: task for task in self.desk.tasks(orphaned=True)}
        assert recorded.total == len(keys)
        assert recorded.orphaned == len(after) - len(keys)
        assert before.keys() <= after.keys()
        for key, old in before.items():
            new = after[key]
            money = (old.cost_nanos, old.unknown_nanos, old.path, old.attempts)
            assert money == (new.cost_nanos, new.unknown_nanos, new.path, new.attempts)
            assert new.state is old.state or (requeue and (old.state, new.state) == (State.FAILED, State.QUEUED))

    @rule(keys=st.lists(st.integers(0, TASKS - 1), unique=True), gone=st.booleans())
    def put_back(self, keys, gone):
        chosen, states = {spec(n).key for n in keys}, {State.SUCCEEDED} if gone else {State.REFUSED, State.FAILED}
        before = {task.key: task for task in self.desk.tasks(orphaned=True)}
        meant = {key for key, old in before.items() if key in chosen and old.live and old.state in states}
        with self.desk.write() as connection:
            assert retry(connection, "job", chosen, now=self.desk.now, gone=gone) == len(meant)
        for task in self.desk.tasks(orphaned=True):
            old = before[task.key]
            assert task.state is (State.QUEUED if task.key in meant else old.state)
            assert task.path == (None if gone and task.key in meant else old.path)
            assert (task.cost_nanos, task.unknown_nanos, task.attempts) == (
                *(old.cost_nanos, old.unknown_nanos),
                old.attempts,
            )

    @rule(steps=st.integers(1, 4))
    def raise_cap(self, steps):
        if self.cap.nanos is not None and self.cap.image_tokens is not None:
            self.cap = Cap(self.cap.nanos + steps * STEP_NANOS, self.cap.image_tokens + steps * 1_200)

    @rule(seconds=st.sampled_from([1.0, 200.0]))
    def wait(self, seconds):
        self.desk.now += seconds

    @rule(target=flying)
    def claim(self):
        before = self.desk.counters()
        found = self.desk.claim(self.cap)
        match found:
            case Claimed():
                assert found.key not in {other.key for other in self.out.values()}
                assert found.key == self.due(found)[0]
                self.out[found.token] = found
                return found
            case OverBudget():
                assert found.key == self.due()[0]
            case Waiting():
                assert self.due() == []
                assert (found.next_due is None) == (before.tasks["queued"] == 0)
            case Empty():
                assert before.tasks["queued"] == before.tasks["running"] == before.tasks["submitted"] == 0
        assert self.desk.counters() == before
        return multiple()

    @rule(target=flying, lines=st.integers(1, TASKS), least=st.integers(1, 3), jobs=st.integers(1, 4))
    def submit(self, lines, least, jobs):
        before = self.desk.counters()
        found = self.desk.submit(self.cap, load=Load(lines=lines, least=least, jobs=jobs))
        match found:
            case Submitted():
                due = self.due(*found.attempts)
                keys = [one.key for one in found.attempts]
                assert keys == [key for key in due if key in keys]
                assert not {one.key for one in self.out.values()} & set(keys)
                assert len(keys) <= lines
                self.out.update({one.token: one for one in found.attempts})
                self.batches[found.batch.token] = BatchState.INTENT
                return multiple(*found.attempts)
            case TooFew():
                assert least > 1
                assert self.due() != []
            case OverBudget():
                assert found.key == self.due()[0]
        assert self.desk.counters() == before
        return multiple()

    def due(self, *taken: Claimed):
        """Keys that may be claimed, in order; `taken` were a moment ago."""
        keys = [one.key for one in taken]
        with self.desk.read() as connection:
            rows = connection.exec_driver_sql(
                "SELECT key FROM task WHERE live AND ((state = 'queued' AND (due_at IS NULL OR due_at <= ?)) "
                "OR key IN (SELECT value FROM json_each(?))) ORDER BY position",
                (self.desk.now, json.dumps(keys)),
            )
            return [key for (key,) in rows]

    @rule(
        pick=st.integers(0, 9), step=st.sampled_from(["post", "unpost", "create", "look", "cancel", "take", "end"])
    )
    def step(self, pick, step):
        """A verb about a batch changes it where it is in place, and nothing else ever."""
        if not self.batches:
            return
        token = list(self.batches)[pick % len(self.batches)]
        state, before = self.batches[token], self.desk.counters()
        if step == "end" and any(one.token in self.out for one in self.open_lines(token)):
            with pytest.raises(RuntimeError, match="not all its attempts"):
                self.desk.over(token)
            return
        into, *of = STEPS[step]
        with self.desk.write() as connection:
            done = VERBS[step](connection, token)
        assert done == (state in of)
        if done:
            self.batches[token] = into or state
        assert self.desk.batch(token).state is self.batches[token]
        assert self.desk.counters() == before

    def open_lines(self, token):
        with self.desk.read() as connection:
            return batch_queries.batch_attempts(connection, token)

    @rule(target=landed, claimed=consumes(flying), outcome=outcomes)
    def settle(self, claimed, outcome):
        if claimed.token not in self.out:
            return multiple()
        ended = outcome(claimed) if callable(outcome) else outcome
        self.end(claimed, ended)
        return claimed

    def end(self, claimed, outcome):
        before = self.desk.counters().spend
        price = BATCH_SHEET if claimed.lane == "batch" else SHEET
        assert self.desk.settle(claimed, outcome, price=price).recorded
        after = self.desk.counters().spend
        reserved = claimed.quote.nanos
        assert after.reserved == before.reserved - reserved
        cost, unknown = after.settled - before.settled, after.unknown - before.unknown
        assert unknown in {0, reserved}
        assert not (cost and unknown)
        tokens = after.settled_image_tokens - before.settled_image_tokens
        attempt = next(one for one in self.desk.attempts() if one.token == claimed.token)
        assert attempt.overrun == (cost > reserved or tokens > claimed.quote.image_tokens)
        del self.out[claimed.token]
        self.settled += cost
        self.unknown += unknown
        self.overrun += max(0, cost - reserved)
        self.overrun_tokens += max(0, tokens - claimed.quote.image_tokens)

    @rule(claimed=landed, outcome=outcomes)
    def settle_again(self, claimed, outcome):
        before = (self.desk.counters(), self.desk.tasks(orphaned=True), self.desk.attempts())
        answered = self.desk.settle(claimed, outcome(claimed) if callable(outcome) else outcome)
        assert not answered.recorded
        assert answered.spend == before[0].spend
        assert (self.desk.counters(), self.desk.tasks(orphaned=True), self.desk.attempts()) == before

    @rule(adopt=st.booleans())
    def crash(self, adopt):
        """The runner dies; the next one explains every attempt it finds, the first perhaps by its picture.

        Batches go on without it.
        """
        with self.desk.read() as connection:
            left = queries.running(connection, self.desk.name)
        assert left == [one for one in self.out.values() if one.lane == "standard"]
        for claimed in left:
            self.end(claimed, made(claimed) if adopt else Lost("crashed", "the runner died"))
            adopt = False

    @rule(pick=st.integers(0, 9), verdict=st.sampled_from(Verdict))
    def explain(self, pick, verdict):
        """A person says of an unknown attempt what it cost; saying it again changes nothing."""
        with self.desk.read() as connection:
            held = resolve.unknowns(connection, self.desk.name)
        if not held:
            return
        told = held[pick % len(held)]
        before = self.desk.tasks(orphaned=True)
        assert self.desk.resolve(told.token, verdict=verdict) == {told.token}
        self.unknown -= told.held_nanos
        self.settled += told.held_nanos if verdict is Verdict.WRITTEN_OFF else 0
        after = self.desk.tasks(orphaned=True)
        assert [(one.state, one.reason) for one in before] == [(one.state, one.reason) for one in after]
        assert self.desk.resolve(told.token, verdict=verdict) == frozenset()
        assert self.desk.tasks(orphaned=True) == after

    @invariant()
    def money_is_what_the_attempts_say(self):
        spend = self.desk.counters().spend  # which compares the counters with a recount
        reserved = sum(claimed.quote.nanos or 0 for claimed in self.out.values())
        assert (spend.settled, spend.reserved, spend.unknown) == (self.settled, reserved, self.unknown)
        tasks = self.desk.tasks(orphaned=True)
        assert spend.settled == sum(task.cost_nanos or 0 for task in tasks)
        assert spend.unknown == sum(task.unknown_nanos or 0 for task in tasks)

    @invariant()
    def the_cap_holds_but_for_recorded_overruns(self):
        spend: Spend = self.desk.counters().spend
        if self.cap.nanos is not None:
            assert spend.held <= self.cap.nanos + self.overrun
        if self.cap.image_tokens is not None:
            assert spend.held_image_tokens <= self.cap.image_tokens + self.overrun_tokens

    @invariant()
    def a_task_has_one_live_attempt_and_a_success_its_picture(self):
        running = sorted((one.key, one.lane) for one in self.desk.attempts() if one.state == "running")
        tasks = self.desk.tasks(orphaned=True)
        assert running == sorted((task.key, LANES[task.state]) for task in tasks if task.state in LANES)
        assert all((task.path is not None) == (task.state is State.SUCCEEDED) for task in tasks)

    @invariant()
    def what_is_open_of_each_batch_is_what_was_not_settled(self):
        lines = [one for token in self.batches for one in self.open_lines(token)]
        assert lines == [one for one in self.out.values() if one.lane == "batch"]

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


LedgerMachine.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLedgerMachine = LedgerMachine.TestCase
