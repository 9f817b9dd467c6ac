"""What can go wrong with files at the service: errors, setbacks that may pass, and how long they are waited out.

UploadError
├── NoFilesApiError        the endpoint has no Files API
├── PassingError           the service is in trouble; later it may work
├── GoneError              the service says that it does not have the file
├── ChangedError           the file on this machine is another one by now
└── MissingFileError       the file on this machine cannot be read
"""

from dataclasses import dataclass
from typing import Literal

from runner.engine.ports import Clock

TRIES = 6
"""In a row without a byte of progress; with the waits in between about a minute."""

_LONGEST_WAIT_S = 600.0
"""A service that asks for more is not waited for: it is a limit of the day."""
_CEILING_S = 32.0

Then = Literal["start", "query", "again"]
"""What follows a setback: begin an upload anew, ask how it stands, or repeat the request."""


class UploadError(Exception):
    """The file could not be uploaded or downloaded, and trying again at once would not help.

    The message holds no secret.
    """


class NoFilesApiError(UploadError):
    """The endpoint has no Files API, as many routers (gemini-api.md §11)."""


class PassingError(UploadError):
    """The service is in trouble or wants to be left alone for long; later it may work."""


class GoneError(UploadError):
    """The service says that it does not have the file, or not for this key."""


class SpoiltError(UploadError):
    """It arrived whole, and the service lost it or made nothing of it."""


class ChangedError(UploadError):
    """The file is not the one that was inspected; nothing of it is kept at the service."""


class MissingFileError(UploadError):
    """There is no such file on this machine, or it cannot be read."""


class SetbackError(Exception):
    """It may pass: what to do next, and how long the service wants to be left alone. Its words hold no secret."""

    def __init__(self, said: str, then: Then, delay_s: float | None = None) -> None:
        super().__init__(said)
        self.then, self.delay_s = then, delay_s


class MimeRefusedError(Exception):
    """The service does not take the file under this MIME type."""


@dataclass(slots=True)
class Patience:
    """Counts tries since the last progress and waits between them."""

    clock: Clock
    furthest: int = -1
    failures: int = 0

    def reached(self, offset: int) -> None:
        """So many bytes are there: only more than ever before is progress."""
        if offset > self.furthest:
            self.furthest, self.failures = offset, 0

    async def wait(self, setback: SetbackError) -> None:
        """Raises PassingError once there were too many, or the service asks for too long a wait."""
        self.failures += 1
        delay_s = setback.delay_s or 0.0
        if self.failures >= TRIES:
            raise PassingError(f"given up after {self.failures} tries without progress: {setback}")
        if delay_s > _LONGEST_WAIT_S:
            raise PassingError(f"the service asks to wait {delay_s:.0f} s: {setback}")
        backoff_s = min(_CEILING_S, 2.0**self.failures)
        # as the SDK, but spread: never less than half, so that a service in trouble gets its rest
        await self.clock.sleep(max(delay_s, backoff_s * (0.5 + self.clock.jitter() / 2)))
