"""The pictures of the gallery in the docs: `python -m tests.gallery.screenshots docs`.

A job of the sandbox as it is at night: most of it there, some refused, some not what was ordered, the rest queued.
"""

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page

from tests.gallery.chromium import chromium
from tests.gallery.command import bulkrender, gallery_of

MANIFEST = """
job: spring-campaign
model: gemini-3.1-flash-image
prompts:
  - {id: ceramic-mug, text: "A ceramic mug on a walnut table, morning light, in the style of {style}"}
  - {id: enamel-kettle, text: "An enamel kettle on a linen cloth, soft light, in the style of {style}"}
  - {id: desk-lamp, text: "A brass desk lamp beside a window at dusk, in the style of {style}"}
  - {id: oak-stool, text: "An oak stool in an empty room, low sun, in the style of {style}"}
  - {id: glass-vase, text: "A glass vase with one tulip, plain background, in the style of {style}"}
  - {id: wall-clock, text: "A round wall clock above a sideboard, in the style of {style}"}
  - {id: tea-towel, text: "A folded tea towel with a leaf print, seen from above, in the style of {style}"}
matrix: {size: [512], aspect: [1:1, 16:9], style: [product photo, gouache, ink drawing, risograph]}
retry: {attempts: 1, refused: 1}
budget: {usd: 2.10}
"""
FAULTS = "image_safety=0.06,wrong_pixels=0.05,overrun=0,details_missing=0"
COLOURS = 256
"""Of a PNG: what makes it small; with means that are moved until each colour is near one of them."""


def main(folder: Path) -> None:
    """Render, write the gallery, and take its pictures."""
    with tempfile.TemporaryDirectory() as home:
        place = Path(home)
        (place / "spring.yaml").write_text(MANIFEST)
        limits = ("--rpm", 100_000, "--concurrency", 1, "--sandbox-latency", 0, "--sandbox-seed", 4)
        bulkrender(place, "run", "spring.yaml", "--sandbox-faults", FAULTS, *limits)
        index = gallery_of(place, "spring-campaign")
        with chromium() as browser:
            for name, take in {"light": light, "dark": dark, "phone": phone}.items():
                save(take(browser, index.as_uri()), folder / f"gallery-{name}.png")


def light(browser: Browser, url: str) -> bytes:
    """The pivot by day."""
    page = opened(browser, f"{url}#rows=prompt&columns=style", width=1280, height=800)
    page.evaluate("setTile(196)")
    return taken(page)


def dark(browser: Browser, url: str) -> bytes:
    """One picture, large, by night."""
    page = opened(browser, f"{url}#state=succeeded&is.aspect=1:1", width=1280, height=800, color_scheme="dark")
    page.locator(".tile").nth(5).click()
    page.wait_for_function("() => document.querySelector('#picture .whole')?.complete")
    page.keyboard.press("p")
    return taken(page)


def phone(browser: Browser, url: str) -> bytes:
    """The grid in a hand."""
    page = opened(browser, url, width=390, height=780, device_scale_factor=2, has_touch=True, color_scheme="dark")
    return taken(page)


def opened(browser: Browser, url: str, *, width: int, height: int, **options: Any) -> Page:
    """The page with all its pictures."""
    page = browser.new_page(
        viewport={"width": width, "height": height}, locale="en-GB", timezone_id="UTC", **options
    )
    page.goto(url)
    return page


def taken(page: Page) -> bytes:
    """A picture of the page, once all that is in sight is loaded."""
    page.wait_for_function(
        "() => waiting.length + coming === 0 && [...document.images].every((one) => one.complete)"
    )
    page.evaluate("document.fonts.ready")
    picture = page.screenshot()
    page.close()
    return picture


def save(picture: bytes, path: Path) -> None:
    """As a small PNG."""
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(COLOURS, kmeans=4, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
