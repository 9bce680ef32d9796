"""Runs the benchmarks, all or those that are named, and prints one table. Figures never make it fail."""

import argparse
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable

from benchmarks import jobs, rates, startup, transfers
from benchmarks.table import Row, render
from mlapi.database import sqlite_driver

BENCHMARKS: dict[str, Callable[[float], list[Row]]] = {
    "get": rates.get,
    "list": rates.listing,
    "create": rates.create,
    "start": jobs.start,
    "life": jobs.life,
    "files": transfers.files,
    "pserve": startup.pserve,
}

QUIET = 0.3
"""Load for each core up to which a machine counts as quiet."""


def main() -> int:
    """Run what was asked for; the exit status is 1 where a benchmark could not run."""
    arguments = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that what was started is stopped.
    if unknown := sorted(set(arguments.names) - BENCHMARKS.keys()):
        print(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    print(machine(), flush=True)
    rows, failed = [], 0
    for name in arguments.names or BENCHMARKS:
        print(f"Measuring {name} …", file=sys.stderr, flush=True)
        try:
            rows += BENCHMARKS[name](arguments.seconds)
        except Exception as error:  # noqa: BLE001 - the others can still run
            traceback.print_exc()
            rows.append(Row(name, "could not run", met=type(error).__name__))
            failed = 1
    print(f"\n{render(rows)}\n\nOnly ratios within one run mean anything.")
    return failed


def parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    made.add_argument("--seconds", type=float, default=1.0, help="length of a round of requests (default 1)")
    return made


def machine() -> str:
    """On what it is measured, and how much else goes on there."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    words = (
        f"{cores} cores ({platform.machine()}), "
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"SQLite {sqlite_driver().sqlite_version}, load {load:.2f}"
    )
    if load > QUIET * cores:
        words += "\nWARNING: other work is going on here; absolute figures are low, and ratios uncertain."
    return words


if __name__ == "__main__":
    sys.exit(main())
