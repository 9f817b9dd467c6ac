"""The catalog: every entry has a source, and what is wrong in it is an error."""

import re
import tomllib
from decimal import Decimal
from importlib.resources import files

import pytest

from runner.core.catalog import UsageTier, builtin, parse

TEXT = files("runner.core").joinpath("catalog.toml").read_text(encoding="utf-8")
FLASH = '[models."gemini-3.1-flash-image"]'


def with_model_lines(*lines: str) -> str:
    """The catalog with lines added to one of its models."""
    return TEXT.replace(FLASH, "\n".join((FLASH, *lines)))


def test_every_model_is_sourced_and_whole():
    catalog = builtin()
    for model in catalog.models.values():
        assert model.source
        assert model.aspects
        assert set(model.pixels) == {(s, a) for s in model.sizes for a in model.aspects}
        assert model.successor is None or model.successor in catalog.models


def test_every_tier_is_dated_and_sourced():
    raw = tomllib.loads(TEXT)
    for entry in (*raw["usage_tiers"].values(), *raw["service_tiers"].values()):
        assert re.search(r"\[doc 20\d\d-\d\d", entry["source"])


def test_usage_tiers_have_the_documented_dollars():
    assert builtin().usage_tiers == {
        1: UsageTier(10 * 10**9, 250 * 10**9, "[doc 2026-09]"),
        2: UsageTier(50 * 10**9, 2_000 * 10**9, "[doc 2026-09]"),
        3: UsageTier(200 * 10**9, None, "[doc 2026-09]"),
    }


def test_every_model_has_the_general_service_tiers():
    general = {"flex": Decimal("0.5"), "priority": Decimal(2)}
    assert builtin().service_tiers == general
    assert all(model.service_tiers == general for model in builtin().models.values())


def test_a_models_own_service_tiers_go_before_the_general_ones():
    catalog = parse(with_model_lines('service_tiers = { priority = "1.75", turbo = "3" }'))
    tiers = catalog.models["gemini-3.1-flash-image"].service_tiers
    assert tiers == {"flex": Decimal("0.5"), "priority": Decimal("1.75"), "turbo": Decimal(3)}
    assert catalog.models["gemini-3-pro-image"].service_tiers == catalog.service_tiers


def test_no_model_offers_another_lane_without_a_source():
    assert all(model.lanes == {} for model in builtin().models.values())
    sourced = parse(with_model_lines('lanes = { flex = { source = "[doc 2026-07]" } }'))
    assert sourced.models["gemini-3.1-flash-image"].lanes == {"flex": "[doc 2026-07]"}
    with pytest.raises(ValueError, match="a lane needs a source"):
        parse(with_model_lines('lanes = { flex = { source = " " } }'))
    with pytest.raises(KeyError, match="source"):
        parse(with_model_lines("lanes = { flex = {} }"))


@pytest.mark.parametrize("factor", ["0", "-1", "100", "NaN"])
def test_a_factor_that_is_none_is_refused(factor: str):
    with pytest.raises((ValueError, ArithmeticError)):
        parse(with_model_lines(f'service_tiers = {{ flex = "{factor}" }}'))


def test_enqueued_tokens_are_those_that_are_documented():
    """gemini-api.md §7.5; of the others nobody says anything, which is not zero."""
    flash, pro = {1: 1_000_000}, {1: 2_000_000, 2: 270_000_000, 3: 1_000_000_000}
    assert {id_: model.batch_tokens for id_, model in builtin().models.items()} == {
        "gemini-3.1-flash-image-preview": flash,
        "gemini-3.1-flash-image": flash,
        "gemini-nano-banana-2.1": {},
        "gemini-3.1-flash-lite-image": {},
        "gemini-3-pro-image": pro,
        "gemini-3-pro-image-preview": pro,
        "gemini-2.5-flash-image": {1: 3_000_000},
    }
    assert all("batch tokens [doc" in model.source for model in builtin().models.values() if model.batch_tokens)
