"""The size of each session's transcript, which counts against its user's quota."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column; sessions from before have none, and count as nothing."""
    op.add_column("sessions", sa.Column("transcript_bytes", sa.BigInteger))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("sessions", "transcript_bytes")
