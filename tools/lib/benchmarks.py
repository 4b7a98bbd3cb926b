"""tools/bench: its options and its report. What is measured is in the modules ``bench_*``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
from pathlib import Path

import bench_peers
from bench_live import LIVE
from bench_offline import OFFLINE
from bench_result import missed

MEASUREMENTS = {**OFFLINE, **LIVE}


def main(description: str) -> int:
    """Run the tool; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}")
    parser.add_argument("-n", type=int, default=15, metavar="RUNS", help="runs [%(default)s]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--fetch-bcc", action="store_true", help="get Debian's bcc into the cache, to compare with"
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(MEASUREMENTS):
        parser.error(f"no measurement {', '.join(sorted(unknown))}")
    if options.fetch_bcc:
        bench_peers.fetch_bcc()
    results = []
    if not options.names and os.geteuid() != 0:
        print(f"not measured, as loading BPF needs root: {', '.join(LIVE)}", file=sys.stderr)
    for name in options.names or (MEASUREMENTS if os.geteuid() == 0 else OFFLINE):
        for result in MEASUREMENTS[name](options.n):
            results.append(result)
            if not options.json:
                print(result.line(), flush=True)
    if options.json:
        found = [{**dataclasses.asdict(each), "verdict": each.verdict} for each in results]
        print(json.dumps({"machine": _machine(), "runs": options.n, "results": found}, indent=2))
    else:
        print(f"\n{options.n} runs each on {_machine()}")
    return int(missed(results))


def _machine() -> str:
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return (
        f"{os.cpu_count()} CPUs ({model}), Linux {platform.release()},"
        f" Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
