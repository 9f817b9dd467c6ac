"""What is said of files in the way of a job's pictures: those that were paid for are told from strangers'."""

import shlex
from collections.abc import Collection, Iterator

from runner.adapters.obstacle import Bought
from runner.adapters.sidecar import Sidecar
from runner.adapters.storage import FolderStore
from runner.app.campaign import Campaign, plus
from runner.app.views import instant
from runner.core.budget import dollars
from runner.core.pricing import Quote, billed

MOST_NAMES = 5
"""Files that are named; of all others there is a count."""
_NO_QUOTE = Quote(None, None, 0, 0)


def in_the_way(campaign: Campaign, store: FolderStore, found: Collection[str]) -> str:
    """Whose the files are, and what to do about them; `found` are paths below the output root."""
    paid = _Paid(campaign)
    for one in store.bought(sorted(found)):
        paid.add(one)
    lines = list(paid.lines(store))
    if strangers := sorted(set(found) - paid.files):
        lines.append(
            f"{store.root}: files that this ledger does not know are where pictures of job {campaign.job} go: "
            f"{', '.join(strangers[:MOST_NAMES])}{_more(len(strangers))}. Move them away, or choose another "
            "--output"
        )
    return "\n".join(lines)


class _Paid:
    """Pictures in the way that were paid for, counted one by one: a ledger may lack thousands."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._first: list[Bought] = []
        self._nanos: int | None = 0
        self._count = 0
        self.files: set[str] = set()
        """Theirs and their sidecars'."""

    def add(self, one: Bought) -> None:
        """Count one in."""
        self._count += 1
        self.files |= {one.path, one.beside}
        self._nanos = plus(self._nanos, self._cost(one.sidecar))
        if len(self._first) < MOST_NAMES:
            self._first.append(one)

    def lines(self, store: FolderStore) -> Iterator[str]:
        """How many, the first of them, and what to do; nothing where there are none."""
        if not self._count:
            return
        yield (
            f"{store.root}: pictures that were bought, and that this ledger does not know, are where pictures of "
            f"job {self._campaign.job} go: {self._count}, {_money(self._nanos)} on lane standard"
        )
        yield from map(self._line, self._first)
        if more := _more(self._count):
            yield more.strip()
        first = self._first[0]
        move = shlex.join(["mv", str(store.root / first.path), str(store.root / first.beside)])
        yield (
            "nothing is bought in their place. Was an older copy of the ledger put back? Put the one that knows "
            "them in its place, or name it with --database. If it is lost, move each away with its sidecar "
            f"({move} ELSEWHERE/), or choose another --output: they are bought again then, and no cap counts what "
            "they cost before"
        )

    def _line(self, one: Bought) -> str:
        told = one.sidecar
        return (
            f"{one.path}: job {told.job}, key {told.key}, attempt {told.attempt}, written "
            f"{instant(one.written_utc)}, {_money(self._cost(told))}"
        )

    def _cost(self, told: Sidecar) -> int | None:
        """On the standard lane, as no sidecar names its lane; None where the answer counted nothing."""
        if told.answer.usage is None:
            return None
        price = self._campaign.sheet(told.model)
        tokens = billed(told.answer, price, told.size, _NO_QUOTE)
        return None if tokens is None else price.cost(tokens, told.answer.tier)


def _money(nanos: int | None) -> str:
    return "at an unknown price" if nanos is None else f"${dollars(nanos)}"


def _more(count: int) -> str:
    return f" and {count - MOST_NAMES} more" if count > MOST_NAMES else ""
