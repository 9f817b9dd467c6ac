"""A task's key: what shapes its picture, and nothing else (design §3).

Ids, axis names, lane, base URL, limits and prices are not in it, so changing them buys nothing. The golden
keys of the tests are frozen: a change of this module that changes one of them buys every picture again.
"""

import hashlib
import json
from collections.abc import Sequence

from runner.core.task import Recipe

PREFIX = "k1-"
"""Version of the canonical request below."""


def canonical(
    recipe: Recipe,
    prompt: str,
    size: str,
    aspect: str,
    *,
    variant: int,
    occurrence: int,
    references: Sequence[str] = (),
) -> str:
    """The request as sorted, compact JSON; what is absent is left out. `references`: what identifies each."""
    fields = {
        "aspect": aspect,
        "modalities": recipe.modalities,
        "model": recipe.model,
        "occurrence": occurrence,
        "prompt": prompt,
        "references": list(references) or None,
        "safety": dict(recipe.safety) or None,
        "size": size,
        "system": recipe.system,
        "thinking": recipe.thinking,
        "variant": variant,
    }
    present = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(present, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def key(
    recipe: Recipe,
    prompt: str,
    size: str,
    aspect: str,
    *,
    variant: int,
    occurrence: int,
    references: Sequence[str] = (),
) -> str:
    """The key of a task; `occurrence` counts from 1 among equal requests of one variant in the job."""
    request = canonical(
        recipe, prompt, size, aspect, variant=variant, occurrence=occurrence, references=references
    )
    return PREFIX + hashlib.sha256(request.encode()).hexdigest()[:32]
