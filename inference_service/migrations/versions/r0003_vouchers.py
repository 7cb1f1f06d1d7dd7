"""Model owners vouch for what the catalog says of their models."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them; a version that is there has one when its owner's server has started again."""
    op.add_column("model_versions", sa.Column("voucher", sa.Text()))


def downgrade() -> None:
    """There is no way back: restore a backup."""
    raise NotImplementedError
