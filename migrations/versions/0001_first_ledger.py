"""The first ledger: jobs, tasks, attempts, and the money between them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _never_negative(*columns: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(" AND ".join(f"{column} >= 0" for column in columns), name="never_negative")


def upgrade() -> None:
    op.create_table(
        "allowance",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("setting", sa.Text(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('text', 'image')", name="kind"),
        sa.PrimaryKeyConstraint("model", "kind", "setting", name="pk_allowance"),
    )
    op.create_table(
        "job",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("manifest_sha256", sa.Text(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("output_root", sa.Text(), nullable=False),
        sa.Column("cap_nanos", sa.BigInteger(), nullable=True),
        sa.Column("cap_image_tokens", sa.BigInteger(), nullable=True),
        sa.Column("settled_nanos", sa.BigInteger(), nullable=False),
        sa.Column("reserved_nanos", sa.BigInteger(), nullable=False),
        sa.Column("unknown_nanos", sa.BigInteger(), nullable=False),
        sa.Column("settled_image_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reserved_image_tokens", sa.BigInteger(), nullable=False),
        sa.Column("unknown_image_tokens", sa.BigInteger(), nullable=False),
        sa.Column("unpriced", sa.BigInteger(), nullable=False),
        sa.Column("uncounted", sa.BigInteger(), nullable=False),
        sa.Column("queued", sa.BigInteger(), nullable=False),
        sa.Column("running", sa.BigInteger(), nullable=False),
        sa.Column("submitted", sa.BigInteger(), nullable=False),
        sa.Column("succeeded", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("orphaned", sa.BigInteger(), nullable=False),
        sa.Column("halted", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "halted IS NULL OR halted IN ('budget', 'provider', 'local', 'interrupted')", name="halted"
        ),
        _never_negative(
            "settled_nanos",
            "reserved_nanos",
            "unknown_nanos",
            "settled_image_tokens",
            "reserved_image_tokens",
            "unknown_image_tokens",
            "unpriced",
            "uncounted",
            "queued",
            "running",
            "submitted",
            "succeeded",
            "refused",
            "failed",
            "orphaned",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.UniqueConstraint("name", name="uq_job_name"),
    )
    op.create_index("ix_job_output_root", "job", ["output_root"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.CheckConstraint("kind IN ('live', 'sandbox')", name="kind"),
        sa.CheckConstraint("id = 1", name="one_row"),
        sa.PrimaryKeyConstraint("id", name="pk_ledger"),
    )
    op.create_table(
        "prompt",
        sa.Column("id", ID, nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_prompt"),
        sa.UniqueConstraint("sha256", name="uq_prompt_sha256"),
    )
    op.create_table(
        "recipe",
        sa.Column("id", ID, nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_recipe"),
        sa.UniqueConstraint("sha256", name="uq_recipe_sha256"),
    )
    op.create_table(
        "task",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("prompt_id", sa.Text(), nullable=False),
        sa.Column("prompt_row", ID, nullable=False),
        sa.Column("recipe_row", ID, nullable=False),
        sa.Column("size", sa.Text(), nullable=False),
        sa.Column("aspect", sa.Text(), nullable=False),
        sa.Column("axes", sa.JSON(), nullable=False),
        sa.Column("variant", sa.Integer(), nullable=False),
        sa.Column("stem", sa.Text(), nullable=False),
        sa.Column("folded", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "submitted",
                "succeeded",
                "refused",
                "failed",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("refused_tries", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=True),
        sa.Column("unknown_nanos", sa.BigInteger(), nullable=True),
        sa.Column("image_tokens", sa.BigInteger(), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("response_id", sa.Text(), nullable=True),
        sa.Column("model_version", sa.Text(), nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("path_folded", sa.Text(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("mime", sa.Text(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.CheckConstraint("state <> 'succeeded' OR path IS NOT NULL", name="success_has_picture"),
        sa.CheckConstraint("(path IS NULL) = (path_folded IS NULL)", name="path_folded_with_path"),
        _never_negative("tries", "refused_tries", "attempts", "cost_nanos", "unknown_nanos", "image_tokens"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_task_job_id_job"),
        sa.ForeignKeyConstraint(["prompt_row"], ["prompt.id"], name="fk_task_prompt_row_prompt"),
        sa.ForeignKeyConstraint(["recipe_row"], ["recipe.id"], name="fk_task_recipe_row_recipe"),
        sa.PrimaryKeyConstraint("id", name="pk_task"),
        sa.UniqueConstraint("job_id", "key", name="uq_task_job_id_key"),
    )
    op.create_index(
        "ix_task_due",
        "task",
        ["job_id", "due_at"],
        unique=False,
        sqlite_where=sa.text("state = 'queued' AND live AND due_at IS NOT NULL"),
        postgresql_where=sa.text("state = 'queued' AND live AND due_at IS NOT NULL"),
    )
    op.create_index("ix_task_job_id_position", "task", ["job_id", "position"], unique=False)
    op.create_index(
        "ix_task_waiting",
        "task",
        ["job_id", "position", "due_at"],
        unique=False,
        sqlite_where=sa.text("state = 'queued' AND live"),
        postgresql_where=sa.text("state = 'queued' AND live"),
    )
    op.create_table(
        "attempt",
        sa.Column("id", ID, nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("task_id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("stem", sa.Text(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "running",
                "settled",
                "released",
                "unknown",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("reserved_nanos", sa.BigInteger(), nullable=True),
        sa.Column("reserved_image_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reserved_text_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reserved_input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("latency_s", sa.Double(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("text_tokens", sa.BigInteger(), nullable=True),
        sa.Column("image_tokens", sa.BigInteger(), nullable=True),
        sa.Column("usage", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("response_id", sa.Text(), nullable=True),
        sa.Column("model_version", sa.Text(), nullable=True),
        sa.Column("tier", sa.Text(), nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("overrun", sa.Boolean(), nullable=False),
        sa.Column("adopted", sa.Boolean(), nullable=False),
        sa.CheckConstraint("(state = 'running') = (ended_at IS NULL)", name="ended"),
        sa.CheckConstraint("state = 'settled' OR image_tokens IS NULL", name="only_settled_has_tokens"),
        sa.CheckConstraint("state = 'settled' OR cost_nanos IS NULL", name="only_settled_costs"),
        sa.CheckConstraint("length(token) = 32", name="token"),
        _never_negative(
            "reserved_nanos", "reserved_image_tokens", "cost_nanos", "input_tokens", "text_tokens", "image_tokens"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_attempt_job_id_job"),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name="fk_attempt_task_id_task"),
        sa.PrimaryKeyConstraint("id", name="pk_attempt"),
        sa.UniqueConstraint("task_id", "number", name="uq_attempt_task_id_number"),
        sa.UniqueConstraint("token", name="uq_attempt_token"),
    )
    op.create_index(
        "ix_attempt_in_flight",
        "attempt",
        ["job_id", "task_id"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index("ix_attempt_job_id_ended_at", "attempt", ["job_id", "ended_at"], unique=False)
    op.create_index(
        "ix_attempt_model_endpoint_started_at", "attempt", ["model", "endpoint", "started_at"], unique=False
    )
