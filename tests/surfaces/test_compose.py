"""docker-compose.yml says the truth: valid, closed, pinned, and its commands render when run as processes."""

import fnmatch
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PORT = "8791"


def mounts(service: str) -> dict[str, str]:
    """Where each volume or folder of a service is mounted."""
    return {source: target for source, target, *_ in (v.split(":") for v in SERVICES[service]["volumes"])}


def test_the_file_fits_the_compose_schema():
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, ROOT / "docker-compose.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_can_do_no_more_than_it_must(service):
    described = SERVICES[service]
    uid = described["user"].split(":")[0]
    assert uid.isdigit()
    assert uid != "0"
    assert described["read_only"]
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert all(str(port).startswith("127.0.0.1:") for port in described.get("ports", []))


def test_stopping_waits_longer_than_the_grace_of_the_runner():
    assert all(int(service["stop_grace_period"].removesuffix("s")) > 25 for service in SERVICES.values())


def test_no_key_stands_in_the_file_and_runners_read_theirs_from_a_secret():
    for name in ("runner", "live"):
        environment = SERVICES[name]["environment"]
        secrets = {s if isinstance(s, str) else s["target"] for s in SERVICES[name]["secrets"]}
        assert environment["GEMINI_API_KEY_FILE"].removeprefix("/run/secrets/") in secrets
        assert not {"GEMINI_API_KEY", "GOOGLE_API_KEY"} & environment.keys()


def test_what_reaches_the_sandbox_shares_no_volume_and_no_network_with_real_money():
    assert not {"ledger", "pictures", "bill"} & mounts("live").keys()
    assert {"/ledger", "/pictures"} <= set(mounts("runner").values())
    assert {"/ledger", "/pictures"} <= set(mounts("live").values())
    assert SERVICES["sandbox"]["networks"] == SERVICES["runner"]["networks"] == ["closed"]
    assert COMPOSE["networks"]["closed"]["internal"]
    assert "networks" not in SERVICES["live"]


def test_real_money_needs_to_be_named():
    assert SERVICES["live"]["profiles"] == ["live"]
    assert SERVICES["live"]["command"][0] == "plan"


def test_images_are_pinned_and_named_after_the_release():
    release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {service["image"] for service in SERVICES.values()} == {f"bulkrender:{release}"}
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases[0])


def test_the_image_is_built_by_the_uv_that_the_readme_pins():
    pins = re.findall(r"uv==([\d.]+)", DOCKERFILE + (ROOT / "README.md").read_text())
    assert len(pins) >= 3
    assert len(set(pins)) == 1


def test_what_the_image_copies_exists_and_reaches_the_builder():
    patterns = (ROOT / ".dockerignore").read_text().split()
    allowed = [pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")]
    copied = [
        source
        for line in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for source in line.split()
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed)


class Machine:
    """Services as processes: what they would mount lies below a folder, ports are the sandbox's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base_url = ""
        (folder / "jobs").symlink_to(ROOT / "jobs")

    def command(self, service: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "runner",
            *(self.here(service, word) for word in SERVICES[service]["command"]),
        ]

    def environment(self, service: str) -> dict[str, str]:
        ours = ("BULKRENDER_", "GEMINI_", "GOOGLE_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        described = SERVICES[service].get("environment", {})
        return inherited | {name: self.here(service, value) for name, value in described.items()}

    def here(self, service: str, word: str) -> str:
        """A word of the file as it is on this machine."""
        word = {PORT: "0", "0.0.0.0": "127.0.0.1"}.get(word, word)
        word = word.replace(f"http://sandbox:{PORT}", self.base_url)
        for secret in SERVICES[service].get("secrets", []):
            source, target = (secret, secret) if isinstance(secret, str) else (secret["source"], secret["target"])
            word = word.replace(f"/run/secrets/{target}", str(ROOT / COMPOSE["secrets"][source]["file"]))
        for target in mounts(service).values():
            word = re.sub(rf"(^|///){target}\b", rf"\g<1>{self.folder}{target}", word)
        return word

    @contextmanager
    def sandbox(self) -> Iterator[None]:
        """The sandbox service, listening."""
        command, environment = self.command("sandbox"), self.environment("sandbox")
        with subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                self.base_url = process.stdout.readline().strip()
                yield
            finally:
                process.terminate()

    def healthy(self) -> bool:
        port = self.base_url.rpartition(":")[2]
        kind, program, *words = SERVICES["sandbox"]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        check = [sys.executable, *(word.replace(PORT, port) for word in words)]
        return subprocess.run(check, check=False, stderr=subprocess.DEVNULL).returncode == 0


def test_the_commands_of_sandbox_and_runner_render_the_job(tmp_path):
    machine = Machine(tmp_path)
    for target in {*mounts("sandbox").values(), *mounts("runner").values()} - {"/work/jobs"}:
        (tmp_path / target.lstrip("/")).mkdir()
    with machine.sandbox():
        assert machine.healthy()
        done = subprocess.run(
            [*machine.command("runner"), "--json"],
            cwd=tmp_path,
            env=machine.environment("runner"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert not machine.healthy()
    tasks = json.loads(done.stdout)["tasks"]
    assert tasks["succeeded"] == tasks["total"] == 8
    assert len(list((tmp_path / "pictures").rglob("*.jpg"))) == 8
    assert len((tmp_path / "bill" / "bill.jsonl").read_text().splitlines()) == 8
    assert {path.name for path in tmp_path.iterdir()} == {"jobs", "ledger", "pictures", "bill"}
