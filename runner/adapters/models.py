"""Asks about a model without buying anything: `GET models/{model}` (gemini-api.md §2). One request, one answer.

The provider's clock comes with every answer. Nothing here repeats or decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import anyio

from runner.adapters.rejection import Asked, read_rejection
from runner.adapters.seal import sealed, spellings
from runner.adapters.session import Secret, Session, common_headers
from runner.adapters.transport import JOURNEY, JOURNEY_ERRORS, Journey, broken
from runner.adapters.wire import excerpt, listing, load, mapping, words
from runner.core.catalog import Catalog, bare
from runner.core.lifecycle import Lost, Reply, Stopped, Unreached

ANSWERS_WITHIN_S = 15.0
_LARGEST_BODY = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Described:
    """The service has the model."""

    name: str
    """As it calls it, without `models/`."""
    renders: bool
    """Whether it takes generateContent, as far as the answer says."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of asking."""

    answer: Described | Reply
    """A reply where a run would have met the same."""
    seconds: float
    """From the request to the end of the answer."""
    date_utc: float | None = None
    """The provider's clock (header `Date`); None where it does not say."""


class ModelsClient(Session):
    """Asks one endpoint about models."""

    def __init__(
        self,
        *,
        base_url: str,
        key: Secret,
        catalog: Catalog,
        version: str = "v1beta",
        uds: str | None = None,
        keyed: bool = True,
    ) -> None:
        """Raises UsageError where the base URL, the key or a proxy of the environment cannot be used.

        Not `keyed`: it asks without the key, which shows at least who answers.
        """
        super().__init__(
            base_url=base_url,
            key=key,
            api=version,
            connections=1,
            uds=uds,
            headers=common_headers(),
            keyed=keyed,
        )
        self._catalog = catalog

    async def look(self, model: str, *, where: str = "") -> Looked:
        """Whether the service has a model. `where` names the place in the manifest, for a model that is gone."""
        asked = Asked(model, where, self._catalog)
        return await self._get(f"models/{quote(bare(model), safe='/@:')}", asked)

    async def lists(self) -> bool:
        """Whether anything of the Gemini API answers here: some routers list models and describe none (§11)."""
        looked = await self._get("models?pageSize=1", Asked("", "", self._catalog))
        match looked.answer:
            case Described():
                return True
            case Stopped(reason="endpoint") | Lost() | Unreached():
                return False
        return True

    async def _get(self, path: str, asked: Asked) -> Looked:
        started = anyio.current_time()
        scope = anyio.CancelScope(deadline=started + ANSWERS_WITHIN_S)
        journey = Journey(scope, ANSWERS_WITHIN_S)
        looked: Looked | None = None
        token = JOURNEY.set(journey)
        try:
            with scope:
                response = await self._http.get(f"{self._prefix}/{path}")
                answer = _read(response.status_code, response.headers, response.content[:_LARGEST_BODY], asked)
                looked = Looked(answer, anyio.current_time() - started, _date(response.headers))
        except JOURNEY_ERRORS as error:
            looked = Looked(broken(error, journey), anyio.current_time() - started)
        finally:
            JOURNEY.reset(token)
        if looked is None:
            looked = Looked(journey.timed_out(ANSWERS_WITHIN_S), ANSWERS_WITHIN_S)
        secrets = spellings(self._key.get_secret_value())
        return Looked(sealed(looked.answer, secrets), looked.seconds, looked.date_utc)


def _read(status: int, headers: Mapping[str, str], body: bytes, asked: Asked) -> Described | Reply:
    if not 200 <= status < 300:
        return read_rejection(status, headers, body, asked)
    try:
        data = mapping(load(body))
    except ValueError:
        data = {}
    if listed := listing(data.get("models")) or listing(data.get("data")):
        return Described(f"{len(listed)} models", renders=True)
    name = bare(words(data.get("name")) or words(data.get("id")))
    if not name:
        return Lost("not_an_answer", f"no model is described: {excerpt(body) or 'an empty answer'}")
    methods = [words(one) for one in listing(data.get("supportedGenerationMethods"))]
    return Described(name, not methods or "generateContent" in methods)


def _date(headers: Mapping[str, str]) -> float | None:
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
