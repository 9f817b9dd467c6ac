"""The client of the Files API: uploads, looks up, deletes and downloads files (gemini-api.md §9).

`resumable` is how a file is sent, `download` how one is fetched, `exchange` one request. Nothing here knows why a
file is uploaded.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import TypeVar

import anyio

from runner.adapters.download import Download, Downloads
from runner.adapters.exchange import Answer, Exchange
from runner.adapters.remotefile import RemoteFile, digests, read_file
from runner.adapters.request import file_address
from runner.adapters.resumable import ResumableUploads, Source
from runner.adapters.seal import sealed, spellings
from runner.adapters.session import Secret, Session, common_headers
from runner.adapters.setback import MimeRefusedError, Patience, SetbackError, SpoiltError, UploadError
from runner.core.reference import Uploaded
from runner.engine.clock import LoopClock
from runner.engine.ports import Clock

LIFETIME_S = 48 * 3600.0
"""Of a file at the service, where it does not say (gemini-api.md §9.2)."""
THREADS = 4
"""For files that are read while they are sent."""

_PROCESSING_S = 600.0
_POLL_S = 2.0

T = TypeVar("T")


class FilesClient(Session):
    """Uploads, downloads and deletes files (gemini-api.md §9), with the key handling of `GeminiProvider`.

    Waits follow `clock`.
    """

    def __init__(
        self,
        *,
        base_url: str,
        key: Secret,
        version: str = "v1beta",
        connections: int = 4,
        uds: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Raises UsageError where the base URL, the key or a proxy of the environment cannot be used."""
        super().__init__(
            base_url=base_url,
            key=key,
            api=version,
            connections=connections,
            uds=uds,
            headers=common_headers(),
            keyed=False,
        )
        self._clock = clock or LoopClock()
        self._exchange = Exchange(self._http, self._prefix, key, self._with_key)
        self._sending = ResumableUploads(self._exchange, self._clock, anyio.CapacityLimiter(THREADS))
        self._downloads = Downloads(self._exchange)

    def address(self, name: str) -> str:
        """The URI of a file by its name (`files/…`); any other URI as it is."""
        return file_address(self._prefix, name) if name.startswith("files/") else name

    async def upload(
        self,
        path: Path,
        *,
        size: int,
        mimes: Sequence[str],
        display_name: str,
        sha256: str,
    ) -> Uploaded:
        """Send a file and wait until the service can use it.

        `size` in bytes and `sha256` in hex are those of its inspection: a file that is another one by now is given
        up. `mimes` are tried in order, the next one only if the service refuses the type (§9.2). Raises
        UploadError; its kinds tell what may pass (PassingError) from what is wrong.
        """
        source = await self._sending.open(path, size, sha256)
        try:
            return await self._as_any(source, mimes, display_name)
        finally:
            source.file.close()

    async def get(self, name: str) -> RemoteFile | None:
        """A file by its name; None for one unknown to the service, or of another key. Raises UploadError."""
        answer = await self._patiently("GET", name)
        return None if answer.status in {403, 404} else read_file(answer.data)

    async def delete(self, name: str) -> None:
        """Delete a file; fine if there is none. Raises UploadError."""
        await self._patiently("DELETE", name)

    def patience(self) -> Patience:
        """Waits between tries as an upload has them."""
        return Patience(self._clock)

    def sealed(self, reply: T) -> T:
        """A reply without the key in any of its texts."""
        return sealed(reply, spellings(self._key.get_secret_value()))

    def download(self, name: str, *, start: int = 0) -> AbstractAsyncContextManager[Download]:
        """A file that the service made, from byte `start` if it honours ranges, else from its first (§8.7).

        One try: raises SetbackError for what may pass, GoneError for a file that the service does not have,
        UploadError for one that was uploaded by us.
        """
        return self._downloads.open(name, start=start)

    async def _as_any(self, source: Source, mimes: Sequence[str], display_name: str) -> Uploaded:
        refused = "no MIME type to send it under"
        for mime in mimes:
            try:
                file = await self._sending.send(source, mime, display_name)
            except MimeRefusedError as error:
                refused = str(error)
            else:
                return await self._usable(file, source, mime)
        raise UploadError(refused)

    # --- what the service made of it ---

    async def _usable(self, file: RemoteFile, source: Source, mime: str) -> Uploaded:
        """Waits while the service looks at it; what is not what was sent is deleted."""
        file = await self._processed(file)
        if flaw := self._flaw(file, source):
            with suppress(UploadError):
                await self.delete(file.name)
            raise SpoiltError(flaw)
        expires = file.expires_at_utc or self._clock.utc() + LIFETIME_S
        return Uploaded(file.name, file.uri or self.address(file.name), file.mime or mime, expires)

    async def _processed(self, file: RemoteFile) -> RemoteFile:
        waited_s = 0.0
        while file.state == "PROCESSING":
            if waited_s >= _PROCESSING_S:
                raise UploadError(f"the service still processes it after {waited_s:.0f} s")
            await self._clock.sleep(_POLL_S)
            waited_s += _POLL_S
            found = await self.get(file.name)
            if found is None:
                raise SpoiltError("the service lost it while processing it")
            file = found
        return file

    def _flaw(self, file: RemoteFile, source: Source) -> str:
        if file.state not in {"", "STATE_UNSPECIFIED", "ACTIVE"}:
            return self._exchange.sealed(
                f"the service cannot use it ({file.state}): {file.error or 'it does not say why'}"
            )
        if file.size is not None and file.size != source.size:
            return f"the service received {file.size} bytes of {source.size}"
        if file.sha256 and source.sha256 not in digests(file.sha256):
            return "the service received other bytes than were sent"
        return ""

    # --- about a file ---

    async def _patiently(self, method: str, name: str) -> Answer:
        patience = Patience(self._clock)
        while True:
            try:
                answer = await self._exchange.ask(
                    method, file_address(self._prefix, name), {}, then="again", auth=self._with_key
                )
                if answer.status in {403, 404} or 200 <= answer.status < 300:
                    return answer
                self._exchange.refuse(answer, then="again")
            except SetbackError as setback:
                await patience.wait(setback)
            except MimeRefusedError as error:
                raise UploadError(str(error)) from None
