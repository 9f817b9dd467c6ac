"""What limits have counted, as the writer's thread mirrors it: always what the attempts say, whoever made them."""

import random
from dataclasses import replace

import pytest
from sqlalchemy import MetaData, text

from runner.core.batching import Load
from runner.core.calendar import day_turns, month_turns
from runner.core.lifecycle import Faulted, Interrupted, Lost, Throttled, Unreached, Verdict
from runner.core.limits import Limits, Need
from runner.core.quota import LEAVES_WITHIN_S, SOON_S
from runner.core.task import Recipe
from runner.ledger import Claimed, Held, Ledger, Submitted, Wish, quotas
from runner.ledger.database import set_up_file, writing
from runner.ledger.pulses import beat
from runner.ledger.quotas import LATE_S, RENEWS_S, Quotas
from runner.ledger.schema import migrate
from tests.ledger.desk import BATCH_SHEET, PICTURE_NANOS, RECIPE, SHEET, WISH, Desk, answer, made, spec, specs
from tests.ledger.test_claim import _plan
from tests.windows import heaviest_window

OTHER = Recipe("gemini-3.1-flash-image", thinking="minimal")
START = 1_793_516_400.0
"""2026-10-31, an hour before midnight Pacific and a month's turn; clocks go back in the night after it."""
LONG_S = 60.6
"""How long a send counts."""


def seats(folder, limits, *, tasks=40, models=(RECIPE, RECIPE, OTHER)):
    """Desks at one ledger, each with a job and a mirror of its own, as processes have them."""
    first = Desk.at(folder)
    found = []
    for number, recipe in enumerate(models):
        desk = Desk(first.path, f"job{number}", START, tokens=number * 10**6)
        desk.wish = Wish(WISH.endpoint, recipe.model, limits)
        desk.enqueue([replace(one, recipe=recipe) for one in specs(tasks)])
        found.append(desk)
    return found


def left(desk, claimed, at):
    with desk.write() as connection:
        quotas.left(connection, claimed.token, at)


def at_once(desks, now):
    for desk in desks:
        desk.now = now


def send(desk):
    claimed = desk.claimed()
    left(desk, claimed, desk.now)
    return claimed


def present(desk):
    """Say that the run is there."""
    with desk.write() as connection:
        beat(connection, desk.name, desk.wish, None, desk.now)


def seen(log, now):
    """All that a log says."""
    models = (RECIPE.model, OTHER.model)
    return (
        sorted((at, model, need.tokens, need.images, need.nanos) for at, model, need in log.recent()),
        [(log.sent_last_minute(model), log.today(model), log.admitted_before(model, now)) for model in models],
        (log.month_nanos, log.batches_nanos),
        [
            log.judge(now, model, Limits(rpm=rpm, tpm=30 * rpm, ipm=rpm + 1, spend_nanos=rpm * 10**8), Need(9))
            for model in models
            for rpm in range(1, 8)
        ],
    )


# --- the mirror is the attempts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_mirror_is_what_reading_everything_anew_gives(tmp_path, seed):
    """Whatever its own process and others do, over midnight, a month's turn and restarts."""
    chance = random.Random(seed)
    limits = Limits(rpm=5, tpm=300, ipm=6, rpd=60, spend_nanos=12 * PICTURE_NANOS)
    desks = seats(tmp_path, limits)
    out: list[tuple[Desk, Claimed, bool]] = []
    sent: list[tuple[float, str]] = []
    now = START
    for _ in range(150):
        now += chance.choice([0.0, 0.01, 0.5, 3.0, 3.0, 9.0, 9.0, 9.0, 40.0, 40.0, chance.random() * 1_000])
        at_once(desks, now)
        what, desk = chance.random(), chance.choice(desks)
        if what < 0.05:
            found = desk.submit(load=Load(lines=3))
            out += [(desk, line, True) for line in getattr(found, "attempts", ())]
        elif what < 0.5 or not out:
            claimed = desk.claim()
            if isinstance(claimed, Claimed):
                out.append((desk, claimed, False))
        elif what < 0.7:
            desk, claimed, has_left = out.pop(chance.randrange(len(out)))
            if not has_left:  # and perhaps it is said late
                at = min(now, claimed.started_at + chance.choice([1, chance.random()]) * LEAVES_WITHIN_S)
                left(desk, claimed, at)
                sent.append((at, claimed.recipe.model))
            out.append((desk, claimed, True))
        elif what < 0.95:
            desk, claimed, has_left = out.pop(chance.randrange(len(out)))
            price = BATCH_SHEET if claimed.lane == "batch" else SHEET
            desk.settle(claimed, ending(chance, claimed, has_left=has_left), price=price)
        elif what < 0.97:
            unknown = [one.token for one in desk.attempts() if one.state == "unknown"]
            desk.resolve(*unknown[:2], verdict=chance.choice([Verdict.WRITTEN_OFF, Verdict.RELEASED]))
        else:
            desk.quotas = Quotas()
        for one in chance.sample(desks, chance.randint(0, 2)):  # some have not looked for long
            with one.read() as connection:
                mirrored = one.quotas.log(connection, WISH.endpoint, now)
                assert seen(mirrored, now) == seen(Quotas().log(connection, WISH.endpoint, now), now)
    for model in (RECIPE.model, OTHER.model):
        mine = [at for at, of in sent if of == model]
        assert heaviest_window(mine, 60, at=lambda at: at, weight=lambda _: 1) <= 5
    assert len(sent) > 10


def ending(chance, claimed, *, has_left):
    if not has_left:
        return chance.choice([Unreached("refused"), Interrupted(left=False), Lost("crashed", "the runner died")])
    return chance.choice(
        [
            made(claimed),
            made(claimed, answer(pictures=2)),
            Throttled(429, "minute", "slow down"),
            Faulted(500, "oops"),
            Lost("timed_out", "late"),
        ]
    )


def test_all_jobs_count_and_other_models_only_where_dollars_do(tmp_path):
    one, two, three = seats(tmp_path, Limits(rpm=2, rpd=2))
    send(one)
    send(two)
    assert one.claim() == two.claim() == Held("day", day_turns(START))
    assert isinstance(three.claim(), Claimed)

    for desk in (one, three):
        desk.wish = replace(desk.wish, limits=Limits(spend_nanos=4 * PICTURE_NANOS))
    held = three.claim()
    assert isinstance(held, Held)
    assert held.binds == "spend_window"


def test_another_endpoint_is_another_service(tmp_path):
    one, two, _ = seats(tmp_path, Limits(rpm=1))
    send(one)
    assert isinstance(two.claim(), Held)
    two.wish = replace(two.wish, endpoint="https://elsewhere.test")
    assert isinstance(two.claim(), Claimed)


def test_what_was_given_back_before_it_left_does_not_count(tmp_path):
    one, two, _ = seats(tmp_path, Limits(rpm=1))
    claimed = one.claimed()
    assert two.claim() == Held("requests", START + SOON_S)
    one.settle(claimed, Unreached("refused"))
    assert isinstance(two.claim(), Claimed)


def test_after_a_crash_what_may_have_left_counts_from_its_rescue(tmp_path):
    one, two, _ = seats(tmp_path, Limits(rpm=1))
    claimed = one.claimed()
    at_once((one, two), START + 30)
    two.quotas = Quotas()
    assert two.claim() == Held("requests", START + 30 + SOON_S)
    one.settle(claimed, Lost("crashed", "the runner died"))
    assert two.claim() == Held("requests", START + 30 + LONG_S)
    two.now = START + 30 + LONG_S
    assert isinstance(two.claim(), Claimed)


def test_what_was_sent_before_a_crash_counts_from_its_send(tmp_path):
    one, two, _ = seats(tmp_path, Limits(rpm=1))
    claimed = send(one)
    at_once((one, two), START + 30)
    one.settle(claimed, Lost("crashed", "the runner died"))
    for desk in (two, replace(two, quotas=Quotas())):
        assert desk.claim() == Held("requests", START + LONG_S)


def test_a_claim_that_waited_for_the_ledger_counts_what_left_meanwhile_from_its_send(tmp_path):
    """Its own instant is from before it began to wait."""
    one, two, _ = seats(tmp_path, Limits(rpm=1))
    two.now = START + 5
    send(two)
    assert one.claim() == Held("requests", START + 5 + LONG_S)
    one.now = START + 5 + 60.1
    assert one.claim() == Held("requests", START + 5 + LONG_S)


def test_what_is_said_late_does_not_set_the_clock_back(tmp_path):
    one, *_ = seats(tmp_path, Limits(rpm=1))
    one.now = START + 5
    send(one)
    assert isinstance(one.claim(), Held)
    one.now = START
    present(one)
    one.now = START + 5 + 60.1
    assert one.claim() == Held("requests", START + 5 + LONG_S)


def test_an_upgraded_ledger_keeps_its_windows(tmp_path):
    """The claim is the nearest to the send that an older ledger knows."""
    path = tmp_path / "old.db"
    states: list[tuple[str, str | None, int]] = [("settled", "made", 1), ("unknown", "lost", 2)]
    states += [("released", "throttled", 3), ("released", "unreached", 4), ("running", None, 5)]
    with writing(path, create=True).connect() as connection:
        set_up_file(connection)
        with connection.begin():
            migrate(connection, "0001")
            fill_as_before(connection, states)
    Ledger.open(f"sqlite:///{path}", "live", now_utc=START).close()

    desk = Desk(path, "old", START + 10)
    desk.wish = Wish(WISH.endpoint, RECIPE.model, Limits())
    with desk.read() as connection:
        log = desk.quotas.log(connection, WISH.endpoint, desk.now)
        assert [at - START for at, _, _ in log.recent()] == [1, 2, 3]
        assert log.sent_last_minute(RECIPE.model) == 4  # the one in flight may leave at any moment
        assert log.today(RECIPE.model) == 3
        assert log.month_nanos == 40 + 50
    desk.wish = replace(desk.wish, limits=Limits(rpm=4))
    assert desk.claim() == Held("requests", START + 1 + LONG_S)


def fill_as_before(connection, states):
    """One job whose attempts ended so, as the first revision writes them."""
    connection.execute(text(f"INSERT INTO ledger (id, kind, created_at) VALUES (1, 'live', {START})"))
    tables = MetaData()
    tables.reflect(connection)

    def add(table, **facts):
        columns = tables.tables[table].c
        blank = {c.name: 0 for c in columns if not c.nullable and not c.primary_key}
        connection.execute(tables.tables[table].insert(), {**blank, **facts})

    add("job", id=1, name="old", manifest_sha256="", config={}, output_root="/", queued=1, running=1, succeeded=3)
    add("prompt", id=1, sha256="p", text="A banana")
    body = (
        f'{{"model": "{RECIPE.model}", "modalities": ["IMAGE"], "thinking": "minimal", "system": null, '
        '"safety": []}'
    )
    add("recipe", id=1, sha256="r", model=RECIPE.model, body=body)
    same = {"size": "1K", "aspect": "1:1", "prompt_id": "p", "prompt_row": 1, "recipe_row": 1, "reason": ""}
    same |= {"job_id": 1, "axes": {}, "error": "", "live": True}
    done = {"path": "x.png", "path_folded": "x"}
    for number, (state, outcome, at) in enumerate(states, 1):
        task = "running" if state == "running" else "succeeded" if state == "settled" else "failed"
        kept = done if task == "succeeded" else {}
        stem = f"{number}"
        add("task", id=number, key=stem, stem=stem, folded=stem, position=number, state=task, **kept, **same)
        add(
            "attempt",
            id=number,
            token=f"{number:032x}",
            task_id=number,
            job_id=1,
            number=1,
            lane="standard",
            model=RECIPE.model,
            endpoint=WISH.endpoint,
            stem=stem,
            state=state,
            outcome=outcome,
            reason="",
            error="",
            reserved_nanos=50,
            cost_nanos=40 if state == "settled" else None,
            started_at=START + at,
            ended_at=None if state == "running" else START + at + 5,
        )
    add("task", id=9, key="9", stem="9", folded="9", position=9, state="queued", **same)


@pytest.mark.parametrize("mended_after_s", [30.0, 130.0, 3_600.0])
def test_what_a_dead_run_claimed_holds_others_up_only_until_it_can_have_left_no_more(tmp_path, mended_after_s):
    """It was killed between its claim and the wire, and is run again some day; the others go on."""
    dead, other, _ = desks = seats(tmp_path, Limits(rpm=1))
    claimed = dead.claimed()
    at_once(desks, START + LEAVES_WITHIN_S - 1)
    assert other.claim() == Held("requests", START + LEAVES_WITHIN_S - 1 + SOON_S)
    free = START + LEAVES_WITHIN_S + LONG_S
    at_once(desks, START + LEAVES_WITHIN_S)
    assert other.claim() == Held("requests", free)
    at_once(desks, max(free - 1, START + mended_after_s))
    dead.now = START + mended_after_s
    dead.settle(claimed, Lost("crashed", "the runner died"))
    if mended_after_s == 30.0:
        free = dead.now + LONG_S
        at_once(desks, free - 1)
    if mended_after_s < LONG_S + LEAVES_WITHIN_S:
        assert other.claim() == Held("requests", free)
        at_once(desks, free)
    send(other)
    dead.quotas = Quotas()
    dead.now = other.now
    assert dead.claim() == Held("requests", other.now + LONG_S)


def test_a_send_that_is_booked_after_it_was_presumed_counts_from_when_it_was(tmp_path):
    one, other, _ = desks = seats(tmp_path, Limits(rpm=1))
    claimed = one.claimed()
    at_once(desks, START + LEAVES_WITHIN_S + 1)
    assert other.claim() == Held("requests", START + LEAVES_WITHIN_S + LONG_S)
    left(one, claimed, START + 70)
    assert other.claim() == Held("requests", START + 70 + LONG_S)


def test_what_is_given_back_after_it_was_presumed_counts_no_more(tmp_path):
    one, other, _ = desks = seats(tmp_path, Limits(rpm=1, rpd=1))
    claimed = one.claimed()
    at_once(desks, START + LEAVES_WITHIN_S + 1)
    assert isinstance(other.claim(), Held)
    one.settle(claimed, Interrupted(left=False))
    assert isinstance(other.claim(), Claimed)


# --- the month ---------------------------------------------------------------------------------------------------


def test_a_batch_counts_for_the_month_of_every_job_and_lane_at_its_reservation_and_then_at_its_cost(tmp_path):
    limit = 20 * PICTURE_NANOS // 2 + 2_250_000  # for nineteen lines at worst, and another at their cost
    one, two, _ = desks = seats(tmp_path, Limits(month_nanos=limit))
    found = one.submit(load=Load(lines=19))
    assert isinstance(found, Submitted)
    held = Held("month", month_turns(START), limit)
    assert two.claim() == two.submit() == one.submit() == held
    for line in found.attempts:
        one.settle(line, price=BATCH_SHEET)
    assert isinstance(two.submit(load=Load(lines=1)), Submitted)
    assert two.claim() == held
    at_once(desks, month_turns(START))
    assert isinstance(two.claim(), Claimed)


def test_what_is_open_when_a_month_turns_counts_in_the_new_one_until_it_ends_and_then_if_it_ended_there(tmp_path):
    one, two, _ = desks = seats(tmp_path, Limits(month_nanos=10**12))
    now = month_turns(START)
    before, after = (one.submit(load=Load(lines=1)) for _ in range(2))

    def month():
        with two.read() as connection:
            counted = two.quotas.log(connection, WISH.endpoint, two.now).month_nanos
            assert counted == Quotas().log(connection, WISH.endpoint, two.now).month_nanos
            return counted

    both = sum(each.attempts[0].quote.nanos for each in (before, after))
    assert month() == both
    at_once(desks, now - 1)
    one.settle(before.attempts[0], price=BATCH_SHEET)
    assert month() == PICTURE_NANOS // 2 + after.attempts[0].quote.nanos
    at_once(desks, now + 1)
    assert month() == after.attempts[0].quote.nanos
    one.settle(after.attempts[0], Lost("crashed", "gone"), price=BATCH_SHEET)
    assert month() == after.attempts[0].quote.nanos
    assert one.resolve(after.attempts[0].token, verdict=Verdict.RELEASED)
    assert month() == 0


def test_a_claim_that_waited_over_a_months_turn_leaves_what_ended_meanwhile_in_the_new_month(tmp_path):
    one, two, _ = seats(tmp_path, Limits(month_nanos=10**12))
    found = one.submit(load=Load(lines=1))
    one.now = month_turns(START) + 0.1
    two.now = month_turns(START) - 0.1
    one.settle(found.attempts[0], price=BATCH_SHEET)
    assert isinstance(two.claim(), Claimed)
    two.now += 1
    with two.read() as connection:
        log = two.quotas.log(connection, WISH.endpoint, two.now)
        assert (log.month_nanos, log.batches_nanos) == (PICTURE_NANOS // 2, 0)


def test_a_month_is_read_by_indexes(tmp_path):
    """Not by a look at every attempt of the ledger."""
    with Desk.at(tmp_path).read() as connection:
        for statement in (quotas._MONTH, quotas._MONTH_OF_LINES, quotas._OPEN_LINES, quotas._CHANGED):
            plan = _plan(connection, statement, at="x", since=0.0, until=0.0, seen=0)
            assert "USING INDEX ix_attempt_" in plan, plan


# --- turns -------------------------------------------------------------------------------------------------------


def test_who_has_waited_longer_comes_first(tmp_path):
    one, two, _ = desks = seats(tmp_path, Limits(rpm=2))
    for desk in desks:
        present(desk)
    send(one)
    at_once(desks, START + 25)
    send(one)
    assert isinstance(one.claim(), Held)
    at_once(desks, START + 25.1)
    assert isinstance(two.claim(), Held)

    at_once(desks, START + LONG_S - 0.3)
    assert one.claim() == Held("requests", START + LONG_S)
    at_once(desks, START + LONG_S)
    assert two.claim() == Held("requests", START + LONG_S + SOON_S)
    send(one)
    at_once(desks, START + 25 + LONG_S - 0.1)
    assert isinstance(two.claim(), Held)
    assert isinstance(one.claim(), Held)
    at_once(desks, START + 25 + LONG_S)
    assert one.claim() == Held("requests", START + 25 + LONG_S + SOON_S)  # behind the other now
    assert isinstance(two.claim(), Claimed)


def test_runs_together_do_not_send_at_once_what_each_alone_would_spread(tmp_path):
    one, two, _ = desks = seats(tmp_path, Limits(rpm=60))
    for desk in desks:
        present(desk)
    send(one)
    at_once(desks, START + 0.1)
    assert two.claim() == Held("requests", START + 0.8)
    at_once(desks, START + 0.8)
    assert isinstance(two.claim(), Claimed)


def test_a_large_task_is_not_passed_by_small_ones_of_others(tmp_path):
    one, two, _ = desks = seats(tmp_path, Limits(tpm=100))
    one.enqueue([spec(1_000, prompt="b" * 90)])
    for desk in desks:
        present(desk)
    send(two)
    assert isinstance(one.claim(), Held)
    at_once(desks, START + 0.1)
    held = two.claim()
    assert isinstance(held, Held)
    assert held.until is not None


def test_one_that_died_in_the_line_holds_nobody_up_for_a_second(tmp_path):
    one, two, _ = desks = seats(tmp_path, Limits(tpm=100))
    one.enqueue([spec(1_000, prompt="b" * 90)])
    for desk in desks:
        present(desk)
    send(two)
    held = one.claim()  # needs the whole minute to pass
    assert held == Held("tokens", START + RENEWS_S)
    at_once(desks, START + RENEWS_S + LATE_S)
    assert RENEWS_S + LATE_S < 1
    assert isinstance(two.claim(), Claimed)


def test_nobody_stands_in_line_for_the_calendar(tmp_path):
    """Another may have no such limit, or be held to a larger one."""
    one, two, _ = desks = seats(tmp_path, Limits(rpm=9))
    one.wish = replace(one.wish, limits=Limits(rpm=9, rpd=1))
    for desk in desks:
        present(desk)
    send(one)
    assert one.claim() == Held("day", day_turns(START))
    at_once(desks, START + 6)
    assert isinstance(two.claim(), Claimed)


def test_other_models_stand_in_no_line_but_that_for_dollars(tmp_path):
    one, _, three = desks = seats(tmp_path, Limits(rpm=1))
    for desk in desks:
        present(desk)
    send(one)
    assert isinstance(one.claim(), Held)
    at_once(desks, START + 0.01)
    assert isinstance(three.claim(), Claimed)
