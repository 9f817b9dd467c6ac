"""Chance that replays: every draw is a pure function of seed, request and how often that request was seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Chance:
    """The draws of one sample. Draws of different names are independent; the order of drawing means nothing."""

    seed: int
    request: str
    """Hash of the normalised request."""
    seen: int
    """1 the first time this request is admitted."""

    def digest(self, name: str, size: int = 8) -> bytes:
        """`size` bytes (at most 64) that belong to this draw."""
        return blake2b(f"{self.seed}/{self.request}/{self.seen}/{name}".encode(), digest_size=size).digest()

    def unit(self, name: str) -> float:
        """A number in [0, 1)."""
        return (int.from_bytes(self.digest(name)) >> 11) / (1 << 53)

    def happens(self, name: str, probability: float) -> bool:
        """True with this probability."""
        return self.unit(name) < probability

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self.unit(name) * (high - low + 1))

    def pick(self, name: str, choices: Sequence[T]) -> T:
        """One of `choices`."""
        return choices[self.whole(name, 0, len(choices) - 1)]
