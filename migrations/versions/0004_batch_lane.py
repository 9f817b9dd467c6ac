"""The batch lane: batches, and which attempts are lines of one."""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPEN = sa.text("state <> 'over'")
NAMED = sa.text("name IS NOT NULL")


def upgrade() -> None:
    _batch()
    with op.batch_alter_table("attempt", recreate=_recreate()) as attempt:
        attempt.add_column(sa.Column("batch_row", ID, nullable=True))
        attempt.create_foreign_key("fk_attempt_batch_row_batch", "batch", ["batch_row"], ["id"])
        attempt.create_check_constraint("lane", "lane IN ('standard', 'batch')")
        attempt.create_check_constraint("lane_has_batch", "(lane = 'batch') = (batch_row IS NOT NULL)")
    op.create_index("ix_attempt_batch_row", "attempt", ["batch_row"], unique=False)


def _recreate() -> Literal["always", "never"]:
    """SQLite adds no constraint to a table that is there."""
    return "always" if op.get_bind().dialect.name == "sqlite" else "never"


def _batch() -> None:
    op.create_table(
        "batch",
        sa.Column("id", ID, nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "intent",
                "creating",
                "created",
                "over",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("file", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("remote_state", sa.Text(), nullable=False),
        sa.Column("stats", sa.JSON(), nullable=False),
        sa.Column("results", sa.Text(), nullable=True),
        sa.Column("place", sa.JSON(), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.Column("posted_at", sa.Double(), nullable=True),
        sa.Column("posts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=True),
        sa.Column("looked_at", sa.Double(), nullable=True),
        sa.Column("absent_at", sa.Double(), nullable=True),
        sa.Column("cancelled_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.CheckConstraint("input_tokens >= 0 AND posts >= 0", name="never_negative"),
        sa.CheckConstraint("length(token) = 32", name="token"),
        sa.CheckConstraint("lines > 0", name="lines"),
        sa.CheckConstraint("state <> 'created' OR name IS NOT NULL", name="created_has_name"),
        sa.CheckConstraint("(state = 'over') = (ended_at IS NOT NULL)", name="ended"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_batch_job_id_job"),
        sa.PrimaryKeyConstraint("id", name="pk_batch"),
        sa.UniqueConstraint("token", name="uq_batch_token"),
    )
    op.create_index("ix_batch_open", "batch", ["job_id"], unique=False, sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index(
        "ix_batch_remote",
        "batch",
        ["endpoint", "name"],
        unique=True,
        sqlite_where=NAMED,
        postgresql_where=NAMED,
    )
