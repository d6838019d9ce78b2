"""The rate of a key"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("requests_per_minute", sa.Integer()))


def downgrade() -> None:
    op.drop_column("api_keys", "requests_per_minute")
