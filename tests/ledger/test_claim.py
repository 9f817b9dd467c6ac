import pytest
from sqlalchemy import text

from runner.core.budget import Cap
from runner.core.catalog import Prices
from runner.core.lifecycle import Faulted, Usage
from runner.core.pricing import PriceSheet
from runner.core.task import Recipe
from runner.ledger import Claimed, Empty, OverBudget, Waiting, reservation
from runner.ledger import claim as claiming
from runner.ledger.queries import running
from tests.ledger.desk import RECIPE, answer, made, spec, specs

WORST = 1_120 * 60_000 + 1_500 * 1_500


def worst(number: int) -> int:
    """The reservation of task `number`: catalog image tokens, the text allowance, a token for each byte."""
    return WORST + len(spec(number).prompt.encode()) * 250


def test_claims_in_the_order_of_positions_and_reserves_the_worst_price(desk):
    desk.enqueue([spec(n, position=5 - n) for n in range(3)])

    first = desk.claimed()

    assert first.key == spec(2).key
    assert (first.prompt, first.recipe, first.stem, first.number) == (spec(2).prompt, RECIPE, "job/P2", 1)
    assert first.quote.nanos == worst(2)
    kept = desk.counters()
    assert (kept.spend.reserved, kept.spend.reserved_image_tokens) == (worst(2), 1_120)
    assert (kept.tasks["queued"], kept.tasks["running"]) == (2, 1)


def test_bytes_of_prompt_and_system_text_bound_the_input(desk):
    desk.enqueue([spec(0, prompt="Bänane", recipe=Recipe(RECIPE.model, thinking="minimal", system="né"))])
    assert desk.claimed().quote.input_tokens == len("Bänane".encode()) + len("né".encode())


def test_a_prompt_arrives_byte_for_byte_and_settings_whole(desk):
    recipe = Recipe("m", ("IMAGE", "TEXT"), None, "sys", (("HARASSMENT", "BLOCK_ONLY_HIGH"),))
    prompt = "línes\nof \u2028 \U0001f34c ‘text’ \t{x} "
    desk.enqueue([spec(0, prompt=prompt, recipe=recipe)])

    claimed = desk.claimed()

    assert (claimed.prompt, claimed.recipe) == (prompt, recipe)


def test_nothing_due_says_when_or_who_may_bring_something(desk):
    desk.enqueue(specs(1))
    claimed = desk.claimed()
    assert desk.claim() == Waiting(None)

    desk.settle(claimed, Faulted(500, "oops"))
    waiting = desk.claim()
    assert isinstance(waiting, Waiting)
    assert waiting.next_due is not None
    assert waiting.next_due > desk.now

    desk.now = waiting.next_due
    desk.settle(desk.claimed())
    assert desk.claim() == Empty()


def test_a_task_that_is_not_due_is_passed_over(desk):
    desk.enqueue(specs(2))
    desk.settle(desk.claimed(), Faulted(500, "oops"))
    assert desk.claimed().key == spec(1).key


@pytest.mark.parametrize("cap", [Cap(nanos=worst(0) + worst(1)), Cap(image_tokens=2 * 1_120)])
def test_the_cap_is_reached_exactly_and_never_passed(desk, cap):
    desk.enqueue(specs(3))
    assert isinstance(desk.claim(cap), Claimed)
    assert isinstance(desk.claim(cap), Claimed)

    over = desk.claim(cap)

    assert isinstance(over, OverBudget)
    assert (over.key, over.quote.nanos) == (spec(2).key, worst(2))
    kept = desk.counters()
    assert kept.spend.held == worst(0) + worst(1)
    assert kept.tasks["running"] == 2


def test_a_nano_dollar_short_is_over_budget_and_changes_nothing(desk):
    desk.enqueue(specs(1))
    before = desk.counters()
    assert isinstance(desk.claim(Cap(nanos=worst(0) - 1)), OverBudget)
    assert desk.counters() == before


def test_the_update_itself_refuses_what_does_not_fit(desk, monkeypatch):
    """The guard stands in SQL too: arithmetic that is fooled cannot pass the cap."""
    monkeypatch.setattr(reservation, "fits", lambda *_: True)
    desk.enqueue(specs(1))
    for cap in (Cap(nanos=worst(0) - 1), Cap(image_tokens=1_119)):
        with pytest.raises(RuntimeError, match="0 rows changed where one had to"):
            desk.claim(cap)
    assert desk.counters().spend.held == 0


def test_unknown_prices_are_counted_as_unknown_never_as_zero(desk):
    unpriced = PriceSheet(Prices(None, None, None))
    desk.enqueue(specs(1))

    claimed = desk.claimed(price=unpriced)
    held = desk.counters()
    assert (claimed.quote.nanos, held.spend.reserved, held.unpriced, held.uncounted) == (None, 0, 1, 1)

    desk.settle(claimed, price=unpriced)
    kept = desk.counters()
    assert (kept.spend.settled, kept.unpriced) == (0, 1)
    assert (kept.spend.settled_image_tokens, kept.uncounted) == (1_120, 0)
    assert desk.tasks()[0].cost_nanos is None


def test_unknown_prices_never_fit_a_cap(desk):
    desk.enqueue(specs(1))
    assert isinstance(desk.claim(Cap(nanos=10**18), PriceSheet(Prices(None, None, None))), OverBudget)


def test_the_largest_answer_seen_raises_the_next_reservation(desk):
    desk.enqueue(specs(3))
    first = desk.claimed()
    desk.settle(first, made(first, answer(Usage(20, 1_200 + 2_000, 0, 1_200))))

    quote = desk.claimed().quote

    assert (quote.text_tokens, quote.image_tokens) == (2_500, 1_500)


def test_assumed_tokens_do_not_raise_the_reservation(desk):
    desk.enqueue(specs(2))
    first = desk.claimed()
    desk.settle(first, made(first, answer(usage=None)))
    assert desk.claimed().quote.text_tokens == 1_500


def test_what_is_left_running_carries_all_a_rescue_needs(desk):
    desk.enqueue(specs(2))
    left = [desk.claimed(), desk.claimed()]
    desk.enqueue([spec(0, stem="job/renamed"), spec(1)])
    with desk.read() as connection:
        assert running(connection, desk.name) == left  # the stem too: where the picture was to go


def test_an_unknown_job_is_an_error(desk):
    with pytest.raises(LookupError, match="no job 'job'"):
        desk.claim()


def test_claims_read_only_the_rows_that_wait(desk):
    """Flat with the size of the table: the plan goes through the partial indexes, without a sort."""
    desk.enqueue(specs(400))
    with desk.write() as connection:
        connection.execute(
            text("UPDATE task SET state = 'succeeded', path = 'x', path_folded = 'x' WHERE id < 380")
        )
        connection.execute(text("UPDATE job SET queued = 21, succeeded = 379"))
    with desk.read() as connection:
        connection.execute(text("PRAGMA query_only = OFF"))
        for analysed in (False, True):
            if analysed:
                connection.execute(text("ANALYZE"))
            plan = _plan(connection, claiming._NEXT, job_id=1, now=0.0)
            assert "ix_task_waiting (job_id=?)" in plan
            assert "TEMP B-TREE" not in plan
            assert "ix_task_due" in _plan(connection, claiming._DUE, job_id=1)


def _plan(connection, statement, **values) -> str:
    compiled = statement.compile(connection, compile_kwargs={"literal_binds": False})
    explained = connection.exec_driver_sql(
        f"EXPLAIN QUERY PLAN {compiled}", tuple(values.get(name, 1) for name in compiled.positiontup)
    )
    return "\n".join(row[3] for row in explained)
