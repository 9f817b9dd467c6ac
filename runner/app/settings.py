"""Options and environment. The command line beats the manifest, the manifest the environment, that the default."""

import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from runner.core.budget import NANOS
from runner.core.errors import UsageError

if TYPE_CHECKING:
    from pydantic import SecretStr  # loaded by who has a key: the command line starts in half the time without

MOST_DOLLARS = 10**9
"""As in the manifest: nano-dollars of it fit the ledger."""
SANDBOX_LATENCY_S = 0.4
"""What the sandbox takes if it is told nothing else."""
GOOGLE = "https://generativelanguage.googleapis.com"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said; None is not given."""

    database: str | None = None
    output: str | None = None
    base_url: str | None = None
    sandbox: bool = False
    sandbox_faults: str | None = None
    sandbox_latency_s: float | None = None
    sandbox_seed: int | None = None
    sandbox_quotas: tuple[str, ...] = ()
    """`rpm`, `tpm`, `ipm`, `rpd`, `spend` (dollars in ten minutes) or `month` (dollars), each as `name=value`."""
    sandbox_speed: float | None = None
    sandbox_outages: tuple[str, ...] = ()
    """As `START+LENGTH[:KIND]`, in seconds of the sandbox's clock."""
    budget: str | None = None
    rpm: int | None = None
    concurrency: int | None = None
    lane: str | None = None
    by: str | None = None
    """When all is to be done: `07:00` or `2026-11-25T07:00`, local time where it names no offset."""
    detach: bool = False
    """Leave once all batches are submitted."""
    yes: bool = False
    grace_s: float = 25.0
    wait: bool = False
    """Sleep through a daily limit."""
    forget_limits: bool = False
    """What refusals have taught does not count any more."""
    log_format: Literal["text", "json"] = "text"
    """Of the log beside the ledger."""


def command_line(command: str, about: str, options: Options, *names: str) -> str:
    """The line that a person types for `command` about a job or a manifest, with those of the options it takes."""
    words = ["bulkrender", command, about]
    for name in names:
        if value := getattr(options, name):
            words += [f"--{name.replace('_', '-')}", value]
    return shlex.join([*words, "--sandbox"] if options.sandbox else words)


@dataclass(frozen=True, slots=True)
class Settings:
    """Options and environment, resolved."""

    database: str
    output: Path
    base_url: str
    sandbox: bool
    options: Options
    environment: Mapping[str, str] = field(repr=False)
    deadline_utc: float | None = None
    """When all is to be done, in seconds since 1970; None where nobody said."""

    @property
    def kind(self) -> Literal["live", "sandbox"]:
        """`sandbox` or `live`: what the ledger is marked as."""
        return "sandbox" if self.sandbox else "live"

    @property
    def usual_latency_s(self) -> float:
        """Seconds that an answer usually takes."""
        if not self.sandbox:
            from runner.engine.outlook import FIRST_LATENCY_S

            return FIRST_LATENCY_S
        told = self.options.sandbox_latency_s
        return (SANDBOX_LATENCY_S if told is None else told) / (self.options.sandbox_speed or 1.0)

    @property
    def endpoint(self) -> str:
        """Names the quota that requests count against: host and path, no credentials."""
        if self.sandbox:
            return "sandbox"
        parts = urlsplit(self.base_url)
        return (parts.hostname or "") + (f":{parts.port}" if parts.port else "") + parts.path.rstrip("/")


def resolve(options: Options, environment: Mapping[str, str], *, now_utc: float | None = None) -> Settings:
    """Settings of one command, given at `now_utc` (None: now); raises UsageError for what cannot be meant."""
    if options.sandbox and options.base_url:
        raise UsageError("--sandbox starts a sandbox of its own: leave out --base-url")
    ours = "-sandbox" if options.sandbox else ""
    output = _first(options.output, environment.get("BULKRENDER_OUTPUT"), f"renders{ours}")
    base_url = "http://sandbox"
    if not options.sandbox:
        base_url = checked_url(_first(options.base_url, environment.get("GOOGLE_GEMINI_BASE_URL"), GOOGLE))
    return Settings(
        database=_first(
            options.database, environment.get("BULKRENDER_DATABASE_URL"), f"sqlite:///bulkrender{ours}.db"
        ),
        output=output_folder(output),
        base_url=base_url,
        sandbox=options.sandbox,
        options=options,
        environment=environment,
        deadline_utc=None
        if options.by is None
        else deadline(options.by, time.time() if now_utc is None else now_utc),
    )


def deadline(text: str, now_utc: float) -> float:
    """`--by` in seconds since 1970: a time of day is the next such one, a date may name its offset from UTC.

    Without an offset it is this machine's local time. Raises UsageError.
    """
    try:
        at = _next(text, now_utc) if _TIME_OF_DAY.fullmatch(text) else _instant(text)
    except (ValueError, OverflowError, OSError):  # what no calendar has, and what no clock can show
        raise UsageError(f"--by {text}: expected a time such as 07:00 or 2026-11-25T07:00") from None
    if at <= now_utc:
        raise UsageError(f"--by {text}: that time is over")
    return at


_TIME_OF_DAY = re.compile(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?")


def _next(text: str, now_utc: float) -> float:
    """The next time that the local clock shows this."""
    clock = time_of_day.fromisoformat(text.zfill(8 if text.count(":") == 2 else 5))
    today = datetime.fromtimestamp(now_utc).date()  # noqa: DTZ006 - local is what is meant
    coming = (datetime.combine(today + timedelta(days=days), clock).timestamp() for days in range(3))
    return next(at for at in coming if at > now_utc)


def _instant(text: str) -> float:
    if "T" not in text.upper() and " " not in text:
        raise ValueError("a date alone does not say whether it is meant from its beginning or to its end")
    return datetime.fromisoformat(text).timestamp()


def output_folder(text: str) -> Path:
    """The output as a local folder; object stores are not served yet."""
    if "://" in text and not text.startswith("file://"):
        raise UsageError(f"--output {text}: only local folders are served in this release")
    return Path(text.removeprefix("file://"))


def checked_url(text: str) -> str:
    """A base URL fit to be joined with a path; raises UsageError."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # reading it is what checks it
    except ValueError:  # its words may repeat a password
        raise UsageError("the base URL cannot be read: check its host and port") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"the base URL must look like https://host or https://host/prefix, not {parts.path!r}")
    if parts.username or parts.password:
        raise UsageError("the base URL must not carry a user or password: the key goes into GEMINI_API_KEY")
    return text


def read_key(settings: Settings) -> "SecretStr":
    """The API key, from the environment or the file it names, nowhere else; UsageError if there is none."""
    from pydantic import SecretStr

    if settings.sandbox:
        return SecretStr("sandbox")
    environment = settings.environment
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        if value := environment.get(name, "").strip():
            return _checked_key(value, name)
    file = environment.get("GEMINI_API_KEY_FILE")
    if not file:
        raise UsageError(
            "no API key: set GEMINI_API_KEY (or GOOGLE_API_KEY), or GEMINI_API_KEY_FILE to a file that holds it; "
            "--sandbox needs none"
        )
    try:
        value = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"GEMINI_API_KEY_FILE: cannot read {file}: {_plain(error)}") from None
    if not value:
        raise UsageError(f"GEMINI_API_KEY_FILE: {file} is empty")
    return _checked_key(value, f"the file {file}")


def budget_nanos(text: str) -> int:
    """`--budget` in dollars as nano-dollars; raises UsageError."""
    try:
        value = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not 0 <= value <= MOST_DOLLARS or value * NANOS != int(value * NANOS):
        raise UsageError(f"--budget {text}: expected dollars such as 25 or 12.50, a billion at most")
    return int(value * NANOS)


def _checked_key(value: str, source: str) -> "SecretStr":
    from pydantic import SecretStr

    if not value.isascii() or not value.isprintable() or " " in value:
        raise UsageError(f"the key in {source} holds characters that no key has (a line break, a quotation mark?)")
    return SecretStr(value)


def _first(*values: str | None) -> str:
    return next(value for value in values if value)


def _plain(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
