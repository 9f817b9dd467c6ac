"""`export --format parquet`: an extra, since pyarrow is larger than all the rest together.

Money is decimal128 with nine places, to the nano-dollar: exact, and what data frames can add up. Axes are a map,
as jobs differ in them. Rows leave in groups, so that a million of them need no more memory than one group.
"""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Any, BinaryIO

from runner.app.views import EXPORT_COLUMNS, Json
from runner.core.errors import UsageError

ROWS = 20_000
"""Of one row group."""
DIGITS = 28
"""Of money, nine of them behind the point."""

_WHOLE = ("bytes", "image_tokens")
_SMALL = ("variant", "width", "height", "attempts")
_MONEY = ("cost_usd", "unknown_usd")


def require() -> Any:
    """The `pyarrow` package; UsageError says how to get it where it is not installed."""
    try:
        import pyarrow as pa
    except ImportError:
        raise UsageError(
            "--format parquet needs pyarrow, which is not installed: pip install 'bulkrender[parquet]', or in a "
            "checkout: uv sync --extra parquet; csv and jsonl need nothing"
        ) from None
    return pa


def schema() -> Any:
    """The columns of an export, typed."""
    arrow = require()
    types = {
        **dict.fromkeys(EXPORT_COLUMNS, arrow.string()),
        **dict.fromkeys(_WHOLE, arrow.int64()),
        **dict.fromkeys(_SMALL, arrow.int32()),
        **dict.fromkeys(_MONEY, arrow.decimal128(DIGITS, 9)),
        "axes": arrow.map_(arrow.string(), arrow.string()),
    }
    return arrow.schema(list(types.items()))


def write(rows: Iterable[Json], file: BinaryIO, *, group: int = ROWS) -> None:
    """Write the rows of an export to a file that is open, `group` of them at a time."""
    arrow = require()
    from pyarrow.parquet import ParquetWriter

    columns = schema()
    with ParquetWriter(file, columns, compression="zstd") as writer:
        for some in _groups(rows, group):
            writer.write_table(arrow.Table.from_pylist([_typed(row) for row in some], schema=columns))


def _typed(row: Json) -> Json:
    money = {name: None if row[name] is None else Decimal(row[name]) for name in _MONEY}
    return {**row, **money, "axes": list(row["axes"].items())}


def _groups(rows: Iterable[Json], size: int) -> Iterator[list[Json]]:
    source = iter(rows)
    while some := list(islice(source, size)):
        yield some
