"""Usage as recorded answers have it, and a bill that equals it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from runner.core.catalog import builtin
from runner.sandbox import FaultPlan, Options
from runner.sandbox.books import Books
from runner.sandbox.chance import Chance
from runner.sandbox.clock import Clock
from runner.sandbox.request import understand
from runner.sandbox.sample import Sample
from tests.sandbox.wire import MODEL, asking, charged, pictures, serving

FIELDS = {
    *(
        "n",
        "at",
        "clock",
        "arrival",
        "request",
        "seen",
        "model",
        "size",
        "aspect",
        "tier",
        "lane",
        "input",
        "text",
        "image",
    ),
    *("images", "response_id", "outcome", "answered", "sha256", "prompt", "batch", "line", "key"),
}


def samples(tmp_path, count: int, level: str = "MINIMAL", model: str = MODEL) -> list[Sample]:
    config = {"thinkingLevel": level} if level else {}
    options, plan = Options(tmp_path), FaultPlan()
    asked = understand(builtin().models[model], asking(thinkingConfig=config))
    chances = [Chance(0, asked.hash, seen) for seen in range(1, count + 1)]
    return [
        Sample(asked, chance, options, plan.habit("overrun", chance), plan.habit("details_missing", chance))
        for chance in chances
    ]


def test_bill_equals_the_usage_of_the_answers(tmp_path):
    """Line for line, in the order of the answers, with nothing left out."""
    with serving(
        tmp_path, faults="details_missing=0.3,overrun=0.1,several_images=0.2,image_safety=0.2"
    ) as sandbox:
        answers = [sandbox.post(asking(f"prompt {n % 20}")).json for n in range(60)]
    bill = sandbox.bill()
    assert [(row["input"], row["text"], row["image"]) for row in bill] == [charged(answer) for answer in answers]
    assert [row["response_id"] for row in bill] == [answer["responseId"] for answer in answers]
    assert [row["images"] for row in bill] == [len(pictures(answer)) for answer in answers]
    assert len({row["response_id"] for row in bill}) == 60
    assert all(row.keys() == FIELDS for row in bill)
    assert [row["n"] for row in bill] == list(range(1, 61))
    assert sorted(row["at"] for row in bill) == [row["at"] for row in bill]


def test_total_is_the_sum_of_its_parts(tmp_path):
    """total = prompt + candidates + thoughts; fields of zero are left out."""
    for sample in samples(tmp_path, 300, "HIGH"):
        usage = sample.usage(1).wire()
        assert usage["totalTokenCount"] == sum(
            usage[f"{n}TokenCount"] for n in ("prompt", "candidates", "thoughts")
        )
        assert 0 not in usage.values()
        assert usage["serviceTier"] == "standard"


def test_thinking_at_minimal_is_mostly_absent(tmp_path):
    plain = [sample.usage(1) for sample in samples(tmp_path, 2000) if not sample.overrun]
    thought = [usage.thoughts for usage in plain if usage.thoughts]
    assert 0.1 < len(thought) / len(plain) < 0.2
    assert max(thought) <= 800
    assert max(usage.text for usage in plain) <= 1430
    assert 0.7 < sum(usage.text > 0 for usage in plain) / len(plain) < 0.95


def test_thinking_at_high_is_300_to_800(tmp_path):
    thoughts = [sample.usage(1).thoughts for sample in samples(tmp_path, 500, "HIGH") if not sample.overrun]
    assert 300 <= min(thoughts) < 320
    assert 780 < max(thoughts) <= 800


def test_old_model_never_thinks(tmp_path):
    usages = [sample.usage(1) for sample in samples(tmp_path, 1000, "", "gemini-2.5-flash-image")]
    assert not any(usage.thoughts for usage in usages)
    assert {usage.image for usage in usages} == {1290}


def test_habits_are_as_rare_as_they_say(tmp_path):
    drawn = samples(tmp_path, 20_000)
    assert 20 <= sum(sample.overrun for sample in drawn) <= 65
    assert 0.04 < sum(sample.details_missing for sample in drawn) / len(drawn) < 0.06


@given(level=st.sampled_from(["MINIMAL", "HIGH"]), seen=st.integers(1, 10**6), pictures=st.integers(1, 3))
def test_overruns_pass_what_callers_set_aside(level, seen, pictures):
    asked = understand(builtin().models[MODEL], asking(thinkingConfig={"thinkingLevel": level}))
    usage = Sample(asked, Chance(0, asked.hash, seen), None, overrun=True).usage(pictures)  # type: ignore[arg-type]
    assert (1600 <= usage.text <= 2500) if level == "MINIMAL" else (4100 <= usage.text <= 5000)
    assert usage.image == 1120 * pictures


def test_bill_goes_on_after_a_kill(tmp_path):
    """Numbers go on behind a torn last line, and time never runs back on the bill."""
    times = iter([95.0, 100.0, 90.0, 110.0])
    (sample,) = samples(tmp_path, 1)

    def bill(books: Books) -> None:
        books.bill(sample, sample.usage(1).charge(1), arrival=1, outcome="image", answered=True, sha256="")

    clock = Clock(tmp_path, 1, lambda: next(times))
    first = Books(tmp_path, clock)
    bill(first)
    bill(first)
    first.close()
    with (tmp_path / "bill.jsonl").open("a") as file:
        file.write('{"n": 3, "at"')
    second = Books(tmp_path, clock)
    bill(second)
    second.close()
    lines = (tmp_path / "bill.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in (*lines[:2], lines[3])]
    assert [(row["n"], row["at"], row["clock"]) for row in rows] == [
        (1, 100.0, 100.0),
        (2, 100.0, 100.0),
        (3, 110.0, 110.0),
    ]


def test_answers_are_billed_before_they_leave(tmp_path):
    """Whoever holds an answer finds it on the bill."""
    with serving(tmp_path) as sandbox:
        for count in range(1, 6):
            sandbox.post(asking(f"prompt {count}"))
            assert len(sandbox.bill()) == count


def test_thoughts_are_shown_where_asked_for(tmp_path):
    config = {"thinkingLevel": "HIGH", "includeThoughts": True}
    with serving(tmp_path) as sandbox:
        shown = sandbox.post(asking(thinkingConfig=config)).json["candidates"][0]["content"]["parts"]
        hidden = sandbox.post(asking(thinkingConfig={"thinkingLevel": "HIGH"})).json["candidates"][0]["content"][
            "parts"
        ]
    assert [part for part in shown if part.get("thought")]
    assert not [part for part in hidden if part.get("thought")]


def test_words_stand_beside_the_picture_where_asked_for(tmp_path):
    """With TEXT some answers speak, before or behind the picture; without it none does."""
    with serving(tmp_path) as sandbox:
        spoken, silent = (
            [
                tuple(next(iter(part)) for part in answer["candidates"][0]["content"]["parts"])
                for answer in (sandbox.post(asking(responseModalities=asked)).json for _ in range(20))
            ]
            for asked in (["TEXT", "IMAGE"], ["IMAGE"])
        )
    assert set(spoken) == {("inlineData",), ("text", "inlineData"), ("inlineData", "text")}
    assert set(silent) == {("inlineData",)}


def test_signature_is_as_large_as_asked(tmp_path):
    with serving(tmp_path, signature_bytes=30_000) as sandbox:
        answer = sandbox.post(asking(responseModalities=["IMAGE"])).json
        old = sandbox.post(asking(), model="gemini-2.5-flash-image").json
    assert len(answer["candidates"][0]["content"]["parts"][0]["thoughtSignature"]) == 40_000
    assert "thoughtSignature" not in json.dumps(old)
