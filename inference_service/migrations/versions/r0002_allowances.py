"""Allowances of accounts and models, what they are counted by, and the heads of model owners' audit logs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them; what is there stays as it is, with the allowances of the settings."""
    op.add_column("accounts", sa.Column("allowance", sa.Text()))
    op.add_column("model_versions", sa.Column("allowances", sa.Text()))
    op.create_index("ix_sessions_by_account", "sessions", ["account_id", "created_at"])
    op.create_index("ix_sessions_by_data_owner", "sessions", ["data_owner", "model", "created_at"])
    op.create_table(
        "audit_heads",
        sa.Column("organisation", sa.String(64), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
    )


def downgrade() -> None:
    """There is no way back: restore a backup."""
    raise NotImplementedError
