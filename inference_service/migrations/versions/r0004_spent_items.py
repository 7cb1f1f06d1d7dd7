"""Stocked items that tickets named: what was spent before is not known here, and the parties' ledgers have it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table, empty."""
    op.create_table(
        "spent_items",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("session_id", sa.Uuid(), sa.ForeignKey("sessions.id"), nullable=False),
    )


def downgrade() -> None:
    """There is no way back: restore a backup."""
    raise NotImplementedError
