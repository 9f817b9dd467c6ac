"""What live runs say of themselves, for `status` and for each other."""

from dataclasses import asdict, replace

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from runner.ledger.claim import cap_of, spend_of
from runner.ledger.facts import Pulse, Standing, Wish
from runner.ledger.models import account, job, pulse
from runner.ledger.quotas import Quotas, standing


def beat(
    connection: Connection, quotas: Quotas, name: str, wish: Wish, told: Pulse | None, now: float
) -> Standing:
    """Record what a run says of itself (None: that it lives); what counts against its limits now."""
    mine = select(job.c.id).where(job.c.name == name).scalar_subquery()
    where = {"endpoint": wish.endpoint, "model": wish.model}
    facts = {**where, "facts": None if told is None else asdict(told), "updated_at": now}
    if not connection.execute(update(pulse).where(pulse.c.job_id == mine).values(**facts)).rowcount:
        connection.execute(insert(pulse).values(job_id=mine, **facts))
    mine_now = connection.execute(select(job).where(job.c.name == name)).mappings().one()
    free = [_free(mine_now)]
    if mine_now["account_id"] is not None:
        free.append(
            _free(
                connection.execute(select(account).where(account.c.id == mine_now["account_id"])).mappings().one()
            )
        )
    return replace(
        standing(connection, quotas, wish, now),
        left=mine_now["queued"] + mine_now["running"],
        free_nanos=min((nanos for nanos in free if nanos is not None), default=None),
    )


def _free(owner: RowMapping) -> int | None:
    cap = cap_of(owner).nanos
    return None if cap is None else max(0, cap - spend_of(owner).held)


def quiet(connection: Connection, name: str) -> None:
    """The run is over."""
    connection.execute(
        delete(pulse).where(pulse.c.job_id == select(job.c.id).where(job.c.name == name).scalar_subquery())
    )
