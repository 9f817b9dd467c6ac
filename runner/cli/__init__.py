"""The command line: read arguments, call the app, print, exit."""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from runner.cli.completion import VARIABLE, prepare
from runner.core.errors import LocalFailureError, RunnerError

UNREAD = 128 + signal.SIGPIPE
"""Exit code where the reader of the output has gone: what a shell says of any program that ends so."""


def main() -> NoReturn:
    """Entry point of `bulkrender`: every error a person can act on is one clear line and an exit code."""
    from runner.cli.commands import cli

    if VARIABLE in os.environ:
        prepare()
    command = partial(cli, prog_name="bulkrender", standalone_mode=False)
    code = guarded(command, wants_json="--json" in sys.argv[1:])
    _flush()
    sys.exit(code)


def guarded(command: Callable[[], Any], *, wants_json: bool) -> int:
    """Run a command; errors become a line on stderr (an object on stdout under `--json`) and their exit code."""
    from typer._click.exceptions import ClickException  # typer carries its own click

    try:
        code = int(command() or 0)
        sys.stdout.flush()
    except ClickException as error:
        return _misuse(error, wants_json=wants_json)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # rich and click turn it into 1: "some tasks failed"
            return UNREAD
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        return _fail("interrupted; run again to resume", 130, wants_json=wants_json)
    except BrokenPipeError:
        return UNREAD
    except OSError as error:
        return _fail(f"cannot write the output: {error.strerror or error}", 5, wants_json=wants_json)
    except RunnerError as error:
        return _fail(str(error), error.exit_code, wants_json=wants_json)
    except BaseExceptionGroup as group:
        return _fail_group(group, wants_json=wants_json)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug is told, not thrown at people
        return _fail_bug(error, wants_json=wants_json)
    return code


def _misuse(error: Any, *, wants_json: bool) -> int:
    """Wrong options: the message and a hint, and the object under `--json` like any other error."""
    command = error.ctx.command_path if getattr(error, "ctx", None) else "bulkrender"
    said = " ".join(error.format_message().replace("Value error, ", "").split())
    if not said:  # no command at all: the help was printed
        return 2
    return _fail(f"{said} (try: {command} --help)", 2, wants_json=wants_json)


def _flush() -> None:
    """Write what is buffered; where nobody reads any more, keep the interpreter from trying: it would exit 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail_group(group: BaseExceptionGroup, *, wants_json: bool) -> int:
    known, other = group.split(RunnerError)
    if other is not None:
        return _fail_bug(other, wants_json=wants_json)
    first = _leaves(known)[0] if known is not None else LocalFailureError("unknown")
    return _fail(str(first), first.exit_code, wants_json=wants_json)


def _leaves(group: BaseExceptionGroup[RunnerError]) -> list[RunnerError]:
    found: list[RunnerError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _fail_bug(error: BaseException, *, wants_json: bool) -> int:
    kind = type(error).__name__
    return _fail(
        f"this is a bug in bulkrender ({kind}: {error}); the ledger is intact, run again to resume, "
        "and please report the last lines of the log beside the ledger",
        LocalFailureError.exit_code,
        wants_json=wants_json,
    )


def _fail(message: str, code: int, *, wants_json: bool) -> int:
    with suppress(OSError):
        for line in message.splitlines():
            print(f"error: {line}", file=sys.stderr)
    with suppress(OSError):
        if wants_json:
            print(json.dumps({"error": message, "exit_code": code}), flush=True)
    return code
