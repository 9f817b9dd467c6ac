"""The clients of one endpoint, and what is made of them for a job."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from runner.adapters.batches import BatchesClient
from runner.adapters.gemini import GeminiProvider
from runner.adapters.library import MARGIN_S, Holdings, Library
from runner.adapters.remote import BatchService
from runner.adapters.uploads import FilesClient
from runner.app.campaign import DEFAULT_CONCURRENCY, Campaign
from runner.app.child import sandbox_child
from runner.app.settings import Settings, read_key
from runner.core.catalog import builtin
from runner.core.grammar import BatchSettings
from runner.core.pricing import PriceSheet
from runner.core.reference import Uploaded
from runner.core.retry import RetryPolicy
from runner.engine.harvest import Books
from runner.engine.ports import Clock
from runner.engine.remotes import Batching

FASTEST_POLL_S = 0.2
"""Against a sandbox whose clock is sped up."""
OUTLIVES_S = 46 * 3600.0
"""What an upload must have left to go with a batch, which may wait for 48 hours (gemini-api.md §8.1, §9.2)."""


@dataclass(frozen=True, slots=True)
class Clients:
    """All that a run asks the service with."""

    provider: GeminiProvider
    files: FilesClient
    batches: BatchService


@asynccontextmanager
async def endpoint(settings: Settings, ledger: Path) -> AsyncGenerator[str | None]:
    """The socket of a sandbox of our own; None where there is a real endpoint."""
    if not settings.sandbox:
        yield None
        return
    async with sandbox_child(settings, ledger.with_name(f"{ledger.name}.sandbox")) as socket:
        yield socket


@asynccontextmanager
async def clients_of(
    campaign: Campaign, settings: Settings, ledger: Path, socket: str | None
) -> AsyncGenerator[Clients]:
    """Clients for one job. Raises UsageError where base URL, key or proxy cannot be used."""
    manifest = campaign.manifest
    async with AsyncExitStack() as held:
        provider = GeminiProvider(
            base_url=settings.base_url,
            key=read_key(settings),
            request_timeout_s=manifest.limits.request_timeout_s,
            connections=campaign.limits.concurrency or DEFAULT_CONCURRENCY,
            uds=socket,
            catalog=builtin(),
            model_line=f"{manifest.file}:{manifest.model_line}",
        )
        await held.enter_async_context(provider)
        files = await held.enter_async_context(
            FilesClient(base_url=settings.base_url, key=read_key(settings), uds=socket)
        )
        jobs = await held.enter_async_context(
            BatchesClient(base_url=settings.base_url, key=read_key(settings), catalog=builtin(), uds=socket)
        )
        yield Clients(provider, files, batch_service(files, jobs, settings.output, ledger))


@asynccontextmanager
async def service(settings: Settings, ledger: Path, output: Path) -> AsyncGenerator[BatchService]:
    """The Batch API alone, for what needs no manifest. Raises UsageError where key or base URL cannot be used."""
    async with AsyncExitStack() as held:
        socket = await held.enter_async_context(endpoint(settings, ledger))
        key = read_key(settings)
        files = await held.enter_async_context(FilesClient(base_url=settings.base_url, key=key, uds=socket))
        jobs = await held.enter_async_context(
            BatchesClient(base_url=settings.base_url, key=key, catalog=builtin(), uds=socket)
        )
        yield batch_service(files, jobs, output, ledger)


def batch_service(files: FilesClient, jobs: BatchesClient, output: Path, ledger: Path) -> BatchService:
    """The batch lane's edge: inputs lie beside the ledger, results pass through the disk of the pictures."""
    folder = ledger.with_name(f"{ledger.name}.batches")
    return BatchService(files, jobs, catalog=builtin(), folder=folder, spool=output)


def batching(
    job: str,
    retry: RetryPolicy,
    sheet_of: Callable[[str], PriceSheet],
    told: BatchSettings,
    settings: Settings,
    batches: BatchService,
) -> Batching:
    """How a job's batches are waited for; `sheet_of` gives the prices of the batch lane."""
    faster = max(1.0, settings.options.sandbox_speed or 1.0) if settings.sandbox else 1.0
    poll_s = told.poll_s if faster == 1.0 else max(FASTEST_POLL_S, told.poll_s / faster)
    return Batching(Books(job, retry, sheet_of, builtin().find), batches, poll_s, told.settle_s)


def library(
    campaign: Campaign,
    files: FilesClient,
    clock: Clock,
    uploaded: frozenset[str],
    held: Holdings,
    remember: Callable[[str, Uploaded], Awaitable[None]],
    *,
    inline: bool,
) -> Library:
    """What keeps the job's references ready: for single requests, or all of them at the service for batches."""
    return Library(
        base=campaign.base,
        files=files,
        clock=clock,
        uploaded=uploaded,
        remembered=held,
        remember=remember,
        inline=inline,
        margin_s=MARGIN_S if inline else OUTLIVES_S,
    )
