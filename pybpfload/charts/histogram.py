"""Histograms: from the slots that programs count in, as text, as SVG, and their percentiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.charts.svg import FONT_SIZE, LETTER, document, escape, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Slots = Mapping[Any, Any] | Sequence[Any]
    """Count by number of a slot; a count per CPU is a list."""

__all__ = ["Bucket", "Histogram", "by_key"]

_STARS = 40  # of the longest bar, as bcc
_AT_SIGNS = 52  # as bpftrace
_MOST_BUCKETS = 10_000
_LAST_LOG2 = 127
_SUFFIXES = "KMGTPE"


class Bucket(NamedTuple):
    """Values of which one number is known: how many there were.

    Attributes:
        low: The lowest of them.
        high: The lowest of the next bucket.
        values: How many.
    """

    low: int
    high: int
    values: int


class Histogram:
    """Buckets without gaps, from the lowest that holds anything to the highest.

    Made by :meth:`log2` or :meth:`linear` from an array or hash of counts, of one CPU or all.

    Args:
        buckets: The buckets, lowest first.
        unit: What the values are, for example ``"ns"``; may be empty.
        title: What is shown above.

    Attributes:
        buckets, unit, title: As given.
    """

    def __init__(self, buckets: Iterable[Bucket], *, unit: str = "", title: str = "") -> None:
        self.buckets = tuple(buckets)
        self.unit = unit
        self.title = title

    @classmethod
    def log2(cls, slots: Slots, *, unit: str = "", title: str = "", first: int = 0) -> Histogram:
        """A histogram whose buckets double.

        Args:
            slots: Counts: slot ``first`` for 0 and 1, the next for 2 and 3, then 4 to 7, 8 to 15,
                ... A map, a dictionary, or a list as in a record.
            unit: What the values are.
            title: What is shown above.
            first: Number of the slot for 0 and 1: 0 if programs count by the highest bit that is
                set (libbpf-tools), 1 if they count by the number of bits (``bpf_log2l()`` of bcc),
                where slot 0 is never used or counts zeros.

        Raises:
            ValueError: A slot is negative or above 127, or a count is.
        """
        found: dict[int, int] = {}
        for slot, count in _counts(slots).items():
            if slot - first > _LAST_LOG2:
                raise ValueError(f"slot {slot} of a log2 histogram would be for 2**{slot - first}")
            power = max(slot - first, 0)
            found[power] = found.get(power, 0) + count
        return cls(
            [
                Bucket(1 << power if power else 0, 2 << power, found.get(power, 0))
                for power in _between(found)
            ],
            unit=unit,
            title=title,
        )

    @classmethod
    def linear(
        cls, slots: Slots, *, step: int = 1, start: int = 0, unit: str = "", title: str = ""
    ) -> Histogram:
        """A histogram whose buckets are equally wide.

        Args:
            slots: Counts: slot 0 for ``start`` to ``start + step - 1``, and so on. A map, a
                dictionary, or a list as in a record.
            step: Width of a bucket.
            start: Lowest value of slot 0.
            unit: What the values are.
            title: What is shown above.

        Raises:
            ValueError: A slot or count is negative, ``step`` is not positive, or there would be
                more than 10,000 buckets.
        """
        if step < 1:
            raise ValueError(f"buckets of a width of {step}")
        found = _counts(slots)
        slots_shown = _between(found)
        if len(slots_shown) > _MOST_BUCKETS:
            raise ValueError(f"{len(slots_shown)} buckets; choose a larger step")
        return cls(
            [
                Bucket(start + slot * step, start + (slot + 1) * step, found.get(slot, 0))
                for slot in slots_shown
            ],
            unit=unit,
            title=title,
        )

    @property
    def total(self) -> int:
        """How many values there were."""
        return sum(bucket.values for bucket in self.buckets)

    def percentile(self, percent: float) -> float | None:
        """An estimate of the value that so many percent of all values are not above.

        Values are taken to lie evenly in their bucket, so the answer is in the right bucket: for
        log2 buckets it is off by less than a factor of two.

        Args:
            percent: 0 to 100; 50 is the median.

        Returns:
            The estimate; ``None`` if there are no values.

        Raises:
            ValueError: ``percent`` is not a percentage.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"{percent} percent")
        wanted, seen = self.total * percent / 100, 0
        for bucket in self.buckets:
            if bucket.values and seen + bucket.values >= wanted:
                return bucket.low + (bucket.high - bucket.low) * (wanted - seen) / bucket.values
            seen += bucket.values
        return None

    def mean(self) -> float | None:
        """An estimate of the mean, as :meth:`percentile` makes it; ``None`` without values."""
        total = self.total
        if not total:
            return None
        return (
            sum((bucket.low + bucket.high) / 2 * bucket.values for bucket in self.buckets) / total
        )

    def text(self, style: str = "bcc") -> str:
        """Lines of ranges, counts and bars.

        Args:
            style: ``"bcc"`` (``4 -> 7``, bars of stars) or ``"bpftrace"`` (``[4, 8)``, bars of
                ``@``, K for 1024).

        Returns:
            Text that ends with a new line; empty if there are no values and no title.
        """
        if style not in ("bcc", "bpftrace"):
            raise ValueError(f"style {style!r}; there are 'bcc' and 'bpftrace'")
        lines = [self.title] if self.title else []
        if self.buckets:
            lines += self._bcc() if style == "bcc" else self._bpftrace()
        return "".join(f"{line}\n" for line in lines)

    def _bcc(self) -> list[str]:
        width = max(len(str(self.buckets[-1].high - 1)), 5)
        counts = max(len(str(max(bucket.values for bucket in self.buckets))), 8)
        head = f"     {self.unit or 'value'}"
        lines = [f"{head:<{2 * width + 4}} : {'count':<{counts}} distribution"]
        for bucket, bar in zip(self.buckets, self._bars(_STARS), strict=True):
            stars = "*" * int(bar)
            lines.append(
                f"{bucket.low:>{width}} -> {bucket.high - 1:<{width}} : {bucket.values:<{counts}} "
                f"|{stars:<{_STARS}}|"
            )
        return lines

    def _bpftrace(self) -> list[str]:
        names = [f"[{_short(low)}, {_short(high)})" for low, high, _ in self.buckets]
        width = max(16, *map(len, names))
        lines = [f"@{self.unit}:"] if self.unit else []
        for name, bucket, bar in zip(names, self.buckets, self._bars(_AT_SIGNS), strict=True):
            lines.append(f"{name:<{width}} {bucket.values:>8} |{'@' * int(bar):<{_AT_SIGNS}}|")
        return lines

    def _bars(self, longest: float) -> list[float]:
        most = max(bucket.values for bucket in self.buckets) or 1
        return [longest * bucket.values / most for bucket in self.buckets]

    def svg(self, *, width: int = 640) -> str:
        """A bar for each bucket, lying, with its range and count; one file that needs nothing else.

        Args:
            width: Of the picture in pixels.
        """
        row, head, margin = 20, 40, 10
        names = [f"{low:,} – {high - 1:,}" for low, high, _ in self.buckets]
        counts = [f"{bucket.values:,}" for bucket in self.buckets]
        left = margin + LETTER * max(map(len, names), default=0) + 8
        room = width - left - margin - LETTER * max(map(len, counts), default=0) - 8
        bars = self._bars(max(room, 1)) if self.buckets else []
        shown = self.title or "Histogram"
        shown = f"{shown} ({self.unit})" if self.unit else shown
        body = [f'<text class="head" x="{margin}" y="24">{escape(shown)}</text>']
        unit = f" {self.unit}" if self.unit else ""
        total = self.total
        for index, (bucket, bar) in enumerate(zip(self.buckets, bars, strict=True)):
            top = head + index * row
            share = 100 * bucket.values / total if total else 0.0
            told = escape(f"{names[index]}{unit}: {counts[index]} ({share:.2f}%)")
            y = top + (row + FONT_SIZE) // 2 - 2
            body.append(
                f'<g role="img" aria-label="{told}"><title>{told}</title>'
                f'<text x="{number(left - 8)}" y="{y}" text-anchor="end">{names[index]}</text>'
                f'<rect x="{number(left)}" y="{top + 2}" width="{number(bar)}" height="{row - 4}" '
                f'fill="#3b78b5"/>'
                f'<text x="{number(left + bar + 6)}" y="{y}">{counts[index]}</text></g>'
            )
        height = head + len(self.buckets) * row + 28
        body.append(f'<text x="{margin}" y="{height - 10}">{escape(self._summary())}</text>')
        return document(width, height, shown, self._summary(), body, ".head { font-size: 16px }")

    def _summary(self) -> str:
        total = self.total
        if not total:
            return "no values"
        unit = f" {self.unit}" if self.unit else ""
        estimates = [f"p{p} ≈ {self.percentile(p):,.0f}{unit}" for p in (50, 90, 99)]
        return f"{total:,} values; {', '.join(estimates)}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return (self.buckets, self.unit, self.title) == (other.buckets, other.unit, other.title)

    def __hash__(self) -> int:
        return hash((self.buckets, self.unit, self.title))

    def __repr__(self) -> str:
        what = f" {self.title!r}" if self.title else ""
        return f"<Histogram{what}: {self._summary()}>"


def by_key(counts: Mapping[Any, Any], *, slot: str = "slot") -> dict[Any, dict[int, Any]]:
    """Split a map whose keys hold a slot: one histogram for each of what else is in the keys.

    Args:
        counts: Map or dictionary; its keys are records (with ``_fields``), one field is the slot.
        slot: The field.

    Returns:
        Counts by slot, for :meth:`Histogram.log2` or :meth:`Histogram.linear`, by the rest of the
        key: the other field, or a tuple of the others if there are several.

    Raises:
        ValueError: A key has no such field.
    """
    found: dict[Any, dict[int, Any]] = {}
    for key, count in counts.items():
        fields = getattr(key, "_fields", ())
        if slot not in fields:
            raise ValueError(f"key {key!r} has no field {slot!r}")
        rest = tuple(getattr(key, name) for name in fields if name != slot)
        found.setdefault(rest[0] if len(rest) == 1 else rest, {})[getattr(key, slot)] = count
    return found


def _counts(slots: Slots) -> dict[int, int]:
    """Counts by slot, those of all CPUs added, without those that are 0."""
    pairs = slots.items() if isinstance(slots, Mapping) else enumerate(slots)
    found = {}
    for slot, count in pairs:
        added = sum(count) if isinstance(count, (list, tuple)) else count
        if slot < 0 or added < 0:
            raise ValueError(f"slot {slot} with a count of {added}")
        if added:
            found[int(slot)] = int(added)
    return found


def _between(found: Mapping[int, int]) -> range:
    return range(min(found), max(found) + 1) if found else range(0)


def _short(value: int) -> str:
    """As bpftrace: multiples of 1024 with a letter."""
    power = 0
    while value and value % 1024 == 0 and power < len(_SUFFIXES):
        value //= 1024
        power += 1
    return f"{value}{_SUFFIXES[power - 1]}" if power else str(value)
