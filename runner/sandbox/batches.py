"""The Batch API: what is mounted, and what is done with jobs at the request of a caller (gemini-api.md §8).

What becomes of a job is in `job`, what goes on by itself in `render`.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from aiohttp import ClientError, web

from runner.core.catalog import Model
from runner.sandbox.books import Act, Books, Deed
from runner.sandbox.chance import Chance
from runner.sandbox.clock import Clock
from runner.sandbox.delivery import deliver
from runner.sandbox.errors import (
    ApiError,
    batch_done,
    batch_exhausted,
    invalid,
    no_batch,
    no_file,
)
from runner.sandbox.faults import BATCH_FAULTS
from runner.sandbox.files import Files
from runner.sandbox.job import Given, Job, create
from runner.sandbox.jobs import Jobs, separated, size, spans
from runner.sandbox.line import Scan, scan
from runner.sandbox.operation import mask, masked, operation
from runner.sandbox.options import Options
from runner.sandbox.outage import outage_at
from runner.sandbox.render import Renderer
from runner.sandbox.reply import OUTAGES, UNAVAILABLE, Reply, Stream, dump, error_reply
from runner.sandbox.request import loads
from runner.sandbox.schema import normalise

PAGE_SIZE, MOST_PAGE_SIZE = 10, 100
"""Jobs in one page of the list: without `pageSize`, and at most; neither is documented."""
TOKENS = {
    "gemini-3.1-flash-image-preview": 1_000_000,
    "gemini-3-pro-image-preview": 2_000_000,
    "gemini-3-pro-image": 2_000_000,
    "gemini-2.5-flash-image": 3_000_000,
}
"""Most input tokens of a model's active jobs at tier 1, as documented for the previews (§7.5)."""
OTHER_TOKENS = 1_000_000
MIMES = frozenset({"application/jsonl", "application/x-ndjson", "application/json", "text/plain"})
_SLOT = "@results@"
"""Stands for results inline until they are read."""

Work = Callable[[web.Request, Act], Awaitable[Reply]]


class Batches:
    """The batch jobs of one sandbox, and their handlers."""

    def __init__(
        self,
        options: Options,
        clock: Clock,
        books: Books,
        files: Files,
        authorise: Callable[[web.Request], None],
    ) -> None:
        """Pick up what an earlier sandbox left in the state folder; `authorise` checks the key. Raises OSError."""
        self._options, self._clock, self._books, self._files = options, clock, books, files
        self._authorise = authorise
        self._jobs = Jobs(options.state_dir / "batches")
        self._renderer = Renderer(options, clock, books, self._jobs, files.used)
        files.generated = self._download
        for job in self._jobs:
            if not books.noted("create", job.name):
                # The last sandbox was killed before it could say so.
                self._note(Act("create", job.name, job.display_name, job.total, "PENDING"), "broken")

    def routes(self, version: str) -> list[web.RouteDef]:
        """What to mount; `version` is the first segment of a path."""
        one = version + "/batches/{id:[^/:]+}"
        delete = self._handler("delete", self._delete)
        return [
            web.get(f"{version}/batches", self._handler("list", self._list)),
            web.get(one, self._handler("get", self._get)),
            web.post(f"{one}:cancel", self._handler("cancel", self._cancel)),
            web.delete(one, delete),
            web.post(f"{one}:delete", delete),
            web.delete(f"{one}:delete", delete),
        ]

    async def start(self, _app: web.Application) -> None:
        """Go on with the jobs."""
        self._renderer.start()

    async def close(self, _app: web.Application) -> None:
        """Leave them where they are."""
        await self._renderer.close()

    # --- create --------------------------------------------------------------------------------------------------

    async def create(
        self, request: web.Request, find: Callable[[], Model], read: Callable[[], Awaitable[bytes]]
    ) -> Reply:
        """POST `models/{model}:batchGenerateContent`; `find` gives the model, `read` the body."""

        async def work(request: web.Request, act: Act) -> Reply:
            self._authorise(request)
            return await self._create(act, find(), await read())

        return await self._noted(request, Act("create"), work)

    async def _create(self, act: Act, model: Model, body: bytes) -> Reply:
        batch = normalise(loads(body), "CreateBatchRequest").get("batch", {})
        act.display_name = batch.get("displayName")
        source = batch.get("inputConfig", {})
        if not act.display_name:
            raise invalid("* CreateBatchRequest.batch.display_name: display_name is not specified\n")
        if ("fileName" in source) == ("requests" in source):
            raise invalid("* CreateBatchRequest.batch.input_config: exactly one source must be specified\n")
        act.request = hashlib.sha256(json.dumps([model.id, batch], sort_keys=True).encode()).hexdigest()[:32]
        turn = self._books.turn(act.request)
        chance = Chance(self._options.seed, f"{act.request}/create", turn)
        act.fault = self._options.faults.draw(chance, BATCH_FAULTS["create"])
        if act.fault == "batch_create_503":
            raise UNAVAILABLE
        if act.fault == "batch_create_429":
            raise batch_exhausted()
        await self._renderer.catch_up()
        job = await self._begin(act, model, source, turn)
        act.batch, act.state = job.name, job.state(job.created)
        if act.fault == "batch_create_lost":
            return chance.pick("lost", _LOST)
        return Reply(200, dump(self._shown(job)))

    async def _begin(self, act: Act, model: Model, source: dict[str, Any], turn: int) -> Job:
        """Read the input, see whether it fits, begin the job."""
        file = source.get("fileName")
        if file is not None:
            held = self._files.held(file.removeprefix("files/"))
            if held.mime.partition(";")[0] not in MIMES:
                raise invalid(f"Unsupported MIME type: {held.mime}")
            path = held.path
        else:
            inline = source["requests"].get("requests", [])
            path = self._jobs.scratch(dump(row) + b"\n" for row in inline)
        scanned: Scan = await asyncio.to_thread(scan, path, model) if file else scan(path, model)
        self._check(model, scanned.tokens)
        act.keys = scanned.total
        given = Given(
            str(act.request), model.id, str(act.display_name), file, scanned.total, scanned.tokens, scanned.problem
        )
        job = create(self._options, given, turn, self._jobs.next_number(), self._clock.read().clock)
        self._jobs.begin(job, path)
        if file is None:
            path.unlink()
        return job

    def _check(self, model: Model, tokens: int) -> None:
        """ApiError 429 for a job that is one too many, or has too many tokens."""
        active = self._jobs.unfinished()
        most = self._options.batch_tokens
        most = TOKENS.get(model.id, OTHER_TOKENS) if most is None else most
        if len(active) >= self._options.batch_jobs:
            raise batch_exhausted("batch_jobs")
        if tokens + sum(job.tokens for job in active if job.model == model.id) > most:
            raise batch_exhausted("batch_tokens")

    # --- the other handlers --------------------------------------------------------------------------------------

    async def _get(self, request: web.Request, act: Act) -> Reply:
        keep, chance = mask(act.fields or "*"), self._chance(act, f"get/{request.match_info['id']}")
        act.fault = self._options.faults.draw(chance, BATCH_FAULTS["get"])
        if act.fault == "batch_get_503":
            raise UNAVAILABLE
        await self._renderer.catch_up()
        job = self._named(request, act)
        inline = _SLOT if job.file is None and self._has_output(job) else None
        body = dump(masked(self._shown(job, inline), keep))
        if inline is None or (slots := body.count(dump(_SLOT))) == 0:
            return Reply(200, body)
        path = self._jobs.output(job)
        results = spans(path, job.lines())
        length = len(body) + slots * (size(results) - 1 + 2 - len(dump(_SLOT)))
        if "batch_inline_too_large" in job.faults or length > self._options.batch_inline_bytes:
            raise chance.pick(
                "too large", (UNAVAILABLE, ApiError(504, "Deadline expired before operation could complete."))
            )
        whole = body.split(dump(_SLOT))
        return Reply(200, b"", stream=Stream(_filled(whole, lambda: separated(path, results, b",")), length))

    async def _list(self, request: web.Request, act: Act) -> Reply:
        keep, chance = mask(act.fields or "*"), self._chance(act, "list")
        act.fault = self._options.faults.draw(chance, BATCH_FAULTS["list"])
        if act.fault == "batch_list_503":
            raise UNAVAILABLE
        try:
            most, token = int(request.query.get("pageSize") or 0), request.query.get("pageToken")
            below = int(token) if token else None
        except ValueError as error:
            raise invalid("Request contains an invalid argument.") from error
        if most < 0:
            raise invalid("Request contains an invalid argument.")
        await self._renderer.catch_up()
        now = self._clock.read().clock
        seen = [job for job in reversed([*self._jobs]) if not job.deleted and job.listed_from <= now]
        rest = [job for job in seen if below is None or job.number < below]
        page = rest[: min(most or PAGE_SIZE, MOST_PAGE_SIZE)]
        again = seen[:1] if act.fault == "batch_list_repeats" else []
        body: dict[str, Any] = {"operations": [self._shown(job) for job in (*again, *page)]} if page else {}
        if len(page) < len(rest):
            body["nextPageToken"] = str(page[-1].number)
        return Reply(200, dump(masked(body, keep)))

    async def _cancel(self, request: web.Request, act: Act) -> Reply:
        await self._renderer.catch_up()
        job = self._named(request, act)
        if job.finished:
            raise batch_done()
        if not job.cancelled:
            chance = self._chance(act, f"cancel/{job.id}")
            act.fault = self._options.faults.draw(chance, BATCH_FAULTS["cancel"])
            low, high = (600, 1800) if act.fault else (2, 30)
            self._jobs.keep(job.cancel(self._clock.read().clock + low + (high - low) * chance.unit("delay")))
        return Reply(200, dump({}))

    async def _delete(self, request: web.Request, act: Act) -> Reply:
        await self._renderer.catch_up()
        self._jobs.delete(self._named(request, act))
        return Reply(200, dump({}))

    def _named(self, request: web.Request, act: Act) -> Job:
        act.batch = f"batches/{request.match_info['id']}"
        job = self._jobs.find(request.match_info["id"])
        if job is None:
            raise no_batch()
        act.display_name, act.keys, act.state = job.display_name, job.total, job.state(self._clock.read().clock)
        return job

    def _shown(self, job: Job, inline: Any = None) -> dict[str, Any]:
        now, done = self._clock.read().clock, self._renderer.done(job)
        return operation(job, now, done, output=self._has_output(job), inline=inline)

    def _has_output(self, job: Job) -> bool:
        return job.finished and (
            job.end == "SUCCEEDED" or (job.end == "CANCELLED" and self._options.cancelled_output)
        )

    async def _download(self, id_: str, deed: Deed) -> Reply:
        """GET `files/batch-…:download`, the results of a job; the Files API has checked the key."""
        await self._renderer.catch_up()
        job = self._jobs.find(id_.removeprefix("batch-"))
        gone = job and job.ends + self._options.batch_output_s <= self._clock.read().clock
        if job is None or job.file is None or gone or not self._has_output(job):
            raise no_file(id_)
        deed.request, deed.mime = f"download/{id_}", "application/jsonl"
        chance = Chance(self._options.seed, deed.request, self._books.turn(deed.request))
        deed.fault = self._options.faults.draw(chance, BATCH_FAULTS["download"])
        if deed.fault == "batch_download_503":
            raise UNAVAILABLE
        path, order = self._jobs.output(job), job.lines()
        # All lines in their order are one long one: no need to look where each begins.
        results = spans(path, order) if order is not None else [(0, path.stat().st_size - 1)] * (job.total > 0)
        length = size(results)
        until = chance.whole("cut", 1, length - 1) if deed.fault == "batch_download_cut" and length > 1 else None
        stream = Stream(separated(path, results, b"\n"), length, until)
        return Reply(200, b"", "application/jsonl", stream=stream)

    # --- around them ---------------------------------------------------------------------------------------------

    def _chance(self, act: Act, request: str) -> Chance:
        act.request = request
        return Chance(self._options.seed, request, self._books.turn(request))

    def _handler(self, op: str, work: Work) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def keyed(request: web.Request, act: Act) -> Reply:
            self._authorise(request)
            act.fields = request.query.get("fields") or request.query.get("$fields")
            return await work(request, act)

        async def handle(request: web.Request) -> web.StreamResponse:
            return await deliver(request, await self._noted(request, Act(op), keyed), self._options.speed)

        return handle

    async def _noted(self, request: web.Request, act: Act, work: Work) -> Reply:
        """Do the work unless there is an outage, and note what came of it."""
        if kind := outage_at(self._options.outages, self._clock.read().clock - self._clock.started):
            self._note(act, f"outage_{kind}")
            return OUTAGES[kind]
        try:
            reply = await work(request, act)
        except ApiError as error:
            act.refused_by, reply = error.refused_by, error_reply(error)
        except (ConnectionError, ClientError):
            self._note(act, "broken")
            return Reply(400, b"")
        self._note(act, reply.delivery or str(reply.status))
        return reply

    def _note(self, act: Act, status: str) -> None:
        self._books.batched(self._clock.read(), act, status)


_LOST = (
    Reply(200, b"", delivery="close_after_read"),
    Reply(200, b"", delivery="reset_before"),
    error_reply(UNAVAILABLE),
    error_reply(ApiError(504, "Deadline expired before operation could complete.")),
)


def _filled(body: list[bytes], results: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
    """An answer in pieces, with all results between each two of them."""
    yield body[0]
    for piece in body[1:]:
        yield b"["
        last = b""
        for chunk in results():
            yield last
            last = chunk
        # The separator behind the last result is left out.
        yield b"]" + piece
