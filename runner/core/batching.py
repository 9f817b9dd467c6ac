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
