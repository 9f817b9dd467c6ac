"""The invariants of the batch lane, checked from outside: the sandbox's books against ledger and folder.

A line of the bill is matched with its attempt by the key that it was sent under. Which lines of an expired job
were done the service does not say, only how many: what is held for those is judged for each job as a whole.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.audit import UNREPORTED, Audit, Totals, Violation
from tests.crash.bill import IMAGE, INPUT, SPOILED, TEXT, rows

HALF = 2
"""A batch costs half of the owner's prices."""
MUTE = "no_usage_refusal"
"""An answer in full that says nothing of its cost: held as unknown."""
WHOLE = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED"})
"""States in which the service hands out every line that it has not lost itself."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a batch on the bill."""

    batch: str
    key: str
    nanos: int
    images: int
    outcome: str
    answered: bool
    """Whether it is in the results."""
    response_id: str
    sha256: str | None

    @property
    def good(self) -> bool:
        """Whether a picture that can be used was made."""
        return self.images > 0 and self.outcome not in SPOILED


@dataclass(frozen=True, slots=True)
class Sent:
    """An attempt, as the ledger has it, and the batch it went with."""

    token: str
    task: int
    state: str
    reserved_nanos: int
    cost_nanos: int | None
    response_id: str | None
    path: str | None
    batch: str | None
    """`batches/…`, where that became known."""
    display_name: str
    over: bool
    remote_state: str


@dataclass(slots=True)
class _Account:
    """Lines of one job that nobody settled, and what is held for its attempts."""

    untold: list[Line] = field(default_factory=list)
    holds: list[int] = field(default_factory=list)


def read_lines(state: Path) -> list[Line]:
    """Every line of a batch on the bill so far, in its order."""
    return [
        Line(
            batch=row["batch"],
            key=row["key"],
            nanos=(row["input"] * INPUT + row["text"] * TEXT + row["image"] * IMAGE) // HALF,
            images=row["images"],
            outcome=row["outcome"],
            answered=row["answered"],
            response_id=row["response_id"],
            sha256=row["sha256"],
        )
        for row in rows(state / "bill.jsonl")
        if row["lane"] == "batch"
    ]


def jobs_of(state: Path) -> dict[str, str]:
    """`batches/…` -> display name of every job that was ever made, as the books and the list itself have it."""
    noted = {row["batch"]: row["display_name"] for row in rows(state / "batches.jsonl") if row["op"] == "create"}
    held = [json.loads(path.read_text(encoding="utf-8")) for path in (state / "batches").glob("*.json")]
    return {name: said for name, said in noted.items() if name} | {
        f"batches/{job['id']}": job["display_name"] for job in held
    }


def inputs_of(state: Path) -> set[str]:
    """`files/…` of every input that was ever uploaded whole; nobody deletes them, they expire."""
    return {
        row["file"]
        for row in rows(state / "files.jsonl")
        if row["op"] == "finalize" and row["file"] and not (row["mime"] or "").startswith("image/")
    }


class BatchAudit(Audit):
    """One job whose every task goes in batches."""

    def violations(self, cap_nanos: int | None = None) -> list[Violation]:
        """Every invariant that does not hold now."""
        self.shelf.look()
        lines, sent = read_lines(self.state), self.sent()
        return [
            *self._one_job_a_token(),
            *_bought_once(lines, sent),
            *self._settled_as_billed(lines, sent),
            *_held(lines, sent),
            *self._within_cap(cap_nanos),
            *self._adopted(self.attempts()),
            *self._whole(self.attempts()),
            *self._counted(),
        ]

    def unfinished(self) -> list[Violation]:
        """What must not be left when a run has come to its own end."""
        placed = {path for (path,) in self._ask("SELECT path FROM task WHERE live AND state = 'succeeded'")}
        referred = {path for (path,) in self._ask("SELECT path FROM attempt WHERE path IS NOT NULL")}
        inputs = self.ledger.with_name(f"{self.ledger.name}.batches")
        return [
            *super().unfinished(),
            *(Violation("open batch", token) for (token,) in self._ask(_OPEN)),
            *(Violation("left behind", str(path)) for path in inputs.glob("*")),
            *(Violation("nobody's picture", name) for name in self.shelf.hashes.keys() - referred),
            *(Violation("no picture", name) for name in placed - self.shelf.hashes.keys()),
        ]

    def sent(self) -> list[Sent]:
        """Every attempt in the order in which it was taken."""
        return [Sent(*row) for row in self._ask(_SENT)]

    def batches(self) -> Counter[str]:
        """How many batches there are of each state, those that are over by how they ended."""
        return Counter(dict(self._ask(_STATES)))

    def waiting(self) -> list[str]:
        """Jobs (`batches/…`) that were not over when they were last looked at, oldest first."""
        return [name for (name,) in self._ask(_WAITING)]

    def totals(self) -> Totals:
        """The money so far. `above` is not known of batches."""
        lines, sent = read_lines(self.state), self.sent()
        task_of = {one.token: one.task for one in sent}
        good = Counter(task_of.get(line.key) for line in lines if line.good)
        return Totals(
            billed=sum(line.nanos for line in lines),
            settled=sum(one.cost_nanos or 0 for one in sent),
            unknown=sum(one.reserved_nanos for one in sent if one.state == "unknown"),
            purchases=len(lines),
            duplicates=sum(count - 1 for count in good.values()),
        )

    def _one_job_a_token(self) -> Iterator[Violation]:
        """Over all creates, lost and repeated ones too; and the ledger knows each by its right name."""
        made = jobs_of(self.state)
        known = {said: (name, over) for said, name, over in self._ask(_NAMES)}
        for said, count in Counter(made.values()).items():
            if count > 1:
                yield Violation("one job a token", f"{said} is the name of {count} jobs")
        for name, said in made.items():
            called, over = known.get(said, (None, True))
            if called is None and over:
                yield Violation("one job a token", f"{name} is {said}, which the ledger gave up or never knew")
            elif called not in {name, None}:
                yield Violation("one job a token", f"{said} is {name}, the ledger calls it {called}")

    def _settled_as_billed(self, lines: list[Line], sent: list[Sent]) -> Iterator[Violation]:
        """Every settled attempt is one line of the bill, at its price, and its picture is there."""
        billed = {line.key: line for line in lines}
        for key, count in Counter(line.key for line in lines).items():
            if count > 1:
                yield Violation("one line a key", f"{key} is on the bill {count} times")
        for one in sent:
            if one.state != "settled":
                continue
            line = billed.get(one.token)
            if line is None or line.response_id != one.response_id:
                yield Violation("matched by key", f"{one.token} was settled by the answer {one.response_id}")
                continue
            if one.cost_nanos != line.nanos and line.outcome not in UNREPORTED:
                yield Violation(
                    "to the nano-dollar", f"{one.token} {line.outcome}: {one.cost_nanos} != {line.nanos}"
                )
            if line.images and self.shelf.hashes.get(one.path or "") != line.sha256:
                yield Violation("paid is kept", f"{one.token} {line.outcome}: not at {one.path}")

    def _within_cap(self, cap_nanos: int | None) -> Iterator[Violation]:
        """What the ledger counts, but for what answers cost above their reservation."""
        [(over,)] = self._ask(_OVERRUN) or [(0,)]
        if cap_nanos is not None and (held := self.held()) - over > cap_nanos:
            yield Violation("cap", f"{held} held, {over} of it overruns, {cap_nanos} allowed")


def _bought_once(lines: list[Line], sent: list[Sent]) -> Iterator[Violation]:
    """A task has one good picture that arrived; every other one that was made is a line that did not."""
    attempts = {one.token: one for one in sent}
    arrived: Counter[int] = Counter()
    for line in lines:
        one = attempts.get(line.key)
        if one is None:
            yield Violation("accounted", f"{line.key} was billed, and no attempt has this key")
            continue
        arrived[one.task] += line.good and one.state == "settled"
        delivered = one.remote_state in WHOLE and line.answered and line.outcome != MUTE
        if one.over and delivered and one.state != "settled":
            yield Violation("paid is kept", f"{line.key} was answered, and is {one.state}")
    for task, count in arrived.items():
        if count > 1:
            yield Violation("bought once", f"task {task} has {count} good pictures")


def _held(lines: list[Line], sent: list[Sent]) -> Iterator[Violation]:
    """What was billed and did not arrive is held, job by job: as many attempts, and as many dollars."""
    attempts, accounts = {one.token: one for one in sent}, defaultdict[str, _Account](_Account)
    for one in sent:
        if one.state in {"unknown", "running"}:
            accounts[one.display_name].holds.append(one.reserved_nanos)
    for line in lines:
        owner = attempts.get(line.key)
        if owner is not None and owner.state != "settled":
            accounts[owner.display_name].untold.append(line)
    for name, account in accounts.items():
        owed = sorted(line.nanos for line in account.untold)
        if len(owed) > len(account.holds):
            yield Violation(
                "accounted", f"{name}: {len(owed)} lines did not arrive, {len(account.holds)} are held"
            )
        elif sum(owed) > sum(account.holds):
            yield Violation("accounted", f"{name}: {sum(owed)} billed, {sum(account.holds)} held")


_SENT = """
SELECT attempt.token, attempt.task_id, attempt.state, attempt.reserved_nanos, attempt.cost_nanos,
       attempt.response_id, attempt.path, batch.name, batch.display_name, batch.state = 'over', batch.remote_state
FROM attempt JOIN batch ON batch.id = attempt.batch_row ORDER BY attempt.id
"""
_NAMES = "SELECT display_name, name, state = 'over' FROM batch"
_OPEN = "SELECT token FROM batch WHERE state <> 'over'"
_STATES = "SELECT CASE state WHEN 'over' THEN reason ELSE state END, count(*) FROM batch GROUP BY 1"
_WAITING = "SELECT name FROM batch WHERE state = 'created' AND remote_state IN ('PENDING', 'RUNNING') ORDER BY id"
_OVERRUN = "SELECT coalesce(sum(cost_nanos - reserved_nanos), 0) FROM attempt WHERE overrun"
