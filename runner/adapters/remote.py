"""The batch lane's edge: inputs written and uploaded, jobs asked about, results read while they are downloaded.

Each step has a module of its own (`lines`, `uploads`, `batches`, `harvest`); here they become one port. Nothing
waits for a job, and nothing decides about one.
"""

import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from anyio import CancelScope, to_thread

from runner.adapters.batches import BatchesClient, IncompleteListError
from runner.adapters.harvest import harvest
from runner.adapters.lines import MIMES, LineError, Written, write_lines
from runner.adapters.rejection import Asked
from runner.adapters.setback import (
    ChangedError,
    GoneError,
    MissingFileError,
    PassingError,
    SpoiltError,
    UploadError,
)
from runner.adapters.uploads import FilesClient
from runner.core.catalog import Catalog
from runner.core.errors import LocalFailureError
from runner.core.remote import START, Absent, Accepted, Creation, Declined, Found, NotNow, Place, Remote
from runner.core.task import Assignment
from runner.engine.ports import ResultLine, Unreadable, Unsendable


class BatchService:
    """`engine.ports.Batches` at the endpoint of two clients, which stay the caller's to close.

    `folder` holds an input from when it is written until it is uploaded; `spool` the picture of one result line,
    in a file without a name. Both are made on demand. `model_line` is where the manifest names the model.
    """

    def __init__(
        self,
        files: FilesClient,
        batches: BatchesClient,
        *,
        catalog: Catalog,
        model_line: str = "",
        folder: Path,
        spool: Path,
    ) -> None:
        self._files, self._batches = files, batches
        self._catalog, self._model_line = catalog, model_line
        self._folder, self._spool = folder, spool

    # --- before the job ---

    async def upload(self, token: str, items: Sequence[tuple[str, Assignment]]) -> str:
        """Write requests, each under its key, as the input of one batch and upload it; its name (`files/…`).

        Raises Unsendable (`upload_failed`; `key` names the one request that cannot be a line), LocalFailureError.
        """
        path = self._folder / f"{token}.jsonl"
        try:
            written = await to_thread.run_sync(_written, path, items)
            return await self._sent(path, written)
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(_removed, path)

    async def _sent(self, path: Path, written: Written) -> str:
        try:
            held = await self._files.upload(
                path, size=written.bytes, mimes=MIMES, display_name=path.name, sha256=written.sha256
            )
        except (ChangedError, MissingFileError) as error:  # nobody else has business there
            raise LocalFailureError(f"the input of a batch at {path} cannot be sent: {error}") from None
        except UploadError as error:
            said = f"the input of the batch was not uploaded: {error}"
            raise Unsendable(
                "upload_failed", said, passing=isinstance(error, PassingError | SpoiltError)
            ) from None
        return held.name

    def tidy(self, tokens: Iterable[str]) -> None:
        """Remove inputs that a killed run left in the middle of their upload. Blocks."""
        for token in tokens:
            for name in (f"{token}.jsonl", f"{token}.jsonl.part"):
                _removed(self._folder / name)

    # --- the job ---

    async def create(self, model: str, display_name: str, file: str) -> Creation:
        """Make a job of an uploaded input. After `Unsure` never again before it was looked for."""
        return await self._batches.create(model, display_name, file)

    async def get(self, name: str) -> Remote | Absent | Declined | NotNow:
        """A job by its name, without its results."""
        return await self._batches.get(name)

    async def find(self, display_name: str) -> Found | Declined | NotNow:
        """The jobs of that display name, in a list that was read to its end."""
        return await self._batches.find(display_name)

    async def shows(self, file: str) -> bool | None:
        """Whether the service shows an uploaded input to this key's project; None: it cannot be told now."""
        try:
            return await self._files.get(file) is not None
        except UploadError:
            return None

    async def listing(self) -> tuple[Remote, ...] | Declined | NotNow:
        """All jobs that the service lists."""
        try:
            return tuple([remote async for remote in self._batches.list()])
        except IncompleteListError as error:
            return error.answer

    async def cancel(self, name: str) -> Accepted | Absent | Declined | NotNow:
        """Ask for a job to be stopped; it takes effect later."""
        return await self._batches.cancel(name)

    # --- its results ---

    @asynccontextmanager
    async def results(
        self, file: str, model: str, place: Place = START
    ) -> AsyncGenerator[AsyncIterator[ResultLine]]:
        """The lines of a result file from `place` on, while it is downloaded.

        Reading raises Unreadable: results are gone only where the service says so, all else may pass, since they
        are paid for. Raises LocalFailureError where the spool cannot be used.
        """
        asked = Asked(model, self._model_line, self._catalog)
        spool = await to_thread.run_sync(_spool, self._spool)
        try:
            lines = harvest(self._files, file, asked=asked, spool=spool, place=place)
            async with aclosing(lines), aclosing(_readable(lines)) as readable:
                yield readable
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(spool.close)


async def _readable(lines: AsyncIterator[ResultLine]) -> AsyncGenerator[ResultLine]:
    try:
        async for line in lines:
            yield line
    except UploadError as error:
        raise Unreadable(str(error), passing=not isinstance(error, GoneError)) from None


# --- in a thread ---


def _written(path: Path, items: Sequence[tuple[str, Assignment]]) -> Written:
    try:
        with _on_disk(f"the input of a batch cannot be written to {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_lines(path, items)
    except LineError as error:
        said = str(error).removeprefix(f"{error.key}: ")
        raise Unsendable("upload_failed", f"this task cannot go into a batch: {said}", key=error.key) from None
    except ValueError as error:
        raise Unsendable("upload_failed", f"the input of the batch cannot be sent: {error}") from None


def _removed(path: Path) -> None:
    with suppress(OSError):  # it has done its work, and the same batch would write it anew
        path.unlink(missing_ok=True)


def _spool(folder: Path) -> BinaryIO:
    with _on_disk(f"results cannot be kept in {folder} while they arrive"):
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)


@contextmanager
def _on_disk(failure: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalFailureError(f"{failure}: {error.strerror or error}") from error
