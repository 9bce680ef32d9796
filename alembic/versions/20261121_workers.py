"""workers, and what an attempt costs

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op


revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('workers',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('host', sa.Text(), nullable=False),
    sa.Column('version', sa.Text(), nullable=True),
    sa.Column('heartbeat', sa.DateTime(), nullable=False),
    sa.Column('health', sa.Text(), nullable=False),
    sa.Column('faults', sa.BigInteger(), nullable=False),
    sa.Column('blocked_until', sa.DateTime(), nullable=True),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('created', sa.DateTime(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_workers')),
    sa.UniqueConstraint('name', name=op.f('uq_workers_name')),
    sqlite_autoincrement=True
    )
    op.add_column('jobs', sa.Column('failures', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('attempts', sa.Column('fault', sa.Text(), nullable=True))
    op.add_column('attempts', sa.Column('fetched', sa.DateTime(), nullable=True))
    op.add_column('attempts', sa.Column('report_digest', sa.Text(), nullable=True))
    # Until now every lost attempt counted, and every attempt may have fetched its job.
    op.execute("UPDATE attempts SET fetched = created")
    op.execute(
        "UPDATE jobs SET failures = (SELECT count(*) FROM attempts"
        " WHERE attempts.job_id = jobs.id AND attempts.status = 'LOST')"
    )


def downgrade() -> None:
    op.drop_column('attempts', 'report_digest')
    op.drop_column('attempts', 'fetched')
    op.drop_column('attempts', 'fault')
    op.drop_column('jobs', 'failures')
    op.drop_table('workers')
