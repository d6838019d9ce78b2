"""How a version is run: its views, and what it has of its own"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    document = sa.JSON(none_as_null=True)
    op.add_column("versions", sa.Column("views", document, nullable=False, server_default='["as it is"]'))
    op.add_column("versions", sa.Column("input_size", sa.Integer()))
    op.add_column("versions", sa.Column("factors_key", sa.Text()))


def downgrade() -> None:
    for column in ("factors_key", "input_size", "views"):
        op.drop_column("versions", column)
