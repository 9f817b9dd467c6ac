"""`--help` teaches by examples that parse; Tab completes commands, options and the names of jobs."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

from runner.cli.commands import cli
from runner.ledger.names import quick_job_names

GROUP: Any = typer.main.get_command(cli)
ROOT = Path(__file__).parents[2]


def examples(epilog):
    return [line.strip() for line in (epilog or "").splitlines() if line.strip().startswith("bulkrender ")]


def every_example():
    groups = [(name, one.epilog) for name, one in GROUP.commands.items()]
    return [(name, line) for name, epilog in groups for line in examples(epilog)]


def test_commands_are_listed_as_they_are_needed(command):
    listed = re.findall(r"^│ (\w+)  ", command("--help").out, re.MULTILINE)
    assert listed[:4] == ["init", "doctor", "plan", "run"]
    assert set(listed) == set(GROUP.commands)


def test_the_version_is_that_of_the_package(command):
    result = command("--version")
    assert (result.code, result.out) == (0, f"bulkrender {version('bulkrender')}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ""),
        (["completion"], "error: Missing argument 'shell'. Choose from: bash, zsh, fish (try: "),
        (
            ["export", "j", "--format", "xlsx"],
            "error: Invalid value for '--format': 'xlsx' is not one of 'jsonl',",
        ),
    ],
)
def test_what_is_typed_wrong_is_one_line_or_none(command, words, said):
    result = command(*words)
    assert result.code == 2
    assert result.err.startswith(said)
    assert result.err.count("\n") == bool(said)


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_every_command_has_an_example_of_its_own(name):
    lines = examples(GROUP.commands[name].epilog)
    assert lines
    assert all(line.split()[1] == name for line in lines)


@pytest.mark.parametrize("line", [line for _, line in every_example()] + examples(GROUP.epilog))
def test_an_example_parses(line):
    _, command, *words = shlex.split(line)
    with GROUP.commands[command].make_context(command, words):
        pass


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_help_shows_them(command, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = command(name, "--help")
    assert result.code == 0
    joined = " ".join(result.out.split())
    assert all(" ".join(line.split()) in joined for line in examples(GROUP.commands[name].epilog))
    assert max(map(len, result.out.splitlines())) <= 80
    assert "…" not in result.out, "a cell was cut"
    shown = set(result.out.split())
    hidden = [one.name for one in GROUP.commands[name].params if not shown.issuperset((one.help or "").split())]
    assert not hidden, "taken for markup"


def completed(shell, words, home, **more):
    """What a shell is told, as its script asks."""
    asked = {
        "bash": {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": " ".join(words)},
        "fish": {"_TYPER_COMPLETE_ARGS": " ".join(words), "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = {**os.environ, **asked, "_BULKRENDER_COMPLETE": f"complete_{shell}", **more}
    command = [sys.executable, "-c", "from runner.cli import main; main()"]
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def jobs(command, manifest, home):
    for name in ("spring", "summer", "autumn in japan"):
        path = manifest(name="x.yaml")
        path.write_text(path.read_text().replace("job: j", f"job: {name}"))
        assert command("run", path, "--sandbox", "--sandbox-latency", 0.01).code == 0
    return home


def test_commands_options_and_job_names_are_completed(jobs):
    assert "status" in completed("bash", ["bulkrender", "st"], jobs).split()
    assert "--log-format" in completed("bash", ["bulkrender", "run", "--log"], jobs).split()
    names = completed("bash", ["bulkrender", "export", "--sandbox", "s"], jobs).split()
    assert names == ["spring", "summer"]
    assert completed("bash", ["bulkrender", "status", "sp"], jobs).split() == ["spring"], "typed before --sandbox"
    assert "spring" in completed("zsh", ["bulkrender", "status", "sp"], jobs)
    assert "spring" in completed("fish", ["bulkrender", "status", "sp"], jobs)
    url = "sqlite:///bulkrender-sandbox.db"
    assert "summer" in completed("bash", ["bulkrender", "prune", "su"], jobs, BULKRENDER_DATABASE_URL=url)


def test_tab_loads_neither_sqlalchemy_nor_pydantic_nor_the_engine(jobs):
    code = (
        "import sys; from runner.cli.commands import cli; from runner.ledger.names import quick_job_names;"
        "print(quick_job_names('sqlite:///bulkrender-sandbox.db'));"
        "print(sorted({'sqlalchemy', 'pydantic', 'anyio', 'httpx', 'alembic'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=jobs,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["['autumn in japan', 'spring', 'summer']", "[]"]


@pytest.mark.parametrize("content", [None, b"", b"no database"])
def test_where_there_is_no_ledger_nothing_is_completed_and_nothing_made(home, content):
    path = Path("bulkrender.db")
    if content is not None:
        path.write_bytes(content)
    assert quick_job_names("sqlite:///bulkrender.db") == []
    assert quick_job_names("postgresql://h/d") == []
    assert path.exists() == (content is not None)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(command, shell):
    result = command("completion", shell)
    assert result.code == 0
    assert f"complete_{shell}" in result.out
    assert "#compdef" not in result.out


def test_bash_takes_the_script(jobs, command):
    script = command("completion", "bash").out
    folder = jobs / "bin"
    folder.mkdir()
    (folder / "bulkrender").write_text(f'#!/bin/sh\nexec {sys.executable} -m runner "$@"\n')
    (folder / "bulkrender").chmod(0o755)
    asked = (
        "COMP_WORDS=(bulkrender status sp); COMP_CWORD=2; _bulkrender_completion bulkrender; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{asked}"],
        cwd=jobs,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["spring"]
