"""What one check of `doctor` has found."""

from dataclasses import dataclass
from typing import Literal

MANIFEST, KEY, ENDPOINT, MODEL = "manifest", "key", "endpoint", "model"
CLOCK, OUTPUT, DATABASE, NOTIFY = "clock", "output", "database", "notify"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: fine, fine but worth knowing, or wrong, and then with what to do about it."""

    check: str
    says: str
    remedy: str = ""
    exit_code: int = 0
    """That a run would end with; 0: it would not be stopped by this."""

    @property
    def state(self) -> Literal["ok", "note", "wrong"]:
        """`note` is what a person should know and a run can live with."""
        if self.exit_code:
            return "wrong"
        return "note" if self.remedy else "ok"
