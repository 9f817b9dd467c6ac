"""A ledger in a folder, driven by hand: specs, outcomes as they come, and the verbs on plain connections."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

from sqlalchemy import Connection

from runner.core.batching import Load
from runner.core.budget import Cap
from runner.core.catalog import builtin
from runner.core.lifecycle import Answer, AttemptState, Made, Outcome, Picture, Usage, Verdict
from runner.core.limits import Limits
from runner.core.pricing import PriceSheet, settlement, sheet
from runner.core.reference import Reference
from runner.core.remote import Remote
from runner.core.retry import RetryPolicy, Tries, decide
from runner.core.task import Recipe, TaskSpec
from runner.ledger import (
    BatchRecord,
    Claim,
    Claimed,
    Counters,
    Enqueued,
    JobSpec,
    Ledger,
    Settled,
    Submission,
    Submitted,
    Wish,
    batch_queries,
    batches,
    queries,
)
from runner.ledger.claim import claim
from runner.ledger.database import reading, writing
from runner.ledger.enqueue import enqueue
from runner.ledger.quotas import Quotas
from runner.ledger.resolve import resolve
from runner.ledger.settle import settle

RECIPE = Recipe("gemini-3.1-flash-image-preview", thinking="minimal")
SHEET = sheet(builtin().models[RECIPE.model], "standard")
BATCH_SHEET = sheet(builtin().models[RECIPE.model], "batch")
WISH = Wish("https://example.test", RECIPE.model, Limits(rpm=10**9))
"""No limit that these tests could meet."""
PICTURE_NANOS = 20 * 250 + 380 * 1_500 + 1_120 * 60_000
"""What `made()` costs at the owner's prices: input, text with thinking, image."""


def spec(number: int, **changes) -> TaskSpec:
    """Task `number`: its key depends on nothing else."""
    one = TaskSpec(
        key=f"v1-{hashlib.sha256(str(number).encode()).hexdigest()[:40]}",
        prompt_id=f"p{number}",
        prompt=f"A banana, seen for the {number}. time",
        recipe=RECIPE,
        size="1K",
        aspect="1:1",
        axes=(("style", "baroque"),),
        variant=1,
        stem=f"job/P{number}",
        position=number,
    )
    return replace(one, **changes)


def specs(count: int) -> list[TaskSpec]:
    """Tasks 0 to `count` - 1."""
    return [spec(number) for number in range(count)]


def job(name: str = "job", cap: Cap | None = None, output_root: str = "/renders") -> JobSpec:
    """A job as enqueue takes it."""
    return JobSpec(name, "0" * 64, output_root, cap or Cap(), {"model": RECIPE.model})


USAGE = Usage(20, 1_300, 200, 1_120)


def answer(usage: Usage | None = USAGE, pictures: int = 1, **changes) -> Answer:
    """An answer with one picture, as recorded ones are."""
    return replace(Answer("STOP", usage=usage, pictures=pictures, response_id="r1"), **changes)


def made(claimed: Claimed, said: Answer | None = None) -> Made:
    """The picture of an attempt, stored."""
    return Made(said or answer(), Picture(f"{claimed.stem}.png", "a" * 64, 1_000, "image/png", 1024, 1024))


REMOTE = Remote("batches/b1", state="PENDING", created_utc=1_005.0)


@cache
def _blank() -> bytes:
    """A new live ledger, made once: migrations take longer than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        Ledger.open(f"sqlite:///{path}", "live", now_utc=0.0).close()
        assert not path.with_name("ledger.db-wal").exists()
        return path.read_bytes()


@dataclass
class Desk:
    """One ledger and one job at it."""

    path: Path
    name: str = "job"
    now: float = 1_000.0
    tokens: int = 0
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    wish: Wish = WISH
    quotas: Quotas = field(default_factory=Quotas)

    @classmethod
    def at(cls, folder: Path) -> "Desk":
        """A new live ledger in `folder`."""
        path = folder / "ledger.db"
        path.write_bytes(_blank())
        return cls(path)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    @cached_property
    def _writing(self):
        return writing(self.path)

    @cached_property
    def _reading(self):
        return reading(self.path)

    @contextmanager
    def write(self):
        with self._writing.begin() as connection:
            yield connection

    @contextmanager
    def read(self):
        with self._reading.connect() as connection:
            yield connection

    def enqueue(self, tasks: Iterable[TaskSpec], *, cap: Cap | None = None, requeue_failed=True) -> Enqueued:
        with self.write() as connection:
            described = job(self.name, cap)
            return enqueue(connection, described, tasks, requeue_failed=requeue_failed, now=self.now)

    def claim(self, cap: Cap | None = None, price: PriceSheet = SHEET) -> Claim:
        with self.write() as connection:
            return self.claim_in(connection, cap, price)

    def claim_in(self, connection: Connection, cap: Cap | None = None, price: PriceSheet = SHEET) -> Claim:
        token = self.new_token()
        return claim(
            connection,
            self.name,
            now=self.now,
            sheet=price,
            cap=cap or Cap(),
            token=token,
            wish=self.wish,
            quotas=self.quotas,
        )

    def claimed(self, **choices) -> Claimed:
        found = self.claim(**choices)
        assert isinstance(found, Claimed), found
        return found

    def submit(
        self,
        cap: Cap | None = None,
        *,
        load: Load | None = None,
        price: PriceSheet = BATCH_SHEET,
        weigh: Callable[[str, str], int] = lambda _size, _aspect: 0,
        ready: Callable[[Sequence[Reference]], bool] = lambda wanted: not wanted,
    ) -> Submission:
        with self.write() as connection:
            return batches.submit(
                connection,
                self.name,
                now=self.now,
                sheet=price,
                cap=cap or Cap(),
                wish=self.wish,
                quotas=self.quotas,
                load=load or Load(),
                weigh=weigh,
                ready=ready,
                policy_attempts=self.policy.attempts,
                new_token=self.new_token,
            )

    def new_token(self) -> str:
        self.tokens += 1
        return f"{self.tokens:032x}"

    def submitted(self, **choices) -> Submitted:
        found = self.submit(**choices)
        assert isinstance(found, Submitted), found
        return found

    def posting(self, token: str) -> bool:
        with self.write() as connection:
            return batches.posting(connection, token, "files/in", now=self.now)

    def created(self, token: str, remote: Remote = REMOTE) -> bool:
        with self.write() as connection:
            return batches.created(connection, token, remote, now=self.now)

    def over(self, token: str, reason: str = "", error: str = "") -> bool:
        with self.write() as connection:
            return batches.over(connection, token, reason, error, now=self.now)

    def batch(self, token: str) -> BatchRecord:
        with self.read() as connection:
            return next(one for one in batch_queries.batches(connection, self.name) if one.token == token)

    def settle(self, claimed: Claimed, outcome: Outcome | None = None, *, price=SHEET, adopted=False) -> Settled:
        with self.write() as connection:
            ended = outcome or made(claimed)
            used = Tries(claimed.tries, claimed.refused_tries)
            settled = settlement(ended, claimed.quote, price, claimed.size)
            held = settled.state is AttemptState.UNKNOWN
            return settle(
                connection,
                claimed,
                ended,
                settled,
                decide(ended, used, self.policy, jitter=0.5, held=held),
                now=self.now,
                latency_s=12.5,
                adopted=adopted,
            )

    def resolve(self, *tokens: str, verdict: Verdict, why: str = "the invoice says so") -> frozenset[str]:
        with self.write() as connection:
            return resolve(connection, self.name, tokens, verdict, why, now=self.now)

    def counters(self) -> Counters:
        """The kept counters, which must be what a recount gives."""
        with self.read() as connection:
            kept = queries.counters(connection, self.name)
            assert kept == queries.recount(connection, self.name)
            return kept

    def tasks(self, *, orphaned=False):
        with self.read() as connection:
            return list(queries.tasks(connection, self.name, orphaned=orphaned))

    def attempts(self):
        with self.read() as connection:
            return list(queries.attempts(connection, self.name))
