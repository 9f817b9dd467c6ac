"""Places of which there may be millions: the first few are kept, the rest are counted."""

from dataclasses import dataclass, field

MAX_PLACES = 5


@dataclass(slots=True)
class Places:
    """Where something was found, in words, as a note lists it."""

    first: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, *places: str) -> None:
        """Found there as well; an empty place is only counted."""
        self.first += [one for one in places if one][: MAX_PLACES - len(self.first)]
        self.count += len(places)

    def __str__(self) -> str:
        """`a, b and 1,234 more`."""
        more = self.count - len(self.first)
        return ", ".join(self.first) + (f" and {more:,} more" if more else "")
