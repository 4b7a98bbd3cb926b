"""What tools/bench tells of a measurement, and the statistics of its runs."""

from __future__ import annotations

import dataclasses
import statistics


@dataclasses.dataclass
class Result:
    """One measurement.

    Attributes:
        name: What people call it.
        what: What was measured.
        unit: For example ``"ms"``; ``"x"`` for a ratio.
        median: The middle of the runs; ``None`` if it could not be measured.
        spread: Between the quartiles.
        note: What it is compared with, or why there is no number.
        bar: What it must keep; ``None`` if there is no bar.
        at_least: Whether the bar is the least it may be, and not the most.
    """

    name: str
    what: str
    unit: str
    median: float | None
    spread: float = 0.0
    note: str = ""
    bar: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """``"ok"``, ``"MISSED"``, ``"not measured"``, or nothing where there is no bar."""
        if self.median is None:
            return "not measured"
        if self.bar is None:
            return ""
        kept = self.median >= self.bar if self.at_least else self.median <= self.bar
        return "ok" if kept else "MISSED"

    def line(self) -> str:
        """As a line of the table."""
        number = "         -"
        if self.median is not None:
            number = f"{self.median:10.2f} {self.unit:<10} ± {self.spread / 2:<7.2f}"
        sign = ">=" if self.at_least else "<="
        bar = f"{sign} {self.bar:g}" if self.bar is not None else ""
        return f"{self.what:<60}{number} {bar:<9} {self.verdict:<7} {self.note}".rstrip()


def missed(results: list[Result]) -> bool:
    """Whether a bar is missed, or what has one was not measured."""
    return any(each.bar is not None and each.verdict != "ok" for each in results)


def median_and_spread(values: list[float]) -> tuple[float, float]:
    """The middle of some values, and what is between their quartiles."""
    if len(values) < 2:
        return values[0], 0.0
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, high - low
