"""The sandbox as a command."""

from collections.abc import Mapping
from pathlib import Path

from runner.core.errors import UsageError
from runner.sandbox import Options, fault_plan, serve


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
    quotas: Mapping[str, int],
    until_stdin_closes: bool,
) -> None:
    """Serve until told to stop; raises UsageError for a fault plan that cannot be read."""
    try:
        planned = fault_plan(faults)
    except ValueError as error:
        raise UsageError(f"--faults {faults}: {error}") from None
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
                quotas=quotas,
                until_stdin_closes=until_stdin_closes,
            )
        )
    except OSError as error:
        raise UsageError(f"the sandbox cannot serve here: {error.strerror or error}") from None
