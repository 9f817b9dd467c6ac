"""Campaigns: reference pictures and where they were uploaded, drafts and finals, several models in one job."""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WAITING = sa.text("state = 'queued' AND live")


def upgrade() -> None:
    _reference()
    _upload()
    _task()
    _allowance()
    _pulse()
    with op.batch_alter_table("job", recreate=_recreate()) as job:
        job.add_column(sa.Column("drafts", sa.Text(), nullable=True))


def _recreate() -> Literal["always", "never"]:
    """SQLite adds no constraint to a table that is there."""
    return "always" if op.get_bind().dialect.name == "sqlite" else "never"


def _reference() -> None:
    op.create_table(
        "reference",
        sa.Column("id", ID, nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reference"),
        sa.UniqueConstraint("sha256", name="uq_reference_sha256"),
    )


def _upload() -> None:
    op.create_table(
        "upload",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("mime", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "sha256", name="pk_upload"),
    )


def _task() -> None:
    with op.batch_alter_table("task", recreate=_recreate()) as task:
        task.add_column(sa.Column("reference_row", ID, nullable=True))
        task.add_column(sa.Column("draft", sa.Text(), nullable=True))
        task.create_foreign_key("fk_task_reference_row_reference", "reference", ["reference_row"], ["id"])
        task.drop_index("ix_task_waiting")
    op.create_index(
        "ix_task_waiting",
        "task",
        ["job_id", "position", "due_at", "recipe_row"],
        unique=False,
        sqlite_where=WAITING,
        postgresql_where=WAITING,
    )


def _allowance() -> None:
    """A kind more, and how long ago: made anew, since a CHECK cannot be altered."""
    op.rename_table("allowance", "allowance_before")
    if op.get_bind().dialect.name != "sqlite":  # where names of constraints are the schema's, not the table's
        op.drop_constraint("pk_allowance", "allowance_before", type_="primary")
    op.create_table(
        "allowance",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("setting", sa.Text(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('text', 'image', 'pictures', 'reference')", name="kind"),
        sa.PrimaryKeyConstraint("model", "kind", "setting", name="pk_allowance"),
    )
    op.execute("INSERT INTO allowance SELECT model, kind, setting, tokens, 0 FROM allowance_before")
    op.drop_table("allowance_before")


def _pulse() -> None:
    """A pulse for each model of a job. What live runs say is said anew, and no run lives while this does."""
    op.drop_table("pulse")
    op.create_table(
        "pulse",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("waits_for", sa.Text(), nullable=True),
        sa.Column("waiting_since", sa.Double(), nullable=True),
        sa.Column("back_at", sa.Double(), nullable=True),
        sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_pulse_job_id_job"),
        sa.PrimaryKeyConstraint("job_id", "model", name="pk_pulse"),
    )
