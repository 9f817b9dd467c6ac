"""What a run would do now: a campaign compared with ledger and output folder. Writes nothing."""

from runner.adapters.storage import FolderStore
from runner.app.before import Way, before_run, refuse_unpriced_past
from runner.app.before import holders as holders_of
from runner.app.campaign import Campaign
from runner.app.comparison import Cells, Comparison, resolved
from runner.app.finish import Outlook
from runner.app.planned import Plan
from runner.app.settings import Settings
from runner.app.tally import Cut
from runner.app.words import BINDING_WORDS, binding_words, finish_line, held_words, price_line
from runner.core.budget import fits
from runner.core.pricing import Quote
from runner.ledger import Reader

__all__ = [
    "BINDING_WORDS",
    "Cells",
    "Plan",
    "binding_words",
    "finish_line",
    "held_words",
    "plan",
    "price_line",
    "resolved",
]


def plan(
    campaign: Campaign, reader: Reader | None, store: FolderStore, settings: Settings, *, now_utc: float
) -> Plan:
    """Compare a campaign with what is recorded and on disk. Raises OutputError for files in its way."""
    if reader is not None:
        campaign.learn(reader.seen())
    before = before_run(campaign, reader, store)
    refuse_unpriced_past(campaign, before)
    way = Way(campaign, store, before, reader)
    holders = holders_of(campaign, before)
    cuts = [Cut(spend, cap) for _, spend, cap in holders]
    found = Comparison(campaign, reader if before.recorded else None, before.recorded, cuts, way)
    way.refuse_strangers()
    whole = Quote(found.worst.worst_nanos, found.worst.image_tokens, 0, 0)
    outlook = Outlook(campaign, reader, settings, now_utc)
    by, batched = campaign.deadline_utc, found.batched.batches
    drafts = campaign.manifest.drafts
    lost = drafts is not None and (reader is None or not reader.recorded(drafts))
    return Plan(
        campaign=campaign,
        new=found.new,
        retry=found.retry,
        done=found.done,
        submitted=found.submitted,
        orphaned=before.recorded - found.kept,
        likely_nanos=found.likely.value,
        worst_nanos=found.worst.worst_nanos,
        image_tokens=found.lanes["standard"].image_tokens,
        batched=sum(one.count for one in batched),
        queues=found.queues,
        lanes=found.lanes,
        spend=before.spend,
        cut_after=min((cut.after for cut in found.cuts if cut.after is not None), default=None),
        cap_before=before.cap,
        missing=before.missing,
        finish=outlook.finish({model: needs.batches for model, needs in found.needs.items()}, batched),
        batches=outlook.batches(batched),
        deadline=None
        if by is None
        else outlook.deadline({model: needs.batches for model, needs in found.needs_at_last.items()}, by),
        account=before.account,
        account_cap_before=before.account_cap,
        other_accounts=before.other_accounts,
        brought=before.brought,
        left=before.left,
        over=" and ".join(whose for whose, spend, cap in holders if not fits(spend, cap, whole)),
        difference=found.difference,
        recorded=bool(before.recorded),
        carried=found.carried,
        uploads=found.uploads,
        lost_drafts=drafts if lost else None,
        picture_bytes=found.picture_bytes,
        room_bytes=store.room(),
    )
