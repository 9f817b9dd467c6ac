"""Every command: a few lines each. What they do is in `runner.app`."""

import csv
import itertools
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import runner.cli.gallery  # noqa: F401 - its command
from runner.app.settings import Options
from runner.cli.base import (
    AnyJob,
    AsJson,
    BaseUrl,
    Budget,
    By,
    Concurrency,
    Database,
    Detach,
    Lane,
    Manifests,
    OneJob,
    OneManifest,
    Output,
    Rpm,
    Sandbox,
    Yes,
    cli,
    emit,
    examples,
    face,
)
from runner.cli.starting import completion, doctor, init
from runner.core.errors import UsageError

__all__ = ["cli", "completion", "doctor", "init"]


class Format(StrEnum):
    """Export formats."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


_FORMATS = {"": Format.JSONL, **{f".{one}": one for one in Format}}


class LogFormat(StrEnum):
    """How the log is written."""

    TEXT = "text"
    JSON = "json"


@cli.command(epilog=examples("plan jobs/banana-poster.yaml", "plan jobs/banana-poster.yaml --budget 5 --json"))
def plan(
    manifest: OneManifest,
    database: Database = None,
    output: Output = None,
    base_url: BaseUrl = None,
    sandbox: Sandbox = False,
    budget: Budget = None,
    rpm: Rpm = None,
    concurrency: Concurrency = None,
    lane: Lane = None,
    by: By = None,
    show: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="The exact request of one task instead: a key, a path, the start of one, a prompt's id.",
        ),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Say what would be rendered, what is there, what it costs, whether it fits the cap. Changes nothing."""
    from runner.app.reports import plan_manifest, plan_object
    from runner.cli.tables import plan_table

    options = Options(
        database=database,
        output=output,
        base_url=base_url,
        sandbox=sandbox,
        budget=budget,
        rpm=rpm,
        concurrency=concurrency,
        lane=lane,
        by=by,
        yes=yes,
    )
    if show is not None:
        _show(manifest, show, options, as_json=as_json)
        return
    planned = plan_manifest(manifest, options, os.environ)
    if as_json:
        face().notes(planned)
    emit(plan_object(planned), as_json=as_json, text=lambda: plan_table(planned))
    raise typer.Exit(0 if planned.fits and planned.feasible else 3)


@cli.command(
    epilog=examples(
        "run jobs/banana-poster.yaml --sandbox",
        "run jobs/banana-poster.yaml --budget 5 --yes",
        "run jobs/csv.yaml jobs/tsv.yaml --rpm 60 --wait --log-format json",
    )
)
def run(
    manifests: Manifests,
    database: Database = None,
    output: Output = None,
    base_url: BaseUrl = None,
    sandbox: Sandbox = False,
    budget: Budget = None,
    rpm: Rpm = None,
    concurrency: Concurrency = None,
    lane: Lane = None,
    by: By = None,
    detach: Detach = False,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Seconds that SIGTERM lets requests in flight land.")
    ] = 25.0,
    sandbox_faults: Annotated[
        str | None, typer.Option(metavar="FAULTS", help="Faults of the sandbox: a preset or a file.")
    ] = None,
    sandbox_latency: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Seconds the sandbox takes.")
    ] = None,
    sandbox_seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of the sandbox.")] = None,
    sandbox_quota: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A quota of the sandbox, repeatable: rpm, tpm, ipm, rpd, spend (dollars in ten minutes), "
            "month (dollars).",
        ),
    ] = None,
    sandbox_speed: Annotated[
        float | None,
        typer.Option(
            metavar="FACTOR", min=0.001, help="How fast the sandbox's clock runs; the run's own stays the wall's."
        ),
    ] = None,
    sandbox_outage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUTAGE",
            help="An outage of the sandbox, START+LENGTH[:KIND] in seconds of its clock, repeatable: 60+30, "
            "60+30:timeout.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Sleep through a daily limit and go on.")] = False,
    forget_limits: Annotated[
        bool, typer.Option("--forget-limits", help="Ask anew what refusals have taught: rates, parked days.")
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            help="The log beside the ledger: text in DATABASE.log, json (a line each) in DATABASE.log.jsonl."
        ),
    ] = LogFormat.TEXT,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Record the plan and render until done, halted or interrupted. Running it again is resuming."""
    _check_sandbox(sandbox_faults, sandbox_quota or (), sandbox_outage or ())
    from runner.app.start import run_manifests
    from runner.app.words import next_lines

    options = Options(
        database=database,
        output=output,
        base_url=base_url,
        sandbox=sandbox,
        sandbox_faults=sandbox_faults,
        sandbox_latency_s=sandbox_latency,
        sandbox_seed=sandbox_seed,
        sandbox_quotas=tuple(sandbox_quota or ()),
        sandbox_speed=sandbox_speed,
        sandbox_outages=tuple(sandbox_outage or ()),
        budget=budget,
        rpm=rpm,
        concurrency=concurrency,
        lane=lane,
        by=by,
        detach=detach,
        yes=yes,
        grace_s=grace,
        wait=wait,
        forget_limits=forget_limits,
        log_format=log_format.value,
    )
    shown = face()
    result = run_manifests(manifests, options, os.environ, shown, shown.say)
    for line in next_lines(result, options):
        shown.say(line)
    if as_json:
        print(json.dumps(result))
    raise typer.Exit(result["exit_code"])


@cli.command(epilog=examples("status", "status banana-poster --json", "status --watch"))
def status(
    job: AnyJob = None,
    database: Database = None,
    sandbox: Sandbox = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again until interrupted or done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Progress, spend against cap, rate, ETA and what stopped it."""
    from runner.app.reports import read_status
    from runner.cli.tables import status_table
    from runner.cli.watch import watch_status

    options = Options(database=database, sandbox=sandbox)
    if watch:
        watch_status(lambda: read_status(job, options, os.environ))
    found = read_status(job, options, os.environ)
    emit(found.as_object(), as_json=as_json, text=lambda: status_table(found))
    raise typer.Exit(found.exit_code)


@cli.command(epilog=examples("export banana-poster --format csv --to pictures.csv"))
def export(
    job: OneJob,
    database: Database = None,
    sandbox: Sandbox = False,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="jsonl, csv, or parquet (an extra); else as the file of --to ends, or jsonl.",
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="A file instead of stdout.")] = None,
    orphaned: Annotated[bool, typer.Option("--all", help="Also tasks the manifest no longer names.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --to: one JSON object on stdout, saying what was written.")
    ] = False,
) -> None:
    """One row per task, as JSON lines, CSV or Parquet."""
    from runner.app.reports import export_rows

    if as_json and to is None:
        raise UsageError("--json says what was written to the file of --to; without one, the rows go to stdout")
    if format_ is None:
        format_ = _format_of(to)
    if format_ is Format.PARQUET:
        _ready_for_parquet(to)
    rows = export_rows(job, Options(database=database, sandbox=sandbox), os.environ, orphaned=orphaned)
    if to is None:
        _write_rows(rows, format_, sys.stdout.buffer if format_ is Format.PARQUET else sys.stdout)
        return
    count = _write_file(rows, format_, to)
    written = {"job": job, "rows": count, "format": str(format_), "to": str(to), "exit_code": 0}
    emit(written, as_json=as_json, text=lambda: f"job {job}: {count} row{'s' * (count != 1)} as {format_} in {to}")


@cli.command(
    epilog=examples(
        "promote banana-poster --where style=baroque --set size=4K",
        "promote drafts --pick chosen.txt --set size=2K --name finals",
    )
)
def promote(
    job: OneJob,
    pick: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The chosen: a key or a path a line; -: stdin.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=VALUE",
            help="The chosen: all with this size, aspect, model, prompt, variant or axis of your own; repeatable.",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="What is to differ, repeatable: size, aspect, model, thinking, variants (pictures of each).",
        ),
    ] = None,
    with_draft: Annotated[
        bool, typer.Option("--with-draft", help="The draft's picture goes along as the last reference.")
    ] = False,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the new job [JOB-final].")] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="The manifest; else beside that of the drafts.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the files.")] = False,
    database: Database = None,
    output: Output = None,
    base_url: BaseUrl = None,
    sandbox: Sandbox = False,
    budget: Annotated[
        str | None,
        typer.Option(metavar="USD", help="Cap of the new job in dollars, beside that of the drafts' account."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a follow-up job of chosen pictures with other settings: drafts become finals. Buys nothing."""
    from runner.app.promote import Wanted, promoted_object
    from runner.app.promote import promote as write
    from runner.cli.tables import promoted_table

    options = Options(database=database, output=output, base_url=base_url, sandbox=sandbox, budget=budget)
    wanted = Wanted(job, pick, tuple(where or ()), tuple(changes or ()), with_draft, name, to, force)
    made = write(wanted, options, os.environ)
    emit(promoted_object(made), as_json=as_json, text=lambda: promoted_table(made))


@cli.command(epilog=examples("prune banana-poster"))
def prune(
    job: OneJob,
    database: Database = None,
    output: Annotated[
        str | None, typer.Option("--output", help="Folder of the pictures, if it is not where the ledger has it.")
    ] = None,
    sandbox: Sandbox = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Move pictures of orphaned tasks, which the last run's manifest did not name, to superseded/ beside."""
    from runner.app.prune import prune as move
    from runner.app.prune import pruned_object
    from runner.cli.tables import pruned_table

    options = Options(database=database, output=output, sandbox=sandbox, yes=yes)
    pruned = move(job, options, os.environ, lambda found: face().agree(found, ask=not yes))
    emit(pruned_object(pruned), as_json=as_json, text=lambda: pruned_table(pruned))


@cli.command(epilog=examples("models", "models --json"))
def models(as_json: AsJson = False) -> None:
    """The catalog: sizes, aspects, tokens, prices per lane, retirement, with source and date."""
    from runner.app.reports import models_object
    from runner.cli.tables import models_table

    emit(models_object(), as_json=as_json, text=models_table)


@cli.command(epilog=examples("schema"))
def schema() -> None:
    """JSON Schema of the manifest, with the catalog's enums."""
    from runner.core.catalog import builtin
    from runner.core.schema import render

    print(render(builtin()), end="")


@cli.command(epilog=examples("sandbox --port 8080", "sandbox --port 0 --faults storm --rpm 60 --outage 60+30"))
def sandbox(
    port: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=65535, help="TCP port on loopback; 0: any.")
    ] = None,
    uds: Annotated[Path | None, typer.Option(metavar="PATH", help="A Unix socket instead of a port.")] = None,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    state: Annotated[Path, typer.Option(metavar="DIR", help="Folder of its bill and request log.")] = Path(
        "bulkrender-sandbox"
    ),
    faults: Annotated[
        str,
        typer.Option(
            metavar="FAULTS",
            help="A preset (none, mild, storm, night), a file, or name=share,name=share.",
        ),
    ] = "none",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of faults, usage and latency.")] = 0,
    speed: Annotated[
        float,
        typer.Option(metavar="FACTOR", min=0.001, help="How fast its clock runs: quotas, days, outages, delays."),
    ] = 1.0,
    latency: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Seconds an answer takes on average.")
    ] = 0.4,
    rpm: Annotated[
        str | None, typer.Option(metavar="N", help="Quota: requests in any minute, for each model.")
    ] = None,
    tpm: Annotated[
        str | None, typer.Option(metavar="N", help="Quota: input tokens in any minute, for each model.")
    ] = None,
    ipm: Annotated[
        str | None, typer.Option(metavar="N", help="Quota: images in any minute, for each model.")
    ] = None,
    rpd: Annotated[
        str | None, typer.Option(metavar="N", help="Quota: requests in a Pacific day, for each model.")
    ] = None,
    spend_per_10min: Annotated[
        str | None,
        typer.Option(
            "--spend-per-10min", metavar="USD", help="Quota: dollars in any ten minutes, all models together."
        ),
    ] = None,
    spend_per_month: Annotated[
        str | None,
        typer.Option(metavar="USD", help="Quota: dollars in a Pacific calendar month, all models together."),
    ] = None,
    spent_this_month: Annotated[
        str,
        typer.Option(
            metavar="USD", help="Dollars of that quota already spent in the month in which it first started."
        ),
    ] = "0",
    count_rejected: Annotated[
        bool, typer.Option("--count-rejected", help="Requests that a quota rejects use it up as well.")
    ] = False,
    nameless_quotas: Annotated[
        bool, typer.Option("--nameless-quotas", help="A quota refuses without its name, its limit and a delay.")
    ] = False,
    no_quota_values: Annotated[
        bool, typer.Option("--no-quota-values", help="A refusal does not say how large the quota is.")
    ] = False,
    outage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUTAGE",
            help="An outage, START+LENGTH[:KIND], repeatable: seconds of its clock from its first start, and how "
            "long. KIND: 503, 500, 504, timeout (no answer), refuse (closed unread).",
        ),
    ] = None,
    until_stdin_closes: Annotated[bool, typer.Option("--until-stdin-closes", help="End with the parent.")] = False,
) -> None:
    """Serve the sandbox. Prints its base URL first; takes the key in GEMINI_API_KEY, else `sandbox`."""
    from runner.app.serving import serve_sandbox

    if (port is None) == (uds is None):
        raise typer.BadParameter("give either --port or --uds")
    quotas = {"rpm": rpm, "tpm": tpm, "ipm": ipm, "rpd": rpd, "spend": spend_per_10min, "month": spend_per_month}
    serve_sandbox(
        port=port,
        uds=uds,
        host=host,
        state_dir=state,
        key=os.environ.get("GEMINI_API_KEY") or "sandbox",
        faults=faults,
        seed=seed,
        speed=speed,
        latency_s=latency,
        quotas={name: text for name, text in quotas.items() if text is not None},
        spent_this_month=spent_this_month,
        count_rejected=count_rejected,
        nameless_quotas=nameless_quotas,
        quota_values=not no_quota_values,
        outages=outage or (),
        until_stdin_closes=until_stdin_closes,
    )


def _show(manifest: Path, word: str, options: Options, *, as_json: bool) -> None:
    from runner.app.show import show

    request = show(manifest, word, options, os.environ)
    print(json.dumps(request.as_object()) if as_json else request.as_text())


def _check_sandbox(faults: str | None, quotas: Sequence[str], outages: Sequence[str]) -> None:
    """Refuse what the sandbox could not be started with before anything is recorded."""
    if faults or quotas or outages:
        from runner.app.serving import read_faults, read_outages, read_quotas

        read_faults("--sandbox-faults", faults or "none")
        read_quotas("--sandbox-quota", quotas)
        read_outages("--sandbox-outage", outages)


def _format_of(to: Path | None) -> Format:
    """What the name of the file says; JSON lines where there is none, or it ends in nothing."""
    ending = "" if to is None else to.suffix.lower()
    if ending not in _FORMATS:
        from runner.core.shape import listed

        raise UsageError(
            f"--to {to}: {ending} is none of the formats that there are: end its name in "
            f"{listed([f'.{one}' for one in Format])}, or say which it is to be with --format"
        )
    return _FORMATS[ending]


def _write_file(rows: Any, format_: Format, to: Path) -> int:
    """Beside it first, so that an export that fails leaves the one before as it is. How many rows it has."""
    part = to.with_name(f".{to.name}.part")
    if to.exists() and not to.is_file():
        raise UsageError(f"--to {to}: is not a file")
    try:
        count = itertools.count()
        with _opened(part, format_) as file:
            _write_rows((row for row, _ in zip(rows, count, strict=False)), format_, file)
        part.replace(to)
        return next(count)
    except OSError as error:
        raise UsageError(f"--to {to}: {(error.strerror or str(error)).lower()}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _ready_for_parquet(to: Path | None) -> None:
    """Refuse before anything is read."""
    from runner.app.parquet import require

    require()
    if to is None and sys.stdout.isatty():
        raise UsageError("--format parquet is not for a terminal: add --to FILE")


def _opened(part: Path, format_: Format) -> Any:
    if format_ is Format.PARQUET:
        return part.open("wb")
    return part.open("w", encoding="utf-8", newline="")


def _write_rows(rows: Any, format_: Format, file: Any) -> None:
    from runner.app.views import EXPORT_COLUMNS

    if format_ is Format.PARQUET:
        from runner.app.parquet import write

        write(rows, file)
        return
    if format_ is Format.JSONL:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False), file=file)
        return
    writer = csv.DictWriter(file, EXPORT_COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "axes": json.dumps(row["axes"], ensure_ascii=False)})


# at the end, so that `--help` lists them after those above
from runner.cli import gallery, ledger, repair, report, retry  # noqa: E402, F401 - they add their commands
