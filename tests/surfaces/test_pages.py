"""The pages below docs/: those the code writes are in step with it, links lead somewhere, the tutorial runs."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from runner.app.campaign import DEFAULT_CONCURRENCY
from runner.app.views import EXPORT_COLUMNS
from runner.core.catalog import builtin
from runner.core.manifest import parse
from tests.surfaces.pages import DOCS, PAGES, fields

ROOT = DOCS.parent
TUTORIAL = (DOCS / "tutorial.md").read_text()
DATASET = (DOCS / "dataset.md").read_text()


def sh_blocks(page):
    """(why it is not run, lines) of each."""
    return re.findall(r"^(<!-- not run: [a-z ]+ -->\n)?```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


BLOCKS = sh_blocks(TUTORIAL)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_what_the_code_writes(path):
    assert path.read_text() == PAGES[path](), "run `python -m tests.surfaces.pages`"


def default_of(field):
    """What the page tells of a field that is left out."""
    (found,) = re.findall(rf"^\| `{re.escape(field)}` \|.*\| ([^|]*) \|$", fields(), re.MULTILINE)
    return found


def test_the_defaults_it_tells_are_those_of_the_program():
    manifest = parse("job: j\nmodel: gemini-3.1-flash-image\nprompts: [a]\n", "j.yaml", builtin())
    given = {
        "variants": manifest.variants,
        "lane": manifest.lane,
        "verify": manifest.verify,
        "budget.on_exceed": manifest.budget.on_exceed,
        "budget.order": manifest.budget.order,
        "retry.attempts": manifest.retry.attempts,
        "retry.refused": manifest.retry.refused,
        "retry.unknown": manifest.retry.unknown,
        "batch.poll_s": int(manifest.batch.poll_s),
        "batch.settle_s": int(manifest.batch.settle_s),
        "batch.lines": manifest.batch.lines,
        "batch.output_mb": manifest.batch.output_bytes // 10**6,
        "batch.jobs": manifest.batch.jobs,
        "batch.least": manifest.batch.least,
        "limits.concurrency": DEFAULT_CONCURRENCY,
    }
    assert {name: default_of(name) for name in given} == {name: str(value) for name, value in given.items()}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_its_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, link


def test_the_readme_leads_to_every_page():
    readme = (ROOT / "README.md").read_text()
    assert not [page.name for page in DOCS.glob("*.md") if f"](docs/{page.name})" not in readme]


@pytest.fixture
def reader(home):
    """What a reader has: the folder of examples, and the command on the path."""
    shutil.copytree(ROOT / "jobs", home / "jobs")
    program = home / "bin" / "bulkrender"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m runner "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "COLUMNS": "200"}


def follow(page, reader, home):
    """Type a whole page, and find there what it shows; all that was said."""
    script = "set -e\n" + "".join(lines for skipped, lines in sh_blocks(page) if not skipped)
    done = subprocess.run(
        ["bash", "-c", script], cwd=home, env=reader, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    shown = "".join(re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    for line in shown.splitlines():
        assert re.search(re.escape(line).replace("…", ".+"), said), line
    return said


@pytest.mark.timeout(300)
def test_the_page_on_data_sets_runs_and_names_every_column(reader, home):
    follow(DATASET, reader, home)
    assert not set(EXPORT_COLUMNS) - set(re.findall(r"`(\w+)`", DATASET))


@pytest.mark.timeout(300)
def test_the_tutorial_runs_from_its_first_line_to_its_last(reader, home):
    said = follow(TUTORIAL, reader, home)
    assert "shop-drafts: 8 of 8 pictures" in said
    assert "shop-cards: 12 of 12 pictures" in said
    assert "5000 tasks: 4992 new, 0 to try again, 8 done" in said
    assert (home / "renders-sandbox" / "gallery" / "robots" / "index.html").exists()
    assert len((home / "robots.csv").read_text().splitlines()) == 9
    assert (home / "robots-done.json").exists()


def test_little_of_it_is_not_run():
    assert [skipped.strip() for skipped, _ in BLOCKS if skipped] == [
        "<!-- not run: forty minutes -->",
        "<!-- not run: buys -->",
    ]
