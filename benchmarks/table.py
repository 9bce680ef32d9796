"""The table of results."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from statistics import median

HEADINGS = ("what", "measured", "yardstick", "ratio", "goal", "stretch", "met")
MIB = 1024 * 1024


@dataclass(frozen=True)
class Row:
    """A row: a figure, its yardstick and its goals; empty where not applicable."""

    what: str
    measured: str
    yardstick: str = ""
    ratio: str = ""
    goal: str = ""
    stretch: str = ""
    met: str = ""


def at_least(what: str, rounds: list[tuple[float, float]], goal: float, stretch: float | None = None) -> Row:
    """A row of rates, from pairs of service and yardstick per round; the ratio is the median of the ratios."""
    ratios = [ours / bare for ours, bare in rounds]
    ratio = median(ratios)
    met = "stretch" if stretch is not None and ratio >= stretch else "yes" if ratio >= goal else "no"
    ours, bare = (f"{median(rates):.0f}/s" for rates in zip(*rounds, strict=True))
    spread = f"{ratio:.3f} ({min(ratios):.2f}-{max(ratios):.2f})"
    return Row(what, ours, bare, spread, f">= {goal:.2f}", "" if stretch is None else f">= {stretch:.2f}", met)


def at_least_per_second(what: str, rounds: list[tuple[float, float]], goal: float) -> Row:
    """A row of rates whose median must be at least the goal; the ratio to the yardstick is for comparison."""
    ours, bare = (median(rates) for rates in zip(*rounds, strict=True))
    ratio = median(mine / theirs for mine, theirs in rounds)
    met = "yes" if ours >= goal else "no"
    return Row(what, f"{ours:.1f}/s", f"{bare:.1f}/s", f"{ratio:.3f}", f">= {goal:.0f}/s", "", met)


def at_most(what: str, seconds: list[float], goal: float, bare: list[float] | None = None) -> Row:
    """A row of times, whose median must be at most the goal; the yardstick is for comparison."""
    if bare is None:
        yardstick = ratio = ""
    else:
        yardstick = shown(median(bare))
        ratio = f"{median(ours / theirs for ours, theirs in zip(seconds, bare, strict=True)):.1f}"
    met = "yes" if median(seconds) <= goal else "no"
    return Row(what, shown(median(seconds)), yardstick, ratio, f"<= {shown(goal)}", "", met)


def on_top(what: str, rounds: list[tuple[float, float]], goal: float) -> Row:
    """A row of times, from pairs of service and yardstick per round; the difference is compared with the goal."""
    more = median(ours - bare for ours, bare in rounds)
    ours, bare = (shown(median(times)) for times in zip(*rounds, strict=True))
    return Row(what, ours, bare, f"+{shown(more)}", f"<= +{shown(goal)}", "", "yes" if more <= goal else "no")


def grows(what: str, size: int, goal: int) -> Row:
    """A row of an increase of memory, which must be below the goal."""
    met = "yes" if size < goal else "no"
    return Row(what, f"+{size / MIB:.1f} MiB", goal=f"< {goal // MIB} MiB", met=met)


def shown(seconds: float) -> str:
    """A time, as text."""
    return f"{seconds * 1000:.0f} ms"


def render(rows: Iterable[Row]) -> str:
    """The table as text, with the first column aligned left and the others right."""
    cells = [HEADINGS, *(astuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = tuple("-" * width for width in widths)
    return "\n".join(_line(line, widths) for line in (cells[0], rule, *cells[1:]))


def _line(line: tuple[str, ...], widths: list[int]) -> str:
    first, *others = zip(line, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()
