"""Answers mangled at random never raise and are exactly one reply."""

import json
import typing
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core.lifecycle import Reply
from tests.adapters.test_answer import IMAGE, answer, read

REPLIES = typing.get_args(Reply)

SAMPLE = answer(
    {"text": "words ![x](data:image/png;base64,AAAA) more"},
    IMAGE,
    {"fileData": {"fileUri": "https://x"}},
    usageMetadata={
        "promptTokenCount": 5,
        "candidatesTokenCount": 1573,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}],
    },
    promptFeedback={"blockReason": "SAFETY"},
    modelStatus={"modelStage": "STABLE"},
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mangled(draw: st.DrawFn) -> Any:
    """The sample with junk in place of some of its values, at any depth."""

    def mangle(value: Any) -> Any:
        if draw(st.integers(0, 7)) == 0:
            return draw(JUNK)
        if isinstance(value, dict):
            return {k: mangle(v) for k, v in value.items()}
        return [mangle(v) for v in value] if isinstance(value, list) else value

    return mangle(SAMPLE)


@settings(max_examples=300, deadline=None)
@given(mangled())
def test_a_mangled_answer_is_still_exactly_one_reply(body: Any) -> None:
    assert isinstance(read(body), REPLIES)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_cut_or_flipped_answer_is_still_exactly_one_reply(data: st.DataObject) -> None:
    raw = bytearray(json.dumps(SAMPLE).encode())
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    assert isinstance(read(bytes(raw[:cut])), REPLIES)
