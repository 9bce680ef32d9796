"""A client that repeats a GET and prints its rate: `python -m benchmarks.load PORT PATH SECONDS TOKEN`."""

import sys
import time

from benchmarks.client import Connection


def main() -> None:
    """Print the requests per second."""
    port, path, seconds, token = sys.argv[1:]
    with Connection(int(port), token) as api:
        request = api.request("GET", path)
        api.send(request)
        count, begun = 0, time.perf_counter()
        while (spent := time.perf_counter() - begun) < float(seconds):
            api.send(request)
            count += 1
    print(count / spent)


if __name__ == "__main__":
    main()
