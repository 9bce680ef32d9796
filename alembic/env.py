"""Migrations of the database of an ini file: `alembic -c INI upgrade head`."""

from pyramid.paster import get_appsettings, setup_logging

from alembic import context
from mlapi.database import make_engine
from mlapi.models import Base
from mlapi.settings import Settings


def migrate() -> None:
    """Run the migrations, each in its own transaction."""
    ini = context.config.config_file_name
    if "mlapi" not in context.config.attributes.get("quiet", ()):
        setup_logging(ini)
    engine = make_engine(Settings.read(get_appsettings(ini)).database_url)
    with engine.connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=sqlite,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


migrate()
