"""What a person says of unknown attempts is booked, once they have seen what it moves. Asks no service."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import anyio

from runner.app.choice import MOST_VALUES, SHORTEST
from runner.app.logfile import log_beside, told
from runner.app.reconcile import known
from runner.app.settings import Options, resolve
from runner.app.views import Json, held_in_words, plus_all, unknown_object
from runner.core.budget import dollars
from runner.core.errors import LedgerError, UsageError
from runner.core.lifecycle import State, Verdict
from runner.core.retry import UNDECIDED
from runner.core.shape import listed
from runner.ledger import Ledger, Reader, Unknown

ALL = "all"
FLAGS = {Verdict.WRITTEN_OFF: "--write-off", Verdict.RELEASED: "--release"}
BOOKED = {Verdict.WRITTEN_OFF: "written off, as spent", Verdict.RELEASED: "released, as free"}


@dataclass(frozen=True, slots=True)
class Resolved:
    """Unknown attempts that are, or are about to be, explained by hand."""

    job: str
    verdict: Verdict
    why: str
    attempts: tuple[Unknown, ...]
    left: tuple[Unknown, ...]
    """Those that stay unknown."""

    @property
    def stay_failed(self) -> int:
        """Tasks that wait for a person, and go on waiting: what is bought again is another question."""
        waiting = (one for one in self.attempts if (one.state, one.task_reason) == (State.FAILED, UNDECIDED))
        return len({one.key for one in waiting})


def explain(
    job: str,
    words: Sequence[str],
    verdict: Verdict,
    why: str,
    options: Options,
    environment: Mapping[str, str],
    agree: Callable[[Resolved], bool],
) -> Resolved:
    """Book the unknown attempts that `words` name, once `agree` has seen them. Holds the job's lock meanwhile.

    Raises UsageError for words that cannot be meant, or if it was not agreed to; JobLockedError if the job is
    being run; LedgerError if its books do not add up before.
    """
    why = " ".join(why.split())
    if not why:
        raise UsageError(f"{FLAGS[verdict]}: say why, it is kept for ever: --reason 'not on the invoice of May'")
    settings = resolve(options, environment)
    if not Ledger.exists(settings.database):
        Ledger.read(settings.database)  # which says what to do
    with (
        Ledger.open(settings.database, settings.kind, now_utc=time.time()) as ledger,
        log_beside(ledger.path, options.log_format, lambda: job),
    ):
        known(ledger.reader, job)
        with ledger.lock_job(job):
            _refuse_wrong_books(ledger.reader, job)
            held = ledger.reader.unknowns(job)
            meant = choose(job, words, held, FLAGS[verdict])
            chosen = {one.token for one in meant}
            left = tuple(one for one in held if one.token not in chosen)
            found = Resolved(job, verdict, why, tuple(meant), left)
            if not meant:
                return found
            if not agree(found):
                raise UsageError("not confirmed: nothing was booked")
            anyio.run(partial(ledger.resolve, job, chosen, verdict, why, now=time.time()))
            _log(found)
            return found


def _refuse_wrong_books(reader: Reader, job: str) -> None:
    if reader.counters(job) != reader.recount(job):
        raise LedgerError(
            f"the counters of job {job} are not what its rows add up to: nothing was booked; "
            f"`bulkrender report {job}` names what is wrong"
        )


def _log(found: Resolved) -> None:
    """The one place that still says why it was unknown."""
    for one in found.attempts:
        was = f"attempt {one.token}, {held_in_words([one])}, was {one.reason}: {one.error}"
        told("money", f"{BOOKED[found.verdict]} {one.stem} ({was}): {found.why}", token=one.token, key=one.key)


# --- which ---


def choose(job: str, words: Sequence[str], held: Sequence[Unknown], flag: str) -> list[Unknown]:
    """The attempts that are meant, in the order of `held`; UsageError with every word that is wrong at once."""
    if ALL in words:
        return list(held)
    found = {word: _named(word, held) for word in words}
    problems = [f"{flag} {word}: {why}" for word in words if (why := _why_not(job, found[word], held))]
    if problems:
        raise UsageError("\n".join(problems))
    tokens = {one.token for ones in found.values() for one in ones}
    return [one for one in held if one.token in tokens]


def _named(word: str, held: Sequence[Unknown]) -> list[Unknown]:
    """By key, token or path, with or without its extension; where nothing has that name, by the start of a key."""
    names = {word, word.rpartition(".")[0]} - {""}
    exact = [one for one in held if word in {one.key, one.token, one.path} or one.stem in names]
    return exact or [one for one in held if len(word) >= SHORTEST and one.key.startswith(word)]


def _why_not(job: str, found: Sequence[Unknown], held: Sequence[Unknown]) -> str | None:
    keys = list(dict.fromkeys(one.key for one in found))
    if len(keys) > 1:
        return f"is ambiguous: it may be {listed(keys[:MOST_VALUES], 'and')}"
    if keys:
        return None
    if not held:
        return f"job {job} has no unknown requests"
    return (
        f"none of the {len(held)} unknown requests of job {job} is of such a task: expected its key, "
        f"{SHORTEST} or more characters of it, its path, or {ALL}"
    )


# --- in words ---


def lines(found: Resolved) -> Iterator[str]:
    """What is about to be booked, for people."""
    tasks = len({one.key for one in found.attempts})
    many = "" if tasks == len(found.attempts) else f" of {tasks} tasks"
    yield f"job {found.job}: unknown requests: {len(found.attempts)}{many}, {held_in_words(found.attempts)}"
    if found.verdict is Verdict.WRITTEN_OFF:
        yield "  spent from now on, at what they held: no room under the cap comes back"
    else:
        yield "  free from now on: if they were billed all the same, the cap does not know of it"
    yield f"  recorded with each for ever: {found.verdict.value}: {found.why}"
    if found.stay_failed:
        again = f"`retry --reason {UNDECIDED}` puts them back"
        yield f"  tasks that stay failed ({UNDECIDED}) until {again}: {found.stay_failed}"


def done_in_words(found: Resolved) -> str:
    """What was booked, for people."""
    if not found.attempts:
        return f"job {found.job}: nothing is held as unknown"
    left = f"; still unknown: {len(found.left)}, {held_in_words(found.left)}" if found.left else ""
    return f"{BOOKED[found.verdict]}: {len(found.attempts)}, {held_in_words(found.attempts)}{left}"


def resolved_object(found: Resolved) -> Json:
    """`reconcile --write-off` and `--release` with `--json`."""
    nanos = plus_all(one.held_nanos for one in found.attempts)
    return {
        "job": found.job,
        "booked": found.verdict.value,
        "reason": found.why,
        "attempts": [unknown_object(one) for one in found.attempts],
        "usd": None if nanos is None else dollars(nanos),
        "image_tokens": plus_all(one.image_tokens for one in found.attempts),
        "stay_failed": found.stay_failed,
        "unknowns": [unknown_object(one) for one in found.left],
        "exit_code": 0,
    }
