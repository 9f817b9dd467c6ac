"""Paths: slugs that are safe everywhere, templates that cannot leave the folder, and when two paths are one."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.paths import (
    MAX_SEGMENT_BYTES,
    Layout,
    compile_output,
    default_output,
    fold,
    prompt_id,
    slug,
)

RESERVED = {"con", "prn", "aux", "nul", "com1", "lpt9", "com¹", "rejected", "superseded"}


def stem(output: str, **values: str) -> str:
    return compile_output(output, [n for n in values if n not in ("job", "prompt", "variant", "key")]).stem(values)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("16:9", "16x9"),
        ("1K", "1K"),
        ("bright yellow and white", "bright-yellow-and-white"),
        ("a / b", "a-b"),
        ("../../etc/passwd", "..-..-etc-passwd"),
        ("C:\\temp", "C-temp"),
        ("-1", "-1"),
        ("a--b", "a--b"),
        ("what?", "what"),
        ("???", "_"),
        ("", "_"),
        ("  x  ", "x"),
        ("größe 北京 🍌", "größe-北京-🍌"),
        ("e\u0301", "é"),
        ("a\x00\x1b\n\u2028\u200db", "a-b"),
        ("$(rm -rf)", "(rm-rf)"),
        ("a+b=c@d~e,f", "a+b=c@d~e,f"),
        ("no", "no"),
    ],
)
def test_a_slug_keeps_what_file_names_can_hold(value: str, expected: str):
    assert slug(value) == expected


def test_values_cut_to_length_stay_distinct():
    one, two = slug("é" * 200 + "1"), slug("é" * 200 + "2")
    assert one != two
    assert one.startswith("é" * 40)
    assert len(one.encode()) <= 100


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("..", "_"),
        (".hidden", "_hidden"),
        ("trailing...", "trailing"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("Lpt9", "_Lpt9"),
        ("console", "console"),
        ("rejected", "_rejected"),
        ("Superseded", "_Superseded"),
        ("_", "_"),
    ],
)
def test_a_segment_has_no_reserved_name(prompt: str, expected: str):
    assert stem("{prompt}/{variant}.{ext}", prompt=prompt, variant="1") == f"{expected}/1"


def test_literals_and_values_of_one_segment_stand_together():
    values = {
        "job": "j",
        "prompt": "p q",
        "variant": "2",
        "key": "k1-0",
        "size": "4K",
        "aspect": "21:9",
        "tone": ".",
    }
    assert stem(default_output(["size", "aspect", "tone"]), **values) == "j/p-q/4K-21x9-.-2"
    assert stem("a b/{prompt} ({key}).{ext}", **values) == "a b/p-q (k1-0)"


def test_a_long_segment_is_cut_and_stays_distinct():
    output = "{a}{b}{c}{prompt}.{ext}"
    one, two = (stem(output, a="x" * 100, b="y" * 100, c="z" * 100, prompt=p) for p in ("1", "2"))
    assert one != two
    assert len(one) == MAX_SEGMENT_BYTES - 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("Straße", "STRASSE"), ("é", "e\u0301"), ("ΣΑΣ", "σας"), ("a/B", "A/b"), ("İ", "i\u0307")],
)
def test_paths_that_some_file_system_takes_for_one(one: str, other: str):
    assert fold(one) == fold(other)


def test_the_default_output_names_every_other_axis():
    assert default_output(["tone", "size", "aspect", "x"]) == (
        "{job}/{prompt}/{size}-{aspect}-{tone}-{x}-{variant}.{ext}"
    )


@pytest.mark.parametrize(
    "output",
    ["{prompt}", "a//{prompt}.{ext}", "{prompt}/.{ext}", "{a.b}.{ext}", "{{prompt}}.{ext}", "a /{key}.{ext}"],
)
def test_an_output_that_makes_no_path_is_refused(output: str):
    with pytest.raises(ValueError):
        compile_output(output, [])


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_values_make_safe_segments(prompt: str, tone: str):
    layout: Layout = compile_output("{job}/{prompt}/{tone}{prompt}-x.{ext}", ["tone"])
    path = layout.stem({"job": prompt, "prompt": prompt, "tone": tone})
    segments = path.split("/")
    assert len(segments) == 3
    for segment in segments:
        assert 0 < len(segment.encode()) <= MAX_SEGMENT_BYTES
        assert unicodedata.is_normalized("NFC", segment)
        assert not segment.startswith(".")
        assert not segment.endswith((".", " "))
        assert not set(segment) & set('<>:"/\\|?*\0\n\r\t')
        assert segment.partition(".")[0].casefold() not in RESERVED
        assert all(unicodedata.category(c) not in {"Cc", "Cs"} for c in segment)


@given(st.text(min_size=1))
def test_a_prompt_id_is_short_and_made_of_its_text(text: str):
    assert prompt_id(text) == prompt_id(text)
    assert len(prompt_id(text)) <= 61
    assert prompt_id(text) != prompt_id(text + "x")
