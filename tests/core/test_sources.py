"""Prompt files as people have them: what arrives, and what is said of those that cannot be read."""

import csv
import io
import json
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runner.core.errors import ManifestError
from runner.core.sources import MAX_LINE_BYTES, MAX_PROBLEMS, MAX_QUOTED, Kind, Row, kind_of, rows

PROMPTS = Path(__file__).parents[3] / "shared" / "prompts"
BLOCK = 65_536

real = pytest.mark.skipif(not PROMPTS.exists(), reason=f"{PROMPTS} is not here")


def read(kind: Kind, source: str | bytes, size: int = BLOCK) -> list[Row]:
    data = source.encode() if isinstance(source, str) else source
    return list(rows(f"prompts.{kind}", kind, (data[i : i + size] for i in range(0, len(data), size))))


def complaints(kind: Kind, blocks: Iterable[bytes]) -> list[str]:
    """What is wrong with a file, without its name."""
    with pytest.raises(ManifestError) as caught:
        list(rows(f"prompts.{kind}", kind, blocks))
    return [line.removeprefix(f"prompts.{kind}:") for line in str(caught.value).split("\n")]


def files(folder: str, name: str) -> Iterator[bytes]:
    with (PROMPTS / folder / name).open("rb") as file:
        while block := file.read(BLOCK):
            yield block


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("a.csv", "csv"),
        ("b/A.TSV", "tsv"),
        ("a.b.JsonL", "jsonl"),
        ("a.txt", "txt"),
        (".txt", "txt"),
        ("csv", None),
        ("a.json", None),
        ("a.csv.gz", None),
        ("a.csv/b", None),
    ],
)
def test_the_kind_is_the_end_of_the_name(file: str, kind: Kind | None):
    assert kind_of(file) == kind


def test_a_line_of_text_is_a_prompt_as_it_stands():
    odd = "a\x0bb\x0cc\x85d\u2028e\rf"
    source = f'\ufeff one \r\n# two\n\n \t\u3000\r\n42\n\ufeff"three\n{odd}\ne\u0301 {{x}}\r'
    assert [(row.line, row.text) for row in read("txt", source)] == [
        (1, " one "),
        (2, "# two"),
        (5, "42"),
        (6, '\ufeff"three'),
        (7, odd),
        (8, "e\u0301 {x}\r"),
    ]
    assert read("txt", "a")[0] == Row(1, None, "a", {}, ())


def test_tabs_separate_and_nothing_is_quoted():
    source = 'Id\tPROMPT\tProduct Name\r\n1\t"a\'" cat, \t red \r\n\r\n\t \t\r\n\t42\t\t\t \n2\t b\t"x"'
    assert read("tsv", source) == [
        Row(2, "1", '"a\'" cat, ', {"Product_Name": " red "}, ()),
        Row(5, None, "42", {"Product_Name": ""}, ()),
        Row(6, "2", " b", {"Product_Name": '"x"'}, ()),
    ]


def test_cells_of_csv_may_hold_anything():
    source = (
        "id,text,style,references\r\n"
        '"1"," a ""big""\r\n\r\n\ncat, ",red,a.png| b c.png ||\n'
        ",,,\r\n"
        '\n"",42,"","""|"""\n'
        ",a\rb\u2028c ,,\r"
    )
    assert read("csv", source) == [
        Row(2, "1", ' a "big"\r\n\r\n\ncat, ', {"style": "red"}, ("a.png", "b c.png")),
        Row(8, None, "42", {"style": ""}, ('"', '"')),
        Row(9, None, "a\rb\u2028c ", {"style": ""}, ()),
    ]


def test_a_file_may_hold_variables_alone():
    assert read("csv", "product\nmug\n") == [Row(2, None, None, {"product": "mug"}, ())]
    assert read("jsonl", '{"product": "mug"}') == [Row(1, None, None, {"product": "mug"}, ())]


def test_separators_behind_the_last_column_of_a_spreadsheet_are_no_columns():
    assert read("csv", "prompt,,\na,, \n,,\nb,,\n") == [Row(2, None, "a", {}, ()), Row(4, None, "b", {}, ())]
    assert read("tsv", "prompt\t\na\t\t\n") == [Row(2, None, "a", {}, ())]


def test_blank_lines_before_the_header_are_passed_over():
    assert read("csv", "\n , \nprompt\na") == [Row(4, None, "a", {}, ())]


def test_names_become_those_of_variables():
    header = " Größe (cm) \tprompt\tc++\t_x\tGro\u0308ße\tREFERENCE\tPreis, €"
    (row,) = read("tsv", f"{header}\n1\t2\t3\t4\t5\t6\t7")
    assert row == Row(2, None, "2", {"Größe_cm_": "1", "c_": "3", "_x": "4", "Größe": "5", "Preis_": "7"}, ("6",))


def test_a_line_of_json_is_an_object_or_a_text():
    lines = [
        '{"ID": 7, "Prompt": " 42\\n\\ud83d\\ude00", "c++": 1.50, "t": true, "n": null, "z": "\\\\ud800"}\r',
        " ",
        '"a \\"cat\\""',
        '{"prompt": 1.50, "x": {"é": [1.0, 2e5, null, true, "\\u00e9\\""], "b": 1}, "reference": ["a|b", " c"]}',
        '{"text": "{x}", "prompt": null, "id": null, "reference": "a.png | b.png"}',
        '{"text": true, "id": " ", "references": [], "big": ' + "9" * 5_000 + "}",
    ]
    assert read("jsonl", "\n".join(lines)) == [
        Row(1, "7", " 42\n😀", {"c_": "1.50", "t": "true", "z": "\\ud800"}, ()),
        Row(3, None, 'a "cat"', {}, ()),
        Row(4, None, "1.50", {"x": '{"é":[1.0,2e5,null,true,"é\\""],"b":1}'}, ("a|b", " c")),
        Row(5, None, "{x}", {}, ("a.png", "b.png")),
        Row(6, None, "true", {"big": "9" * 5_000}, ()),
    ]
    assert {type(value) for row in read("jsonl", "\n".join(lines)) for value in row.values.values()} == {str}


COMMA = "a text that holds a comma needs quotation marks"
NAME_IT = "name it, or empty it"
TAB = "there is a tab too many"
LINE_ENDS = "save the file with the line ends of Linux, macOS or Windows"
FOLLOWS = 'closes here, and text follows: write "" for one in a text'
JSON_HINT = 'expected a JSON object or a JSON string on each line, as {"prompt": "a cat"}'
SAVE = "save the file as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
ONE_DOCUMENT = (
    "1:1: one JSON document, not one on each line: write each object on one line, "
    "without a bracket or commas round them"
)
NO_VARIABLE = "cannot be that of a variable: expected a letter or _ first, then letters, digits or _"
LONE_MARK = (
    'a quotation mark in a text without them round it: write "" for it, and put the text in quotation marks'
)


@pytest.mark.parametrize(
    ("kind", "source", "wrong"),
    [
        # empty
        ("csv", "", ["1:1: no prompts: expected a row below a header"]),
        ("csv", "\ufeff", ["1:1: no prompts: expected a row below a header"]),
        ("csv", "id,prompt\n,\n\n", ["1:1: no prompts: expected a row below a header"]),
        ("tsv", "prompt", ["1:1: no prompts: expected a row below a header"]),
        ("jsonl", "\n", ["1:1: no prompts: expected one on a line"]),
        ("txt", " \n\t\r\n", ["1:1: no prompts: expected one on a line"]),
        # encodings
        ("txt", "a\n".encode("utf-16"), [f"1:1: UTF-16, not UTF-8: {SAVE}"]),
        ("csv", b"\xfe\xff" + "a\n".encode("utf-16-be"), [f"1:1: UTF-16, not UTF-8: {SAVE}"]),
        ("csv", "a\n".encode("utf-32"), [f"1:1: UTF-32, not UTF-8: {SAVE}"]),
        ("csv", b"\0\0\xfe\xff" + "a\n".encode("utf-32-be"), [f"1:1: UTF-32, not UTF-8: {SAVE}"]),
        (
            "csv",
            "prompt\na\n".encode("utf-16-le"),
            [f"1:1: full of NUL bytes, so UTF-16 or no text at all: {SAVE}"],
        ),
        (
            "txt",
            "é\nä caf".encode() + b"\xe9 \xe9\nb\n\x80",
            [
                f"2:6: not UTF-8: byte 0xe9 at offset 9: correct it, or {SAVE}",
                f"4:1: not UTF-8: byte 0x80 at offset 15: correct it, or {SAVE}",
            ],
        ),
        ("txt", b"\xef\xbb\xbfa\xc3", [f"1:2: not UTF-8: byte 0xc3 at offset 4: correct it, or {SAVE}"]),
        ("txt", b"\xed\xa0\x80", [f"1:1: not UTF-8: byte 0xed at offset 0: correct it, or {SAVE}"]),
        ("csv", "prompt\nb\0\0\n", ["2:2: a NUL character is not allowed: remove it"]),
        ("jsonl", '"a\0"', ["1:3: a NUL character is not allowed: remove it"]),
        # rows that do not fit
        (
            "csv",
            "id,prompt,style\n\n1,a cat, a,red\n2,ok,ok\n3,b\n4\n",
            [
                f"3:1: row 1 (line 3) has 4 cells where the header has 3: {COMMA}; it begins '1,a cat, a,red'",
                "5:1: row 3 (line 5) has 2 of 3 cells: a comma or a quotation mark is missing; it begins '3,b'",
                "6:1: row 4 (line 6) has 1 of 3 cells: a comma or a quotation mark is missing; it begins '4'",
            ],
        ),
        (
            "csv",
            'prompt,style\n"a\n\nb",c\nd,e,\n',
            [
                f"5:1: row 2 (line 5) has 3 cells where the header has 2: {COMMA}; it begins 'd,e,'",
            ],
        ),
        (
            "tsv",
            f"prompt\tstyle\n{'a' * 40}\nb\tc\td\n",
            [
                f"2:1: row 1 (line 2) has 1 of 2 cells: a tab is missing; it begins '{'a' * 30}…'",
                f"3:1: row 2 (line 3) has 3 cells where the header has 2: {TAB}; it begins 'b\\tc\\td'",
            ],
        ),
        ("csv", "id,prompt\n1, \n", ["2:1: row 1 (line 2) has a blank prompt: write one, or remove the row"]),
        ("tsv", "id\tprompt\n1\t\n", ["2:1: row 1 (line 2) has a blank prompt: write one, or remove the row"]),
        ("jsonl", '{"text": "\\n"}', ["1:1: row 1 (line 1) has a blank prompt: write one, or remove the row"]),
        ("jsonl", '""', ["1:1: row 1 (line 1) has a blank prompt: write one, or remove the row"]),
        (
            "csv",
            'id,prompt\n"a\nb",c\n',
            ["2:1: row 1 (line 2) has U+000A in its id: expected printable characters on one line"],
        ),
        # quotation marks
        (
            "csv",
            'prompt,style\na,"b\nc,d\n\n',
            ["2:3: the quotation mark that opens here is never closed: close it"],
        ),
        (
            "csv",
            'prompt,style\n"a ""\n',
            ["2:1: the quotation mark that opens here is never closed: close it"],
        ),
        (
            "csv",
            'prompt,style\na "big" cat,b\nc\n"a "big" cat",red\nd, "e"\n"f\ng,"h"\n"i,"\n',
            [
                f"2:3: {LONE_MARK}",
                "3:1: row 2 (line 3) has 1 of 2 cells: a comma or a quotation mark is missing; it begins 'c'",
                f"4:4: a quotation mark {FOLLOWS}",
                "5:4: a space stands before an opening quotation mark: remove it",
                f"7:3: the quotation mark opened in line 6 {FOLLOWS}",
                "8:1: row 6 (line 8) has 1 of 2 cells: a comma or a quotation mark is missing; it begins 'i,'",
            ],
        ),
        (
            "csv",
            f'prompt\na\n"{"b" * (MAX_QUOTED + 1)}"\n',
            ["3:1: the quotation mark that opens here is not closed within 1 MB: close it"],
        ),
        (
            "csv",
            '"prompt" ,x\na,b\n',
            [f"1:8: a quotation mark {FOLLOWS}"],
        ),
        # headers
        (
            "csv",
            "prompt;style\na;b\n",
            ["1:1: the header seems to be separated by semicolons: save it with commas"],
        ),
        ("csv", '"prompt";"x"\n', ["1:1: the header seems to be separated by semicolons: save it with commas"]),
        (
            "csv",
            "\n\nprompt\tstyle\na\tb\n",
            ["3:1: the header seems to be separated by tabs: name the file .tsv, or save it with commas"],
        ),
        (
            "tsv",
            "prompt,style\na,b\n",
            ["1:1: the header seems to be separated by commas: name the file .csv, or save it with tabs"],
        ),
        ("tsv", "prompt;x\n", ["1:1: the header seems to be separated by semicolons: save it with tabs"]),
        (
            "csv",
            "prompt,style\ra,b\r",
            [
                f"1:1: the header holds a carriage return, which alone ends no line: {LINE_ENDS}",
            ],
        ),
        (
            "csv",
            "Prompt,text\na,b\n",
            ["1:1: the names 'Prompt' and 'text' both mean 'prompt': rename or remove one"],
        ),
        (
            "tsv",
            "reference\tprompt\tReferences\na\tb\tc\n",
            ["1:1: the names 'reference' and 'References' both mean 'references': rename or remove one"],
        ),
        (
            "csv",
            "prompt,1st,Product Name,Product_Name, style,style\na,b,c,d,e,f\ng\n",
            [
                f"1:1: the name '1st' {NO_VARIABLE}",
                "1:1: the names ' style' and 'style' both mean 'style': rename or remove one",
                "1:1: the names 'Product Name' and 'Product_Name' both mean 'Product_Name': rename or remove one",
                "3:1: row 2 (line 3) has 1 of 6 cells: a comma or a quotation mark is missing; it begins 'g'",
            ],
        ),
        (
            "csv",
            "prompt,,\na,,\nb,x,\nc,y,\nd,,z\n",
            [
                f"3:1: column 2 has no name in the header, but row 2 (line 3) holds 'x' there: {NAME_IT}",
                f"5:1: column 3 has no name in the header, but row 4 (line 5) holds 'z' there: {NAME_IT}",
            ],
        ),
        # JSON
        ("jsonl", '[\n  {"prompt": "a"}\n]\n', [ONE_DOCUMENT]),
        ("jsonl", '{\n  "prompt": "a"\n}\n', [ONE_DOCUMENT]),
        ("jsonl", '\n["a", "b"]', ["2" + ONE_DOCUMENT[1:]]),
        ("jsonl", "a cat\n'a dog'\n", [f"{n}:1: not valid JSON: expecting value; {JSON_HINT}" for n in (1, 2)]),
        ("jsonl", '"a"\n{"prompt": "b"},\n', [f"2:16: not valid JSON: extra data; {JSON_HINT}"]),
        ("jsonl", '{"prompt": "a\tb"}', [f"1:14: not valid JSON: invalid control character; {JSON_HINT}"]),
        ("jsonl", "42", [f"1:1: {JSON_HINT}, got the number 42"]),
        ("jsonl", "null\ntrue", [f"1:1: {JSON_HINT}, got null", f"2:1: {JSON_HINT}, got true"]),
        ("jsonl", '"a"\n[1]', [f"2:1: {JSON_HINT}, got a list"]),
        ("jsonl", '"a"\n' + "[" * 100_000, ["2:1: JSON nested too deeply: write it as a text"]),
        ("jsonl", '{"prompt": ["a"]}', ["1:1: row 1 (line 1): expected text as 'prompt', got a list"]),
        ("jsonl", '"a"\n\n{"Id": {}}', ["3:1: row 2 (line 3): expected text as 'Id', got an object"]),
        (
            "jsonl",
            '{"prompt": "a", "references": ["b", 1.0]}\n{"prompt": "a", "reference": 42}',
            [
                "1:1: row 1 (line 1): expected a path or a list of paths as 'references', got [\"b\",1.0]",
                "2:1: row 2 (line 2): expected a path or a list of paths as 'reference', got 42",
            ],
        ),
        (
            "jsonl",
            '{"x": "prompt:", "prompt": "a", "prompt": "b"}\n{"a": {"\\u0062": 1, "b": [2]}}',
            ["1:33: duplicate key 'prompt': remove one", "2:21: duplicate key 'b': remove one"],
        ),
        (
            "jsonl",
            '{"a": "NaN", "b": [NaN]}\n{"a": -Infinity, "b": }',
            [
                "1:20: NaN is not a JSON number: put it in quotation marks, or write null",
                "2:7: -Infinity is not a JSON number: put it in quotation marks, or write null",
            ],
        ),
        (
            "jsonl",
            '{"prompt": "a\\ud800"}\n"\\\\ud83d\\ude00"\n{"\\uDFFF": 1}',
            [
                "1:12: \\ud800 is half a character: write both halves, or itself",
                "2:1: \\ude00 is half a character: write both halves, or itself",
                "3:2: \\udfff is half a character: write both halves, or itself",
            ],
        ),
        ("jsonl", "NaN1", ["1:1: NaN is not a JSON number: put it in quotation marks, or write null"]),
        ("jsonl", '{"prompt": "a", "1st": 1}\n{"1st": 2}\n', [f"1:1: the name '1st' {NO_VARIABLE}"]),
        ("jsonl", '{"": 1}', [f"1:1: the name '' {NO_VARIABLE}"]),
        (
            "jsonl",
            '{"text": "a", "Prompt": "b"}\n{"c++": 1, "c--": 2}',
            [
                "1:1: the names 'text' and 'Prompt' both mean 'prompt': rename or remove one",
                "2:1: the names 'c++' and 'c--' both mean 'c_': rename or remove one",
            ],
        ),
        (
            "jsonl",
            '"a"\n{"style": "b"}',
            ["2:1: row 2 (line 2) has no prompt, but the first row (line 1) has one: give every row one, or none"],
        ),
        (
            "jsonl",
            '{"style": "b"}\n"a"',
            ["2:1: row 2 (line 2) has a prompt, but the first row (line 1) has none: give every row one, or none"],
        ),
    ],
)
def test_what_is_wrong_is_said(kind: Kind, source: str | bytes, wrong: list[str]):
    data = source.encode() if isinstance(source, str) else source
    assert complaints(kind, [data]) == wrong
    if len(data) < 1_000:
        assert complaints(kind, [bytes([byte]) for byte in data]) == wrong


def test_reading_stops_after_many_problems():
    wrong = complaints("csv", [b"prompt,style\n", *repeat(b"a\n", 1_000)])
    assert len(wrong) == MAX_PROBLEMS == 20
    end = "a comma or a quotation mark is missing; it begins 'a' (read no further: there may be more)"
    assert wrong[-1] == f"21:1: row 20 (line 21) has 1 of 2 cells: {end}"


def test_no_row_follows_the_first_problem_and_those_before_are_seen():
    reading = rows("x.csv", "csv", [b"prompt,style\na,b\nc\n", b"d,e\n"])
    assert next(reading).text == "a"
    with pytest.raises(ManifestError, match=r"^x\.csv:3:1: row 2 \(line 3\) has 1 of 2 cells"):
        next(reading)


def test_rows_are_there_before_the_file_is_read():
    def blocks() -> Iterator[bytes]:
        yield b"a" * 5_000 + b"\nb\nc"
        raise AssertionError

    reading = rows("x.txt", "txt", blocks())
    assert [next(reading).line, next(reading).line] == [1, 2]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "txt"])
def test_an_absurd_line_is_an_error_and_not_held(kind: Kind):
    drawn = 0

    def blocks() -> Iterator[bytes]:
        nonlocal drawn
        yield b"\n"
        for _ in range(10_000):
            drawn += BLOCK
            yield b"x" * BLOCK

    assert complaints(kind, blocks()) == ["2:1: a line of more than 16,777,216 bytes (16 MB): no prompt"]
    assert drawn <= MAX_LINE_BYTES + BLOCK


def test_a_mark_that_is_never_closed_does_not_swallow_the_file():
    drawn = 0

    def blocks() -> Iterator[bytes]:
        nonlocal drawn
        yield b'prompt,style\na,"b\n'
        for _ in range(10_000):
            drawn += 1_000
            yield b"cat,dog\n" * 125

    wrong = complaints("csv", blocks())
    assert wrong == ["2:3: the quotation mark that opens here is not closed within 1 MB: close it"]
    assert drawn <= MAX_QUOTED + 1_000


@real
def test_the_prompts_of_parti():
    naive = (PROMPTS / "parti" / "PartiPrompts.tsv").read_bytes().decode().removesuffix("\n").split("\n")[1:]
    read = list(rows("x.tsv", "tsv", files("parti", "PartiPrompts.tsv")))
    assert [row.text for row in read] == [line.split("\t")[0] for line in naive]
    assert [list(row.values.values()) for row in read] == [line.split("\t")[1:] for line in naive]
    assert [row.line for row in read] == list(range(2, 1_634))
    assert len(read) == 1_632
    assert {"42", "0", "300"} <= {row.text for row in read}
    assert sum((row.text or "").startswith('"') for row in read) == 1
    assert set(read[0].values) == {"Category", "Challenge", "Note"}


@real
def test_geneval_is_the_same_as_text_and_as_json():
    text = [row.text for row in rows("x.txt", "txt", files("geneval", "generation_prompts.txt"))]
    objects = list(rows("x.jsonl", "jsonl", files("geneval", "evaluation_metadata.jsonl")))
    assert text == [row.text for row in objects]
    assert len(text) == 553
    assert objects[0].values == {"tag": "single_object", "include": '[{"class":"bench","count":1}]'}


@real
@pytest.mark.parametrize(
    ("folder", "name", "count", "distinct"),
    [
        ("t2i-compbench", "color.txt", 860, 842),
        ("t2i-compbench", "complex.txt", 1_000, 1_000),
        ("dynamic-prompts", "emoji.txt", 1_281, 1_281),
    ],
)
def test_files_with_the_line_ends_of_windows(folder: str, name: str, count: int, distinct: int):
    texts = [row.text for row in rows(name, "txt", files(folder, name))]
    naive = (PROMPTS / folder / name).read_bytes().decode().removesuffix("\r\n").split("\r\n")
    assert texts == naive
    assert (len(texts), len(set(texts))) == (count, distinct)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from('",;\t\r\n |'))
FILLED = TEXT.filter(str.strip)
CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The bytes in blocks of these sizes, over and over."""
    at = 0
    while at < len(data):
        for size in sizes:
            yield data[at : at + size]
            at += size


@settings(deadline=None)
@given(
    st.lists(st.tuples(FILLED, TEXT), min_size=1),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    CUTS,
)
def test_what_a_csv_writer_writes_comes_back(
    cells: list[tuple[str, str]], ending: str, quoting: int, sizes: list[int]
):
    # some writers leave a carriage return unquoted where it ends no line of theirs
    assume(quoting == csv.QUOTE_ALL or ending == "\r\n" or not any("\r" in cell for row in cells for cell in row))
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator=ending, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("prompt", "style"), *cells])
    read = list(rows("x.csv", "csv", cut(written.getvalue().encode(), sizes)))
    assert [(row.text, row.values["style"]) for row in read] == cells
    starts = [2]
    for row in cells:
        starts.append(starts[-1] + 1 + sum(cell.count("\n") for cell in row))
    assert [row.line for row in read] == starts[:-1]


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "ü"]), TEXT), min_size=1), st.booleans(), CUTS)
def test_what_a_json_writer_writes_comes_back(fields: list[dict[str, str]], ascii_only: bool, sizes: list[int]):
    lines = [json.dumps(one, ensure_ascii=ascii_only) for one in fields]
    read = list(rows("x.jsonl", "jsonl", cut("\r\n".join(lines).encode(), sizes)))
    assert [row.values for row in read] == fields


@settings(deadline=None)
@given(st.lists(FILLED.filter(lambda text: "\n" not in text and text[-1] != "\r"), min_size=1), CUTS)
def test_lines_come_back(texts: list[str], sizes: list[int]):
    assume(not texts[0].startswith("\ufeff"))
    assert [row.text for row in rows("x.txt", "txt", cut("\r\n".join(texts).encode(), sizes))] == texts


def outcome(kind: Kind, blocks: Iterable[bytes]) -> tuple[list[Row], str]:
    seen = []
    try:
        for row in rows("x", kind, blocks):
            seen.append(row)  # noqa: PERF402 - those before an error count
    except ManifestError as error:
        return seen, str(error)
    return seen, ""


JSON_PIECES = [b'{"prompt": "a"}', b"{", b"}", b":", b"[", b"]", b"\\ud800", b"NaN", b"1.50"]
PIECES = st.sampled_from(
    [
        *[b"\r", b"\n", b"\r\n", b'"', b'""', b",", b"\t", b"prompt", b"id", b"a", b" "],
        *["é😀".encode(), b"\xff", b"\0", b"\xef\xbb\xbf", *JSON_PIECES],
    ]
)


@settings(deadline=None)
@given(st.sampled_from(["csv", "tsv", "jsonl", "txt"]), st.lists(PIECES, max_size=60), CUTS)
def test_blocks_may_end_anywhere(kind: Kind, pieces: list[bytes], sizes: list[int]):
    data = b"".join(pieces)
    assert outcome(kind, cut(data, sizes)) == outcome(kind, [data])


def peak(kind: Kind, header: bytes, line: bytes, count: int) -> int:
    """Bytes held at most while a file of so many lines is read."""
    size = 8_192 // len(line)
    tracemalloc.start()
    try:
        lines = (line * min(size, count - at) for at in range(0, count, size))
        assert sum(1 for _ in rows("x", kind, chain([header], lines))) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "header", "line"),
    [
        ("txt", b"", b"a photo of a cat\n"),
        ("tsv", b"id\tprompt\n", b"1\ta photo of a cat\n"),
        ("csv", b"id,prompt\r\n", b'1,"a photo\n\nof a cat, sitting"\r\n'),
        ("jsonl", b"", b'{"id": 1, "prompt": "a photo of a cat", "x": [1.50]}\n'),
    ],
)
def test_memory_does_not_grow_with_the_file(kind: Kind, header: bytes, line: bytes):
    few, many = peak(kind, header, line, 2_000), peak(kind, header, line, 20_000)
    assert many < few + 50_000
    assert many < 500_000
