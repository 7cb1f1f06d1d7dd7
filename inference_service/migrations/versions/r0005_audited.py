"""How many images of a session got no answer because the model owner checked the data owner by them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of earlier sessions none."""
    op.add_column("sessions", sa.Column("audited", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """There is no way back: restore a backup."""
    raise NotImplementedError
