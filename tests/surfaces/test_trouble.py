"""The page on what can go wrong: its lines are those that a run prints, or at least that the program has."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from runner.ledger import Ledger, database
from tests.surfaces.pages import DOCS

PAGE = (DOCS / "trouble.md").read_text()
RUNNER = DOCS.parent / "runner"
FAST = ("--sandbox", "--sandbox-latency", 0.01)
DRAWN = "details_missing=0,overrun=0"
SAYS = 10
"""Characters that a text of the program must share with a line to be its origin."""


def sections():
    """Every section with the lines it quotes."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:]
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        found = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        yield title, [line for block in found for line in block.splitlines()]


QUOTED = dict(sections())


def _texts(path: Path) -> Iterator[list[str]]:
    """Every text of a module: its fixed parts, in their order."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.JoinedStr(values=values):
                yield [one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            case ast.Constant(value=str(text)):
                yield re.split(r"%[sdi]", text)


@cache
def fixed_parts() -> frozenset[str]:
    """What all texts of the program have of their own, as long as it says something."""
    files = sorted(RUNNER.rglob("*.py"))
    parts = (part.strip() for path in files for parts in _texts(path) for part in parts)
    return frozenset(part for part in parts if len(part) >= SAYS)


@pytest.mark.parametrize("line", [line for lines in QUOTED.values() for line in lines])
def test_a_line_is_a_text_of_the_program(line):
    """Whatever stands between its `…` and says something, at least a part of it."""
    said = re.sub(r"^(?:error: |halted \(\w+\): )", "", line)
    parts = [part for part in re.split(r"…|\$", said) if len(part) >= SAYS]
    program = fixed_parts()
    assert all(any(part.strip() in text or text in part for text in program) for part in parts), line


def test_every_section_quotes_a_line():
    assert all(QUOTED.values())


def is_said(line: str, printed: str) -> bool:
    """Whether a line with `…` for what differs is among those printed."""
    form = re.compile(r"\s*" + re.escape(line).replace("…", ".*").replace(r"\ ", r"\s+") + r"\s*")
    return any(form.fullmatch(one) for one in printed.splitlines())


def capped(command, manifest):
    return command("run", manifest(), *FAST, "--budget", "0.05").err


def keyless(command, manifest):
    return command("run", manifest()).err


def parked(command, manifest):
    return command("run", manifest(), *FAST, "--sandbox-quota", "rpd=1").err


def unexplained(command, manifest):
    return command("run", manifest("retry: {attempts: 1}"), *FAST, "--sandbox-faults", f"cut=1,{DRAWN}").err


def sold_wrong(command, manifest):
    faults = f"wrong_pixels=1,{DRAWN}"
    return command("run", manifest("retry: {attempts: 1}"), *FAST, "--sandbox-faults", faults).err


def declined(command, manifest):
    faults = f"image_safety=1,{DRAWN}"
    return command("run", manifest("retry: {refused: 1}"), *FAST, "--sandbox-faults", faults).err


def live_ledger(name="bulkrender.db"):
    Ledger.open(f"sqlite:///{name}", "live", now_utc=0.0).close()


def of_the_other_kind(command, manifest):
    live_ledger()
    return command("run", manifest(), *FAST, "--database", "sqlite:///bulkrender.db").err


def revised(revision):
    with database.writing(Path("bulkrender.db").resolve()).begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")


def of_another_release(command, _manifest):
    live_ledger()
    revised("9999")
    newer = command("status").err
    revised("0001")
    older = command("status").err
    with database.writing(Path("bulkrender.db").resolve()).begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    return newer + older + command("status").err


def at_once(command, manifest):
    path = manifest()
    assert command("run", path, *FAST).code == 0
    url = "sqlite:///bulkrender-sandbox.db"
    with Ledger.open(url, "sandbox", now_utc=0.0) as ledger, ledger.lock_job("j"):
        return command("run", path, *FAST).err


def lost(command, manifest):
    path = manifest()
    assert command("run", path, *FAST).code == 0
    next(Path("renders-sandbox/j/a").glob("*.[jp][pn]g")).unlink()
    return command("run", path, *FAST).err


def put_back(command, manifest):
    path = manifest(prompts="[{id: a, text: a cat}]")
    assert command("run", path, *FAST).code == 0
    assert command("ledger", "backup", "older.db", "--sandbox").code == 0
    path = manifest()
    assert command("run", path, *FAST).code == 0
    Path("older.db").replace("bulkrender-sandbox.db")
    return command("run", path, *FAST).err


def altered(command, manifest):
    assert command("run", manifest(), *FAST).code == 0
    with database.writing(Path("bulkrender-sandbox.db").resolve()).begin() as connection:
        connection.exec_driver_sql("UPDATE attempt SET cost_nanos = cost_nanos - 1 WHERE id = 1")
    found = command("report", "j", "--sandbox")
    assert found.code == 1
    return found.out


def in_the_way(command, manifest):
    other = manifest(name="other.yaml", prompts="[a fish]")
    other.write_text(other.read_text().replace("job: j", "job: other"))
    assert command("run", other, *FAST).code == 0  # a ledger that has never heard of the job
    folder = Path("renders-sandbox/j/a")
    folder.mkdir(parents=True)
    (folder / "512-1x1-1.txt").touch()
    return command("run", manifest(), *FAST).err


SCENES = {
    "The cap is reached": (capped, 0),
    "The key is refused": (keyless, 1),
    "The daily limit": (parked, 0),
    "Money that nobody can explain": (unexplained, 0),
    "A ledger of the other kind": (of_the_other_kind, 0),
    "A ledger of another release, or of another program": (of_another_release, slice(None)),
    "A picture that is not what was ordered": (sold_wrong, 0),
    "Prompts that are refused": (declined, 0),
    "Two runs at once": (at_once, 0),
    "A picture was lost": (lost, 0),
    "An older copy of the ledger was put back": (put_back, slice(None)),
    "The books were altered": (altered, slice(None)),
    "Files in the way": (in_the_way, 0),
}
"""What leads to the lines of a section, and which of them."""


@pytest.mark.parametrize("title", SCENES)
def test_a_line_comes_out_of_a_run(title, command, manifest, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    scene, which = SCENES[title]
    printed = scene(command, manifest)
    quoted = QUOTED[title][which]
    for line in quoted if isinstance(quoted, list) else [quoted]:
        assert is_said(line, printed), printed


def test_a_wrong_key(live, manifest, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "wrong")
    assert is_said(QUOTED["The key is refused"][0], live("run", manifest()).err)
