"""The receipt as a person reads it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from runner.app.report import Line, Receipt, amiss, by_prompt, pairs
from runner.app.report_views import price_object, within
from runner.app.views import instant
from runner.cli.faces import shortened
from runner.core.budget import Cap, Spend, dollars
from runner.core.lifecycle import AttemptState
from runner.ledger import BookedAttempt, BookedTask, Counters

MOST_EXTREME = 3
"""Attempts that it lists as dearest and as slowest."""
MOST_LINES = 20
"""Lines of one part; `--json` has them all."""


def receipt_table(found: Receipt) -> RenderableType:
    """The receipt, a part after another."""
    return Group(*_parts(found))


def _parts(found: Receipt) -> Iterator[RenderableType]:
    for part in (_head, _chain, _money, _by_hand, _groups, _without, _amiss, _extremes, _prices, _verdict):
        yield from (escape(one) if isinstance(one, str) else one for one in part(found))


def _head(found: Receipt) -> Iterator[str]:
    play = "; sandbox: no money was spent" if found.books.kind == "sandbox" else ""
    yield f"job {found.books.job}: receipt of {instant(found.at)}{play}"


def _chain(found: Receipt) -> Iterator[str]:
    """Tasks = sends = charges = pictures, or how one becomes the other."""
    tally, whole = found.tally, found.tally.whole
    if found.equal:
        yield f"  {whole.tasks} tasks = {whole.sends} sends = {whole.charges} charges = {whole.pictures} pictures"
        return
    again = whole.sends - (whole.tasks - tally.unsent)
    orphaned = tally.orphaned.tasks
    of_them = f"of them {orphaned} that the manifest no longer names" if orphaned else ""
    rows = [
        ("tasks", whole.tasks, of_them),
        ("sends", whole.sends, _steps(f"{whole.tasks} tasks", never_sent=-tally.unsent, sent_again=again)),
        (
            "charges",
            whole.charges,
            _steps(
                f"{whole.sends} sends",
                **{
                    "answered with an error, free": -whole.free,
                    "cancelled before they ran, nothing charged": -whole.cancelled,
                    "not done by their batch, nothing charged": -whole.undone,
                    "never fully answered, held": -whole.unanswered,
                },
                released_by_hand=-whole.released,
                in_flight=-whole.in_flight,
            ),
        ),
        (
            "pictures",
            whole.pictures,
            _steps(
                f"{whole.charges} charges",
                **{
                    "for an answer without the picture": -whole.without_picture,
                    "whose picture was lost": -whole.lost,
                },
                written_off_by_hand=-whole.written_off,
            ),
        ),
    ]
    width = max(len(str(count)) for _, count, _ in rows)
    yield from (f"  {name:8} {count:{width}} {steps}".rstrip() for name, count, steps in rows)


def _steps(first: str, **steps: int) -> str:
    """`= 8 tasks - 1 never sent + 2 sent again`; steps of nothing are left out."""
    words = (
        f" {'-' if count < 0 else '+'} {abs(count)} {name.replace('_', ' ')}"
        for name, count in steps.items()
        if count
    )
    return "".join([f"= {first}", *words])


def _money(found: Receipt) -> Iterator[str]:
    books, orphaned = found.books, found.tally.orphaned
    yield f"  {_held(books.kept, books.cap)}"
    if orphaned.settled or orphaned.unknown:
        yield f"  of that for tasks that the manifest no longer names: {_spent(orphaned)}"
    for one in books.accounts:
        yield f"  account {one.name}: {_held(one.kept, one.cap)}"
        if set(one.jobs) != {books.job}:
            yield from (f"    {name}: {_held(counters)}" for name, counters in one.jobs.items())


def _held(kept: Counters, cap: Cap | None = None) -> str:
    """What makes up the spend, against a cap if there may be one, in each unit that the cap has."""
    spend, limits = kept.spend, cap or Cap()
    words = f"spend unknown: {kept.unpriced} attempts have no known price"
    if not kept.unpriced:
        words = _sum({"settled": spend.settled, "reserved": spend.reserved, "unknown": spend.unknown})
    if limits.nanos is not None:
        words += f" of ${dollars(limits.nanos)}"
    if limits.image_tokens is not None:
        counts = (spend.settled_image_tokens, spend.reserved_image_tokens, spend.unknown_image_tokens)
        tokens = f"{' + '.join(map(str, counts))} = {sum(counts)}"
        words += f", image tokens {tokens} of {limits.image_tokens}"
    return words if cap is None else f"{words}{_verdict_on(spend, cap)}"


def _sum(parts: Mapping[str, int]) -> str:
    """`settled $1.00 + reserved $0.00 = $1.00`."""
    words = " + ".join(f"{word} ${dollars(nanos)}" for word, nanos in parts.items())
    return f"{words} = ${dollars(sum(parts.values()))}"


def _verdict_on(spend: Spend, cap: Cap) -> str:
    if cap == Cap():
        return ", no cap"
    if within(spend, cap):
        return ": the cap held"
    return ": more than this cap (an answer dearer than its reservation, or a cap lowered since)"


def _by_hand(found: Receipt) -> Iterator[str]:
    """What people have booked of unknown attempts, each with the reason they gave."""
    if found.tally.by_hand:
        yield from ("", "booked by hand")
    for (verdict, why), (many, held) in found.tally.by_hand.items():
        yield f"  {verdict.replace('_', ' ')}: {many}, {'unknown' if held is None else f'${dollars(held)}'}: {why}"


def _groups(found: Receipt) -> Iterator[RenderableType]:
    tally = found.tally
    if not tally.by:
        return
    yield ""
    names = (*tally.by, "tasks", "sends", "charges", "pictures", "settled", "held", "image tokens")
    rows = [(*group, *_cells(line)) for group, line in tally.groups.items()]
    last = ("all", *[""] * (len(tally.by) - 1), *_cells(tally.whole))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, (name, *cells) in enumerate(zip(names, *rows, last, strict=True)):
        of_group = place < len(tally.by)
        # a terminal that is narrow never cuts money short
        width = None if of_group else max(map(len, (name, *cells)))
        table.add_column(escape(name), justify="left" if of_group else "right", min_width=width)
    for row in rows:
        table.add_row(*map(escape, row))
    table.add_row(*last, style="bold")
    yield table


def _cells(line: Line) -> list[str]:
    counts = [str(count) for count in (line.tasks, line.sends, line.charges, line.pictures)]
    held = line.reserved + line.unknown
    money = ["unknown"] * 2 if line.unpriced else [f"${dollars(line.settled)}", f"${dollars(held)}"]
    return [*counts, *money, str(line.image_tokens)]


def _without(found: Receipt) -> Iterator[str]:
    groups = by_prompt(found.tally.without)
    if groups:
        yield from ("", f"{len(found.tally.without)} tasks without a picture: {_ends(found)}")
    for task, line in groups[:MOST_LINES]:
        said = f": {shortened(task.error)}" if task.error else ""
        which = f" ({_axes(task)})" if line.tasks == 1 else f", {line.tasks} tasks"
        yield f"  {task.prompt_id}{which}: {task.state.value}, {task.reason}, {_spent(line)}{said}"
    yield from _more(len(groups))


def _ends(found: Receipt) -> str:
    """How they ended, the most frequent first."""
    counts = Counter((task.state.value, task.reason) for task in found.tally.without)
    return ", ".join(f"{count} {state} ({reason})" for (state, reason), count in counts.most_common())


def _spent(line: Line) -> str:
    if line.unpriced:
        return "unknown"
    return f"${dollars(line.settled)}" + (f" and ${dollars(line.unknown)} held" if line.unknown else "")


def _amiss(found: Receipt) -> Iterator[str]:
    """With what a support ticket asks for."""
    if found.tally.amiss:
        yield from ("", f"{len(found.tally.amiss)} charges for what was not ordered")
    for task, one in found.tally.amiss[:MOST_LINES]:
        said = f" ({shortened(one.error)})" if one.error else ""
        if one.overrun and one.reserved_nanos is not None:
            said += f" against ${dollars(one.reserved_nanos)} reserved"
        yield f"  {', '.join(amiss(one))}: {_what(task, one)}{said}"
        served = one.model_version or one.model
        yield f"    response {one.response_id or 'without an id'} of {served}, sent {instant(one.sent_at)}"
    yield from _more(len(found.tally.amiss))


def _extremes(found: Receipt) -> Iterator[str]:
    for title, heap in (("dearest", found.tally.dearest), ("slowest", found.tally.slowest)):
        if heap:
            yield from ("", title)
        for task, one in islice(pairs(heap), MOST_EXTREME):
            took = "" if one.latency_s is None else f", {one.latency_s:.1f} s"
            yield f"  {_what(task, one)}{took}, {one.outcome}"


def _what(task: BookedTask, one: BookedAttempt) -> str:
    cost = (
        f"${dollars(one.cost_nanos)}"
        if one.cost_nanos is not None
        else "cost unknown"
        if one.state is AttemptState.SETTLED
        else one.state.value
    )
    return f"{cost} {task.prompt_id} ({_axes(task)}), number {one.number}"


def _axes(task: BookedTask) -> str:
    return ", ".join((task.size, task.aspect, *task.axes.values(), f"variant {task.variant}"))


def _prices(found: Receipt) -> Iterator[str]:
    if found.audit.proven:
        yield from ("", "prices, dollars a million tokens")
    for one, count in found.audit.proven.items():
        row = price_object(one, count)
        named = ", ".join(f"{name} {row[name] or 'unknown'}" for name in ("input", "text", "image"))
        yield f"  {one.model}, {one.lane}: {named}; {one.source}"


def _verdict(found: Receipt) -> Iterator[str]:
    audit = found.audit
    yield ""
    if audit.unproven:
        yield (
            f"the prices of {len(audit.unproven)} attempts were not recorded, and neither manifest nor catalog "
            f"has them now: they are added up, not recomputed (first: {audit.unproven[0]})"
        )
    if found.adds_up:
        accounts = len(found.books.accounts)
        counters = "the job" + (f" and {accounts} account{'s' * (accounts > 1)}" if accounts else "")
        yield (
            f"adds up: {audit.proven.total()} costs recomputed from their tokens; every counter of {counters} and "
            f"of {found.tally.whole.tasks} tasks from {audit.attempts} attempts"
        )
        return
    yield f"DOES NOT ADD UP: {len(audit.problems)} rows are not what the others say; was the ledger altered?"
    yield from (f"  {problem}" for problem in audit.problems[:MOST_LINES])
    yield from _more(len(audit.problems))


def _more(count: int) -> Iterator[str]:
    if count > MOST_LINES:
        yield f"  and {count - MOST_LINES} more: --json has them all"
