"""One cap over many jobs, as people and programs see it, and as two processes hold it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runner.app import before
from runner.app.reports import read_status
from runner.app.settings import Options
from runner.ledger import Ledger
from tests.crash.bill import read_bill, worst_nanos
from tests.crash.rig import MODEL, clean_environment
from tests.sandbox.process import ROOT, sandbox_process

SHORT = "budget: {usd: 1, account: acme}"
URL = "sqlite:///bulkrender.db"
FAULTS = (
    "mild,several_images=0,overrun=0,minute_quota=0,bare_429=0,http_503=0,http_503_demand=0,"
    "reset_mid=0.03,reset_before=0.03,http_504=0.03,corrupt_image=0.03,wrong_pixels=0.03,no_usage_refusal=0.03"
)
"""Everything that costs or may cost, and nothing that costs more than any request may reserve."""


@pytest.fixture
def write(manifest):
    """Write a manifest of job `name`, with its budget line."""

    def one(name, budget=SHORT, *, model=MODEL):
        path = manifest(budget, name=f"{name}.yaml")
        path.write_text(path.read_text().replace("job: j", f"job: {name}").replace(MODEL, model))
        return path

    return one


def jobs(home):
    return Ledger.read(URL).job_names() if (home / "bulkrender.db").exists() else []


def test_plan_run_and_status_show_both_caps(live, write):
    live("run", write("one"))
    planned = json.loads(
        live("plan", write("two", "budget: {usd: 0.5, account: {name: acme, usd: 1}}"), "--json").out
    )
    spent = planned["account"]["spend"]["usd"]
    assert planned["account"]["cap"] == {"usd": "1.00", "image_tokens": None}
    assert (planned["cap"]["usd"], planned["account"]["jobs"]) == ("0.50", ["one"])
    assert Decimal(spent) > 0

    result = live("run", "two.yaml", "--json")
    answer = json.loads(result.out)
    assert (result.code, answer["cap"]["usd"], answer["account"]["cap"]["usd"]) == (0, "0.50", "1.00")
    both = Decimal(spent) + Decimal(answer["spend"]["usd"])
    assert Decimal(answer["account"]["spend"]["usd"]) == both
    [account] = json.loads(live("report", "two", "--json").out)["accounts"]
    assert [(one["job"], one["usd"]) for one in account["jobs"]] == [
        ("one", spent),
        ("two", answer["spend"]["usd"]),
    ]
    assert f"    one: settled ${spent} + reserved $0.00 + unknown $0.00 = ${spent}\n" in live("report", "two").out
    assert answer["account"]["jobs"] == ["one", "two"]
    assert json.loads(live("status", "two", "--json").out) == answer
    assert f"account acme: ${both} of $1.00; jobs: one, two" in live("status").out.replace("\n", " ")
    assert f"account acme ${spent} of $1.00" in result.err


def test_an_account_that_is_used_up_halts_and_budget_raises_it_for_all(live, write):
    assert live("run", write("one", "budget: {usd: 0.1, account: acme}")).code == 0
    two = write("two", "budget: {usd: 0.1, account: acme}")
    planned = live("plan", two)
    assert planned.code == 3
    assert "does not fit the cap of account acme" in planned.out
    result = live("run", two, "--json")
    assert (result.code, json.loads(result.out)["halted"]) == (3, "budget")
    assert "account acme's cap of $0.10" in json.loads(result.out)["reason"]

    raised = live("run", two, "--budget", "0.3", "--json")
    assert (raised.code, json.loads(raised.out)["account"]["cap"]["usd"]) == (0, "0.30")
    assert "the cap of account acme goes from $0.10 to $0.30, for all its jobs" in raised.err
    refused = live("run", "one.yaml")
    assert refused.code == 2
    assert "its cap is $0.10 here and $0.30 in the ledger" in refused.err


def test_budget_leaves_an_account_with_a_cap_of_its_own_alone(live, write):
    one = write("one", "budget: {usd: 1, account: {name: acme, usd: 2}}")
    answer = json.loads(live("run", one, "--budget", "0.5", "--json").out)
    assert (answer["cap"]["usd"], answer["account"]["cap"]["usd"]) == ("0.50", "2.00")


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_an_account_nobody_knows_needs_a_cap(live, write, home, verb):
    result = live(verb, write("one", "budget: {account: {name: acme}}"))
    assert result.code == 2
    assert "account acme: this ledger knows no such account yet: give it a cap" in result.err
    assert [path.name for path in home.iterdir()] == ["one.yaml"]


def test_a_slip_in_the_name_of_an_account_does_not_pass_unseen(live, write):
    assert "is new" not in live("run", write("one")).err
    slip = write("two", "budget: {usd: 1, account: acne}")
    note = "note: account acne is new, with a cap of its own; this ledger has: acme"
    assert (note in live("plan", slip).out, note in live("run", slip).err) == (True, True)
    assert "is new" not in live("plan", slip).out


def test_caps_that_change_and_money_that_joins_are_said(live, write):
    live("run", write("one", "budget: {usd: 1}"))
    spent = json.loads(live("status", "one", "--json").out)["spend"]["usd"]
    raised = live("plan", write("one", "budget: {usd: 2, account: acme}")).out
    assert "note: the cap of the job goes from $1.00 to $2.00\n" in raised
    assert f"note: what the job holds so far, ${spent}, joins account acme\n" in raised


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_another_cap_for_a_known_account_is_refused_and_nothing_recorded(live, write, home, verb):
    live("run", write("one"))
    result = live(verb, write("two", "budget: {usd: 2, account: acme}"), "--json")
    assert (result.code, json.loads(result.out)["exit_code"]) == (2, 2)
    assert "its cap is $2.00 here and $1.00 in the ledger for all its jobs: write $1.00 here too" in result.err
    assert jobs(home) == ["one"]


def test_a_refusal_that_only_the_transaction_sees_is_exit_2_and_records_nothing(live, write, home, monkeypatch):
    live("run", write("one"))
    monkeypatch.setattr(before, "agreed_cap", lambda spec, _: spec.cap)  # another run changed it after the look
    result = live("run", write("two", "budget: {usd: 2, account: acme}"))
    assert result.code == 2
    assert "$1.00 in the ledger" in result.err
    assert jobs(home) == ["one"]


def test_a_job_brings_what_it_has_spent_and_a_plan_says_so(live, write):
    before = json.loads(live("run", write("one", ""), "--json").out)
    assert before["account"] is None
    planned = json.loads(live("plan", write("one"), "--json").out)
    assert planned["account"]["spend"] == before["spend"]
    assert json.loads(live("run", "one.yaml", "--json").out)["account"]["spend"] == before["spend"]
    assert json.loads(live("run", write("one", ""), "--json").out)["account"] is None
    assert "the job leaves account acme" not in live("plan", "one.yaml").out  # it has left


def test_a_plan_says_that_a_job_leaves_its_account(live, write):
    live("run", write("one"))
    words = " ".join(live("plan", write("one", "")).out.split())
    assert "the job leaves account acme; what it spent there still counts there" in words


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_no_account_with_a_cap_for_a_model_without_prices(live, write, home, verb):
    own = live(verb, write("one", "budget: {account: {name: acme, usd: 1}}", model="some-model"))
    assert own.code == 2
    assert "a cap cannot be proven for some-model: fill in prices.input" in own.err

    live("run", write("priced"))
    known = live(verb, write("one", "budget: {account: {name: acme}}", model="some-model"))
    assert known.code == 2
    assert "a cap cannot be proven for some-model" in known.err
    assert jobs(home) == ["priced"]


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_requests_without_a_price_cannot_join_an_account(live, write, home, verb):
    assert live("run", write("one", "limits: {concurrency: 1}")).code == 0
    with Ledger.open(URL, "live", now_utc=0.0) as ledger:
        ledger._writer.submit(_forget_prices).result(10)
    result = live(verb, write("one", "budget: {account: {name: acme, usd: 1}}"))
    assert result.code == 2
    assert "2 earlier requests of account acme have no known price" in result.err
    assert Ledger.read(URL).account("acme") is None


def _forget_prices(connection):
    connection.exec_driver_sql("UPDATE attempt SET cost_nanos = NULL")
    connection.exec_driver_sql("UPDATE job SET settled_nanos = 0, unpriced = 2")


@dataclass(frozen=True)
class Studio:
    """Two jobs on one ledger and one account, each a process of its own, against one sandbox."""

    folder: Path
    base_url: str

    def start(self, job: str, budget_nanos: int | None = None, **script) -> "subprocess.Popen[str]":
        words = ["run", str(self.folder / f"{job}.yaml"), "--yes", "--json", "--database", self.url]
        words += ["--output", str(self.folder / job), "--base-url", self.base_url]
        words += ["--concurrency", "4", "--rpm", "6000"]
        words += [] if budget_nanos is None else ["--budget", f"{budget_nanos / 10**9:.9f}"]
        return self._child("-m", "tests.crash.child", json.dumps(script), *words)

    def status(self) -> dict[str, Any]:
        """What `status --json` prints."""
        return read_status(None, Options(database=self.url), {}).as_object()

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'bulkrender.db'}"

    def billed(self) -> int:
        return sum(line.nanos for line in read_bill(self.folder / "sandbox"))

    def _child(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=clean_environment(), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def ended(child: "subprocess.Popen[str]") -> tuple[int, dict[str, Any]]:
    """Exit code and JSON object, which a killed child does not have."""
    try:
        out, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    last = out.splitlines()[-1] if out else ""
    return child.returncode, json.loads(last) if last.startswith("{") else {}


PROMPTS = 12
WORST = worst_nanos(("banana 00 of one", "512", "1:1"))
"""Of each task of the studio: their prompts are equally long."""
CAP = 15 * WORST


@pytest.fixture
def studio(tmp_path):
    for job in ("one", "two"):
        texts = [{"id": f"p{n}", "text": f"banana {n:02} of {job}"} for n in range(PROMPTS)]
        manifest: dict[str, Any] = {"job": job, "model": MODEL, "prompts": texts, "matrix": {"size": ["512"]}}
        manifest["budget"] = {"usd": CAP / 10**9, "account": "acme"}
        manifest["retry"] = {"attempts": 2}  # a third try would be due in seconds
        (tmp_path / f"{job}.yaml").write_text(json.dumps(manifest))
    with sandbox_process(tmp_path / "sandbox", port=0, seed=3, latency_s=0.1, faults=FAULTS) as base_url:
        yield Studio(tmp_path, base_url)


def test_two_processes_with_faults_and_a_kill_each_never_pass_the_cap(studio):
    doomed = studio.start("one", point="after_send", after=3), studio.start("two", point="after_send", after=5)
    assert ended(doomed[0])[0] == -9
    one = studio.start("one")
    assert ended(doomed[1])[0] == -9
    two = studio.start("two")
    results = [ended(one), ended(two)]

    assert [code for code, _ in results] == [3, 3]
    assert all("account acme's cap" in result["reason"] for _, result in results)
    held = account_of(studio)
    assert studio.billed() <= held <= CAP
    assert held > CAP - WORST
    told = studio.status()
    assert told["exit_code"] == 3
    for job in told["jobs"]:
        assert (job["cap"], job["account"]["cap"]) == ({"usd": usd(CAP), "image_tokens": None},) * 2
        assert Decimal(job["account"]["spend"]["usd"]) + Decimal(job["account"]["spend"]["unknown_usd"]) == usd_of(
            held
        )

    more = 6 * PROMPTS * WORST
    on = [studio.start(job, more) for job in ("one", "two")]
    results = [ended(child) for child in on]
    assert {code for code, _ in results} <= {0, 1}
    assert all(result["account"]["cap"]["usd"] == usd(more) for _, result in results)
    assert CAP < studio.billed() <= account_of(studio) <= more


def account_of(studio: Studio) -> int:
    """Nano-dollars that the account holds, which its attempts and its jobs must bear out."""
    reader = Ledger.read(studio.url)
    shared = reader.account("acme")
    assert shared is not None
    assert (shared.spend, 0, 0) == reader.account_recount("acme")
    jobs = [reader.counters(name) for name in ("one", "two")]
    assert jobs == [reader.recount(name) for name in ("one", "two")]
    assert shared.spend == jobs[0].spend.plus(jobs[1].spend)
    return shared.spend.held


def usd_of(nanos: int) -> Decimal:
    return Decimal(nanos) / 10**9


def usd(nanos: int) -> str:
    return f"{usd_of(nanos).normalize():f}"
