"""The server of `pserve`: waitress with our limits and, where the settings say so, a scheduler beside it."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import waitress

log = logging.getLogger(__name__)

AGAIN = 1.0
"""Seconds before a scheduler that ended is started again."""

LIMITS = {
    "connection_limit": "1000",  # At waitress' own 100, as many idle sockets would hang it.
    "asyncore_use_poll": "true",  # Its select() takes no more than 1,024 sockets.
    "channel_timeout": "60",
    "max_request_header_size": "32768",
    "ident": "",
    "clear_untrusted_proxy_headers": "true",
}


def serve(app: Any, global_conf: dict[str, str], **options: str) -> None:
    """Serve until told to stop; called by pserve for ``[server:main] use = egg:mlapi``.

    `MLAPI_HOST` and `MLAPI_PORT` in the environment win over the ini file.
    """
    settings = app.registry.mlapi
    environ = {name: os.environ.get(f"MLAPI_{name.upper()}") for name in ("host", "port")}
    options |= {name: value for name, value in environ.items() if value is not None}
    limits = LIMITS | {"max_request_body_size": str(settings.upload_limit + settings.body_limit)}
    family: Any = contextlib.nullcontext()
    if settings.scheduler:
        host, port = options.get("host", "127.0.0.1"), options.get("port", "8080")
        family = scheduler(global_conf["__file__"], f"http://{host}:{port}")
    signal.signal(signal.SIGTERM, _leave)
    with family:
        waitress.serve(app, **(limits | options))


def _leave(*_signal: Any) -> None:
    """End as at Ctrl-C: waitress answers what it is at, for 5 seconds at most, and takes nothing more."""
    sys.exit(0)


@contextlib.contextmanager
def scheduler(ini: str, url: str) -> Iterator[None]:
    """Keep a scheduler running beside this process, which ends with it, whatever ends it.

    The scheduler ends when its standard input does, and that is a pipe which only this process holds.
    """
    ended = threading.Event()
    child: list[subprocess.Popen[bytes]] = []

    def keep() -> None:
        while not ended.is_set():
            command = [sys.executable, "-m", "mlapi.cli.scheduler", "--until-eof", ini]
            child[:] = [subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "MLAPI_URL": url})]
            status = child[0].wait()
            if not ended.is_set():
                log.error("The scheduler ended with status %d and is started again.", status)
            ended.wait(AGAIN)

    thread = threading.Thread(target=keep, name="scheduler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        if child:
            child[0].terminate()
        thread.join(timeout=10)
