"""What is believed of a limit that nobody configured. Pure: instants are passed in.

It starts low and grows with every picture until a refusal shows the ceiling: what the minute before held is what
there is. Then half of it for a while, back in small steps, and a little beyond now and then, since quotas change.
A limit that the provider names is taken at its word.
"""

from dataclasses import dataclass, replace

FIRST = 4
"""Requests in the first minute, before anything is known."""
GROWTH = 2
"""More for each picture while no refusal has come: twice as many in flight with every round of answers."""
RECOVERY_S = 15.0
"""From half of the ceiling back to the whole of it after a refusal."""
STEPS = 10
HOLD_S = 60.0
"""A raise that stood for a full minute was right: the next one follows."""
HOLD_REQUESTS = 20
"""After a refusal it is a minute and so many requests before the ceiling is raised…"""
LONGEST_HOLD = 4
"""…and up to this many times as long: each raise that fails doubles it."""
STEP_SHARE = 20
"""The first step beyond is a twentieth of the ceiling."""
NAMED_FOR_S = 86_400.0
"""A named limit is believed for a day; then it may be outgrown."""


@dataclass(frozen=True, slots=True)
class Belief:
    """Requests a minute that a model is believed to take."""

    ceiling: int = FIRST
    found: bool = False
    """A refusal has shown it; until then it grows."""
    named: bool = False
    """The provider named it."""
    step: int = 1
    patience: int = 1
    since: float = 0.0
    """Of the last raise, refusal or naming."""
    refused_at: float | None = None
    """None once it was raised, and where it was named."""

    def allowed(self, now: float) -> int:
        """Requests in any sliding minute, now."""
        if self.refused_at is None or now - self.refused_at >= RECOVERY_S:
            return self.ceiling
        steps = int((now - self.refused_at) / RECOVERY_S * STEPS)
        return max(1, self.ceiling * (STEPS + steps) // (2 * STEPS))

    def words(self) -> str:
        """What is believed, for a person."""
        how = "as the provider says" if self.named else "found" if self.found else "looking for more"
        return f"{self.ceiling} requests a minute ({how})"

    def cause(self) -> str:
        """What it rests on, for a person."""
        if self.named:
            return "the provider named it"
        if not self.found:
            return "nothing was refused for its rate so far"
        if self.refused_at is not None:
            return "a request was refused"
        return "nothing was refused while it was lower"

    @property
    def hold_s(self) -> float:
        """How long the ceiling is left as it is."""
        if self.refused_at is None:
            return HOLD_S
        return self.patience * max(HOLD_S, HOLD_REQUESTS * 60.0 / self.ceiling)


def succeeded(belief: Belief, sent_last_minute: int) -> Belief:
    """After a picture: while no ceiling has been found and half of what is allowed is used, it grows."""
    if belief.found or 2 * sent_last_minute < belief.ceiling:
        return belief
    return replace(belief, ceiling=belief.ceiling + GROWTH)


def refused(belief: Belief, *, sent_at: float, admitted: int, now: float) -> Belief:
    """After a refusal that names no number, of a request sent at `sent_at` behind `admitted` others in its minute.

    Never less than half of what was believed: one refusal may have had another cause. Requests that left before
    the last refusal was heard of teach nothing new.
    """
    if sent_at <= (belief.refused_at or 0.0) or (belief.named and sent_at <= belief.since):
        return belief
    ceiling = max(1, min(belief.ceiling, max(admitted, -(-belief.ceiling // 2))))
    raised = belief.found and belief.refused_at is None
    patience = min(LONGEST_HOLD, 2 * belief.patience) if raised else belief.patience
    return Belief(ceiling, found=True, step=_first_step(ceiling), patience=patience, since=now, refused_at=now)


def named(value: int, now: float) -> Belief:
    """After a refusal that names requests a minute."""
    return Belief(value, found=True, named=True, step=_first_step(value), since=now)


def full(belief: Belief, now: float, *, idle: bool = False) -> Belief:
    """Where nothing but the believed limit holds a request back: raised once it has stood long enough.

    `idle`: nothing is in flight whose answer could raise one that still grows, so it grows without.
    """
    if idle and not belief.found:
        return replace(belief, ceiling=belief.ceiling + FIRST)
    if not belief.found or (belief.named and now - belief.since < NAMED_FOR_S):
        return belief
    if now - belief.since < belief.hold_s:
        return belief
    ceiling = belief.ceiling + belief.step
    return replace(
        belief,
        ceiling=ceiling,
        named=False,
        step=min(2 * belief.step, max(1, ceiling // 4)),
        patience=1 if belief.refused_at is None else belief.patience,
        since=now,
        refused_at=None,
    )


def _first_step(ceiling: int) -> int:
    return max(1, ceiling // STEP_SHARE)
