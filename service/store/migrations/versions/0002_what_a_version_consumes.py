"""What a version consumes of its backbone"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "versions", sa.Column("backbone_output", sa.Text(), nullable=False, server_default="embedding")
    )


def downgrade() -> None:
    op.drop_column("versions", "backbone_output")
