"""Templates: `{axis}` is replaced, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.template import compile_template, literal

VALUES = {"style": "baroque", "größe": "{style}"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("a {style} poster", "a baroque poster"),
        ("{style}{style}", "baroquebaroque"),
        ("{größe}", "{style}"),
        ("{{style}}", "{style}"),
        ("{{{style}}}", "{baroque}"),
        ("{{{{style}}}}", "{{style}}"),
        ('{"a": {style}}', '{"a": baroque}'),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ("{} {0} { style } {a-b} {a b} } { }} {{", "{} {0} { style } {a-b} {a b} } { }} {{"),
        ("$style ${style} #style %s", "$style $baroque #style %s"),
        ("", ""),
    ],
)
def test_only_names_in_braces_are_replaced(text: str, filled: str):
    assert compile_template(text).fill(VALUES) == filled


def test_a_literal_is_taken_as_it_is():
    assert literal("{style} {{x}}").fill(VALUES) == "{style} {{x}}"


def test_names_come_in_order():
    assert compile_template("{a} {{b}} {c} {a}").names == ("a", "c", "a")


@given(st.text(st.sampled_from('{}ab1 "-:')))
def test_a_text_without_names_in_braces_stays_byte_for_byte(text: str):
    template = compile_template(text)
    if not template.names and "{{a" not in text and "{{b" not in text:
        assert template.fill({}) == text


@given(st.text(st.sampled_from("{}x ")))
def test_a_value_is_never_scanned_again(text: str):
    template = compile_template(text)
    braces = template.fill(dict.fromkeys(template.names, "{x}"))
    marks = template.fill(dict.fromkeys(template.names, "\0"))
    assert marks.replace("\0", "{x}") == braces
