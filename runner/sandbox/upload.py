"""The resumable upload: start, chunks at their offsets, query, cancel, finalize (gemini-api.md §9.1)."""

import asyncio
import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from runner.sandbox.books import Books, Deed
from runner.sandbox.chance import Chance
from runner.sandbox.clock import Clock
from runner.sandbox.errors import ApiError, invalid, storage_full
from runner.sandbox.faults import FILE_FAULTS
from runner.sandbox.options import Options
from runner.sandbox.reply import UNAVAILABLE, Reply, dump
from runner.sandbox.request import loads
from runner.sandbox.schema import normalise
from runner.sandbox.store import File, Store, Upload

GRANULARITY = 256 * 1024
"""Bytes of which a chunk should be a multiple; nobody insists."""
ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MOST_DISPLAY_NAME = 512
COMMANDS: Mapping[frozenset[str], str] = {
    frozenset({"start"}): "start",
    frozenset({"upload"}): "upload",
    frozenset({"upload", "finalize"}): "finalize",
    frozenset({"finalize"}): "finalize",
    frozenset({"query"}): "query",
    frozenset({"cancel"}): "cancel",
}


def operation(request: web.Request) -> str:
    """What X-Goog-Upload-Command asks for; empty for nothing that is known."""
    words = request.headers.get("X-Goog-Upload-Command", "").lower().split(",")
    return COMMANDS.get(frozenset(word.strip() for word in words), "")


class Uploads:
    """The uploads of one sandbox."""

    def __init__(self, options: Options, clock: Clock, books: Books, store: Store) -> None:
        """Go on with those of the store."""
        self._options, self._clock, self._books, self._store = options, clock, books, store
        self._writers: dict[str, object] = {}
        """Which request may append to an upload: the last that began to, for the one before it hangs."""

    async def start(self, request: web.Request, deed: Deed) -> Reply:
        """Begin an upload; its URL goes into a header."""
        if request.headers.get("X-Goog-Upload-Protocol", "").lower() != "resumable":
            raise invalid("Only the resumable upload protocol is supported.")
        asked = _asked(request, await request.read())
        deed.mime, deed.file = asked.mime, asked.id and f"files/{asked.id}"
        chance = self._chance(deed, asked.request)
        fault = deed.fault = self._options.faults.draw(chance, FILE_FAULTS["start"])
        if fault == "upload_jsonl" and "jsonl" not in asked.mime:
            fault = deed.fault = None
        self._refuse(asked, fault)
        upload = Upload(
            token=secrets.token_hex(16),
            request=f"{asked.request}#{chance.seen}",
            id=asked.id,
            display_name=asked.display_name,
            mime=asked.mime,
            size=asked.size,
        )
        self._store.begin(upload)
        headers = {
            "X-Goog-Upload-URL": f"{base(request)}{request.path}?upload_id={upload.token}",
            "X-Goog-Upload-Chunk-Granularity": str(GRANULARITY),
        }
        lost = "close_after_read" if fault == "upload_start_lost" else None
        return Reply(200, b"", headers=_status("active") | headers, delivery=lost)

    def _refuse(self, asked: Upload, fault: str | None) -> None:
        """ApiError for a start that meets a fault or would not end well."""
        if fault == "upload_503":
            raise UNAVAILABLE
        if fault == "upload_mime" or "/" not in asked.mime:
            raise invalid(f"Unsupported MIME type: {asked.mime}")
        if fault == "upload_jsonl":
            raise invalid("Unsupported MIME type: jsonl")
        self._check_id(asked.id)
        size = asked.size or 0
        if size > self._options.file_bytes:
            raise invalid(f"File size {size} exceeds the limit: {self._options.file_bytes} bytes.")
        if fault == "storage_full":
            raise storage_full(self._options.storage_bytes)
        self._check_storage(size)

    def _check_id(self, id_: str | None) -> None:
        if id_ is not None and self._store.find(id_):
            raise ApiError(409, f"The File {id_} already exists.")

    def _check_storage(self, size: int) -> None:
        if self._store.bytes() + size > self._options.storage_bytes:
            raise storage_full(self._options.storage_bytes)

    def query(self, upload: Upload) -> Reply:
        """How much has arrived."""
        return _received("active", self._store.received(upload.token))

    def queried(self, file: File) -> Reply:
        """The same of an upload that is a file by now; which one, is not said."""
        return _received("final", file.size)

    def cancel(self, upload: Upload) -> Reply:
        """Forget the upload."""
        self._store.drop(upload.token)
        return Reply(200, b"", headers=_status("cancelled"))

    async def chunk(self, request: web.Request, upload: Upload, deed: Deed) -> Reply | File:
        """Keep the bytes of one request; the file, if they are the last."""
        deed.offset, deed.mime = _offset(request), upload.mime
        if deed.offset != (received := self._store.received(upload.token)):
            raise invalid(f"Invalid upload offset {deed.offset}: {received} bytes were received.")
        chance = self._chance(deed, f"{upload.request}@{deed.offset}")
        fault = deed.fault = self._options.faults.draw(chance, FILE_FAULTS["chunk"])
        if fault == "upload_503":
            raise UNAVAILABLE
        if fault == "upload_no_status" and chance.happens("dropped", 0.5):
            return Reply(200, b"")
        length = request.content_length or 0
        broken_at = chance.whole("kept", 1, length - 1) if fault == "upload_broken" and length > 1 else None
        await self._keep(request, upload, deed, broken_at)
        if fault == "upload_broken":
            return Reply(503, b"", delivery="reset_before")
        if deed.op == "finalize":
            return await self._finalize(upload, deed)
        return Reply(200, b"", headers={} if fault == "upload_no_status" else _status("active"))

    async def _keep(self, request: web.Request, upload: Upload, deed: Deed, end: int | None) -> None:
        """Append what arrives, up to `end` bytes if that is given."""
        most = self._options.file_bytes if upload.size is None else upload.size
        room = most - self._store.received(upload.token)
        deed.kept = 0
        mine = self._writers[upload.token] = object()
        if (request.content_length or 0) > room:
            raise invalid(f"The upload is larger than the {most} bytes that it may have.")
        async for data in request.content.iter_any():
            if self._writers.get(upload.token) is not mine or self._store.upload(upload.token) is None:
                raise invalid("Another request goes on with this upload.")
            if deed.kept + len(data) > room:
                raise invalid(f"The upload is larger than the {most} bytes that it may have.")
            taken = data[: None if end is None else end - deed.kept]
            self._store.keep(upload.token, taken)
            deed.kept += len(taken)
            if deed.kept == end:
                return

    async def _finalize(self, upload: Upload, deed: Deed) -> File:
        size = self._store.received(upload.token)
        if upload.size is not None and size != upload.size:
            raise invalid(f"The upload was declared with {upload.size} bytes and has {size}.")
        sha256 = await asyncio.to_thread(self._store.digest, upload.token)
        if self._store.upload(upload.token) is None:
            raise invalid("Another request goes on with this upload.")
        self._check_id(upload.id)
        self._check_storage(size)
        now = self._clock.read().clock
        chance = Chance(self._options.seed, upload.request, 1)
        fault = self._options.faults.draw(chance, FILE_FAULTS["file"])
        processed_s = 5 + 25 * chance.unit("processing") if fault == "file_processing" else 0
        file = File(
            token=upload.token,
            number=self._store.next_number(),
            id=upload.id or self._new_id(chance),
            display_name=upload.display_name,
            mime=upload.mime,
            size=size,
            sha256=sha256,
            created=now,
            active_from=now + processed_s,
            failed=fault == "file_failed",
        )
        self._store.finish(file)
        self._writers.pop(upload.token, None)
        deed.file, deed.fault = file.name, deed.fault or fault
        return file

    def _new_id(self, chance: Chance) -> str:
        """Twelve letters and digits."""
        for turn in range(1000):
            id_ = "".join(LETTERS[byte % len(LETTERS)] for byte in chance.digest(f"id {turn}", 12))
            if self._store.find(id_) is None:
                return id_
        raise AssertionError("no free id")

    def _chance(self, deed: Deed, request: str) -> Chance:
        deed.request = request
        return Chance(self._options.seed, request, self._books.turn(request))


def finalized(file: Mapping[str, Any], deed: Deed) -> Reply:
    """The last reply of an upload, with its file."""
    headers = {} if deed.fault == "upload_no_status" else _status("final")
    return Reply(200, dump({"file": file}), headers=headers)


def base(request: web.Request) -> str:
    """The address under which the caller reached us, with the prefix that a router in between says it cut."""
    return f"{request.url.origin()}{request.headers.get('X-Forwarded-Prefix', '').rstrip('/')}"


def _status(status: str) -> dict[str, str]:
    return {"X-Goog-Upload-Status": status}


def _received(status: str, size: int) -> Reply:
    return Reply(200, b"", headers={**_status(status), "X-Goog-Upload-Size-Received": str(size)})


def _asked(request: web.Request, body: bytes) -> Upload:
    """What a start asks for; it has no token yet. ApiError 400 for what cannot be meant."""
    given = normalise(loads(body) if body.strip() else {}, "CreateFileRequest").get("file", {})
    display_name = given.get("displayName", "")
    if len(display_name) > MOST_DISPLAY_NAME:
        raise invalid(
            f"* CreateFileRequest.file.display_name: at most {MOST_DISPLAY_NAME} characters are allowed.\n"
        )
    mime = given.get("mimeType") or request.headers.get("X-Goog-Upload-Header-Content-Type", "")
    size = _number(request, "X-Goog-Upload-Header-Content-Length")
    size = given.get("sizeBytes") if size is None else size
    facts = [given.get("name"), display_name, mime, size]
    identity = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    return Upload("", identity, _id(given.get("name")), display_name, mime or "application/octet-stream", size)


def _id(name: str | None) -> str | None:
    if not name:
        return None
    prefix, _, id_ = name.rpartition("files/")
    if prefix or not name.startswith("files/"):
        raise invalid("* CreateFileRequest.file.name: expected files/ID.\n")
    if not ID.fullmatch(id_):
        raise invalid(
            "* CreateFileRequest.file.name: File name may only contain lowercase alphanumeric characters or "
            "dashes (-), cannot begin or end with a dash and may have up to 40 characters.\n"
        )
    return id_


def _offset(request: web.Request) -> int:
    offset = _number(request, "X-Goog-Upload-Offset")
    if offset is None:
        raise invalid("X-Goog-Upload-Offset is missing.")
    return offset


def _number(request: web.Request, name: str) -> int | None:
    text = request.headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise invalid(f"{name}: {text!r} is no number.")
    return int(text)
