"""`plan`, `run`, `status`, `export` as a person and a program see them, over the life of a job."""

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import pytest

from runner.adapters.files import RealFiles
from runner.core.budget import about

INPUT, TEXT, IMAGE = 250, 1_500, 60_000
"""Nano-dollars a token, from the owner's price sheet."""

COLUMNS = """key, job, prompt_id, prompt, model, lane, size, aspect, variant, axes, state, path, sha256, bytes,
mime, width, height, image_tokens, cost_usd, unknown_usd, attempts, finish_reason, error, text, response_id"""


def bill(service):
    return [json.loads(line) for line in (service[0] / "bill.jsonl").read_text().splitlines()]


def billed_usd(lines):
    nanos = sum(line["input"] * INPUT + line["text"] * TEXT + line["image"] * IMAGE for line in lines)
    return Decimal(nanos) / 10**9


@pytest.fixture
def bought(service):
    """Bill lines of this test alone."""
    path = service[0] / "bill.jsonl"
    before = len(path.read_text().splitlines()) if path.exists() else 0
    return lambda: bill(service)[before:]


def pictures(home):
    return sorted(str(path.relative_to(home / "renders")) for path in (home / "renders").rglob("*.jpg"))


def test_a_plan_buys_nothing_and_changes_nothing(live, manifest, home, bought):
    result = live("plan", manifest("budget: {usd: 1}"), "--json")
    answer = json.loads(result.out)
    worst = 2 * (747 * IMAGE + 1_500 * TEXT + 5 * INPUT)
    assert result.code == 0
    assert answer["tasks"] == {"total": 2, "new": 2, "retry": 0, "done": 0, "submitted": 0, "orphaned": 0}
    assert Decimal(answer["projected"]["max_usd"]) == Decimal(worst) / 10**9
    assert Decimal(answer["projected"]["usd"]) < Decimal(answer["projected"]["max_usd"])
    assert answer["projected"]["image_tokens"] == 2 * 747
    assert answer["cap"] == {"usd": "1.00", "image_tokens": None}
    assert answer["fits"] is True
    assert [path.name for path in home.iterdir()] == ["j.yaml"]
    assert not bought()


def test_a_plan_and_a_run_tell_what_is_empty_and_what_repeats(live, manifest, home):
    (home / "p.csv").write_text("animal,hour\nox,dusk\nox,\nox,dusk\n")
    path = manifest(prompts="[{from: p.csv, text: '{animal} at {hour}'}]")
    told = [
        "p.csv:3: {hour} is empty in 'ox at '",
        "1 task repeats the request of another, each a picture of its own: p.csv:4 asks for what p.csv:2 does",
    ]
    planned, ran = live("plan", path, "--json"), live("run", path)
    assert json.loads(planned.out)["notes"][-2:] == told
    assert all(f"note: {line}\n" in ran.err for line in told)


def test_a_disk_with_too_little_room_for_the_job_is_noted_before_a_run(live, manifest, monkeypatch):
    """A picture of 512 is expected to take some 270 KB; 64 MB of the disk are never touched."""
    monkeypatch.setattr(RealFiles, "free", lambda *_: 64 * 2**20 + 5_000_000)
    few, many = (json.loads(live("plan", manifest(f"variants: {n}"), "--json").out)["notes"] for n in (9, 10))
    assert not any("room" in note for note in few)
    (told,) = (note for note in many if "room" in note)
    assert "20 pictures are expected to take 5 MB, and the output's disk has 5 MB for them" in told
    ran = live("run", manifest("variants: 500\nbudget: {usd: 0.10, on_exceed: refuse}"))
    assert "note: too little room: 1000 pictures are expected to take 270 MB, and " in ran.err


def test_a_plan_that_does_not_fit_says_so(live, manifest):
    result = live("plan", manifest("budget: {usd: 0.05}"))
    assert result.code == 3
    assert "does not fit the cap" in result.out
    assert "the cap cuts after task 1 of 2" in result.out.replace("\n", " ")


def test_a_run_ends_with_pictures_a_receipt_and_the_objects_of_the_design(live, manifest, home, bought):
    result = live("run", manifest("budget: {usd: 1}"), "--json")
    answer = json.loads(result.out)
    assert result.code == 0
    design = ["job", "tasks", "spend", "cap", "halted", "reason", "exit_code"]
    assert [name for name in answer if name in design] == design
    assert answer.keys() - set(design) == {"account", "holding", "drafts", "finals", "batches"}
    assert answer["tasks"] == {
        "total": 2, "queued": 0, "running": 0, "submitted": 0, "succeeded": 2, "refused": 0, "failed": 0,
    }  # fmt: skip
    assert Decimal(answer["spend"]["usd"]) == billed_usd(bought())
    assert answer["spend"]["image_tokens"] == 2 * 747
    assert pictures(home) == ["j/a/512-1x1-1.jpg", "j/b/512-1x1-1.jpg"]
    assert "2 tasks to buy" in result.err
    assert "2 of 2 pictures" in result.err
    assert result.err.splitlines()[-1] == "to see them: bulkrender gallery j"
    assert json.loads(live("status", "j", "--json").out) == answer


def test_running_again_is_resuming_and_buys_nothing(live, manifest, bought):
    path = manifest()
    first = json.loads(live("run", path, "--json").out)
    count = len(bought())
    assert json.loads(live("run", path, "--json").out) == first
    assert len(bought()) == count


def test_an_edited_manifest_buys_only_the_difference(live, manifest, home, bought):
    live("run", manifest())
    count = len(bought())
    wider = manifest(size="[512, 1K]")
    planned = json.loads(live("plan", wider, "--json").out)
    assert planned["tasks"] == {"total": 4, "new": 2, "retry": 0, "done": 2, "submitted": 0, "orphaned": 0}
    live("run", wider)
    assert len(bought()) == count + 2
    assert len(pictures(home)) == 4


def test_orphans_keep_their_pictures_and_their_spend(live, manifest, home):
    first = json.loads(live("run", manifest(), "--json").out)
    fewer = manifest(prompts="[{id: a, text: a cat}]")
    assert json.loads(live("plan", fewer, "--json").out)["tasks"]["orphaned"] == 1
    answer = json.loads(live("run", fewer, "--json").out)
    assert answer["tasks"]["total"] == 1
    assert answer["spend"]["usd"] == first["spend"]["usd"]
    assert len(pictures(home)) == 2
    assert len(live("export", "j").out.splitlines()) == 1
    assert len(live("export", "j", "--all").out.splitlines()) == 2


def test_a_renamed_prompt_moves_its_picture(live, manifest, home, bought):
    live("run", manifest())
    before = (home / "renders/j/a/512-1x1-1.jpg").read_bytes()
    count = len(bought())
    live("run", manifest(prompts="[{id: cat, text: a cat}, {id: b, text: a dog}]"))
    assert (home / "renders/j/cat/512-1x1-1.jpg").read_bytes() == before
    assert (home / "renders/j/cat/512-1x1-1.json").exists()
    assert not (home / "renders/j/a/512-1x1-1.jpg").exists()
    assert len(bought()) == count


def test_swapped_ids_swap_their_pictures(live, manifest, home, bought):
    live("run", manifest())
    cat = (home / "renders/j/a/512-1x1-1.jpg").read_bytes()
    count = len(bought())
    live("run", manifest(prompts="[{id: b, text: a cat}, {id: a, text: a dog}]"))
    assert (home / "renders/j/b/512-1x1-1.jpg").read_bytes() == cat
    assert len(bought()) == count


def test_an_edited_prompt_supersedes_its_picture_and_editing_back_restores_it(live, manifest, home, bought):
    live("run", manifest())
    target = home / "renders/j/a/512-1x1-1.jpg"
    cat = target.read_bytes()
    tiger = manifest(prompts="[{id: a, text: a tiger}, {id: b, text: a dog}]")
    assert live("plan", tiger).code == 0
    assert live("run", tiger).code == 0
    assert target.read_bytes() != cat
    [kept] = (home / "renders/j/a/superseded").glob("*.jpg")
    assert kept.read_bytes() == cat
    count = len(bought())
    assert live("run", manifest()).code == 0
    assert target.read_bytes() == cat
    assert len(bought()) == count


def test_the_cap_cuts_spread_over_the_prompts_and_raising_it_goes_on(live, manifest, home):
    path = manifest("variants: 3")
    result = live("run", path, "--budget", "0.14", "--concurrency", "1", "--json")
    answer = json.loads(result.out)
    assert (result.code, answer["halted"]) == (3, "budget")
    assert Decimal(answer["spend"]["usd"]) <= Decimal("0.14")
    assert {name.split("/")[1] for name in pictures(home)} == {"a", "b"}
    more = json.loads(live("run", path, "--budget", "5", "--json").out)
    assert (more["exit_code"], more["tasks"]["succeeded"]) == (0, 6)


def test_a_cap_in_image_tokens(live, manifest):
    answer = json.loads(live("run", manifest("budget: {image_tokens: 800}"), "--json").out)
    assert (answer["exit_code"], answer["halted"]) == (3, "budget")
    assert answer["spend"]["image_tokens"] == 747


def test_on_exceed_refuse_starts_nothing(live, manifest, bought):
    result = live("run", manifest("budget: {usd: 0.05, on_exceed: refuse}"), "--json")
    answer = json.loads(result.out)
    assert (result.code, answer["halted"]) == (3, "budget")
    assert not bought()
    plain = live("run", "j.yaml")
    worst = Decimal(json.loads(live("plan", "j.yaml", "--json").out)["projected"]["max_usd"])
    shown = about(int(worst * 10**9))
    assert f"halted (budget): 2 tasks to buy: likely $0.0907, up to ${shown}; cap $0.05" in plain.err
    assert "on_exceed is refuse\nto go on, raise the cap (--budget: dollars) and run again" in plain.err


def test_a_plan_reckons_with_what_the_ledger_has_seen(command, manifest):
    """An answer with several pictures raises what every job of the ledger reserves."""
    drawn = ("--sandbox", "--sandbox-latency", 0, "--sandbox-faults", "several_images=1")
    assert command("run", manifest(prompts="[a cat]", size="[1K]"), *drawn).code == 0
    other = manifest("budget: {image_tokens: 2000}", name="other.yaml", size="[1K]")
    other.write_text(other.read_text().replace("job: j", "job: other"))
    planned = command("plan", other, "--sandbox", "--json")
    result = command("run", other, "--sandbox", "--json")
    answer, says = json.loads(planned.out), json.loads(result.out)["reason"]
    assert (planned.code, result.code) == (3, 3)
    each = answer["projected"]["image_tokens"] // 2
    assert each in {2 * 1120, 3 * 1120}
    assert f", {each // 1120} pictures in one answer as lately seen: {each} image tokens on top of 0" in says


def test_unknown_prices_are_null_never_zero(command, manifest, tmp_path, monkeypatch):
    from tests.sandbox.process import sandbox_process

    lite = manifest(size="[1K]")
    lite.write_text(lite.read_text().replace("gemini-3.1-flash-image-preview", "gemini-3.1-flash-lite-image"))
    monkeypatch.setenv("GEMINI_API_KEY", "sandbox")
    with sandbox_process(tmp_path / "lite", port=0, latency_s=0.0) as base_url:
        answer = json.loads(command("run", lite, "--base-url", base_url, "--json").out)
    assert answer["exit_code"] == 0
    assert answer["spend"]["usd"] is None
    assert answer["spend"]["image_tokens"] == 2 * 1_120
    row = json.loads(command("export", "j").out.splitlines()[0])
    assert row["cost_usd"] is None


def test_several_jobs_run_one_after_another(live, manifest):
    one, two = manifest(name="one.yaml"), manifest(name="two.yaml")
    two.write_text(two.read_text().replace("job: j", "job: k"))
    answer = json.loads(live("run", one, two, "--json").out)
    assert [job["job"] for job in answer["jobs"]] == ["j", "k"]
    assert answer["exit_code"] == 0
    assert "k" in live("status").out


def test_an_export_has_one_row_a_task(live, manifest, home):
    live("run", manifest("generation: {modalities: [IMAGE, TEXT]}\nvariants: 8"))
    rows = [json.loads(line) for line in live("export", "j").out.splitlines()]
    assert set(COLUMNS.replace(",", " ").split()) <= set(rows[0])
    assert len(rows) == 16
    assert {(row["state"], row["lane"], row["size"]) for row in rows} == {("succeeded", "standard", "512")}
    assert any(row["text"] for row in rows)
    assert (home / "renders" / rows[0]["path"]).stat().st_size == rows[0]["bytes"]
    live("export", "j", "--format", "csv", "--to", "rows.csv")
    table = list(csv.DictReader(io.StringIO(Path("rows.csv").read_text())))
    assert [row["prompt"] for row in table] == ["a cat", "a dog"] * 8
    assert [row["cost_usd"] for row in table] == [row["cost_usd"] for row in rows]


def test_the_key_is_nowhere(live, manifest, home, monkeypatch, tmp_path):
    from tests.sandbox.process import sandbox_process

    secret = "AIza-very-secret-key-0123456789"
    monkeypatch.setenv("GEMINI_API_KEY", secret)
    with sandbox_process(tmp_path / "keyed", port=0, latency_s=0.0, key=secret, faults="storm") as base_url:
        result = live("run", manifest("variants: 10"), "--base-url", base_url)
    assert secret not in result.out + result.err
    for path in home.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_a_base_url_with_a_path_prefix_is_kept_as_the_quotas_name(live, manifest, service):
    assert live("run", manifest(), "--base-url", service[1] + "/").code == 0


def test_models_shows_prices_source_and_date(command):
    text = command("models").out
    for piece in (
        "gemini-3.1-flash-image-preview",
        "shutdown 2026-06-25",
        "2520",
        "$0.0672",
        "[owner]",
        "2026-11-22",
    ):
        assert piece in text
    answer = json.loads(command("models", "--json").out)
    owners = answer["models"][0]
    assert owners["prices"]["standard"] == {"input": "0.25", "text": "1.50", "image": "60.00"}
    assert owners["prices"]["batch"] == {"input": "0.125", "text": "0.75", "image": "30.00"}
    assert owners["sizes"]["4K"]["pixels"]["21:9"] == "6336x2688"


def test_the_schema_is_printed(command):
    answer = json.loads(command("schema").out)
    assert "prompts" in answer["properties"]


def test_watching_ends_when_the_jobs_have(live, manifest):
    live("run", manifest())
    result = live("status", "--watch")
    assert result.code == 0
    assert "j: 2 of 2 done (2 succeeded)" in result.out


def test_a_run_that_ends_with_refusals_exits_1_and_says_why(command, manifest, tmp_path, monkeypatch):
    from tests.sandbox.process import sandbox_process

    monkeypatch.setenv("GEMINI_API_KEY", "sandbox")
    with sandbox_process(tmp_path / "strict", port=0, latency_s=0.0, faults="prompt_blocked=1") as base_url:
        result = command("run", manifest(), "--base-url", base_url, "--json")
        again = command("run", manifest(), "--base-url", base_url, "--json")
    answer = json.loads(result.out)
    assert (result.code, answer["tasks"]["refused"]) == (1, 2)
    assert "refused  prompt_blocked  2" in result.err
    assert result.err.splitlines()[-2:] == [
        "why some are missing: bulkrender report j",
        "to try them again: bulkrender retry j",
    ]
    assert answer["spend"]["unknown_usd"] == "0.00"
    assert json.loads(again.out) == answer
    [row, _] = [json.loads(line) for line in command("export", "j").out.splitlines()]
    assert (row["state"], row["finish_reason"].startswith("BLOCKED:"), row["path"]) == ("refused", True, None)


def test_failures_that_may_pass_go_back_with_fresh_tries(command, manifest, tmp_path, monkeypatch):
    from tests.sandbox.process import sandbox_process

    monkeypatch.setenv("GEMINI_API_KEY", "sandbox")
    path = manifest("retry: {attempts: 1}")
    with sandbox_process(tmp_path / "ill", port=0, latency_s=0.0, faults="http_500=1") as base_url:
        assert json.loads(command("run", path, "--base-url", base_url, "--json").out)["tasks"]["failed"] == 2
    assert json.loads(command("plan", path, "--json").out)["tasks"]["retry"] == 2
    with sandbox_process(tmp_path / "well", port=0, latency_s=0.0) as base_url:
        assert json.loads(command("run", path, "--base-url", base_url, "--json").out)["tasks"]["succeeded"] == 2
