"""The sandbox as a command."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

from runner.core.budget import NANOS
from runner.core.errors import UsageError
from runner.sandbox import FaultPlan, Options, Outage, fault_plan, parse_outage, serve

QUOTA_OPTIONS: Mapping[str, str] = {
    "rpm": "--rpm",
    "tpm": "--tpm",
    "ipm": "--ipm",
    "rpd": "--rpd",
    "spend": "--spend-per-10min",
    "month": "--spend-per-month",
}
"""Option of the sandbox by the name of its quota."""
IN_DOLLARS = frozenset({"spend", "month"})
MOST = 10**9
"""Of anything a quota counts, dollars as well."""


def read_faults(option: str, text: str) -> FaultPlan:
    """What an option names as a preset, a file or shares; UsageError for anything else."""
    try:
        return fault_plan(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from None


def serve_sandbox(
    *,
    port: int | None,
    uds: Path | None,
    host: str,
    state_dir: Path,
    key: str,
    faults: str,
    seed: int,
    speed: float,
    latency_s: float,
    quotas: Mapping[str, str],
    spent_this_month: str,
    count_rejected: bool,
    nameless_quotas: bool,
    quota_values: bool,
    outages: Sequence[str],
    until_stdin_closes: bool,
) -> None:
    """Serve until told to stop; raises UsageError for a fault plan, a quota or an outage that cannot be read."""
    planned = read_faults("--faults", faults)
    try:
        serve(
            Options(
                state_dir=state_dir,
                port=port,
                uds=uds,
                host=host,
                key=key,
                seed=seed,
                speed=speed,
                latency_s=latency_s,
                faults=planned,
                quotas={name: quota_limit(QUOTA_OPTIONS[name], name, text) for name, text in quotas.items()},
                month_spent_nanos=_nanos("--spent-this-month", spent_this_month, at_least=0),
                count_rejected=count_rejected,
                nameless_quotas=nameless_quotas,
                quota_values=quota_values,
                outages=read_outages("--outage", outages),
                until_stdin_closes=until_stdin_closes,
            )
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"the sandbox cannot serve here: {getattr(error, 'strerror', None) or error}") from None


def read_quotas(option: str, texts: Iterable[str]) -> dict[str, str]:
    """`name=value` of quotas as values by name; raises UsageError for one that cannot be meant."""
    read = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in QUOTA_OPTIONS:
            raise UsageError(f"{option} {text}: expected name=value, where name is {', '.join(QUOTA_OPTIONS)}")
        quota_limit(option, name, value)
        read[name] = value
    return read


def quota_limit(option: str, name: str, text: str) -> int:
    """The limit of a quota, dollars in nano-dollars; raises UsageError."""
    if name in IN_DOLLARS:
        return _nanos(option, text, at_least=1)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST):
        raise UsageError(f"{option} {text}: expected a whole number from 1 to {MOST}")
    return int(text)


def read_outages(option: str, texts: Iterable[str]) -> tuple[Outage, ...]:
    """Outages as they are typed; raises UsageError."""
    try:
        return tuple(parse_outage(text) for text in texts)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _nanos(option: str, text: str, *, at_least: int) -> int:
    try:
        value = Decimal(text.removeprefix("$")) * NANOS
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not at_least <= value <= MOST * NANOS or value != int(value):
        raise UsageError(f"{option} {text}: expected dollars such as 10 or 0.50, a billion at most")
    return int(value)
