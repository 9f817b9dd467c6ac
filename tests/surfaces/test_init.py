"""`init`: each way of starting writes a manifest that plans cleanly and is fit to be read."""

import json
from pathlib import Path

import pytest
from PIL import Image

from runner.app.first import cap_for


def planned(command, path):
    result = command("plan", path, "--sandbox", "--json")
    assert result.code == 0, result.err
    return json.loads(result.out), result.err


def readable(path):
    text = Path(path).read_text()
    assert max(map(len, text.splitlines())) <= 115
    assert text.count("#") >= 8
    return text


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


def test_from_nothing(command, home):
    result = command("init")
    assert result.code == 0
    assert result.out.splitlines()[-1].strip() == "bulkrender run jobs/first.yaml --sandbox"
    plan, notes = planned(command, "jobs/first.yaml")
    assert (plan["job"], plan["tasks"]["total"], plan["fits"]) == ("first", 4, True)
    assert plan["cap"]["usd"] in readable("jobs/first.yaml")
    assert "note" not in notes, "neither a retired nor a deprecated model"
    assert command(*result.out.split()[-4:][1:], "--sandbox-latency", "0.01").code == 0, "the line it prints works"


def test_from_a_table_whose_columns_become_variables(command, home):
    Path("shoes.csv").write_text("sku,shoe,colour\n1,sneaker,red\n2,boot,brown\n")
    assert command("init", "--from", "shoes.csv").code == 0
    plan, _ = planned(command, "jobs/shoes.yaml")
    assert plan["tasks"]["total"] == 2
    text = readable("jobs/shoes.yaml")
    assert "- from: ../shoes.csv" in text
    assert "text: A picture of {sku}, {shoe}, {colour}" in text
    assert "2 rows" in text


@pytest.mark.parametrize(
    ("name", "content", "said", "left_out"),
    [
        ("a.csv", "id,prompt\n1,A cat\n", "from: ../a.csv", "text:"),
        ("a.csv", "id,Text\n1,A cat\n", "from: ../a.csv", "text: "),
        ("a.csv", "id,name,Description\n1,Tom,A cat\n", "text: {Description}", "A picture of"),
        ("a.csv", "id,name,what\n1,Tom,A cat that sleeps in a box\n", "text: {what}", "A picture of"),
        ("a.csv", "id,prompt\n1,A card that says {hello}\n", "template: false", "text:"),
        ("a.csv", "prompt,aspect\nA {x} cat,3:4\n", "column aspect: that of the row", "text:"),
        ("a.csv", "prompt,model\nA cat,x\n", "column model: not used, until", "text:"),
        (
            "a.csv",
            "id,prompt\n1,A cat\n",
            "column id: names the pictures of its row, as {prompt} in output",
            "text:",
        ),
        ("a.csv", "sku,prompt\n1,A cat\n", "a column named id would name the pictures", "text:"),
        ("a.tsv", "prompt\tmood\nA {mood} cat\tcalm\n", "columns to use in a prompt: {mood}", "text:"),
        ("a.csv", "id,what,note\n1,cat,\n2,dog,\n", "text: A picture of {what}", "{what}, {note}"),
        ("a.jsonl", '{"prompt": "A cat"}\n', "from: ../a.jsonl", "text:"),
        ("a.txt", "A cat\nA dog\n", "from: ../a.txt", "text:"),
    ],
)
def test_the_prompt_column_is_found(command, home, name, content, said, left_out):
    Path(name).write_text(content)
    result = command("init", "--from", name)
    assert result.code == 0, result.err
    planned(command, "jobs/a.yaml")
    text = readable("jobs/a.yaml")
    assert said in text.replace('"', "").replace("'", "")
    assert left_out not in "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def test_its_output_is_where_pictures_go_without_it(command, home):
    picture(Path("photos/mug.png"))
    Path("p.csv").write_text("id,prompt\nsku-7,A mug\n")
    command("init", "jobs/a.yaml", "--from", "p.csv", "--references", "photos")
    shown = [command("plan", "jobs/a.yaml", "--sandbox", "--show", "a/sku-7")]
    text = Path("jobs/a.yaml").read_text()
    Path("jobs/a.yaml").write_text(text.replace("# output:", "output:"))
    assert "output:" in text
    shown.append(command("plan", "jobs/a.yaml", "--sandbox", "--show", "a/sku-7"))
    assert (shown[0].code, shown[0].out) == (0, shown[1].out)


def test_from_a_folder_of_references(command, home):
    for name in ("mug.png", "odd [1] {x}.png", ".hidden.png"):
        picture(Path("photos") / name)
    Path("photos/readme.txt").write_text("no picture")
    assert command("init", "jobs/mugs.yaml", "--references", "photos").code == 0
    plan, _ = planned(command, "jobs/mugs.yaml")
    assert plan["tasks"]["total"] == 4, "two pictures in two styles"
    assert "- ../photos/mug.png" in readable("jobs/mugs.yaml")


def test_from_a_table_and_a_folder(command, home):
    picture(Path("photos/mug.png"))
    Path("p.csv").write_text("prompt\nA mug\n")
    assert command("init", "--from", "p.csv", "--references", "photos", "--job", "both").code == 0
    plan, _ = planned(command, "jobs/both.yaml")
    assert plan["job"] == "both"


def test_a_file_that_is_there_is_kept_without_force(command, home):
    command("init")
    before = Path("jobs/first.yaml").read_text()
    Path("jobs/first.yaml").write_text("mine")
    refused = command("init")
    assert (refused.code, Path("jobs/first.yaml").read_text()) == (2, "mine")
    assert "--force" in refused.err
    assert command("init", "--force").code == 0
    assert Path("jobs/first.yaml").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "gone.csv"), "no such file"),
        (("--from", "bad.csv"), "bad.csv:3:1"),
        (("--from", "prompts.xlsx"), "expected a .csv"),
        (("--references", "empty"), "no pictures in it"),
        (("--references", "gone"), "no such file"),
        (("x.txt",), "ends with .yaml"),
        (("--model", "two words"), "expected a model id"),
    ],
)
def test_where_it_cannot_be_nothing_is_written(command, home, arguments, said):
    Path("bad.csv").write_text("id,prompt\n1,A cat\n2\n")
    Path("empty").mkdir()
    before = sorted(home.rglob("*"))
    result = command("init", *arguments)
    assert result.code == 2
    assert said in result.err.lower()
    assert sorted(home.rglob("*")) == before


def test_a_model_without_prices_gets_no_cap_and_says_why(command, home):
    assert command("init", "--model", "vendor/model").code == 0
    text = readable("jobs/first.yaml")
    assert "# prices:" in text
    assert "\nbudget:" not in text
    planned(command, "jobs/first.yaml")


def test_a_schema_beside_it_is_named_for_editors(command, home):
    Path("jobs").mkdir()
    Path("jobs/bulkrender.schema.json").write_text("{}")
    command("init")
    assert (
        Path("jobs/first.yaml").read_text().startswith("# yaml-language-server: $schema=bulkrender.schema.json\n")
    )


def test_the_object_of_init(command, home):
    told = json.loads(command("init", "--json").out)
    assert told["manifest"] == "jobs/first.yaml"
    assert told["command"] == "bulkrender run jobs/first.yaml --sandbox"
    assert told["cap"]["usd"] is not None
    assert told["exit_code"] == 0


@pytest.mark.parametrize("worst", [0, 1, 10**8, 454545454, 10**9, 19 * 10**9, 199 * 10**9, 5 * 10**12])
def test_a_cap_is_round_and_leaves_a_tenth(worst):
    cap = cap_for(worst)
    assert cap >= worst * 11 // 10
    assert cap <= max(2 * worst, 2 * 10**8) + 10**9
    assert cap % 10**8 == 0
