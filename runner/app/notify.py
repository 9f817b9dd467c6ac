"""Tells whom the manifest names how a run ended: `notify:`. It never fails a run, and never holds it for long."""

import json
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import anyio

from runner.adapters.seal import one_line, shortened
from runner.adapters.webhook import post
from runner.app.campaign import Campaign
from runner.app.finding import NOTIFY, Finding
from runner.app.views import Json
from runner.core.errors import UsageError
from runner.core.grammar import Event, Notify

log = logging.getLogger("bulkrender")

COMMAND_S = 10.0
"""A command that takes longer is ended, and what it started with it."""
WITHIN_S = 20.0
"""All tries of a webhook together."""
KEYS = frozenset({"GOOGLE_API_KEY", "GEMINI_API_KEY", "GEMINI_API_KEY_FILE"})


def event_of(answer: Json) -> Event | None:
    """What a final object reports; None for a run that has left its batches behind: nothing has ended."""
    code, tasks = answer["exit_code"], answer.get("tasks")
    if code == 0 and tasks is not None and tasks["queued"] + tasks["submitted"]:
        return None
    if code == 0:
        return "done"
    return "failing" if code == 1 else "halted"


def check(campaigns: Sequence[Campaign], environment: Mapping[str, str]) -> None:
    """UsageError where a secret is missing: said before the night, not after it."""
    for campaign in campaigns:
        name = campaign.manifest.notify.secret_env
        if name is not None and not environment.get(name):
            line, column = campaign.manifest.places["notify"]
            raise UsageError(
                f"{campaign.manifest.file}:{line}:{column}: notify.secret_env: the environment has no {name}"
            )


def tell(notify: Notify, answer: Json, environment: Mapping[str, str]) -> list[str]:
    """Tell about one job; what was wrong with that, in words. Blocks, for half a minute at worst."""
    event = event_of(answer)
    if notify == Notify() or event is None or event not in notify.on:
        return []
    body, wrong = json.dumps(answer).encode(), []
    if notify.command and (said := _command(notify.command, body, event, environment)):
        wrong.append(f"notify: command {notify.command[0]}: {said}")
    if notify.webhook is not None:
        secret = None if notify.secret_env is None else environment.get(notify.secret_env)
        if said := anyio.run(_post, notify.webhook, body, event, secret):
            wrong.append(f"notify: webhook at {urlsplit(notify.webhook).hostname}: {said}")
    for line in wrong:
        log.warning("%s", line)
    if not wrong:
        log.info("notify: told of %s: %s", answer.get("job"), event)
    return wrong


async def _post(url: str, body: bytes, event: str, secret: str | None) -> str | None:
    with anyio.move_on_after(WITHIN_S):
        return await post(url, body, event=event, secret=secret)
    return f"given up after {WITHIN_S:g} s"


def _command(words: Sequence[str], body: bytes, event: str, environment: Mapping[str, str]) -> str | None:
    """Run a command with the object on its stdin; what was wrong, in words. It is given no key."""
    without = {name: value for name, value in environment.items() if name not in KEYS}
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, from the manifest
            list(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**without, "BULKRENDER_EVENT": event},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return (getattr(error, "strerror", None) or str(error)).lower()
    with process:
        try:
            _, said = process.communicate(body, timeout=COMMAND_S)
        except BaseException as error:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                return f"ended after {COMMAND_S:g} s"
            raise
    if process.returncode:
        words_of_it = shortened(one_line(said.decode(errors="replace")), 200)
        return f"exit code {process.returncode}{f': {words_of_it}' if words_of_it else ''}"
    return None


def finding(notify: Notify, environment: Mapping[str, str]) -> Finding | None:
    """What `doctor` says of it; nothing is sent. None where nobody is to be told."""
    if notify == Notify():
        return None
    if notify.secret_env is not None and not environment.get(notify.secret_env):
        remedy = f"export {notify.secret_env}=…, the secret that the receiver knows"
        return Finding(NOTIFY, f"the environment has no {notify.secret_env}", remedy, UsageError.exit_code)
    if notify.command and shutil.which(notify.command[0]) is None:
        return Finding(
            NOTIFY,
            f"there is no program {notify.command[0]} here",
            "correct notify.command: a run would go on all the same, and tell nobody",
        )
    if notify.webhook is not None and notify.secret_env is None:
        remedy = "add notify.secret_env, so that the receiver can tell who posts"
        return Finding(NOTIFY, "the webhook is not signed", remedy)
    return Finding(NOTIFY, f"on {', '.join(notify.on)}; it is not tried out here")
