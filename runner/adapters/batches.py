"""The client of the Batch API: creates, looks up, lists, cancels and deletes remote jobs (gemini-api.md §8).

Creating is not idempotent (§8.9), so its answer is one of four: the job, certainly none for good, certainly none
for now, or perhaps one. Every answer carries the provider's clock. Nothing here waits, repeats or decides.
"""

import json
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import anyio
import httpx

from runner.adapters.gemini import body_of
from runner.adapters.quota import read_delay_s
from runner.adapters.rejection import Asked, read_rejection
from runner.adapters.request import address, batches_address
from runner.adapters.seal import sealed, spellings
from runner.adapters.session import CONNECT_S, Secret, Session, headers_of
from runner.adapters.transport import JOURNEY, JOURNEY_ERRORS, Journey, broken
from runner.adapters.trouble import read_trouble
from runner.adapters.wire import count, excerpt, listing, load, mapping, words
from runner.core.catalog import Catalog, bare
from runner.core.lifecycle import Faulted, FileGone, Invalid, Lost, Parked, Reply, Stopped, Throttled, Unreached
from runner.core.remote import (
    ACTIVE,
    TERMINAL,
    Absent,
    Accepted,
    Creation,
    Declined,
    Failure,
    Found,
    NotNow,
    Remote,
    Stats,
    Unsure,
)

FIELDS = (
    "name,done,error,response.responsesFile,metadata.name,metadata.model,metadata.displayName,metadata.state,"
    "metadata.createTime,metadata.updateTime,metadata.endTime,metadata.batchStats,metadata.output.responsesFile"
)
"""Of a job that is asked for: without the results, which an inline job carries twice (gemini-api.md §2, §8.8)."""
PAGE_SIZE = 100
MOST_PAGES = 1_000
LONGEST_DISPLAY_NAME = 200
"""Characters, of those that are created and looked for: longer ones are cut where they are shown."""
MOST_STALE_PAGES = 20
"""In a row without a job not seen before."""

_PREFIX = re.compile(r"^(?:[A-Z]+_)*STATE_", re.IGNORECASE)
_NAME = re.compile(r"batches/[\w.~-]+", re.ASCII)
_LARGEST_BODY = 16 * 1024 * 1024
_GAP_S = 60.0

T = TypeVar("T")


class IncompleteListError(Exception):
    """The list of jobs could not be read to its end; `answer` says why. What is absent from it may exist."""

    def __init__(self, answer: Declined | NotNow) -> None:
        super().__init__(str(answer.reply))
        self.answer = answer


@dataclass(frozen=True, slots=True)
class _Received:
    """A response with its whole body."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def at_utc(self) -> float | None:
        try:
            return parsedate_to_datetime(self.headers.get("date", "")).timestamp()
        except (ValueError, TypeError, OverflowError):
            return None

    @property
    def data(self) -> dict[str, Any]:
        try:
            return mapping(load(self.body))
        except ValueError:
            return {}

    @property
    def is_object(self) -> bool:
        body = self.body.strip()
        return body.startswith(b"{") and body.endswith(b"}")


@dataclass(frozen=True, slots=True)
class _Page:
    """A part of the list."""

    remotes: tuple[Remote, ...]
    token: str
    """Of the page that follows; empty on the last."""
    seen_utc: float | None


class BatchesClient(Session):
    """Jobs at the service, with the key handling of `GeminiProvider`. What the outside world does is never raised.

    `request_timeout_s` runs to the first byte of an answer.
    """

    def __init__(
        self,
        *,
        base_url: str,
        key: Secret,
        catalog: Catalog,
        version: str = "v1beta",
        connections: int = 4,
        uds: str | None = None,
        request_timeout_s: float = 300.0,
        model_line: str = "",
    ) -> None:
        """Raises UsageError where the base URL, the key or a proxy of the environment cannot be used."""
        super().__init__(
            base_url=base_url,
            key=key,
            api=version,
            connections=connections,
            uds=uds,
            headers=headers_of(request_timeout_s),
        )
        self._catalog, self._model_line = catalog, model_line
        self._answer_within_s = request_timeout_s

    async def create(self, model: str, display_name: str, file_name: str) -> Creation:
        """Make a job of an uploaded file (`files/…`). Never send it again after `Unsure`: look for it first.

        Raises ValueError for a display name that is too long to be found again.
        """
        if len(display_name) > LONGEST_DISPLAY_NAME:
            raise ValueError(f"a display name of {len(display_name)} characters")
        said = {"batch": {"displayName": display_name, "inputConfig": {"fileName": file_name}}}
        url = address(self._prefix, model, "batchGenerateContent")
        received = await self._exchange("POST", url, json.dumps(said).encode("ascii"))
        return self._sealed(_creation(received, self._asked(model)))

    async def get(self, name: str) -> Remote | Absent | Declined | NotNow:
        """A job by its name (`batches/…`), without its results."""
        if not _NAME.fullmatch(name):
            return _no_name(name)
        url = batches_address(self._prefix, name)
        received = await self._exchange("GET", f"{url}?fields={FIELDS}")
        if isinstance(received, _Received) and received.status == 400:  # a router that does not know the parameter
            received = await self._exchange("GET", url)
        if isinstance(received, _Received) and received.status < 300:
            remote = _remote(received.data, received.at_utc)
            return self._sealed(remote or _not_told(received))
        return self._sealed(_failed(received, self._asked("")))

    async def list(self) -> AsyncGenerator[Remote]:
        """Every job that the service lists, each once. Raises IncompleteListError where not all could be read."""
        async for page in self._pages():
            for remote in page.remotes:
                yield remote

    async def find(self, display_name: str) -> Found | Declined | NotNow:
        """The jobs of that display name. `Found` without any means that there was none when it was asked."""
        pages = []
        try:
            async for page in self._pages():
                pages.append(page)  # noqa: PERF401 - what comes before an error is not needed
        except IncompleteListError as error:
            return error.answer
        remotes = [remote for page in pages for remote in page.remotes]
        named = tuple(remote for remote in remotes if remote.display_name == display_name)
        return Found(named, pages[0].seen_utc, len(remotes))

    async def cancel(self, name: str) -> Accepted | Absent | Declined | NotNow:
        """Ask for a job to be stopped. `Declined` with Invalid: it is over already, or never was (§8.11)."""
        return await self._tell("POST", name, ":cancel")

    async def delete(self, name: str) -> Accepted | Absent | Declined | NotNow:
        """Remove the record of a job that is over; it does not stop one."""
        return await self._tell("DELETE", name, "")

    # --- one request ---

    async def _tell(self, method: str, name: str, verb: str) -> Accepted | Absent | Declined | NotNow:
        if not _NAME.fullmatch(name):
            return _no_name(name)
        received = await self._exchange(method, batches_address(self._prefix, name + verb))
        if isinstance(received, _Received) and received.status < 300:
            return Accepted(received.at_utc)
        return self._sealed(_failed(received, self._asked("")))

    async def _pages(self) -> AsyncGenerator[_Page]:
        """To the last, with each job once; a list without an end is given up."""
        token, tokens, names, stale = "", {""}, set[str](), 0
        for _ in range(MOST_PAGES):
            page = await self._page(token)
            fresh = tuple(remote for remote in page.remotes if remote.name not in names)
            names.update(remote.name for remote in fresh)
            yield replace(page, remotes=fresh)
            token, stale = page.token, 0 if fresh else stale + 1
            if not token:
                return
            if token in tokens or stale >= MOST_STALE_PAGES:
                break
            tokens.add(token)
        raise IncompleteListError(NotNow(Lost("not_an_answer", "the list of batch jobs does not come to an end")))

    async def _page(self, token: str) -> _Page:
        query = httpx.QueryParams({"pageSize": PAGE_SIZE, **({"pageToken": token} if token else {})})
        received = await self._exchange("GET", f"{batches_address(self._prefix)}?{query}")
        if not isinstance(received, _Received) or received.status >= 300:
            failed = _failed(received, self._asked(""))
            if isinstance(failed, Absent):  # a list is never absent: no Batch API is served here (§11)
                said = f"no Batch API answers at this base URL: {failed.message}"
                failed = Declined(Stopped(404, "endpoint", said), failed.seen_utc)
            raise IncompleteListError(self._sealed(failed))
        page = _page(received)
        if page is None:
            raise IncompleteListError(self._sealed(_not_told(received)))
        return replace(page, remotes=tuple(map(self._sealed, page.remotes)))

    async def _exchange(self, method: str, url: str, body: bytes = b"") -> _Received | Unreached | Lost:
        scope = anyio.CancelScope(deadline=anyio.current_time() + 2 * CONNECT_S + self._answer_within_s)
        journey = Journey(scope, self._answer_within_s)
        received: _Received | None = None
        token = JOURNEY.set(journey)
        try:
            with scope:
                async with self._http.stream(method, url, **body_of(body)) as response:
                    journey.answered = True
                    received = _Received(response.status_code, response.headers, await _body(response, journey))
        except JOURNEY_ERRORS as error:
            return broken(error, journey)
        finally:
            JOURNEY.reset(token)
        return received or journey.timed_out(_GAP_S)

    def _asked(self, model: str) -> Asked:
        return Asked(model, self._model_line, self._catalog)

    def _sealed(self, value: T) -> T:
        return sealed(value, spellings(self._key.get_secret_value()))


async def _body(response: httpx.Response, journey: Journey) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        journey.progress(len(piece), _GAP_S)
        if len(body) > _LARGEST_BODY:
            break
    return bytes(body)


# --- what an answer means ---


def _creation(received: _Received | Unreached | Lost, asked: Asked) -> Creation:
    """What is certain after a create, and what is not."""
    if isinstance(received, Unreached):
        return NotNow(received)
    if isinstance(received, Lost):
        return Unsure(received)
    at = received.at_utc
    if received.status < 300:
        told = Lost("not_an_answer", f"the answer names no job: {excerpt(received.body) or 'empty'}")
        return _remote(received.data, at) or Unsure(told, at)
    reply = _rejected(received, asked)
    match reply:
        case Stopped() | Invalid() | FileGone():
            return Declined(reply, at)
        case Parked():
            return NotNow(reply, at)
        case Throttled() if reply.status == 429 or _asks_to_wait(received):
            return NotNow(reply, at)
        case Throttled() | Faulted():  # someone on the way may have said it, after the job was made
            return Unsure(reply, at)
        case _:
            return Unsure(Lost("not_an_answer", f"HTTP {received.status}"), at)


def _asks_to_wait(received: _Received) -> bool:
    """Whether the service itself says when to come again: it has not done what was asked."""
    trouble = read_trouble(received.body)
    return trouble.enveloped and read_delay_s(trouble, received.headers) is not None


def _failed(received: _Received | Unreached | Lost, asked: Asked) -> Absent | Declined | NotNow:
    """Of a request that may be repeated."""
    if not isinstance(received, _Received):
        return NotNow(received)
    at, trouble = received.at_utc, read_trouble(received.body)
    if received.status == 404 and trouble.enveloped:
        return Absent(trouble.said, at)
    if received.status == 400 and trouble.status == "FAILED_PRECONDITION":
        return Declined(Invalid(400, trouble.said), at)  # of its state, not of the account (§8.11)
    reply = _rejected(received, asked)
    match reply:
        case Stopped() | Invalid() | FileGone():
            return Declined(reply, at)
        case Throttled() | Parked() | Faulted():
            return NotNow(reply, at)
        case _:
            return NotNow(Lost("not_an_answer", f"HTTP {received.status}"), at)


def _rejected(received: _Received, asked: Asked) -> Reply:
    return read_rejection(received.status, received.headers, received.body, asked)


def _not_told(received: _Received) -> NotNow:
    said = f"the answer is no batch job: {excerpt(received.body) or 'empty'}"
    return NotNow(Lost("not_an_answer", said), received.at_utc)


def _no_name(name: str) -> Declined:
    return Declined(Invalid(400, f"{name!r} is no name of a batch job"))


def _page(received: _Received) -> _Page | None:
    """A page of jobs, `{}` for none; None for anything else, and for a page with a job that has no name."""
    data, at = received.data, received.at_utc
    operations = [mapping(each) for each in listing(data.get("operations"))]
    empty = not data and received.is_object
    if not (empty or operations or "operations" in data or "nextPageToken" in data):
        return None
    if any(not _name(operation) for operation in operations):
        return None
    remotes = (_remote(operation, at) for operation in operations)
    return _Page(tuple(filter(None, remotes)), words(data.get("nextPageToken")), at)


def _name(operation: Mapping[str, Any]) -> str:
    return words(operation.get("name")) or words(mapping(operation.get("metadata")).get("name"))


def _remote(operation: Mapping[str, Any], at_utc: float | None) -> Remote | None:
    """A job out of its long-running operation (gemini-api.md §8.5); None where it has no name."""
    metadata = mapping(operation.get("metadata"))
    response, output = mapping(operation.get("response")), mapping(metadata.get("output"))
    name = _name(operation)
    if not _NAME.fullmatch(name):
        return None
    return Remote(
        name=name,
        display_name=words(metadata.get("displayName")),
        state=_state(words(metadata.get("state"))),
        created_utc=_time(words(metadata.get("createTime"))),
        updated_utc=_time(words(metadata.get("updateTime"))),
        ended_utc=_time(words(metadata.get("endTime"))),
        stats=_stats(mapping(metadata.get("batchStats"))),
        responses_file=words(response.get("responsesFile")) or words(output.get("responsesFile")) or None,
        error=_failure(mapping(operation.get("error")) or mapping(metadata.get("error"))),
        model=bare(words(metadata.get("model"))),
        done=operation.get("done") in (True, "true"),
        seen_utc=at_utc,
    )


def _state(text: str) -> str:
    """Without `BATCH_STATE_` or `JOB_STATE_`, if that leaves a state that is known."""
    cut = _PREFIX.sub("", text).upper()
    return cut if cut in ACTIVE or cut in TERMINAL else text


def _stats(raw: dict[str, Any]) -> Stats:
    names = ("requestCount", "pendingRequestCount", "successfulRequestCount", "failedRequestCount")
    return Stats(*(count(raw.get(name)) or 0 for name in names))


def _failure(raw: dict[str, Any]) -> Failure | None:
    return Failure(count(raw.get("code")), words(raw.get("message"))) if raw else None


def _time(text: str) -> float | None:
    """RFC 3339 as seconds since 1970, to the microsecond; None for anything else."""
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
