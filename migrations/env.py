"""Runs in a connection, and a transaction, that `runner.ledger.schema` hands over."""

from alembic import context
from sqlmodel import SQLModel

from runner.ledger import models

__all__ = ["models"]  # imported for its tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
