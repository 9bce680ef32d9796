"""queues, grids, dependencies, events, metrics with steps, and outputs in order

The downgrade deletes what the older tables cannot hold: queues, grids, dependencies, events, points of metrics, what jobs
have reused, and the logs that have become blobs, which are those of attempts that ended more than ten minutes ago.

Revision ID: 0004
Revises: 0003
"""

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op
from alembic.operations.base import BatchOperations


revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


@contextlib.contextmanager
def changed(table: str) -> Iterator[BatchOperations]:
    """Change a table; SQLite replaces it by a changed copy, whose new rows must not reuse the ids of deleted ones."""
    with op.batch_alter_table(table, table_kwargs={'sqlite_autoincrement': True}) as batch:
        yield batch
    if op.get_bind().dialect.name == 'sqlite':
        op.execute(f"UPDATE sqlite_sequence SET seq = max(seq, (SELECT seq FROM last_ids WHERE name = '{table}'))"
                   f" WHERE name = '{table}'")


def remember_ids() -> None:
    """Remember the last ids of SQLite's tables."""
    if op.get_bind().dialect.name == 'sqlite':
        op.execute("CREATE TEMPORARY TABLE last_ids AS SELECT name, seq FROM sqlite_sequence")


def forget_ids() -> None:
    if op.get_bind().dialect.name == 'sqlite':
        op.execute("DROP TABLE last_ids")


def carry_metrics() -> None:
    """Make points, as reports do, of the numbers in the metrics of finished jobs; names of nested ones have dots."""
    sqlite = op.get_bind().dialect.name == 'sqlite'
    kind, number = ('member.type', 'content') if sqlite else ('json_typeof(member.value)', 'content::text::float8')
    op.execute(f"""
        WITH RECURSIVE members (job_id, name, content, kind) AS (
            SELECT jobs.id, member.key, member.value, {kind} FROM jobs, json_each(jobs.metrics) AS member
            WHERE jobs.status = 'FINISHED'
            UNION ALL
            SELECT job_id, name || '.' || member.key, member.value, {kind}
            FROM members, json_each(CASE WHEN kind = 'object' THEN content ELSE '{{}}' END) AS member
        ), numbers AS (
            SELECT job_id, row_number() OVER (PARTITION BY job_id ORDER BY name) AS number, name, {number} AS value
            FROM members WHERE kind IN ('number', 'integer', 'real') AND length(name) <= 200
        )
        INSERT INTO metrics (attempt_id, number, name, value, time)
        SELECT attempts.id, numbers.number, numbers.name, numbers.value, jobs.ended
        FROM numbers JOIN jobs ON jobs.id = numbers.job_id
        JOIN attempts ON attempts.job_id = jobs.id AND attempts.number = jobs.attempt
        WHERE numbers.number <= 1000
    """)


def upgrade() -> None:
    op.create_table('events',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('actor', sa.Text(), nullable=False),
    sa.Column('action', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('subject_id', sa.BigInteger(), nullable=False),
    sa.Column('run_id', sa.BigInteger(), nullable=True),
    sa.Column('data', sa.JSON(none_as_null=True), nullable=False),
    sa.Column('transaction_id', sa.BigInteger(), nullable=False),
    sa.Column('created', sa.DateTime(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_events')),
    sqlite_autoincrement=True
    )
    op.create_index(op.f('ix_events_kind_subject_id_transaction_id_id'), 'events', ['kind', 'subject_id', 'transaction_id', 'id'], unique=False)
    op.create_index(op.f('ix_events_run_id_transaction_id_id'), 'events', ['run_id', 'transaction_id', 'id'], unique=False)

    op.create_table('queues',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('name', sa.Text(), nullable=True),
    sa.Column('description', sa.Text(), nullable=False),
    sa.Column('locked', sa.Boolean(), nullable=False),
    sa.Column('job_limit', sa.BigInteger(), nullable=True),
    sa.Column('timeout', sa.Double(), nullable=True),
    sa.Column('attempts', sa.BigInteger(), nullable=True),
    sa.Column('resources', sa.JSON(none_as_null=True), nullable=True),
    sa.Column('created', sa.DateTime(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_queues')),
    sa.UniqueConstraint('name', name=op.f('uq_queues_name')),
    sqlite_autoincrement=True
    )
    postgresql = op.get_bind().dialect.name == 'postgresql'
    # In UTC with milliseconds, as all times of rows.
    now = ("date_trunc('milliseconds', timezone('UTC', clock_timestamp()))" if postgresql
           else "strftime('%Y-%m-%d %H:%M:%f000', 'now')")
    op.execute(f"INSERT INTO queues (id, name, description, locked, created) VALUES (1, 'default', '', false, {now})")
    if postgresql:
        op.execute("SELECT setval(pg_get_serial_sequence('queues', 'id'), 1)")
    op.create_table('grids',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('pipeline_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('owner_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('idempotency_key', sa.Text(), nullable=True),
    sa.Column('request_digest', sa.Text(), nullable=True),
    sa.Column('axes', sa.JSON(none_as_null=True), nullable=False),
    sa.Column('run_count', sa.BigInteger(), nullable=False),
    sa.Column('created', sa.DateTime(), nullable=False),
    sa.ForeignKeyConstraint(['owner_id'], ['users.id'], name=op.f('fk_grids_owner_id_users')),
    sa.ForeignKeyConstraint(['pipeline_id'], ['pipelines.id'], name=op.f('fk_grids_pipeline_id_pipelines')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_grids')),
    sa.UniqueConstraint('pipeline_id', 'idempotency_key', name=op.f('uq_grids_pipeline_id_idempotency_key')),
    sqlite_autoincrement=True
    )
    op.create_index(op.f('ix_grids_owner_id_id'), 'grids', ['owner_id', 'id'], unique=False)
    op.create_index(op.f('ix_grids_pipeline_id_id'), 'grids', ['pipeline_id', 'id'], unique=False)

    op.create_table('job_dependencies',
    sa.Column('job_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('dependency_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.ForeignKeyConstraint(['dependency_id'], ['jobs.id'], name=op.f('fk_job_dependencies_dependency_id_jobs')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_job_dependencies_job_id_jobs')),
    sa.PrimaryKeyConstraint('job_id', 'dependency_id', name=op.f('pk_job_dependencies'))
    )
    op.create_index(op.f('ix_job_dependencies_dependency_id'), 'job_dependencies', ['dependency_id'], unique=False)

    op.create_table('job_outputs',
    sa.Column('job_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('number', sa.BigInteger(), nullable=False),
    sa.Column('file_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.ForeignKeyConstraint(['file_id'], ['files.id'], name=op.f('fk_job_outputs_file_id_files')),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_job_outputs_job_id_jobs')),
    sa.PrimaryKeyConstraint('job_id', 'number', name=op.f('pk_job_outputs'))
    )
    op.create_index(op.f('ix_job_outputs_file_id'), 'job_outputs', ['file_id'], unique=False)
    op.execute("INSERT INTO job_outputs (job_id, number, file_id)"
               " SELECT job_id, row_number() OVER (PARTITION BY job_id ORDER BY id), id"
               " FROM files WHERE job_id IS NOT NULL")

    op.create_table('metrics',
    sa.Column('attempt_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('number', sa.BigInteger(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('step', sa.BigInteger(), nullable=True),
    sa.Column('value', sa.Double(), nullable=False),
    sa.Column('time', sa.DateTime(), nullable=False),
    sa.ForeignKeyConstraint(['attempt_id'], ['attempts.id'], name=op.f('fk_metrics_attempt_id_attempts')),
    sa.PrimaryKeyConstraint('attempt_id', 'number', name=op.f('pk_metrics'))
    )
    carry_metrics()
    op.create_index(op.f('ix_metrics_attempt_id_name_number'), 'metrics', ['attempt_id', 'name', 'number'], unique=False)

    op.add_column('attempts', sa.Column('exit_code', sa.BigInteger(), nullable=True))
    op.add_column('attempts', sa.Column('peak_memory', sa.BigInteger(), nullable=True))
    op.add_column('attempts', sa.Column('cpu_seconds', sa.Double(), nullable=True))
    op.add_column('attempts', sa.Column('wall_seconds', sa.Double(), nullable=True))
    op.add_column('attempts', sa.Column('log_sha256', sa.Text(), nullable=True))
    op.create_index(op.f('ix_attempts_log_sha256'), 'attempts', ['log_sha256'], unique=False)
    op.add_column('workers', sa.Column('queues', sa.JSON(none_as_null=True), nullable=True))
    op.add_column('workers', sa.Column('slots', sa.BigInteger(), nullable=True))
    op.add_column('workers', sa.Column('cpus', sa.Double(), nullable=True))
    op.add_column('workers', sa.Column('memory', sa.BigInteger(), nullable=True))
    op.add_column('workers', sa.Column('gpus', sa.BigInteger(), nullable=True))
    op.add_column('functions', sa.Column('deterministic', sa.Boolean(), server_default=sa.false(), nullable=False))
    remember_ids()
    with changed('jobs') as batch:
        batch.add_column(sa.Column('queue_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), server_default='1', nullable=False))
        batch.add_column(sa.Column('attempts', sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column('rank', sa.BigInteger(), server_default='0', nullable=False))
        batch.add_column(sa.Column('cpus', sa.Double(), nullable=True))
        batch.add_column(sa.Column('memory', sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column('gpus', sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column('patterns', sa.JSON(none_as_null=True), nullable=True))
        batch.add_column(sa.Column('retry_on', sa.JSON(none_as_null=True), nullable=True))
        batch.add_column(sa.Column('reuse', sa.Boolean(), nullable=True))
        batch.add_column(sa.Column('reuse_key', sa.Text(), nullable=True))
        batch.add_column(sa.Column('reused_from_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True))
        batch.add_column(sa.Column('not_before', sa.DateTime(), nullable=True))
        batch.create_foreign_key(op.f('fk_jobs_queue_id_queues'), 'queues', ['queue_id'], ['id'])
        batch.create_foreign_key(op.f('fk_jobs_reused_from_id_jobs'), 'jobs', ['reused_from_id'], ['id'], ondelete='SET NULL')
        batch.create_index(op.f('ix_jobs_reuse_key_id'), ['reuse_key', 'id'], unique=False)
        batch.create_index(op.f('ix_jobs_reused_from_id'), ['reused_from_id'], unique=False)
    needs = [sa.text(f'coalesce({need}, 0)') for need in ('cpus', 'memory', 'gpus')]
    op.create_index('ix_jobs_queue_id_status_needs', 'jobs', ['queue_id', 'status', *needs, 'rank', 'not_before', 'id'], unique=False)
    with changed('runs') as batch:
        batch.add_column(sa.Column('request_digest', sa.Text(), nullable=True))
        batch.add_column(sa.Column('grid_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True))
        batch.add_column(sa.Column('rerun_of_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True))
        batch.add_column(sa.Column('changes', sa.JSON(none_as_null=True), nullable=True))
        batch.create_foreign_key(op.f('fk_runs_grid_id_grids'), 'grids', ['grid_id'], ['id'])
        batch.create_foreign_key(op.f('fk_runs_rerun_of_id_runs'), 'runs', ['rerun_of_id'], ['id'], ondelete='SET NULL')
        batch.create_index(op.f('ix_runs_grid_id_id'), ['grid_id', 'id'], unique=False)
        batch.create_index(op.f('ix_runs_rerun_of_id'), ['rerun_of_id'], unique=False)
    with changed('tasks') as batch:
        batch.add_column(sa.Column('queue_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True))
        batch.add_column(sa.Column('attempts', sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column('priority', sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column('resources', sa.JSON(none_as_null=True), nullable=True))
        batch.add_column(sa.Column('inputs', sa.JSON(none_as_null=True), nullable=True))
        batch.add_column(sa.Column('retry_on', sa.JSON(none_as_null=True), nullable=True))
        batch.add_column(sa.Column('reuse', sa.Boolean(), nullable=True))
        batch.create_foreign_key(op.f('fk_tasks_queue_id_queues'), 'queues', ['queue_id'], ['id'])
        batch.create_index(op.f('ix_tasks_queue_id'), ['queue_id'], unique=False)
    forget_ids()


def downgrade() -> None:
    remember_ids()
    op.drop_column('workers', 'gpus')
    op.drop_column('workers', 'memory')
    op.drop_column('workers', 'cpus')
    op.drop_column('workers', 'slots')
    op.drop_column('workers', 'queues')

    with changed('tasks') as batch:
        batch.drop_constraint(op.f('fk_tasks_queue_id_queues'), type_='foreignkey')
        batch.drop_index(op.f('ix_tasks_queue_id'))
        batch.drop_column('reuse')
        batch.drop_column('retry_on')
        batch.drop_column('inputs')
        batch.drop_column('resources')
        batch.drop_column('priority')
        batch.drop_column('attempts')
        batch.drop_column('queue_id')

    with changed('runs') as batch:
        batch.drop_constraint(op.f('fk_runs_grid_id_grids'), type_='foreignkey')
        batch.drop_constraint(op.f('fk_runs_rerun_of_id_runs'), type_='foreignkey')
        batch.drop_index(op.f('ix_runs_rerun_of_id'))
        batch.drop_index(op.f('ix_runs_grid_id_id'))
        batch.drop_column('changes')
        batch.drop_column('rerun_of_id')
        batch.drop_column('grid_id')
        batch.drop_column('request_digest')

    op.drop_index('ix_jobs_queue_id_status_needs', 'jobs')
    with changed('jobs') as batch:
        batch.drop_constraint(op.f('fk_jobs_queue_id_queues'), type_='foreignkey')
        batch.drop_constraint(op.f('fk_jobs_reused_from_id_jobs'), type_='foreignkey')
        batch.drop_index(op.f('ix_jobs_reused_from_id'))
        batch.drop_index(op.f('ix_jobs_reuse_key_id'))
        batch.drop_column('not_before')
        batch.drop_column('reused_from_id')
        batch.drop_column('reuse_key')
        batch.drop_column('reuse')
        batch.drop_column('retry_on')
        batch.drop_column('patterns')
        batch.drop_column('gpus')
        batch.drop_column('memory')
        batch.drop_column('cpus')
        batch.drop_column('rank')
        batch.drop_column('attempts')
        batch.drop_column('queue_id')

    op.drop_index(op.f('ix_attempts_log_sha256'), 'attempts')
    op.drop_column('attempts', 'log_sha256')
    op.drop_column('attempts', 'wall_seconds')
    op.drop_column('attempts', 'cpu_seconds')
    op.drop_column('attempts', 'peak_memory')
    op.drop_column('attempts', 'exit_code')

    op.drop_column('functions', 'deterministic')
    forget_ids()
    op.drop_table('metrics')
    op.drop_table('job_outputs')
    op.drop_table('job_dependencies')
    op.drop_table('grids')
    op.drop_table('queues')
    op.drop_table('events')
