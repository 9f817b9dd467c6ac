"""YAML 1.2 on PyYAML's C parser: meaning, positions, and texts made to break it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core.yaml12 import MAX_BYTES, Fields, Items, Node, Scalar, UnreadableError, read
from tests.core.manifests import quoted


def plain(node: Node) -> object:
    """The tree as text, lists and pairs."""
    match node:
        case Scalar():
            return node.text
        case Items():
            return [plain(item) for item in node.items]
        case Fields():
            return {key.text: plain(value) for key, value in node.entries}


def tree(source: bytes | str) -> object:
    node, problems = read(source)
    assert not problems
    return plain(node)


def complaint(source: bytes | str) -> str:
    """The first thing wrong with a text."""
    try:
        _, problems = read(source)
    except UnreadableError as error:
        problems = [error.problem]
    return f"{problems[0].line}:{problems[0].column}: {problems[0].message}"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("no", "str"),
        ("yes", "str"),
        ("on", "str"),
        ("Off", "str"),
        ("y", "str"),
        ("16:9", "str"),
        ("1:30:00", "str"),
        ("2026-11-22", "str"),
        ("1_000", "str"),
        ("0b101", "str"),
        ("1K", "str"),
        ("=", "str"),
        ("'1'", "str"),
        ("!!str 1", "str"),
        ("1", "int"),
        ("007", "int"),
        ("-3", "int"),
        ("0x1F", "int"),
        ("0o17", "int"),
        ("1.50", "float"),
        (".5", "float"),
        ("1e3", "float"),
        ("-.inf", "float"),
        (".NaN", "float"),
        ("true", "bool"),
        ("FALSE", "bool"),
        ("null", "null"),
        ("~", "null"),
        ("", "null"),
    ],
)
def test_scalars_have_the_meaning_of_the_core_schema(text: str, kind: str):
    node, _ = read(f"[{text}]" if text else "- ")
    assert isinstance(node, Items)
    (scalar,) = node.items
    assert isinstance(scalar, Scalar)
    assert scalar.kind == kind


def test_nodes_know_their_place():
    node, _ = read("a:\n  - é: [x, y]\n")
    assert isinstance(node, Fields)
    items = node.entries[0][1]
    assert isinstance(items, Items)
    inner = items.items[0]
    assert isinstance(inner, Fields)
    key, value = inner.entries[0]
    assert (items.line, items.column) == (2, 3)
    assert (key.line, key.column) == (2, 5)
    assert (value.line, value.column) == (2, 8)


def test_a_byte_order_mark_and_crlf_change_nothing():
    assert tree(b"\xef\xbb\xbfa: |\r\n  x\r\n  y\r\nb: 1\r\n") == {"a": "x\ny\n", "b": "1"}
    assert tree("\ufeffa: 1") == {"a": "1"}


@pytest.mark.parametrize("char", ["\x85", "\u2028", "\u2029"])
def test_line_breaks_of_yaml_1_1_are_ordinary_characters(char: str):
    assert tree(f"a: one {char} two\nb: |\n  x{char}  y\nc: \ue000") == {
        "a": f"one {char} two",
        "b": f"x{char}  y\n",
        "c": "\ue000",
    }
    assert (
        complaint(f"a: {char}\nb: [")
        == "3:1: not valid YAML: did not find expected node content, while parsing a flow node"
    )


def test_aliases_stand_for_their_anchor():
    assert tree("a: &x [1, &y 2]\nb: *x\nc: *y\nd: &x 3\ne: *x") == {
        "a": ["1", "2"],
        "b": ["1", "2"],
        "c": "2",
        "d": "3",
        "e": "3",
    }


def outcome(source: bytes | str) -> object:
    """The tree, or what is wrong with its first problem."""
    try:
        return read(source)
    except UnreadableError as error:
        return error.problem.message if min(error.problem.line, error.problem.column) >= 1 else None


def bomb() -> str:
    rows = ["a: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    rows += [f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "1:1: the manifest is empty: it needs at least job, model and prompts"),
        (b"# nothing\n", "1:1: the manifest is empty: it needs at least job, model and prompts"),
        (b"a: 1\nb: \xff", "2:4: not UTF-8: byte 0xff at offset 8"),
        (b"\xef\xbb\xbfa: \xe9", "1:4: not UTF-8: byte 0xe9 at offset 6"),
        ("a: é".encode("utf-16"), "1:1: not UTF-8: byte 0xff at offset 0"),
        ("a: \ud800", "1:4: the control character U+D800 is not allowed in YAML"),
        (b"a: 1\r\nb: x\0", "2:5: a NUL character is not allowed in YAML"),
        (b"a: \x1b[0m", "1:4: the control character U+001B is not allowed in YAML"),
        (b"a: 1\n---\nb: 2\n", "2:1: a second document begins here: a manifest is one document"),
        (b"a: 1\nb: 2\na: 3", "3:1: duplicate field 'a': first given at 1:1"),
        (b"&k a: 1\n*k : 2", "2:1: duplicate field 'a': first given at 1:1"),
        (
            b"<<: {a: 1}",
            "1:1: merge keys (<<) are not part of YAML 1.2: write the fields out, or alias the whole value",
        ),
        (b"? [a]\n: 1", "1:3: expected a field name, got a list"),
        (
            b"a: !!python/object:os.system x",
            "1:4: tag !!python/object:os.system is not supported: write the value plainly",
        ),
        (b"a: !env KEY", "1:4: tag !env is not supported: write the value plainly"),
        (b"a: !!binary aGk=", "1:4: tag !!binary is not supported: write the value plainly"),
        (b"a: *x", "1:4: alias *x has no anchor &x before it"),
        (b"a: &x [*x]", "1:8: alias *x contains itself"),
        (b"[" * 100_000, "1:101: nested deeper than 100 levels"),
        (b"- " * 5_000 + b"x", "1:201: nested deeper than 100 levels"),
        (b"a: 'x", "1:6: not valid YAML: found unexpected end of stream, while scanning a quoted scalar"),
        (
            b"a: look: here",
            (
                "1:8: not valid YAML: mapping values are not allowed in this context "
                "(a text that holds ': ' needs quotes)"
            ),
        ),
        (
            b"a: {style} cat",
            (
                "1:12: not valid YAML: did not find expected key, while parsing a block mapping "
                "(a text that begins with '{', '[' or a quote needs quotes around all of it)"
            ),
        ),
        (
            b"a: @me",
            (
                "1:4: not valid YAML: found character that cannot start any token, "
                "while scanning for the next token (a text that begins with this character needs quotes)"
            ),
        ),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(source: bytes | str, message: str):
    assert complaint(source) == message


def test_an_alias_bomb_is_refused():
    assert complaint(bomb()) == "7:10: aliases stand for more than 1,000,000 nodes"
    long_text = "a: &a '" + "x" * 1_000_000 + "'\nb: [" + ", ".join(["*a"] * 20) + "]"
    assert complaint(long_text).endswith("aliases stand for more than 1,000,000 nodes")


def test_sixteen_megabytes_are_read_and_no_more():
    text = b"a: '" + b"x" * (MAX_BYTES - 5) + b"'"
    assert len(text) == MAX_BYTES
    read(text)
    message = (
        "1:1: the manifest has 16,777,217 bytes: at most 16,777,216 (16 MB); long prompt lists belong in files"
    )
    assert complaint(text + b"\n") == message
    assert complaint((text + b"\n").decode()) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_by_name(source: bytes):
    assert outcome(source)


@given(st.text(st.sampled_from("ab1 :-[]{},'\"|>&*!#%@`?\n\t~<\u2028é"), max_size=60))
@settings(max_examples=300)
def test_any_text_of_yaml_signs_is_read_or_refused_by_name(source: str):
    assert outcome(source)


@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"], exclude_characters="\x7f")))
def test_a_text_in_json_quotes_comes_back_as_it_was(text: str):
    # not beyond the first plane, where JSON escapes by surrogates, nor DEL, which it does not escape
    assert tree(f"[{quoted(text)}]") == [text]
