"""A real browser for tests and measurements: Debian's Chromium, or whatever of the kind is on the path."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync"),
)
"""It draws without a GPU and keeps to itself."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser. While it runs this thread has an event loop that runs: no other may be started in it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PATH, args=list(FLAGS))
        yield browser
        browser.close()
