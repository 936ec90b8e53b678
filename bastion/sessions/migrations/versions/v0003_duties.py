"""The duties to end what programs left behind."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "duties",
        sa.Column("uid", sa.Text, primary_key=True),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("runtime", "engine", "container_id", "container_name", "shell")
        ),
        *(sa.Column(name, sa.Text) for name in ("user", "namespace", "pod_name")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
    )
    op.create_index("duties_node", "duties", ["node_id"])


def downgrade() -> None:
    """Remove it."""
    op.drop_table("duties")
