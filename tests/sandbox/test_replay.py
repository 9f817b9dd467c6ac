"""Faults replay, whatever the order and concurrency; plans of faults are read as people write them."""

import base64
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from PIL import Image

from runner.sandbox import FaultPlan, fault_plan
from runner.sandbox.faults import HABITS, PRESETS, STOPPING, TIERS
from tests.sandbox.wire import Served, asking, pictures, serving

STANDARD = asking(imageConfig={"aspectRatio": "16:9", "imageSize": "1K"}, responseModalities=["IMAGE"])


def outcomes(sandbox: Served) -> dict[tuple[str, int], tuple[Any, ...]]:
    """What became of each sample, apart from when."""
    billed = {row["arrival"]: row for row in sandbox.bill()}
    kept = ("outcome", "input", "text", "image", "images", "response_id", "sha256", "answered")
    return {
        (row["request"], row["seen"]): (row["status"], *(billed.get(row["n"], {}).get(name) for name in kept))
        for row in sandbox.requests()
    }


def test_storm_replays_in_any_order_and_concurrency(tmp_path):
    """The fate of a sample depends on seed, request and how often it was seen, on nothing else."""
    bodies = [asking(f"prompt {n}", imageConfig={"imageSize": "512"}) for n in range(60)] * 3
    with serving(tmp_path / "a", faults="storm", seed=7, speed=50) as first:
        for body in bodies:
            first.post(body)
    Random(1).shuffle(bodies)
    with (
        serving(tmp_path / "b", faults="storm", seed=7, speed=50, latency_s=0.25) as second,
        ThreadPoolExecutor(16) as pool,
    ):
        list(pool.map(second.post, bodies))
    assert outcomes(first) == outcomes(second)
    faulty = [fate for fate in outcomes(first).values() if fate[0] not in {"image", *HABITS}]
    assert 0.25 * len(bodies) < len(faulty) < 0.5 * len(bodies)


def test_another_seed_is_another_storm(tmp_path):
    bodies = [asking(f"prompt {n}", imageConfig={"imageSize": "512"}) for n in range(40)]
    fates = []
    for seed in (1, 2):
        with serving(tmp_path / str(seed), faults="storm", seed=seed, speed=50) as sandbox:
            for body in bodies:
                sandbox.post(body)
        fates.append([row["status"] for row in sandbox.requests()])
    assert fates[0] != fates[1]


def test_times_seen_survive_a_restart(tmp_path):
    """A killed sandbox that comes back goes on with the next sample, not with the first again."""
    for _ in range(2):
        with serving(tmp_path / "restarted", faults="storm", speed=50) as sandbox:
            for _ in range(3):
                sandbox.post(STANDARD)
    with serving(tmp_path / "whole", faults="storm", speed=50) as whole:
        for _ in range(6):
            whole.post(STANDARD)
    assert outcomes(sandbox) == outcomes(whole)
    assert [row["n"] for row in sandbox.requests()] == [1, 2, 3, 4, 5, 6]


def test_two_samples_of_one_request_differ(tmp_path):
    with serving(tmp_path) as sandbox:
        shown = [base64.b64decode(pictures(sandbox.post(STANDARD).json)[0]["data"]) for _ in range(3)]
    digests = [hashlib.sha256(data).hexdigest() for data in shown]
    assert len(set(digests)) == 3
    assert [row["sha256"] for row in sandbox.bill()] == digests
    pixels = {Image.open(io.BytesIO(data)).convert("RGB").tobytes() for data in shown}
    assert len(pixels) == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_stops_a_run(preset):
    assert not {*STOPPING, *TIERS, "hang"} & PRESETS[preset].keys()


def test_presets_are_as_heavy_as_they_say():
    totals = {name: round(sum(rates.values()), 3) for name, rates in PRESETS.items()}
    assert totals == {"none": 0, "night": 0.03, "mild": 0.11, "storm": 0.38}


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("none", {}),
        ("", {}),
        ("cut=0.25, hang=1e-3", {"cut": 0.25, "hang": 0.001}),
        ("none,cut=1", {"cut": 1.0}),
        ("overrun=0", {"overrun": 0.0}),
    ],
)
def test_plans_in_one_line(text, rates):
    assert fault_plan(text) == FaultPlan(rates)


@pytest.mark.parametrize(("suffix", "text"), [("yaml", "preset: none\ncut: 0.5\n"), ("toml", "cut = 0.5\n")])
def test_plans_in_files(tmp_path, suffix, text):
    path = tmp_path / f"plan.{suffix}"
    path.write_text(text)
    assert fault_plan(str(path)) == FaultPlan({"cut": 0.5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hurricane", "unknown fault plan 'hurricane': expected one of none, night, mild, storm"),
        ("cutt=0.5", "unknown fault 'cutt'; did you mean 'cut'?"),
        ("cut=often", "'cut=often': expected name=probability"),
        ("cut=1.5", "fault cut: 1.5 is not a probability from 0 to 1"),
        ("cut=0.6,hang=0.6", "add up to 1.2"),
        ("cut=nan", "nan is not a probability"),
    ],
)
def test_wrong_plans_say_what_is_wrong(text, message):
    with pytest.raises(ValueError) as caught:
        fault_plan(text)
    assert message in str(caught.value)


def test_wrong_plan_files_say_what_is_wrong(tmp_path):
    path = tmp_path / "plan.yaml"
    for text, message in [
        ("- cut\n", "expected a table"),
        ("cut: often\n", "not a probability"),
        ("a: [", "plan"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError) as caught:
            fault_plan(str(path))
        assert message in str(caught.value)
