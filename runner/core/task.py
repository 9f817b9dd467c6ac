"""What the manifest expands into, and what one attempt is handed. Plain values, picklable."""

from dataclasses import dataclass
from typing import TypeAlias

from runner.core.reference import Part, Reference

Cell: TypeAlias = tuple[str, str, str]
"""Model, size and aspect: what the price and the bytes of a picture hang on."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Model and generation settings of a request, defaults resolved; shared by many tasks."""

    model: str
    modalities: tuple[str, ...] = ("IMAGE",)
    """`IMAGE` first, then `TEXT` if asked for."""
    thinking: str | None = None
    """Level in lower case; None where the model takes none or it is not known."""
    system: str | None = None
    safety: tuple[tuple[str, str], ...] = ()
    """(category without `HARM_CATEGORY_`, threshold), sorted."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One image to buy, as expanded from a manifest."""

    key: str
    prompt_id: str
    prompt: str
    """The text as it is sent, templates filled in."""
    recipe: Recipe
    size: str
    aspect: str
    axes: tuple[tuple[str, str], ...]
    """Every axis but size and aspect: (name, value) in the manifest's order."""
    variant: int
    stem: str
    """Where its picture goes: path below the output root, `/` between segments, without `.{ext}`."""
    position: int
    """Place in the order of buying, from 0."""
    references: tuple[Reference, ...] = ()
    """Pictures that go with the prompt, in their order."""
    occurrence: int = 1
    """Which one it is among the equal requests of the job."""
    before: tuple[Recipe, ...] = ()
    """What its recipe was with the models that the manifest keeps: a picture bought so counts as this one."""
    draft: str | None = None
    """Key of the task, of the job that the manifest names in `drafts`, which this one was chosen for."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt, ready to be sent: final request, target path, attempt token. Picklable."""

    token: str
    """Names the attempt in ledger and sidecar; 32 hex digits."""
    job: str
    key: str
    prompt: str
    recipe: Recipe
    size: str
    send_size: bool
    """False where the model has no size parameter."""
    aspect: str
    stem: str
    pixels: tuple[int, int] | None
    """Width and height the catalog expects; None for an unknown model."""
    image_tokens: int | None
    """Catalog tokens of one picture; None if unknown."""
    references: tuple[Part, ...] = ()
    """What is sent after the text."""
