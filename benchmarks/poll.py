"""Clients that get every path once a second: `python -m benchmarks.poll PORT CLIENTS TOKEN PATH…`."""

import sys
import time

from benchmarks.client import Connection


def main() -> None:
    """Poll until the process is terminated."""
    port, clients, token, *paths = sys.argv[1:]
    connections = [Connection(int(port), token) for _ in range(int(clients))]
    requests = [connections[0].request("GET", path) for path in paths]
    due = time.monotonic()
    while True:
        for connection in connections:
            for request in requests:
                connection.send(request)
            due += 1 / len(connections)
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
