"""Checks what a run needs before it begins, and says for each what to do. Buys nothing, leaves nothing behind."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
from pydantic import SecretStr

from runner.adapters.files import Files, RealFiles
from runner.app import local
from runner.app.campaign import Campaign, load
from runner.app.child import sandbox_child
from runner.app.endpoint import Asked, ask
from runner.app.finding import MANIFEST, Finding
from runner.app.notify import finding as told
from runner.app.settings import Options, Settings, read_key, resolve
from runner.app.starter import model_to_start_with
from runner.app.views import Json
from runner.core.catalog import Model
from runner.core.errors import RunnerError, UsageError

ORDER = (2, 5, 4, 0)
"""Which code wins: a run is refused first, then finds no room, then meets the provider."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Every check in the order in which a run would meet it."""

    findings: tuple[Finding, ...]
    command: str
    """What to type next where all is well."""

    @property
    def exit_code(self) -> int:
        """That a run would end with as things are; 0: nothing stands in its way."""
        return min((finding.exit_code for finding in self.findings), key=ORDER.index, default=0)

    def as_object(self) -> Json:
        """`doctor --json`."""
        checks = [
            {
                "check": one.check,
                "state": one.state,
                "says": one.says,
                "remedy": one.remedy or None,
                "exit_code": one.exit_code,
            }
            for one in self.findings
        ]
        return {"checks": checks, "exit_code": self.exit_code}


def examine(
    manifest: Path | None,
    options: Options,
    environment: Mapping[str, str],
    *,
    files: Files | None = None,
    utc: Callable[[], float] = time.time,
) -> Diagnosis:
    """Check everything; UsageError only for options that cannot be meant."""
    settings = resolve(options, environment)
    campaign, of_manifest = _manifest(manifest, settings)
    with tempfile.TemporaryDirectory(prefix="bulkrender-doctor-") as state:  # of a sandbox; the ledger's own stays
        asked = anyio.run(_ask, settings, campaign, Path(state))
    found = [
        *of_manifest,
        local.key(settings),
        *asked.findings,
        local.clock(utc() - asked.seconds / 2, asked.date_utc),
        local.output(settings, campaign, files or RealFiles()),
        local.database(settings),
    ]
    if campaign is not None and (one := told(campaign.manifest.notify, environment)) is not None:
        found.append(one)
    return Diagnosis(tuple(_merged(found)), _next(manifest, options))


def _manifest(path: Path | None, settings: Settings) -> tuple[Campaign | None, list[Finding]]:
    if path is None:
        return None, []
    try:
        campaign = load(path, settings)
    except RunnerError as error:
        remedy = f"correct what is named; `bulkrender plan {path}` says when it is right"
        return None, [Finding(MANIFEST, str(error), remedy, error.exit_code)]
    return campaign, [Finding(MANIFEST, f"{path}: job {campaign.job}, {len(campaign.specs)} tasks")]


async def _ask(settings: Settings, campaign: Campaign | None, state: Path) -> Asked:
    key: SecretStr | None = None
    with suppress(UsageError):
        key = read_key(settings)
    models = campaign.models if campaign is not None else _usual()
    where = "" if campaign is None else f"{campaign.manifest.file}:{campaign.manifest.model_line}"
    if not settings.sandbox:
        return await ask(settings, key, models, where, None)
    async with sandbox_child(settings, state) as socket:
        return await ask(settings, key, models, where, socket)


def _usual() -> dict[str, Model | None]:
    """The model that `init` writes, to have one to ask for."""
    model = model_to_start_with()
    return {model.id: model}


def _merged(findings: list[Finding]) -> Iterator[Finding]:
    """What the service says of a key replaces what this machine could say of it."""
    last = {finding.check: finding for finding in findings if finding.check == "key"}
    for finding in findings:
        if finding.check == "key" and finding is not last["key"] and not finding.remedy:
            continue
        yield finding


def _next(manifest: Path | None, options: Options) -> str:
    words = ["bulkrender", "plan", str(manifest)] if manifest else ["bulkrender", "init"]
    return " ".join([*words, "--sandbox"] if manifest and options.sandbox else words)
