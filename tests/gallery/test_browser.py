"""The gallery as people see it: opened from disk in a real browser, by mouse, keyboard and thumb."""

import shutil
from pathlib import Path

import pytest

from tests.gallery.chromium import PATH, chromium
from tests.gallery.command import bulkrender, gallery_of
from tests.gallery.hostile import JOB, STYLES, TEXTS, write_hostile

pytestmark = [
    pytest.mark.skipif(PATH is None, reason="no Chromium on the path: apt-get install chromium"),
    pytest.mark.timeout(300),  # the first one renders two jobs in the sandbox
]

MIXED = """
job: mixed
model: gemini-3.1-flash-image-preview
prompts:
  - {id: cat, text: "A cat in {style}"}
  - {id: dog, text: "A dog in {style}"}
  - {id: owl, text: "An owl in {style}", matrix: {style: [ink]}}
matrix: {size: 512, aspect: [1:1, 16:9], style: [ink, chalk]}
variants: 6
retry: {attempts: 1, refused: 1}
budget: {usd: 1.60}
"""
FAULTS = "image_safety=0.15,wrong_pixels=0.15,overrun=0,details_missing=0"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A half-done job with pictures, refusals and pictures that are not what was ordered."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "mixed.yaml").write_text(MIXED)
    done = bulkrender(
        folder, "run", "mixed.yaml", "--sandbox-faults", FAULTS, "--sandbox-latency", 0, "--rpm", 100_000
    )
    assert done.returncode == 3
    return gallery_of(folder, "mixed")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    path = write_hostile(folder)
    assert bulkrender(folder, "run", path, "--sandbox-latency", 0, "--rpm", 100_000).returncode == 0
    return gallery_of(folder, JOB)


@pytest.fixture(scope="module")
def browser(mixed, hostile):
    """One for all; started last."""
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser):
    """Open a page of its own; in the end nothing may have gone wrong, and nothing have been asked of others."""
    pages, wrong, asked = [], [], []

    def opened(index, address="", *, width=1200, height=800, dark=False, touch=False):
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", has_touch=touch
        )
        pages.append(page)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(index.as_uri() + address)
        return page

    yield opened
    for page in pages:
        assert page.evaluate("window.hacked") is None
        page.close()
    assert wrong == []
    assert asked
    assert [url for url in asked if not url.startswith("file:///")] == []


def tasks(page):
    return page.evaluate("GALLERY.tasks.length")


def counts(page):
    """State -> number on its chip."""
    chips = page.locator("#states .chip").all()
    return {chip.get_attribute("data-state"): int(chip.locator("b").inner_text()) for chip in chips}


def passing(page):
    return int(page.locator("#count").inner_text().split()[0])


def open_menu(page, axis):
    """The labels of its values."""
    page.locator("summary", has_text=axis).click()
    page.locator(".menu[open] label").first.wait_for()
    return page.locator(".menu[open] label")


# --- texts that are none of markup ---


def test_hostile_texts_are_shown_and_do_nothing(visit, hostile):
    page = visit(hostile)
    assert page.locator("#job").inner_text() == JOB
    assert page.title() == f"{' '.join(JOB.split())}: gallery"
    seen = set()
    page.locator(".tile").first.click()
    for _ in range(tasks(page)):
        seen.add(page.locator("#details .prompt").first.text_content())
        page.keyboard.press("ArrowRight")
    assert seen == set(TEXTS.values())
    page.keyboard.press("Escape")
    assert open_menu(page, "style").locator("span").all_text_contents() == list(STYLES)
    page.keyboard.press("Escape")
    page.keyboard.press("v")
    assert page.locator(".top .label").all_text_contents() == list(STYLES)
    assert {"script", "image"} <= set(page.locator(".side .label").all_text_contents())


def test_hostile_texts_are_found_and_survive_the_address(visit, hostile):
    page = visit(hostile)
    page.locator("#search").fill("</script><script>window.hacked")
    assert passing(page) == len(STYLES)
    open_menu(page, "style").nth(1).click()
    assert passing(page) == 1
    again = visit(hostile, page.evaluate("location.hash"))
    assert passing(again) == 1
    assert again.locator("#search").input_value() == "</script><script>window.hacked"


@pytest.mark.parametrize(
    "address",
    [
        "#open=<img src=x onerror=hacked=1>",
        "#rows=__proto__&columns=constructor&sort=__proto__",
        "#is.style=%ZZ&sort=%",
    ],
)
def test_an_address_cannot_do_anything_either(visit, hostile, address):
    page = visit(hostile, address)
    assert page.locator(".tile").count() > 0


TRIES = ("document.body.innerHTML = '<b>x</b>'", "document.createElement('script').textContent = 'x'")


@pytest.mark.parametrize("code", TRIES)
def test_markup_and_code_would_be_refused_even_if_somebody_made_some(browser, hostile, code):
    page = browser.new_page()
    page.goto(hostile.as_uri())
    script = f"() => {{ try {{ {code}; return 'done'; }} catch (error) {{ return error.constructor.name; }} }}"
    assert page.evaluate(script) == "TypeError"
    page.close()


def test_nothing_can_be_asked_of_other_places(browser, hostile):
    page = browser.new_page()
    page.goto(hostile.as_uri())
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    refused = page.evaluate(
        "() => new Promise((done) => {"
        "addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));"
        "new Image().src = 'https://example.invalid/x.png'; })"
    )
    assert refused == "img-src"
    assert page.evaluate("() => fetch('https://example.invalid').then(() => true, () => false)") is False
    page.close()


# --- a half-done job ---


def test_states_are_counted_shown_and_filtered(visit, mixed):
    page = visit(mixed)
    by_state = counts(page)
    assert set(by_state) == {"succeeded", "refused", "failed", "queued"}
    assert sum(by_state.values()) == tasks(page) == passing(page) == 60
    assert "stopped: " in page.locator("#stopped").inner_text()
    page.locator(".chip[data-state=refused]").click()
    assert passing(page) == by_state["refused"]
    assert page.locator(".tile .placeholder").first.inner_text().split() == ["⊘", "refused", "image_safety"]
    assert counts(page) == by_state
    page.locator(".chip[data-state=failed]").click()
    assert passing(page) == by_state["refused"] + by_state["failed"]
    assert page.locator(".tile.rejected img").count() > 0
    page.locator("#clear").click()
    assert passing(page) == 60
    page.locator(".chip[data-state=queued]").click()
    page.locator(".tile").first.click()
    assert page.locator(".verdict").inner_text() == "queued"
    assert page.locator("#pick").is_disabled()


def test_an_axis_filters_and_says_how_many_are_left(visit, mixed):
    page = visit(mixed)
    styles = open_menu(page, "style")
    assert styles.all_inner_texts() == ["ink\n36", "chalk\n24"]
    styles.nth(1).click()
    assert passing(page) == 24
    page.keyboard.press("Escape")
    prompts = open_menu(page, "prompt")
    assert prompts.all_inner_texts() == ["cat\n12", "dog\n12", "owl\n0"]
    prompts.first.click()
    assert passing(page) == 12
    assert page.evaluate("document.activeElement.type") == "checkbox"
    assert len(set(page.locator(".tile .name").all_inner_texts())) == 1


def test_the_pivot_has_every_task_in_its_cell(visit, mixed):
    page = visit(mixed)
    page.keyboard.press("v")
    assert page.locator(".side .label").all_inner_texts() == ["cat", "dog", "owl"]
    assert page.locator(".top .label").all_inner_texts() == ["ink", "chalk"]
    assert page.locator(".cell").count() == 6
    assert page.locator(".cell:empty").count() == 1
    assert page.locator(".cell .more").all_inner_texts() == ["+4"] * 5
    page.locator("#rows").select_option(label="aspect")
    assert page.locator(".side .label").all_inner_texts() == ["1:1", "16:9"]
    page.keyboard.press("Escape")
    page.locator("#swap").click()
    assert page.locator(".top .label").all_inner_texts() == ["1:1", "16:9"]
    page.locator(".cell .more").first.click()
    assert passing(page) == 18
    assert page.locator("#as-grid").get_attribute("aria-pressed") == "true"


def test_every_picture_has_its_prompt_settings_and_cost(visit, mixed):
    page = visit(mixed, "#state=succeeded")
    page.locator(".tile").first.click()
    page.wait_for_function("() => document.querySelector('#picture .whole')?.naturalWidth > 400")
    shown = page.locator("#details").inner_text()
    task = page.evaluate("taskInView()")
    nanos = task["cost_nanos"]
    assert f"${nanos // 10**9}.{nanos % 10**9:09d}".rstrip("0") in shown
    for words in (
        page.evaluate("promptOf(taskInView())"),
        "thinking",
        "minimal",
        "1 attempt",
        task["key"],
        task["sha256"],
        task["path"],
    ):
        assert words in shown
    original = page.locator("#details a").get_attribute("href")
    assert (mixed.parent / original).resolve().is_file()


def test_the_keyboard_does_it_all(visit, mixed):
    page = visit(mixed)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    columns = page.evaluate("shown.columns")
    assert page.evaluate("document.activeElement.number") == columns + 1
    page.keyboard.press("Enter")
    assert page.locator("#where").inner_text() == f"{columns + 2} of 60"
    page.keyboard.press("End")
    assert page.locator("#where").inner_text() == "60 of 60"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert page.evaluate("document.activeElement.number") == 59
    page.keyboard.press("Home")
    assert page.evaluate("[document.activeElement.number, stage.scrollTop]") == [0, 0]
    page.keyboard.press("/")
    page.keyboard.type("owl")
    assert passing(page) == 12
    page.keyboard.press("Escape")
    assert passing(page) == 60
    page.keyboard.press("v")
    page.locator(".cell .tile").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#details h2").inner_text() == "dog"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert "larger, smaller tiles" in page.locator("#note").inner_text()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.task && nameOf(document.activeElement.task)") == "dog"


def test_back_closes_the_large_view(visit, mixed):
    page = visit(mixed, "#q=cat")
    page.locator(".tile").nth(2).click()
    page.keyboard.press("ArrowRight")
    address = page.evaluate("location.hash")
    page.go_back()
    assert not page.locator("#viewer").is_visible()
    assert passing(page) == 24
    again = visit(mixed, address)
    assert again.locator("#where").inner_text() == "4 of 24"
    again.keyboard.press("Escape")
    assert not again.locator("#viewer").is_visible()


def test_picks_are_kept_and_become_a_list_for_promote(visit, mixed, tmp_path):
    page = visit(mixed, "#state=succeeded")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("p")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("p")
    page.keyboard.press("Escape")
    assert page.locator("#picks").inner_text() == "★ 2 picked"
    page.reload()
    page.locator(".chip[data-state=picked]").click()
    assert passing(page) == 2
    keys = page.evaluate("latest.passing.map((task) => task.key)")
    page.locator("#picks").click()
    assert "bulkrender promote mixed --pick picks.txt" in page.locator("#note pre").inner_text()
    with page.expect_download() as saved:
        page.locator("#note a").click()
    saved.value.save_as(tmp_path / "picks.txt")
    assert (tmp_path / "picks.txt").read_text().split() == keys
    page.locator("#note button", has_text="Forget").click()
    assert not page.locator("#picks").is_visible()


def test_light_and_dark(visit, mixed):
    dark = visit(mixed, dark=True)
    paper = "getComputedStyle(document.body).backgroundColor"
    assert dark.evaluate(paper) == "rgb(19, 20, 21)"
    light = visit(mixed)
    assert light.evaluate(paper) == "rgb(251, 251, 250)"
    light.keyboard.press("t")
    light.keyboard.press("t")
    assert light.evaluate(paper) == "rgb(19, 20, 21)"
    light.reload()
    assert light.evaluate(paper) == "rgb(19, 20, 21)"


def test_a_phone(visit, mixed):
    page = visit(mixed, width=375, height=720, touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate("shown.columns") == 2
    assert not page.locator("#filters").is_visible()
    page.locator("#more").tap()
    page.locator("summary", has_text="style").tap()
    page.locator(".menu[open] label").first.tap()
    assert passing(page) == 36
    page.locator("#job").tap()
    page.locator(".tile").first.tap()
    picture, details = page.locator("#picture").bounding_box(), page.locator("#details").bounding_box()
    assert picture["width"] == details["width"] == 375
    assert picture["height"] + details["height"] == 720
    page.keyboard.press("Escape")
    page.locator("#as-pivot").tap()
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_what_is_far_away_does_not_exist(visit, mixed):
    page = visit(mixed, width=375, height=500)
    first = page.locator(".tile").count()
    assert first < 30
    page.evaluate("stage.scrollTo(0, stage.scrollHeight)")
    page.wait_for_function("() => shown.tiles.has(59)")
    assert page.locator(".tile").count() < 30
    assert not page.evaluate("shown.tiles.has(0)")
    page.wait_for_function("() => waiting.length + coming === 0")
    assert page.evaluate("[...document.querySelectorAll('.tile img')].every((one) => one.naturalWidth > 0)")


def test_a_folder_that_was_moved_still_opens(visit, mixed, tmp_path):
    copy = tmp_path / "a folder # 100% ünïcode"
    copy.symlink_to(mixed.parents[2], target_is_directory=True)
    page = visit(copy / "gallery" / "mixed" / "index.html", "#state=succeeded")
    page.locator(".tile").first.click()
    page.wait_for_function("() => document.querySelector('#picture .whole')?.naturalWidth > 400")


# --- a job that goes on ---

RENEWED = """
job: renewed
model: gemini-3.1-flash-image-preview
prompts: [{id: cat, text: A cat in chalk}, {id: dog, text: A dog in ink}]
matrix: {size: 512, style: [ink, chalk, tempera]}
variants: 8
budget: {usd: 100}
"""
SEEN = """() => {
  const top = stage.getBoundingClientRect().top + 40;
  const first = [...document.querySelectorAll(".tile")].find((one) => one.getBoundingClientRect().bottom > top);
  const held = document.activeElement;
  return {
    first: first.task.key, at: Math.round(first.getBoundingClientRect().top), held: held.task?.key,
    same: held.same, cursor: shown.taskAt(shown.cursor).key,
    address: location.hash, rows: view.rows, picks: [...picks],
  };
}"""


STAGES = {"begun": (1, RENEWED), "further": (1.6, RENEWED), "done": (100, RENEWED)}
STAGES["edited"] = (100, RENEWED.replace("[ink, chalk, tempera]", "[gouache, tempera]"))


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """The pictures and the gallery of a job at four times."""
    folder, kept = tmp_path_factory.mktemp("renewed"), tmp_path_factory.mktemp("stages")
    for name, (usd, text) in STAGES.items():
        (folder / "renewed.yaml").write_text(text)
        bulkrender(folder, "run", "renewed.yaml", "--budget", usd, "--sandbox-latency", 0, "--rpm", 100_000)
        gallery_of(folder, "renewed")
        shutil.copytree(folder / "renders-sandbox", kept / name)
    return kept


@pytest.fixture
def going_on(tmp_path, stages):
    """Bring a folder to one of these times, as the command does: newest.js after all else."""

    def on(name):
        newest = Path("gallery", "renewed", "newest.js")
        shutil.copytree(
            stages / name, tmp_path, dirs_exist_ok=True, ignore=lambda _, names: {"newest.js"} & set(names)
        )
        shutil.copy(stages / name / newest, tmp_path / f"{newest}.part")
        (tmp_path / f"{newest}.part").replace(tmp_path / newest)
        return tmp_path / newest.with_name("index.html")

    return on


def test_a_newer_gallery_is_shown_without_a_reload(visit, going_on):
    page = visit(going_on("begun"))
    page.evaluate("globalThis.opened = true")
    before = counts(page)["succeeded"]
    going_on("further")
    page.wait_for_function("(before) => !$('facts').textContent.startsWith(`${before} `)", arg=before)
    assert before < counts(page)["succeeded"] < 48
    assert page.evaluate("opened")


@pytest.mark.parametrize(
    "address", ["#state=succeeded&is.style=tempera&is.style=ink", "#state=succeeded&rows=variant&columns=style"]
)
def test_what_is_looked_at_stays_where_it_is(visit, going_on, address):
    page = visit(going_on("begun"), address, width=500, height=500)
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("p")
    page.evaluate("document.activeElement.same = true")
    page.evaluate("stage.scrollTop -= 30")
    page.wait_for_function("() => waiting.length + coming === 0")
    before, loaded = page.evaluate(SEEN), page.locator(".tile img").count()
    assert before["held"] in before["picks"]
    going_on("further")
    page.evaluate("look()")
    assert page.evaluate(SEEN) == before
    assert page.evaluate("GALLERY.tasks.filter((task) => task.path).length") > loaded


def test_the_large_view_stays_and_shows_what_has_come(visit, going_on):
    page = visit(going_on("begun"), "#is.style=ink")
    page.locator(".chip[data-state=queued]").click()
    page.locator(".tile").first.click()
    key = page.evaluate("taskInView().key")
    assert page.locator(".verdict").inner_text() == "queued"
    going_on("done")
    page.evaluate("look()")
    assert page.locator(".verdict").inner_text() == "succeeded"
    assert page.locator("#details .prompt").first.inner_text() == page.evaluate("promptOf(taskInView())")
    assert page.locator("#picture .whole").count() == 1
    assert page.evaluate("[taskInView().key, location.hash.includes(taskInView().key)]") == [key, True]
    page.evaluate("$('picture').firstElementChild.same = true; written = 0")
    page.evaluate("look()")
    assert page.evaluate("$('picture').firstElementChild.same")
    page.keyboard.press("Escape")
    assert passing(page) == 0
    assert page.locator(".chip[data-state=queued]").get_attribute("aria-pressed") == "true"


def test_an_edit_of_the_manifest_keeps_the_filters_that_still_mean_something(visit, going_on):
    page = visit(going_on("done"), "#is.style=tempera&is.prompt=cat")
    assert passing(page) == 8
    going_on("edited")
    page.evaluate("look()")
    assert passing(page) == 8
    assert open_menu(page, "style").locator("span").all_text_contents() == ["gouache", "tempera"]


def test_it_looks_only_while_there_is_something_to_see(visit, going_on):
    asks = """() => {
      let times = 0;
      const { setTimeout } = globalThis;
      globalThis.setTimeout = () => { times++; };
      lookLater();
      globalThis.setTimeout = setTimeout;
      return times;
    }"""
    page = visit(going_on("begun"))
    asked = []
    page.on("request", lambda request: asked.append(request.url) if ".js?" in request.url else None)
    assert page.evaluate(asks) == 1
    page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    going_on("done")
    page.evaluate("look()")
    assert (page.evaluate(asks), asked) == (0, [])
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_function("() => GALLERY.done && !looking")
    assert counts(page) == {"succeeded": 48}
    assert page.evaluate(asks) == 0


def test_a_folder_that_is_gone_for_a_while_does_no_harm(browser, going_on):
    index = going_on("begun")
    page = browser.new_page()
    page.goto(index.as_uri())
    index.with_name("newest.js").rename(index.with_name("away"))
    page.evaluate("look()")
    assert page.locator(".tile").count() > 0
    going_on("done")
    page.evaluate("look()")
    assert counts(page) == {"succeeded": 48}
    page.close()
