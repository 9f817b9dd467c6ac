"""The command line in this process, in an empty folder and a clean environment; a sandbox plays the service."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.cli import guarded
from runner.cli.commands import cli
from tests.sandbox.process import sandbox_process

CALM = "none,details_missing=0,overrun=0"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty working directory, no key, no settings."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in (
        "GOOGLE_API_KEY",
        "GEMINI_API_KEY",
        "GEMINI_API_KEY_FILE",
        "GOOGLE_GEMINI_BASE_URL",
        "BULKRENDER_DATABASE_URL",
        "BULKRENDER_OUTPUT",
    ):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def command(home, capsys):
    """Run a command as the console script does."""

    def run(*arguments):
        words = [str(argument) for argument in arguments]
        capsys.readouterr()
        code = guarded(
            lambda: cli(words, prog_name="bulkrender", standalone_mode=False), wants_json="--json" in words
        )
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Result(code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    """A sandbox on a port that the command line takes for the real service; its state folder and base URL."""
    state = tmp_path_factory.mktemp("service")
    with sandbox_process(state, latency_s=0.01, faults=CALM, port=0) as base_url:
        yield state, base_url


@pytest.fixture
def live(command, service, monkeypatch):
    """`run` against the service, with its key."""
    monkeypatch.setenv("GEMINI_API_KEY", "sandbox")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", service[1])
    return command


@pytest.fixture
def manifest(home):
    """Write a manifest of the job `j`; keyword arguments are more top-level lines."""

    def write(
        text: str = "", *, name="j.yaml", prompts="[{id: a, text: a cat}, {id: b, text: a dog}]", size="[512]"
    ):
        path = Path(name)
        path.write_text(
            f"job: j\nmodel: gemini-3.1-flash-image-preview\nprompts: {prompts}\n"
            f"matrix: {{size: {size}}}\n{text}\n"
        )
        return path

    return write
