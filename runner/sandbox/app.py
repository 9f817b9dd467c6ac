"""The HTTP application: routes, key, and the life of one request from its arrival to its answer."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from runner.core.catalog import Model, builtin
from runner.sandbox.answer import answer
from runner.sandbox.books import Books
from runner.sandbox.chance import Chance
from runner.sandbox.delivery import deliver
from runner.sandbox.errors import ApiError, invalid, no_key, retired_model, unknown_model, wrong_key
from runner.sandbox.options import Options
from runner.sandbox.quota import Quotas
from runner.sandbox.reply import Reply, error_reply, html
from runner.sandbox.request import Asked, loads, understand
from runner.sandbox.sample import Sample

MAX_BODY = 100 * 1024 * 1024
"""Bytes of one request (gemini-api.md §4.3)."""
PAGE_SIZE = 50
"""Models in one page of the list."""


def create_app(options: Options, *, now: Callable[[], float] = time.time) -> web.Application:
    """The sandbox as an application; `now` gives seconds since 1970. ValueError for options that make no sense."""
    sandbox = Sandbox(options, now)
    app = web.Application(client_max_size=MAX_BODY)
    version = "/{version:v1(?:beta)?}"
    app.router.add_post(version + "/models/{call:[^/]+}", sandbox.call)
    app.router.add_get(version + "/models", sandbox.list_models)
    app.router.add_get(version + "/models/{model:[^/:]+}", sandbox.get_model)
    app.router.add_route("*", "/{rest:.*}", _nothing_here)
    app.on_cleanup.append(sandbox.close)
    return app


async def _nothing_here(request: web.Request) -> web.StreamResponse:
    return await deliver(request, html(404, "Error 404 (Not Found)!!1"), 1)


class Sandbox:
    """Quotas, files and options of one sandbox, and its handlers."""

    def __init__(self, options: Options, now: Callable[[], float]) -> None:
        """Pick up what an earlier sandbox left in the state folder."""
        if options.speed <= 0 or options.latency_s < 0:
            raise ValueError("speed must be above zero and latency not below")
        self._options, self._now = options, now
        self._books = Books(options.state_dir, now)
        self._quotas = Quotas(
            options.quotas, options.speed, count_rejected=options.count_rejected, admitted=self._books.admitted
        )
        self._verbs: dict[str, Callable[[web.Request, str], Awaitable[Reply]]] = {
            "generateContent": self._generate
        }

    async def close(self, _app: web.Application) -> None:
        """Close the files."""
        self._books.close()

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

    def _find(self, request: web.Request, model: str) -> Model:
        if model in self._options.retired:
            raise retired_model(model)
        entry = builtin().find(model)
        if entry is None:
            raise unknown_model(model, request.match_info["version"], "generateContent")
        return entry

    async def _generate(self, request: web.Request, model: str) -> Reply:
        asked, at = None, self._now()
        try:
            self._authorise(request)
            asked = understand(self._find(request, model), loads(await _read_body(request)))
            at = self._now()
            if rejection := self._quotas.judge(asked.model.id, at):
                raise rejection
        except ApiError as error:
            counted = asked is not None and self._quotas.count_rejected
            self._books.arrived(at, model, asked, status=f"http_{error.code}", counted=counted)
            raise
        return await self._admitted(asked, at)

    async def _admitted(self, asked: Asked, at: float) -> Reply:
        """Draw what becomes of the request, note it, take the time it takes, bill it."""
        chance = Chance(self._options.seed, asked.hash, self._books.see(asked))
        plan = self._options.faults
        fault = plan.draw(chance)
        habits = {name: plan.habit(name, chance) for name in ("overrun", "details_missing")}
        outcome = fault or next((name for name, has in habits.items() if has), "image")
        arrival = self._books.arrived(at, asked.model.id, asked, status=outcome, seen=chance.seen, counted=True)
        await asyncio.sleep(self._options.latency_s * (0.5 + chance.unit("latency")) / self._options.speed)
        sample = Sample(asked, chance, self._options, **habits)
        reply = answer(sample, fault)
        if reply.charge:
            self._books.bill(
                asked, chance, reply.charge, arrival=arrival, outcome=outcome, answered=reply.answered,
                response_id=sample.response_id(), sha256=reply.sha256,
            )  # fmt: skip
        return reply


async def _read_body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise invalid(f"Request payload size exceeds the limit: {MAX_BODY} bytes.") from error


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
        "supportedGenerationMethods": ["generateContent"],
    }
