"""The checks of `doctor` that ask this machine alone: key, output, database, clock, who is told."""

import os
from collections.abc import Mapping
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path

from runner.adapters.files import Files
from runner.adapters.pictures import largest_bytes
from runner.adapters.storage import RESERVE_BYTES
from runner.app.campaign import Campaign
from runner.app.figures import size
from runner.app.finding import CLOCK, DATABASE, KEY, OUTPUT, Finding
from runner.app.settings import Settings, read_key
from runner.core.errors import LedgerError, LocalFailureError, UsageError
from runner.ledger import Health, Ledger

CLOCK_OFF_S = 60.0
"""Beyond it days and months turn at the wrong moment, and what was uploaded is trusted after it has expired."""
LOCAL_FAILURE = LocalFailureError.exit_code
REFUSED = UsageError.exit_code


def key(settings: Settings) -> Finding:
    """Whether there is a key, and which one a run would take."""
    if settings.sandbox:
        return Finding(KEY, "the sandbox needs none")
    try:
        read_key(settings)
    except UsageError as error:
        says, _, remedy = str(error).partition(": ")
        return Finding(KEY, says, remedy or "check what the variable holds", REFUSED)
    given = [name for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY") if settings.environment.get(name, "").strip()]
    if len(given) > 1 and len({settings.environment[name].strip() for name in given}) > 1:
        says = f"{given[0]} and {given[1]} are both set and differ: {given[0]} wins, as in Google's SDK"
        return Finding(KEY, says, "unset the one that is not meant")
    if len(given) > 1:
        return Finding(KEY, f"{given[0]} and {given[1]} are both set, to the same key: {given[0]} wins")
    return Finding(KEY, f"from {given[0] if given else settings.environment['GEMINI_API_KEY_FILE']}")


def output(settings: Settings, campaign: Campaign | None, files: Files) -> Finding:
    """Whether pictures can be written where they are to go, and how many there is room for."""
    root = settings.output.absolute()
    folder = next(one for one in (root, *root.parents) if os.path.lexists(one))
    probe = folder / f".writable-{os.getpid()}.part"
    try:
        _write(files, probe)
    except OSError as error:
        return _unwritable(root, folder, error)
    free, largest = files.free(folder), _largest(campaign)
    room = max(0, free - RESERVE_BYTES) // largest
    says = f"{root}: writable, {size(free)} free"
    if not room:
        return Finding(
            OUTPUT,
            f"{says}: not enough for a picture of {size(largest)}, and {size(RESERVE_BYTES)} stay free",
            f"free some space below {folder}, or take another disk with --output",
            LOCAL_FAILURE,
        )
    if campaign is not None and room < len(campaign.specs):
        return Finding(
            OUTPUT,
            f"{says}: room for {room} of {len(campaign.specs)} pictures of {size(largest)} at most each",
            "watch it, or free some space: a run that finds no room stops, and goes on once there is some",
        )
    return Finding(OUTPUT, f"{says}: room for {room:,} pictures of {size(largest)} at most each")


def _write(files: Files, probe: Path) -> None:
    handle = files.create(probe)
    try:
        files.write(handle, b"bulkrender")
        files.sync(handle)
    finally:
        files.close(handle)
        with suppress(OSError):
            files.unlink(probe)


def _unwritable(root: Path, folder: Path, error: OSError) -> Finding:
    said = (error.strerror or type(error).__name__).lower()
    if error.errno in {ENOSPC, EDQUOT}:
        return Finding(OUTPUT, f"{root}: {said}", f"free some space below {folder}", LOCAL_FAILURE)
    remedy = f"make {folder} writable for this user, or choose another folder with --output"
    return Finding(OUTPUT, f"{root}: cannot be written ({said})", remedy, REFUSED)


def _largest(campaign: Campaign | None) -> int:
    """Bytes of the largest picture of the job, or of any."""
    return largest_bytes(None, "4K") if campaign is None else campaign.picture_bytes


def database(settings: Settings) -> Finding:
    """Whether the ledger can be opened, or made, and is one for this kind of run."""
    try:
        found = Ledger.health(settings.database)
    except LedgerError as error:
        says, _, remedy = str(error).partition("; ")
        return Finding(DATABASE, says, remedy or "name another file with --database", REFUSED)
    says = f"{found.path}: {_described(found)}"
    if found.kind not in {None, settings.kind}:
        return Finding(
            DATABASE,
            f"{found.path}: a {found.kind} ledger, and this would be a {settings.kind} run; the two never mix",
            "leave out --sandbox, or add it; or name another file with --database",
            REFUSED,
        )
    if not found.writable:
        remedy = f"give this user the right to write {found.path} and to make files beside it"
        return Finding(DATABASE, f"{says}: may not be written", remedy, REFUSED)
    if found.free_bytes < RESERVE_BYTES:
        remedy = f"free some space on the disk of {found.path.parent}: a ledger that cannot grow stops a run"
        return Finding(DATABASE, f"{says}: only {size(found.free_bytes)} free", remedy, LOCAL_FAILURE)
    if found.outdated:
        return Finding(DATABASE, says, "nothing: the next run upgrades it, after a backup copy beside it")
    return Finding(DATABASE, says)


def _described(found: Health) -> str:
    disk = "on a local disk" + (f" ({found.file_system})" if found.file_system else "")
    if found.revision is None:
        return f"none yet; the first run makes it, {disk}"
    return f"{found.kind}, revision {found.revision}, {disk}"


def clock(now_utc: float, date_utc: float | None) -> Finding:
    """How far this machine's clock is from the provider's, which says whole seconds."""
    if date_utc is None:
        return Finding(CLOCK, "not compared: no answer of the service said what time it is")
    off_s = now_utc - date_utc
    if abs(off_s) < CLOCK_OFF_S:
        return Finding(CLOCK, "agrees with the service's to within a minute")
    way = "ahead of" if off_s > 0 else "behind"
    return Finding(
        CLOCK,
        f"{_apart(abs(off_s))} {way} the service's",
        "set it (timedatectl set-ntp true): days and months of the limits turn by it",
        LOCAL_FAILURE,
    )


def _apart(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60)} hours"


def key_source(environment: Mapping[str, str]) -> str:
    """Where the key comes from, for a remedy."""
    named = (name for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY") if environment.get(name, "").strip())
    return next(named, "the file of GEMINI_API_KEY_FILE")
