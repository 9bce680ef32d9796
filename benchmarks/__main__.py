"""Run all or selected benchmarks and print a table. The exit status does not depend on the figures."""

import argparse
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable

from benchmarks import claims, growth, jobs, rates, startup, transfers, worst
from benchmarks.table import Row, render
from mlapi.database import sqlite_driver

BENCHMARKS: dict[str, Callable[[float], list[Row]]] = {
    "get": rates.get,
    "list": rates.listing,
    "create": rates.create,
    "concurrent": rates.concurrent,
    "processes": rates.processes,
    "polling": rates.polling,
    "start": jobs.start,
    "life": jobs.life,
    "cancel": jobs.cancel,
    "jobs": jobs.rate,
    "reuse": jobs.reuse,
    "files": transfers.files,
    "small": transfers.small,
    "pserve": startup.pserve,
    "worst": worst.requests,
    "growth": growth.growth,
    "claims": claims.claims,
}

LONG = {"growth", "claims"}
"""Benchmarks that take minutes, and are run only by name."""

QUIET = 0.3
"""Load per core up to which a machine counts as idle."""


def main() -> int:
    """Run benchmarks; the exit status is 1 if one could not run, 2 for invalid arguments."""
    arguments = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Exit through `finally`, which stops the servers.
    if unknown := sorted(set(arguments.names) - BENCHMARKS.keys()):
        print(f"Unknown benchmark: {', '.join(unknown)}. Benchmarks: {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    print(machine(), flush=True)
    rows, failed = [], 0
    for name in arguments.names or [name for name in BENCHMARKS if name not in LONG]:
        print(f"Measuring {name} …", file=sys.stderr, flush=True)
        try:
            rows += BENCHMARKS[name](arguments.seconds)
        except Exception as error:  # noqa: BLE001 - the others can still run
            traceback.print_exc()
            rows.append(Row(name, "could not run", met=type(error).__name__))
            failed = 1
    print(f"\n{render(rows)}\n\nOnly ratios within one run are meaningful.")
    return failed


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; by default all except {', '.join(LONG)}"
    )
    made.add_argument("--seconds", type=float, default=1.0, help="length of a round of requests (default 1)")
    return made


def machine() -> str:
    """A description of the machine and its load."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    words = (
        f"{cores} cores ({platform.machine()}), "
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"SQLite {sqlite_driver().sqlite_version}, load {load:.2f}"
    )
    if load > QUIET * cores:
        words += "\nWARNING: the machine is busy; absolute figures are low, and ratios are uncertain."
    return words


if __name__ == "__main__":
    sys.exit(main())
