"""The budget: settled + reserved + unknown never passes the cap, in dollars and in image tokens."""

from dataclasses import dataclass

from runner.core.pricing import Quote

NANOS = 1_000_000_000
"""Nano-dollars in a dollar."""


@dataclass(frozen=True, slots=True)
class Cap:
    """What a job may spend; None is no cap of that kind. Both hold where both are given."""

    nanos: int | None = None
    image_tokens: int | None = None

    def words(self) -> str:
        """`$25.00 and 200000 image tokens`; `nothing` where there is no cap."""
        money = [] if self.nanos is None else [f"${dollars(self.nanos)}"]
        tokens = [] if self.image_tokens is None else [f"{self.image_tokens} image tokens"]
        return " and ".join([*money, *tokens]) or "nothing"


@dataclass(frozen=True, slots=True)
class Spend:
    """What a job has spent and holds, in nano-dollars and image tokens."""

    settled: int = 0
    reserved: int = 0
    unknown: int = 0
    settled_image_tokens: int = 0
    reserved_image_tokens: int = 0
    unknown_image_tokens: int = 0

    def plus(self, other: "Spend") -> "Spend":
        """Both together."""
        return Spend(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def held(self) -> int:
        """Nano-dollars that count against the cap."""
        return self.settled + self.reserved + self.unknown

    @property
    def held_image_tokens(self) -> int:
        """Image tokens that count against the cap."""
        return self.settled_image_tokens + self.reserved_image_tokens + self.unknown_image_tokens


def fits(spend: Spend, cap: Cap, quote: Quote) -> bool:
    """Whether the worst case of one more attempt stays within the cap; an unknown worst case never fits one."""
    return _within(spend.held, quote.nanos, cap.nanos) and _within(
        spend.held_image_tokens, quote.image_tokens, cap.image_tokens
    )


def passed(spend: Spend, cap: Cap) -> bool:
    """Whether the cap is exceeded, which only a recorded overrun can do."""
    return not fits(spend, cap, Quote(0, 0, 0, 0))


def dollars(nanos: int) -> str:
    """An exact decimal string: nano-dollars with trailing zeros cut to no fewer than two decimals."""
    sign, nanos = ("-", -nanos) if nanos < 0 else ("", nanos)
    whole, rest = divmod(nanos, NANOS)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"


def about(nanos: int) -> str:
    """Dollars for a person to read, rounded up: to the cent, below a dollar to the hundredth of a cent."""
    step = NANOS // (100 if nanos >= NANOS else 10_000)
    return dollars(-(-nanos // step) * step)


def _within(held: int, more: int | None, cap: int | None) -> bool:
    return cap is None or (more is not None and held + more <= cap)
