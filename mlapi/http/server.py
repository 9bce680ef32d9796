"""The server of `pserve`: waitress with the limits of the service and, if configured, a scheduler process."""

import contextlib
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import waitress
from pyramid.router import Router

from mlapi.settings import SettingsError

log = logging.getLogger(__name__)

RESTART = 1.0
"""Seconds before a scheduler that ended is restarted."""

LIMITS = {
    "connection_limit": "1000",  # With waitress' default, 100 idle connections block the server.
    "asyncore_use_poll": "true",  # select() supports at most 1024 sockets.
    "channel_timeout": "60",
    "max_request_header_size": "32768",
    "ident": "",
    "clear_untrusted_proxy_headers": "true",
}

ELSEWHERE = ("host", "port", "listen", "unix_socket", "threads")
"""Options of waitress that are settings of mlapi instead: the scheduler or the application needs them too."""


def serve(app: Router, global_conf: dict[str, str], **options: str) -> None:
    """Serve until SIGTERM; called by pserve for ``[server:main] use = egg:mlapi``.

    `options` are options of waitress; the address comes from the settings. Raises `SettingsError` for an address
    among the options.
    """
    for name in ELSEWHERE:
        if name in options:
            raise SettingsError(
                f"[server:main] cannot have the option {name}: set mlapi.host and mlapi.port in [app:main]."
            )
    settings = app.registry.mlapi
    largest = max(settings.upload_limit, settings.report_limit, settings.log_piece_limit) + settings.body_limit
    limits = LIMITS | {"max_request_body_size": str(largest)}
    app.registry.database.share(settings.threads)
    family = scheduler(global_conf["__file__"]) if settings.scheduler else contextlib.nullcontext()
    signal.signal(signal.SIGTERM, _exit)
    with family:
        waitress.serve(app, **(limits | options), host=settings.host, port=settings.port, threads=settings.threads)


def _exit(*_signal: object) -> None:
    """Exit as on Ctrl-C: waitress completes the current requests, for at most 5 seconds."""
    sys.exit(0)


@contextlib.contextmanager
def scheduler(ini: str) -> Iterator[None]:
    """Run a scheduler process and restart it if it ends; it ends with this process, even if this process is killed.

    The scheduler ends at the end of its standard input, which is a pipe that only this process holds.
    """
    stopping = threading.Event()
    child: list[subprocess.Popen[bytes]] = []

    def supervise() -> None:
        while not stopping.is_set():
            command = [sys.executable, "-m", "mlapi.cli.scheduler", "--until-eof", ini]
            child[:] = [subprocess.Popen(command, stdin=subprocess.PIPE)]
            status = child[0].wait()
            if not stopping.is_set():
                log.error("The scheduler ended with exit status %d and is restarted.", status)
            stopping.wait(RESTART)

    thread = threading.Thread(target=supervise, name="scheduler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        if child:
            child[0].terminate()
        thread.join(timeout=10)
