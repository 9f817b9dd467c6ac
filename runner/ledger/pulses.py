"""What live runs say of themselves, for `status` and for each other."""

from dataclasses import asdict, replace

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from runner.core.lifecycle import State
from runner.ledger.facts import Pulse, Standing, Wish
from runner.ledger.models import account, job, pulse, recipe, task
from runner.ledger.quotas import Quotas, standing
from runner.ledger.reservation import cap_of, spend_of


def beat(connection: Connection, name: str, wish: Wish, told: Pulse | None, now: float) -> None:
    """Record what a run says of itself (None: that it lives)."""
    mine = select(job.c.id).where(job.c.name == name).scalar_subquery()
    facts = {
        "endpoint": wish.endpoint,
        "facts": None if told is None else asdict(told),
        "updated_at": now,
    }
    here = (pulse.c.job_id == mine, pulse.c.model == wish.model)
    if not connection.execute(update(pulse).where(*here).values(**facts)).rowcount:
        connection.execute(insert(pulse).values(job_id=mine, model=wish.model, **facts))


def stands(connection: Connection, quotas: Quotas, name: str, wish: Wish, now: float) -> Standing:
    """What counts against a run's limits now; writes nothing."""
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
        left=_left_of(connection, mine_now["id"], wish.model)
        if wish.only
        else mine_now["queued"] + mine_now["running"],
        free_nanos=min((nanos for nanos in free if nanos is not None), default=None),
    )


def _left_of(connection: Connection, job_id: int, model: str) -> int:
    """Tasks of one model that have not ended."""
    counted = (
        select(func.count())
        .select_from(task)
        .join(recipe, recipe.c.id == task.c.recipe_row)
        .where(task.c.job_id == job_id, task.c.live, task.c.state.in_((State.QUEUED, State.RUNNING)))
        .where(recipe.c.model == model)
    )
    found: int = connection.execute(counted).scalar_one()
    return found


def _free(owner: RowMapping) -> int | None:
    cap = cap_of(owner).nanos
    return None if cap is None else max(0, cap - spend_of(owner).held)


def quiet(connection: Connection, name: str) -> None:
    """The run is over."""
    connection.execute(
        delete(pulse).where(pulse.c.job_id == select(job.c.id).where(job.c.name == name).scalar_subquery())
    )
