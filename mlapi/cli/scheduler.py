"""`mlapi-scheduler INI`: claims queued jobs and runs them on this machine."""

import argparse
import signal
import sys
import threading

from mlapi.cli import prepared
from mlapi.database import Database
from mlapi.execution.executors.local import LocalExecutor
from mlapi.execution.probe import NoService, ServiceCheck, wait_for_service
from mlapi.execution.scheduler import Scheduler
from mlapi.resources import TREE
from mlapi.settings import Settings, SettingsError
from mlapi.storage import open_store


def main(argv: list[str] | None = None) -> int:
    """Schedule until SIGTERM or SIGINT.

    The exit status is 2 if the settings are not valid, the database is not at the newest revision, or no service
    answers at `mlapi.url`.
    """
    parser = argparse.ArgumentParser(prog="mlapi-scheduler", description=__doc__)
    parser.add_argument("ini", help="the ini file of the service")
    parser.add_argument("--until-eof", action="store_true", help="exit at the end of standard input")
    arguments = parser.parse_args(argv)
    try:
        settings = prepared(arguments.ini)
        scheduler = _scheduler(settings)
    except (SettingsError, OSError) as error:
        print(error, file=sys.stderr)
        return 2

    def stop(*_signal: object) -> None:
        # In another thread: the interrupted one may hold a lock that `stop` needs.
        threading.Thread(target=scheduler.stop, name="stop", daemon=True).start()

    def stop_at_eof() -> None:
        sys.stdin.read()
        scheduler.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if arguments.until_eof:
        threading.Thread(target=stop_at_eof, name="parent", daemon=True).start()
    try:
        wait_for_service(settings.url, scheduler.stopping)
    except NoService as error:
        print(error, file=sys.stderr)
        scheduler.close()
        return 2
    scheduler.run()
    return 0


def _scheduler(settings: Settings) -> Scheduler:
    settings.scratch_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Scheduler(
        settings,
        Database(settings.database_url, timeout=settings.database_timeout),
        LocalExecutor(settings.scratch_dir, settings.module_python),
        open_store(settings.media_dir),
        lambda attempt_id: settings.url + TREE.path("attempt", {"attempt": attempt_id}),
        ServiceCheck(settings.url).answers,
    )


if __name__ == "__main__":
    sys.exit(main())
