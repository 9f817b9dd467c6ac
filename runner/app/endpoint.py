"""The checks of `doctor` that ask the service, with calls that cost nothing: address, key, models, clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pydantic import SecretStr

from runner.adapters.models import Described, Looked, ModelsClient
from runner.adapters.transport import plainly
from runner.app.finding import ENDPOINT, KEY, MODEL, Finding
from runner.app.local import key_source
from runner.app.settings import Settings
from runner.app.views import EXIT_BY_HALT
from runner.core.catalog import Model, builtin
from runner.core.lifecycle import Faulted, Invalid, Lost, Parked, Reply, Stopped, Throttled, Unreached

MOST_MODELS = 10
STOPPED = EXIT_BY_HALT["provider"]
NEW_KEY = "make one at https://aistudio.google.com/apikey"


@dataclass(slots=True)
class Asked:
    """What the service says: findings in order, and its clock."""

    findings: list[Finding] = field(default_factory=list)
    date_utc: float | None = None
    seconds: float = 0.0
    """That the answer with the clock took."""


async def ask(
    settings: Settings, key: SecretStr | None, models: Mapping[str, Model | None], where: str, uds: str | None
) -> Asked:
    """Ask for every model; without a key only who answers. `where` is the manifest's line of the model."""
    asked = Asked()
    client = ModelsClient(
        base_url=settings.base_url,
        key=key or SecretStr("none"),
        catalog=builtin(),
        uds=uds,
        keyed=key is not None,
    )
    async with client:
        for model in list(models)[:MOST_MODELS]:
            looked = await client.look(model, where=where)
            if not asked.findings:
                asked.date_utc, asked.seconds = looked.date_utc, looked.seconds
                asked.findings.append(_endpoint(settings, looked, lists=await _lists(client, looked.answer)))
            if asked.findings[0].exit_code:
                break
            asked.findings += _about(settings, model, looked.answer, keyed=key is not None)
            if asked.findings[-1].check == KEY:
                break
    return asked


async def _lists(client: ModelsClient, answer: Described | Reply) -> bool:
    """Whether an address that does not describe the model is one of the API all the same."""
    return isinstance(answer, Stopped) and answer.reason == "endpoint" and await client.lists()


def _endpoint(settings: Settings, looked: Looked, *, lists: bool) -> Finding:
    """Whether the API answers at the base URL, whatever it says."""
    where = "the sandbox" if settings.sandbox else settings.base_url
    match looked.answer:
        case Unreached(cause=cause):
            host = urlsplit(settings.base_url).hostname
            remedy = f"check that {host} is spelled right, the network, and HTTPS_PROXY"
            return Finding(ENDPOINT, f"{where}: cannot be reached ({plainly(cause)})", remedy, STOPPED)
        case Lost(reason="not_an_answer", cause=cause):
            return _no_api(where, cause)
        case Lost(cause=cause):
            remedy = "try again; if it stays so, a proxy or a firewall on the way holds requests back"
            return Finding(ENDPOINT, f"{where}: connected, but no answer ({cause})", remedy, STOPPED)
        case Stopped(reason="endpoint") if lists:
            remedy = "nothing, if a run of one picture works: routers need not describe models"
            return Finding(ENDPOINT, f"{where}: the API answers, but describes no models", remedy)
        case Stopped(reason="endpoint", message=message):
            return _no_api(where, message)
        case Throttled() | Faulted():
            said = f"{where}: in trouble now (HTTP {looked.answer.status}: {looked.answer.message})"
            return Finding(ENDPOINT, said, "wait: a run would, for up to half an hour")
        case _:
            return Finding(ENDPOINT, f"{where}: answers in {looked.seconds:.1f} s")


def _no_api(where: str, said: str) -> Finding:
    remedy = (
        "correct --base-url or GOOGLE_GEMINI_BASE_URL: it must end where /v1beta follows, with the path prefix "
        "that the router's pages give"
    )
    return Finding(ENDPOINT, f"{where}: {said}", remedy, STOPPED)


def _about(settings: Settings, model: str, answer: Described | Reply, *, keyed: bool) -> list[Finding]:
    """What an answer says of the key and of the model."""
    source = key_source(settings.environment)
    match answer:
        case Stopped(reason="key") if not keyed:
            return [Finding(MODEL, f"{model}: not asked for, without a key")]
        case Stopped(reason="key", message=message):
            remedy = f"put a valid key into {source}; {NEW_KEY}"
            return [Finding(KEY, f"the service does not take the key of {source}: {message}", remedy, STOPPED)]
        case Stopped(reason="model_gone", message=message):
            return [Finding(MODEL, *_parted(message), STOPPED)]
        case Stopped(reason="endpoint"):
            return [Finding(MODEL, f"{model}: not checked, this router describes no models")]
        case Stopped() | Parked():
            remedy = "look at billing and limits of the key's project: https://aistudio.google.com/usage"
            return [
                Finding(
                    KEY, f"the service serves nothing for the key of {source}: {answer.message}", remedy, STOPPED
                )
            ]
        case Throttled() | Faulted() | Lost() | Unreached():
            return [Finding(MODEL, f"{model}: not checked, the service is in trouble")]
        case Invalid(message=message):
            return [Finding(MODEL, f"{model}: not checked, the service says: {message}")]
        case Described(renders=False):
            says = f"{model}: served, but it takes no generateContent"
            return [Finding(MODEL, says, "choose a model that makes pictures: `bulkrender models`", STOPPED)]
        case _:
            return [_served(model)]


def _parted(message: str) -> tuple[str, str]:
    """What the service said, and the advice before it."""
    advice, _, said = message.partition(" The service says: ")
    return said or advice, advice


def _served(model: str) -> Finding:
    entry = builtin().find(model)
    if entry is None:
        remedy = "nothing, if its name is right: its sizes go unchecked, and a cap needs `prices:` in the manifest"
        return Finding(MODEL, f"{model}: served, and not in the catalog of {builtin().as_of}", remedy)
    if entry.status in {"retired", "deprecated"}:
        after = f"move to {entry.successor} when you can" if entry.successor else "look for a successor"
        return Finding(MODEL, f"{model}: served, though {entry.status}", after)
    return Finding(MODEL, f"{model}: served")
