"""Limits: when a request left, what is known of a model's quota, live runs, accounts over jobs."""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SPENT = (
    *("settled_nanos", "reserved_nanos", "unknown_nanos"),
    *("settled_image_tokens", "reserved_image_tokens", "unknown_image_tokens"),
    *("unpriced", "uncounted"),
)


def upgrade() -> None:
    _account()
    _quota()
    _pulse()
    _attempt()
    with op.batch_alter_table("job", recreate=_recreate()) as job:
        job.add_column(sa.Column("account_id", ID, nullable=True))
        job.create_foreign_key("fk_job_account_id_account", "account", ["account_id"], ["id"])


def _recreate() -> Literal["always", "never"]:
    """SQLite adds no constraint to a table that is there."""
    return "always" if op.get_bind().dialect.name == "sqlite" else "never"


def _account() -> None:
    op.create_table(
        "account",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cap_nanos", sa.BigInteger(), nullable=True),
        sa.Column("cap_image_tokens", sa.BigInteger(), nullable=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in SPENT),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.CheckConstraint(" AND ".join(f"{name} >= 0" for name in SPENT), name="never_negative"),
        sa.PrimaryKeyConstraint("id", name="pk_account"),
        sa.UniqueConstraint("name", name="uq_account_name"),
    )


def _quota() -> None:
    op.create_table(
        "quota",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("closed_until", sa.Double(), nullable=True),
        sa.Column("closed_by", sa.Text(), nullable=True),
        sa.Column("said", sa.Text(), nullable=False),
        sa.Column("belief", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("named", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "model", name="pk_quota"),
    )


def _pulse() -> None:
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
        sa.PrimaryKeyConstraint("job_id", name="pk_pulse"),
    )


def _attempt() -> None:
    with op.batch_alter_table("attempt", recreate=_recreate()) as attempt:
        attempt.add_column(sa.Column("sent_at", sa.Double(), nullable=True))
        attempt.add_column(sa.Column("pictures", sa.Integer(), nullable=True))
        attempt.add_column(sa.Column("account_id", ID, nullable=True))
        attempt.add_column(sa.Column("changed", sa.BigInteger(), nullable=False, server_default="0"))
        attempt.create_foreign_key("fk_attempt_account_id_account", "account", ["account_id"], ["id"])
        attempt.drop_index("ix_attempt_model_endpoint_started_at")
    with op.batch_alter_table("attempt", recreate=_recreate()) as attempt:
        attempt.alter_column("changed", server_default=None)
    # the claim is the nearest to its send that an older ledger knows
    op.execute(
        "UPDATE attempt SET changed = id, "
        "sent_at = CASE WHEN state <> 'running' AND outcome <> 'unreached' THEN started_at END"
    )
    op.create_index("ix_attempt_endpoint_sent_at", "attempt", ["endpoint", "sent_at"], unique=False)
    op.create_index("ix_attempt_endpoint_changed", "attempt", ["endpoint", "changed"], unique=False)
