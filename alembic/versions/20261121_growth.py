"""indexes of the filters of lists, and the pipeline of a job

Revision ID: 0003
Revises: 0002
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from alembic import op


revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

Indexes = Mapping[str, Sequence[tuple[str, ...]]]

REPLACED: Indexes = {
    'jobs': [('function_id',)],
    'files': [('sha256',), ('job_id',)],
}
ADDED: Indexes = {
    'jobs': [
        ('owner_id', 'function_id', 'status', 'id'),
        ('owner_id', 'pipeline_id', 'status', 'id'),
        ('pipeline_id', 'status', 'id'),
        ('function_id', 'status', 'id'),
    ],
    'files': [
        ('owner_id', 'kind', 'name', 'id'),
        ('owner_id', 'kind', 'id'),
        ('owner_id', 'sha256', 'id'),
        ('owner_id', 'job_id', 'id'),
        ('kind', 'name', 'id'),
        ('kind', 'id'),
        ('sha256', 'id'),
        ('job_id', 'id'),
    ],
    'runs': [('owner_id', 'pipeline_id', 'id')],
    'pipelines': [
        ('owner_id', 'enabled', 'name', 'id'),
        ('owner_id', 'enabled', 'id'),
        ('enabled', 'name', 'id'),
        ('enabled', 'id'),
    ],
    'users': [('role', 'id')],
}


def create(indexes: Indexes) -> None:
    for table, several in indexes.items():
        for columns in several:
            op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, columns)


def drop(indexes: Indexes) -> None:
    for table, several in indexes.items():
        for columns in several:
            op.drop_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table)


def upgrade() -> None:
    op.add_column('jobs', sa.Column('pipeline_id', sa.BigInteger(), server_default='0', nullable=False))
    op.execute("UPDATE jobs SET pipeline_id = (SELECT pipeline_id FROM runs WHERE runs.id = jobs.run_id)")
    drop(REPLACED)
    create(ADDED)


def downgrade() -> None:
    drop(ADDED)
    create(REPLACED)
    op.drop_column('jobs', 'pipeline_id')
