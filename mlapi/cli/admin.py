"""`mlapi-admin COMMAND -c INI`: administration of users, tokens, modules, workers, queues and stored data."""

import argparse
import getpass
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

import mlapi
from mlapi.archives.intake import Intake
from mlapi.check import violations
from mlapi.cli import lists, prepared
from mlapi.cli.lists import LISTS
from mlapi.database import Database, analyze
from mlapi.errors import DomainError, Invalid
from mlapi.models import Job, Module, Queue, User, Worker, modules, queues, users, workers
from mlapi.models.base import clock
from mlapi.models.blobs import referenced
from mlapi.models.deletion import delete_module
from mlapi.models.jobs import Status
from mlapi.models.users import Role
from mlapi.revision import command_line
from mlapi.security import Passwords, Tokens, Use
from mlapi.settings import Settings, SettingsError
from mlapi.storage import open_store

Arguments = argparse.Namespace
DAY = 86400.0
LONGEST_TOKEN = 3650
"""Maximum lifetime of a token in days."""


def init(_settings: Settings, arguments: Arguments) -> int:
    """Create a folder with production.ini, if it has none, and the database of this file."""
    ini = _ini_in(arguments.folder)
    print("The database is at the newest revision. Next, create an administrator, and start both processes:\n")
    print(f"  {command_line('mlapi-admin', '-c', ini, 'createuser', 'NAME', '--role', 'admin')}")
    print(f"  {command_line('pserve', ini)}\n  {command_line('mlapi-scheduler', ini)}")
    return 0


def migrate(_settings: Settings, _arguments: Arguments) -> int:
    """Migrate the database to the newest revision."""
    print("The database is at the newest revision.")
    return 0


def createuser(settings: Settings, arguments: Arguments) -> int:
    """Create a user. The password is read from the terminal or from the first line of a file."""
    password = _password(arguments)
    with Database(settings.database_url).acting("admin") as db:
        users.create(db, arguments.name, Passwords(settings).hash(password), arguments.role)
    print(f"Created {arguments.role} {arguments.name}.")
    return 0


def createtoken(settings: Settings, arguments: Arguments) -> int:
    """Print an access token of a user."""
    with Database(settings.database_url).reading() as db:
        user = db.scalar(sa.select(User.id).where(User.name == arguments.name))
    if user is None:
        return _fail(f"User {arguments.name} not found.")
    print(Tokens(settings.secret_key).make(user, Use.ACCESS, arguments.days * DAY))
    return 0


def checkuserexists(settings: Settings, arguments: Arguments) -> int:
    """Exit with status 0 if the user exists, 1 otherwise."""
    with Database(settings.database_url).reading() as db:
        return int(db.scalar(sa.select(User.id).where(User.name == arguments.name)) is None)


def createmodule(settings: Settings, arguments: Arguments) -> int:
    """Register a module version from a folder or an archive. Registered content keeps its version."""
    intake = Intake(open_store(settings.media_dir), settings.scratch_dir)
    source = Path(arguments.source)
    if source.is_dir():
        content = intake.store_folder(source)
    else:
        with source.open("rb") as archive:
            content = intake.store_archive(archive)
    blob = content.blob
    with Database(settings.database_url).acting("admin") as db:
        version, new = modules.register(db, arguments.name, content.manifest, blob.sha256, blob.size)
        number = version.number
    print(f"{'Registered' if new else 'Unchanged:'} {arguments.name}, version {number}, {blob.sha256}.")
    return 0


def removemodule(settings: Settings, arguments: Arguments) -> int:
    """Remove a module that no task or job refers to."""
    with Database(settings.database_url).acting("admin") as db:
        module = db.scalar(sa.select(Module.id).where(Module.name == arguments.name))
        if module is None:
            return _fail(f"Module {arguments.name} not found.")
        versions = delete_module(db, module)
    print(f"Removed {arguments.name} with {versions} version(s).")
    return 0


def listworkers(settings: Settings, _arguments: Arguments) -> int:
    """List the machines that run jobs: their last heartbeat and their health, with the reason of the last fault."""
    with Database(settings.database_url).reading() as db:
        now = db.scalars(sa.select(clock())).one()
        for worker in db.execute(sa.select(Worker.__table__).order_by(Worker.name)):
            age = (now - worker.heartbeat).total_seconds()
            print(f"{worker.name}: {worker.health}, heartbeat {age:.0f} s ago on {worker.host}")
            if worker.queues is not None:
                print(f"  serves {' '.join(worker.queues)} with {worker.slots} slot(s)")
            if worker.faults:
                left = max(0.0, (worker.blocked_until - now).total_seconds())
                print(f"  {worker.faults} fault(s), claims no job for {left:.0f} s. {worker.reason}")
    return 0


def listqueues(settings: Settings, _arguments: Arguments) -> int:
    """List the queues: their locks and limits, and how many jobs wait and run."""
    waiting, running = (
        sa.select(sa.func.count())
        .select_from(Job)
        .where(Job.queue_id == Queue.id, Job.status == status)
        .scalar_subquery()
        for status in (Status.QUEUED, Status.RUNNING)
    )
    query = sa.select(Queue.name, Queue.is_locked, Queue.job_limit, waiting, running).where(Queue.name.is_not(None))
    with Database(settings.database_url).reading() as db:
        for name, locked, limit, queued, started in db.execute(query.order_by(Queue.name)):
            most = "" if limit is None else f" of at most {limit}"
            print(f"{name}: {queued} waiting, {started}{most} running{', locked' if locked else ''}")
    return 0


def lockqueue(settings: Settings, arguments: Arguments) -> int:
    """Lock a queue: it takes no new runs and starts none of its jobs; running jobs continue."""
    return _set_lock(settings, arguments.name, locked=True)


def unlockqueue(settings: Settings, arguments: Arguments) -> int:
    """Unlock a queue."""
    return _set_lock(settings, arguments.name, locked=False)


def _set_lock(settings: Settings, name: str, *, locked: bool) -> int:
    with Database(settings.database_url, bells=settings.data_dir).acting("admin") as db:
        queue = queues.ids(db, [name]).get(name)
        if queue is None:
            return _fail(f"Queue {name} not found.")
        queues.set_lock(db, queue, locked=locked)
    print(f"{'Locked' if locked else 'Unlocked'} {name}.")
    return 0


def sweep(settings: Settings, _arguments: Arguments) -> int:
    """Delete unreferenced contents that are older than sweep_grace, and update the statistics of the database."""
    database = Database(settings.database_url)
    store = open_store(settings.media_dir)
    swept = store.sweep(lambda digests: referenced(database, digests), settings.sweep_grace)
    analyze(database.engine)
    print(f"Deleted {swept.blobs} blobs of {swept.size} bytes and {swept.temporary} temporary files.")
    return 0


def check(settings: Settings, _arguments: Arguments) -> int:
    """Check all stored data. Prints violations of invariants; exits with status 1 if there are any."""
    with Database(settings.database_url).reading() as db:
        if not workers.heard(db):
            print(f"Warning: {workers.NOBODY} Queued jobs wait until one is: mlapi-scheduler INI.", file=sys.stderr)
    found = 0
    for violation in violations(settings):
        print(violation)
        found += 1
    print(f"{found} violation(s)." if found else "No violations.", file=sys.stderr)
    return int(bool(found))


def _password(arguments: Arguments) -> str:
    if arguments.password_file is not None:
        return Path(arguments.password_file).read_text(encoding="utf-8").partition("\n")[0]
    with warnings.catch_warnings(action="error", category=getpass.GetPassWarning):
        try:
            password, again = getpass.getpass("Password: "), getpass.getpass("Again: ")
        except (getpass.GetPassWarning, EOFError):
            words = ("createuser", arguments.name, "--role", arguments.role, "--password-file", "FILE")
            raise DomainError(
                "No terminal to ask for the password. Write it to the first line of a file, then run: "
                + command_line("mlapi-admin", "-c", arguments.config, *words)
            ) from None
    if again != password:
        raise Invalid.field("password", "The passwords do not match.")
    return password


def _ini_in(folder: str) -> str:
    return str(Path(folder).absolute() / "production.ini")


def _prepared(arguments: Arguments) -> Settings:
    return prepared(arguments.config)


def _migrated(arguments: Arguments) -> Settings:
    return prepared(arguments.config, migrate=True)


def _created(arguments: Arguments) -> Settings:
    ini = Path(_ini_in(arguments.folder))
    template = (Path(mlapi.__file__).parent / ini.name).read_text(encoding="utf-8")
    ini.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        ini.touch(0o600, exist_ok=False)
        ini.write_text(re.sub(r"(?m)^mlapi\.data_dir = .*$", "mlapi.data_dir = %(here)s/var", template), "utf-8")
        print(f"Created {ini}.")
    return prepared(str(ini), migrate=True)


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


def _days(text: str) -> float:
    """A lifetime of at least one second, in days."""
    days = float(text)
    if not 1 / DAY <= days <= LONGEST_TOKEN:
        raise argparse.ArgumentTypeError(f"must be a number of days such as 0.5, above 0 and at most {LONGEST_TOKEN}")
    return days


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    config = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    config.add_argument("-c", "--config", metavar="INI", help="the ini file of the service")
    top = argparse.ArgumentParser(
        prog="mlapi-admin",
        parents=[config],
        description="Administration of users, tokens, modules, workers, queues and stored data.",
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(
        run: Callable[[Settings, Arguments], int], read: Callable[[Arguments], Settings] = _prepared
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(run.__name__, parents=[config], help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run, read=read)
        return command

    command(init, _created).add_argument("folder")
    command(migrate, _migrated)
    user = command(createuser)
    user.add_argument("name")
    user.add_argument("--role", choices=list(Role), default=Role.USER)
    user.add_argument("--password-file", metavar="FILE", help="file with the password in its first line")
    token = command(createtoken)
    token.add_argument("name")
    token.add_argument("--days", type=_days, default=1.0, help="lifetime of the token, by default 1 day")
    command(checkuserexists).add_argument("name")
    module = command(createmodule)
    module.add_argument("name")
    module.add_argument("source", help="a folder, or a .tar.gz or .zip archive")
    command(removemodule).add_argument("name")
    command(listworkers)
    command(listqueues)
    command(lockqueue).add_argument("name")
    command(unlockqueue).add_argument("name")
    for run in LISTS:
        lists.add_options(command(run), run)
    command(sweep)
    command(check)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status is 1 for an error of the command, 2 for invalid settings or arguments."""
    top = parser()
    arguments = top.parse_args(argv)
    if "config" not in arguments and arguments.run is not init:
        top.error("the option -c INI is required: the ini file of the service")
    try:
        return int(arguments.run(arguments.read(arguments), arguments))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except Invalid as error:
        for name, description in error.errors:
            print(f"{name}: {description}", file=sys.stderr)
        return 1
    except (DomainError, OSError) as error:
        return _fail(str(error))
    except sa.exc.DBAPIError as error:
        return _fail(f"Database error: {error.orig}")


if __name__ == "__main__":
    sys.exit(main())
