"""`export --format parquet`: the rows of an export, typed, in groups; an extra."""

import io
import json
import sys
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.app.parquet import schema, write
from runner.app.views import EXPORT_COLUMNS


@pytest.fixture
def bought(live, manifest):
    live("run", manifest("variants: 2"))
    return [json.loads(line) for line in live("export", "j").out.splitlines()]


def test_it_has_just_the_rows_of_an_export(live, bought):
    assert live("export", "j", "--format", "parquet", "--to", "j.parquet").code == 0
    table = pq.read_table("j.parquet")
    assert table.schema.names == list(EXPORT_COLUMNS)
    assert table.schema.field("cost_usd").type == pa.decimal128(28, 9)
    assert table.schema.field("bytes").type == pa.int64()
    assert table.schema.field("width").type == pa.int32()
    for row, exported in zip(table.to_pylist(), bought, strict=True):
        assert row["cost_usd"] == Decimal(exported["cost_usd"])
        assert dict(row["axes"]) == exported["axes"]
        same = set(EXPORT_COLUMNS) - {"cost_usd", "unknown_usd", "axes"}
        assert {name: row[name] for name in same} == {name: exported[name] for name in same}


def a_row(number, **changes):
    row = dict.fromkeys(EXPORT_COLUMNS)
    row |= {"key": f"k{number}", "axes": {"style": "inked"}, "cost_usd": "0.000000001", "unknown_usd": "0.00"}
    return {**row, "variant": number, **changes}


def test_rows_leave_in_groups_and_money_adds_up_to_the_nano_dollar():
    file = io.BytesIO()
    write((a_row(number) for number in range(7)), file, group=3)
    read = pq.ParquetFile(file)
    assert [read.metadata.row_group(group).num_rows for group in range(3)] == [3, 3, 1]
    assert sum(read.read().column("cost_usd").to_pylist()) == Decimal("0.000000007")


def test_unknown_is_null_and_a_billion_dollars_fit():
    file = io.BytesIO()
    write([a_row(1, cost_usd=None), a_row(2, cost_usd="1000000000.999999999", axes={})], file)
    first, second = pq.ParquetFile(file).read().to_pylist()
    assert first["cost_usd"] is None
    assert (second["cost_usd"], second["axes"]) == (Decimal("1000000000.999999999"), [])


def test_a_job_without_tasks_is_a_file_without_rows():
    file = io.BytesIO()
    write([], file)
    assert pq.ParquetFile(file).schema_arrow == schema()


def test_without_the_extra_it_says_what_to_install(live, bought, monkeypatch, home):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = live("export", "j", "--format", "parquet", "--to", "j.parquet")
    assert result.code == 2
    assert "pip install 'bulkrender[parquet]'" in result.err
    assert not list(home.glob("*j.parquet*"))


def test_it_is_not_for_a_terminal(live, bought, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    result = live("export", "j", "--format", "parquet")
    assert (result.code, "not for a terminal: add --to FILE" in result.err) == (2, True)
