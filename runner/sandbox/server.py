"""Runs the sandbox as a process of its own."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable

from aiohttp import web

from runner.sandbox.app import create_app
from runner.sandbox.options import Options

UNIX_BASE_URL = "http://sandbox"
"""What stands before the path in requests over the Unix socket; any host would do."""


def serve(options: Options) -> None:
    """Serve until SIGTERM, SIGINT or, if asked for, the end of stdin. Call from the main thread.

    Prints its base URL as the first line of stdout once it listens. Raises OSError if it cannot listen or write
    its files, ValueError for options that make no sense.
    """
    asyncio.run(_serve(options))


async def _serve(options: Options) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    # An interrupted sandbox does not wait for answers: who still wants one sees the connection break.
    runner = web.AppRunner(create_app(options), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        print(await _listen(runner, options), flush=True)  # noqa: T201
        if options.until_stdin_closes:
            _watch_stdin(lambda: loop.call_soon_threadsafe(ended.set))
        await ended.wait()
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, options: Options) -> str:
    """Listen and return the base URL."""
    if options.uds is not None:
        # The loop removes a socket file that is already there, so a killed sandbox is no obstacle.
        await web.UnixSite(runner, str(options.uds)).start()
        return UNIX_BASE_URL
    await web.TCPSite(runner, options.host, options.port or 0).start()
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _watch_stdin(call: Callable[[], object]) -> None:
    """Call when stdin ends. A thread, because the loop can watch pipes but neither files nor /dev/null."""

    def watch() -> None:
        while os.read(0, 65536):
            pass
        call()

    threading.Thread(target=watch, name="stdin", daemon=True).start()
