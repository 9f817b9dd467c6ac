"""One attempt of one task: the file a newcomer reads first.

No ledger, no pacing, no decision. It takes one frozen, picklable assignment and returns one frozen, picklable
outcome without image bytes, so that it can run as a coroutine here or on another machine.
"""

from collections.abc import Callable

import anyio

from runner.core.catalog import Model
from runner.core.lifecycle import Outcome, Pictured
from runner.core.reference import Part
from runner.core.task import Assignment
from runner.engine.ports import ImageStore, Provider
from runner.ledger import Claimed


async def execute(
    task: Assignment, provider: Provider, store: ImageStore, left: Callable[[], None] = lambda: None
) -> Outcome:
    """Send the request and make the picture durable. What the outside world does is never raised.

    `left` is called when the request is being written: quotas are judged then.
    """
    async with store.landing(task) as landing:
        reply = await provider.render(task, landing, left)
        if not isinstance(reply, Pictured):
            return reply
        with anyio.CancelScope(shield=True):  # it is paid for: no cancellation may leave it half kept
            outcome: Outcome = await landing.keep(reply.answer)
        return outcome


def assignment(job: str, attempt: Claimed, model: Model | None, references: tuple[Part, ...] = ()) -> Assignment:
    """The final request of an attempt; `model` is the catalog's entry, None for an id it does not know."""
    return Assignment(
        token=attempt.token,
        job=job,
        key=attempt.key,
        prompt=attempt.prompt,
        recipe=attempt.recipe,
        size=attempt.size,
        send_size=model is None or model.size_parameter,
        aspect=attempt.aspect,
        stem=attempt.stem,
        pixels=None if model is None else model.pixels.get((attempt.size, attempt.aspect)),
        image_tokens=None if model is None else model.image_tokens.get(attempt.size),
        references=references,
    )
