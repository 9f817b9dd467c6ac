"""The names of the jobs of a ledger, for whoever cannot wait for SQLAlchemy: shell completion, at every Tab."""

import sqlite3
from contextlib import closing
from pathlib import Path

PATIENCE_S = 0.2


def quick_job_names(url: str) -> list[str]:
    """All jobs, by name; none where there is no ledger, or it cannot be read at once. Changes nothing."""
    path = Path(url.removeprefix("sqlite:///")).expanduser()
    if not url.startswith("sqlite:///") or not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=PATIENCE_S)) as file:
            return [name for (name,) in file.execute("SELECT name FROM job ORDER BY name")]
    except sqlite3.Error:
        return []
