"""What was uploaded where, kept over restarts: a file that lives for two days is sent once (gemini-api.md §9)."""

from sqlalchemy import Connection, select

from runner.core.reference import Uploaded
from runner.ledger.enqueue import upsert
from runner.ledger.models import upload


def uploads(connection: Connection, endpoint: str) -> dict[str, Uploaded]:
    """What the service at an endpoint holds, by the sha256 of the content; also what has expired since."""
    rows = connection.execute(select(upload).where(upload.c.endpoint == endpoint)).mappings()
    return {row["sha256"]: Uploaded(row["name"], row["uri"], row["mime"], row["expires_at"]) for row in rows}


def remember(connection: Connection, endpoint: str, sha256: str, held: Uploaded) -> None:
    """Book an upload, over what was known of this content."""
    facts = {"name": held.name, "uri": held.uri, "mime": held.mime, "expires_at": held.expires_at_utc}
    connection.execute(
        upsert(connection.dialect.name, upload)
        .values(endpoint=endpoint, sha256=sha256, **facts)
        .on_conflict_do_update(index_elements=["endpoint", "sha256"], set_=facts)
    )
