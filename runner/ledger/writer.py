"""The one thread that writes, with group commit: many operations, one durable transaction.

It takes everything that is queued, runs each operation in a savepoint of one transaction, commits, and only then
answers. So an answer means that the change survives power loss, and a hundred settles cost one sync of the disk.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import RootTransaction
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from runner.core.errors import LocalFailureError

T = TypeVar("T")

GROUP = 256
"""Operations in one transaction at most: bounds what one failing commit takes with it."""
PATIENCE_S = 600.0
"""How long to wait for another process that writes; recording ten million tasks takes minutes."""


@dataclass(frozen=True, slots=True)
class _Operation:
    work: Callable[[Connection], Any]
    answer: "Future[Any]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


class Writer:
    """Owns a connection that no other thread touches."""

    def __init__(
        self,
        connection: Connection,
        path: Path,
        patience_s: float = PATIENCE_S,
        undone: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread; from now on `connection` is its own. `path` is for messages.

        `undone` is called in the thread when what operations have read or written was taken back.
        """
        self._connection, self._path, self._patience_s, self._undone = connection, path, patience_s, undone
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._closed = False
        self._unanswered = 0
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="ledger-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Connection], T]) -> "Future[T]":
        """Queue an operation. It will run to its end whatever becomes of whoever waits for it."""
        operation = _Operation(work)
        # running from now on: cancelling the waiter cannot cancel what may be committed already
        operation.answer.set_running_or_notify_cancel()
        with self._gate:
            if self._closed:
                raise RuntimeError("the ledger is closed")
            self._queue.put(operation)
            self._unanswered += 1
        return operation.answer

    @property
    def busy(self) -> bool:
        """Whether an operation has yet to be answered."""
        return self._unanswered > 0

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Submit and wait until the change is durable.

        Raises what `work` raises (its changes, and no others, are undone), or LocalFailureError where this
        machine cannot commit: then nothing of the group has happened.
        """
        return await asyncio.wrap_future(self.submit(work))

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _serve(self) -> None:
        more = True
        while more:
            group, more = self._group()
            if group:
                self._commit(group)
                with self._gate:
                    self._unanswered -= len(group)

    def _group(self) -> tuple[list[_Operation], bool]:
        group: list[_Operation] = []
        try:
            item = self._queue.get()
            while item is not None:
                group.append(item)
                if len(group) == GROUP:
                    return group, True
                item = self._queue.get_nowait()
        except queue.Empty:
            return group, True
        return group, False

    def _commit(self, group: list[_Operation]) -> None:
        try:
            results = self._transact(group)
        except Exception as error:  # noqa: BLE001  # whatever it is, the waiters must hear of it
            self._undo()
            failure = _as_local_failure(self._path, error)
            for operation in group:
                operation.answer.set_exception(failure)
            return
        for operation, result in zip(group, results, strict=True):
            if isinstance(result, _Failed):
                operation.answer.set_exception(result.error)
            else:
                operation.answer.set_result(result)

    def _transact(self, group: list[_Operation]) -> list[Any]:
        with self._begin():
            if len(group) == 1:
                return [group[0].work(self._connection)]
            return [_attempt(self._connection, operation.work) for operation in group]

    def _undo(self) -> None:
        """SQLite leaves a transaction open whose COMMIT failed, and SQLAlchemy takes it for ended."""
        self._undone()
        with suppress(DBAPIError, sqlite3.Error):  # if this fails too, the next BEGIN says so
            self._connection.rollback()
            self._connection.connection.rollback()

    def _begin(self) -> RootTransaction:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return self._connection.begin()
            except OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() >= deadline:
                    raise


def _attempt(connection: Connection, work: Callable[[Connection], Any]) -> Any:
    """Run one operation of a group in a savepoint of its own.

    After a failure of the machine SQLite may have rolled the whole transaction back by itself; carrying on would
    write outside of any, so such errors end the group.
    """
    connection.exec_driver_sql("SAVEPOINT operation")  # SQLAlchemy's own is compiled anew each time
    try:
        result = work(connection)
    except IntegrityError as error:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT operation")
        result = _Failed(error)
    except (DBAPIError, sqlite3.Error):
        raise
    except Exception as error:  # noqa: BLE001  # it belongs to whoever waits for this operation
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT operation")
        result = _Failed(error)
    connection.exec_driver_sql("RELEASE SAVEPOINT operation")
    return result


def _as_local_failure(path: Path, error: Exception) -> Exception:
    """What the machine did, as one line with an exit code; anything else is a bug and stays as it is."""
    if isinstance(error, DBAPIError) and not isinstance(error, IntegrityError):
        return LocalFailureError(
            f"{path}: the ledger cannot be written: {error.orig}; run again when that is mended"
        )
    return error
