"""`mlapi-scheduler INI`: claims queued jobs and runs them on this machine."""

import argparse
import signal
import sys
import threading
from typing import Any

from mlapi.cli import settings_of
from mlapi.database import Database
from mlapi.execution.executors.local import LocalExecutor
from mlapi.execution.scheduler import Scheduler
from mlapi.settings import SettingsError
from mlapi.storage import store_from


def main(argv: list[str] | None = None) -> int:
    """Schedule until SIGTERM or SIGINT; the exit status is 2 where the settings are wrong."""
    parser = argparse.ArgumentParser(prog="mlapi-scheduler", description=__doc__)
    parser.add_argument("ini", help="the ini file of the service")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does, as with its parent")
    arguments = parser.parse_args(argv)
    try:
        settings = settings_of(arguments.ini)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    settings.scratch_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    executor = LocalExecutor(settings.slots, settings.scratch_dir, settings.module_python)
    scheduler = Scheduler(settings, Database(settings.database_url), executor, store_from(str(settings.media_dir)))

    def stop(*_why: Any) -> None:
        # By another thread: the one that a signal interrupts may hold the lock of what it waits for.
        threading.Thread(target=scheduler.stop, name="stop", daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if arguments.until_eof:
        threading.Thread(target=lambda: stop(sys.stdin.read()), name="parent", daemon=True).start()
    scheduler.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
