"""Sessions, and the nodes that they are on."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "sessions",
        sa.Column("uid", sa.Text, primary_key=True),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("title", "service_name", "stack", "user", "state", "client_address", "key_fingerprint", "node")
        ),
        *(
            sa.Column(name, sa.Text)
            for name in ("namespace", "command", "deployment_name", "pod_name", "container_name", "reason")
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.DateTime(timezone=True)) for name in ("provisioning_at", "started_at", "ended_at")),
        sa.Column("exit_status", sa.BigInteger),
        sa.Column("reserved_as", sa.Text),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("grant_key", sa.Text),
        sa.Column("reserved", sa.Boolean, nullable=False),
        sa.Column("end_asked", sa.Text),
    )
    live = sa.text("ended_at IS NULL")
    for name, columns in (
        ("sessions_live_service", ["stack", "service_name"]),
        ("sessions_live_user", ["user"]),
        ("sessions_live_grant", ["grant_key"]),
        ("sessions_live_node", ["node_id"]),
    ):
        op.create_index(name, "sessions", columns, sqlite_where=live, postgresql_where=live)
    op.create_index("sessions_created", "sessions", ["created_at"])
    op.create_index("sessions_ended", "sessions", ["ended_at"])
    op.create_index("sessions_reserved_as", "sessions", ["reserved_as"])
    op.create_table(
        "nodes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("beats", sa.Integer, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Remove both tables."""
    op.drop_table("nodes")
    op.drop_table("sessions")
