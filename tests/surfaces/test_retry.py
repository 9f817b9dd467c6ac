"""`retry`: what was refused or failed goes back, once its price was said; the next run buys it."""

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from runner.cli.faces import ConsoleFace
from runner.ledger import Ledger
from tests.surfaces.holding import ANSWER, holding_service

REFUSAL = json.dumps(
    {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 3},
    }
)
FIELDS = "budget: {usd: 3}\nretry: {attempts: 1}"


@pytest.fixture
def provider(home, monkeypatch):
    """Answers at once: refuses until `answer` is the picture, in 512."""
    with holding_service() as held:
        held.answer = REFUSAL
        held.release()
        monkeypatch.setenv("GEMINI_API_KEY", "sandbox")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", held.base_url)
        yield held


@pytest.fixture
def refused(provider, command, manifest):
    """Four tasks, all refused; the service would serve them now."""
    assert command("run", manifest(FIELDS, size="[512, 1K]")).code == 1
    provider.answer = ANSWER
    return provider


def states(command):
    return json.loads(command("status", "j", "--json").out)["tasks"]


def test_all_go_back_for_a_price_and_the_next_run_buys_them(refused, command):
    sent = refused.arrived
    result = command("retry", "j", "--yes", "--json")
    assert result.code == 0
    answer = json.loads(result.out)
    assert answer == {
        "job": "j",
        "tasks": 4,
        "by": [{"state": "refused", "reason": "prompt_blocked", "tasks": 4}],
        "projected": {"usd": "0.226142", "max_usd": "0.233045", "image_tokens": 3734},
        "unknown_usd": "0.00",
        "cap": {"usd": "3.00", "image_tokens": None},
        "fits": True,
        "command": "bulkrender run j.yaml",
        "exit_code": 0,
    }
    assert "job j: 4 tasks to try again: 4 refused (prompt_blocked)" in result.err
    assert "at one try each likely $0.2262, up to $0.2331" in result.err
    assert refused.arrived == sent
    assert (states(command)["queued"], command("status", "j").code) == (4, 130)
    assert "4 tasks were put back by `retry`" in command("status", "j").out
    assert json.loads(command("plan", "j.yaml", "--json").out)["projected"] == answer["projected"]
    command("run", "j.yaml")
    assert refused.arrived == sent + 4
    receipt = json.loads(command("report", "j", "--json").out)
    assert receipt["checks"]["adds_up"]
    assert receipt["sends"]["again"] == 4


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (("--state", "refused"), 4),
        (("--reason", "prompt_blocked", "--reason", "prompt_blocked"), 4),
        (("--where", "size=1K"), 2),
        (("--where", "size=1K", "--where", "prompt=a"), 1),
        (("--state", "refused", "--where", "prompt=b"), 2),
    ],
)
def test_some_go_back_by_what_they_have_in_common(refused, command, chosen, count):
    result = command("retry", "j", *chosen)
    assert f"{count} tasks put back; buy them with: bulkrender run j.yaml" in result.out
    assert states(command)["queued"] == count
    assert states(command)["refused"] == 4 - count


def test_one_goes_back_by_its_key_or_the_start_of_it(refused, command):
    keys = [json.loads(line)["key"] for line in command("export", "j").out.splitlines()]
    assert json.loads(command("retry", "j", "--key", keys[0], "--key", keys[1][:12], "--json").out)["tasks"] == 2
    again = command("retry", "j", "--key", keys[0])
    assert again.code == 2
    assert f"--key {keys[0]}: is queued: only refused or failed tasks can be tried again" in again.err


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (("--state", "lost"), "--state lost: only refused or failed tasks can be tried again"),
        (("--state", "failed"), "no task fits all of that; there are 4 refused (prompt_blocked)"),
        (("--reason", "prompt_block"), "no task has it: did you mean 'prompt_blocked'?; there are 4 refused"),
        (("--where", "sise=1K"), "--where sise=1K: unknown axis 'sise': did you mean 'size'?"),
        (("--where", "size"), "--where size: expected AXIS=VALUE such as size=512"),
        (("--key", "nothing"), "--key nothing: job j has no such task: expected its key, 8 or more characters"),
        (("--key", "k1-"), "--key k1-: job j has no such task"),
    ],
)
def test_what_cannot_be_meant_changes_nothing(refused, command, chosen, says):
    result = command("retry", "j", *chosen)
    assert result.code == 2
    assert says in result.err
    assert states(command)["refused"] == 4


def test_an_orphan_goes_back_by_way_of_the_manifest(refused, command, manifest):
    key = json.loads(command("export", "j").out.splitlines()[0])["key"]
    command("run", manifest(FIELDS, prompts="[{id: b, text: a dog}]"))
    result = command("retry", "j", "--key", key)
    assert result.code == 2
    assert "the manifest no longer names it: put it back there, and run that" in result.err


def test_what_the_cap_will_not_take_is_said(refused, command, manifest):
    command("run", manifest(FIELDS.replace("3", "0.1"), size="[512, 1K]"))
    result = command("retry", "j", "--json")
    assert (result.code, json.loads(result.out)["fits"]) == (0, False)
    assert "at worst they do not fit the cap of the job, $0.10: `run` stops there" in result.err
    assert command("run", "j.yaml").code == 3


def test_who_says_no_keeps_everything(refused, command, monkeypatch):
    monkeypatch.setattr(ConsoleFace, "consent", lambda *_, **__: False)
    result = command("retry", "j")
    assert (result.code, "not confirmed: nothing was put back" in result.err) == (2, True)
    assert states(command)["refused"] == 4


def test_a_job_that_is_being_run_is_left_alone(refused, command, home):
    with Ledger.open(f"sqlite:///{home}/bulkrender.db", "live", now_utc=0.0) as ledger, ledger.lock_job("j"):
        result = command("retry", "j")
    assert (result.code, "already being run" in result.err) == (2, True)


def test_nothing_to_do_no_job_no_ledger(provider, command, manifest, home):
    result = command("retry", "j")
    assert (result.code, "no ledger yet" in result.err) == (2, True)
    assert not list(home.glob("bulkrender.db*"))
    provider.answer = ANSWER
    assert command("run", manifest()).code == 0
    result = command("retry", "j", "--yes")
    assert (result.code, result.out) == (0, "job j: nothing was refused and nothing failed\n")
    assert "no job 'k' in this ledger; it has: j" in command("retry", "k").err
    assert command("retry", "j", "--sandbox", "--database", "sqlite:///bulkrender.db").code == 2


def test_what_is_held_goes_back_and_stays_held(provider, command, manifest):
    provider.answer = "{}"
    assert command("run", manifest("retry: {unknown: hold}")).code == 1
    held = json.loads(command("status", "j", "--json").out)["spend"]["unknown_usd"]
    provider.answer = ANSWER
    result = command("retry", "j", "--reason", "unknown_held")
    assert f"${held} stays held, and they may be bought twice" in result.err
    assert command("run", "j.yaml").code == 0
    assert json.loads(command("status", "j", "--json").out)["spend"]["unknown_usd"] == held
    assert command("report", "j").code == 0


# --- pictures that are lost ---


@pytest.fixture
def pictures(provider, command, manifest):
    """Four pictures; where they are by prompt and size."""
    provider.answer = ANSWER
    assert command("run", manifest("budget: {usd: 3}", size="[512]", prompts=FOUR)).code == 0
    rows = [json.loads(row) for row in command("export", "j").out.splitlines()]
    return {row["prompt_id"]: Path("renders", row["path"]) for row in rows}


FOUR = "[{id: a, text: a cat}, {id: b, text: a dog}, {id: c, text: an owl}, {id: d, text: an ox}]"


def test_lost_pictures_are_bought_again_when_somebody_says_so(provider, pictures, command):
    sent = provider.arrived
    for name in "ab":
        pictures[name].unlink()
    before = json.loads(command("report", "j", "--json").out)["spend"]["usd"]
    planned = command("plan", "j.yaml")
    assert "2 paid pictures are no longer on disk" in planned.out + planned.err
    assert "until `retry --gone` has said so" in planned.out + planned.err
    assert command("run", "j.yaml").code == 0
    assert provider.arrived == sent
    result = command("retry", "j", "--gone", "--yes", "--json")
    answer = json.loads(result.out)
    assert answer["by"] == [{"state": "succeeded", "reason": "gone", "tasks": 2}]
    assert "their pictures were paid for and are lost: $0.0" in result.err
    assert states(command) | {"queued": 2, "succeeded": 2} == states(command)
    assert command("run", "j.yaml").code == 0
    assert provider.arrived == sent + 2
    assert all(path.is_file() for path in pictures.values())
    receipt = json.loads(command("report", "j", "--json").out)
    assert receipt["checks"]["adds_up"]
    assert Decimal(receipt["spend"]["usd"]) == Decimal(before) * 6 / 4
    assert (receipt["charges"]["lost"], receipt["charges"]["without_picture"]) == (2, 0)
    printed = command("report", "j", "--by", "outcome").out
    assert "pictures 4 = 6 charges - 2 whose picture was lost" in printed
    assert "6 costs recomputed" in printed
    assert command("retry", "j", "--gone", "--yes").out == "job j: no picture is lost\n"


def test_of_lost_pictures_only_those_that_are_meant(provider, pictures, command):
    for name in "abc":
        pictures[name].unlink()
    assert json.loads(command("retry", "j", "--gone", "--where", "prompt=b", "--yes", "--json").out)["tasks"] == 1
    assert json.loads(command("retry", "j", "--gone", "--yes", "--json").out)["tasks"] == 2


def test_a_copy_put_back_before_the_run_is_not_overwritten(provider, pictures, command):
    copy = pictures["a"].read_bytes()
    pictures["a"].unlink()
    assert command("retry", "j", "--gone", "--yes").code == 0
    pictures["a"].write_bytes(copy)
    result = command("run", "j.yaml")
    assert result.code == 2
    assert str(pictures["a"].relative_to("renders")) in result.err
    assert pictures["a"].read_bytes() == copy


def test_a_disk_that_is_not_mounted_is_no_lost_picture(provider, pictures, command):
    Path("renders").rename("elsewhere")
    result = command("retry", "j", "--gone", "--yes")
    assert result.code == 2
    assert "none of the 4 pictures of job j is there. Mount the disk" in result.err
    assert command("retry", "j", "--gone", "--output", "elsewhere", "--yes").out == "job j: no picture is lost\n"
    assert json.loads(command("retry", "j", "--gone", "--where", "prompt=a", "--yes", "--json").out)["tasks"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--gone", "--state", "failed"), "--gone is about tasks that succeeded"),
        (("--gone", "--key", "j/a"), "j has no such task"),
        (("--gone", "--where", "prompt=b"), "no task fits all of that; there are 1 succeeded \\(gone\\)"),
    ],
)
def test_what_cannot_be_meant_of_lost_pictures(provider, pictures, command, words, says):
    pictures["a"].unlink()
    result = command("retry", "j", *words, "--yes")
    assert result.code == 2
    assert re.search(says, result.err)
