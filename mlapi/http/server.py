"""The server of `pserve`: waitress with the limits of the service and, if configured, a scheduler process."""

import contextlib
import ctypes
import functools
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from pyramid.router import Router
from waitress import wasyncore
from waitress.server import BaseWSGIServer, create_server

from mlapi.http.channel import Channel
from mlapi.http.processes import RESTART, Family, await_end
from mlapi.settings import Settings, SettingsError, whole

log = logging.getLogger(__name__)

IDLE = 2.0
"""Seconds for which a server that drains keeps idle connections open, because their next requests may be on the way."""

HANDSHAKES = 1.0
"""Seconds for which a server that drains completes connections that are being established."""

SO_ATTACH_FILTER = 26
ONLY_ESTABLISHED = (
    (0x30, 0, 0, 13),  # Load the byte of flags of the TCP header,
    (0x54, 0, 0, 0x12),  # of which only SYN and ACK matter.
    (0x15, 0, 1, 0x02),  # If SYN is set without ACK,
    (0x06, 0, 0, 0),  # drop the packet,
    (0x06, 0, 0, 0xFFFFFFFF),  # otherwise keep it.
)
"""A filter of packets (classic BPF) that drops requests for new connections."""

FIRST_PASSED = 3
"""The number of the first file descriptor that systemd passes."""

LIMITS = {
    "connection_limit": "1000",  # With waitress' default, 100 idle connections block the server.
    "asyncore_use_poll": "true",  # select() supports at most 1024 sockets.
    "channel_timeout": "60",
    "max_request_header_size": "32768",
    "max_request_body_size": str(sys.maxsize),  # The application decides, by the head of the request.
    "ident": "",
    "clear_untrusted_proxy_headers": "true",
}

ELSEWHERE = ("host", "port", "listen", "unix_socket", "threads")
"""Options of waitress that are settings of mlapi instead, because other parts need them too."""


def serve(app: Router, global_conf: dict[str, str], **options: str) -> None:
    """Serve until SIGTERM or SIGINT; called by pserve for ``[server:main] use = egg:mlapi``.

    `options` are options of waitress, and `processes`; address and threads come from the settings. Raises
    `SettingsError` for one of these among the options, and for an address that cannot be used.
    """
    for name in ELSEWHERE:
        if name in options:
            where = "mlapi.threads" if name == "threads" else "mlapi.host and mlapi.port"
            raise SettingsError(f"[server:main] cannot have the option {name}: set {where} in [app:main].")
    settings, processes = app.registry.mlapi, _count(options.pop("processes", "1"))
    logging.basicConfig()  # Has no effect if pserve has configured logging.
    # A request that waits for a thread is not worth a warning: under load, most do.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    app.registry.database.share(settings.threads)
    sockets = inherited()
    shared = bool(sockets)
    sockets = sockets or bind(settings.host, settings.port)
    command = scheduler_command(global_conf["__file__"]) if settings.scheduler else None
    if processes == 1:
        server = Server(app, settings, options, sockets, shared=shared)
        signal.signal(signal.SIGTERM, server.stop)
        signal.signal(signal.SIGINT, server.stop)
        with contextlib.nullcontext() if command is None else scheduler(command):
            server.run()
        return
    app.registry.database.engine.dispose()  # A connection belongs to one process.

    def leave() -> float:
        seconds = 0.0 if shared else close_door(sockets)
        for listening in sockets:
            listening.close()  # The servers have their own descriptors.
        return seconds

    lifeline = Family(processes, command, leave).run()
    if lifeline is not None:
        server = Server(app, settings, options, sockets, shared=True)
        threading.Thread(target=await_end, args=(lifeline, server.stop), name="parent", daemon=True).start()
        server.run()


def _count(processes: str) -> int:
    """The number of processes. Raises `SettingsError`."""
    try:
        return whole(processes)
    except ValueError as error:
        raise SettingsError(f"[server:main] processes: {processes!r} {error}") from None


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket for every address of a host. Raises `SettingsError` for an address that cannot be used."""
    sockets = []
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            made = socket.socket(family, kind, protocol)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(address)
            sockets.append(made)
    except OSError as error:
        raise SettingsError(f"mlapi.host and mlapi.port: {host}:{port} is not usable: {error.strerror}.") from None
    return sockets


def inherited() -> list[socket.socket]:
    """Return the listening sockets that the parent process has passed, according to the protocol of systemd.

    They outlive this process: other processes can share them, and connections wait in them during a restart.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    sockets = [socket.socket(fileno=FIRST_PASSED + number) for number in range(int(os.environ["LISTEN_FDS"]))]
    for passed in sockets:
        passed.set_inheritable(False)
    return sockets


def ignore_new(listening: socket.socket) -> None:
    """Have the kernel drop requests for new connections, whose clients repeat them after a second.

    Connections that are being established are completed, unlike by a queue of length zero. Only Linux has such filters.
    """
    if sys.platform != "linux":
        return
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in ONLY_ESTABLISHED)
    buffer = ctypes.create_string_buffer(program)
    filter_ = struct.pack("@HP", len(ONLY_ESTABLISHED), ctypes.addressof(buffer))
    with contextlib.suppress(OSError):  # Without the filter, connections that come at the last moment are reset.
        listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)


def close_door(sockets: list[socket.socket]) -> float:
    """Have new connections dropped; returns the seconds for which others are still established."""
    for listening in sockets:
        ignore_new(listening)
    return HANDSHAKES


class Server:
    """waitress, which drains before it ends: it completes the requests that it has accepted.

    Sockets are `shared` if other processes accept connections from them.
    """

    def __init__(
        self, app: Router, settings: Settings, options: dict[str, str], sockets: list[socket.socket], *, shared: bool
    ) -> None:
        self.draining = False
        self._patience = settings.drain_timeout
        self._map: dict[int, wasyncore.dispatcher] = {}
        limits = LIMITS | {"threads": str(settings.threads)}
        self._shared = shared
        self._waitress = create_server(app, self._map, sockets=sockets, **(limits | options))
        self._listeners = [item for item in self._map.values() if isinstance(item, BaseWSGIServer)]
        for listener in self._listeners:
            listener.channel_class = functools.partial(Channel, self)
        self._waitress.print_listen("Serving on http://{}:{}")

    def stop(self, *_signal: object) -> None:
        """Begin to drain; a second signal ends the process at once."""
        if self.draining:
            sys.exit(1)
        self.draining = True
        self._listeners[0].pull_trigger()

    def run(self) -> None:
        """Serve until `stop`, then drain."""
        while not self.draining:
            self._poll(1.0)
        self._drain()

    def _poll(self, seconds: float) -> None:
        """Handle what happens next."""
        wasyncore.loop(seconds, self._waitress.adj.asyncore_use_poll, self._map, count=1)

    def _drain(self) -> None:
        """Accept no new connections, and complete the requests of the others, for at most `drain_timeout` seconds."""
        began = time.monotonic()
        self._complete_handshakes()
        while (channels := self._channels()) and time.monotonic() < began + self._patience:
            if time.monotonic() > began + IDLE:
                for channel in channels:
                    channel.will_close = channel.will_close or channel.idle
            self._poll(0.1)
        if channels:
            log.warning("%d connections are closed before their requests have completed.", len(channels))
        self._waitress.task_dispatcher.shutdown(timeout=1)

    def _complete_handshakes(self) -> None:
        """Close the listening sockets, without the reset of a connection that is established or about to be.

        The connections in a shared socket are left to the other processes.
        """
        if not self._shared:
            end = time.monotonic() + close_door([listener.socket for listener in self._listeners])
            while time.monotonic() < end:
                self._poll(0.1)
        for listener in self._listeners:
            wasyncore.dispatcher.close(listener)  # Only its socket: the threads still use its trigger.

    def _channels(self) -> list[Channel]:
        return [item for item in self._map.values() if isinstance(item, Channel)]


def scheduler_command(ini: str) -> tuple[str, ...]:
    """The command of a scheduler, which ends at the end of its standard input."""
    return (sys.executable, "-m", "mlapi.cli.scheduler", "--until-eof", ini)


@contextlib.contextmanager
def scheduler(command: Sequence[str]) -> Iterator[None]:
    """Run a scheduler process and restart it if it ends; it ends with this process, even if this process is killed.

    The scheduler ends at the end of its standard input, which is a pipe that only this process holds.
    """
    stopping = threading.Event()
    child: list[subprocess.Popen[bytes]] = []

    def supervise() -> None:
        while not stopping.is_set():
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
