"""What ledger and folder hold of a job before a run: spend and caps, pictures, and files that are not ours."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import tee
from pathlib import Path

from runner.adapters.storage import FolderStore
from runner.app.campaign import Campaign, refuse_unproven_caps
from runner.app.obstacles import in_the_way
from runner.core.budget import Cap, Spend
from runner.core.errors import OutputError, UsageError
from runner.ledger import AccountStatus, Reader, agreed_cap


@dataclass(frozen=True, slots=True)
class Before:
    """What the ledger holds of a job before a run."""

    recorded: int = 0
    """Tasks it has ever had."""
    spend: Spend = field(default_factory=Spend)
    paths: frozenset[str] = frozenset()
    """Of all its pictures, orphans' included."""
    missing: tuple[str, ...] = ()
    """Those of them that the folder no longer has."""
    in_flight: Mapping[str, str] = field(default_factory=dict)
    """Token -> stem of requests that a dead run left, and of those in remote batches."""
    cap: Cap | None = None
    unpriced: int = 0
    """Attempts whose cost nobody knows."""
    uncounted: int = 0
    """Attempts whose image tokens nobody knows."""
    account: AccountStatus | None = None
    """With what the job would bring along, and the cap it would have."""
    account_cap: Cap | None = None
    """The account's cap as the ledger has it."""
    other_accounts: tuple[str, ...] = ()
    """Those that the ledger has, where it does not know the job's yet."""
    brought: Spend = field(default_factory=Spend)
    """What the job has spent under no account, and takes into the one it joins."""
    left: str | None = None
    """An account that the job was under and is no more."""


def before_run(campaign: Campaign, reader: Reader | None, store: FolderStore) -> Before:
    """Read it off both."""
    job = campaign.job
    if reader is None or not (recorded := reader.recorded(job)):
        return _with_account(Before(), campaign, reader, None)
    status = reader.status(job, since_utc=0)
    paths = reader.paths(job)
    before = Before(
        recorded=recorded,
        spend=_unreserved(status.spend),
        cap=status.cap,
        unpriced=status.unpriced,
        uncounted=status.uncounted,
        paths=frozenset(paths),
        missing=tuple(store.missing(sorted(paths))),
        in_flight=reader.stems_in_flight(job),
    )
    return _with_account(before, campaign, reader, status.account)


def _with_account(
    before: Before, campaign: Campaign, reader: Reader | None, under: AccountStatus | None
) -> Before:
    """The account as a run would find it: its cap as agreed, with what the job brings along from under none."""
    spec = campaign.account
    left = under.name if under is not None and (spec is None or spec.name != under.name) else None
    if spec is None:
        return replace(before, left=left)
    recorded = None if reader is None else reader.account(spec.name)
    cap = agreed_cap(spec, None if recorded is None else recorded.cap)
    shared = recorded or AccountStatus(spec.name, cap, Spend(), 0, 0, ())
    brought = Spend() if reader is None else reader.under_no_account(campaign.job)
    unpriced, uncounted = (before.unpriced, before.uncounted) if under is None else (0, 0)
    return replace(
        before,
        account=replace(
            shared,
            cap=cap,
            spend=shared.spend.plus(brought),
            unpriced=shared.unpriced + unpriced,
            uncounted=shared.uncounted + uncounted,
        ),
        account_cap=None if recorded is None else recorded.cap,
        other_accounts=() if reader is None or recorded is not None else tuple(reader.account_names()),
        brought=brought,
        left=left,
    )


def _unreserved(spend: Spend) -> Spend:
    """What a run starts from: reservations that a dead run left become unknown, so they still count."""
    return replace(
        spend,
        reserved=0,
        unknown=spend.unknown + spend.reserved,
        reserved_image_tokens=0,
        unknown_image_tokens=spend.unknown_image_tokens + spend.reserved_image_tokens,
    )


def refuse_unpriced_past(campaign: Campaign, before: Before) -> None:
    """UsageError: a cap covers what was spent before it was set; where nobody knows that, it cannot be proven."""
    holders = [(f"job {campaign.job}", campaign.cap, before.unpriced, before.uncounted)]
    if shared := before.account:
        refuse_unproven_caps(campaign, shared.cap)
        holders.append((f"account {shared.name}", shared.cap, shared.unpriced, shared.uncounted))
    for whose, cap, unpriced, uncounted in holders:
        if (cap.nanos is not None and unpriced) or (cap.image_tokens is not None and uncounted):
            kind, _, _ = whose.partition(" ")
            raise UsageError(
                f"{campaign.manifest.file}: {max(unpriced, uncounted)} earlier requests of {whose} have no known "
                f"price: a cap over them cannot be proven. Leave the budget out, or name another {kind}"
            )


def holders(campaign: Campaign, before: Before) -> list[tuple[str, Spend, Cap]]:
    """What is held against each cap: the job's own, and its account's."""
    own = ("the cap", before.spend, campaign.cap)
    if (shared := before.account) is None:
        return [own]
    return [own, (f"the cap of account {shared.name}", _unreserved(shared.spend), shared.cap)]


class Way:
    """Files that are not ours where a picture is to go: an error, never overwritten or adopted.

    What a dead run had in flight may lie there whole: it is the next run's to adopt. One that another attempt
    brought is in the way there too, or it would be bought once more if this attempt came to nothing. Stems are
    looked at some at a time, so that those of a large job are never all in memory.
    """

    AT_ONCE = 50_000

    def __init__(self, campaign: Campaign, store: FolderStore, before: Before, reader: Reader | None) -> None:
        """Nothing is in the way yet."""
        self._campaign, self._store, self._reader = campaign, store, reader
        self._before = before
        self._in_flight = set(before.in_flight.values())
        self._ours = before.paths | _half_moved(campaign, before.missing, reader)
        self._stems: list[str] = []
        self._awaited: list[str] = []
        self._found: set[str] = set()

    def leads_to(self, stem: str) -> None:
        """A picture of the job is to go here."""
        (self._awaited if stem in self._in_flight else self._stems).append(stem)
        if len(self._stems) + len(self._awaited) >= self.AT_ONCE:
            self._look()

    def refuse_strangers(self) -> None:
        """OutputError if anything is in the way of what it was told of."""
        self._look()
        if self._found and self._reader is not None:
            since = self._come_since(self._reader)
            self._found = {path for path in self._found if path.rpartition(".")[0] not in since}
        if self._found:
            raise OutputError(in_the_way(self._campaign, self._store, self._found))

    def _come_since(self, reader: Reader) -> set[str]:
        """Stems of pictures that a run has ordered or brought since the ledger was read; ordered ones first."""
        job = self._campaign.job
        if not reader.recorded(job):
            return set()
        ordered = {
            stem for token, stem in reader.stems_in_flight(job).items() if token not in self._before.in_flight
        }
        return ordered | {path.rpartition(".")[0] for path in reader.paths(job) if path not in self._before.paths}

    def _look(self) -> None:
        self._found.update(self._store.foreign(self._stems, self._ours))
        others = self._store.bought(self._store.foreign(self._awaited, self._ours))
        self._found.update(one.path for one in others if one.sidecar.attempt not in self._before.in_flight)
        self._stems.clear()
        self._awaited.clear()


def _half_moved(campaign: Campaign, missing: Collection[str], reader: Reader | None) -> set[str]:
    """Where pictures of renamed tasks are that a crash moved on disk and not in the ledger: still ours."""
    gone = set(missing)
    if not gone or reader is None:
        return set()
    specs, keys = tee(campaign.specs)
    known = zip(specs, reader.known(campaign.job, (spec.key for spec in keys)), strict=True)
    return {spec.stem + Path(one.path).suffix for spec, (_, one) in known if one and one.path and one.path in gone}
