"""The Files API: what is mounted, and what is done with files once they are there (gemini-api.md §9)."""

import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import ClientError, web

from runner.sandbox.books import Books, Deed
from runner.sandbox.chance import Chance
from runner.sandbox.clock import Clock
from runner.sandbox.delivery import deliver
from runner.sandbox.errors import ApiError, file_not_active, generated_file, invalid, no_file
from runner.sandbox.faults import FILE_FAULTS
from runner.sandbox.options import Options
from runner.sandbox.reference import Held
from runner.sandbox.reply import Reply, dump, error_reply
from runner.sandbox.store import File, Store
from runner.sandbox.upload import Uploads, base, finalized, operation

PAGE_SIZE, MOST_PAGE_SIZE = 10, 100
"""Files in one page of the list: without `pageSize`, and at most."""
LONGEST_ID = 40
"""Results have longer ones, and are refused for it by whatever but a download (§8.7)."""

Work = Callable[[web.Request, Deed], Awaitable[Reply]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Files:
    """The files of one sandbox, and their handlers."""

    def __init__(
        self, options: Options, clock: Clock, books: Books, authorise: Callable[[web.Request], None]
    ) -> None:
        """Pick up what an earlier sandbox left in the state folder; `authorise` checks the key. Raises OSError."""
        self._options, self._clock, self._books, self._authorise = options, clock, books, authorise
        self._store = Store(options.state_dir / "files", lambda: clock.read().clock)
        self._uploads = Uploads(options, clock, books, self._store)
        self.generated: Callable[[str, Deed], Awaitable[Reply]] | None = None
        """Downloads a generated file by its id, where the sandbox has any."""
        self._uses: dict[str, int] = {}
        """How often each file was used, by its token."""

    def routes(self, version: str) -> list[web.RouteDef]:
        """What to mount; `version` is the first segment of a path."""
        one = version + "/files/{id:[^/:]+}"
        download = self._handler("download", self._download)
        return [
            web.post(f"/upload{version}/files", self.upload),
            web.get(f"{version}/files", self._handler("list", self._list)),
            web.get(one, self._handler("get", self._get)),
            web.delete(one, self._handler("delete", self._delete)),
            web.get(f"{one}:download", download),
            web.get(f"/download{one}:download", download),
        ]

    def held(self, id_: str) -> Held:
        """The file that a request names; ApiError where it may not be used."""
        file = self._find(id_)
        if file.state(self._clock.read().clock) != "ACTIVE":
            raise file_not_active(id_)
        return Held(file.name, file.mime, file.sha256, self._store.path(file.token))

    def used(self, id_: str) -> Held:
        """The same for a request that is to be served: the file may be gone all of a sudden."""
        held, file = self.held(id_), self._find(id_)
        self._uses[file.token] = turn = self._uses.get(file.token, 0) + 1
        chance = Chance(self._options.seed, f"{file.sha256}/{file.number}/use", turn)
        if fault := self._options.faults.draw(chance, FILE_FAULTS["use"]):
            self._store.drop(file.token)
            self._books.filed(self._clock.read(), Deed("use", file=file.name, mime=file.mime, fault=fault), "403")
            raise no_file(id_)
        return held

    def _find(self, id_: str) -> File:
        file = self._store.find(id_)
        if file is None:
            raise no_file(id_)
        return file

    # --- handlers ------------------------------------------------------------------------------------------------

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """POST `/upload/…/files`: a start with a key, or anything else with the token of the upload's URL."""
        op = operation(request)
        if op == "start":
            return await self._answer(request, Deed(op), self._keyed(self._uploads.start))
        return await self._answer(request, Deed(op or "unknown"), self._go_on)

    async def _go_on(self, request: web.Request, deed: Deed) -> Reply:
        if deed.op == "unknown":
            raise invalid("X-Goog-Upload-Command is missing or unknown.")
        token = request.query.get("upload_id", "")
        if file := self._store.finished(token):
            deed.file, deed.mime = file.name, file.mime
            if deed.op == "query":
                return self._uploads.queried(file)
            raise invalid("The upload has already been finalized.")
        upload = self._store.upload(token)
        if upload is None:
            raise ApiError(404, "Requested entity was not found.")
        deed.request, deed.mime = upload.request, upload.mime
        match deed.op:
            case "query":
                return self._uploads.query(upload)
            case "cancel":
                return self._uploads.cancel(upload)
            case _:
                kept = await self._uploads.chunk(request, upload, deed)
                return finalized(self._resource(request, kept), deed) if isinstance(kept, File) else kept

    async def _list(self, request: web.Request, _deed: Deed) -> Reply:
        try:
            size, token = int(request.query.get("pageSize") or 0), request.query.get("pageToken")
            below = int(token) if token else None
        except ValueError as error:
            raise invalid("Request contains an invalid argument.") from error
        if size < 0:
            raise invalid("Request contains an invalid argument.")
        # The token is the number of the last file shown, so what comes or goes meanwhile shifts no page.
        files = [file for file in self._store.files() if below is None or file.number < below]
        page = files[: min(size or PAGE_SIZE, MOST_PAGE_SIZE)]
        body: dict[str, Any] = {"files": [self._resource(request, file) for file in page]} if page else {}
        if len(page) < len(files):
            body["nextPageToken"] = str(page[-1].number)
        return Reply(200, dump(body))

    async def _get(self, request: web.Request, deed: Deed) -> Reply:
        return Reply(200, dump(self._resource(request, self._named(request, deed))))

    async def _delete(self, request: web.Request, deed: Deed) -> Reply:
        self._store.drop(self._named(request, deed).token)
        return Reply(200, dump({}))

    async def _download(self, request: web.Request, deed: Deed) -> Reply:
        id_ = request.match_info["id"]
        if self.generated and len(id_) > LONGEST_ID:
            deed.file = f"files/{id_}"
            return await self.generated(id_, deed)
        file = self._named(request, deed)
        raise invalid(f"The File {file.id} was uploaded: only generated files can be downloaded.")

    def _named(self, request: web.Request, deed: Deed) -> File:
        id_ = request.match_info["id"]
        deed.file = f"files/{id_}"
        if len(id_) > LONGEST_ID:
            raise generated_file()
        file = self._find(id_)
        deed.mime = file.mime
        return file

    def _resource(self, request: web.Request, file: File) -> dict[str, Any]:
        """A file as the service shows it; what is empty is left out."""
        state = file.state(self._clock.read().clock)
        resource = {
            "name": file.name,
            "displayName": file.display_name,
            "mimeType": file.mime,
            "sizeBytes": str(file.size),
            "createTime": _stamp(file.created),
            "updateTime": _stamp(file.active_from if state != "PROCESSING" else file.created),
            "expirationTime": _stamp(file.expires),
            "sha256Hash": base64.b64encode(file.sha256.encode()).decode(),
            "uri": f"{base(request)}/{request.match_info['version']}/{file.name}",
            "state": state,
            "source": "UPLOADED",
            "error": {"code": 13, "message": "The file could not be processed."} if state == "FAILED" else None,
        }
        return {name: value for name, value in resource.items() if value}

    # --- around them ---------------------------------------------------------------------------------------------

    def _handler(self, op: str, work: Work) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._answer(request, Deed(op), self._keyed(work))

        return handle

    def _keyed(self, work: Work) -> Work:
        def checked(request: web.Request, deed: Deed) -> Awaitable[Reply]:
            self._authorise(request)
            return work(request, deed)

        return checked

    async def _answer(self, request: web.Request, deed: Deed, work: Work) -> web.StreamResponse:
        """Do the work, note what came of it and send that."""
        try:
            reply = await work(request, deed)
        except ApiError as error:
            reply = error_reply(error)
        except (ConnectionError, ClientError):
            # The caller is gone in the middle of its bytes; those that came are kept.
            self._books.filed(self._clock.read(), deed, "broken")
            return web.Response()
        self._books.filed(self._clock.read(), deed, reply.delivery or str(reply.status))
        return await deliver(request, reply, 1)


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
