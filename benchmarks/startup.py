"""The time from `pserve` to the first response."""

import time

from benchmarks.client import Connection
from benchmarks.service import HOME, Service, temporary_folder, yardstick
from benchmarks.table import Row, at_most

ROUNDS = 5


def pserve(_seconds: float) -> list[Row]:
    """Measure the start of the service with its scheduler until its first response, against that of the yardstick."""
    ours, theirs = [], []
    with temporary_folder() as folder:
        service = Service(folder, scheduler=True)
        with service.serve(), service.log_in() as api:
            token = api.token
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            with yardstick(folder) as bare:
                bare.call("GET", "/bare")
                theirs.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            with service.serve(), Connection(service.port, token) as api:
                api.call("GET", HOME)
                ours.append(time.perf_counter() - begun)
    return [at_most("pserve, until its first answer", ours, 2.0, theirs)]
