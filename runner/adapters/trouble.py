"""What an error body says, whoever wrote it: the API, a router, a front end (gemini-api.md §7.1, §11)."""

import re
from dataclasses import dataclass
from typing import Any

from runner.adapters.wire import excerpt, listing, load, mapping, words

_NO_CREDIT_CODES = frozenset({"insufficient_quota", "insufficient_credits", "billing_hard_limit_reached"})
_NO_CREDIT = re.compile(
    r"prepay"
    r"|credits?\b.{0,40}\b(?:deplet|exhaust|used up|run out|ran out)"
    r"|(?:insufficient|not enough|out of)[ _](?:credit|balance|funds)"
    r"|billing[ _]hard[ _]limit\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error, with empty texts where it does not say."""

    said: str
    """Its message; the readable text of a body that is no error object."""
    status: str = ""
    """`INVALID_ARGUMENT` and the like."""
    code: str = ""
    """The word by which OpenAI-like routers name an error."""
    details: tuple[dict[str, Any], ...] = ()
    enveloped: bool = False
    """Whether it came as an error object at all, so from an API and not from a web server."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """ErrorInfo reasons, such as `API_KEY_INVALID`."""
        return tuple(filter(None, (words(d.get("reason")) for d in self.details)))

    @property
    def no_credit(self) -> bool:
        """Whether it says that there is no money left, which only paying lifts: no cap of a month.

        The words of an INVALID_ARGUMENT may quote a prompt.
        """
        if self.code in _NO_CREDIT_CODES:
            return True
        return self.status != "INVALID_ARGUMENT" and bool(_NO_CREDIT.search(self.said))


def read_trouble(body: bytes | bytearray) -> Trouble:
    """Object, list of one, bare string, HTML, OpenAI's form, nothing: never raises."""
    try:
        data = load(body)
    except ValueError:
        return Trouble(excerpt(body))
    if isinstance(data, list):
        data = next((entry for entry in data if isinstance(entry, dict)), data[0] if data else "")
    if not isinstance(data, dict):
        return Trouble(words(data))
    return _from_object(data)


def _from_object(data: dict[str, Any]) -> Trouble:
    error = data.get("error")
    if not isinstance(error, dict):
        return Trouble(_message(data, error))
    return Trouble(
        said=_message(error, None),
        status=words(error.get("status")),
        code=words(error.get("code")),
        details=tuple(mapping(d) for d in listing(error.get("details"))),
        enveloped=True,
    )


def _message(holder: dict[str, Any], error: object) -> str:
    found = (words(value) for value in (error, *(holder.get(name) for name in ("message", "detail", "title"))))
    return next(filter(None, found), "")
