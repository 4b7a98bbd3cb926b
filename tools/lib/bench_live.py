"""What tools/bench measures on the machine's own kernel, beside what others make of the same.

Each round asks every peer once, in turn, so that a busy machine slows all; ratios are taken within
a round.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bench_peer import expected
from bench_peers import BCC, CTYPES, OWN, C, Peer, started
from bench_result import Result, median_and_spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_RECORDS = 200_000
_ENTRIES = 100_000
_LOOKUPS = 20_000
_GROWTH = 10_000_000
_MILLION = 1e6


def _seconds(peer: Peer, job: str, count: int, total: int | None) -> float:
    """Have a job done once, and see that it was done."""
    told = peer.ask(job, count)
    wanted = (count, told["total"] if total is None else total)
    if (told["events"], told["total"]) != wanted:
        raise RuntimeError(f"{peer.name}: {job} gave {told}, not {wanted}")
    seconds: float = told["seconds"]
    return seconds


def _rounds(
    asked: dict[str, tuple[Peer | str, str]],
    count: int,
    total: int | None,
    runs: int,
    pause: float = 0.0,
) -> dict[str, list[float]]:
    """Seconds by name for each round; names whose peer is missing are left out."""
    there = {name: (peer, job) for name, (peer, job) in asked.items() if isinstance(peer, Peer)}
    found: dict[str, list[float]] = {name: [] for name in there}
    for number in range(runs + 1):  # the first fills caches
        for name, (peer, job) in there.items():
            time.sleep(pause)
            seconds = _seconds(peer, job, count, total)
            if number:
                found[name].append(seconds)
    return found


def _ratios(over: list[float], under: list[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]


def _rates(seconds: list[float], count: int) -> tuple[float, float]:
    return median_and_spread([count / each / _MILLION for each in seconds])


def _reason(peer: Peer | str) -> str:
    return peer if isinstance(peer, str) else peer.name


def _ring(runs: int) -> Iterator[Result]:
    with started(OWN, CTYPES, BCC, C) as peers:
        asked = {name: (peer, "records") for name, peer in peers.items()}
        asked |= {job: (peers[OWN], job) for job in ("structs", "numpy")}
        asked |= {"fastest": (peers[CTYPES], "fastest")}
        found = _rounds(asked, _RECORDS, expected(_RECORDS), runs)
        title = "ring buffer, "
        yield from _rates_of("ring", title, found, peers, _RECORDS)
        what = f"{title}{OWN}, batches of structures"
        yield _rate("ring", what, found, "structs", peers[OWN])
        what = f"{title}{CTYPES}, from_address()"
        yield _rate("ring", what, found, "fastest", peers[CTYPES])
        what = f"{title}typed records, times "
        yield _times("ring", what + CTYPES, found, CTYPES, peers, bar=1.5)
        yield _times("ring", what + BCC, found, BCC, peers)
        yield _times("ring", what + "from_address()", found, "fastest", peers)
        what = f"{title}structures, times from_address()"
        yield _times("ring", what, found, "fastest", peers, own="structs")
        bar, note = 10.0, "10 million"
        if C in found:
            half = _rates(found[C], _RECORDS)[0] / 2
            bar, note = min((bar, note), (half, "half of libbpf in C"))
        what = "ring buffer, batches into numpy arrays"
        rates = _rates(found["numpy"], _RECORDS)
        yield Result("ring", what, "M/s", *rates, note, bar, at_least=True)


def _perf(runs: int) -> Iterator[Result]:
    with started(OWN, CTYPES, C) as peers:
        asked = {name: (peer, "samples") for name, peer in peers.items()}
        found = _rounds(asked, _RECORDS, expected(_RECORDS), runs)
        yield from _rates_of("perf", "perf buffer, ", found, peers, _RECORDS)
        what = f"perf buffer, typed records, times {CTYPES}"
        yield _times("perf", what, found, CTYPES, peers)


def _rate(
    name: str, what: str, found: dict[str, list[float]], job: str, peer: Peer | str
) -> Result:
    if job not in found:
        return Result(name, what, "M/s", None, note=_reason(peer))
    return Result(name, what, "M/s", *_rates(found[job], _RECORDS), _reason(peer))


def _rates_of(
    name: str, what: str, found: dict[str, list[float]], peers: dict[str, Peer | str], count: int
) -> Iterator[Result]:
    for peer in peers:
        yield _rate(name, what + peer, found, peer, peers[peer])


def _times(
    name: str,
    what: str,
    found: dict[str, list[float]],
    other: str,
    peers: dict[str, Peer | str],
    bar: float | None = None,
    own: str = OWN,
) -> Result:
    """How many times as fast as another the own one is."""
    if other not in found:
        note = _reason(peers.get(other, peers.get(CTYPES, "")))
        return Result(name, what, "x", None, note=note, bar=bar, at_least=True)
    ratios = median_and_spread(_ratios(found[other], found[own]))
    return Result(name, what, "x", *ratios, bar=bar, at_least=True)


def _first(runs: int) -> Iterator[Result]:
    with started(OWN, CTYPES, C) as peers:
        found: dict[str, list[float]] = {name: [] for name in peers}
        for number in range(runs + 1):
            for name, peer in peers.items():
                if isinstance(peer, Peer):
                    time.sleep(0.1)  # the kernel is still busy with the detaching before
                    told = peer.ask("first", 1)
                    if not told["events"]:
                        raise RuntimeError(f"{peer.name}: no event")
                    if number:
                        found[name].append(told["seconds"] * 1e3)
        for name, peer in peers.items():
            title = f"attach to first event, {name}"
            if found[name]:
                yield Result("first", title, "ms", *median_and_spread(found[name]))
            else:
                yield Result("first", title, "ms", None, note=_reason(peer))
        title = "attach to first event, over " + CTYPES
        if found[CTYPES]:
            over = [a - b for a, b in zip(found[OWN], found[CTYPES], strict=True)]
            yield Result("first", title, "ms", *median_and_spread(over), bar=1)
        else:
            yield Result("first", title, "ms", None, note=_reason(peers[CTYPES]), bar=1)


def _growth(runs: int) -> Iterator[Result]:
    with started(OWN) as peers:
        peer = peers[OWN]
        assert isinstance(peer, Peer)
        told: dict[str, Any] = peer.ask("growth", _GROWTH)
        if told["events"] != _GROWTH:
            raise RuntimeError(f"growth: {told}")
        what = f"growth of memory over {_GROWTH:,} events"
        yield Result("growth", what, "MB", told["bytes"] / 1e6, note="one run", bar=1)


def _items(runs: int) -> Iterator[Result]:
    total = sum(2 * each for each in range(_ENTRIES))
    with started(OWN, CTYPES, BCC) as peers:
        asked = {job: (peers[OWN], job) for job in ("items", "entries", "batch")}
        asked |= {CTYPES: (peers[CTYPES], "keys"), BCC: (peers[BCC], "items")}
        found = _rounds(asked, _ENTRIES, total, runs)
        titles = {
            "items": "items(), numbers",
            "entries": "items(), structures of four members",
            "batch": "the batch system call alone, numbers",
            CTYPES: f"key by key, {CTYPES}, numbers",
            BCC: f"items() of {BCC}, numbers",
        }
        for name, title in titles.items():
            what = f"{_ENTRIES:,} entries, {title}"
            if name in found:
                times = median_and_spread([each * 1e3 for each in found[name]])
                yield Result("items", what, "ms", *times)
            else:
                yield Result("items", what, "ms", None, note=_reason(peers[name]))
        what = "items(), over the batch system call alone"
        ratios = median_and_spread(_ratios(found["items"], found["batch"]))
        yield Result("items", what, "x", *ratios, bar=2)
        what = "items(), times as fast as "
        yield _times("items", what + "key by key", found, CTYPES, peers, bar=10, own="items")
        yield _times("items", what + BCC, found, BCC, peers, own="items")


def _lookup(runs: int) -> Iterator[Result]:
    with started(OWN) as peers:
        own = peers[OWN]
        found = _rounds({job: (own, job) for job in ("lookup", "bare")}, _LOOKUPS, 0, runs)
        micro = {job: [each / _LOOKUPS * 1e6 for each in found[job]] for job in found}
        yield Result("lookup", "single lookup, map[key]", "µs", *median_and_spread(micro["lookup"]))
        what = "  a bare syscall() through ctypes"
        yield Result("lookup", what, "µs", *median_and_spread(micro["bare"]))
        over = [a - b for a, b in zip(micro["lookup"], micro["bare"], strict=True)]
        what = "  the one over the other"
        yield Result("lookup", what, "µs", *median_and_spread(over), bar=1.5)


LIVE: dict[str, Callable[[int], Iterator[Result]]] = {
    "ring": _ring,
    "perf": _perf,
    "items": _items,
    "lookup": _lookup,
    "first": _first,
    "growth": _growth,
}
