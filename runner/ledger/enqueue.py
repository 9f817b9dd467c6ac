"""Record a manifest: one transaction, bulk rows without ORM objects, memory bounded by a batch.

A task is its key. A key that is already there keeps its state, its picture and its money, and takes its name,
place and order from the manifest.
"""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, field
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping, Table, and_, bindparam, func, insert, not_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.dialects.sqlite.dml import Insert

from runner.core.budget import Cap
from runner.core.errors import UsageError
from runner.core.lifecycle import State
from runner.core.paths import fold
from runner.core.reference import Reference
from runner.core.retry import LASTING
from runner.core.task import Recipe, TaskSpec
from runner.ledger.facts import AccountSpec, Enqueued, InTheWay, JobSpec, Known, Misplaced
from runner.ledger.models import SPENT, account, attempt, job, prompt, recipe, reference, task
from runner.ledger.queries import money
from runner.ledger.reservation import cap_of

T = TypeVar("T")

BATCH = 2_000

FRESH_TRIES = {"state": State.QUEUED, "tries": 0, "refused_tries": 0, "due_at": None, "reason": "", "error": ""}
_TOLD = ("prompt_id", "stem", "folded", "position", "axes", "variant", "reference_row", "draft")
_COMPARED = ("id", "key", "live", "path", "attempts", *_TOLD)
_BY_KEY = select(*(task.c[name] for name in {*_COMPARED, *FRESH_TRIES})).where(
    task.c.job_id == bindparam("job_id"), task.c.key.in_(bindparam("keys", expanding=True))
)
_CHANGE = update(task).where(task.c.id == bindparam("row_id"))


@dataclass(slots=True)
class _Tally:
    """What became of the tasks, and how the job's counters move."""

    new: int = 0
    kept: int = 0
    revived: int = 0
    requeued: int = 0
    states: Counter[State] = field(default_factory=Counter)
    orphaned: int = 0


def enqueue(
    connection: Connection,
    spec: JobSpec,
    specs: Iterable[TaskSpec],
    *,
    requeue_failed: bool,
    now: float,
    lasting: Collection[str] = LASTING,
) -> Enqueued:
    """Record `spec` and its tasks. Failed tasks whose reason is not `lasting` go back, if asked, with fresh tries.

    Raises sqlalchemy's IntegrityError where two specs share a key: expansion must not let that happen.
    """
    job_id = _record_job(connection, spec, now)
    seen = _Seen(connection, job_id)
    tally = _Tally()
    texts, recipes, pictures = _Texts(connection), _Recipes(connection), _References(connection)
    for batch in _batches(specs):
        known = seen.rows(batch)
        fresh, changed = [], []
        for one in batch:
            old, told = known.get(one.key), _told(one, pictures)
            if old is None:
                fresh.append((one, told))
            elif change := _change(old, told, tally, lasting if requeue_failed else None):
                changed.append(change)
        _insert(connection, job_id, fresh, texts, recipes)
        tally.new += len(fresh)
        tally.states[State.QUEUED] += len(fresh)
        _apply(connection, changed)
    _orphan(connection, seen.missing(), tally)
    _count(connection, job_id, tally)
    return _summary(connection, job_id, tally)


def _record_job(connection: Connection, spec: JobSpec, now: float) -> int:
    """The job's row id. A run begins, so whatever halted the last one is over."""
    account_id = None if spec.account is None else _open_account(connection, spec.account, now)
    row = {
        "account_id": account_id,
        "manifest_sha256": spec.manifest_sha256,
        "config": dict(spec.config),
        "output_root": spec.output_root,
        "cap_nanos": spec.cap.nanos,
        "cap_image_tokens": spec.cap.image_tokens,
        "drafts": spec.drafts,
        "halted": None,
        "reason": None,
        "updated_at": now,
    }
    connection.execute(
        upsert(connection.dialect.name, job)
        .values(name=spec.name, created_at=now, **row)
        .on_conflict_do_update(index_elements=["name"], set_=row)
    )
    job_id: int = connection.execute(select(job.c.id).where(job.c.name == spec.name)).scalar_one()
    if account_id is not None:
        _bring_along(connection, job_id, account_id)
        _refuse_unproven(connection, account_id)
    return job_id


def _open_account(connection: Connection, spec: AccountSpec, now: float) -> int:
    """The account's row id, its cap as it is to be. UsageError where the cap is not known, or is another one."""
    known = select(account).where(account.c.name == spec.name).with_for_update()
    row = connection.execute(known).mappings().one_or_none()
    cap = agreed_cap(spec, None if row is None else cap_of(row))
    facts = {"cap_nanos": cap.nanos, "cap_image_tokens": cap.image_tokens, "updated_at": now}
    if row is not None:
        account_id: int = row["id"]
        if cap != cap_of(row):
            connection.execute(update(account).where(account.c.id == account_id).values(**facts))
        return account_id
    nothing = dict.fromkeys(SPENT, 0)
    connection.execute(insert(account).values(name=spec.name, created_at=now, **facts, **nothing))
    made: int = connection.execute(select(account.c.id).where(account.c.name == spec.name)).scalar_one()
    return made


def agreed_cap(spec: AccountSpec, recorded: Cap | None) -> Cap:
    """The cap of an account: one for all its jobs, changed only where a person says so, in the kind they named.

    Raises UsageError where neither manifest nor ledger has one, or where they differ.
    """
    told = spec.cap
    if recorded is None:
        if told == Cap():
            raise UsageError(
                f"budget.account {spec.name}: this ledger knows no such account yet: give it a cap "
                f"(account: {{name: {spec.name}, usd: …}})"
            )
        return told
    if spec.may_change:
        tokens = told.image_tokens
        return Cap(
            recorded.nanos if told.nanos is None else told.nanos,
            recorded.image_tokens if tokens is None else tokens,
        )
    if told in {Cap(), recorded}:
        return recorded
    raise UsageError(
        f"budget.account {spec.name}: its cap is {told.words()} here and {recorded.words()} in the ledger for all "
        f"its jobs: write {recorded.words()} here too, or change it for all with --budget, where a manifest has "
        f"`account: {spec.name}` and no cap below it"
    )


def _bring_along(connection: Connection, job_id: int, account_id: int) -> None:
    """What the job has spent under no account counts in the one it joins."""
    free = (attempt.c.job_id == job_id, attempt.c.account_id.is_(None))
    spend, unpriced, uncounted = money(connection, *free)
    if not connection.execute(update(attempt).where(*free).values(account_id=account_id)).rowcount:
        return
    more = dict(zip(SPENT, (*astuple(spend), unpriced, uncounted), strict=True))
    connection.execute(
        update(account)
        .where(account.c.id == account_id)
        .values({account.c[name]: account.c[name] + value for name, value in more.items()})
    )


def _refuse_unproven(connection: Connection, account_id: int) -> None:
    """A cap covers all that was ever spent under it; where nobody knows that, it cannot be proven."""
    row = connection.execute(select(account).where(account.c.id == account_id)).mappings().one()
    cap = cap_of(row)
    unpriced, uncounted = row["unpriced"], row["uncounted"]
    if (cap.nanos is not None and unpriced) or (cap.image_tokens is not None and uncounted):
        raise UsageError(
            f"budget.account {row['name']}: {max(unpriced, uncounted)} of its requests have no known price: "
            "a cap over them cannot be proven. Name another account"
        )


def upsert(dialect: str, table: Table) -> Insert:
    """An INSERT that can say ON CONFLICT: the one thing that SQLAlchemy spells by dialect."""
    if dialect == "sqlite":
        return sqlite_insert(table)
    return postgresql_insert(table)  # type: ignore[return-value]  # of the same shape


class _Seen:
    """Which of the job's earlier tasks the manifest still names: a byte for each row id."""

    def __init__(self, connection: Connection, job_id: int) -> None:
        self._connection, self._job_id = connection, job_id
        bounds = select(func.min(task.c.id), func.max(task.c.id)).where(task.c.job_id == job_id)
        first, last = connection.execute(bounds).one()
        self._first, self._marks = first, bytearray(0 if first is None else last - first + 1)

    def rows(self, batch: Iterable[TaskSpec]) -> dict[str, RowMapping]:
        """The rows of a batch's keys as they were before this enqueue, now marked."""
        if not self._marks:
            return {}
        keys = [one.key for one in batch]
        rows = self._connection.execute(_BY_KEY, {"job_id": self._job_id, "keys": keys}).mappings()
        found = {row["key"]: row for row in rows}
        for key in list(found):
            mark = found[key]["id"] - self._first
            if mark < len(self._marks):
                self._marks[mark] = 1
            else:
                del found[key]  # inserted a moment ago: a repeated key, which the unique constraint reports
        return found

    def missing(self) -> Iterator[tuple[int, State]]:
        """(row id, state) of live tasks that no spec named."""
        if all(self._marks):
            return
        live = select(task.c.id, task.c.state).where(task.c.job_id == self._job_id, task.c.live)
        for row_id, state in self._connection.execute(live):
            mark = row_id - self._first
            if mark < len(self._marks) and not self._marks[mark]:
                yield row_id, state


def _change(
    old: RowMapping, told: dict[str, Any], tally: _Tally, lasting: Collection[str] | None
) -> dict[str, Any] | None:
    """The row's new values where anything differs, counted in `tally`; `lasting` None: nothing goes back."""
    known = Known(*(old[name] for name in ("state", "reason", "live", "stem", "path", "attempts")))
    requeue = lasting is not None and known.goes_back(lasting)
    state = State.QUEUED if requeue else known.state
    if known.live:
        tally.states[known.state] -= 1
    else:
        tally.orphaned -= 1
    tally.states[state] += 1
    tally.requeued += requeue
    tally.revived += not requeue and not known.live
    tally.kept += not requeue and known.live
    if known.live and not requeue and all(old[name] == value for name, value in told.items()):
        return None
    kept = {name: old[name] for name in FRESH_TRIES}
    return {"row_id": old["id"], "live": True, **told, **(FRESH_TRIES if requeue else kept)}


def _told(spec: TaskSpec, pictures: "_References") -> dict[str, Any]:
    """What a manifest says of a task beyond its key: a change of it buys nothing. The columns of `_TOLD`.

    References are among it, since a file may be called another name.
    """
    return {
        "prompt_id": spec.prompt_id,
        "stem": spec.stem,
        "folded": fold(spec.stem),
        "position": spec.position,
        "axes": dict(spec.axes),
        "variant": spec.variant,
        "reference_row": pictures.id(spec.references),
        "draft": spec.draft,
    }


def _apply(connection: Connection, changed: list[dict[str, Any]]) -> None:
    if changed:
        names = changed[0].keys() - {"row_id"}
        connection.execute(_CHANGE.values({name: bindparam(name) for name in names}), changed)


def _insert(
    connection: Connection,
    job_id: int,
    specs: list[tuple[TaskSpec, dict[str, Any]]],
    texts: "_Texts",
    recipes: "_Recipes",
) -> None:
    if not specs:
        return
    prompts = texts.ids({one.prompt for one, _ in specs})
    connection.execute(
        insert(task),
        [
            {
                "job_id": job_id,
                "key": one.key,
                "prompt_row": prompts[one.prompt],
                "recipe_row": recipes.id(one.recipe),
                "size": one.size,
                "aspect": one.aspect,
                **told,
            }
            for one, told in specs
        ],
    )


class _Texts:
    """Row ids of prompts. Each text is stored once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._insert = upsert(connection.dialect.name, prompt).on_conflict_do_nothing(index_elements=["sha256"])

    def ids(self, texts: Collection[str]) -> dict[str, int]:
        by_sha = {_sha256(text): text for text in texts}
        rows = [{"sha256": sha, "text": text} for sha, text in by_sha.items()]
        self._connection.execute(self._insert, rows)
        found = self._connection.execute(select(prompt.c.sha256, prompt.c.id).where(prompt.c.sha256.in_(by_sha)))
        return {by_sha[sha]: row_id for sha, row_id in found}


class _Recipes:
    """Row ids of recipes; a job has few."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ids: dict[Recipe, int] = {}

    def id(self, one: Recipe) -> int:
        if one not in self._ids:
            self._ids[one] = _once(self._connection, recipe, _canonical(asdict(one)), model=one.model)
        return self._ids[one]


class _References:
    """Row ids of what goes with a prompt; many tasks share one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last: tuple[tuple[Reference, ...], int | None] = ((), None)

    def id(self, pictures: tuple[Reference, ...]) -> int | None:
        if not pictures:
            return None
        if pictures != self._last[0]:
            body = _canonical([asdict(one) for one in pictures])
            self._last = (pictures, _once(self._connection, reference, body))
        return self._last[1]


def _canonical(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _once(connection: Connection, table: Table, body: str, **more: str) -> int:
    """The row id of a text that is stored once, under its hash."""
    row = {"sha256": _sha256(body), "body": body, **more}
    connection.execute(
        upsert(connection.dialect.name, table).values(row).on_conflict_do_nothing(index_elements=["sha256"])
    )
    row_id: int = connection.execute(select(table.c.id).where(table.c.sha256 == row["sha256"])).scalar_one()
    return row_id


def _orphan(connection: Connection, rows: Iterable[tuple[int, State]], tally: _Tally) -> None:
    gone: array[int] = array("q")  # eight bytes each: the cursor must end before its rows are written
    for row_id, state in rows:
        gone.append(row_id)
        tally.states[state] -= 1
        tally.orphaned += 1
    for batch in _batches(gone):
        connection.execute(_CHANGE.values(live=False), [{"row_id": row_id} for row_id in batch])


def _count(connection: Connection, job_id: int, tally: _Tally) -> None:
    moved: Mapping[str, Any] = {state.value: job.c[state.value] + tally.states[state] for state in State}
    connection.execute(
        update(job).where(job.c.id == job_id).values(**moved, orphaned=job.c.orphaned + tally.orphaned)
    )


def _summary(connection: Connection, job_id: int, tally: _Tally) -> Enqueued:
    return Enqueued(
        total=tally.new + tally.kept + tally.revived + tally.requeued,
        new=tally.new,
        kept=tally.kept,
        revived=tally.revived,
        requeued=tally.requeued,
        orphaned=connection.execute(select(job.c.orphaned).where(job.c.id == job_id)).scalar_one(),
        misplaced=misplaced(connection, job_id),
        in_the_way=in_the_way(connection, job_id),
    )


def misplaced(connection: Connection, job_id: int) -> tuple[Misplaced, ...]:
    """Pictures of live tasks that are not where the manifest says. Read off the rows, so a crash forgets none."""
    in_place = and_(
        task.c.path_folded == task.c.folded, func.substr(task.c.path, 1, func.length(task.c.stem)) == task.c.stem
    )
    rows = connection.execute(
        select(task.c.key, task.c.path, task.c.stem)
        .where(task.c.job_id == job_id, task.c.live, task.c.path.is_not(None), not_(in_place))
        .order_by(task.c.position)
    )
    return tuple(Misplaced(*row) for row in rows)


def in_the_way(connection: Connection, job_id: int) -> tuple[InTheWay, ...]:
    """Pictures of orphans where live tasks want to put theirs."""
    if not connection.execute(select(job.c.orphaned).where(job.c.id == job_id)).scalar_one():
        return ()  # most jobs: spares them a join of all tasks with all tasks
    live = task.alias("live")
    rows = connection.execute(
        select(task.c.key, task.c.path)
        .join(live, and_(live.c.job_id == task.c.job_id, live.c.folded == task.c.path_folded, live.c.live))
        .where(task.c.job_id == job_id, not_(task.c.live), task.c.path.is_not(None))
        .order_by(task.c.key)
    )
    return tuple(InTheWay(*row) for row in rows)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    source = iter(items)
    while batch := list(islice(source, BATCH)):
        yield batch


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
