"""What becomes of a request if it is admitted, decided before it is: the quotas judge what it will take."""

from dataclasses import dataclass

from runner.sandbox.answer import price
from runner.sandbox.chance import Chance
from runner.sandbox.faults import FAULTS, ITEM_FAULTS, TIERS
from runner.sandbox.line import UNCONNECTED, Error, failure
from runner.sandbox.options import Options
from runner.sandbox.quota import Weight, nanos
from runner.sandbox.request import Asked
from runner.sandbox.sample import Charge, Sample


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample, the fault it meets and what it costs."""

    sample: Sample
    fault: str | None
    charge: Charge | None
    """None where nothing is generated."""

    @property
    def outcome(self) -> str:
        """Its fault, or its habit, or `image`."""
        habits = {"overrun": self.sample.overrun, "details_missing": self.sample.details_missing}
        return self.fault or next((name for name, has in habits.items() if has), "image")

    @property
    def weight(self) -> Weight:
        """What it takes of the quotas."""
        asked, charge = self.sample.asked, self.charge
        cost = nanos(asked.model, charge, self.sample.tier)
        return Weight(asked.prompt_tokens, charge.images if charge else 0, cost)


def draw(asked: Asked, seen: int, options: Options) -> Drawn:
    """The sample of a request that is admitted for the `seen`th time: a pure function of all three."""
    chance = Chance(options.seed, asked.hash, seen)
    fault = options.faults.draw(chance)
    sample = _sample(asked, chance, options, TIERS.get(fault or "", "standard"))
    return Drawn(sample, fault, price(sample, fault))


def draw_line(asked: Asked, seen: int, options: Options) -> tuple[Drawn, Error | None]:
    """The same for a line of a batch, and the error that it ends in; what ends in one costs nothing."""
    chance = Chance(options.seed, asked.hash, seen)
    fault = options.faults.draw(chance, (*FAULTS, *ITEM_FAULTS))
    if fault in UNCONNECTED or fault in TIERS:
        fault = None
    sample = _sample(asked, chance, options, "standard")
    error = failure(sample, fault)
    return Drawn(sample, fault, None if error else price(sample, fault)), error


def _sample(asked: Asked, chance: Chance, options: Options, tier: str) -> Sample:
    plan = options.faults
    return Sample(
        asked,
        chance,
        options,
        overrun=plan.habit("overrun", chance),
        details_missing=plan.habit("details_missing", chance),
        tier=tier,
    )
