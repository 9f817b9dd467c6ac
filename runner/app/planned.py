"""The value of a plan: what a run would do now."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isinf

from runner.app.campaign import Campaign
from runner.app.comparison import Carried, Difference
from runner.app.figures import duration, moment, size
from runner.app.finish import Deadline
from runner.app.tally import Projection
from runner.core.batching import Queue
from runner.core.budget import Cap, Spend, dollars
from runner.core.forecast import Forecast
from runner.core.grammar import Lane
from runner.ledger import AccountStatus

MOST_NAMES = 5
"""Accounts that a note names."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do now."""

    campaign: Campaign
    new: int
    retry: int
    done: int
    """Submitted ones included: their money is reserved already."""
    submitted: int
    """In remote batches that are not over."""
    orphaned: int
    likely_nanos: int | None
    """Of all that is still to buy, one try each; None at unknown prices."""
    worst_nanos: int | None
    """The same at worst; with a deadline one try on each lane, submitted tasks on the standard lane included."""
    image_tokens: int | None
    """One try each."""
    batched: int
    """Of the tasks to buy those that would go as batches."""
    queues: Mapping[str, Queue]
    """These by model."""
    lanes: Mapping[Lane, Projection]
    """What all that is to buy would cost on `standard` or `batch` alone."""
    spend: Spend
    cut_after: int | None
    """How many of the tasks to buy fit at worst; None if all do or there is no cap."""
    missing: tuple[str, ...] = ()
    """Pictures that the ledger paid for and the folder no longer has."""
    cap_before: Cap | None = None
    """What the last run was held to; None if there was none."""
    finish: Forecast | None = None
    """When what goes to the standard lane would be done if it started now; None where nothing does."""
    batches: Forecast | None = None
    """How much of what goes as batches the month has dollars for; None where nothing does."""
    deadline: Deadline | None = None
    """When all is to be done; None where nobody said."""
    account: AccountStatus | None = None
    """The account as it stands, with the cap it would have."""
    account_cap_before: Cap | None = None
    """What its cap is until then; None where the ledger does not know it yet."""
    other_accounts: tuple[str, ...] = ()
    """Those that the ledger has, where it does not know the job's yet."""
    brought: Spend = field(default_factory=Spend)
    """What the job has spent under no account, and takes into the one it joins."""
    left: str | None = None
    """An account that the job was under and is no more."""
    over: str = ""
    """Whose cap it would pass at worst; empty if it fits."""
    difference: Difference = field(default_factory=Difference)
    recorded: bool = False
    """Whether the ledger knows the job."""
    carried: Carried = field(default_factory=Carried)
    uploads: frozenset[str] = frozenset()
    """sha256 of the references that go through the Files API."""
    picture_bytes: int = 0
    """What the pictures that are still to come probably take of the disk."""
    room_bytes: int | None = None
    """What the disk has for them; None where that cannot be told."""
    lost_drafts: str | None = None
    """The job its tasks were chosen from, if this ledger does not have it."""

    @property
    def fits(self) -> bool:
        """Whether the worst case fits every cap."""
        return not self.over

    @property
    def feasible(self) -> bool:
        """Whether the cap of the month lets all of it be bought."""
        return all(one is None or one.stopped_by != "month" for one in (self.finish, self.batches))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should hear of before a run."""
        notes = list(self.campaign.notes)
        if self.missing:
            many = f"{len(self.missing)} paid pictures are" if len(self.missing) > 1 else "1 paid picture is"
            notes.append(
                f"{many} no longer on disk, first {self.missing[0]}: put back a copy; no run buys it again, "
                "until `retry --gone` has said so"
            )
        if self.cap_before not in {None, Cap()} and self.campaign.cap == Cap():
            notes.append("the last run of this job had a cap, this one has none: a --budget counts for one run")
        elif self.cap_before not in {None, Cap(), self.campaign.cap}:
            before, after = (self.cap_before or Cap()).words(), self.campaign.cap.words()
            notes.append(f"the cap of the job goes from {before} to {after}")
        if self.account is not None and self.other_accounts:
            known, more = ", ".join(self.other_accounts[:MOST_NAMES]), len(self.other_accounts) - MOST_NAMES
            known += f" and {more} more" if more > 0 else ""
            notes.append(f"account {self.account.name} is new, with a cap of its own; this ledger has: {known}")
        if self.account is not None and self.brought.held:
            notes.append(
                f"what the job holds so far, ${dollars(self.brought.held)}, joins account {self.account.name}"
            )
        if self.account is not None and self.account_cap_before not in {None, self.account.cap}:
            before, after = (self.account_cap_before or Cap()).words(), self.account.cap.words()
            notes.append(f"the cap of account {self.account.name} goes from {before} to {after}, for all its jobs")
        if self.left is not None:
            notes.append(f"the job leaves account {self.left}; what it spent there still counts there")
        if self.deadline is not None and not self.deadline.feasible:
            notes.append(_too_late(self.deadline))
        if self.room_bytes is not None and self.picture_bytes > self.room_bytes:
            notes.append(
                f"too little room: {self.to_buy + self.submitted} pictures are expected to take "
                f"{size(self.picture_bytes)}, and the output's disk has {size(self.room_bytes)} for them; a run "
                "that fills it stops (5), and goes on when run again: free some space, or take another --output"
            )
        if self.lost_drafts is not None:
            notes.append(f"drafts: this ledger has no job {self.lost_drafts!r}, so its spend is not added up")
        return tuple(notes)

    @property
    def total(self) -> int:
        """Tasks of the manifest."""
        return self.new + self.retry + self.done

    @property
    def to_buy(self) -> int:
        """Tasks a run would send."""
        return self.new + self.retry


def _too_late(deadline: Deadline) -> str:
    """That a deadline cannot be met, with what is missing."""
    needs = "is never done" if isinf(deadline.needed_s) else f"needs {duration(deadline.needed_s)} from now on"
    left = f"{duration(max(0.0, deadline.left_s))} is left until {moment(deadline.by_utc)}"
    return f"not in time: under its limits even the standard lane alone {needs}, and {left}"
