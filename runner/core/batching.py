"""How tasks become batches: how many may share one, what one is called, and what many may cost at worst."""

from collections.abc import Iterable
from dataclasses import dataclass

from runner.core.paths import slug
from runner.core.pricing import Quote

PREFIX = "bulkrender-"
"""What the display names of our batch jobs begin with."""
SLUG_CHARACTERS = 80
FEWER = 8
"""Every try that its line has spoilt makes a task's next batch so many times smaller."""
NOTHING = Quote(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Load:
    """How large one batch may be, and how much may be open at once (gemini-api.md §7.5)."""

    lines: int = 500
    bytes: int = 10**9
    """Of the answers."""
    tokens: int | None = None
    """Input tokens of all open batches of the model at the endpoint; None: as many as come."""
    jobs: int = 100
    """Open batches at the endpoint, of all jobs of the ledger."""
    least: int = 1
    """From how many due tasks a batch is worth it."""


@dataclass(slots=True)
class Queue:
    """What is to go as batches of one model, added up."""

    lines: int = 0
    tokens: int = 0
    """Of the input, as they are reserved."""
    bytes: int = 0
    """Of the answers."""

    def add(self, tokens: int, size_bytes: int) -> None:
        """One more line."""
        self.lines += 1
        self.tokens += tokens
        self.bytes += size_bytes

    def at_once(self, load: Load) -> tuple[int, str]:
        """How many of its lines, about, may be open together, and the field that says so where it is not all."""
        of_a_job = min(load.lines, load.bytes * self.lines // max(1, self.bytes))
        by_jobs = max(1, of_a_job) * load.jobs
        by_tokens = self.lines if load.tokens is None else load.tokens * self.lines // max(1, self.tokens)
        if self.lines <= min(by_jobs, by_tokens):
            return self.lines, ""
        return (max(1, by_tokens), "tokens") if by_tokens < by_jobs else (by_jobs, "jobs")


def crowd(tries: int, *, lines: int, attempts: int) -> int:
    """How many may share a batch with a task that has used up `tries` of its `attempts`.

    One bad line can spoil a whole batch (gemini-api.md §8.4): the suspects go in ever smaller company, and at
    their last try alone, so that the guilty one ends without the others.
    """
    if tries == 0:
        return lines
    return 1 if tries + 1 >= attempts else max(1, lines // FEWER**tries)


def display_name(job: str, token: str) -> str:
    """What a batch job is called at the service, whose list is searched for it."""
    return f"{PREFIX}{slug(job)[:SLUG_CHARACTERS]}-{token}"


def both(one: Quote, other: Quote) -> Quote:
    """The worst case of two together; a sum with an unknown part is unknown."""
    return Quote(
        _sum(one.nanos, other.nanos),
        _sum(one.image_tokens, other.image_tokens),
        one.text_tokens + other.text_tokens,
        one.input_tokens + other.input_tokens,
        one.pictures + other.pictures,
    )


def together(quotes: Iterable[Quote]) -> Quote:
    """The worst case of all of them."""
    total = NOTHING
    for one in quotes:
        total = both(total, one)
    return total


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
