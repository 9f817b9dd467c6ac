"""Everything that can be wrong with a campaign's files, references and jobs: one clear message at its place."""

import pytest

from runner.core.errors import ManifestError
from runner.core.matrix import MAX_CLASHES
from runner.core.sources import MAX_PROBLEMS
from tests.core.manifests import MODEL, expansion, manifest_text, parsed, problems

PRO = "gemini-3-pro-image"
LOGOS = {f"{n:02}.png": str(n) for n in range(16)}
PART = "3:33: expected a part such as 1% or 0.5%, above 0 and at most 100%, got"
SHARED_ZIP = "matrix: {zip: [{locale: [en, de], greeting: [Hello, Hallo]}]}"
TWICE = (
    "the prompt is given twice: by the file and by 'text' of its entry in the manifest: "
    "write {prompt} into that text where the file's is to stand"
)
OR_LITERAL = "for the literal, or template: false"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("from: q.csv", "3:18: q.csv cannot be read: No such file or directory"),
        ("from: q.xlsx", "3:18: expected a .csv, .tsv, .jsonl or .txt file, got 'q.xlsx'"),
        ("from: prompts", "3:18: expected a .csv, .tsv, .jsonl or .txt file, got 'prompts'"),
        ("from: ''", "3:18: expected a file of prompts, got an empty text"),
        ("from: [p.csv]", "3:18: expected a file of prompts, got a list"),
        (
            "from: p.csv, id: x",
            "3:25: unknown field 'id': expected from, text, matrix, template, references, limit, sample or seed",
        ),
        ("from: p.csv, smaple: 1%", "3:25: unknown field 'smaple': did you mean 'sample'?"),
        ("from: p.csv, limit: 0", "3:32: expected a whole number of at least 1, got 0"),
        ("from: p.csv, limit: many", "3:32: expected a whole number of at least 1, got the text 'many'"),
        ("from: p.csv, seed: -1", "3:31: expected a whole number of at least 0, got -1"),
        ("from: p.csv, seed: abc", "3:31: expected a whole number of at least 0, got the text 'abc'"),
        ("from: p.csv, sample: 0%", f"{PART} the text '0%'"),
        ("from: p.csv, sample: 101%", f"{PART} the text '101%'"),
        ("from: p.csv, sample: 100.001%", f"{PART} the text '100.001%'"),
        ("from: p.csv, sample: -1%", f"{PART} the text '-1%'"),
        ("from: p.csv, sample: '1 %'", f"{PART} the text '1 %'"),
        ("from: p.csv, sample: 1", f"{PART} the number 1"),
        ("from: p.csv, sample: 0.01", f"{PART} the number 0.01"),
        ("from: p.csv, sample: [1%]", f"{PART} a list"),
        ("from: p.csv, sample: 0.0001%", "3:18: p.csv has no prompts in this sample: take more of it"),
        ("from: p.csv, template: no", "3:35: expected true or false, got the text 'no'"),
        ("from: p.csv, matrix: {stile: x}", "3:34: unknown axis 'stile': did you mean 'size'?"),
        ("from: p.csv, matrix: {size: [1K, 1K]}", "3:45: size '1K' is listed twice: first at 3:41"),
        ("from: p.csv, references: []", "3:37: expected at least one value, got an empty list"),
        ("from: p.csv, references: q.png", "p.csv:2:1: reference q.png is not there"),
        (
            "from: p.csv, references: '{hue}.png'",
            (
                "p.csv:2:1: {hue} in a reference is neither a column nor an axis: expected {size} or {aspect}; "
                "write {{hue}} for the literal"
            ),
        ),
        (
            "from: p.csv, text: a",
            f"p.csv:2:1: {TWICE}",
        ),
        ("from: p.csv, text: '{prompt}', template: false", f"p.csv:2:1: {TWICE}"),
        (
            "from: p.txt, text: a",
            f"p.txt:1:1: {TWICE}",
        ),
        (
            "from: v.csv",
            (
                "v.csv:2:1: the file has no column 'prompt' or 'text', and its entry in the manifest no 'text': "
                "give that one, such as '{animal}'"
            ),
        ),
        (
            "from: v.csv, text: '{anmal} {animal}'",
            (
                "v.csv:2:1: {anmal} is neither a column nor an axis: expected {animal}, {size} or {aspect}; "
                f"write {{{{anmal}}}} {OR_LITERAL}"
            ),
        ),
    ],
)
def test_a_wrong_entry_for_a_file_is_named_with_its_place(options: str, message: str):
    files = {"p.csv": "prompt\na\nb\n", "p.txt": "a\nb\n", "v.csv": "animal\nox\nelk\n"}
    assert problems(manifest_text(prompts=f"prompts: [{{{options}}}]"), files) == [message]


@pytest.mark.parametrize(
    ("content", "lines", "messages"),
    [
        ("", (), ["p.csv:1:1: no prompts: expected a row below a header"]),
        ("prompt\n", (), ["p.csv:1:1: no prompts: expected a row below a header"]),
        (
            "prompt,w\ncat,x\ndog\n",
            (),
            [
                (
                    "p.csv:3:1: row 2 (line 3) has 1 of 2 cells: a comma or a quotation mark is missing; "
                    "it begins 'dog'"
                )
            ],
        ),
        ('prompt\n"x\n', (), ["p.csv:2:1: the quotation mark that opens here is never closed: close it"]),
        (
            b"prompt\ncaf\xe9\n",
            (),
            [
                (
                    "p.csv:2:4: not UTF-8: byte 0xe9 at offset 10: correct it, or save the file as UTF-8 "
                    "(in a spreadsheet: 'CSV UTF-8')"
                )
            ],
        ),
        (
            "prompt,animal\n{anmal},ox\nx,y\n{nimal},elk\n",
            (),
            [
                f"p.csv:{line}:1: {{{name}}} is neither a column nor an axis: expected {{animal}}, {{size}} or "
                f"{{aspect}}; write {{{{{name}}}}} {OR_LITERAL}"
                for line, name in ((2, "anmal"), (4, "nimal"))
            ],
        ),
        (
            "prompt,size,aspect\nx,3K,\ny,1k,16x9\n",
            (),
            [
                "p.csv:2:1: '3K' is not a size of gemini-3.1-flash-image: expected 512, 1K, 2K or 4K",
                (
                    "p.csv:3:1: '16x9' is not an aspect of gemini-3.1-flash-image: did you mean '16:9'? expected "
                    "1:1, 1:4, 1:8, 2:3, 3:2, 3:4, 4:1, 4:3, 4:5, 5:4, 8:1, 9:16, 16:9 or 21:9"
                ),
                (
                    "p.csv:3:1: '1k' is not a size of gemini-3.1-flash-image: did you mean '1K'? "
                    "expected 512, 1K, 2K or 4K"
                ),
            ],
        ),
        (
            "prompt,locale\nx,fr\ny,\n",
            (SHARED_ZIP,),
            ["p.csv:2:1: locale moves together with greeting: give a value of each"],
        ),
        (
            "prompt,locale,greeting\nx,fr,\n",
            (SHARED_ZIP,),
            ["p.csv:2:1: locale moves together with greeting: give a value of each"],
        ),
        (
            "id,prompt\nx,a\ny,b\nx,c\ny,d\n",
            (),
            [
                "p.csv:4:1: id 'x' is used twice: first at p.csv:2",
                "p.csv:5:1: id 'y' is used twice: first at p.csv:3",
            ],
        ),
        (
            "id,prompt\nx,a\nX,b\n",
            (),
            [
                (
                    "p.csv:3:1: two tasks share the path j/X/1K-1x1-1: prompt 'x' (1K, 1:1, variant 1) and "
                    "prompt 'X' (1K, 1:1, variant 1): names differ too little for a file system"
                )
            ],
        ),
        (
            "id,prompt\nx,a\ny,b\n",
            ("output: '{job}/{size}.{ext}'",),
            [
                (
                    "p.csv:3:1: two tasks share the path j/1K: prompt 'x' (1K, 1:1, variant 1) and "
                    "prompt 'y' (1K, 1:1, variant 1): the output needs {prompt}"
                )
            ],
        ),
        (
            "prompt,size\nx,2K\n",
            ("matrix: {size: [1K, 2K], exclude: [{size: 2K}]}",),
            ["4:9: exclude leaves nothing to render"],
        ),
        ("prompt\nx\ny\n", ("limits: {max_tasks: 1}",), ["4:21: the manifest has 2 tasks, max_tasks allows 1"]),
        (
            "prompt,references\nx,q.png\ny,00.png|r.png|s.png\n",
            (),
            [
                "p.csv:2:1: reference q.png is not there",
                "p.csv:3:1: reference r.png is not there",
                "p.csv:3:1: reference s.png is not there",
            ],
        ),
        (
            "prompt,references\nx,*.png\n",
            (),
            [
                "p.csv:2:1: 16 references, of which gemini-3.1-flash-image takes 14: leave out 2, such as 15.png",
            ],
        ),
    ],
)
def test_a_wrong_file_is_named_with_the_line_of_its_row(
    content: str | bytes, lines: tuple[str, ...], messages: list[str]
):
    text = manifest_text(*lines, prompts="prompts: [{from: p.csv}]")
    assert problems(text, {**LOGOS, "p.csv": content}) == messages


@pytest.mark.parametrize(
    ("lines", "prompts", "messages"),
    [
        ((), "[{text: a, references: q.png}]", ["3:18: reference q.png is not there"]),
        (
            (),
            "[{text: a, references: [q.png, 00.png, r.png]}, {text: b, references: s.png}]",
            [
                "3:18: reference q.png is not there",
                "3:18: reference r.png is not there",
                "3:65: reference s.png is not there",
            ],
        ),
        ((), "[{text: a, references: []}]", ["3:33: expected at least one value, got an empty list"]),
        ((), "[{text: a, references: ['']}]", ["3:34: expected a path, a pattern or a URI, got an empty text"]),
        (
            (),
            "[{text: a, references: [null]}]",
            ["3:34: expected a path, a pattern or a URI, got nothing; quote it if the word null is meant"],
        ),
        ((), "[{text: a, references: {a: b}}]", ["3:33: expected a list, got a mapping"]),
        (
            (),
            "[{text: a, references: '{colour}.png'}]",
            [
                (
                    "3:33: unknown axis {colour} in the reference: expected {size} or {aspect}; "
                    "write {{colour}} for the literal"
                )
            ],
        ),
        (
            (),
            "[{text: a, references: '*.png'}]",
            ["3:18: 16 references, of which gemini-3.1-flash-image takes 14: leave out 2, such as 15.png"],
        ),
        (("matrix: {reference: ['', q.png]}",), "[a]", ["3:11: reference q.png is not there"]),
        (("keep: ../x",), "[a]", [f"4:7: expected a model id such as '{MODEL}', got the text '../x'"]),
        (("keep: []",), "[a]", ["4:7: expected at least one value, got an empty list"]),
        (("keep: {a: b}",), "[a]", ["4:7: expected a list, got a mapping"]),
        (("drafts: ''",), "[a]", ["4:9: expected a job name, got an empty text"]),
        (("drafts: [a]",), "[a]", ["4:9: expected a job name, got a list"]),
        (
            ("drafts: j",),
            "[a]",
            ["4:9: this job cannot be its own drafts: name the job that they were chosen from"],
        ),
        ((f"matrix: {{model: [{PRO}]}}",), "[a]", ["2:1: the matrix has an axis 'model': leave this one out"]),
        (
            (),
            "[{text: a, matrix: {model: x/y}}]",
            ["3:30: unknown axis 'model': expected size or aspect"],
        ),
    ],
)
def test_a_wrong_reference_model_or_job_is_named_with_its_place(
    lines: tuple[str, ...], prompts: str, messages: list[str]
):
    assert problems(manifest_text(*lines, prompts=f"prompts: {prompts}"), LOGOS) == messages


def test_what_the_models_of_an_axis_lack_is_said_for_each():
    text = manifest_text(
        f"matrix: {{model: [{PRO}, {MODEL}], size: [512, 1K], aspect: [8:1, 1:1]}}",
        "generation: {thinking: high}",
        model="variants: 1",
    )
    aspects = "1:1, 2:3, 3:2, 3:4, 4:3, 4:5, 5:4, 9:16, 16:9 and 21:9"
    advice = "exclude the cells of that model and value"
    assert problems(text) == [
        f"4:9: {PRO} does not have the aspect 8:1 (it has {aspects}): {advice}",
        f"4:9: {PRO} does not have the size 512 (it has 1K, 2K and 4K): {advice}",
        f"4:9: {PRO} does not have the thinking level high: {advice}",
    ]


def test_a_column_of_models_is_judged_too():
    lines = (f"matrix: {{model: [{MODEL}]}}",)
    text = manifest_text(*lines, model="variants: 1", prompts="prompts: [{from: p.csv}]")
    assert problems(text, {"p.csv": f"prompt,model,size\nx,../x,\ny,{PRO},512\n"}) == [
        f"4:9: {PRO} does not have the size 512 (it has 1K, 2K and 4K): exclude the cells of that model and value",
        f"p.csv:2:1: expected a model id such as '{MODEL}', got the text '../x'",
    ]


def test_ids_of_the_manifest_and_of_all_its_files_are_compared():
    text = manifest_text(prompts="prompts: [{id: x, text: q}, {from: p.csv}, {from: q.csv}]")
    assert problems(text, {"p.csv": "id,prompt\nx,a\ny,b\n", "q.csv": "id,prompt\ny,c\n"}) == [
        "p.csv:2:1: id 'x' is used twice: first at 3:25",
        "q.csv:2:1: id 'y' is used twice: first at p.csv:3",
    ]


def test_a_given_id_that_another_row_has_from_its_text():
    made = "a-red-fox-3eff719911"
    text = manifest_text(prompts="prompts: [{from: p.csv}]")
    assert problems(text, {"p.csv": f"id,prompt\n,A red fox!\n{made},a\n"}) == [
        f"p.csv:3:1: id '{made}' is used twice: first at p.csv:2"
    ]
    given_first = {"p.csv": f"id,prompt\n{made},a\n,A red fox!\n"}
    tasks = expansion(prompts="prompts: [{from: p.csv}]", files=given_first)
    assert [task.prompt_id for task in tasks] == [made, f"{made}-2"]


def test_all_files_are_judged_at_once():
    text = manifest_text(prompts="prompts: [{from: a.csv}, {from: none.csv}, {from: b.csv}]")
    nothing = "the file has no column 'prompt' or 'text', and its entry in the manifest no 'text': give that one"
    assert problems(text, {"a.csv": "x\n1\n", "b.csv": "y\n1\n2\n"}) == [
        "3:33: none.csv cannot be read: No such file or directory",
        f"a.csv:2:1: {nothing}, such as '{{x}}'",
        f"b.csv:2:1: {nothing}, such as '{{y}}'",
    ]


def test_what_is_wrong_with_the_entrys_text_is_said_once_with_its_lines():
    text = manifest_text(prompts="prompts: [{from: p.jsonl, text: '{w}'}]")
    rows = ["{}", '{"w": 1}', *["{}"] * 7]
    (said,) = problems(text, {"p.jsonl": "\n".join(rows)})
    assert said.startswith("p.jsonl:1:1: {w} is neither a column nor an axis: ")
    assert said.endswith(" (also in lines 3, 4, 5, 6, 7 and 2 more)")
    assert problems(text, {"p.jsonl": "\n".join(rows[:3])})[0].endswith(" (also in line 3)")


def test_a_file_beside_the_manifest_is_named_as_the_manifest_is():
    with pytest.raises(ManifestError) as caught:
        expansion(prompts="prompts: [{from: in/p.csv}]", files={"in/p.csv": "w\n1\n"}, file="jobs/m.yaml")
    assert str(caught.value).startswith("jobs/in/p.csv:2:1: ")


def test_a_manifest_that_is_wrong_by_itself_reads_no_file():
    text = manifest_text("verfy: full", prompts="prompts: [{from: none.csv}]")
    assert problems(text) == ["4:1: unknown field 'verfy': did you mean 'verify'?"]


def test_a_file_that_is_wrong_all_over_is_not_read_to_its_end():
    text = manifest_text(prompts="prompts: [{from: p.csv}]")
    assert len(problems(text, {"p.csv": "prompt\n" + "{nobody}\n" * 1_000})) == MAX_PROBLEMS
    assert len(problems(text, {"p.csv": "prompt,references\n" + "x,q.png\n" * 1_000})) == 1
    rows = "".join(f"x,{n}.gif\n" for n in range(1_000))
    assert len(problems(text, {"p.csv": f"prompt,references\n{rows}"})) == MAX_CLASHES


def test_a_kept_model_that_may_be_misspelled_is_noted():
    notes = parsed("keep: [gemini-3.1-flash-image-preveiw, vendor/model]").notes
    assert [note for note in notes if "keep" in note] == [
        (
            "m.yaml:4: model gemini-3.1-flash-image-preveiw to keep is not in the catalog of 2026-11-22 "
            "(did you mean 'gemini-3.1-flash-image-preview'?)"
        ),
        "m.yaml:4: model vendor/model to keep is not in the catalog of 2026-11-22",
    ]


def test_wrong_rows_and_wrong_names_in_rows_are_said_together():
    files = {"p.tsv": "prompt\tmood\nA {mood} fox\tcalm\nA fox\nA {moood} cat\twild\n"}
    with pytest.raises(ManifestError) as caught:
        expansion(prompts="prompts: [{from: p.tsv}]", files=files)
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == ["p.tsv:3:1", "p.tsv:4:1"]


def test_twenty_wrong_rows_are_said_and_that_there_may_be_more():
    files = {"p.csv": "prompt\n" + "{x}\n" * 50}
    with pytest.raises(ManifestError) as caught:
        expansion(prompts="prompts: [{from: p.csv}]", files=files)
    *_, last = lines = str(caught.value).splitlines()
    assert len(lines) == 20
    assert last.endswith("(read no further: there may be more)")
