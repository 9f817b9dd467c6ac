"""What holds a run back now: the cause that its claims have lately waited for the longest."""

import math
from collections import defaultdict

from runner.core.limits import Binding
from runner.engine.ports import Clock

MEMORY_S = 2.0
"""Time constant of the memory; a new cause is named within a few seconds."""
SHARE = 0.2
"""A cause that is waited for less of the time than this does not hold anything back."""


class Why:
    """Told of every wait; says which of them binds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.now()
        self._cause: Binding | None = None
        self._waited: defaultdict[Binding, float] = defaultdict(float)
        self._said: dict[Binding, str] = {}
        self._cause_since = self._at

    def waits(self, cause: Binding | None, said: str = "") -> None:
        """From now on the next claim waits for this; None: for nothing."""
        self._pass()
        if cause != self._cause:
            self._cause, self._cause_since = cause, self._at
        if cause is not None:
            self._said[cause] = said

    @property
    def stands_s(self) -> float:
        """Seconds that the next claim has waited for the same."""
        return self._clock.now() - self._cause_since

    def binds(self) -> Binding | None:
        """The cause, or None where there is none."""
        self._pass()
        cause = max(self._waited, key=self._waited.__getitem__, default=None)
        return cause if cause is not None and self._waited[cause] >= SHARE else None

    def said(self, cause: Binding | None) -> str:
        """The cause in words."""
        return "" if cause is None else self._said.get(cause, cause)

    def _pass(self) -> None:
        """Time has passed: every share fades, that of the present cause grows."""
        now = self._clock.now()
        kept = math.exp(-(now - self._at) / MEMORY_S)
        for cause in self._waited:
            self._waited[cause] *= kept
        if self._cause is not None:
            self._waited[self._cause] += 1 - kept
        self._at = now
