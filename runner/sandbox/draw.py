"""What becomes of a request if it is admitted, decided before it is: the quotas judge what it will take."""

from dataclasses import dataclass

from runner.sandbox.answer import price
from runner.sandbox.chance import Chance
from runner.sandbox.faults import TIERS
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
    chance, plan = Chance(options.seed, asked.hash, seen), options.faults
    fault = plan.draw(chance)
    sample = Sample(
        asked,
        chance,
        options,
        overrun=plan.habit("overrun", chance),
        details_missing=plan.habit("details_missing", chance),
        tier=TIERS.get(fault or "", "standard"),
    )
    return Drawn(sample, fault, price(sample, fault))
