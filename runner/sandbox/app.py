"""The HTTP application: routes, key, and the life of one request from its arrival to its answer."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from aiohttp import web

from runner.core.catalog import Model, builtin
from runner.sandbox.answer import answer
from runner.sandbox.batches import Batches
from runner.sandbox.books import Books
from runner.sandbox.clock import Clock, Instant
from runner.sandbox.delivery import deliver
from runner.sandbox.draw import Drawn, draw
from runner.sandbox.errors import ApiError, invalid, no_key, retired_model, unknown_model, wrong_key
from runner.sandbox.files import Files
from runner.sandbox.options import Options
from runner.sandbox.outage import outage_at
from runner.sandbox.quota import Counted, Quotas
from runner.sandbox.reply import OUTAGES, Reply, error_reply, html
from runner.sandbox.request import loads, understand

PAGE_SIZE = 50
"""Models in one page of the list."""


def create_app(options: Options, *, now: Callable[[], float] = time.time) -> web.Application:
    """The sandbox as an application; `now` gives seconds since 1970. ValueError for options that make no sense."""
    sandbox = Sandbox(options, now)
    app = web.Application(client_max_size=options.request_bytes + 1)
    version = "/{version:v1(?:beta)?}"
    app.router.add_routes([*sandbox.files.routes(version), *sandbox.batches.routes(version)])
    app.router.add_post(version + "/models/{call:[^/]+}", sandbox.call)
    app.router.add_get(version + "/models", sandbox.list_models)
    app.router.add_get(version + "/models/{model:[^/:]+}", sandbox.get_model)
    app.router.add_route("*", "/{rest:.*}", _nothing_here)
    app.on_response_prepare.append(sandbox.date)
    app.on_startup.append(sandbox.batches.start)
    app.on_cleanup.extend((sandbox.batches.close, sandbox.close))
    return app


async def _nothing_here(request: web.Request) -> web.StreamResponse:
    return await deliver(request, html(404, "Error 404 (Not Found)!!1"), 1)


class Sandbox:
    """Quotas, books and options of one sandbox, and its handlers."""

    def __init__(self, options: Options, now: Callable[[], float]) -> None:
        """Pick up what an earlier sandbox left in the state folder."""
        if options.speed <= 0 or options.latency_s < 0:
            raise ValueError("speed must be above zero and latency not below")
        self._options = options
        self._clock = Clock(options.state_dir, options.speed, now)
        self._books = Books(options.state_dir, self._clock)
        self._quotas = Quotas(
            options.quotas,
            counted=self._books.counted,
            spent=(self._clock.started, options.month_spent_nanos),
            count_rejected=options.count_rejected,
            nameless=options.nameless_quotas,
            values=options.quota_values,
        )
        self.files = Files(options, self._clock, self._books, self._authorise)
        self.batches = Batches(options, self._clock, self._books, self.files, self._authorise)
        self._verbs: dict[str, Callable[[web.Request, str], Awaitable[Reply]]] = {
            "generateContent": self._generate,
            "batchGenerateContent": self._create_batch,
        }

    async def close(self, _app: web.Application) -> None:
        """Close the files."""
        self._books.close()

    async def date(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Say what time it is by the clock that all else goes by."""
        response.headers["Date"] = format_datetime(
            datetime.fromtimestamp(self._clock.read().clock, UTC), usegmt=True
        )

    async def call(self, request: web.Request) -> web.StreamResponse:
        """POST `models/{model}:{verb}`."""
        model, _, verb = request.match_info["call"].rpartition(":")
        if verb not in self._verbs:
            return await _nothing_here(request)
        try:
            reply = await self._verbs[verb](request, model)
        except ApiError as error:
            reply = error_reply(error)
        return await deliver(request, reply, self._options.speed)

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        """GET `models`, in pages."""
        return await self._read(request, lambda: _page(request))

    async def get_model(self, request: web.Request) -> web.StreamResponse:
        """GET `models/{model}`."""
        return await self._read(request, lambda: _described(self._find(request, request.match_info["model"])))

    async def _read(self, request: web.Request, read: Callable[[], dict[str, Any]]) -> web.StreamResponse:
        try:
            self._authorise(request)
            return web.json_response(read())
        except ApiError as error:
            return await deliver(request, error_reply(error), 1)

    def _authorise(self, request: web.Request) -> None:
        key = request.headers.get("x-goog-api-key") or request.query.get("key")
        if not key:
            raise no_key()
        if not hmac.compare_digest(key.encode(), self._options.key.encode()):
            raise wrong_key()

    def _find(self, request: web.Request, model: str, method: str = "generateContent") -> Model:
        if model in self._options.retired:
            raise retired_model(model)
        entry = builtin().find(model)
        if entry is None:
            raise unknown_model(model, request.match_info["version"], method)
        return entry

    async def _create_batch(self, request: web.Request, model: str) -> Reply:
        def find() -> Model:
            return self._find(request, model, "batchGenerateContent")

        return await self.batches.create(request, find, lambda: self._read_body(request))

    async def _generate(self, request: web.Request, model: str) -> Reply:
        asked, weight, at = None, None, self._clock.read()
        if kind := outage_at(self._options.outages, at.clock - self._clock.started):
            return await self._down(request, model, kind, at)
        try:
            self._authorise(request)
            body = loads(await self._read_body(request))
            asked = understand(self._find(request, model), body, self.files.used)
            drawn, at = draw(asked, self._books.seen(asked) + 1, self._options), self._clock.read()
            weight = drawn.weight
            self._quotas.admit(Counted(asked.model.id, at.clock, weight))
        except ApiError as error:
            counted = weight.rejected() if weight and self._quotas.count_rejected else None
            self._books.arrived(
                at, model, asked, status=f"http_{error.code}", weight=counted, refused_by=error.refused_by
            )
            raise
        return await self._admitted(drawn, at)

    async def _down(self, request: web.Request, model: str, kind: str, at: Instant) -> Reply:
        """Note a request that comes in an outage. What would be closed unread is not read."""
        asked = None
        with suppress(ApiError):
            if kind != "refuse":
                body = loads(await self._read_body(request))
                asked = understand(self._find(request, model), body, self.files.held)
        self._books.arrived(at, model, asked, status=f"outage_{kind}")
        return OUTAGES[kind]

    async def _admitted(self, drawn: Drawn, at: Instant) -> Reply:
        """Note what becomes of the request, take the time it takes, bill it."""
        sample, chance = drawn.sample, drawn.sample.chance
        arrival = self._books.arrived(
            at, sample.asked.model.id, sample.asked, status=drawn.outcome, seen=chance.seen, weight=drawn.weight
        )
        await asyncio.sleep(self._options.latency_s * (0.5 + chance.unit("latency")) / self._options.speed)
        reply = answer(sample, drawn.fault)
        if drawn.charge:
            self._books.bill(
                sample, drawn.charge, arrival=arrival, outcome=drawn.outcome, answered=reply.answered,
                sha256=reply.sha256,
            )  # fmt: skip
        return reply

    async def _read_body(self, request: web.Request) -> bytes:
        limit = self._options.request_bytes
        with suppress(web.HTTPRequestEntityTooLarge):
            if len(body := await request.read()) <= limit:
                return body
        raise invalid(f"Request payload size exceeds the limit: {limit} bytes.")


def _page(request: web.Request) -> dict[str, Any]:
    try:
        size, start = int(request.query.get("pageSize", PAGE_SIZE)), int(request.query.get("pageToken") or 0)
    except ValueError as error:
        raise invalid("Request contains an invalid argument.") from error
    models = list(builtin().models.values())
    end = start + max(1, size)
    page: dict[str, Any] = {"models": [_described(model) for model in models[start:end]]}
    return {**page, "nextPageToken": str(end)} if end < len(models) else page


def _described(model: Model) -> dict[str, Any]:
    return {
        "name": f"models/{model.id}",
        "version": "001",
        "displayName": model.name,
        "supportedGenerationMethods": ["generateContent", "batchGenerateContent"],
    }
