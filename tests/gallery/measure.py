"""How quick the gallery is: `python -m tests.gallery.measure [--pictures 5000]`. Renders in the sandbox first.

Everything of the page is measured in Chromium without a GPU, which draws on the same cores.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page

from tests.gallery.chromium import chromium
from tests.gallery.command import bulkrender

MANIFEST = """
job: big
model: gemini-3.1-flash-image
prompts: [{{from: products.csv, text: "A studio shot of a {{product}} in the style of {{style}}"}}]
matrix: {{size: [512], aspect: [1:1, 16:9], style: [minimalist, baroque, ukiyo-e, film noir, gouache]}}
limits: {{rpm: 1000000, max_tasks: {tasks}}}
"""
CELLS = 10

FRAMES = """(pixels) => new Promise((done) => {
  const frames = [], end = stage.scrollHeight - stage.clientHeight;
  let before = performance.now();
  const step = (now) => {
    frames.push(now - before);
    before = now;
    stage.scrollTop += pixels;
    frames.length > 300 || stage.scrollTop >= end - 1 ? done(frames.slice(1)) : requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
"""Scroll by so many pixels in each frame, and tell how long each took."""

TIMED = "() => { const began = performance.now(); %s; return performance.now() - began; }"
EMPTY = "[...document.querySelectorAll('.tile img')].filter((one) => !one.src || !one.complete).length"


def main() -> None:
    """Render, write, open, scroll, filter; print a line for each."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pictures", type=int, default=5_000)
    pictures = options.parse_args().pictures
    with tempfile.TemporaryDirectory() as home:
        place = Path(home)
        rows = [f"p{number},product {number}" for number in range(pictures // CELLS)]
        (place / "products.csv").write_text("\n".join(["id,product", *rows]))
        (place / "big.yaml").write_text(MANIFEST.format(tasks=pictures))
        bulkrender(place, "run", "big.yaml", "--sandbox-latency", 0, "--sandbox-faults", "none")
        index = write(place)
        with chromium() as browser:
            look(browser, index.as_uri())


def write(place: Path) -> Path:
    """The gallery for the first time, and again; its page."""
    for what in ("written", "written again"):
        started = time.monotonic()
        answer = json.loads(bulkrender(place, "gallery", "big", "--json").stdout)
        say(what, f"{time.monotonic() - started:.1f} s, thumbnails {answer['thumbnails']}")
    for sheet in ("sheet.png", "sheet.pdf"):
        started = time.monotonic()
        bulkrender(place, "gallery", "big", "--contact-sheet", sheet)
        say(f"with {sheet}", f"{time.monotonic() - started:.1f} s, {(place / sheet).stat().st_size / 1e6:.1f} MB")
    index = Path(answer["gallery"])
    data, small = index.with_name("data.js").stat().st_size, (index.parent / "thumbnails").iterdir()
    say("size", f"data {data / 1e6:.1f} MB, thumbnails {sum(one.stat().st_size for one in small) / 1e6:.1f} MB")
    return index


def look(browser: Browser, url: str) -> None:
    """Open the page three times, then use it."""
    for _ in range(3):
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(url)
        page.wait_for_function(f"() => {EMPTY} === 0 && document.querySelector('.tile img')")
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        say("first paint", f"{paint:.0f} ms; all in sight there {page.evaluate('performance.now()'):.0f} ms")
        page.close()
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(url)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    for view in ("grid", "pivot"):
        page.evaluate(f"setAs('{view}')")
        for pixels in (30, 150, 1_500):
            frames = page.evaluate(FRAMES, pixels)
            say(f"{view}, {pixels} pixels a frame", frame_words(frames))
            page.evaluate("stage.scrollTop = 0")
        say(f"{view}, memory", memory(session, page))
    page.evaluate("setAs('grid')")
    for what, code in {
        "filter": "view.axes[axisNamed('style')] = new Set([1]); update()",
        "search": "view.query = 'product 77 baroque'; update()",
        "clear": "unfilter(); update()",
        "sort": "view.sort = 'dearest'; update()",
    }.items():
        took_ms = page.evaluate(TIMED % code)
        say(what, f"{took_ms:.0f} ms")


def frame_words(frames: list[float]) -> str:
    """How many, how long, how many took two turns of the screen or more."""
    late = sum(frame > 34 for frame in frames)
    worst = sorted(frames)[int(len(frames) * 0.99)]
    return f"{len(frames)} frames, median {median(frames):.1f} ms, 99 % {worst:.1f} ms, {late} over 34 ms"


def memory(session: CDPSession, page: Page) -> str:
    """JavaScript's heap and elements after a collection."""
    session.send("HeapProfiler.collectGarbage")
    facts: dict[str, Any] = {
        one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]
    }
    tiles = page.locator(".tile").count()
    return f"heap {facts['JSHeapUsedSize'] / 1e6:.1f} MB, {facts['Nodes']:.0f} nodes, {tiles} tiles"


def say(what: str, words: str) -> None:
    """One line."""
    print(f"{what:28} {words}", flush=True)  # noqa: T201 - that is what it is for


if __name__ == "__main__":
    main()
