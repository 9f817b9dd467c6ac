"""The text of a first manifest, with a word for whoever reads it beside each line. No I/O."""

from collections.abc import Iterator
from dataclasses import dataclass

from runner.app.finals import scalar
from runner.app.prompt_table import MEANT_OTHERWISE, PromptTable
from runner.core.budget import NANOS, dollars
from runner.core.catalog import Model
from runner.core.paths import default_output

WIDTH = 36
"""Where the words begin."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of prompts."""

    name: str
    """Relative to the manifest."""
    table: PromptTable


@dataclass(frozen=True, slots=True)
class First:
    """What a first manifest is made of."""

    job: str
    manifest: str
    model: str
    entry: Model | None
    """Of the catalog."""
    source: Source | None = None
    references: tuple[str, ...] = ()
    """Relative to the manifest."""
    folder: str = ""
    """That they lie in."""
    schema: str | None = None
    """Name of the JSON Schema beside it, for editors."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What its tasks cost; None where no price is known."""

    tasks: int
    likely_nanos: int | None
    worst_nanos: int | None
    cap_nanos: int | None


def manifest_text(first: First, cost: Cost | None) -> str:
    """The manifest, in YAML; without `cost` it has no cap yet."""
    return "".join(f"{line.rstrip()}\n" for line in _lines(first, cost))


def _lines(first: First, cost: Cost | None) -> Iterator[str]:
    if first.schema:
        yield f"# yaml-language-server: $schema={first.schema}"
    yield from _head(first, cost)
    yield _beside(f"job: {scalar(first.job)}", "names it in the ledger and in paths")
    yield _beside(f"model: {scalar(first.model)}", "`bulkrender models` lists them, with sizes and prices")
    yield ""
    yield from _prompts(first)
    yield ""
    yield from _matrix(first)
    yield ""
    yield _beside("# variants: 2", "pictures of every cell; 1 if left out")
    yield from _output(first)
    yield from _budget(cost)
    yield _beside("# limits: {tier: 1}", "your usage tier: paces the run below Google's spend limits")
    yield from _notify()


def _head(first: First, cost: Cost | None) -> Iterator[str]:
    if cost is not None:
        likely = "at a price nobody knows" if cost.likely_nanos is None else f"likely ${_cents(cost.likely_nanos)}"
        yield f"# {cost.tasks} picture{'s' * (cost.tasks != 1)}, {likely}. What it expands into, and costs now:"
        yield f"#   bulkrender plan {first.manifest}"
        yield "# Change it and run it again: only the difference is bought. `bulkrender schema` has every field."


def _prompts(first: First) -> Iterator[str]:
    if first.source is not None:
        yield from _from_file(first.source, first.references)
        return
    yield _beside("prompts:", "every one of them times every cell of the matrix")
    if first.references:
        yield _beside("  - id: scene", "names it in paths; from the text if left out")
        yield "    text: The subject of this picture, {style}"
        return
    yield _beside("  - id: lighthouse", "names it in paths; from the text if left out")
    yield "    text: A lighthouse at dusk, {style}"
    yield "  - id: fox"
    yield "    text: A fox asleep in autumn leaves, {style}"


def _from_file(source: Source, references: tuple[str, ...]) -> Iterator[str]:
    table = source.table
    yield _beside("prompts:", "every row of the file times every cell of the matrix")
    yield _beside(
        f"  - from: {_path(source.name)}",
        f"{table.rows} row{'s' * (table.rows != 1)}; each keeps its picture when they are sorted",
    )
    if table.text is not None:
        yield _beside(f"    text: {_quoted(table.text)}", "{…} is a column, or an axis of the matrix")
    elif not table.literal:
        yield _beside("    # text: '{prompt}, by night'", "words round the prompt of every row")
    yield from _columns(table)
    if table.literal:
        yield _beside("    template: false", "the prompts hold braces: they are taken as they are")
    if table.has_references and references:
        yield "    # the column references goes along as well, before the axis reference below"
    yield _beside("    # limit: 3", "a look at the first rows, before you buy all")


def _columns(table: PromptTable) -> Iterator[str]:
    """What the columns are that are no prompt."""
    if table.ids:
        yield "    # column id: names the pictures of its row, as {prompt} in output; it may not occur twice"
    elif table.columns:
        yield "    # a column named id would name the pictures: one that no prompt needs and no value repeats in"
    words = [name for name in table.columns if name.lower() not in MEANT_OTHERWISE]
    if words and not table.literal:
        yield f"    # columns to use in a prompt: {' '.join(f'{{{name}}}' for name in words)}"
    for name in table.columns:
        if name in {"size", "aspect"}:
            yield f"    # column {name}: that of the row, where it is not blank"
        if name == "model":
            yield "    # column model: not used, until model moves from above into the matrix"


def _matrix(first: First) -> Iterator[str]:
    yield "matrix:"
    sizes = ("1K",) if first.entry is None else first.entry.sizes
    others = f"of {', '.join(sizes)}; several as [{', '.join(sizes[:2])}]" if len(sizes) > 1 else ""
    yield _beside(f"  size: {sizes[0]}", others)
    yield _beside("  aspect: 1:1", "several as [1:1, 16:9]")
    if first.source is None:
        yield _beside("  style: [in flat vector art, as a watercolour]", "an axis of your own: {style} above")
    if first.references:
        yield _beside("  reference:", f"pictures of {first.folder}: each goes with every prompt in turn")
        yield from (f"    - {_path(name)}" for name in first.references)


def _budget(cost: Cost | None) -> Iterator[str]:
    if cost is None:
        return
    if cost.cap_nanos is None:
        yield _beside("# budget: {usd: 5.00}", "the catalog has no prices of this model: a cap needs them")
        yield _beside("# prices: {input: 0.50, text: 3.00, image: 60}", "dollars a million tokens")
        return
    yield _beside(
        f"budget: {{usd: {_cents(cost.cap_nanos)}}}",
        "a hard cap; at worst, one try each, it takes " + _worst(cost),
    )


def _output(first: First) -> Iterator[str]:
    """Where pictures go, as they do without it."""
    own = ("style",) if first.source is None else ()
    axes = (*own, *(("reference",) if first.references else ()))
    yield f"# output: {scalar(default_output(axes))}"
    yield "#   where each picture goes; {prompt} is the id of its prompt, below the folder of --output"


def _worst(cost: Cost) -> str:
    return f"${_cents(cost.worst_nanos or 0)}"


def _notify() -> Iterator[str]:
    yield _beside("# notify: {command: [notify-send, bulkrender]}", "told when it is done, failing or halted")


def cap_for(worst_nanos: int) -> int:
    """A round cap, in nano-dollars, with a tenth to spare for what is tried twice."""
    wanted = worst_nanos * 11 // 10
    step = next((step for top, step in ((1, 10), (20, 100), (200, 1_000)) if wanted <= top * NANOS), 10_000)
    step_nanos = step * NANOS // 100
    return max(step_nanos, -(-wanted // step_nanos) * step_nanos)


def _cents(nanos: int) -> str:
    """Dollars, up to the next cent."""
    return dollars(-(-nanos // (NANOS // 100)) * (NANOS // 100))


def _path(name: str) -> str:
    """A path in YAML; one that leads up needs no quotes either."""
    up, rest = ("../", name[3:]) if name.startswith("../") else ("", name)
    return f"{up}{rest}" if scalar(rest) == rest else scalar(name)


def _quoted(text: str) -> str:
    """A template in YAML, quoted where it begins with a brace or holds what YAML would take for its own."""
    plain = text[0] not in "{[\"'&*!|>%@`#-?:" and ": " not in text and " #" not in text and text == text.strip()
    return text if plain else scalar(text)


def _beside(line: str, words: str) -> str:
    return (
        f"{line:<{WIDTH}} # {words}" if words and len(line) <= WIDTH else f"{line}  # {words}" if words else line
    )
