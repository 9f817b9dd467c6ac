"""Each kind of bad manifest has one clear message, at the place to change, and all come at once."""

import time

import pytest

from runner.core.catalog import builtin
from runner.core.errors import ManifestError
from runner.core.manifest import parse
from tests.core.manifests import manifest_text, problems

PRO = "model: gemini-3-pro-image"
ALL_FIELDS = (
    "job, model, prompts, matrix, variants, generation, lane, batch, limits, budget, retry, prices, verify, keep, "
    "notify, drafts or output"
)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        # shape
        ("verfy: full", "4:1: unknown field 'verfy': did you mean 'verify'?"),
        ("retain: all", f"4:1: unknown field 'retain': expected {ALL_FIELDS}"),
        ("variants: 0", "4:11: expected a whole number of at least 1, got 0"),
        ("variants: -2", "4:11: expected a whole number of at least 1, got -2"),
        ("variants: two", "4:11: expected a whole number of at least 1, got the text 'two'"),
        ("variants: 1.5", "4:11: expected a whole number of at least 1, got the number 1.5"),
        ("variants: '2'", "4:11: expected a whole number of at least 1 (without quotes), got the text '2'"),
        ("variants:", "4:10: expected a whole number of at least 1, got nothing"),
        ("variants: [1]", "4:11: expected a whole number of at least 1, got a list"),
        ("variants: " + "9" * 5000, f"4:11: the number {'9' * 60}… is too large: at most 1,000,000,000,000,000"),
        ("verify: deep", "4:9: expected structure or full, got the text 'deep'"),
        ("lane: fast", "4:7: expected standard, batch or auto, got the text 'fast'"),
        ("batch: 5", "4:8: expected a mapping, got the number 5"),
        ("batch: {poll: 5}", "4:9: unknown field 'poll': did you mean 'poll_s'?"),
        ("batch: {poll_s: 0}", "4:17: expected a number of seconds from 1 to 86400, got the number 0"),
        ("batch: {settle_s: 15m}", "4:19: expected a number of seconds from 1 to 86400, got the text '15m'"),
        ("batch: {lines: 0}", "4:16: expected a whole number of at least 1, got 0"),
        ("batch: {lines: 10001}", "4:16: the number 10001 is too large: at most 10,000"),
        ("batch: {output_mb: 1GB}", "4:20: expected a whole number of at least 1, got the text '1GB'"),
        ("batch: {tokens: 1e6}", "4:17: expected a whole number of at least 1, got the number 1e6"),
        ("batch: {jobs: 0}", "4:15: expected a whole number of at least 1, got 0"),
        ("batch: {least: -1}", "4:16: expected a whole number of at least 1, got -1"),
        # limits, retry
        ("limits: 5", "4:9: expected a mapping, got the number 5"),
        ("limits: {rps: 1}", "4:10: unknown field 'rps': did you mean 'rpm'?"),
        ("limits: {rpm: 0}", "4:15: expected a whole number of at least 1, got 0"),
        ("limits: {tpm: 0}", "4:15: expected a whole number of at least 1, got 0"),
        ("limits: {ipm: -1}", "4:15: expected a whole number of at least 1, got -1"),
        ("limits: {rpd: 1.5}", "4:15: expected a whole number of at least 1, got the number 1.5"),
        ("limits: {in_flight_mb: 64MB}", "4:24: expected a whole number of at least 1, got the text '64MB'"),
        ("limits: {tier: 4}", "4:16: expected 1, 2 or 3, got the number 4"),
        ("limits: {tier: '1'}", "4:16: expected 1, 2 or 3, got the text '1'"),
        ("limits: {tier: paid}", "4:16: expected 1, 2 or 3, got the text 'paid'"),
        ("limits: {tier: [1]}", "4:16: expected 1, 2 or 3, got a list"),
        ("limits:\n  tier:", "5:8: expected 1, 2 or 3, got nothing"),
        (
            "limits: {spend_usd_per_10min: 0}",
            "4:31: expected an amount in dollars above 0, got the number 0",
        ),
        (
            "limits: {spend_usd_per_month: '0.00'}",
            "4:31: expected an amount in dollars above 0, got the text '0.00'",
        ),
        (
            "limits: {spend_usd_per_month: $9}",
            "4:31: expected an amount in dollars such as 25.00 without a currency sign, got the text '$9'",
        ),
        (
            "limits: {spent_usd_this_month: -1}",
            "4:32: expected an amount in dollars such as 25.00 that is not negative, got -1",
        ),
        (
            "limits: {spend_usd_per_10_min: 9}",
            "4:10: unknown field 'spend_usd_per_10_min': did you mean 'spend_usd_per_10min'?",
        ),
        (
            "limits: {request_timeout_s: .nan}",
            "4:29: expected a number of seconds from 1 to 86400, got the number .nan",
        ),
        (
            "limits: {request_timeout_s: .inf}",
            "4:29: expected a number of seconds from 1 to 86400, got the number .inf",
        ),
        ("limits: {request_timeout_s: 0}", "4:29: expected a number of seconds from 1 to 86400, got the number 0"),
        (
            "limits: {request_timeout_s: 6m}",
            "4:29: expected a number of seconds from 1 to 86400, got the text '6m'",
        ),
        ("retry: {attempts: 0}", "4:19: expected a whole number of at least 1, got 0"),
        ("retry: {unknown: drop}", "4:18: expected retry or hold, got the text 'drop'"),
        # money
        ("budget: {usd: -1}", "4:15: expected an amount in dollars such as 25.00 that is not negative, got -1"),
        ("budget: {usd: .nan}", "4:15: expected an amount in dollars such as 25.00, got the number .nan"),
        ("budget: {usd: .inf}", "4:15: expected an amount in dollars such as 25.00, got the number .inf"),
        (
            "budget: {usd: $25}",
            "4:15: expected an amount in dollars such as 25.00 without a currency sign, got the text '$25'",
        ),
        ("budget: {usd: '1,000'}", "4:15: expected an amount in dollars such as 25.00, got the text '1,000'"),
        ("budget: {usd: 1_000}", "4:15: expected an amount in dollars such as 25.00, got the text '1_000'"),
        ("budget: {usd: 0.0000000001}", "4:15: expected an amount with at most nine decimals, got 0.0000000001"),
        (
            "budget: {usd: 0.10000000000000000000000000001}",
            (
                "4:15: expected an amount in dollars such as 25.00 of at most 28 digits, "
                "got 0.10000000000000000000000000001"
            ),
        ),
        (
            "budget: {usd: 1e999}",
            "4:15: expected an amount in dollars such as 25.00 of at most 1,000,000,000, got 1e999",
        ),
        ("budget:\n  usd:", "5:7: expected an amount in dollars such as 25.00, got nothing"),
        ("budget: {account: ''}", "4:19: expected an account name, got an empty text"),
        ("budget:\n  account:", "5:11: expected an account name, got nothing"),
        ('budget: {account: "a\\nb"}', "4:19: expected an account name of printable characters on one line"),
        ("budget: {account: [a]}", "4:19: expected an account name or a mapping with name, got a list"),
        ("budget: {account: {usd: 1}}", "4:19: missing field 'name'"),
        ("budget: {account: {name: [a]}}", "4:26: expected an account name, got a list"),
        ("budget: {account: {nmae: a, name: b}}", "4:20: unknown field 'nmae': did you mean 'name'?"),
        (
            "budget: {account: {name: a, usd: much}}",
            "4:34: expected an amount in dollars such as 25.00, got the text 'much'",
        ),
        (
            "budget: {account: {name: a, image_tokens: -1}}",
            "4:43: expected a whole number of at least 0, got -1",
        ),
        ("budget: {order: random}", "4:17: expected spread or manifest, got the text 'random'"),
        ("prices: {image: 0.0001}", "4:17: expected a price with at most three decimals, got 0.0001"),
        ("prices: {output: 1}", "4:10: unknown field 'output': expected input, text, image or image_tokens"),
        ("prices: {image_tokens: {1K: 0}}", "4:29: expected a whole number of at least 1, got 0"),
        ("prices: {image_tokens: {512: 1, 0.5K: 2}}", "4:33: size 512 is given twice"),
        # generation
        ("generation: {modalities: [TEXT]}", "4:26: expected IMAGE among the modalities"),
        ("generation: {modalities: [IMAGE, image]}", "4:26: a modality is listed twice"),
        ("generation: {modalities: [IMAGE, AUDIO]}", "4:34: expected IMAGE or TEXT, got the text 'AUDIO'"),
        (
            "generation: {thinking: medium}",
            "4:24: 'medium' is not a thinking level of gemini-3.1-flash-image: expected minimal or high",
        ),
        ("generation: {system: ''}", "4:22: expected a system text, got an empty text"),
        (
            "generation: {safety: {HARASMENT: OFF}}",
            "4:23: unknown safety category 'HARASMENT': did you mean 'HARASSMENT'?",
        ),
        (
            "generation: {safety: {HARASSMENT: NONE}}",
            (
                "4:35: expected BLOCK_LOW_AND_ABOVE, BLOCK_MEDIUM_AND_ABOVE, BLOCK_ONLY_HIGH, BLOCK_NONE or OFF, "
                "got the text 'NONE'"
            ),
        ),
        (
            "generation: {safety: {HARASSMENT: OFF, HARM_CATEGORY_HARASSMENT: OFF}}",
            "4:40: safety category HARASSMENT is given twice",
        ),
        # matrix
        ("matrix: [1K]", "4:9: expected a mapping, got a list"),
        (
            "matrix: {size: 1k}",
            "4:16: '1k' is not a size of gemini-3.1-flash-image: did you mean '1K'? expected 512, 1K, 2K or 4K",
        ),
        (
            "matrix: {size: 512px}",
            (
                "4:16: '512px' is not a size of gemini-3.1-flash-image: did you mean '512'? "
                "expected 512, 1K, 2K or 4K"
            ),
        ),
        (
            "matrix: {size: 1024}",
            "4:16: '1024' is not a size of gemini-3.1-flash-image: did you mean '1K'? expected 512, 1K, 2K or 4K",
        ),
        ("matrix: {size: 8K}", "4:16: '8K' is not a size of gemini-3.1-flash-image: expected 512, 1K, 2K or 4K"),
        (
            "matrix: {aspect: 16x9}",
            (
                "4:18: '16x9' is not an aspect of gemini-3.1-flash-image: did you mean '16:9'? expected "
                "1:1, 1:4, 1:8, 2:3, 3:2, 3:4, 4:1, 4:3, 4:5, 5:4, 8:1, 9:16, 16:9 or 21:9"
            ),
        ),
        ("matrix: {size: []}", "4:16: expected at least one value, got an empty list"),
        ("matrix:\n  style:", "5:9: expected a list, got nothing"),
        ("matrix: {style: [a, null]}", "4:21: expected a value, got nothing; quote it if the word null is meant"),
        ("matrix: {style: [[a]]}", "4:18: expected a value, got a list"),
        ("matrix: {style: [a, b, 'a']}", "4:24: style 'a' is listed twice: first at 4:18"),
        ("matrix: {size: [512, 0.5K]}", "4:22: size '512' is listed twice: first at 4:17"),
        ("matrix: {model: [x]}", "2:1: the matrix has an axis 'model': leave this one out"),
        ("matrix: {key: [x]}", "4:10: 'key' cannot be an axis: {key} means something else in the output"),
        (
            "matrix: {art style: [x]}",
            "4:10: 'art style' cannot be an axis: expected a name of letters, digits and _, as {name} needs",
        ),
        ("matrix: {exclude: [{sise: 1K}]}", "4:21: unknown axis 'sise': did you mean 'size'?"),
        ("matrix: {exclude: {size: 1K}}", "4:19: expected a list, got a mapping"),
        ("matrix: {exclude: [{}]}", "4:20: expected at least one axis and its value"),
        (
            "matrix: {exclude: [{size: [1K, 2K]}]}",
            "4:27: expected one value, got a list: write an entry for each value",
        ),
        (
            "matrix: {include: [{size: 3K}]}",
            "4:27: '3K' is not a size of gemini-3.1-flash-image: expected 512, 1K, 2K or 4K",
        ),
        ("matrix: {settings: [{generation: {thinking: high}}]}", "4:21: missing field 'where'"),
        ("matrix: {settings: [{where: {size: 1K}}]}", "4:21: missing field 'generation'"),
        (
            "matrix: {settings: [{where: {stile: 1}, generation: {thinking: high}}]}",
            "4:30: unknown axis 'stile': did you mean 'size'?",
        ),
        (
            "matrix: {zip: {a: [1], b: [2]}}",
            (
                "4:15: expected a list of groups such as [{locale: [en, de], greeting: [Hello, Hallo]}], "
                "got a mapping"
            ),
        ),
        (
            "matrix: {zip: [{a: [1, 2], b: [3]}]}",
            "4:16: the lists of a zip group need one length: a has 2 and b has 1",
        ),
        ("matrix: {zip: [{a: [1, 1], b: [3, 3]}]}", "4:16: the zip group has the row 1, 3 twice"),
        ("matrix: {a: 1, zip: [{a: [1, 2], b: [3, 4]}]}", "4:23: axis 'a' is given twice: first at 4:10"),
        (
            "matrix: {zip: [{a: [1, 2], b: [3, 4]}], include: [{a: 5}]}",
            "4:51: no row of the zip group has these values: name a and b",
        ),
        ("matrix: {exclude: [{size: 1K}]}", "4:9: exclude leaves nothing to render"),
        # output
        ('output: "{job}/{prompt}.png"', "4:9: the output must end with .{ext}"),
        (
            'output: "{stile}.{ext}"',
            (
                "4:9: unknown field 'stile' in the output: "
                "expected {job}, {prompt}, {variant}, {key}, {size}, {aspect}"
            ),
        ),
        ('output: "{ext}/{prompt}.{ext}"', "4:9: {ext} may stand only at the end, as .{ext}"),
        (
            'output: "/tmp/{prompt}.{ext}"',
            "4:9: an empty segment or a leading / is not allowed: the output is a path below the output folder",
        ),
        (
            'output: "../{prompt}.{ext}"',
            "4:9: the segment '..' is not allowed: the output is a path below the output folder",
        ),
        ('output: ".{prompt}.{ext}"', "4:9: the segment '.{prompt}' must not begin or end with a dot or a space"),
        ("output: 'a\\{prompt}.{ext}'", "4:9: the character '\\\\' is not allowed in the output's file names"),
        ('output: "a:{prompt}.{ext}"', "4:9: the character ':' is not allowed in the output's file names"),
        (
            'output: "{id}.{ext}"',
            (
                "4:9: unknown field 'id' in the output: expected {job}, {prompt}, {variant}, {key}, {size}, "
                "{aspect}; the id of a prompt, or of its row, is {prompt}"
            ),
        ),
        # numbers of tasks
        ("limits: {max_tasks: 1}\nvariants: 2", "4:21: the manifest has 2 tasks, max_tasks allows 1"),
        ("variants: 10000001", "4:11: 10,000,001 tasks before exclude: at most 10,000,000 in one manifest"),
    ],
)
def test_a_bad_field_is_named_with_its_place(line: str, message: str):
    assert problems(manifest_text(line)) == [message]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("prompts: a", "3:10: expected a list, got the text 'a'"),
        ("prompts: []", "3:10: expected at least one value, got an empty list"),
        ("prompts: ['']", "3:11: expected a prompt, got an empty text"),
        ("prompts: [[a]]", "3:11: expected a prompt's text or a mapping with text, got a list"),
        ("prompts: [null]", "3:11: expected a prompt, got nothing; quote it if the word null is meant"),
        ('prompts: ["a\\0b"]', "3:11: expected a prompt without NUL characters"),
        ("prompts: [{id: x}]", "3:11: missing field 'text'"),
        ("prompts: [{txet: x, text: y}]", "3:12: unknown field 'txet': did you mean 'text'?"),
        ("prompts: [{text: a, template: no}]", "3:31: expected true or false, got the text 'no'"),
        ("prompts: [{text: a, id: ''}]", "3:25: expected an id, got an empty text"),
        ('prompts: [{text: a, id: "x\\ny"}]', "3:25: expected an id of printable characters on one line"),
        ("prompts: [{text: a, id: x}, {text: b, id: x}]", "3:43: id 'x' is used twice: first at 3:25"),
        (
            "prompts: [{text: 'a {stile} {stile}'}]",
            (
                "3:18: unknown axis {stile} in the prompt: expected {size} or {aspect}; "
                "write {{stile}} for the literal, or template: false"
            ),
        ),
        ("prompts: [{text: a, matrix: {stile: x}}]", "3:30: unknown axis 'stile': did you mean 'size'?"),
        ("prompts: [{text: a, matrix: {zip: x}}]", "3:30: 'zip' belongs to the manifest's own matrix"),
        ("prompts: [{text: a, matrix: {size: [1K, 1K]}}]", "3:29: size '1K' is listed twice: first at 3:37"),
    ],
)
def test_a_bad_prompt_is_named_with_its_place(prompts: str, message: str):
    assert [p.partition(": ")[2] for p in problems(manifest_text(prompts=prompts))] == [message.partition(": ")[2]]


def test_a_prompt_must_name_a_whole_zip_group():
    text = manifest_text(
        "matrix: {zip: [{a: [1, 2], b: [3, 4]}]}", prompts="prompts: [{text: a, matrix: {a: [1]}}]"
    )
    assert problems(text) == ["3:29: a moves together with b: name both"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"job": "job: ''"}, "1:6: expected a job name, got an empty text"),
        ({"job": "job: [a]"}, "1:6: expected a job name, got a list"),
        ({"job": "variants: 1"}, "1:1: missing field 'job'"),
        ({"model": "variants: 1"}, "1:1: missing field 'model'"),
        (
            {"model": "model: ../x"},
            "2:8: expected a model id such as 'gemini-3.1-flash-image', got the text '../x'",
        ),
    ],
)
def test_bad_top_level_fields(parts: dict[str, str], message: str):
    assert problems(manifest_text(**parts)) == [message]


def test_a_model_judges_by_its_own_table():
    text = manifest_text("matrix: {size: 512, aspect: 8:1}", "generation: {thinking: high}", model=PRO)
    assert problems(text) == [
        "4:16: '512' is not a size of gemini-3-pro-image: expected 1K, 2K or 4K",
        (
            "4:29: '8:1' is not an aspect of gemini-3-pro-image: "
            "expected 1:1, 2:3, 3:2, 3:4, 4:3, 4:5, 5:4, 9:16, 16:9 or 21:9"
        ),
        "5:24: gemini-3-pro-image takes no thinking level: leave it out",
    ]


def test_even_an_unknown_model_has_sizes_of_a_sane_form():
    text = manifest_text("matrix: {size: 1k, aspect: wide}", "generation: {thinking: '!'}", model="model: x/y")
    assert problems(text) == [
        "4:16: '1k' is not a size: did you mean '1K'? expected a form such as 512, 1K, 2K or 4K",
        "4:28: 'wide' is not an aspect: expected a form such as 1:1 or 16:9",
        "5:24: '!' is not a thinking level: expected minimal, low, medium, high or xhigh",
    ]


def test_a_manifest_that_is_no_mapping():
    assert problems("- a") == ["1:1: expected a mapping with job, model and prompts, got a list"]
    assert problems("---\n") == ["2:1: expected a mapping with job, model and prompts, got nothing"]


def test_all_problems_come_at_once_in_the_order_of_the_file():
    text = """\
job: x
model: gemini-3.1-flash-image
prompts:
  - {id: a, text: "{style}"}
  - {id: a, text: "{stile}"}
  - {text: }
job: y
matrix: {style: [a]}
budget: {usd: much, cap: 1}
"""
    assert [p.partition(": ")[0] for p in problems(text)] == ["5:10", "5:19", "6:12", "7:1", "9:15", "9:21"]


def test_the_file_is_named_in_every_line():
    with pytest.raises(ManifestError) as caught:
        parse("job: 1\nmodels: x\n", "jobs/a b.yaml", builtin())
    assert str(caught.value).splitlines() == [
        "jobs/a b.yaml:1:1: missing field 'model'",
        "jobs/a b.yaml:1:1: missing field 'prompts'",
        "jobs/a b.yaml:2:1: unknown field 'models': did you mean 'model'?",
    ]


def test_a_wrong_value_behind_an_alias_is_said_once():
    text = manifest_text(prompts="prompts: [{text: a, matrix: {size: &s [3K]}}, {text: b, matrix: {size: *s}}]")
    assert len(problems(text)) == 1


def test_ten_thousand_wrong_prompts_are_reported_in_seconds():
    lines = [f"  - {{id: same, text: '{{nope}}', tmplate: {n}}}" for n in range(10_000)]
    start = time.perf_counter()
    found = problems(manifest_text(prompts="prompts:\n" + "\n".join(lines)))
    assert len(found) == 10_000
    assert time.perf_counter() - start < 30
