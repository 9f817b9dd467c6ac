"""Whether the books of a job add up: every counter from its rows, every cost from its tokens, to the nano-dollar.

What cannot be recomputed: caps, which somebody chose, and the cost of an attempt whose price sheet was not
recorded and is nowhere to be found: that is only added up. Both are said.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from runner.app.pricebook import PriceBook, Priced, price_book
from runner.core.budget import Spend, dollars
from runner.core.lifecycle import Answer, AttemptState, State, Usage, Verdict
from runner.core.pricing import PriceSheet, Tokens, billed
from runner.ledger import BookedAttempt, BookedTask, Books, Counters, Reader

TOKENS = ("input_tokens", "text_tokens", "image_tokens")


@dataclass
class Audit:
    """Fed with every task of a job and its attempts, then with the counters."""

    book: PriceBook
    problems: list[str] = field(default_factory=list)
    """Each names the row that does not fit the others."""
    unproven: list[str] = field(default_factory=list)
    """Tokens of attempts that no known price sheet explains; they are added up like all others."""
    proven: Counter[Priced] = field(default_factory=Counter)
    """Settled costs that each sheet gives to the nano-dollar."""
    attempts: int = 0
    _sheets: dict[tuple[str, str], tuple[Priced, ...]] = field(default_factory=dict)

    def task(self, task: BookedTask, attempts: Sequence[BookedAttempt]) -> None:
        """Check a task against its attempts, and each of these against its own tokens."""
        self.attempts += len(attempts)
        self.problems += [f"task {task.key}: {wrong}" for wrong in _task_problems(task, attempts)]
        for one in attempts:
            wrong = self._attempt_problem(task.size, one)
            if wrong:
                self.problems.append(f"attempt {one.token} (number {one.number} of task {task.key}): {wrong}")

    def counters(self, books: Books) -> None:
        """Check the counters of the job and of its accounts."""
        self._compare(f"job {books.job}", books.kept, books.recounted)
        for one in books.accounts:
            self._compare(f"account {one.name}", one.kept, one.recounted)
        self.problems += [f"attempt {token}: its task is of another job" for token in books.strays]

    def _compare(self, whose: str, kept: Counters, recounted: Counters) -> None:
        pairs = [
            *(
                (name, getattr(kept.spend, name), getattr(recounted.spend, name))
                for name in Spend.__dataclass_fields__
            ),
            *(
                (name, getattr(kept, name), getattr(recounted, name))
                for name in ("unpriced", "uncounted", "orphaned")
            ),
            *((state, count, recounted.tasks.get(state, 0)) for state, count in kept.tasks.items()),
        ]
        for name, is_, should in pairs:
            if is_ != should:
                column, shown = (f"{name}_nanos", _amount) if name in _MONEY else (name, str)
                self.problems.append(f"{whose}: {column} is {shown(is_)}, its rows come to {shown(should)}")

    def _attempt_problem(self, size: str, one: BookedAttempt) -> str | None:
        sheets = self._known(one.model, one.lane)
        reserving = [priced for priced in sheets if _reserves(priced.sheet, one)]
        if one.state is not AttemptState.SETTLED:
            return None if reserving else self._unexplained(one, "reserved", sheets)
        if one.reason == Verdict.WRITTEN_OFF:
            return self._written_off_problem(one, reserving, sheets)
        if one.overrun != _overran(one):
            return f"overrun is {one.overrun}, and by what it reserved and cost it should be {not one.overrun}"
        settling = [priced for priced in sheets if _settles(priced.sheet, size, one)]
        # found on disk after a crash: priced by the run that found it, which may have had other prices
        both = settling if one.adopted and reserving else [priced for priced in settling if priced in reserving]
        if both:
            self.proven[both[0]] += 1
            return None
        if one.adopted or not (settling or reserving):
            return self._unexplained(one, "cost" if reserving or not settling else "reserved", sheets)
        return _differs("reserved", one, settling[0]) if settling else _unsettled(size, one, reserving[0])

    def _written_off_problem(
        self, one: BookedAttempt, reserving: Sequence[Priced], sheets: Sequence[Priced]
    ) -> str | None:
        """It has no answer to be priced by: what it held is what it cost."""
        pairs: tuple[tuple[str, int | None, int | None, Callable[[int | None], str]], ...] = (
            ("cost_nanos", one.cost_nanos, one.reserved_nanos, _amount),
            *((name, getattr(one, name), getattr(one, f"reserved_{name}"), str) for name in TOKENS),
        )
        wrong = [
            f"{name} is {shown(is_)}, it held {shown(should)}"
            for name, is_, should, shown in pairs
            if is_ != should
        ]
        if one.overrun:
            wrong.append("overrun is True")
        if wrong:
            return f"written off by hand, and {'; '.join(wrong)}"
        if not reserving:
            return self._unexplained(one, "reserved", sheets)
        self.proven[reserving[0]] += 1
        return None

    def _known(self, model: str, lane: str) -> tuple[Priced, ...]:
        if (model, lane) not in self._sheets:
            self._sheets[model, lane] = self.book.sheets(model, lane)
        return self._sheets[model, lane]

    def _unexplained(self, one: BookedAttempt, what: str, sheets: Sequence[Priced]) -> str | None:
        """A problem where the sheet it was priced by must be among those known."""
        since = self.book.recorded_since
        if since is None or one.started_at < since:
            self.unproven.append(one.token)
            return None
        return _differs(what, one, sheets[0])


def audited(reader: Reader, job: str) -> Audit:
    """All of a job's books checked; reads them all."""
    audit = Audit(price_book(reader.status(job, since_utc=0).config))
    audit.counters(reader.books(job, audit.task))
    return audit


_MONEY = frozenset({"settled", "reserved", "unknown"})
"""Of the fields of a `Spend`, those in nano-dollars."""


def _task_problems(task: BookedTask, attempts: Sequence[BookedAttempt]) -> Iterator[str]:
    settled = [one for one in attempts if one.state is AttemptState.SETTLED]
    unknown = [one for one in attempts if one.state is AttemptState.UNKNOWN]
    sums: tuple[tuple[str, int | None, int | None, Callable[[int | None], str]], ...] = (
        ("attempts", task.attempts, len(attempts), str),
        ("cost_nanos", task.cost_nanos, _sum(one.cost_nanos for one in settled), _amount),
        ("unknown_nanos", task.unknown_nanos, _sum(one.reserved_nanos for one in unknown), _amount),
        ("image_tokens", task.image_tokens, _sum(one.image_tokens for one in settled), str),
    )
    for name, is_, should, shown in sums:
        if is_ != should:
            yield f"{name} is {shown(is_)}, its attempts come to {shown(should)}"
    if [one.number for one in attempts] != list(range(1, len(attempts) + 1)):
        yield "its attempts are not numbered 1, 2, 3: one is missing"
    made = [one for one in attempts if one.outcome == "made"]
    if len(made) != (task.state is State.SUCCEEDED):
        yield f"it is {task.state.value}, and {len(made)} of its attempts brought the picture"
    elif made and made[0].sha256 != task.sha256:
        yield "its picture is not the one that its attempt brought"
    out = sum(one.state is AttemptState.RUNNING for one in attempts)
    if out > (task.state in {State.RUNNING, State.SUBMITTED}) or (task.state is State.RUNNING and not out):
        yield f"it is {task.state.value}, and {out} of its attempts are in flight"


def _reserves(price: PriceSheet, one: BookedAttempt) -> bool:
    return one.reserved_nanos == price.cost(_reserved(one))


def _settles(price: PriceSheet, size: str, one: BookedAttempt) -> bool:
    """Whether the sheet makes the billed tokens of what the answer said, and the cost of these."""
    tokens = _billed(price, size, one)
    return (tokens is None or tokens == _tokens(one)) and one.cost_nanos == price.cost(_tokens(one), one.tier)


def _billed(price: PriceSheet, size: str, one: BookedAttempt) -> Tokens | None:
    """The billed tokens from the answer's usage; None where an older release did not keep enough of it."""
    usage = None if one.usage is None else Usage(**one.usage)  # type: ignore[arg-type]
    if one.pictures is None and (usage is None or usage.image is None):
        return None
    return billed(Answer(usage=usage, pictures=one.pictures or 0), price, size, one.quote)


def _reserved(one: BookedAttempt) -> Tokens:
    return Tokens(one.reserved_input_tokens, one.reserved_text_tokens, one.reserved_image_tokens)


def _tokens(one: BookedAttempt) -> Tokens:
    return Tokens(one.input_tokens or 0, one.text_tokens or 0, one.image_tokens)


def _overran(one: BookedAttempt) -> bool:
    pairs = ((one.cost_nanos, one.reserved_nanos), (one.image_tokens, one.reserved_image_tokens))
    return any(cost is not None and held is not None and cost > held for cost, held in pairs)


def _unsettled(size: str, one: BookedAttempt, priced: Priced) -> str:
    """What is wrong with a cost whose sheet its reservation names."""
    tokens, billed_tokens = _tokens(one), _billed(priced.sheet, size, one)
    if billed_tokens is not None and billed_tokens != tokens:
        pairs = zip(TOKENS, _each(tokens), _each(billed_tokens), strict=True)
        wrong = [f"{name} is {is_}, its usage says {should}" for name, is_, should in pairs if is_ != should]
        return "; ".join(wrong)
    return _differs("cost", one, priced)


def _differs(what: str, one: BookedAttempt, priced: Priced) -> str:
    """That what was reserved, or what it cost, is not what its tokens come to."""
    settled = what == "cost"
    tokens, is_ = (_tokens(one), one.cost_nanos) if settled else (_reserved(one), one.reserved_nanos)
    should = priced.sheet.cost(tokens, one.tier if settled else None)
    named = zip(("input", "text", "image"), _each(tokens), strict=True)
    counted = ", ".join(f"{'?' if count is None else count} {name}" for name, count in named)
    return f"{what}_nanos is {_amount(is_)}, its tokens ({counted}) come to {_amount(should)} by {priced.source}"


def _each(tokens: Tokens) -> tuple[int, int, int | None]:
    return tokens.input, tokens.text, tokens.image


def _amount(nanos: int | None) -> str:
    return "unknown" if nanos is None else f"${dollars(nanos)}"


def _sum(values: Iterator[int | None]) -> int | None:
    """Unknown once a part of it is."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
