"""What README, ARCHITECTURE and CHANGELOG say is so."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from runner.adapters.material import Material
from runner.app.views import GRAVEST
from runner.cli.commands import cli
from runner.core.catalog import builtin
from runner.core.errors import RunnerError
from runner.core.manifest import parse
from runner.core.matrix import expand
from runner.core.schema import schema

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
MANIFEST = (ROOT / "docs" / "manifest.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()
GROUP: Any = typer.main.get_command(cli)

BRING_UV = "python3 -m pip install -qqU --target .tools uv=="
RENDER = "uv run --locked --no-dev bulkrender run jobs/banana-poster.yaml --sandbox"
TEST = "uv run --locked pytest"


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of a text in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def sh_lines() -> list[str]:
    """Every line a reader may type."""
    return [line for block in blocks("sh") for line in block.splitlines()]


def typed_commands() -> Iterator[str]:
    """The `bulkrender` part of every such line, and of every row of the table of commands."""
    for line in (*sh_lines(), *re.findall(r"^\| `(bulkrender [^`]*)`", README, re.MULTILINE)):
        if found := re.search(r"\bbulkrender (?!@).*", line):
            yield found[0]


def test_the_two_commands_bring_uv_and_do_the_rest():
    found = [line for line in sh_lines() if line.startswith(BRING_UV)]
    assert [line.partition(".tools/bin/")[2] for line in found] == [RENDER, TEST]


def test_the_first_command_prints_what_the_readme_shows(tmp_path):
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    command = [sys.executable, "-m", "runner", *RENDER.partition("bulkrender ")[2].split()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BULKRENDER_")}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = "\n".join(line.rstrip() for line in done.stderr.splitlines())
    assert blocks("text")[0].rstrip().endswith(printed), done.stderr
    assert done.returncode == 0


def test_ci_runs_the_second_command_word_for_word():
    second = next(line for line in sh_lines() if line.endswith(TEST))
    assert second in [line.strip() for line in CI.splitlines()]


def test_ci_runs_every_other_check():
    for check in (
        "ruff format --check",
        "ruff check",
        "mypy",
        "lint-imports",
        "schema import check",
        "uv lock --check",
    ):
        assert check in CI
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_every_command_is_in_the_table_of_commands():
    assert {command.split()[1] for command in typed_commands()} >= set(GROUP.commands)


@pytest.mark.parametrize("line", list(typed_commands()))
def test_a_command_line_parses(line):
    _, command, *words = shlex.split(re.sub(r"[…\[\]]", "", line).replace("--port N", "--port 0"))
    with GROUP.commands[command].make_context(command, words):
        pass


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[a-z-]+)[^`\n]*`", README)) - {"--help"}))
def test_an_option_that_is_named_exists(option):
    known = {
        name for command in GROUP.commands.values() for parameter in command.params for name in parameter.opts
    }
    assert option in known


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_manifest_is_right_and_expands(text):
    catalog = builtin()
    manifest = parse(text, "README.md", catalog)
    assert list(expand(manifest, catalog, Material(ROOT / "jobs")))


@pytest.mark.parametrize("fragment", blocks("yaml", MANIFEST))
def test_a_fragment_of_the_page_on_manifests_is_right_and_expands(fragment):
    """Below a job and, unless models are an axis, a model."""
    catalog = builtin()
    head = "job: page\n" + ("" if "\n  model:" in fragment else "model: gemini-3.1-flash-image\n")
    manifest = parse(head + fragment, "docs/manifest.md", catalog)
    assert list(expand(manifest, catalog, Material(ROOT / "jobs")))


@pytest.mark.parametrize("column", ["prompt", "text", "id", "references", "reference", "draft"])
def test_the_page_on_manifests_explains_every_column_with_a_meaning(column):
    assert re.search(rf"^\|.*`{column}`.*\|", MANIFEST, re.MULTILINE)


def test_the_first_manifest_is_the_job_that_is_rendered():
    assert blocks("yaml")[0] in (ROOT / "jobs" / "banana-poster.yaml").read_text()


def test_the_second_manifest_has_every_field():
    assert yaml.safe_load(blocks("yaml")[1]).keys() == schema(builtin())["properties"].keys()


@pytest.mark.parametrize("field", ["limits", "budget", "retry", "prices", "generation"])
def test_the_second_manifest_has_every_inner_field(field):
    described = schema(builtin())["properties"][field]["properties"]
    later = {name for name, inner in described.items() if "later release" in inner.get("description", "")}
    given = yaml.safe_load(blocks("yaml")[1])[field].keys()
    assert given >= described.keys() - later - {"image_tokens"}


def test_every_exit_code_is_explained():
    codes = {*GRAVEST, RunnerError.exit_code}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)} == codes


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:runner|migrations|jobs|tests)/[\w./-]*)`", ARCHITECTURE)))
)
def test_a_path_in_the_architecture_exists(path):
    assert (ROOT / path).exists()


def test_the_architecture_walks_from_yaml_to_image():
    walk = re.findall(r"^\d\. `(\S+)`", ARCHITECTURE, re.MULTILINE)
    assert [Path(path).stem for path in walk] == ["manifest", "matrix", "execute", "gemini", "storage"]


def test_the_architecture_names_every_package():
    packages = {path.parent.name for path in (ROOT / "runner").glob("*/__init__.py")}
    assert packages == set(re.findall(r"`runner/(\w+)/`", ARCHITECTURE))


def test_the_architecture_fits_a_screen():
    assert len(ARCHITECTURE.splitlines()) <= 80


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https:)([^)]+)\)", README))
def test_a_link_of_the_readme_leads_somewhere(link):
    assert (ROOT / link.partition("#")[0]).exists()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https:)([^)]+)\)", MANIFEST))
def test_a_link_of_the_page_on_manifests_leads_somewhere(link):
    assert (ROOT / "docs" / link).exists()


def test_the_changelog_has_this_release():
    release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## {re.escape(release)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
